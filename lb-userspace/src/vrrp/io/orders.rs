//! What the control loop has the thread know while it runs: what trackers make of each router.
//!
//! The thread may not wait for the loop, which has an ordinary priority: so no lock, one word a router, and a byte in the
//! pipe that also tells it to stop.

use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

use crate::vrrp::router::Tracked;

/// The latest word about each router.
#[derive(Debug)]
pub(super) struct Orders(Box<[AtomicU16]>);

/// Of a word: the router is in Fault. The priority is below.
const FAULT: u16 = 1 << 8;

impl Orders {
    /// For routers of these priorities.
    pub(super) fn new(priorities: impl Iterator<Item = u8>) -> Self {
        Self(priorities.map(|priority| AtomicU16::new(priority.into())).collect())
    }

    /// A router that is not there is nobody's.
    pub(super) fn set(&self, router: usize, tracked: Tracked) {
        let fault = if tracked.fault { FAULT } else { 0 };
        if let Some(word) = self.0.get(router) {
            word.store(u16::from(tracked.priority) | fault, Relaxed);
        }
    }

    pub(super) fn get(&self, router: usize) -> Tracked {
        let word = self.0[router].load(Relaxed);
        let [_, priority] = word.to_be_bytes();
        Tracked { priority, fault: word & FAULT != 0 }
    }
}
