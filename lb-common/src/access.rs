//! Who may open connections to a service, and how fast: prefixes of client addresses, and a pace for each client.
//!
//! Both are asked for new flows only. A service without such rules costs one array read.

use crate::{addr::Addr, hash};

/// A client's address as a service's rules know it: a key whose longest prefix decides.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct AccessKey {
    /// The service's index, its bytes in network order, and the address, four bytes in each word.
    pub words: [u32; 5],
}
layout!(AccessKey = 20: words);

/// Bits of the service in an [`AccessKey`]: a rule for everybody has so many.
pub const SERVICE_BITS: u32 = 32;
/// Bits of a whole [`AccessKey`].
pub const ACCESS_BITS: u32 = SERVICE_BITS + 128;

impl AccessKey {
    /// The key of a client.
    #[inline(always)]
    pub const fn new(service: u32, addr: &Addr) -> Self {
        let [high, low] = addr.words();
        let (h, l) = (halves(high), halves(low));
        Self { words: [service.to_be(), h[0], h[1], l[0], l[1]] }
    }
}

/// A word's two halves in the order in which they lie in memory.
#[inline(always)]
const fn halves(word: u64) -> [u32; 2] {
    let (low, high) = (word as u32, (word >> 32) as u32);
    if cfg!(target_endian = "little") { [low, high] } else { [high, low] }
}

/// What a rule says: it may open connections.
pub const ALLOW: u32 = 1;
/// It may not, and hears nothing.
pub const DROP: u32 = 2;
/// It may not, and is told (TCP by RST).
pub const REFUSE: u32 = 3;

/// What holds for a service's new flows.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Between two new flows of a client at the steady pace, ns; 0: no limit.
    pub interval: u64,
    /// How much of its time a client may have ahead of it, ns: `burst` intervals less one.
    pub ahead: u64,
    /// Non-zero: the service has rules in the map of prefixes.
    pub rules: u32,
    /// Connections that a client may have at a time; 0: any number.
    pub connections: u32,
    /// Bits of an IPv4 client's mapped address, of 128, that make one client.
    pub prefix_v4: u8,
    /// Likewise of IPv6.
    pub prefix_v6: u8,
    /// Non-zero: what a backend does not take goes to another (`redispatch`).
    pub redispatch: u8,
    /// Zero.
    pub pad: [u8; 5],
}
layout!(Limits = 32: interval, ahead, rules, connections, prefix_v4, prefix_v6, redispatch, pad);

/// A client of a service.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PaceKey {
    /// Its address, cut to the service's prefix.
    pub addr: Addr,
    /// The service's index.
    pub service: u32,
    /// Zero.
    pub pad: u32,
}
layout!(PaceKey = 24: addr, service, pad);

impl PaceKey {
    /// The key of a client.
    #[inline(always)]
    pub const fn new(service: u32, addr: &Addr, limits: &Limits) -> Self {
        let bits = if addr.is_v4() { limits.prefix_v4 } else { limits.prefix_v6 };
        let [high, low] = addr.words();
        let addr = Addr::from_halves(high & mask(bits, 0), low & mask(bits, 64));
        Self { addr, service, pad: 0 }
    }
}

/// Rows of counts of clients' connections.
pub const COUNT_ROWS: u32 = 3;
/// Counts of a row.
pub const COUNT_CELLS: u32 = 65_536;

impl PaceKey {
    /// The client's count in each row, from the first count on. Clients share counts, and the least of its own is the one to go by: that
    /// is too high only where others share all three (a count-min sketch; of 1,000 clients that are connected at a time, with a
    /// probability of 4 in a million). So no flood of addresses takes more memory, and nobody's count gives way to another's.
    #[inline(always)]
    pub const fn counts(&self) -> [u32; COUNT_ROWS as usize] {
        let hash = hash::client(&self.addr, self.service);
        [cell(hash, 0), cell(hash, 1), cell(hash, 2)]
    }
}

/// Each row has sixteen bits of the hash to itself.
#[inline(always)]
const fn cell(hash: u64, row: u32) -> u32 {
    row * COUNT_CELLS + (hash >> (16 * row)) as u32 % COUNT_CELLS
}

/// A mask of the first `bits` of 128, in memory's order, of the word that begins at bit `from`.
#[inline(always)]
const fn mask(bits: u8, from: u8) -> u64 {
    let here = bits.saturating_sub(from);
    if here >= 64 {
        u64::MAX
    } else {
        // Never a shift by 64, which would be one by 0.
        (!(u64::MAX >> here)).to_be()
    }
}

/// When a client's next flow is due at the steady pace, if it may open one `now`: `due` is what the last one left. (The generic cell
/// rate algorithm: one word a client, no tokens to fill up.)
#[inline(always)]
pub const fn paced(due: u64, now: u64, limits: &Limits) -> Option<u64> {
    let from = if due > now { due } else { now };
    if from - now > limits.ahead { None } else { Some(from + limits.interval) }
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    fn addr(text: &str) -> Addr {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn a_keys_bytes_are_service_and_address_in_this_order() {
        let key = AccessKey::new(0x0102_0304, &addr("172.18.0.201"));
        let bytes: Vec<u8> = key.words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        assert_eq!(bytes[..4], [1, 2, 3, 4]);
        assert_eq!(bytes[4..], addr("172.18.0.201").bytes());
    }

    #[test]
    fn a_client_is_its_prefix() {
        let limits = Limits { prefix_v4: 96 + 24, prefix_v6: 64, ..Limits::default() };
        let of = |text: &str| PaceKey::new(7, &addr(text), &limits).addr;
        assert_eq!(of("10.1.2.3"), addr("10.1.2.0"));
        assert_eq!(of("fd00:1:2:3:4:5:6:7"), addr("fd00:1:2:3::"));
        for (bits, expected) in
            [(128, "fd00:1:2:3:4:5:6:7"), (0, "::"), (60, "fd00:1:2::"), (80, "fd00:1:2:3:4::")]
        {
            let limits = Limits { prefix_v6: bits, ..limits };
            assert_eq!(PaceKey::new(7, &addr("fd00:1:2:3:4:5:6:7"), &limits).addr, addr(expected), "{bits}");
        }
    }

    #[test]
    fn clients_hardly_ever_share_all_of_their_counts() {
        let limits = Limits { prefix_v4: 128, ..Limits::default() };
        let mut taken = [0u32; (COUNT_ROWS * COUNT_CELLS) as usize];
        let client = |i: u32| PaceKey::new(3, &Addr::v4((0x0a00_0000 + i).to_be_bytes()), &limits).counts();
        for i in 0..4000 {
            client(i).into_iter().for_each(|at| taken[at as usize] += 1);
        }
        let alone = |i: &u32| client(*i).into_iter().any(|at| taken[at as usize] == 1);
        assert!((0..4000).filter(alone).count() >= 3995);
    }

    #[test]
    fn a_client_has_its_burst_at_once_and_then_the_pace() {
        // Ten a second, three at once.
        let limits = Limits { interval: 100, ahead: 200, ..Limits::default() };
        let mut due = 0;
        let mut opens = |now| match paced(due, now, &limits) {
            Some(next) => {
                due = next;
                true
            }
            None => false,
        };
        assert_eq!([1000, 1000, 1000, 1000].map(&mut opens), [true, true, true, false]);
        assert_eq!([1099, 1100, 1101, 1200].map(&mut opens), [false, true, false, true]);
        assert_eq!(
            [9000, 9000, 9000, 9000].map(&mut opens),
            [true, true, true, false],
            "a rest gives the burst back"
        );
    }
}
