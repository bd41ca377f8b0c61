//! Places of half-open flows as the daemon uses them, by the same exchange of words as the packet programs (`lb-ebpf/src/half_open.rs`).

use std::sync::atomic::{AtomicU64, Ordering};

use lb_common::{
    flow::{Flow, Stage},
    half_open::{TAKEN, place, slot},
};

use super::{Collector, Maps};

/// Places looked at for one flow: those that others have in hand are passed by.
const TRIES: u32 = 8;
/// Places before the last one that are looked at once more: a program that had drawn one of these may have used it since.
const AGAIN: u64 = 64;

/// The places that are followed for a while, from one look at half-open flows to the next.
#[derive(Debug, Default)]
pub struct HalfOpen {
    /// The programs' cursor when this was last looked at.
    cursor: Option<u64>,
    /// Places with a half-open flow, or in somebody's hands.
    places: Vec<u32>,
}

/// The place that the programs' cursor means, of so many.
fn number(cursor: u64, places: u32) -> u32 {
    1 + cursor as u32 % places.max(1)
}

impl Collector {
    fn word(&self, index: u32) -> Option<&AtomicU64> {
        // SAFETY: a live element of eight aligned bytes, which everybody accesses as an atomic.
        self.places.element(index).map(|word| unsafe { AtomicU64::from_ptr(word) })
    }

    /// Places that there are, 1 to this number.
    fn last_place(&self) -> u32 {
        self.places.len() - 1
    }

    /// Ends a half-open flow; its slot stays with its place. The place is taken meanwhile, as programs take it: they
    /// neither establish the flow nor put another one there. (A daemon killed in these microseconds leaves one place less.)
    pub(super) fn empty_place(&self, maps: &mut Maps, slot: u32, flow: &Flow) -> bool {
        let Some(word) = self.word(flow.place.into()) else { return false };
        let own = place(slot, flow.generation);
        if word.compare_exchange(own, TAKEN, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        self.unlink(maps, slot, flow);
        let freed = self.records.free_if(slot, flow);
        if freed {
            self.release(slot);
        }
        word.store(own, Ordering::Release);
        freed
    }

    /// Takes the next place for a flow, and throws out who is there, as programs do: the slot and the place's number. To be given back.
    pub(in crate::datapath) fn take_place(&self, maps: &mut Maps) -> Option<(u32, u16)> {
        let cursor = self.word(0)?;
        for _ in 0..TRIES {
            let index = number(cursor.fetch_add(1, Ordering::Relaxed), self.last_place());
            let word = self.word(index)?;
            let held = word.load(Ordering::Relaxed);
            let taken = held != TAKEN
                && word.compare_exchange(held, TAKEN, Ordering::AcqRel, Ordering::Relaxed).is_ok();
            if !taken {
                continue;
            }
            let slot = slot(held);
            if let Some(flow) = self.flow(slot) {
                self.unlink(maps, slot, &flow);
                self.records.free_if(slot, &flow);
                self.release(slot);
            }
            return Some((slot, u16::try_from(index).ok()?));
        }
        None
    }

    /// Gives a place back, with the flow that its slot has now.
    pub(in crate::datapath) fn give_place_back(&self, index: u16, slot: u32, generation: u16) {
        if let Some(word) = self.word(index.into()) {
            word.store(place(slot, generation), Ordering::Release);
        }
    }

    /// Takes the half-open flow in a slot out of its place, which gets another slot: nothing throws it out any more. `None` if there is no
    /// free slot. One that a program has in hand is established by that, or thrown out.
    pub(in crate::datapath) fn promote(&mut self, maps: &mut Maps, slot: u32) -> Option<()> {
        let flow = self.flow(slot).filter(|flow| flow.place != 0)?;
        let word = self.word(flow.place.into())?;
        let fresh = maps.free_slots.pop(0).ok()?;
        let own = place(slot, flow.generation);
        if word.compare_exchange(own, place(fresh, 0), Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.records.leave_place(slot);
        } else if maps.free_slots.push(fresh, 0).is_err() {
            tracing::warn!("the queue of free slots takes none back: one is lost");
        }
        Some(())
    }

    /// A flow that is half-open by its record, but has been answered: from now on it is established.
    pub fn establish(&mut self, maps: &mut Maps, slot: u32) -> bool {
        let established = self.promote(maps, slot).is_some() && self.record(slot).place == 0;
        if established {
            self.records.establish(slot);
        }
        established
    }

    /// Slots and generations of the half-open flows that there are, among them all that have begun since `from` was last given here.
    pub fn half_open(&self, from: &mut HalfOpen) -> Vec<(u32, u16)> {
        let Some(cursor) = self.word(0).map(|word| word.load(Ordering::Relaxed)) else { return Vec::new() };
        let count = self.last_place();
        let mut places = std::mem::take(&mut from.places);
        match from.cursor.map(|at| at.saturating_sub(AGAIN)) {
            Some(first) if cursor.saturating_sub(first) < u64::from(count) => {
                places.extend((first..cursor).map(|at| number(at, count)));
                places.sort_unstable();
                places.dedup();
            }
            _ => places = (1..=count).collect(),
        }
        from.cursor = Some(cursor);
        let mut found = Vec::new();
        places.retain(|index| {
            let Some(word) = self.word(*index).map(|word| word.load(Ordering::Acquire)) else { return false };
            if word == TAKEN {
                return true;
            }
            let flow = self.flow(slot(word));
            let there = flow.filter(|flow| u32::from(flow.place) == *index && !flow.has_ended());
            found.extend(there.map(|flow| (slot(word), flow.generation)));
            there.is_some()
        });
        from.places = places;
        found
    }
}

impl super::Records {
    /// The flow in a slot has left its place.
    fn leave_place(&self, slot: u32) {
        let p = self.at(slot);
        // SAFETY: a live element; a single word, of whoever has exchanged the place's.
        unsafe { (&raw mut (*p).place).write_volatile(0) };
    }

    fn establish(&self, slot: u32) {
        let p = self.at(slot);
        // SAFETY: a live element; a single byte, and whoever is last is not wrong.
        unsafe { (&raw mut (*p).stage).write_volatile(Stage::Established as u8) };
    }
}
