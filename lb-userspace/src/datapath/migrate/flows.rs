//! Flows on their way from maps of one layout to those of another, while both sets of programs are at work.
//!
//! A flow is entered in the new maps, and then taken out of the old ones: the new programs find it from the first of both on, and ask
//! the former one until then. What that one still does to the record at this moment (a packet under way on another processor) is
//! seen once all its runs are over, and carried over (`settle`). Until a pass finds nearly nothing the former programs open the new
//! flows, too; then the new ones do, and what is left is brought over: flows whose handshake is under way last, since to them a
//! packet more or less makes a difference.
//!
//! Must never give back a port or take a flow off the counts that lives on: both are shared. What fails here is put right by the
//! adoption that follows, which compares ports and counts with the records.

use std::{
    sync::atomic::Ordering,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lb_common::{
    describe::{Description, Reading},
    flow::{Flow, Stage},
    half_open::{TAKEN, place},
    maps as names,
};

use super::{
    super::{bytes, pins::Pins},
    source::Source,
    target::{Room, Target},
};
use crate::vrrp::BootTime;

/// A half-open flow that was silent for as long has no packet under way.
const QUIET: Duration = Duration::from_millis(20);
/// For how long half-open flows that are not silent are waited for.
const PATIENCE: Duration = Duration::from_millis(200);
/// A former program that still takes flows in after this (a service that adopts unknown connections) is asked no longer.
const LONGEST: Duration = Duration::from_secs(3);
/// Passes while the former programs open new flows; and how few flows a pass has to find to be the last.
const PASSES: u32 = 8;
const FEW: u64 = 64;

/// Whether flows of that layout can be read: what makes a flow is there.
pub(super) fn check(description: &Description) -> Result<()> {
    let own = Description::own();
    let of = |d: &Description, map: &str| d.maps.get(map).cloned().context("the layout lacks a map of flows");
    let (keys, flows) = (of(description, names::FLOW_KEYS)?, of(description, names::FLOWS)?);
    let own_keys = of(&own, names::FLOW_KEYS)?;
    // Keys of that layout are made of this one's.
    Reading::new(&own_keys.key, &keys.key).map_err(anyhow::Error::msg)?;
    for (there, here) in [(&keys.key, &own_keys.key), (&keys.value, &own_keys.value)] {
        for field in here.fields.iter().filter(|f| f.name != "pad") {
            ensure!(there.field(&field.name).is_some(), "its keys of flows lack {}", field.name);
        }
    }
    for (name, size) in
        [("stage", 1), ("mode", 1), ("place", 2), ("generation", 2), ("seen", 8), ("flags", 1)]
    {
        let found = flows.value.field(name).is_some_and(|f| f.size == size);
        ensure!(found, "its records of flows have no {name} as it is here");
    }
    Ok(())
}

/// A flow that was brought over.
pub(super) struct Moved {
    /// Where it was.
    from: u32,
    /// As it was.
    pub(super) was: Flow,
    /// Where it is.
    pub(super) to: Room,
    /// As it is.
    pub(super) generation: u16,
}

/// What became of a slot.
enum Found {
    /// No flow.
    Nothing,
    /// It has been brought over.
    Moved(Moved),
    /// It has no keys: nobody's any more.
    Gone,
    /// A handshake is under way.
    Young,
    /// There is no room for it, or its keys are another's.
    Stuck,
}

/// Brings flows over.
pub(super) struct Mover {
    from: Source,
    to: Target,
    /// Slots there that are done with. They are not free for new flows: there are never more than there is room for here, and a daemon
    /// that goes back finds them by their missing keys.
    done: Vec<bool>,
}

/// What a pass has found.
#[derive(Default)]
struct Pass {
    moved: u64,
    young: u64,
    stuck: u64,
}

impl Mover {
    pub(super) fn open(from: &Pins, to: &Pins, description: &Description) -> Result<Self> {
        let from = Source::open(from, description)?;
        Ok(Self { done: vec![false; from.flows.len() as usize], from, to: Target::open(to)? })
    }

    /// All of them; gives how many. `asked`: the new programs ask the former one. `again`: a daemon died that did this. `end` ends one
    /// of the things that the former program is asked for.
    pub(super) fn run(mut self, asked: bool, again: bool, end: impl Fn(u32) -> Result<()>) -> Result<u64> {
        let mut moved = 0;
        if again {
            self.to.sweep()?;
        }
        if asked {
            for _ in 0..PASSES {
                let pass = self.pass(false)?;
                moved += pass.moved;
                if pass.moved < FEW {
                    break;
                }
            }
            end(names::FORMER_OPENS)?;
            let began = Instant::now();
            loop {
                let pass = self.pass(began.elapsed() > PATIENCE)?;
                moved += pass.moved;
                if pass.young == 0 && pass.moved == 0 || began.elapsed() > LONGEST {
                    break;
                }
                sleep(Duration::from_millis(1));
            }
            end(names::FORMER)?;
        }
        let last = self.pass(true)?;
        if last.stuck > 0 {
            tracing::warn!("{} flows could not be brought over", last.stuck);
        }
        Ok(moved + last.moved)
    }

    /// Goes through all slots. `all`: those whose handshake is under way, too.
    fn pass(&mut self, all: bool) -> Result<Pass> {
        let (mut pass, mut moved) = (Pass::default(), Vec::new());
        let now = BootTime::now();
        for slot in 0..self.from.flows.len() {
            match self.bring(slot, all, now)? {
                Found::Nothing => {}
                Found::Moved(flow) => moved.push(flow),
                Found::Gone => {}
                Found::Young => pass.young += 1,
                Found::Stuck => pass.stuck += 1,
            }
        }
        if !moved.is_empty() {
            bytes::grace();
        }
        for flow in &moved {
            self.settle(flow);
        }
        pass.moved = moved.len() as u64;
        Ok(pass)
    }

    fn bring(&mut self, slot: u32, all: bool, now: BootTime) -> Result<Found> {
        if self.done[slot as usize] || self.from.is_free(slot) {
            return Ok(Found::Nothing);
        }
        let flow = self.from.flow(slot);
        if flow.place == 0 {
            let found = self.bring_this(slot, flow);
            self.done[slot as usize] = matches!(found, Ok(Found::Moved(_) | Found::Gone));
            return found;
        }
        if !all && now.since(BootTime(flow.seen)) < QUIET {
            return Ok(Found::Young);
        }
        // As the collector takes it: nobody establishes the flow meanwhile, or throws it out.
        let word = self.from.places.word(flow.place.into(), 0);
        let own = place(slot, flow.generation);
        if word.compare_exchange(own, TAKEN, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return Ok(Found::Young);
        }
        let found = self.bring_this(slot, flow);
        if matches!(found, Ok(Found::Moved(_))) {
            self.from.flows.byte(slot, self.from.stage).store(Stage::Free as u8, Ordering::Release);
        }
        self.from.places.word(flow.place.into(), 0).store(own, Ordering::Release);
        found
    }

    fn bring_this(&mut self, slot: u32, was: Flow) -> Result<Found> {
        let (forward, reverse) = (was.forward_key(), was.reverse_key());
        let one_way = was.mode().is_one_way();
        let kept = if one_way { &forward } else { &reverse };
        if !self.from.leads(kept, slot, was.generation)? {
            // Between its record and its keys a flow that is being opened has none for a moment.
            let young = BootTime::now().since(BootTime(was.seen)) < QUIET && !was.has_ended();
            return Ok(if young { Found::Young } else { Found::Gone });
        }
        let Some(room) = self.to.room(was.place != 0) else { return Ok(Found::Stuck) };
        let flow = self.to.fill(room, &was, self.from.opening(slot));
        if !self.to.enter(room, &flow)? {
            self.to.give_back(room)?;
            return Ok(Found::Stuck);
        }
        self.to.give_place(room, flow.generation);
        // From here on the new programs have it.
        let other = if one_way { None } else { Some(&forward) };
        if let Some(key) = other {
            self.from.remove(key, slot, was.generation)?;
        }
        let removed = self.from.remove(kept, slot, was.generation)?;
        // Last, so that a daemon that dies in between leaves no flow that is not counted.
        if !self.from.unmark(slot) && was.is_counted() {
            self.to.unmark(room.slot);
        }
        if !removed {
            // Its end has come meanwhile, and whoever removed the key has given its port back.
            if room.place == 0 {
                self.to.take_out(room, &flow)?;
            }
            return Ok(Found::Gone);
        }
        Ok(Found::Moved(Moved { from: slot, was, to: room, generation: flow.generation }))
    }

    /// No program writes to the old record any more: what has happened to it is carried over.
    fn settle(&self, moved: &Moved) {
        let now = self.from.flow(moved.from);
        // The slot of a half-open one was free at once: it may have another by now.
        let same = now.generation == moved.was.generation && now.stage() != Stage::Free;
        if same && (Flow { mode: moved.was.mode, ..now }) != moved.was {
            self.to.catch_up(moved, &now);
        }
    }
}
