//! Addresses as users write them: `ADDR`, `ADDR/PREFIX dev IFACE`, `ADDR:PORT`, `[ADDR]:PORT`, of either family; each
//! refusal is a sentence.
//!
//! `file` calls these for every address; nothing here resolves names, because DNS may be down just when the
//! daemon has to start.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{file::check_interface, model::VirtualAddress, reader::Refusal};

/// An address and, if it was written, a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub addr: IpAddr,
    /// The port, 1–65535.
    pub port: Option<u16>,
}

impl Endpoint {
    /// With `default` where no port was written.
    pub fn with_port(self, default: u16) -> SocketAddr {
        SocketAddr::new(self.addr, self.port.unwrap_or(default))
    }
}

/// Where a service listens: an address, and a port or several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// The address and the port, of several the first; 0 of all.
    pub first: SocketAddr,
    /// The last of several; 65535 of all.
    pub last: Option<u16>,
}

impl Listen {
    /// Whether every port is meant.
    pub fn is_all(&self) -> bool {
        self.first.port() == 0
    }

    /// Whether both claim a port in the same way: two single ports that are one, or two ranges that overlap.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (a, b) = (self.first.port(), other.first.port());
        self.first.ip() == other.first.ip()
            && match (self.last, other.last) {
                (None, None) => a == b,
                (Some(last), Some(other_last)) if self.is_all() == other.is_all() => {
                    a <= other_last && b <= last
                }
                // The narrower one goes first.
                _ => false,
            }
    }
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ip = self.first.ip();
        match self.last {
            None => self.first.fmt(f),
            Some(last) => {
                if ip.is_ipv4() {
                    write!(f, "{ip}:")?
                } else {
                    write!(f, "[{ip}]:")?
                }
                if self.is_all() { f.write_str("*") } else { write!(f, "{}-{last}", self.first.port()) }
            }
        }
    }
}

/// A virtual address as written: where it differs from the default is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The address and where it goes.
    pub address: VirtualAddress,
    /// Whether a prefix length was written.
    pub has_prefix: bool,
}

/// `ADDR`, `ADDR/PREFIX`, `ADDR dev IFACE` or `ADDR/PREFIX dev IFACE` of a virtual address.
pub fn virtual_address(text: &str) -> Result<Placed, Refusal> {
    let mut words = text.split_whitespace();
    let address = words.next().unwrap_or_default();
    let dev = match (words.next(), words.next(), words.next()) {
        (None, ..) => None,
        (Some("dev"), Some(interface), None) => Some(check_interface(interface)?),
        _ => {
            let help =
                "only `dev IFACE` may follow the address; the rest of keepalived's words is not needed";
            return Err((format!("`{}` is not a virtual address", text.escape_debug()), Some(help.into())));
        }
    };
    let (addr, prefix) = match address.split_once('/') {
        Some((addr, prefix)) => (addr, Some(prefix)),
        None => (address, None),
    };
    let addr = unicast(addr)?;
    let longest = if addr.is_ipv4() { 32 } else { 128 };
    let prefix_len = match prefix.map(str::parse::<u8>) {
        None => longest,
        Some(Ok(len)) if (1..=longest).contains(&len) => len,
        Some(_) => {
            return Err((format!("`{address}` has a bad prefix length"), Some(format!("1 to {longest}"))));
        }
    };
    Ok(Placed { address: VirtualAddress { addr, prefix_len, dev }, has_prefix: prefix.is_some() })
}

/// The address of a peer, or of this node's own.
pub fn host(text: &str) -> Result<IpAddr, Refusal> {
    unicast(text)
}

/// `ADDR:PORT`, `ADDR:FIRST-LAST` or `ADDR:*` of a service; IPv6 in brackets.
pub fn listen(text: &str) -> Result<Listen, Refusal> {
    if let Some(addr) = text.strip_suffix(":*") {
        return several(addr, 0, u16::MAX);
    }
    if let Some((rest, last)) = text.rsplit_once('-') {
        let (addr, first) = rest.rsplit_once(':').unwrap_or((rest, ""));
        return match (first.parse(), last.parse()) {
            (Ok(first @ 1..), Ok(last)) if first < last => several(addr, first, last),
            _ => {
                let help = "write the first port and a higher one, as \"30000-30100\", or `*` for all ports";
                Err((format!("`{text}` has a bad range of ports"), Some(help.into())))
            }
        };
    }
    match endpoint(text)? {
        Endpoint { addr, port: Some(port) } => Ok(Listen { first: SocketAddr::new(addr, port), last: None }),
        Endpoint { addr, port: None } => {
            let help = match addr {
                IpAddr::V4(v4) => format!("write \"{v4}:3306\""),
                // Where the port was to begin cannot be told without brackets.
                IpAddr::V6(_) => {
                    "put the address in brackets and the port after them: \"[fd00::201]:3306\"".into()
                }
            };
            Err((format!("`{text}` has no port"), Some(help)))
        }
    }
}

fn several(addr: &str, first: u16, last: u16) -> Result<Listen, Refusal> {
    match endpoint(addr)? {
        // Brackets or not: an IPv6 address without them could not be told from its port before.
        Endpoint { addr: ip, port: None } if ip.is_ipv4() || addr.starts_with('[') => {
            Ok(Listen { first: SocketAddr::new(ip, first), last: Some(last) })
        }
        _ => Err((format!("`{addr}` is not an address"), Some("put an IPv6 address in brackets".into()))),
    }
}

/// `ADDR`, `ADDR:PORT` or `[ADDR]:PORT` of a backend: a loopback address too, which the mode may allow.
pub fn backend(text: &str) -> Result<Endpoint, Refusal> {
    parts(text, |text| text.parse().ok().filter(IpAddr::is_loopback).map_or_else(|| unicast(text), Ok))
}

/// `ADDR`, `ADDR:PORT` or `[ADDR]:PORT` of another node.
pub fn endpoint(text: &str) -> Result<Endpoint, Refusal> {
    parts(text, unicast)
}

fn parts(text: &str, address: impl Fn(&str) -> Result<IpAddr, Refusal>) -> Result<Endpoint, Refusal> {
    let (addr, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((addr, "")) => (addr, None),
        Some((addr, rest)) => (addr, Some(rest.strip_prefix(':').unwrap_or_default())),
        // More than one colon without brackets is IPv6, and none of them leads to a port.
        None if text.matches(':').count() > 1 => (text, None),
        None => match text.rsplit_once(':') {
            Some((addr, port)) => (addr, Some(port)),
            None => (text, None),
        },
    };
    let addr = address(addr)?;
    if let IpAddr::V6(v6) = addr
        && v6.is_unicast_link_local()
    {
        let message = format!("`{addr}` is a link-local address, which is reached on one link only");
        return Err((message, Some("write a global or unique local one (fd00::/8)".into())));
    }
    match port.map(str::parse::<u16>) {
        None => Ok(Endpoint { addr, port: None }),
        Some(Ok(port @ 1..)) => Ok(Endpoint { addr, port: Some(port) }),
        Some(_) => Err((format!("`{text}` has a bad port"), Some("1 to 65535".into()))),
    }
}

/// `ADDR:PORT` of this node, to listen on; loopback and the unspecified address are fine.
pub fn local(text: &str) -> Result<SocketAddr, Refusal> {
    text.parse().ok().filter(|a: &SocketAddr| a.port() > 0).ok_or_else(|| {
        let help = "write an address of this node and a port, as \"127.0.0.1:9112\"";
        (format!("`{}` is not an address and a port", text.escape_debug()), Some(help.into()))
    })
}

/// What is wrong with a loopback address.
pub const LOOPBACK: &str = "is a loopback address, which no other host can reach";

/// An address that one host on a network can have.
fn unicast(text: &str) -> Result<IpAddr, Refusal> {
    let addr: IpAddr = text.parse().map_err(|_| {
        let message = format!("`{}` is not an IP address", text.escape_debug());
        let help = match text.split_once('%') {
            Some((plain, _)) if plain.parse::<Ipv6Addr>().is_ok() => Some("leave out the `%` and the zone"),
            _ if !text.contains(':') && text.contains(|c: char| c.is_ascii_alphabetic()) => {
                Some("names are not looked up; write the address")
            }
            _ => None,
        };
        (message, help.map(str::to_owned))
    })?;
    if let IpAddr::V6(v6) = addr
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        return Err((
            format!("`{text}` is an IPv4 address written as IPv6"),
            Some(format!("write \"{v4}\"")),
        ));
    }
    let problem = match addr {
        a if a.is_unspecified() => "stands for no host",
        a if a.is_multicast() => "is a multicast address",
        IpAddr::V4(Ipv4Addr::BROADCAST) => "is the broadcast address",
        a if a.is_loopback() => LOOPBACK,
        _ => return Ok(addr),
    };
    Err((format!("`{addr}` {problem}"), None))
}
