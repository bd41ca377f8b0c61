//! Addresses as users write them: `ADDR`, `ADDR/PREFIX`, `ADDR:PORT`. IPv4 for now; each refusal is a sentence.
//!
//! `file` calls these for every address; nothing here resolves names, because DNS may be down just when the
//! daemon has to start.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use super::{model::VirtualAddress, reader::Refusal};

/// An address and, if it was written, a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub addr: Ipv4Addr,
    /// The port, 1–65535.
    pub port: Option<u16>,
}

impl Endpoint {
    /// With `default` where no port was written.
    pub fn with_port(self, default: u16) -> SocketAddr {
        SocketAddrV4::new(self.addr, self.port.unwrap_or(default)).into()
    }
}

/// `ADDR` or `ADDR/PREFIX` of a virtual address.
pub fn virtual_address(text: &str) -> Result<VirtualAddress, Refusal> {
    let (addr, prefix) = match text.split_once('/') {
        Some((addr, prefix)) => (addr, Some(prefix)),
        None => (text, None),
    };
    let addr = unicast(addr)?;
    let prefix_len = match prefix.map(str::parse::<u8>) {
        None => 32,
        Some(Ok(len @ 1..=32)) => len,
        Some(_) => return Err((format!("`{text}` has a bad prefix length"), Some("1 to 32".into()))),
    };
    Ok(VirtualAddress { addr: IpAddr::V4(addr), prefix_len, dev: None })
}

/// `ADDR:PORT` of a service.
pub fn listen(text: &str) -> Result<SocketAddr, Refusal> {
    match endpoint(text)? {
        Endpoint { addr, port: Some(port) } => Ok(SocketAddrV4::new(addr, port).into()),
        Endpoint { addr, port: None } => {
            Err((format!("`{text}` has no port"), Some(format!("write \"{addr}:3306\""))))
        }
    }
}

/// `ADDR` or `ADDR:PORT` of a backend.
pub fn endpoint(text: &str) -> Result<Endpoint, Refusal> {
    refuse_ipv6(text)?;
    let (addr, port) = match text.rsplit_once(':') {
        Some((addr, port)) => (addr, Some(port)),
        None => (text, None),
    };
    let addr = unicast(addr)?;
    match port.map(str::parse::<u16>) {
        None => Ok(Endpoint { addr, port: None }),
        Some(Ok(port @ 1..)) => Ok(Endpoint { addr, port: Some(port) }),
        Some(_) => Err((format!("`{text}` has a bad port"), Some("1 to 65535".into()))),
    }
}

/// An address that one host on a network can have.
fn unicast(text: &str) -> Result<Ipv4Addr, Refusal> {
    refuse_ipv6(text)?;
    let addr: Ipv4Addr = text.parse().map_err(|_| {
        let looks_like_name = text.contains(|c: char| c.is_ascii_alphabetic());
        let help = looks_like_name.then(|| "names are not looked up; write the address".into());
        (format!("`{}` is not an IPv4 address", text.escape_debug()), help)
    })?;
    let problem = match addr {
        a if a.is_unspecified() => "stands for no host",
        a if a.is_multicast() => "is a multicast address",
        a if a.is_broadcast() => "is the broadcast address",
        a if a.is_loopback() => "is a loopback address, which no other host can reach",
        _ => return Ok(addr),
    };
    Err((format!("`{addr}` {problem}"), None))
}

fn refuse_ipv6(text: &str) -> Result<(), Refusal> {
    let host = text.trim_start_matches('[').split(['/', ']']).next().unwrap_or_default();
    match host.parse::<std::net::Ipv6Addr>() {
        Ok(_) => {
            Err((format!("`{text}` is IPv6, which is not supported yet"), Some("use an IPv4 address".into())))
        }
        Err(_) => Ok(()),
    }
}
