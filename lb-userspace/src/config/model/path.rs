//! The checked configuration of the ways to a service's backends: tunnels and segment sizes.

use std::net::IpAddr;

/// `tunnel_source`, `tunnel_mtu`, `mss`, `mss_clamp` of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PathOptions {
    /// Source of the outer packets to backends of its family. Default: this node's address on the route to each.
    pub tunnel_source: Option<IpAddr>,
    /// The longest packet that goes into a tunnel, in bytes. Default: what the route takes, less the outer header.
    pub tunnel_mtu: Option<u16>,
    /// The largest segment that SYNs ask for.
    pub mss: Mss,
}

/// What becomes of the segment size in a SYN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mss {
    /// Made to fit the tunnel, if there is one.
    #[default]
    Fitting,
    /// Left as it is.
    Unchanged,
    /// At most so many bytes.
    AtMost(u16),
}
