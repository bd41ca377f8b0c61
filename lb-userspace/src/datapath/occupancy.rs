//! Connections of backends and services, in this process's memory: the programs and the collector count there, each in one step.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use lb_common::{
    access::{Limits, PaceKey},
    flow::{Flow, Stage},
    maps::{self as names, MAX_SERVICES},
    occupancy::{ELEMENTS, Occupancy, of_client, of_service},
};

use super::{mapped::Mapped, pins::Pins};

/// How often a recount is tried while connections come and go.
const RECOUNTS: u32 = 8;

/// The maps `OCCUPANCY` and `LIMITS`: which clients of services are counted at all, the programs and this process read in the
/// same place.
pub(super) struct Counts {
    occupancy: Mapped<Occupancy>,
    limits: Mapped<Limits>,
    /// By what limits clients were counted at the last recount.
    counted_by: Vec<ClientsBy>,
}

/// Whether a service's clients are counted, and what makes a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ClientsBy(bool, u8, u8);

impl Counts {
    /// Maps it into memory.
    pub(super) fn open(pins: &Pins) -> Result<Self> {
        let occupancy = Mapped::open(pins, names::OCCUPANCY, ELEMENTS as u32)?;
        let limits = Mapped::open(pins, names::LIMITS, MAX_SERVICES as u32)?;
        let mut counts = Self { occupancy, limits, counted_by: Vec::new() };
        counts.counted_by = counts.clients_by();
        Ok(counts)
    }

    fn limits(&self, service: u32) -> Limits {
        // SAFETY: a live element; volatile because it is written through the map as well, word by word.
        self.limits.element(service).map_or_else(Limits::default, |at| unsafe { at.read_volatile() })
    }

    fn clients_by(&self) -> Vec<ClientsBy> {
        let of = |limits: Limits| ClientsBy(limits.connections != 0, limits.prefix_v4, limits.prefix_v6);
        (0..MAX_SERVICES as u32).map(|service| of(self.limits(service))).collect()
    }

    /// What a flow counts for.
    fn elements(&self, flow: &Flow) -> impl Iterator<Item = u32> + use<> {
        let limits = self.limits(flow.service);
        let client = || of_client(&PaceKey::new(flow.service, &flow.client, &limits));
        let client = (limits.connections != 0).then(client);
        [flow.backend_id, of_service(flow.service)].into_iter().chain(client.into_iter().flatten())
    }

    /// Counts clients anew where a service counts others than before.
    pub(super) fn follow_limits(&mut self, flows: impl Fn() -> Vec<Flow>) {
        let now = self.clients_by();
        if now != self.counted_by {
            self.recount(flows);
            self.counted_by = now;
        }
    }

    /// Connections of a backend or service.
    pub(super) fn of(&self, element: u32) -> u64 {
        self.occupancy(element).open()
    }

    /// Those, and how many there may be.
    pub(super) fn occupancy(&self, element: u32) -> Occupancy {
        // SAFETY: a live element; volatile because programs write it.
        self.occupancy.element(element).map_or_else(Occupancy::default, |at| unsafe { at.read_volatile() })
    }

    /// Says how many there may be; 0: any number.
    pub(super) fn set_limit(&self, element: u32, limit: u64) {
        if let Some(at) = self.occupancy.element(element) {
            // SAFETY: a live element, whose limit this process alone writes.
            unsafe { (&raw mut (*at).limit).write_volatile(limit) };
        }
    }

    fn add(&self, element: u32, more: i64) {
        if let Some(at) = self.occupancy.element(element) {
            // SAFETY: a live element of aligned words, which everybody counts on as an atomic.
            let count = unsafe { AtomicU64::from_ptr(&raw mut (*at).connections) };
            count.fetch_add(more as u64, Ordering::Relaxed);
        }
    }

    /// Takes the flow of a record off the counts, if it is on them; whether it was.
    ///
    /// # Safety
    ///
    /// `record` is a live element of the flow array, and nobody gives its slot to another flow meanwhile.
    pub(super) unsafe fn release(&self, record: *mut Flow) -> bool {
        // SAFETY: by contract; the word is aligned, and programs clear the mark in one step as well.
        let (marked, flow) = unsafe {
            let word = AtomicU64::from_ptr(record.byte_add(Flow::MARKED).cast());
            (word.fetch_and(Flow::UNMARKED, Ordering::AcqRel) & !Flow::UNMARKED != 0, record.read_volatile())
        };
        if marked {
            self.elements(&flow).for_each(|element| self.add(element, -1));
        }
        marked
    }

    /// Puts a flow that was on the counts back on them, under the numbers that its record has now. If it has ended meanwhile, the
    /// program that saw it has found no mark.
    ///
    /// # Safety
    ///
    /// As for [`Counts::release`].
    pub(super) unsafe fn restore(&self, record: *mut Flow, counted: bool) {
        if !counted {
            return;
        }
        // SAFETY: by contract; the word is aligned.
        let flow = unsafe {
            AtomicU64::from_ptr(record.byte_add(Flow::MARKED).cast())
                .fetch_or(!Flow::UNMARKED, Ordering::AcqRel);
            record.read_volatile()
        };
        self.elements(&flow).for_each(|element| self.add(element, 1));
        if flow.has_ended() {
            // SAFETY: by contract.
            unsafe { self.release(record) };
        }
    }

    /// Puts right what a daemon has left that died between a mark and its counts. Programs may be counting meanwhile: what two
    /// recounts agree on, and has not changed between them, is wrong. Gives how many counts were.
    pub(super) fn recount(&self, flows: impl Fn() -> Vec<Flow>) -> usize {
        let mut last = self.differences(&flows());
        for _ in 0..RECOUNTS {
            if last.iter().all(|(_, difference)| *difference == 0) {
                return 0;
            }
            let next = self.differences(&flows());
            if next == last {
                let wrong = next.iter().enumerate().filter(|(_, (_, difference))| *difference != 0);
                return wrong.inspect(|(i, (_, difference))| self.add(*i as u32, *difference)).count();
            }
            last = next;
        }
        0
    }

    /// Each count, and what is missing from it.
    fn differences(&self, flows: &[Flow]) -> Vec<(u64, i64)> {
        let mut found = vec![0i64; ELEMENTS];
        for f in flows.iter().filter(|f| f.stage() != Stage::Free && f.is_counted()) {
            for element in self.elements(f) {
                if let Some(n) = found.get_mut(element as usize) {
                    *n += 1;
                }
            }
        }
        let of = |(i, found): (u32, i64)| {
            // SAFETY: a live element; volatile because programs write it.
            let count = self.occupancy.element(i).map_or(0, |at| unsafe { at.read_volatile() }.connections);
            (count, found - count as i64)
        };
        (0..).zip(found).map(of).collect()
    }
}
