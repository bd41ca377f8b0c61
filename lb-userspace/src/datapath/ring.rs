//! A service's table of backends as the programs read it: in turns for the round robins, by hash for `sh`, `dh` and `mh`, each
//! backend once for the schedulers that compare.

use std::net::{IpAddr, SocketAddr};

use lb_common::{
    maps::{DEFAULT_RING_SLOTS, MAX_RING},
    schedule::{MAX_MEMBERS, Scheduler},
};

use crate::config::model::Service;

/// A backend that takes new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taker {
    /// Its index.
    pub id: u32,
    /// Its weight; one of 0 takes none.
    pub weight: u16,
    /// What it is known by on every node ([`seed`]).
    pub seed: u64,
}

/// The table of a service. `hash_slots` is the size of one that is entered by a hash: a prime.
pub fn table(scheduler: Scheduler, takers: &[Taker], hash_slots: u32) -> Vec<u32> {
    let takers: Vec<_> = takers.iter().filter(|t| t.weight > 0).copied().collect();
    match scheduler {
        Scheduler::Rr | Scheduler::Lc | Scheduler::Wlc | Scheduler::Fo | Scheduler::Twos => {
            takers.iter().map(|t| t.id).collect()
        }
        Scheduler::Wrr => in_turns(&takers),
        Scheduler::Sh | Scheduler::Dh | Scheduler::Mh => maglev(&takers, hash_slots),
    }
}

/// Slots that all rings of a configuration may take, so that two sets of them fit; at least what a small one is given, lest an
/// adopted map be too small.
pub fn slots(services: &[Service]) -> u32 {
    let wanted: usize = services.iter().map(most).sum();
    u32::try_from(2 * wanted.max(DEFAULT_RING_SLOTS / 2)).unwrap_or(u32::MAX)
}

/// Slots that a service may take, members included: with any weights that an operator or an agent may give, in tenths while a
/// backend starts slowly.
fn most(s: &Service) -> usize {
    const MOST_WEIGHT: usize = 256;
    let backends = s.most_backends();
    let tenths = if s.slow_start.is_zero() { 1 } else { 10 };
    let ring = match s.scheduler {
        Scheduler::Rr => (backends * tenths).min(MAX_RING),
        Scheduler::Wrr => (backends * MOST_WEIGHT * tenths).min(MAX_RING),
        Scheduler::Sh | Scheduler::Dh | Scheduler::Mh => s.hash_table_size as usize,
        Scheduler::Lc | Scheduler::Wlc | Scheduler::Fo | Scheduler::Twos => backends,
    };
    ring + backends.min(MAX_MEMBERS)
}

/// Smooth weighted round robin: each backend appears in proportion to its weight and as evenly spread as the numbers allow. A
/// total over [`MAX_RING`] is scaled down; nobody with a weight is lost as long as there are no more backends than slots.
fn in_turns(takers: &[Taker]) -> Vec<u32> {
    let mut weighted: Vec<(u32, u32)> = takers.iter().map(|t| (t.id, u32::from(t.weight))).collect();
    weighted.truncate(MAX_RING);
    reduce(&mut weighted);
    let total: u32 = weighted.iter().map(|(_, w)| w).sum();
    let mut credit = vec![0i64; weighted.len()];
    let mut ring = Vec::with_capacity(total as usize);
    for _ in 0..total {
        for (c, (_, w)) in credit.iter_mut().zip(&weighted) {
            *c += i64::from(*w);
        }
        // The first of the highest credits, so that equal weights keep the order of the file.
        let best = (0..weighted.len()).rev().max_by_key(|i| credit[*i]).unwrap_or(0);
        credit[best] -= i64::from(total);
        ring.push(weighted[best].0);
    }
    ring
}

/// Divides by the common divisor, then scales down what is still too long.
fn reduce(weighted: &mut [(u32, u32)]) {
    let g = weighted.iter().fold(0, |g, (_, w)| gcd(g, *w)).max(1);
    weighted.iter_mut().for_each(|(_, w)| *w /= g);
    let total: u64 = weighted.iter().map(|(_, w)| u64::from(*w)).sum();
    if total <= MAX_RING as u64 {
        return;
    }
    let room = (MAX_RING - weighted.len()) as u64;
    for (_, w) in weighted.iter_mut() {
        *w = 1 + (u64::from(*w - 1) * room / total) as u32;
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Maglev's table (Eisenbud et al., NSDI 2016, section 3.4): each backend claims slots in an order of its own, by turns, so that
/// one that goes leaves nearly all others' slots as they are. A backend of half the weight has its turn every other time. Nothing
/// depends on the order of the backends: nodes with differing files agree.
fn maglev(takers: &[Taker], slots: u32) -> Vec<u32> {
    const FREE: u32 = u32::MAX;
    let Some(heaviest) = takers.iter().map(|t| t.weight).max() else { return Vec::new() };
    let mut claims: Vec<_> = takers.iter().map(|t| Claim::new(t, slots)).collect();
    claims.sort_by_key(|c| (c.taker.seed, c.taker.id));
    let mut table = vec![FREE; slots as usize];
    let mut left = table.len();
    while left > 0 {
        for claim in &mut claims {
            claim.credit += u32::from(claim.taker.weight);
            if claim.credit < u32::from(heaviest) || left == 0 {
                continue;
            }
            claim.credit -= u32::from(heaviest);
            while table[claim.next as usize] != FREE {
                claim.advance(slots);
            }
            table[claim.next as usize] = claim.taker.id;
            left -= 1;
        }
    }
    table
}

/// A backend's order of slots: from an offset on in steps of its own, which come by every slot since their number is a prime.
struct Claim {
    taker: Taker,
    credit: u32,
    next: u32,
    step: u32,
}

impl Claim {
    fn new(taker: &Taker, slots: u32) -> Self {
        let (a, b) = (mix(taker.seed), mix(!taker.seed));
        let next = (a % u64::from(slots)) as u32;
        let step = 1 + (b % u64::from(slots.saturating_sub(1).max(1))) as u32;
        Self { taker: *taker, credit: 0, next, step }
    }

    fn advance(&mut self, slots: u32) {
        self.next = ((u64::from(self.next) + u64::from(self.step)) % u64::from(slots)) as u32;
    }
}

/// What a backend is known by on every node: its address and port.
pub fn seed(addr: SocketAddr) -> u64 {
    // FNV-1a.
    let eat = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
    let start = 0xcbf2_9ce4_8422_2325;
    let h = match addr.ip() {
        IpAddr::V4(a) => a.octets().iter().fold(start, eat),
        IpAddr::V6(a) => a.octets().iter().fold(start, eat),
    };
    addr.port().to_be_bytes().iter().fold(h, eat)
}

const fn mix(mut h: u64) -> u64 {
    h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

/// Whether a number is a prime.
pub fn is_prime(n: u32) -> bool {
    n > 1 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}

#[cfg(test)]
mod tests;
