//! The flow table's part of moving a connection to another server (`lb_common::opening`): its packets are held, its record gets another
//! backend, its reverse key another source port, and its packets are let go again.
//!
//! The control loop does this and the collector's work, one after the other; programs look at a held flow's generation, stage and
//! opening alone, so the rest of its record may be changed meanwhile.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use anyhow::{Context, Result};
use lb_common::{
    addr::{PROTO_TCP, Port},
    checksum::{delta, sum_addr, sum2},
    flow::{
        ADOPTED, COUNTED, DETOUR, FIN_BACKEND, FIN_CLIENT, Flow, FlowRef, MOVED, REPLICATED, REVERSE, Stage,
    },
    hash,
    mode::Mode,
    occupancy::Occupancy,
    opening::{Opening, State},
};

use super::Collector;
use crate::datapath::maps::Maps;

/// Ports of one source that turn out to be in use though they are marked free.
const CLAIMS: u32 = 4;
const NOEXIST: u64 = 1;

/// Whether nothing is between the client's handshake and now: neither side has sent anything, and what was said is known.
pub fn is_ungreeted(flow: &Flow, opening: &Opening) -> bool {
    flow.proto == PROTO_TCP
        && flow.stage() == Stage::Established
        && flow.place == 0
        && flow.flags & (FIN_CLIENT | FIN_BACKEND | REPLICATED | ADOPTED) == 0
        && matches!(flow.mode(), Mode::Nat | Mode::Dnat)
        && !flow.is_mixed()
        && opening.generation == flow.generation
        && flow.client_next == opening.client_isn.wrapping_add(1)
        && flow.backend_next == opening.server_isn.wrapping_add(1)
}

/// Whether a flow is on its way to another server.
pub fn is_under_way(flow: &Flow, opening: &Opening) -> bool {
    flow.is_moved()
        && opening.generation == flow.generation
        && matches!(opening.state(), State::Held | State::Answered | State::Refused)
}

impl Collector {
    /// How the flow in a slot began.
    pub fn opening(&self, slot: u32) -> Opening {
        // SAFETY: a live element; volatile because programs write it.
        self.openings.element(slot).map_or_else(Opening::default, |at| unsafe { at.read_volatile() })
    }

    fn set_state(&self, slot: u32, state: State) {
        if let Some(at) = self.openings.element(slot) {
            // What was written before is seen by who sees this.
            fence(Ordering::Release);
            // SAFETY: a live element; a single byte.
            unsafe { (&raw mut (*at).state).write_volatile(state as u8) };
        }
    }

    /// Connections of a backend, and how many there may be.
    pub fn occupancy(&self, backend: u32) -> Occupancy {
        self.counts.occupancy(backend)
    }

    /// Has programs hold the packets of a flow, if it is one that can be moved; gives what its state was. A packet that is on its way
    /// through a program may pass still: the record is to be looked at again later.
    pub fn hold(&self, slot: u32, flow: &Flow) -> Option<State> {
        let opening = self.opening(slot);
        let state = opening.state();
        if !matches!(state, State::Agreed | State::Moved) || !is_ungreeted(flow, &opening) {
            return None;
        }
        self.set_state(slot, State::Held);
        let held = self.change_word(slot, flow.generation, |mode| mode | MOVED);
        if !held {
            self.set_state(slot, state);
        }
        held.then_some(state)
    }

    /// Has programs hold the packets of a held flow that one of them has taken off the detour.
    pub fn hold_on(&self, slot: u32, flow: &Flow) {
        self.change_word(slot, flow.generation, |mode| mode | MOVED);
    }

    /// Lets packets of a held flow go on as before.
    pub fn let_go(&self, slot: u32, flow: &Flow, before: State) {
        if before != State::Moved {
            self.change_word(slot, flow.generation, |mode| mode & !MOVED);
        }
        self.set_state(slot, before);
    }

    /// Lets packets go on to the server that has answered, translated.
    pub fn set_moved(&self, slot: u32) {
        self.set_state(slot, State::Moved);
    }

    /// Changes a flow's mode, and has its every packet take the detour, in one step; not if the slot has another flow by now, or one
    /// that has ended.
    fn change_word(&self, slot: u32, generation: u16, change: impl Fn(u8) -> u8) -> bool {
        const MODE: usize = std::mem::offset_of!(Flow, mode) - Flow::MARKED;
        const MTU: usize = std::mem::offset_of!(Flow, mtu) - Flow::MARKED;
        const STAGE: usize = std::mem::offset_of!(Flow, stage) - Flow::MARKED;
        // SAFETY: within a live element, an aligned word, which programs change in one step as well, or byte by byte: whatever changes
        // meanwhile is seen by the exchange.
        let word = unsafe { AtomicU64::from_ptr(self.records.at(slot).byte_add(Flow::MARKED).cast()) };
        let changed = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| {
            let mut bytes = old.to_ne_bytes();
            if bytes[..2] != generation.to_ne_bytes() || bytes[STAGE] != Stage::Established as u8 {
                return None;
            }
            bytes[MODE] = change(bytes[MODE]);
            bytes[MTU..MTU + 2].copy_from_slice(&DETOUR.to_ne_bytes());
            Some(u64::from_ne_bytes(bytes))
        });
        changed.is_ok()
    }

    /// Gives a held flow to another backend: its record, its reverse key, its place in the counts. The flow as it is now; `None` if it
    /// cannot be had there, and then it belongs to nobody and is to be ended.
    pub fn give(&mut self, maps: &mut Maps, slot: u32, flow: &Flow, to: u32) -> Result<Option<Flow>> {
        self.read_range(maps)?;
        let backend = maps.backends.get(&to, 0).context("map BACKENDS")?;
        let old = flow.reverse_key();
        let ours =
            maps.flow_keys.get(&old, 0).is_ok_and(|r| r.slot == slot && r.generation == flow.generation);
        if ours && maps.flow_keys.remove(&old).is_ok() {
            self.ports.release(&self.range, flow);
        }
        let mut new = Flow {
            backend: backend.addr,
            backend_port: if backend.port == Port::default() { flow.vip_port } else { backend.port },
            backend_if: backend.ifindex,
            backend_id: to,
            pool: 0,
            mode: backend.mode | MOVED | flow.mode & COUNTED,
            mtu: DETOUR,
            ..*flow
        };
        if !self.enter(maps, slot, &mut new)? {
            return Ok(None);
        }
        let record = self.records.at(slot);
        // SAFETY: records are freed by this thread alone, and an established flow is in no place.
        let counted = unsafe { self.counts.release(record) };
        self.records.give(slot, &new);
        let given = self.change_word(slot, new.generation, |mode| backend.mode | MOVED | mode & COUNTED);
        // SAFETY: likewise.
        unsafe { self.counts.restore(record, counted) };
        self.set_state(slot, State::Held);
        if !given {
            // It has ended by itself: its key is taken out with it.
            return Ok(None);
        }
        Ok(Some(new))
    }

    /// Enters the reverse key of a flow with a free source port; whether there was one.
    fn enter(&self, maps: &mut Maps, slot: u32, flow: &mut Flow) -> Result<bool> {
        let to = FlowRef { slot, generation: flow.generation, direction: REVERSE, pad: 0 };
        if flow.mode() == Mode::Dnat {
            (flow.snat, flow.snat_port) = (flow.client, flow.client_port);
            set_deltas(flow);
            return Ok(maps.flow_keys.insert(flow.reverse_key(), to, NOEXIST).is_ok());
        }
        let hash = hash::flow(&flow.forward_key());
        let sources = maps.sources.get(&flow.backend_id, 0).context("map SOURCES")?;
        for pool in sources.pools.into_iter().take(sources.count as usize) {
            let source = maps.port_pools.get(&u32::from(pool), 0).context("map PORT_POOLS")?.source;
            for _ in 0..CLAIMS {
                let Some(port) = self.ports.claim(pool, &self.range, hash) else { break };
                (flow.snat, flow.snat_port, flow.pool) = (source, Port::new(port), pool);
                set_deltas(flow);
                if maps.flow_keys.insert(flow.reverse_key(), to, NOEXIST).is_ok() {
                    return Ok(true);
                }
                // Somebody has it who did not take it from this pool: it stays marked as taken.
            }
        }
        Ok(false)
    }
}

fn set_deltas(flow: &mut Flow) {
    flow.addr_delta =
        delta(sum_addr(&flow.client) + sum_addr(&flow.vip), sum_addr(&flow.snat) + sum_addr(&flow.backend));
    flow.port_delta = delta(
        sum2(flow.client_port.0) + sum2(flow.vip_port.0),
        sum2(flow.snat_port.0) + sum2(flow.backend_port.0),
    );
}

#[cfg(test)]
mod tests {
    use lb_common::addr::Addr;

    use super::*;

    #[test]
    fn a_connection_is_ungreeted_until_either_side_has_sent_anything() {
        let (client, backend) = (Addr::v4([192, 0, 2, 1]), Addr::v4([172, 18, 0, 2]));
        let opening = Opening { generation: 3, client_isn: u32::MAX, server_isn: 99, ..Opening::default() };
        let flow = Flow {
            client,
            backend,
            client_next: 0,
            backend_next: 100,
            generation: 3,
            proto: PROTO_TCP,
            stage: Stage::Established as u8,
            ..Flow::default()
        };
        assert!(is_ungreeted(&flow, &opening));
        for other in [
            Flow { client_next: 1, ..flow },
            Flow { backend_next: 101, ..flow },
            Flow { flags: FIN_CLIENT, ..flow },
            Flow { generation: 4, ..flow },
            Flow { place: 7, ..flow },
            Flow { stage: Stage::SynReceived as u8, ..flow },
            Flow { mode: Mode::Dsr as u8, ..flow },
            Flow { backend: Addr::new([0xfd; 16]), ..flow },
        ] {
            assert!(!is_ungreeted(&other, &opening), "{other:?}");
        }
    }
}
