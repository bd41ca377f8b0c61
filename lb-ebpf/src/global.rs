//! Global functions: the verifier follows each once, on its own, for any arguments (Linux 5.6), instead of once for each way that leads
//! to its call. So their arguments are numbers, and each is a part of the core that bounds whatever it is given.
//!
//! `maps` calls them in the core's stead.

use lb_common::reason::Reason;
use lb_ebpf::{
    occupancy,
    schedule::{self, By, Ring},
};

use crate::maps::Kernel;

/// No backend; beyond what indices can be.
const NONE: u64 = 1 << 32;
const SERVICE_FULL: u64 = 2 << 32;
const BACKENDS_FULL: u64 = 3 << 32;

/// [`schedule::pick`].
#[inline(always)]
pub fn pick(slot: u32, ring: &Ring) -> Result<u32, Reason> {
    let [slots, how, persistence] = ring.words();
    match viplb_pick(slot, slots, how, persistence) {
        SERVICE_FULL => Err(Reason::ServiceFull),
        BACKENDS_FULL => Err(Reason::BackendsFull),
        NONE => Err(Reason::BackendMissing),
        backend => Ok(backend as u32),
    }
}

/// [`schedule::least`].
#[inline(always)]
pub fn least(first: u32, members: u32, by: By, start: u32) -> Option<u32> {
    match viplb_least(first, members, by.masks(), start) {
        NONE => None,
        backend => Some(backend as u32),
    }
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn viplb_pick(slot: u32, slots: u64, how: u64, persistence: u64) -> u64 {
    match schedule::pick(slot, &Ring::from_words([slots, how, persistence]), &Kernel) {
        Ok(backend) => u64::from(backend),
        Err(Reason::ServiceFull) => SERVICE_FULL,
        Err(Reason::BackendsFull) => BACKENDS_FULL,
        Err(_) => NONE,
    }
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn viplb_least(first: u32, members: u32, by: u64, start: u32) -> u64 {
    schedule::least(first, members, By::from_masks(by), start, &Kernel).map_or(NONE, u64::from)
}

/// [`schedule::is_member`]; not 0 for yes.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn viplb_is_member(first: u32, members: u32, backend: u32) -> u64 {
    u64::from(schedule::is_member(first, members, backend, &Kernel))
}

/// [`occupancy::release`]; gives 0.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn viplb_release(slot: u32) -> u64 {
    occupancy::release(slot, &Kernel);
    0
}
