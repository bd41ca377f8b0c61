//! How many connections each backend, each service, and each client of a service that limits clients has, and how many they may have.
//!
//! A flow is counted once, when it is opened, and taken off once, when it has ended: whoever clears its mark
//! ([`COUNTED`](crate::flow::COUNTED)) in one step takes it off. Half-open flows count; flows that both sides have closed, or
//! one has reset, do not, though their records stay for a while.

use crate::{
    access::{COUNT_CELLS, COUNT_ROWS, PaceKey},
    maps::{MAX_BACKENDS, MAX_SERVICES},
};

/// Element of the `OCCUPANCY` map.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Occupancy {
    /// Connections. Programs and daemon add to it in one step each.
    pub connections: u64,
    /// As many as there may be; 0: any number. The daemon writes it.
    pub limit: u64,
}
layout!(Occupancy = 16: connections, limit);

impl Occupancy {
    /// Connections. (Below zero for a moment at most: what two processors do to the count need not arrive in their order.)
    #[inline(always)]
    pub const fn open(&self) -> u64 {
        if (self.connections as i64) < 0 { 0 } else { self.connections }
    }

    /// Whether there may be no more.
    #[inline(always)]
    pub const fn is_full(&self) -> bool {
        self.limit != 0 && self.open() >= self.limit
    }
}

/// Elements of the map: backends first, services behind them, then the counts of clients.
pub const ELEMENTS: usize = MAX_BACKENDS + MAX_SERVICES + (COUNT_ROWS * COUNT_CELLS) as usize;

/// The element of a service.
#[inline(always)]
pub const fn of_service(id: u32) -> u32 {
    id + MAX_BACKENDS as u32
}

/// The elements of a client.
#[inline(always)]
pub const fn of_client(client: &PaceKey) -> [u32; COUNT_ROWS as usize] {
    let [a, b, c] = client.counts();
    let first = (MAX_BACKENDS + MAX_SERVICES) as u32;
    [first + a, first + b, first + c]
}
