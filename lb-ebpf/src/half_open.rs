//! Flows that are not established yet: a place for a new one, and what becomes of it then.
//!
//! `lb_common::half_open` tells what places are. Whoever exchanges a place's word for `TAKEN` has it to itself: of two
//! processors that come to the same place, or of one that throws a flow out and one that establishes it, or of either and the
//! collector, only one succeeds. What the other still writes through a reference to the record that it took before (time,
//! stage, sequence numbers) may hit the next flow of that slot, in the microseconds that a packet takes. It does no harm: such
//! a flow cannot become established by it, for that takes the place's word with the flow's own generation, and what else is
//! written there the next packet corrects. Keys of the older generation are gone before the record is filled anew.

use lb_common::{
    flow::{Flow, Stage},
    half_open::{TAKEN, place, slot},
    reason::Reason,
};

use crate::tables::Tables;

/// Places looked at for one flow. A taken one is in the hands of another processor, which will be done in a microsecond.
const TRIES: u32 = 4;

/// A place that its taker has to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Which.
    pub index: u32,
    /// The slot that belongs to it.
    pub slot: u32,
}

/// What became of a flow that was to be established.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promotion {
    /// It left its place and keeps its slot.
    Done,
    /// Another processor has the place: it establishes the flow, or throws it out.
    Lost,
    /// No slot is free to take its slot's place.
    Full,
}

/// Takes the next place; the flow in it is thrown out.
#[inline(always)]
pub fn take<T: Tables>(t: &T) -> Result<Place, Reason> {
    let places = t.settings().ok_or(Reason::FlowTableFull)?.places.max(1);
    let mut tries = 0;
    while tries < TRIES {
        let index = 1 + t.next_place() % places;
        let held = t.place(index).ok_or(Reason::FlowTableFull)?;
        if held != TAKEN && t.exchange_place(index, held, TAKEN) {
            let taken = Place { index, slot: slot(held) };
            throw_out(taken.slot, t);
            return Ok(taken);
        }
        tries += 1;
    }
    Err(Reason::ConcurrentOpen)
}

/// Gives a place back, with its slot.
#[inline(always)]
pub fn release<T: Tables>(index: u32, slot: u32, generation: u16, t: &T) {
    t.set_place(index, place(slot, generation));
}

/// Removes the keys of the flow in a slot whose place the caller has, if there is a flow.
#[inline(never)]
fn throw_out<T: Tables>(slot: u32, t: &T) {
    let Some(f) = t.flow(slot) else { return };
    if f.stage() == Stage::Free {
        return;
    }
    if f.stage() != Stage::Closed
        && let Some(s) = t.service_stats(f.service)
    {
        s.displaced += 1;
    }
    t.end_flow(f, slot);
    f.stage = Stage::Free as u8;
}

/// Takes an established flow out of its place, which gets another slot.
#[inline(never)]
pub fn promote<T: Tables>(f: &mut Flow, slot: u32, t: &T) -> Promotion {
    let Some(fresh) = t.take_slot() else { return Promotion::Full };
    let own = place(slot, f.generation);
    if t.exchange_place(f.place.into(), own, place(fresh, 0)) {
        f.place = 0;
        Promotion::Done
    } else {
        t.free_slot(fresh);
        Promotion::Lost
    }
}

/// Takes the keys from a half-open flow whose client begins anew.
#[inline(never)]
pub fn abandon<T: Tables>(f: &mut Flow, slot: u32, t: &T) {
    let own = place(slot, f.generation);
    if t.exchange_place(f.place.into(), own, TAKEN) {
        t.end_flow(f, slot);
        f.stage = Stage::Closed as u8;
        t.set_place(f.place.into(), own);
    }
}
