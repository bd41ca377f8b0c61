//! The checked configuration of how a service's further backends are discovered.

use std::{net::IpAddr, time::Duration};

use super::Prefix;

/// `discover` of a service: nodes of the Galera cluster that the file does not name become backends as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    /// Where they may be; never empty. A cluster's word alone sends no client anywhere else.
    pub networks: Vec<Prefix>,
    /// So many at most, those of the file not counted. Default 8.
    pub most: u32,
    /// Who has not been a member for so long is forgotten. Default 10 minutes.
    pub forget: Duration,
}

impl Discovery {
    /// [`Self::most`] unless the file says otherwise.
    pub const MOST: u32 = 8;
    /// [`Self::forget`] unless the file says otherwise: longer than the restart of a node takes.
    pub const FORGET: Duration = Duration::from_secs(600);

    /// Whether a node may be there.
    pub fn allows(&self, addr: IpAddr) -> bool {
        self.networks.iter().any(|prefix| prefix.contains(addr))
    }
}
