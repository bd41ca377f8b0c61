//! The Internet checksum (RFC 1071) over a VRRP message, with and without IPv4's pseudo-header.
//!
//! Version 2 covers the message alone, authentication data included. Version 3 over IPv4 does too by RFC 9568 §5.2.8,
//! but keepalived and FRR put the pseudo-header before it. Zero for a received message means that it is undamaged.

use std::net::Ipv4Addr;

use super::PROTOCOL;

/// Over the message alone.
pub(super) fn plain(message: &[u8]) -> u16 {
    fold(words(message))
}

/// Over source, destination, protocol and length, and the message.
pub(super) fn with_pseudo_header(source: Ipv4Addr, destination: Ipv4Addr, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let pseudo = words(&source.octets()) + words(&destination.octets()) + u32::from(PROTOCOL) + length;
    fold(pseudo + words(message))
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
