//! Source ports towards a backend: a pool for each (source, backend, backend's port, protocol), a bit for each port.
//!
//! A pool is a tree of words, so that the next free port is found in a bounded number of reads however many are taken: 1,024
//! leaves with a bit for each port, 16 words with a bit for each leaf, one word with a bit for each of these. A set bit of a
//! leaf is a free port; a set bit above says that there may be one below. Programs and the daemon change words by atomic
//! operations only. Who takes the last bit of a word clears the one above, looks again, and sets it again if meanwhile a port
//! came back; so a free port is never hidden for longer than that takes, and a bit above that promises too much is cleared by
//! whom it misleads.
//!
//! The tree is not what keeps flows apart: their keys are. A port that is marked free and is not is found out when the key is
//! entered, and stays marked as taken then.

use crate::{
    addr::{Addr, Port},
    settings::SnatPorts,
};

/// Index of the first of the words above the leaves.
const MIDDLE: u32 = 1;
/// Index of the first leaf.
const LEAVES: u32 = MIDDLE + 16;
/// Words of a pool.
pub const WORDS: usize = LEAVES as usize + 1024;

/// The free ports of a pool.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortBits {
    /// The tree: its top, its middle, its leaves.
    pub words: [u64; WORDS],
}
layout!(PortBits = 8328: words);

/// Whose ports a pool holds. An element of zeros has none.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PoolKey {
    /// The source that the backend sees.
    pub source: Addr,
    /// The backend.
    pub backend: Addr,
    /// Its port; 0: all of its ports together.
    pub port: Port,
    /// IP protocol; 0: the pool is nobody's.
    pub proto: u8,
    /// Zero.
    pub pad: [u8; 5],
}
layout!(PoolKey = 40: source, backend, port, proto, pad);

/// Sources of one backend's connections.
pub const MAX_SOURCES: usize = 8;

/// The pools that a backend's new flows take ports from.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sources {
    /// How many.
    pub count: u32,
    /// Zero.
    pub pad: u32,
    /// The first `count` are pools, from 1 on.
    pub pools: [u16; MAX_SOURCES],
}
layout!(Sources = 24: count, pad, pools);

/// The words of one pool, as whoever has it accesses them.
pub trait Words {
    /// A word.
    fn load(&self, i: u32) -> u64;
    /// Sets bits of a word in one step and gives what it was.
    fn set(&self, i: u32, bits: u64) -> u64;
    /// Likewise clears bits.
    fn clear(&self, i: u32, bits: u64) -> u64;
}

/// Searches for one port. More than two are needed (the second goes on at the range's beginning) only when another processor
/// takes the very port, or has just taken a word's last one.
const TRIES: u32 = 8;

/// [`search`] found none from there on.
const NONE: u32 = 1 << 16;
/// [`search`] was misled by a bit, which it has cleared.
const AGAIN: u32 = NONE + 1;

/// Takes the first free port from `start` on, beyond the last port from zero on.
#[inline(always)]
pub fn claim<W: Words>(w: &W, start: u16) -> Option<u16> {
    let mut from = u32::from(start);
    let mut tries = 0;
    while tries < TRIES {
        let port = search(w, from);
        if port < NONE {
            let (leaf, bit) = (port >> 6 & 1023, 1 << (port & 63));
            let was = w.clear(LEAVES + leaf, bit);
            if was == bit {
                emptied(w, leaf);
            }
            if was & bit != 0 {
                return Some(port as u16);
            }
        } else if port == NONE {
            if from == 0 {
                return None;
            }
            from = 0;
        }
        tries += 1;
    }
    None
}

/// Takes this port; whether it was marked free.
pub fn take<W: Words>(w: &W, port: u16) -> bool {
    let (leaf, bit) = (u32::from(port) >> 6, 1 << (port & 63));
    let was = w.clear(LEAVES + leaf, bit);
    if was == bit {
        emptied(w, leaf);
    }
    was & bit != 0
}

/// Gives a port back.
#[inline(always)]
pub fn release<W: Words>(w: &W, port: u16) {
    let leaf = u32::from(port) >> 6 & 1023;
    if w.set(LEAVES + leaf, 1 << (port & 63)) == 0 {
        mark(w, leaf);
    }
}

/// The first port from `from` on that is marked free, or [`NONE`], or [`AGAIN`].
#[inline(always)]
fn search<W: Words>(w: &W, from: u32) -> u32 {
    let mut leaf = from >> 6 & 1023;
    let mut free = w.load(LEAVES + leaf) & u64::MAX << (from & 63);
    if free == 0 {
        let mut group = leaf >> 6 & 15;
        let mut leaves = w.load(MIDDLE + group) & beyond(leaf & 63);
        if leaves == 0 {
            let groups = w.load(0) & beyond(group);
            if groups == 0 {
                return NONE;
            }
            group = lowest(groups) & 15;
            leaves = w.load(MIDDLE + group);
            if leaves == 0 {
                hide(w, group);
                return AGAIN;
            }
        }
        leaf = group << 6 | lowest(leaves) & 63;
        free = w.load(LEAVES + leaf);
        if free == 0 {
            emptied(w, leaf);
            return AGAIN;
        }
    }
    leaf << 6 | lowest(free) & 63
}

/// The bits above bit `i`, `i < 64`.
#[inline(always)]
const fn beyond(i: u32) -> u64 {
    (u64::MAX << i) << 1
}

/// Clears the bit above a leaf that holds no free port.
#[inline(always)]
fn emptied<W: Words>(w: &W, leaf: u32) {
    let (group, bit) = (leaf >> 6 & 15, 1 << (leaf & 63));
    let was = w.clear(MIDDLE + group, bit);
    if w.load(LEAVES + leaf) != 0 {
        mark(w, leaf);
    } else if was == bit {
        hide(w, group);
    }
}

/// Clears the bit above a word of the middle that is zero.
#[inline(always)]
fn hide<W: Words>(w: &W, group: u32) {
    w.clear(0, 1 << group);
    if w.load(MIDDLE + group) != 0 {
        w.set(0, 1 << group);
    }
}

/// Sets the bits above a leaf.
#[inline(always)]
fn mark<W: Words>(w: &W, leaf: u32) {
    let group = leaf >> 6 & 15;
    if w.set(MIDDLE + group, 1 << (leaf & 63)) == 0 {
        w.set(0, 1 << group);
    }
}

/// Number of the lowest set bit of a word that is not zero. The BPF back end would make a table of `trailing_zeros`, in a
/// section of its own: it is kept from recognizing what this is.
#[inline(always)]
fn lowest(word: u64) -> u32 {
    let below = core::hint::black_box(word & word.wrapping_neg()) - 1;
    let pairs = below - (below >> 1 & 0x5555_5555_5555_5555);
    let nibbles = (pairs & 0x3333_3333_3333_3333) + (pairs >> 2 & 0x3333_3333_3333_3333);
    let bytes = (nibbles + (nibbles >> 4)) & 0x0f0f_0f0f_0f0f_0f0f;
    (bytes.wrapping_mul(0x0101_0101_0101_0101) >> 56) as u32
}

/// Makes a pool's free ports those of `ports` but the ones that `in_use` has a bit for (in the order of ports), while others
/// take ports from it and give them back. A port that this is mistaken about is found out like any other.
pub fn renew<W: Words>(w: &W, ports: &SnatPorts, in_use: &[u64; 1024]) {
    for (leaf, used) in (0..).zip(in_use) {
        let range = (0..64u32).filter(|bit| ports.contains((leaf << 6 | bit) as u16));
        let range = range.fold(0u64, |mask, bit| mask | 1 << bit);
        let free = w.load(LEAVES + leaf);
        w.clear(LEAVES + leaf, free & !range);
        w.set(LEAVES + leaf, range & !used & !free);
        if w.load(LEAVES + leaf) == 0 {
            emptied(w, leaf);
        } else {
            mark(w, leaf);
        }
    }
}

/// How many ports are free.
pub fn free<W: Words>(w: &W) -> u32 {
    (LEAVES..WORDS as u32).map(|i| w.load(i).count_ones()).sum()
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
    use std::collections::HashSet;

    use super::*;

    struct Pool(Vec<AtomicU64>);

    impl Pool {
        fn new(ports: &SnatPorts) -> Self {
            let pool = Self((0..WORDS).map(|_| AtomicU64::new(0)).collect());
            renew(&pool, ports, &[0; 1024]);
            pool
        }
    }

    impl Words for Pool {
        fn load(&self, i: u32) -> u64 {
            self.0[i as usize].load(SeqCst)
        }

        fn set(&self, i: u32, bits: u64) -> u64 {
            self.0[i as usize].fetch_or(bits, SeqCst)
        }

        fn clear(&self, i: u32, bits: u64) -> u64 {
            self.0[i as usize].fetch_and(!bits, SeqCst)
        }
    }

    const ALL: SnatPorts = SnatPorts { low_first: 1, low_last: 65_535, high_first: 1, high_last: 0 };
    const AROUND: SnatPorts = SnatPorts::around(32_768, 60_999);

    #[test]
    fn every_port_of_the_range_is_given_out_once_and_none_beside_it() {
        for ports in [ALL, AROUND] {
            let pool = Pool::new(&ports);
            assert_eq!(free(&pool), ports.len());
            let mut seen = HashSet::new();
            for i in 0..ports.len() {
                // Starts all over the place, also where no port is.
                let port = claim(&pool, (i.wrapping_mul(0x9e37_79b9) >> 16) as u16).expect("a port is left");
                assert!(ports.contains(port) && seen.insert(port), "{port}");
            }
            assert_eq!(seen.len() as u32, ports.len());
            assert_eq!(claim(&pool, 5), None, "all are taken");
            assert_eq!(pool.load(0), 0);
            for port in [65_535, 1024, 40_000].into_iter().filter(|p| ports.contains(*p)) {
                release(&pool, port);
                assert_eq!(claim(&pool, 12_345), Some(port), "the one that came back");
            }
        }
    }

    #[test]
    fn the_search_goes_on_at_the_beginning() {
        let pool = Pool::new(&SnatPorts { low_first: 2000, low_last: 2003, high_first: 1, high_last: 0 });
        let taken: Vec<_> = (0..5).map(|_| claim(&pool, 2002)).collect();
        assert_eq!(taken, [Some(2002), Some(2003), Some(2000), Some(2001), None]);
    }

    #[test]
    fn processors_that_take_and_give_back_at_once_lose_no_port_and_never_share_one() {
        let ports = SnatPorts { low_first: 4000, low_last: 4199, high_first: 1, high_last: 0 };
        let pool = Pool::new(&ports);
        let owners: Vec<AtomicU64> = (0..65_536).map(|_| AtomicU64::new(0)).collect();
        std::thread::scope(|s| {
            for thread in 1..=4u64 {
                let (pool, owners) = (&pool, &owners);
                s.spawn(move || {
                    let mut mine = Vec::new();
                    for i in 0..40_000u64 {
                        if i % 100 < 50 {
                            let Some(port) = claim(pool, (i * 7919 * thread) as u16) else { continue };
                            assert_eq!(owners[usize::from(port)].swap(thread, SeqCst), 0, "{port} is shared");
                            mine.push(port);
                        } else if let Some(port) = mine.pop() {
                            owners[usize::from(port)].store(0, SeqCst);
                            release(pool, port);
                        }
                    }
                    for port in mine {
                        owners[usize::from(port)].store(0, SeqCst);
                        release(pool, port);
                    }
                });
            }
        });
        assert_eq!(free(&pool), ports.len());
        assert_eq!((0..ports.len()).filter(|_| claim(&pool, 0).is_some()).count(), 200, "none is hidden");
    }

    #[test]
    fn another_range_and_what_is_in_use_are_taken_over() {
        let pool = Pool::new(&ALL);
        claim(&pool, 3000);
        claim(&pool, 5000);
        let narrow = SnatPorts { low_first: 3000, low_last: 3063, high_first: 5000, high_last: 5000 };
        let mut in_use = [0; 1024];
        in_use[3001 >> 6] |= 1 << (3001 & 63);
        renew(&pool, &narrow, &in_use);
        // 3000 and 5000 were lost by who took them; 3001 is one that somebody took behind the pool's back, and is left to be found
        // out.
        assert_eq!(free(&pool), 65);
        assert_eq!(claim(&pool, 5001), Some(3000));
    }

    #[test]
    fn the_lowest_bit_is_found_in_any_word() {
        for i in 0..64 {
            assert_eq!(lowest(1 << i), i);
            assert_eq!(lowest(u64::MAX << i), i);
        }
    }
}
