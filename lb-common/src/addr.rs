//! Addresses, ports and MAC addresses as they stand in packets: bytes in network order.

use core::{fmt, net::Ipv4Addr, net::Ipv6Addr};

/// An IPv4 (v4-mapped, `::ffff:a.b.c.d`) or IPv6 address: its sixteen bytes in network order, held as two words so that the
/// BPF back end moves them in two loads. It has no unaligned loads and takes a byte array apart into sixteen, each of which
/// may cost a stack slot.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Addr {
    words: [u64; 2],
}

// SAFETY: sixteen bytes.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Addr {}

impl Addr {
    /// From bytes in network order.
    #[inline(always)]
    pub const fn new(b: [u8; 16]) -> Self {
        Self {
            words: [
                u64::from_ne_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
                u64::from_ne_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]),
            ],
        }
    }

    /// From its halves as they lie in memory.
    #[inline(always)]
    pub const fn from_halves(high: u64, low: u64) -> Self {
        Self { words: [high, low] }
    }

    /// From the four bytes of an IPv4 header.
    #[inline(always)]
    pub const fn v4(b: [u8; 4]) -> Self {
        Self { words: [0, u64::from_ne_bytes([0, 0, 0xff, 0xff, b[0], b[1], b[2], b[3]])] }
    }

    /// The bytes in network order.
    pub const fn bytes(&self) -> [u8; 16] {
        let [a, b] = [self.words[0].to_ne_bytes(), self.words[1].to_ne_bytes()];
        [a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]
    }

    /// The bytes as they lie in memory.
    #[inline(always)]
    pub const fn words(&self) -> [u64; 2] {
        self.words
    }

    /// The IPv4 address of a v4-mapped one, its bytes as they lie in memory.
    #[inline(always)]
    pub const fn v4_word(&self) -> u32 {
        if cfg!(target_endian = "little") { (self.words[1] >> 32) as u32 } else { self.words[1] as u32 }
    }

    /// Whether this is a v4-mapped address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        let mapped = Self::v4([0; 4]);
        let mask =
            Self::new([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        self.words[0] == mapped.words[0] && self.words[1] & mask.words[1] == mapped.words[1]
    }
}

impl Ord for Addr {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.bytes().cmp(&other.bytes())
    }
}

impl PartialOrd for Addr {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(a: Ipv4Addr) -> Self {
        Self::v4(a.octets())
    }
}

impl From<core::net::IpAddr> for Addr {
    fn from(a: core::net::IpAddr) -> Self {
        match a {
            core::net::IpAddr::V4(a) => a.into(),
            core::net::IpAddr::V6(a) => Self::new(a.octets()),
        }
    }
}

impl From<Addr> for core::net::IpAddr {
    fn from(a: Addr) -> Self {
        if a.is_v4() {
            Ipv4Addr::from(a.v4_word().to_ne_bytes()).into()
        } else {
            Ipv6Addr::from(a.bytes()).into()
        }
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&core::net::IpAddr::from(*self), f)
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&core::net::IpAddr::from(*self), f)
    }
}

/// A TCP or UDP port in network order.
#[repr(C, align(2))]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Port(pub [u8; 2]);

// SAFETY: two bytes.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Port {}

impl Port {
    /// From a number in host order.
    #[inline(always)]
    pub const fn new(p: u16) -> Self {
        Self(p.to_be_bytes())
    }

    /// The number in host order.
    #[inline(always)]
    pub const fn number(self) -> u16 {
        u16::from_be_bytes(self.0)
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.number(), f)
    }
}

/// An Ethernet address.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The virtual router's own address, for IPv4 or IPv6 (RFC 9568 section 7.3).
    pub const fn virtual_router(v6: bool, vrid: u8) -> Self {
        Self([0, 0, 0x5e, 0, if v6 { 2 } else { 1 }, vrid])
    }

    /// Whether it is one of those.
    #[inline(always)]
    pub const fn is_virtual_router(&self) -> bool {
        let m = self.0;
        m[0] == 0 && m[1] == 0 && m[2] == 0x5e && m[3] == 0 && (m[4] == 1 || m[4] == 2)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = self.0;
        write!(f, "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", m[0], m[1], m[2], m[3], m[4], m[5])
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// IP protocol number of ICMP.
pub const PROTO_ICMP: u8 = 1;
/// IP protocol number of TCP.
pub const PROTO_TCP: u8 = 6;
/// IP protocol number of UDP.
pub const PROTO_UDP: u8 = 17;
/// IP protocol number of ICMPv6.
pub const PROTO_ICMPV6: u8 = 58;
