//! Fragmented datagrams under way: only the first fragment has ports, so it leaves word for those that follow.

use crate::{addr::Addr, flow::FlowRef};

/// What the fragments of one datagram have in common (RFC 791 section 3.2, RFC 8200 section 4.5).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FragmentKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Identification as it stands in the packet; IPv4's in the last two bytes.
    pub id: [u8; 4],
    /// IP protocol.
    pub proto: u8,
    /// Zero.
    pub pad: [u8; 3],
}
layout!(FragmentKey = 40: src, dst, id, proto, pad);

/// Where they go.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FragmentRef {
    /// The flow and the direction.
    pub flow: FlowRef,
    /// Boottime of the first fragment, ns.
    pub seen: u64,
}
layout!(FragmentRef = 16: flow, seen);

/// How long fragments may follow the first one, ns: as long as Linux waits for them (`ipfrag_time`).
pub const TIMEOUT_NS: u64 = 30_000_000_000;
