//! `bench election`: what the state machines of many virtual routers cost, without sockets.
//!
//! Half of them are owners and half the backups that watch them, with the seed's parameters: adverts every second, a probe
//! and a renewal every 40 ms, all delivered at once in memory. The virtual clock runs as fast as it can; what the thread
//! used of the processor, over the time that passed on that clock, is the share of a core that they would take.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use anyhow::{Result, ensure};
use clap::Args;
use lb_common::lease::Standing;
use lb_userspace::{
    config::model::{Garp, Preempt, Probe},
    vrrp::{
        BootTime, Noted, State,
        packet::{Advert, Version},
        router::{Action, Message, Params, Router},
    },
};
use nix::time::{ClockId, clock_gettime};

use super::row::Row;

/// Of a core, for all of them.
const TARGET_PERCENT: f64 = 10.0;
const ADVERT_INT: Duration = Duration::from_secs(1);
const PROBE: Probe = Probe { interval: Duration::from_millis(40), lease: Duration::from_millis(400) };

/// How many state machines tick in one process, and what share of a core that takes
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Virtual routers; half of them own, half watch.
    #[arg(long, default_value_t = 4000)]
    pub routers: usize,
    /// How often it is measured.
    #[arg(long, default_value_t = 11)]
    pub runs: usize,
    /// Length of a run on the virtual clock.
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
}

/// Measures and gives the row.
pub fn run(options: &Options) -> Result<Vec<Row>> {
    let length = Duration::from_secs(options.seconds.max(1));
    let mut shares = Vec::new();
    for _ in 0..options.runs {
        let mut world = World::new(options.routers.max(2) / 2);
        // Elections, and the first probes.
        world.run(Duration::from_secs(10));
        let (before, sent) = (processor_time(), world.sent);
        world.run(length);
        let used = processor_time().saturating_sub(before);
        let probes = (world.sent[0] - sent[0]) / (options.routers.max(2) as u64 / 2 * length.as_secs());
        ensure!(probes >= 24, "only {probes} probes a second of each pair");
        ensure!(world.is_settled(), "an owner was replaced, though nothing had failed");
        shares.push(100.0 * used.as_secs_f64() / length.as_secs_f64());
    }
    let figure = format!("{} state machines, share of a core", options.routers);
    Ok(vec![Row::median("election", figure, "%", &shares).at_most(TARGET_PERCENT)])
}

fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Pairs of routers: 2n owns, 2n + 1 watches it.
struct World {
    now: BootTime,
    routers: Vec<Router>,
    /// End of each lease.
    leases: Vec<BootTime>,
    probed: Vec<BootTime>,
    /// Probes and adverts so far.
    sent: [u64; 2],
    /// Who is due in each millisecond of the next seconds; entries may be out of date.
    due: Vec<Vec<usize>>,
}

/// Milliseconds that the wheel of deadlines goes round in: more than any deadline is away.
const WHEEL: u64 = 8192;
const TICK: Duration = Duration::from_millis(1);

impl World {
    fn new(pairs: usize) -> Self {
        // Spread over an interval, as machines are that were not started in the same moment.
        let start =
            |index: usize| BootTime(0) + ADVERT_INT + ADVERT_INT * (index / 2) as u32 / pairs.max(1) as u32;
        let router = |index: usize| Router::new(params(index), start(index));
        let routers: Vec<Router> = (0..2 * pairs).map(router).collect();
        let mut world = Self {
            now: BootTime(0),
            leases: vec![BootTime(0); routers.len()],
            sent: [0; 2],
            probed: vec![BootTime(0); routers.len()],
            due: vec![Vec::new(); WHEEL as usize],
            routers,
        };
        for index in 0..world.routers.len() {
            world.act(index);
        }
        world
    }

    fn run(&mut self, length: Duration) {
        let end = self.now + length;
        while self.now < end {
            self.now = self.now + TICK;
            let mut due = std::mem::take(&mut self.due[slot(self.now)]);
            for index in due.drain(..) {
                match self.routers[index].poll_deadline() {
                    Some(deadline) if deadline <= self.now => {
                        let router = &mut self.routers[index];
                        router.handle_noted(self.now, Noted { probed: self.probed[index], fenced: false });
                        router.handle_timeout(self.now);
                        self.act(index);
                    }
                    // An event has moved it, and entered it anew.
                    Some(_) | None => {}
                }
            }
            // Its room serves again, unless somebody is due in the same slot a turn later.
            let slot = &mut self.due[slot(self.now)];
            if slot.is_empty() {
                *slot = due;
            }
        }
    }

    /// Does what a router wants done, and what its peer wants then, and enters their next deadlines.
    fn act(&mut self, index: usize) {
        let (peer, mut told) = (index ^ 1, false);
        while let Some(action) = self.routers[index].poll_action() {
            match action {
                Action::Send { priority } => {
                    let advert = Advert { priority, interval: ADVERT_INT };
                    self.sent[1] += 1;
                    self.routers[peer].handle_advert(self.now, address(index), &advert);
                    told = true;
                }
                Action::TakeLease { until } | Action::RenewLease { until } => self.leases[index] = until,
                Action::DropLease => self.leases[index] = BootTime(0),
                Action::Probe { nonce, .. } => {
                    self.probed[peer] = self.now;
                    self.sent[0] += 1;
                    let rest = self.leases[peer].since(self.now);
                    let standing = match u64::try_from(rest.as_nanos()).unwrap_or(u64::MAX) {
                        0 => Standing::Released,
                        rest => Standing::Valid(rest),
                    };
                    let answer = Message::Answer { nonce, standing, mac: [0; 6] };
                    self.routers[index].handle_message(self.now, address(peer), answer);
                }
                _ => {}
            }
        }
        if let Some(deadline) = self.routers[index].poll_deadline() {
            self.due[slot(deadline.max(self.now) + TICK)].push(index);
        }
        if told {
            self.act(peer);
        }
    }

    fn is_settled(&self) -> bool {
        let state = |(index, router): (usize, &Router)| match index % 2 {
            0 => router.state() == State::Master && router.is_watched(self.now),
            _ => router.state() == State::Backup,
        };
        self.routers.iter().enumerate().all(state)
    }
}

/// The slot of the millisecond that a time falls into.
fn slot(at: BootTime) -> usize {
    (at.0 / TICK.as_nanos() as u64 % WHEEL) as usize
}

fn params(index: usize) -> Params {
    Params {
        version: Version::V2,
        local: address(index),
        priority: if index.is_multiple_of(2) { 101 } else { 100 },
        advert_int: ADVERT_INT,
        preempt: Preempt::NOW,
        lease: ADVERT_INT * 5 / 2,
        probe: Some(PROBE),
        seed: index as u64,
        garp: Garp::default(),
    }
}

fn address(index: usize) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0000 + index as u32).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owners_stay_owners_and_are_watched() {
        let mut world = World::new(10);
        world.run(Duration::from_secs(20));
        assert!(world.is_settled());
        let before = world.sent;
        world.run(Duration::from_secs(10));
        let per_second = [0, 1].map(|kind| (world.sent[kind] - before[kind]) / 100);
        assert!((24..=25).contains(&per_second[0]), "probes of a pair in a second: {per_second:?}");
        assert_eq!(per_second[1], 1, "adverts of a pair in a second");
    }
}
