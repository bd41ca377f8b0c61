//! Virtual addresses, services, backends and interfaces as the packet path sees them.

use crate::{
    addr::{Addr, Mac, Port},
    mode::Mode,
    reach::NO_ROUTER,
    schedule::Scheduler,
};

/// A virtual address, or one of the node's own that services are on.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Vip {
    /// Index of the virtual router whose lease covers it; [`NO_ROUTER`] for the node's own.
    pub router: u32,
    /// The hardware address that it is at, if not the interface's; zero: none.
    pub mac: Mac,
    /// Zero.
    pub pad: [u8; 2],
}
layout!(Vip = 12: router, mac, pad);

impl Vip {
    /// One of the node's own addresses.
    pub const OWN: Self = Self { router: NO_ROUTER, mac: Mac([0; 6]), pad: [0; 2] };

    /// Whether it is one of the node's own addresses.
    #[inline(always)]
    pub const fn is_own(&self) -> bool {
        self.router == NO_ROUTER
    }
}

/// Key of a service.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ServiceKey {
    /// Virtual address.
    pub addr: Addr,
    /// Port; of a range the first.
    pub port: Port,
    /// IP protocol.
    pub proto: u8,
    /// Zero, but for a range's first byte.
    pub pad: [u8; 5],
}
layout!(ServiceKey = 24: addr, port, proto, pad);

impl ServiceKey {
    /// The key of the service on one port.
    #[inline(always)]
    pub const fn port(addr: Addr, proto: u8, port: Port) -> Self {
        Self { addr, port, proto, pad: [0; 5] }
    }

    /// The key of the service on a range that begins with `first`: another one than that of a service on this port alone.
    #[inline(always)]
    pub const fn range(addr: Addr, proto: u8, first: Port) -> Self {
        Self { addr, port: first, proto, pad: [1, 0, 0, 0, 0] }
    }

    /// Whether it is a range's.
    pub const fn is_range(&self) -> bool {
        self.pad[0] != 0
    }
}

/// A service. Written last when anything of it changes: its ring and backends are complete by then.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Service {
    /// Index, for counters and the cursor.
    pub id: u32,
    /// Virtual router whose lease covers it.
    pub router: u32,
    /// First slot of its ring.
    pub ring_base: u32,
    /// Slots in its ring; 0 when no backend takes new connections.
    pub ring_len: u32,
    /// For how long after its last new connection a client is given the same backend, s; 0: not at all.
    pub persistence: u32,
    /// A [`Scheduler`].
    pub scheduler: u8,
    /// Slots behind its ring that name each of its backends once (`schedule`).
    pub members: u8,
    /// Bits of a client's address, of 128, by which it is known again.
    pub prefix: u8,
    /// Non-zero: for a time after its address has come here, a segment in the middle of an unknown connection opens a flow
    /// ([`Lease::adopt_until`](crate::lease::Lease::adopt_until)); 0: it is refused.
    pub adopts: u8,
}
layout!(Service = 24: id, router, ring_base, ring_len, persistence, scheduler, members, prefix, adopts);

impl Service {
    /// How a backend is chosen.
    #[inline(always)]
    pub const fn scheduler(&self) -> Scheduler {
        Scheduler::from_u8(self.scheduler)
    }
}

/// A backend.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backend {
    /// Address.
    pub addr: Addr,
    /// Interface it is reached by.
    pub ifindex: u32,
    /// Port; 0: the one that the client speaks to.
    pub port: Port,
    /// A [`Mode`]: how packets reach it.
    pub mode: u8,
    /// Zero.
    pub pad: u8,
}
layout!(Backend = 24: addr, ifindex, port, mode, pad);

impl Backend {
    /// How packets reach it.
    #[inline(always)]
    pub const fn mode(&self) -> Mode {
        Mode::from_u8(self.mode)
    }
}

/// An interface that programs are attached to.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interface {
    /// Its address, told to who asks for a virtual address that has none of its own.
    pub mac: Mac,
    /// Its MTU: the longest IP packet that it sends, in bytes; 0: unknown, any.
    pub mtu: u16,
    /// Interfaces by which frames that came in here have been seen to leave when XDP sent them; zero: none.
    pub ways: [u32; WAYS],
}
layout!(Interface = 24: mac, mtu, ways);

/// The way from this node to a backend. Written before the backend is in any ring.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Path {
    /// This node's own address towards the backend, and of its family: the source of tunnels, and of connections whose client
    /// is of the other family.
    pub source: Addr,
    /// The longest IP packet that reaches it, in bytes; 0: unknown, any.
    pub mtu: u16,
    /// Likewise, but that any interface with programs sends as well: what every client can be answered with.
    pub least: u16,
    /// The largest segment, in bytes of data, that either side of a connection is told of; 0: what fits the tunnel, if there is
    /// one; [`NO_CLAMP`]: what they say themselves.
    pub mss: u16,
    /// Non-zero: how its TCP connections begin is noted, for they can be moved to another server before it has spoken (`opening`).
    pub moves: u8,
    /// Non-zero: SYN-ACKs of its TCP connections wait until a peer has the flow (`held`).
    pub strict: u8,
}
layout!(Path = 24: source, mtu, least, mss, moves, strict);

/// [`Path::mss`] that changes nothing.
pub const NO_CLAMP: u16 = u16::MAX;

/// Interfaces that XDP sends frames to from one interface.
pub const WAYS: usize = 4;

impl Interface {
    /// Whether XDP may send a frame that came in here by that interface.
    #[inline(always)]
    pub const fn leads_to(&self, ifindex: u32) -> bool {
        let [a, b, c, d] = self.ways;
        ifindex != 0 && (a == ifindex || b == ifindex || c == ifindex || d == ifindex)
    }
}
