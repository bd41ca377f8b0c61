//! Flows: one record per connection, reached by the keys of both directions.
//!
//! The key map gives `FlowRef {slot, generation, direction}`; the record sits in an array. Eviction cannot split a pair
//! because nothing evicts: the collector removes both keys and then frees the slot; a key that outlived its record is
//! found out by the generation.

use crate::{
    addr::{Addr, Port},
    mode::Mode,
};

/// Addresses and ports of a packet as it arrives.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FlowKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port.
    pub sport: Port,
    /// Destination port.
    pub dport: Port,
    /// IP protocol.
    pub proto: u8,
    /// Zero.
    pub pad: [u8; 3],
}
layout!(FlowKey = 40: src, dst, sport, dport, proto, pad);

/// Where a key leads.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowRef {
    /// Index into the flow array.
    pub slot: u32,
    /// Must equal the record's generation.
    pub generation: u16,
    /// [`FORWARD`] or [`REVERSE`].
    pub direction: u8,
    /// Zero.
    pub pad: u8,
}
layout!(FlowRef = 8: slot, generation, direction, pad);

/// Client to backend.
pub const FORWARD: u8 = 0;
/// Backend to client.
pub const REVERSE: u8 = 1;

/// A connection, or what passes between two UDP ports.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flow {
    /// The client.
    pub client: Addr,
    /// The virtual address it spoke to.
    pub vip: Addr,
    /// The backend it was given.
    pub backend: Addr,
    /// The source that the backend sees; the client unless the mode translates it.
    pub snat: Addr,
    /// The client's port.
    pub client_port: Port,
    /// The service's port.
    pub vip_port: Port,
    /// The backend's port.
    pub backend_port: Port,
    /// The source port that the backend sees.
    pub snat_port: Port,
    /// Boottime of the last packet of either direction, ns; while an answer is waited for ([`ASKED`]), of the question.
    pub seen: u64,
    /// Nothing; it moves those behind it.
    #[cfg(feature = "other-layout")]
    pub spare: u64,
    /// Boottime of the first packet, s.
    pub born: u32,
    /// Its place among half-open flows (`half_open`), 0 once it is established.
    pub place: u16,
    /// The pool that its source port is from (`ports`), 0: from none.
    pub pool: u16,
    /// Service index (counters).
    pub service: u32,
    /// Backend index (counters).
    pub backend_id: u32,
    /// Virtual router whose lease covers the virtual address.
    pub router: u32,
    /// Interface towards the client.
    pub client_if: u32,
    /// Interface towards the backend.
    pub backend_if: u32,
    /// Next sequence number expected from the client (highest sent + 1).
    pub client_next: u32,
    /// Next sequence number expected from the backend.
    pub backend_next: u32,
    /// Checksum delta of the forward address change (part of the pseudo-header); the reverse one is its complement.
    pub addr_delta: u16,
    /// Checksum delta of the forward port change; the reverse one is its complement.
    pub port_delta: u16,
    /// Counts reuses of the slot.
    pub generation: u16,
    /// IP protocol.
    pub proto: u8,
    /// A [`Stage`].
    pub stage: u8,
    /// [`FIN_CLIENT`], [`FIN_BACKEND`], [`RETRIED`], [`MISSED`], [`ASKED`], [`TIMED`], [`REPLICATED`], [`ADOPTED`].
    pub flags: u8,
    /// A [`Mode`], [`COUNTED`] and [`MOVED`].
    pub mode: u8,
    /// The longest IP packet, in bytes, that is simply sent on, in either direction; 0: any. [`DETOUR`]: none.
    pub mtu: u16,
}
#[cfg(feature = "other-layout")]
layout!(Flow = 136: client, vip, backend, snat, client_port, vip_port, backend_port, snat_port, seen, spare, born, place, pool,
    service, backend_id, router, client_if, backend_if, client_next, backend_next, addr_delta, port_delta, generation, proto,
    stage, flags, mode, mtu);
#[cfg(not(feature = "other-layout"))]
layout!(Flow = 128: client, vip, backend, snat, client_port, vip_port, backend_port, snat_port, seen, born, place, pool, service,
    backend_id, router, client_if, backend_if, client_next, backend_next, addr_delta, port_delta, generation, proto,
    stage, flags, mode, mtu);

/// [`Flow::mtu`] of a flow whose packets need more than new addresses: every one is longer.
pub const DETOUR: u16 = 1;

/// In [`Flow::mode`]: the flow is counted as a connection of its backend and service (`occupancy`). Cleared in one step, through
/// the word [`Flow::MARKED`], by who takes it off the counts.
pub const COUNTED: u8 = 1 << 7;

/// In [`Flow::mode`]: the flow is on its way to another server than the client's handshake was with, or there (`opening`): it has
/// [`DETOUR`], and its packets are held or translated.
pub const MOVED: u8 = 1 << 6;

/// The client has sent FIN.
pub const FIN_CLIENT: u8 = 1;
/// The backend has sent FIN.
pub const FIN_BACKEND: u8 = 2;

/// Another backend did not take the same connection before (`redispatch`).
pub const RETRIED: u8 = 1 << 2;
/// Its backend left the client's SYN unanswered or refused it, and that is counted.
pub const MISSED: u8 = 1 << 3;

/// The client has asked, and its answer is waited for (`latency`): [`Flow::seen`] stays what it was then.
pub const ASKED: u8 = 1 << 4;
/// Its backend's times are taken, or not to be had.
pub const TIMED: u8 = 1 << 5;

/// A peer told of it, and no packet has come by here yet: its sequence numbers may be a long way behind.
pub const REPLICATED: u8 = 1 << 6;

/// A segment in the middle of the connection opened it, which its backend has not confirmed until it is established.
pub const ADOPTED: u8 = 1 << 7;

/// Where a flow stands: a TCP connection as the flags seen tell, a UDP flow as its directions do.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stage {
    /// The slot holds no flow.
    #[default]
    Free = 0,
    /// The client's SYN was forwarded.
    SynSent = 1,
    /// The backend's SYN-ACK was returned.
    SynReceived = 2,
    /// The client has acknowledged it.
    Established = 3,
    /// Both sides have sent FIN.
    Closing = 4,
    /// RST was seen.
    Closed = 5,
    /// UDP: the client has sent, the backend has not.
    OneWay = 6,
    /// UDP: both have sent.
    TwoWay = 7,
}

impl Stage {
    /// From a record; unknown numbers count as free.
    #[inline(always)]
    pub const fn from_u8(v: u8) -> Self {
        match v {
            1 => Self::SynSent,
            2 => Self::SynReceived,
            3 => Self::Established,
            4 => Self::Closing,
            5 => Self::Closed,
            6 => Self::OneWay,
            7 => Self::TwoWay,
            _ => Self::Free,
        }
    }

    /// How long a flow may be silent in this stage unless its service says otherwise, ns. Established flows are given five
    /// days (what Linux's conntrack gives): pools of database connections idle for hours, and a shorter time-out silently
    /// breaks them. UDP flows are given what conntrack gave them for most of its life (180 s, 120 s since Linux 5.0): some
    /// clients know no less.
    pub const fn timeout_ns(self) -> u64 {
        const S: u64 = 1_000_000_000;
        match self {
            Self::Free => 0,
            Self::SynSent | Self::SynReceived => 60 * S,
            Self::Established => 5 * 24 * 3600 * S,
            Self::Closing => 60 * S,
            Self::Closed => 10 * S,
            Self::OneWay => 30 * S,
            Self::TwoWay => 180 * S,
        }
    }
}

const _: () = assert!(Flow::MARKED.is_multiple_of(8), "the mark is cleared by one operation on a word");

impl Flow {
    /// The stage.
    #[inline(always)]
    pub const fn stage(&self) -> Stage {
        Stage::from_u8(self.stage)
    }

    /// The mode it was opened with.
    #[inline(always)]
    pub const fn mode(&self) -> Mode {
        Mode::from_u8(self.mode & !(COUNTED | MOVED))
    }

    /// Where in a record the word is that has [`COUNTED`] in it, in bytes.
    pub const MARKED: usize = core::mem::offset_of!(Self, generation);

    /// That word's bits but for the mark.
    pub const UNMARKED: u64 = {
        let mut bytes = [0xff; 8];
        bytes[core::mem::offset_of!(Self, mode) - Self::MARKED] = !COUNTED;
        u64::from_ne_bytes(bytes)
    };

    /// Whether it is counted as a connection.
    #[inline(always)]
    pub const fn is_counted(&self) -> bool {
        self.mode & COUNTED != 0
    }

    /// Whether it is moved, or being moved.
    #[inline(always)]
    pub const fn is_moved(&self) -> bool {
        self.mode & MOVED != 0
    }

    /// Whether the connection has ended, though its record is still there.
    #[inline(always)]
    pub const fn has_ended(&self) -> bool {
        matches!(self.stage(), Stage::Closing | Stage::Closed)
    }

    /// Whether an IP packet of so many bytes is simply sent on.
    #[inline(always)]
    pub const fn takes(&self, length: u32) -> bool {
        length <= self.mtu.wrapping_sub(1) as u32 + 1
    }

    /// Whether client and backend are of different families, so that packets are translated from one to the other.
    #[inline(always)]
    pub const fn is_mixed(&self) -> bool {
        self.client.is_v4() != self.backend.is_v4()
    }

    /// Key of the packets that come from the client.
    #[inline(always)]
    pub const fn forward_key(&self) -> FlowKey {
        FlowKey {
            src: self.client,
            dst: self.vip,
            sport: self.client_port,
            dport: self.vip_port,
            proto: self.proto,
            pad: [0; 3],
        }
    }

    /// Key of the packets that come from the backend.
    #[inline(always)]
    pub const fn reverse_key(&self) -> FlowKey {
        FlowKey {
            src: self.backend,
            dst: self.snat,
            sport: self.backend_port,
            dport: self.snat_port,
            proto: self.proto,
            pad: [0; 3],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_takes_packets_up_to_its_mtu_any_without_one_and_none_on_a_detour() {
        let takes = |mtu, length| Flow { mtu, ..Flow::default() }.takes(length);
        assert!(takes(1500, 1500) && !takes(1500, 1501));
        assert!(takes(0, 65_535) && takes(u16::MAX, 65_535));
        assert!(!takes(DETOUR, 20));
    }
}
