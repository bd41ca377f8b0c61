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

/// `ADDR:PORT` or `[ADDR]:PORT` of a service.
pub fn listen(text: &str) -> Result<SocketAddr, Refusal> {
    match endpoint(text)? {
        Endpoint { addr, port: Some(port) } => Ok(SocketAddr::new(addr, port)),
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

/// `ADDR`, `ADDR:PORT` or `[ADDR]:PORT` of a backend.
pub fn endpoint(text: &str) -> Result<Endpoint, Refusal> {
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
    let addr = unicast(addr)?;
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
        a if a.is_loopback() => "is a loopback address, which no other host can reach",
        _ => return Ok(addr),
    };
    Err((format!("`{addr}` {problem}"), None))
}
