//! The keys of `[service.NAME]` about the ways to its backends, as written: tunnels and segment sizes.

use std::net::IpAddr;

use crate::config::{
    address,
    reader::{Field, Reader},
};

/// Keys about tunnels and segment sizes.
pub struct PathKeys {
    /// `tunnel_source`.
    pub tunnel_source: Field<IpAddr>,
    /// `tunnel_mtu`.
    pub tunnel_mtu: Field<u16>,
    /// `mss`.
    pub mss: Field<u16>,
    /// `mss_clamp`.
    pub mss_clamp: Field<bool>,
}

/// Reads them from a service's section.
pub fn read(r: &mut Reader<'_, '_>) -> PathKeys {
    PathKeys {
        tunnel_source: r.parsed("tunnel_source", address::host),
        // IPv4's least (RFC 791), and what an IPv4 packet can be.
        tunnel_mtu: r.integer("tunnel_mtu", 576..=65_000),
        // Linux takes no less for an answer.
        mss: r.integer("mss", 88..=65_000),
        mss_clamp: r.boolean("mss_clamp"),
    }
}
