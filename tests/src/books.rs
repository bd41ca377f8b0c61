//! Whether each packet that came in by a node's interfaces has its reason: the kernel's count of the interfaces beside the sum
//! of the programs' counters.
//!
//! Nodes of a wire, viplb's nodes of a lab, and hosts with daemons are judged by this when they go, so that every end-to-end
//! test checks it. Where XDP is on an interface by its driver nothing can be said: veth merges segments then, after it has
//! counted them and before TC sees them.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use lb_common::reason::Reason;
use lb_userspace::datapath::{counters, maps::Maps, pins::Pins};
use serde::{Deserialize, Serialize};

use crate::{
    daemon,
    lab::{Balancer, Lab, Node, Role},
    netns::Netns,
    node, proc,
};

/// For packets that are on their way between the two counters.
const PAUSE: Duration = Duration::from_millis(1);
/// For a moment in which no packet comes.
const LIMIT: Duration = Duration::from_secs(20);
/// In a node's directory: its books, from the start of its daemon on.
const FILE: &str = "books.json";

/// What was counted when a node's programs began.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Books {
    netns: String,
    interfaces: Vec<String>,
    /// Packets received less packets with a reason.
    open: i64,
}

impl Books {
    /// Notes the counters of a node's interfaces; `None` where they cannot be compared. `accounted` gives the packets that
    /// have a reason.
    pub fn open(netns: &Netns, interfaces: &[&str], accounted: impl FnMut() -> u64) -> Option<Self> {
        let name = netns.name().to_owned();
        let mut books =
            Self { netns: name, interfaces: interfaces.iter().map(ToString::to_string).collect(), open: 0 };
        if interfaces.is_empty() || books.has_xdp() {
            return None;
        }
        books.open = books.difference(accounted).expect("counters");
        Some(books)
    }

    /// How many more packets came in since than have a reason.
    pub fn missing(&self, accounted: impl FnMut() -> u64) -> Result<i64> {
        Ok(self.difference(accounted)? - self.open)
    }

    /// Waits until the two counters have gone up by the same.
    pub fn balance(&self, mut accounted: impl FnMut() -> u64) -> Result<()> {
        let until = Instant::now() + LIMIT;
        loop {
            let missing = self.missing(&mut accounted)?;
            if missing == 0 {
                return Ok(());
            }
            if Instant::now() > until {
                bail!("{}: {missing} more packets came in than have a reason", self.netns);
            }
        }
    }

    /// The difference at a moment in which no packet comes.
    fn difference(&self, mut accounted: impl FnMut() -> u64) -> Result<i64> {
        let until = Instant::now() + LIMIT;
        loop {
            let before = self.received()?;
            thread::sleep(PAUSE);
            let difference = before as i64 - accounted() as i64;
            if self.received()? == before || Instant::now() > until {
                return Ok(difference);
            }
        }
    }

    fn received(&self) -> Result<u64> {
        let netns = Netns::named(self.netns.clone());
        let shown = netns.run(|| fs::read_to_string("/proc/thread-self/net/dev"))?.context("counters")?;
        let of = |name: &String| {
            let line =
                shown.lines().find_map(|line| line.trim().strip_prefix(name.as_str())?.strip_prefix(':'));
            line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or_default()
        };
        Ok(self.interfaces.iter().map(of).sum())
    }

    fn has_xdp(&self) -> bool {
        let mut ip = std::process::Command::new("ip");
        let shown = proc::finish(ip.args(["-n", &self.netns, "-o", "link", "show"])).expect("ip");
        let named = |line: &str| self.interfaces.iter().any(|name| line.contains(&format!(" {name}@")));
        shown.lines().any(|line| named(line) && line.contains(" xdp/id:"))
    }
}

/// Packets that came in and have a reason.
pub fn accounted(maps: &Maps) -> Result<u64> {
    let sent = [Reason::EgressPassed, Reason::EgressFenced];
    let all = counters::reasons(maps)?;
    Ok(all.into_iter().filter(|(reason, _)| !sent.contains(reason)).map(|(_, n)| n).sum())
}

/// The counters of a daemon's pins.
pub fn of_pins(name: &str) -> Result<impl FnMut() -> u64 + use<>> {
    let maps = Maps::open(&Pins::of(name))?;
    Ok(move || accounted(&maps).expect("pinned counters"))
}

/// Notes the counters of a lab's node whose daemon has just started.
pub(crate) fn begin(lab: &Lab, node: &Node) -> Result<()> {
    let file = lab.node_dir(node).join(FILE);
    let status = daemon::status(lab, node)?;
    let interfaces = status["interfaces"].as_array().context("interfaces in the status")?;
    let interfaces: Vec<_> = interfaces.iter().filter_map(|i| i["name"].as_str()).collect();
    match Books::open(&lab.netns(node), &interfaces, of_pins(&lab.viplb_name(node))?) {
        Some(books) => fs::write(&file, serde_json::to_vec(&books)?).context("the node's books"),
        None => Ok(()),
    }
}

/// Compares what came since the daemon's start, if it still runs.
pub(crate) fn close(lab: &Lab, node: &Node) -> Result<()> {
    let file = lab.node_dir(node).join(FILE);
    if node.role != Role::Balancer(Balancer::Viplb) || !file.exists() {
        return Ok(());
    }
    let books: Books = serde_json::from_slice(&fs::read(&file)?)?;
    fs::remove_file(&file)?;
    if node::daemon_pids(lab, node).is_empty() {
        return Ok(());
    }
    books.balance(of_pins(&lab.viplb_name(node))?)
}

/// Compares what came to each node of viplb in the lab.
pub fn close_all(lab: &Lab) -> Result<()> {
    lab.nodes().iter().try_for_each(|node| close(lab, node))
}
