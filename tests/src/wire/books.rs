//! Whether each packet that came in by a node's interface has its reason: the kernel's count of the interface beside the sum of
//! the programs' counters.
//!
//! Every node of a wire is judged by this when it goes, so that each test on a wire checks it. Where XDP is on the interface by
//! its driver nothing can be said: veth merges segments then, after it has counted them and before TC sees them.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use lb_common::reason::Reason;
use lb_userspace::datapath::counters;

use super::{Node, traffic::LIMIT};
use crate::{netns::Netns, proc};

/// For packets that are on their way between the two counters.
const PAUSE: Duration = Duration::from_millis(5);

/// What was counted when a node's programs began.
#[derive(Debug)]
pub(super) struct Books {
    netns: Netns,
    /// Packets received less packets with a reason.
    open: i64,
}

impl Books {
    /// Notes the counters of a node whose interface is `eth0` of a namespace; `None` where they cannot be compared.
    pub(super) fn open(netns: &Netns, node: &mut Node) -> Option<Self> {
        let mut ip = std::process::Command::new("ip");
        ip.args(["-n", netns.name(), "-o", "link", "show", "eth0"]);
        let shown = proc::finish(&mut ip).expect("ip");
        let mut books = Self { netns: netns.clone(), open: 0 };
        books.open = books.settled(node);
        (!shown.contains(" xdp/id:")).then_some(books)
    }

    /// Waits until the two counters have gone up by the same.
    pub(super) fn balance(self, node: &mut Node) {
        let until = Instant::now() + LIMIT;
        loop {
            let missing = self.settled(node) - self.open;
            if missing == 0 {
                return;
            }
            assert!(
                Instant::now() < until,
                "{missing} more packets came in than have a reason: {:?}",
                counters::reasons(node.kernel().tables.maps())
            );
        }
    }

    /// The difference at a moment in which no packet comes.
    fn settled(&self, node: &mut Node) -> i64 {
        let until = Instant::now() + LIMIT;
        loop {
            let before = received(&self.netns);
            thread::sleep(PAUSE);
            let difference = before as i64 - node.accounted() as i64;
            if received(&self.netns) == before || Instant::now() > until {
                return difference;
            }
        }
    }
}

/// Packets received by `eth0` of a namespace.
pub(super) fn received(netns: &Netns) -> u64 {
    let shown = netns.run(|| fs::read_to_string("/proc/thread-self/net/dev")).unwrap().expect("counters");
    let line = shown.lines().find_map(|line| line.trim().strip_prefix("eth0:")).expect("eth0");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}

impl Node {
    /// How many more packets came in than have a reason; `None` where that cannot be compared.
    pub fn unaccounted(&mut self) -> Option<i64> {
        let books = self.books.take()?;
        let difference = books.settled(self) - books.open;
        self.books = Some(books);
        Some(difference)
    }

    /// Packets that came in and have a reason.
    ///
    /// # Panics
    ///
    /// If the counters cannot be read.
    pub fn accounted(&mut self) -> u64 {
        let all = counters::reasons(self.kernel().tables.maps()).expect("counters");
        let sent = [Reason::EgressPassed, Reason::EgressFenced];
        all.into_iter().filter(|(reason, _)| !sent.contains(reason)).map(|(_, n)| n).sum()
    }
}
