//! The daemon's sign of life: until when services on the node's own addresses take new connections.
//!
//! Addresses of virtual routers are under a lease, which the VRRP thread renews; a node's own addresses are under none. The
//! control loop renews this deadline at each tick. Must never be extended by anything but a turn of that loop, which takes failed
//! backends out of the rings; at its end, by order, once and for a bounded time.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use lb_common::{maps as names, reach::ALIVE_NS};

use super::{mapped::Mapped, pins::Pins};
use crate::vrrp::BootTime;

/// The `ALIVE` map of a node.
pub struct Alive {
    until: Mapped<u64>,
}

impl Alive {
    /// Maps the pinned map into memory.
    pub fn open(pins: &Pins) -> Result<Self> {
        Ok(Self { until: Mapped::open(pins, names::ALIVE, 1)? })
    }

    /// Until then: the daemon ends, and another one follows it at once.
    pub fn keep(&self, until: BootTime) {
        if let Some(p) = self.until.element(0) {
            // SAFETY: as in `renew`.
            unsafe { AtomicU64::from_ptr(p) }.store(until.0, Ordering::SeqCst);
        }
    }

    /// Counts from `now`.
    pub fn renew(&self, now: BootTime) {
        if let Some(p) = self.until.element(0) {
            // SAFETY: a live, aligned word that programs read as a whole.
            unsafe { AtomicU64::from_ptr(p) }.store(now.0 + ALIVE_NS, Ordering::SeqCst);
        }
    }
}
