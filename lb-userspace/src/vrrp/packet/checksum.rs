//! The Internet checksum (RFC 1071) over a message, with and without IP's pseudo-header.
//!
//! VRRP version 2 covers the message alone, authentication data included. Version 3 over IPv4 does too by RFC 9568
//! §5.2.8, but keepalived and FRR put the pseudo-header before it; over IPv6 it is always there. Zero for a received
//! message means that it is undamaged.

use std::net::IpAddr;

/// Over the message alone.
pub(crate) fn plain(message: &[u8]) -> u16 {
    fold(words(message))
}

/// Over source, destination, protocol and length, and the message.
pub(crate) fn with_pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    fold(address(source) + address(destination) + u32::from(protocol) + length + words(message))
}

fn address(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(v4) => words(&v4.octets()),
        IpAddr::V6(v6) => words(&v6.octets()),
    }
}

/// The sum of 16-bit words; a message of at most 64 KiB cannot overflow it.
fn words(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(high) << 8,
        _ => 0,
    };
    bytes.chunks(2).map(word).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}
