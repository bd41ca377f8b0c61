//! `bench change`: what reloads, restarts and upgrades cost clients that go on all the while with 20,000 requests a second, beside
//! HAProxy's.
//!
//! A node that is alone is reloaded a hundred times, one backend being another each time; restarted (`stop --keep`, and another
//! daemon) and upgraded (another build in the same process) ten times each. Of a pair the owner is restarted and upgraded: there the
//! addresses are handed to the other node and come back. Nothing may be lost, be it one packet that TCP would make good.

mod kernel;
pub mod load;
mod scene;
pub mod server;

use std::{thread, time::Duration};

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};

use self::{
    kernel::Counts,
    load::{Shape, Toll},
    scene::{FLOWS, Haproxy, Load, Scene, Variant},
};
use super::row::Row;
use crate::{
    console::Console,
    expect::wait_until,
    hosts::{Daemon, LIMIT},
    proc,
};

const NAME: &str = "change";
const HAPROXY: &str = "HAProxy";
/// Between two changes, so that the load is there before and after each; reloads follow each other faster.
const REST: Duration = Duration::from_millis(500);
const RELOAD_REST: Duration = Duration::from_millis(100);

/// Reloads, restarts and upgrades under load, beside HAProxy's
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Requests of all kinds, a second
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    pub rate: u32,
    /// Reloads in a row
    #[arg(long, default_value_t = 100)]
    pub reloads: u16,
    /// Restarts, upgrades, and reloads of HAProxy
    #[arg(long, default_value_t = 10)]
    pub times: u16,
    /// These changes alone
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<Case>,
    /// Without HAProxy beside it
    #[arg(long)]
    pub no_peers: bool,
}

/// What is done to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Case {
    /// Nothing: what the machine itself loses
    Nothing,
    /// `viplb reload`, one backend being another each time
    Reload,
    /// `viplb stop --keep`, then another daemon
    Restart,
    /// `viplb upgrade`
    Upgrade,
    /// A restart of the owner, whose peer is heard
    PairRestart,
    /// An upgrade of the owner, whose peer is heard
    PairUpgrade,
}

impl Case {
    const ALL: [Self; 6] =
        [Self::Nothing, Self::Reload, Self::Restart, Self::Upgrade, Self::PairRestart, Self::PairUpgrade];

    fn words(self) -> &'static str {
        match self {
            Self::Nothing => "no change",
            Self::Reload => "reload",
            Self::Restart => "restart",
            Self::Upgrade => "upgrade",
            Self::PairRestart => "restart of a pair's owner",
            Self::PairUpgrade => "upgrade of a pair's owner",
        }
    }

    fn is_of_pair(self) -> bool {
        matches!(self, Self::PairRestart | Self::PairUpgrade)
    }

    /// What HAProxy does instead. Another build of it comes by a reload, too; a pair of them keeps no connection (`bench survive`).
    fn of_haproxy(self) -> Option<Self> {
        match self {
            Self::Reload | Self::Upgrade => Some(Self::Reload),
            Self::Nothing | Self::Restart => Some(self),
            Self::PairRestart | Self::PairUpgrade => None,
        }
    }
}

/// What a load has come to while a case was done.
struct Outcome {
    times: u16,
    toll: Toll,
    counts: Counts,
}

/// Runs the bench.
pub fn run(options: &Options, console: &Console) -> Result<Vec<Row>> {
    if !options.no_peers && proc::which("haproxy").is_none() {
        bail!("HAProxy cannot be compared with: install the package haproxy, or give --no-peers");
    }
    ensure!(options.times > 0 && options.reloads > 0, "nothing to measure");
    let scene = Scene::raise()?;
    let mut rows = Vec::new();
    for case in Case::ALL.into_iter().filter(|case| options.only.is_empty() || options.only.contains(case)) {
        let ours = viplb(&scene, case, options, console)?;
        console.say(line("viplb", case, &ours));
        let theirs = match case.of_haproxy().filter(|_| !options.no_peers) {
            Some(theirs) => Some(haproxy(&scene, theirs, options, console)?),
            None => None,
        };
        theirs.iter().for_each(|theirs| console.say(line(HAPROXY, case, theirs)));
        rows.extend(rows_of(case, &ours, theirs.as_ref()));
    }
    Ok(rows)
}

/// One request of ten is a datagram, one of a hundred has a new connection.
fn shape(options: &Options) -> Shape {
    let (datagrams, fresh) = (options.rate / 10, options.rate / 100);
    Shape {
        to: ([0; 4], 0).into(),
        datagrams_to: None,
        connections: 256,
        silent: 64,
        requests: options.rate - datagrams - fresh,
        datagrams,
        sockets: 16,
        fresh,
    }
}

fn viplb(scene: &Scene, case: Case, options: &Options, console: &Console) -> Result<Outcome> {
    let pair = case.is_of_pair();
    let mut owner = scene.start_viplb(0, pair);
    let peer = pair.then(|| scene.start_viplb(1, true));
    settle(&owner, peer.as_ref());
    let load = scene.load(false, shape(options))?;
    let times = if case == Case::Reload { options.reloads } else { options.times };
    rest(REST, console)?;
    for i in 0..times {
        match case {
            Case::Nothing => rest(REST, console)?,
            Case::Reload => {
                scene.hosts().configure("n1", FLOWS, &Scene::viplb_toml(0, false, Variant::of(i + 1)));
                order(&owner, &["reload"])?;
                rest(RELOAD_REST, console)?;
                continue;
            }
            Case::Restart | Case::PairRestart => {
                let config = Scene::viplb_toml(0, pair, Variant::of(0));
                owner = owner.restarted(scene.hosts(), "n1", FLOWS, &config);
            }
            Case::Upgrade | Case::PairUpgrade => order(&owner, &["upgrade"])?,
        }
        settle(&owner, peer.as_ref());
        rest(REST, console)?;
    }
    let outcome = outcome(times, load)?;
    if outcome.toll.broken + outcome.toll.lost + outcome.toll.refused + outcome.counts.lost() > 0 {
        for daemon in [Some(&owner), peer.as_ref()].into_iter().flatten() {
            let packets = daemon.status().packets;
            let refused = packets.iter().filter(|p| p.kind == "refused" || p.kind == "dropped");
            let refused: Vec<_> = refused.map(|p| format!("{} {}", p.count, p.reason)).collect();
            console.say(format!("{}: {}", daemon.name(), refused.join(", ")));
        }
    }
    Ok(outcome)
}

/// The owner owns; its peer stands by and has its flows.
fn settle(owner: &Daemon, peer: Option<&Daemon>) {
    owner.wait_master();
    let Some(peer) = peer else { return };
    let has_flows = || {
        let status = peer.status();
        let synced = status.sync.is_some_and(|sync| sync.routers[0].state == "in-sync");
        synced && status.vrrp[0].state == "Backup"
    };
    wait_until("the peer stands by with the owner's flows", LIMIT, has_flows);
}

fn order(daemon: &Daemon, arguments: &[&str]) -> Result<()> {
    let out = daemon.viplb(arguments);
    ensure!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr).trim());
    Ok(())
}

fn haproxy(scene: &Scene, case: Case, options: &Options, console: &Console) -> Result<Outcome> {
    let mut haproxy = Haproxy::start(scene)?;
    let load = scene.load(true, shape(options))?;
    rest(REST, console)?;
    for i in 0..options.times {
        match case {
            Case::Reload => haproxy.reload(Variant::of(i + 1))?,
            Case::Restart => haproxy.restart()?,
            _ => {}
        }
        rest(REST, console)?;
    }
    outcome(options.times, load)
}

fn outcome(times: u16, load: Load) -> Result<Outcome> {
    let (toll, counts) = load.end()?;
    Ok(Outcome { times, toll, counts })
}

/// A wait that Ctrl-C ends.
fn rest(length: Duration, console: &Console) -> Result<()> {
    console.go_on()?;
    thread::sleep(length);
    Ok(())
}

fn line(who: &str, case: Case, outcome: &Outcome) -> String {
    let Outcome { times, toll, counts } = outcome;
    let mut text = format!(
        "{who}: {}, {times} times: {:.0} requests/s, {} datagrams and {} segments lost, {} connections broken, {} new ones \
         failed, longest wait {:.0} ms ({}), {:.0} ms of a new one",
        case.words(),
        toll.answered as f64 / toll.seconds,
        toll.lost,
        counts.lost(),
        toll.broken,
        toll.refused,
        toll.longest_ms,
        toll.slowest,
        toll.longest_fresh_ms
    );
    for (why, count) in &toll.why {
        text += &format!("; {count}: {why}");
    }
    text
}

/// What is counted, its unit, and as much as it may be.
type Figure = (&'static str, &'static str, fn(&Outcome) -> f64, Option<f64>);

const FIGURES: [Figure; 9] = [
    ("requests answered", "1/s", |o| o.toll.answered as f64 / o.toll.seconds, None),
    ("datagrams lost", "packets", |o| o.toll.lost as f64, Some(0.0)),
    ("TCP segments lost", "packets", |o| o.counts.lost() as f64, Some(0.0)),
    ("connections reset or hung", "connections", |o| o.toll.broken as f64, Some(0.0)),
    ("new connections that failed", "connections", |o| o.toll.refused as f64, Some(0.0)),
    ("longest wait of a request", "ms", |o| o.toll.longest_ms, None),
    ("longest wait of a new connection", "ms", |o| o.toll.longest_fresh_ms, None),
    ("segments sent again that had arrived", "packets", |o| o.counts.needless as f64, None),
    ("lost in this machine's queues", "packets", |o| o.counts.dropped as f64, None),
];

fn rows_of(case: Case, ours: &Outcome, theirs: Option<&Outcome>) -> Vec<Row> {
    let row = |(words, unit, of, target): Figure| {
        let runs = if case == Case::Nothing { 1 } else { ours.times.into() };
        let mut row = Row::sum(NAME, format!("{}: {words}", case.words()), unit, of(ours), runs);
        if let Some(theirs) = theirs {
            row = row.beside_sum(HAPROXY, of(theirs));
        }
        match target {
            Some(target) => row.at_most(target),
            None => row,
        }
    };
    FIGURES.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(toll: Toll, counts: Counts) -> Outcome {
        Outcome { times: 10, toll: Toll { seconds: 10.0, answered: 200_000, ..toll }, counts }
    }

    #[test]
    fn one_packet_that_tcp_made_good_is_a_loss_and_one_that_was_late_is_none() {
        let late = Counts { resent: 3, needless: 3, dropped: 0 };
        let good = outcome(Toll::default(), late);
        let lost = outcome(Toll::default(), Counts { resent: 4, ..late });
        assert!(rows_of(Case::Restart, &good, None).iter().all(|row| row.ok));
        let rows = rows_of(Case::Restart, &lost, Some(&good));
        let missed: Vec<_> = rows.iter().filter(|row| !row.ok).collect();
        assert_eq!(missed.len(), 1);
        assert_eq!((missed[0].figure.as_str(), missed[0].value), ("restart: TCP segments lost", 1.0));
        assert_eq!((missed[0].peers[HAPROXY], rows[0].value, rows[0].runs), (0.0, 20_000.0, 10));
    }

    #[test]
    fn each_thing_that_clients_would_notice_misses_its_target() {
        for toll in [
            Toll { broken: 1, ..Toll::default() },
            Toll { lost: 1, ..Toll::default() },
            Toll { refused: 1, ..Toll::default() },
        ] {
            let rows = rows_of(Case::Reload, &outcome(toll, Counts::default()), None);
            assert_eq!(rows.iter().filter(|row| !row.ok).count(), 1);
        }
    }
}
