//! What makes a service reachable beyond one port of a virtual address: ranges of ports, and the node's own addresses.
//!
//! A range is asked for only when no service has the very port. It is an anchor in the table of services (its first port) and
//! a few prefixes of port numbers that lead to the anchor, so that a longest-prefix match finds it in one step, whatever its
//! size. Services on a node's own address have no virtual router: nobody else answers for the address, so no lease fences it.

use crate::{addr::Addr, addr::Port};

/// Instead of a virtual router's index: the address is one of the node's own.
pub const NO_ROUTER: u32 = u32::MAX;

/// How long after the daemon's last sign of life services on the node's own addresses take new connections, ns. It gives one
/// each quarter of a second; a node whose daemon is gone knows of no failed backend any more.
pub const ALIVE_NS: u64 = 10_000_000_000;

/// A port of an address, as a key whose prefixes are ranges of ports: address, zero, protocol, port.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct RangeKey {
    /// The bytes in this order, four in each word.
    pub words: [u32; 5],
}
layout!(RangeKey = 20: words);

/// Length in bits of a [`RangeKey`], and of what precedes the port in it.
pub const RANGE_BITS: u32 = 160;
const BEFORE_PORT: u32 = RANGE_BITS - 16;

impl RangeKey {
    /// The key of a port.
    #[inline(always)]
    pub const fn new(addr: &Addr, proto: u8, port: Port) -> Self {
        let [high, low] = addr.words();
        let [a, b] = port.0;
        let (h, l) = (halves(high), halves(low));
        Self { words: [h[0], h[1], l[0], l[1], u32::from_ne_bytes([0, proto, a, b])] }
    }
}

/// A word's two halves in the order in which they lie in memory.
#[inline(always)]
const fn halves(word: u64) -> [u32; 2] {
    let (low, high) = (word as u32, (word >> 32) as u32);
    if cfg!(target_endian = "little") { [low, high] } else { [high, low] }
}

/// The prefixes of port numbers that make up `first..=last`: the port that each begins with and its length in bits of the
/// whole key. Thirty at most.
pub fn prefixes(first: u16, last: u16) -> impl Iterator<Item = (Port, u32)> {
    let mut next = u32::from(first);
    let end = u32::from(last) + 1;
    core::iter::from_fn(move || {
        if next >= end {
            return None;
        }
        let from = next;
        // The largest block that begins here and does not reach beyond the end.
        let aligned = from.trailing_zeros().min(16);
        let fits = (end - from).ilog2();
        let bits = aligned.min(fits);
        next += 1 << bits;
        Some((Port::new(from as u16), BEFORE_PORT + 16 - bits))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PROTO_UDP;

    fn covers(of: &[(Port, u32)], port: u16) -> usize {
        let within = |(first, length): &&(Port, u32)| {
            let bits = 16 - (length - BEFORE_PORT);
            u32::from(first.number()) >> bits == u32::from(port) >> bits
        };
        of.iter().filter(within).count()
    }

    #[test]
    fn a_ranges_prefixes_hold_each_of_its_ports_once_and_no_other() {
        for (first, last) in [(3306, 3310), (1, 65_535), (0, 65_535), (30_000, 30_100), (7, 7), (1, 65_534)] {
            let list: Vec<_> = prefixes(first, last).collect();
            assert!(list.len() <= 30, "{first}-{last}: {}", list.len());
            for port in 0..=u16::MAX {
                let expected = usize::from((first..=last).contains(&port));
                assert_eq!(covers(&list, port), expected, "{first}-{last}: {port}");
            }
        }
        assert_eq!(prefixes(0, 65_535).count(), 1);
    }

    #[test]
    fn a_keys_bytes_are_address_zero_protocol_and_port_in_this_order() {
        let addr = Addr::v4([172, 18, 0, 201]);
        let key = RangeKey::new(&addr, PROTO_UDP, Port::new(0x1234));
        let bytes: Vec<u8> = key.words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        assert_eq!(bytes[..16], addr.bytes());
        assert_eq!(bytes[16..], [0, PROTO_UDP, 0x12, 0x34]);
    }
}
