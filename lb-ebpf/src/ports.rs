//! Source ports of new flows towards backends that see this node's address (mode `nat`).
//!
//! `lb_common::ports` tells what pools are. A backend has one for each source that its connections may come from; a hash of
//! the client chooses where to begin, both among the sources and among a pool's ports. `balance` claims, `ending` releases:
//! whoever takes a flow's reverse key out gives its port back, so that it comes back once.

use lb_common::{
    addr::Port,
    flow::{Flow, FlowRef},
    hash,
    mode::Mode,
    ports::{MAX_SOURCES, Words, claim, release},
    reason::Reason,
    settings::Settings,
};

use crate::tables::{InsertError, Tables};

/// Claims for one flow: each source once, and some ports more that turn out to be in use though they are marked free.
const CLAIMS: u32 = MAX_SOURCES as u32 + 4;

/// Enters the reverse key of a filled record, which leads to `to`; in mode `nat` it chooses source and source port before.
#[inline(always)]
pub fn enter<T: Tables>(f: &mut Flow, to: &FlowRef, t: &T) -> Result<(), Reason> {
    let chooses = f.mode() == Mode::Nat;
    let hash = hash::flow(&f.forward_key());
    let (mut claims, mut exhausted) = (0, 0);
    while claims < CLAIMS {
        if chooses && !choose(f, hash, exhausted, t) {
            exhausted += 1;
        } else {
            // One place for all, for each would take a key's part of the stack.
            match t.insert_key(&f.reverse_key(), to) {
                Ok(()) => return Ok(()),
                Err(InsertError::Full) => {
                    leave(f, t);
                    return Err(Reason::FlowTableFull);
                }
                Err(InsertError::Exists) if !chooses => return Err(Reason::SnatPortsExhausted),
                // Somebody has it who did not take it from this pool. It stays marked as taken: else the search would find it
                // again.
                Err(InsertError::Exists) => f.pool = 0,
            }
        }
        claims += 1;
    }
    Err(Reason::SnatPortsExhausted)
}

/// Takes a port of the source after so many that have none; whether there was one.
#[inline(always)]
fn choose<T: Tables>(f: &mut Flow, hash: u32, exhausted: u32, t: &T) -> bool {
    let Some(sources) = t.sources(f.backend_id) else { return false };
    if exhausted >= sources.count {
        return false;
    }
    let place = (hash >> 16).wrapping_add(exhausted) % sources.count;
    let pool = u32::from(sources.pools[place as usize % MAX_SOURCES]);
    let Some(port) = t.claim_port(pool, hash) else { return false };
    f.snat = t.pool(pool).map(|key| key.source).unwrap_or_default();
    f.snat_port = Port::new(port);
    f.pool = pool as u16;
    true
}

/// Gives a flow's port back, if it has one of a pool. Only for who has taken its reverse key out.
#[inline(always)]
pub fn leave<T: Tables>(f: &mut Flow, t: &T) {
    if f.pool != 0 {
        t.release_port(f.pool.into(), f.snat_port.number());
        f.pool = 0;
    }
}

/// The free port of a pool that a search by this hash comes to first.
#[inline(always)]
pub fn take<W: Words>(settings: &Settings, w: &W, hash: u32) -> Option<u16> {
    let ports = &settings.snat_ports;
    let n = ports.len();
    if n == 0 {
        return None;
    }
    claim(w, ports.nth(hash % n).number())
}

/// Gives a port back to a pool; one that is none of the configured ones any more is not given out again.
#[inline(always)]
pub fn give_back<W: Words>(settings: &Settings, w: &W, port: u16) {
    if settings.snat_ports.contains(port) {
        release(w, port);
    }
}
