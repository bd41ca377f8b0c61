//! Moves connections to other servers on which nobody has said anything: their server has accepted them and is silent, or lost.
//!
//! Its client has had a handshake and waits for a greeting. The same handshake is made with another server, with the client's own
//! number, and from then on the packet programs translate that server's numbers into those that the client was told:
//!
//! ```text
//!            hold                 SYN                  SYN-ACK           ACK
//!   greeted? ────▶ held ──────────────────▶ asked ──────────────▶ answered ────▶ moved
//!     no            │ has spoken meanwhile    │ refused, silent, other options
//!                   ▼                         ▼ the next server, up to a second in all
//!                 ended                     ended
//! ```
//!
//! The `Ender` owns it and says which connections; a part of the work is done in each of its steps. A connection that cannot be moved
//! is ended as it would have been, unless its server was only slow to answer a check: then it stays where it is for as long as nothing
//! was asked of another one.

use std::{
    collections::BTreeMap,
    io,
    time::{Duration, Instant},
};

use anyhow::Result;
use lb_common::{
    flow::{DETOUR, Flow},
    opening::State,
};

use super::ender::is_ours;
use crate::datapath::{
    flows::moving::{is_under_way, is_ungreeted},
    load::Datapath,
    reset::Resets,
};

/// Between two SYNs.
const REPEAT: Duration = Duration::from_millis(200);
/// A server that has not answered for so long is not waited for if there is another one.
const PATIENCE: Duration = Duration::from_millis(400);
/// Altogether.
const LIMIT: Duration = Duration::from_secs(1);

/// Who takes new connections of each service, with weights, in the order of priorities; numbers are those of the maps.
pub type Takers = BTreeMap<u32, Vec<(u32, u16)>>;

/// One connection that is being moved.
#[derive(Debug)]
struct Move {
    /// As its record is now.
    flow: Flow,
    /// What its state was.
    before: State,
    /// The backend that it was found at.
    from: u32,
    /// Whether it is to stay there rather than to end.
    spare: bool,
    /// Whom it was or is asked for.
    tried: Vec<u32>,
    phase: Phase,
    until: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Its packets are held since then.
    Held,
    /// Asked first then, and to be asked again then.
    Asked(Instant, Instant),
    /// Its answer has come; all of it is there to be read now.
    Answered,
}

/// What became of connections of one backend.
#[derive(Debug, Default)]
struct Tally {
    why: String,
    under_way: u64,
    moved: u64,
    ended: u64,
}

/// Connections that are being moved.
#[derive(Debug, Default)]
pub struct Mover {
    /// By slot.
    moves: BTreeMap<u32, Move>,
    tallies: BTreeMap<u32, Tally>,
    /// Connections moved away from each backend, since the daemon's start.
    moved: BTreeMap<u32, u64>,
    /// Flows that are not what peers know any more, with their slots.
    gone: Vec<(u32, Flow)>,
}

impl Mover {
    /// Whether there is something to do.
    pub fn is_busy(&self) -> bool {
        !self.moves.is_empty()
    }

    /// Whether the flow in a slot is being moved.
    pub fn has(&self, slot: u32) -> bool {
        self.moves.contains_key(&slot)
    }

    /// Connections that were moved away from a backend.
    pub fn moved_from(&self, backend: u32) -> u64 {
        self.moved.get(&backend).copied().unwrap_or(0)
    }

    /// Begins to move the flow in a slot, if it is one that can be, and another server is there; whether it does. One that is to be
    /// spared stays where it is if it cannot.
    pub fn begin(
        &mut self,
        (slot, flow): (u32, &Flow),
        (datapath, takers): (&mut Datapath, &Takers),
        (why, spare): (&str, bool),
        now: Instant,
    ) -> bool {
        if choose(datapath, takers, flow, &[flow.backend_id]).is_none() {
            return false;
        }
        let Some(before) = datapath.collector.hold(slot, flow) else { return false };
        let from = flow.backend_id;
        let tally = self.tallies.entry(from).or_default();
        why.clone_into(&mut tally.why);
        tally.under_way += 1;
        let tried = vec![from];
        let it = Move { flow: *flow, before, from, spare, tried, phase: Phase::Held, until: now + LIMIT };
        self.moves.insert(slot, it);
        self.gone.push((slot, *flow));
        true
    }

    /// Flows that have begun to be moved since this was last asked, with their slots: what peers know of them is true no more.
    pub fn take_gone(&mut self) -> Vec<(u32, Flow)> {
        std::mem::take(&mut self.gone)
    }

    /// Does what is to be done by now.
    pub fn step(
        &mut self,
        datapath: &mut Datapath,
        (resets, takers): (&Resets, &Takers),
        now: Instant,
    ) -> Result<()> {
        let slots: Vec<u32> = self.moves.keys().copied().collect();
        for slot in slots {
            let Some(it) = self.moves.get_mut(&slot) else { continue };
            let mut turn = Turn { slot, datapath, resets, takers, now };
            let Some(outcome) = turn.step(it)? else { continue };
            let from = it.from;
            self.moves.remove(&slot);
            self.count(from, outcome);
        }
        Ok(())
    }

    fn count(&mut self, from: u32, outcome: Outcome) {
        let Some(tally) = self.tallies.get_mut(&from) else { return };
        tally.under_way -= 1;
        match outcome {
            Outcome::Moved => {
                tally.moved += 1;
                *self.moved.entry(from).or_default() += 1;
            }
            Outcome::Ended => tally.ended += 1,
            Outcome::Stays => {}
        }
        if tally.under_way > 0 {
            return;
        }
        let Some(Tally { why, moved, ended, .. }) = self.tallies.remove(&from) else { return };
        if moved > 0 {
            tracing::info!(
                "{why}: {moved} of its connections, on which nobody had spoken, moved to other servers"
            );
        }
        if ended > 0 {
            tracing::info!(
                "{why}: {ended} of its connections, on which nobody had spoken, could not be moved and ended"
            );
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Moved,
    Ended,
    /// It is where it was, or nobody's any more.
    Stays,
}

/// One move's part of a step.
struct Turn<'a> {
    slot: u32,
    datapath: &'a mut Datapath,
    resets: &'a Resets,
    takers: &'a Takers,
    now: Instant,
}

impl Turn<'_> {
    /// What became of it, once that is known.
    fn step(&mut self, it: &mut Move) -> Result<Option<Outcome>> {
        let collector = &self.datapath.collector;
        let (record, opening) = (collector.record(self.slot), collector.opening(self.slot));
        if record.generation != it.flow.generation || !is_under_way(&record, &opening) {
            // It has ended by an order, or by itself.
            if it.phase != Phase::Held {
                told(self.resets.send_to_backend(&it.flow));
            }
            return Ok(Some(Outcome::Stays));
        }
        if !is_ours(self.datapath.tables.maps(), &record)? {
            // The new owner's clients are told by it.
            self.end()?;
            return Ok(Some(Outcome::Ended));
        }
        match it.phase {
            Phase::Held if record.mtu != DETOUR => {
                // A packet that established it was on its way.
                collector.hold_on(self.slot, &it.flow);
                Ok(None)
            }
            Phase::Held if is_ungreeted(&record, &opening) => self.next(it),
            // Somebody has spoken while it came to be held.
            Phase::Held => self.give_up(it),
            Phase::Asked(..) if opening.state() == State::Answered => {
                it.phase = Phase::Answered;
                Ok(None)
            }
            Phase::Asked(..) if opening.state() == State::Refused => self.next(it),
            Phase::Asked(since, again) => self.wait(it, since, again),
            Phase::Answered if opening.is_alike() => {
                self.datapath.collector.set_moved(self.slot);
                told(self.resets.confirm(&it.flow, &opening));
                Ok(Some(Outcome::Moved))
            }
            Phase::Answered => {
                tracing::debug!("another server has other options than the first: {opening:?}");
                self.next(it)
            }
        }
    }

    fn wait(&mut self, it: &mut Move, since: Instant, again: Instant) -> Result<Option<Outcome>> {
        if self.now >= it.until {
            return self.give_up(it);
        }
        if self.now >= since + PATIENCE && choose(self.datapath, self.takers, &it.flow, &it.tried).is_some() {
            return self.next(it);
        }
        if self.now >= again {
            told(self.resets.ask(&it.flow, &self.datapath.collector.opening(self.slot)));
            it.phase = Phase::Asked(since, again + REPEAT);
        }
        Ok(None)
    }

    /// Asks the next server.
    fn next(&mut self, it: &mut Move) -> Result<Option<Outcome>> {
        let next = choose(self.datapath, self.takers, &it.flow, &it.tried);
        let Some(to) = next.filter(|_| self.now < it.until) else { return self.give_up(it) };
        it.tried.push(to);
        let Datapath { tables, collector, .. } = &mut *self.datapath;
        let given = collector.give(tables.maps(), self.slot, &it.flow, to)?;
        told(self.resets.send_to_backend(&it.flow));
        let Some(flow) = given else { return self.end_here() };
        it.flow = flow;
        told(self.resets.ask(&flow, &self.datapath.collector.opening(self.slot)));
        it.phase = Phase::Asked(self.now, self.now + REPEAT);
        Ok(None)
    }

    /// There is nobody to move it to.
    fn give_up(&mut self, it: &mut Move) -> Result<Option<Outcome>> {
        if it.spare && it.phase == Phase::Held {
            self.datapath.collector.let_go(self.slot, &it.flow, it.before);
            return Ok(Some(Outcome::Stays));
        }
        self.end_here()
    }

    fn end_here(&mut self) -> Result<Option<Outcome>> {
        let flow = self.datapath.collector.record(self.slot);
        if self.end()? {
            told(self.resets.send(&flow));
        }
        Ok(Some(Outcome::Ended))
    }

    fn end(&mut self) -> Result<bool> {
        let Datapath { tables, collector, .. } = &mut *self.datapath;
        let flow = collector.record(self.slot);
        collector.end(tables.maps(), self.slot, &flow)
    }
}

/// The server that a flow goes to next: of those that take new connections, have room, and were not tried, the one with the least
/// connections for its weight.
fn choose(datapath: &mut Datapath, takers: &Takers, flow: &Flow, tried: &[u32]) -> Option<u32> {
    let Datapath { tables, collector, .. } = datapath;
    let maps = tables.maps();
    let all = takers.get(&flow.service)?.iter();
    let fit = all.filter(|(id, weight)| {
        *weight > 0
            && !tried.contains(id)
            && maps.paths.get(id, 0).is_ok_and(|path| path.moves != 0)
            && !collector.occupancy(*id).is_full()
    });
    let load = |(id, weight): &&(u32, u16)| (collector.connections(*id) + 1) * 65_536 / u64::from(*weight);
    fit.min_by_key(load).map(|(id, _)| *id)
}

/// What is not sent is repeated, or found out by who waits for it.
fn told(sent: io::Result<()>) {
    if let Err(e) = sent {
        tracing::debug!("a packet of a connection that is moved was not sent: {e}");
    }
}
