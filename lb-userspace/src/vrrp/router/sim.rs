//! Two to four routers on one virtual clock (or on clocks that jump ahead of it), with a network between them that delays, loses and parts, and nodes
//! that freeze (the process stops, its socket queue and the kernel's lease live on), are killed, stop and start.
//!
//! Two properties. *Safety*: never two valid leases at once among routers that can reach each other. *Liveness*:
//! exactly one owner, the one of highest priority, within a bound after the last fault.
//!
//! Safety is shown within the model that time-outs can carry, and separately for its two halves, because a lost
//! advert makes a frozen owner look dead earlier than it is: (1) loss of at most two packets in a row per
//! direction, no freezes; (2) freezes, kills and partitions, no loss. Two windows are excused and documented in
//! `docs/vrrp.md`: a partition's two owners until the first advert after it healed (a frozen one's until its lease
//! ends), and an owner that freezes in the few milliseconds while a claim on it is under way.
//!
//! All of it in version 2 at 1 s and in version 3 at 1 s to 10 ms, every time scaled with the interval.

use std::{collections::BTreeMap, net::Ipv4Addr};

use lb_common::lease::{Lease, Standing};

use super::*;
use crate::{
    config::model::{Garp, Probe},
    vrrp::{Noted, packet::Version},
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// The network's longest delay at intervals of 80 ms and more; below that it is a fortieth of the interval.
const DELAY: Duration = Duration::from_millis(2);

/// Version and interval of a simulation; every other time in it is measured in intervals.
#[derive(Debug, Clone, Copy)]
struct Pace {
    version: Version,
    advert_int: Duration,
    /// The last node's interval is this many times the others' (version 3 only).
    last_factor: u32,
    /// The nodes probe each other.
    probing: bool,
}

impl Pace {
    const SEED: Self = Self { version: Version::V2, advert_int: SECOND, last_factor: 1, probing: false };

    fn v3(ms: u64) -> Self {
        Self { version: Version::V3, advert_int: Duration::from_millis(ms), ..Self::SEED }
    }

    fn probing(self) -> Self {
        Self { probing: true, ..self }
    }

    fn slowest(self) -> Duration {
        self.advert_int * self.last_factor
    }

    fn delay(self) -> Duration {
        DELAY.min(self.advert_int / 40)
    }

    /// The longest lease of any node.
    fn lease(self) -> Duration {
        self.slowest() * 5 / 2
    }

    /// Everything from a fault's end to one owner: lease or master-down, hold-down, next advert, claim.
    fn settled(self) -> Duration {
        self.slowest() * 10
    }

    /// From a partition's end until both sides have heard each other.
    fn healed(self) -> Duration {
        self.slowest() * 6 / 5
    }
}

#[derive(Debug, Clone, Copy)]
enum Op {
    Wait(Duration),
    Freeze(usize),
    Thaw(usize),
    Kill(usize),
    Stop(usize),
    Start(usize),
    Part(usize),
    Heal,
    Carrier(usize),
    /// The node's clock leaps ahead of the others'.
    Jump(usize, Duration),
}

struct Node {
    params: Params,
    router: Option<Router>,
    /// What the kernel map says; it outlives freeze and kill.
    lease: Lease,
    /// The packet programs are loaded: they answer probes, whatever the daemon does.
    programs: bool,
    frozen: bool,
    carrier: bool,
    queue: Vec<(IpAddr, Packet)>,
    bursts: u32,
    /// How far its clock is ahead.
    ahead: Duration,
    /// When it came, by the others' clock.
    started: BootTime,
}

impl Node {
    fn holds(&self, now: BootTime) -> bool {
        self.lease.is_valid((now + self.ahead).0)
    }

    fn deadline(&self) -> Option<BootTime> {
        let deadline = self.router.as_ref().filter(|_| !self.frozen)?.poll_deadline();
        deadline.map(|at| BootTime(at.0.saturating_sub(self.ahead.as_nanos() as u64)))
    }

    fn noted(&self) -> Noted {
        let Lease { probed, term, fenced, .. } = self.lease;
        Noted { probed: BootTime(probed), fenced: fenced == term }
    }

    /// As the packet programs do: the promise comes before the answer.
    fn answer(&mut self, now: BootTime, nonce: u64) -> Message {
        self.lease.probed = now.0;
        let standing = self.lease.standing(now.0);
        if standing == Standing::Expired {
            self.lease.fenced = self.lease.term;
        }
        Message::Answer { nonce, standing, mac: [0; 6] }
    }
}

#[derive(Debug, Clone, Copy)]
enum Packet {
    Advert(u8),
    Probe(u64),
    Message(Message),
}

struct Sim {
    pace: Pace,
    now: BootTime,
    nodes: Vec<Node>,
    in_flight: BTreeMap<(BootTime, u64), (usize, usize, Packet)>,
    sequence: u64,
    /// Last arrival and losses in a row per direction, of adverts and of other packets.
    last: BTreeMap<(usize, usize, bool), (BootTime, u8)>,
    parted: Option<usize>,
    healed: BootTime,
    lossy: bool,
    checked: bool,
    random: u64,
}

impl Sim {
    fn new(pace: Pace, priorities: &[u8], preempt: Preempt, seed: u64) -> Self {
        let node = |(index, &priority): (usize, &u8)| {
            let factor = if index + 1 == priorities.len() { pace.last_factor } else { 1 };
            let params = Params {
                version: pace.version,
                local: address(index),
                priority,
                advert_int: pace.advert_int * factor,
                preempt,
                lease: pace.advert_int * factor * 5 / 2,
                probe: pace.probing.then(|| {
                    let lease = pace.advert_int * factor * 2 / 5;
                    Probe { interval: lease / 10, lease }
                }),
                seed: seed.wrapping_mul(index as u64 + 1),
                garp: Garp { repeat: 5, delay: 5 * SECOND, refresh: None, ..Garp::default() },
            };
            Node {
                params,
                router: None,
                lease: Lease::default(),
                programs: false,
                frozen: false,
                carrier: true,
                queue: Vec::new(),
                bursts: 0,
                ahead: Duration::ZERO,
                started: BootTime(0),
            }
        };
        Self {
            pace,
            now: BootTime(0) + 100 * SECOND,
            nodes: priorities.iter().enumerate().map(node).collect(),
            in_flight: BTreeMap::new(),
            sequence: 0,
            last: BTreeMap::new(),
            parted: None,
            healed: BootTime(0),
            lossy: false,
            checked: true,
            random: seed | 1,
        }
    }

    /// The node's own clock.
    fn clock(&self, node: usize) -> BootTime {
        self.now + self.nodes[node].ahead
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Wait(duration) => self.run(duration.mul_f64(self.pace.advert_int.as_secs_f64())),
            Op::Freeze(_) | Op::Kill(_) if !self.pace.probing && self.a_claimer_sleeps() => {}
            Op::Freeze(node) => {
                self.let_claims_settle();
                self.nodes[node].frozen = self.nodes[node].router.is_some();
            }
            Op::Kill(node) => {
                self.let_claims_settle();
                let node = &mut self.nodes[node];
                (node.router, node.frozen) = (None, false);
                node.queue.clear();
            }
            Op::Thaw(node) => self.thaw(node),
            Op::Stop(node) if !self.nodes[node].frozen && self.nodes[node].router.is_some() => {
                self.local(node, LocalEvent::Stop);
                self.let_leave(node);
            }
            Op::Stop(_) => {}
            Op::Start(node) => self.start(node),
            Op::Part(node) => {
                self.apply(Op::Heal);
                self.parted = Some(node);
                self.in_flight.clear();
            }
            Op::Heal => {
                if self.parted.take().is_some() {
                    self.healed = self.now;
                }
            }
            Op::Carrier(node) if !self.nodes[node].frozen => {
                let carrier = !self.nodes[node].carrier;
                self.nodes[node].carrier = carrier;
                self.local(node, if carrier { LocalEvent::LinkUp } else { LocalEvent::LinkDown });
            }
            Op::Carrier(_) => {}
            // Who has just started knows the others by its clock alone: it must have listened for as long as a lease.
            Op::Jump(node, _) if self.now.since(self.nodes[node].started) < self.pace.lease() => {}
            Op::Jump(node, far) => {
                self.let_claims_settle();
                self.nodes[node].ahead += far.mul_f64(self.pace.advert_int.as_secs_f64());
            }
        }
    }

    fn start(&mut self, index: usize) {
        let now = self.clock(index);
        let node = &mut self.nodes[index];
        if node.router.as_ref().is_none_or(|router| router.state() == State::Init) {
            (node.lease.until, node.programs, node.started) = (0, true, self.now);
            let mut router = Router::new(node.params, now);
            if index % 2 == 1 {
                // It replicates flows, and has them.
                router.handle_local(now, LocalEvent::CatchingUp(false));
            }
            if !node.carrier {
                router.handle_local(now, LocalEvent::LinkDown);
            }
            node.router = Some(router);
            self.flush(index);
        }
    }

    /// As the driver does: lateness first, and then what was queued is not believed.
    fn thaw(&mut self, index: usize) {
        let now = self.clock(index);
        let node = &mut self.nodes[index];
        if !std::mem::take(&mut node.frozen) {
            return;
        }
        if self.now.since(self.healed) < self.pace.lease() + self.pace.healed() {
            self.healed = self.now; // asleep since the partition, it is heard only now
        }
        let queue = std::mem::take(&mut node.queue);
        let noted = node.noted();
        let Some(router) = &mut node.router else { return };
        if router.overslept(now) {
            router.handle_local(now, LocalEvent::LateWake);
            let before = node.bursts;
            self.flush(index);
            assert_eq!(self.nodes[index].bursts, before, "a late waker announced its addresses");
            return;
        }
        router.handle_noted(now, noted);
        self.flush(index);
        for (from, packet) in queue {
            self.hand_in(index, from, packet);
        }
    }

    fn hand_in(&mut self, index: usize, from: IpAddr, packet: Packet) {
        let now = self.clock(index);
        let interval = |from: IpAddr| {
            let sender = self.nodes.iter().find(|node| node.params.local == from);
            sender.map(|node| node.params.advert_int).unwrap()
        };
        let interval = interval(from);
        let noted = self.nodes[index].noted();
        let Some(router) = &mut self.nodes[index].router else { return };
        router.handle_noted(now, noted);
        match packet {
            Packet::Advert(priority) => router.handle_advert(now, from, &Advert { priority, interval }),
            Packet::Message(message) => router.handle_message(now, from, message),
            Packet::Probe(_) => unreachable!("the programs answer"),
        }
        self.flush(index);
    }

    /// A daemon that was told to stop runs until it has found a successor or given up looking; then its programs go.
    fn let_leave(&mut self, index: usize) {
        while self.nodes[index].router.as_ref().is_some_and(|router| router.is_leaving(self.clock(index))) {
            self.run(MS);
        }
        self.nodes[index].programs = false;
    }

    fn local(&mut self, index: usize, event: LocalEvent) {
        let now = self.clock(index);
        if let Some(router) = &mut self.nodes[index].router {
            router.handle_local(now, event);
        }
        self.flush(index);
    }

    /// Freezing an owner within a claim's few milliseconds is the excused window: wait until none is open.
    fn let_claims_settle(&mut self) {
        if self.pace.probing {
            return;
        }
        let step = (15 * MS).min(self.pace.slowest() * 3 / 16);
        self.run(step);
        while !self.in_flight.is_empty()
            || self.nodes.iter().any(|node| node.router.as_ref().is_some_and(Router::is_claiming))
        {
            self.run(step);
        }
    }

    /// It will believe the advert in its queue when it wakes: the excused window, as long as its sleep.
    fn a_claimer_sleeps(&self) -> bool {
        self.nodes.iter().any(|node| {
            let armed = |router: &Router| matches!(router.phase, Phase::Backup(Backup { armed: true, .. }));
            node.frozen && node.router.as_ref().is_some_and(armed)
        })
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        let mut at_this_instant = 0;
        loop {
            let timer = self.nodes.iter().filter_map(Node::deadline).min();
            let arrival = self.in_flight.keys().next().map(|key| key.0);
            let next = timer.into_iter().chain(arrival).min().filter(|next| *next <= end);
            let Some(next) = next else { break };
            at_this_instant = if next > self.now { 0 } else { at_this_instant + 1 };
            assert!(
                at_this_instant < 10_000,
                "a deadline that is met comes again: {:?}",
                self.nodes[0].router
            );
            self.now = self.now.max(next);
            self.check();
            if arrival.is_some_and(|at| at <= self.now) {
                self.deliver();
                continue;
            }
            for index in 0..self.nodes.len() {
                let (now, node) = (self.clock(index), &mut self.nodes[index]);
                let noted = node.noted();
                if let (false, Some(router)) = (node.frozen, &mut node.router) {
                    router.handle_noted(now, noted);
                    router.handle_timeout(now);
                    self.flush(index);
                }
            }
        }
        self.now = end;
        self.check();
    }

    fn deliver(&mut self) {
        let Some((_, (from, to, packet))) = self.in_flight.pop_first() else { return };
        let now = self.clock(to);
        let node = &mut self.nodes[to];
        if !node.carrier {
            return;
        }
        if let Packet::Probe(nonce) = packet {
            if node.programs {
                let answer = node.answer(now, nonce);
                self.transmit(to, from, Packet::Message(answer));
            }
        } else if node.frozen {
            node.queue.push((address(from), packet));
        } else {
            self.hand_in(to, address(from), packet);
        }
    }

    fn flush(&mut self, index: usize) {
        while let Some(action) = self.nodes[index].router.as_mut().and_then(Router::poll_action) {
            let node = &mut self.nodes[index];
            let (priority, mac) = (node.params.priority, [0; 6]);
            match action {
                Action::Send { priority } => self.broadcast(index, Packet::Advert(priority)),
                Action::TakeLease { until } => {
                    node.lease.term = node.lease.term.max(node.lease.fenced) + 1;
                    node.lease.until = until.0;
                }
                Action::RenewLease { until } => node.lease.until = until.0,
                Action::DropLease => node.lease.until = 0,
                Action::Announce { .. } => {
                    assert!(node.holds(self.now), "announced without a lease");
                    node.bursts += 1;
                }
                Action::Probe { to, nonce } => self.transmit(index, host(to), Packet::Probe(nonce)),
                Action::Offer { .. } => self.broadcast(index, Packet::Message(Message::Offer { mac })),
                Action::Request { to, nonce } => {
                    self.transmit(
                        index,
                        host(to),
                        Packet::Message(Message::Request { nonce, priority, mac }),
                    );
                }
                Action::Grant { to, nonce } => {
                    self.transmit(index, host(to), Packet::Message(Message::Grant { nonce }));
                }
                Action::TakeIn => {
                    let now = self.clock(index);
                    if let Some(router) = &mut self.nodes[index].router {
                        router.handle_local(now, LocalEvent::TakenIn);
                    }
                }
                Action::Relay { .. } | Action::Delegate { .. } => {}
                Action::Rival { .. } | Action::Entered { .. } => {}
            }
        }
        self.check();
    }

    fn broadcast(&mut self, from: usize, packet: Packet) {
        for to in (0..self.nodes.len()).filter(|to| *to != from) {
            self.transmit(from, to, packet);
        }
    }

    fn transmit(&mut self, from: usize, to: usize, packet: Packet) {
        let lose = self.lossy && self.random(3) == 0;
        let longest = self.pace.delay().as_nanos() as u64;
        let arrival = self.now + Duration::from_nanos(longest / 20 + self.random(longest - longest / 20));
        let last = self.last.entry((from, to, matches!(packet, Packet::Advert(_)))).or_default();
        last.1 = if lose && last.1 < 2 { last.1 + 1 } else { 0 };
        if last.1 > 0 || !reachable(&self.nodes, self.parted, from, to) {
            return;
        }
        last.0 = arrival.max(last.0 + Duration::from_nanos(1));
        self.sequence += 1;
        self.in_flight.insert((last.0, self.sequence), (from, to, packet));
    }

    /// Owners by their lease alone, as the packet programs see it; a node without carrier reaches nobody.
    fn owners(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|i| self.nodes[*i].holds(self.now)).collect()
    }

    fn check(&self) {
        if !self.checked {
            return;
        }
        let owners = self.owners();
        for (&a, &b) in owners.iter().flat_map(|a| owners.iter().map(move |b| (a, b))).filter(|(a, b)| a < b)
        {
            let asleep = [a, b].iter().any(|i| self.nodes[*i].frozen || self.nodes[*i].router.is_none());
            let healed = self.pace.healed();
            let excused = if asleep { self.pace.lease() + healed } else { healed };
            assert!(
                !reachable(&self.nodes, self.parted, a, b) || self.now.since(self.healed) < excused,
                "nodes {a} and {b} both hold a lease at {:?}",
                self.now.since(BootTime(0) + 100 * SECOND),
            );
        }
    }

    fn end_faults(&mut self) {
        self.lossy = false;
        self.apply(Op::Heal);
        for index in 0..self.nodes.len() {
            self.thaw(index);
            if !self.nodes[index].carrier {
                self.apply(Op::Carrier(index));
            }
            self.start(index);
        }
    }

    /// Exactly one, and of priority `priority`. (Between equals whoever owns the addresses keeps them.)
    fn assert_one_owner_from_now_on(&mut self, priority: Option<u8>) {
        for _ in 0..100 {
            self.run(self.pace.slowest() / 20);
            let owners = self.owners();
            assert_eq!(owners.len(), 1, "owners {owners:?}");
            let of_owner = self.nodes[owners[0]].params.priority;
            assert!(
                priority.is_none_or(|expected| of_owner == expected),
                "the owner's priority is {of_owner}"
            );
        }
    }
}

fn address(index: usize) -> IpAddr {
    Ipv4Addr::new(172, 18, 0, 7 + u8::try_from(index).unwrap()).into()
}

fn host(address: IpAddr) -> usize {
    let IpAddr::V4(address) = address else { panic!("{address}") };
    usize::from(address.octets()[3] - 7)
}

fn reachable(nodes: &[Node], parted: Option<usize>, a: usize, b: usize) -> bool {
    nodes[a].carrier && nodes[b].carrier && parted.is_none_or(|parted| (a == parted) == (b == parted))
}

mod properties;
