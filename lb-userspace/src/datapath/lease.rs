//! The lease: a deadline per virtual router that every program checks and only the VRRP thread renews.

use std::io;

use aya::maps::{Array, MapData};
use lb_common::maps as names;

use super::{
    maps::{OpenError, array},
    pins::Pins,
};
use crate::vrrp::{BootTime, Lease};

/// The `LEASES` map of a node.
pub struct KernelLease {
    leases: Array<MapData, u64>,
}

impl KernelLease {
    /// Opens the pinned map.
    pub fn open(pins: &Pins) -> Result<Self, OpenError> {
        Ok(Self { leases: array(pins, names::LEASES)? })
    }
}

impl Lease for KernelLease {
    fn set(&mut self, router: usize, until: BootTime) -> io::Result<()> {
        let index = u32::try_from(router).map_err(io::Error::other)?;
        self.leases.set(index, until.0, 0).map_err(io::Error::other)
    }
}
