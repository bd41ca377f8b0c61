//! The checked configuration of a service's clients: who may connect, and how fast.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A prefix of addresses; the bits behind it are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// The address that it begins with.
    pub addr: IpAddr,
    /// Its length in bits, of 32 or 128.
    pub len: u8,
}

impl Prefix {
    /// The address without the bits behind the prefix.
    pub fn network(&self) -> IpAddr {
        match self.addr {
            IpAddr::V4(a) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.len)).unwrap_or(0);
                Ipv4Addr::from_bits(a.to_bits() & mask).into()
            }
            IpAddr::V6(a) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.len)).unwrap_or(0);
                Ipv6Addr::from_bits(a.to_bits() & mask).into()
            }
        }
    }

    /// Whether an address begins with it.
    pub fn contains(&self, addr: IpAddr) -> bool {
        addr.is_ipv4() == self.addr.is_ipv4() && Self { addr, ..*self }.network() == self.network()
    }

    /// Its length in bits of an address in sixteen bytes.
    pub fn bits(&self) -> u8 {
        if self.addr.is_ipv4() { 96 + self.len } else { self.len }
    }
}

/// `deny_action = "drop" | "reset"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DenyAction {
    /// In silence.
    #[default]
    Drop,
    /// With RST.
    Reset,
}

/// `allow`, `deny`, `deny_action`, `client_limit` of a service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    /// Who may connect; empty: everybody who is not denied.
    pub allow: Vec<Prefix>,
    /// Who may not. The longest prefix of both lists decides.
    pub deny: Vec<Prefix>,
    /// What they are told.
    pub deny_action: DenyAction,
    /// How fast each client may open connections, and how many it may have.
    pub client_limit: Option<ClientLimit>,
}

/// `rate` and `burst` of `client_limit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Connections …
    pub count: u32,
    /// … in so many seconds.
    pub seconds: u32,
    /// At once. Default: as many as in one second, at least one.
    pub burst: u32,
}

/// `client_limit` of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientLimit {
    /// How fast; default: as fast as it likes.
    pub rate: Option<Rate>,
    /// At a time; 0, the default: any number.
    pub connections: u32,
    /// Bits of an IPv4 address that make one client. Default 32.
    pub prefix_v4: u8,
    /// Of an IPv6 address. Default 64.
    pub prefix_v6: u8,
}
