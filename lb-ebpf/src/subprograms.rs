//! Functions that the kernel's verifier goes through by themselves, whoever calls them ("global functions", Linux 5.6): their
//! arguments are numbers and records of maps, of which it assumes nothing, and what they return is a number.
//!
//! Whatever they do costs their callers' budget of verified instructions one call. Their stack is still on top of their callers'.
//! `maps` calls them for the library. They keep a C name and ABI because their linkage in the type information is what tells the
//! verifier.

use lb_common::{addr::Addr, flow::Flow, opening::OTHER, reason::Reason};
use lb_ebpf::{
    Tables, access_list, balance, ending,
    handshake::{self, Block},
    moved, occupancy, ports, redispatch,
    schedule::{self, By, Ring},
};

use crate::maps::{Kernel, pool_words};

/// What [`viplb_claim_port`] returns for none.
pub const NO_PORT: u32 = 1 << 16;

/// All is entered.
const ENTERED: u32 = 0;
/// There is no room for a key.
const TABLE_FULL: u32 = 1;
/// Another processor has just entered the same flow.
const CONCURRENT: u32 = 2;
/// No source port is free.
const NO_PORTS: u32 = 3;

/// [`Tables::enter_reverse`]; [`entered`] tells what the number means.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn viplb_enter_reverse(f: *mut Flow, slot: u32) -> u32 {
    // SAFETY: null, or a live record that its caller has to itself.
    match unsafe { f.as_mut() } {
        Some(f) => number(balance::enter_reverse(f, slot, &Kernel)),
        None => TABLE_FULL,
    }
}

/// [`Tables::enter_forward`], likewise.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn viplb_enter_forward(f: *mut Flow, slot: u32) -> u32 {
    // SAFETY: as above.
    match unsafe { f.as_mut() } {
        Some(f) => number(balance::enter_forward(f, slot, &Kernel)),
        None => TABLE_FULL,
    }
}

#[inline(always)]
fn number(entered: Result<(), Reason>) -> u32 {
    match entered {
        Ok(()) => ENTERED,
        Err(Reason::FlowTableFull) => TABLE_FULL,
        Err(Reason::ConcurrentOpen) => CONCURRENT,
        Err(_) => NO_PORTS,
    }
}

/// What one of the functions above has returned.
#[inline(always)]
pub fn entered(number: u32) -> Result<(), Reason> {
    match number {
        ENTERED => Ok(()),
        TABLE_FULL => Err(Reason::FlowTableFull),
        CONCURRENT => Err(Reason::ConcurrentOpen),
        _ => Err(Reason::SnatPortsExhausted),
    }
}

/// [`Tables::admit`], of the client whose address has these halves: 0, or the number of the reason; [`admitted`] tells what it means.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn viplb_admit(service: u32, high: u64, low: u64, now: u64) -> u32 {
    match access_list::admit(service, &Addr::from_halves(high, low), now, &Kernel) {
        Ok(()) => 0,
        Err(reason) => reason as u32,
    }
}

/// What [`viplb_admit`] has returned.
#[inline(always)]
pub fn admitted(number: u32) -> Result<(), Reason> {
    const REFUSED: u32 = Reason::AccessRefused as u32;
    const DENIED: u32 = Reason::AccessDenied as u32;
    match number {
        0 => Ok(()),
        REFUSED => Err(Reason::AccessRefused),
        DENIED => Err(Reason::AccessDenied),
        _ => Err(Reason::ClientRate),
    }
}

/// [`Tables::end_flow`]; returns nothing of meaning.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn viplb_end_flow(f: *mut Flow, slot: u32) -> u32 {
    // SAFETY: null, or a live record.
    if let Some(f) = unsafe { f.as_mut() } {
        ending::ended(f, slot, &Kernel);
    }
    0
}

/// [`Tables::claim_port`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn viplb_claim_port(pool: u32, hash: u32) -> u32 {
    let (Some(settings), Some(words)) = (Kernel.settings(), pool_words(pool)) else { return NO_PORT };
    match ports::take(settings, &words, hash) {
        Some(port) => port.into(),
        None => NO_PORT,
    }
}

/// [`Tables::release_port`]; returns nothing of meaning.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn viplb_release_port(pool: u32, port: u32) -> u32 {
    if let (Some(settings), Some(words)) = (Kernel.settings(), pool_words(pool)) {
        ports::give_back(settings, &words, port as u16);
    }
    0
}

/// [`viplb_pick`] and [`viplb_least`] return this for no backend: it is beyond what indices can be.
const NONE: u64 = 1 << 32;
/// The service has as many connections as it may have.
const SERVICE_FULL: u64 = 2 << 32;
/// Every backend has.
const BACKENDS_FULL: u64 = 3 << 32;
/// The client has.
const CLIENT_FULL: u64 = 4 << 32;

/// [`schedule::pick`].
#[inline(always)]
pub fn pick(slot: u32, ring: &Ring) -> Result<u32, Reason> {
    let [slots, how, kept] = ring.words();
    match viplb_pick(slot, slots, how, kept) {
        SERVICE_FULL => Err(Reason::ServiceFull),
        BACKENDS_FULL => Err(Reason::BackendsFull),
        CLIENT_FULL => Err(Reason::ClientFull),
        NONE => Err(Reason::BackendMissing),
        backend => Ok(backend as u32),
    }
}

/// [`schedule::least`].
#[inline(always)]
pub fn least(first: u32, members: u32, by: By, start: u32, avoid: u32) -> Option<u32> {
    match viplb_least(first, members, by.masks(), start, avoid) {
        NONE => None,
        backend => Some(backend as u32),
    }
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn viplb_pick(slot: u32, slots: u64, how: u64, kept: u64) -> u64 {
    match schedule::pick(slot, &Ring::from_words([slots, how, kept]), &Kernel) {
        Ok(backend) => u64::from(backend),
        Err(Reason::ServiceFull) => SERVICE_FULL,
        Err(Reason::BackendsFull) => BACKENDS_FULL,
        Err(Reason::ClientFull) => CLIENT_FULL,
        Err(_) => NONE,
    }
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn viplb_least(first: u32, members: u32, by: u64, start: u32, avoid: u32) -> u64 {
    schedule::least(first, members, By::from_masks(by), start, avoid, &Kernel).map_or(NONE, u64::from)
}

/// [`schedule::is_member`]; not 0 for yes.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn viplb_is_member(first: u32, members: u32, backend: u32) -> u64 {
    u64::from(schedule::is_member(first, members, backend, &Kernel))
}

/// [`redispatch::missed`]; not 0 for yes.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn viplb_missed(slot: u32, refused: u32) -> u64 {
    u64::from(redispatch::missed(slot, refused != 0, &Kernel))
}

/// [`handshake::read`], in one word.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn viplb_options(block: *const Block) -> u64 {
    // SAFETY: null, or a block that its caller has filled.
    match unsafe { block.as_ref() } {
        Some(block) => handshake::read(block).0,
        None => u64::from(OTHER),
    }
}

/// [`moved::shift_options`]; `forward` and `timed` are not 0 for yes.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn viplb_shift_options(block: *mut Block, seq: u32, ts: u32, forward: u32, timed: u32) -> u32 {
    // SAFETY: null, or a block that its caller has to itself.
    match unsafe { block.as_mut() } {
        Some(block) => moved::shift_options(block, seq, ts, forward != 0, timed != 0).into(),
        None => 0,
    }
}

/// [`occupancy::release`]; gives 0.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn viplb_release(slot: u32) -> u64 {
    occupancy::release(slot, &Kernel);
    0
}
