//! Which backend a new flow goes to.
//!
//! `balance` asks [`Tables::pick`] once the record tells of the client. What comes back has a place held at the backend, at the
//! service, and for the client (`occupancy`). In the kernel [`pick`], [`least`] and [`is_member`] are global functions, which the verifier follows once
//! for all callers, with numbers as arguments only.

use lb_common::{
    addr::Port,
    flow::Flow,
    hash,
    occupancy::of_service,
    reason::Reason,
    schedule::{MAX_MEMBERS, Scheduler, backend, weight},
    service::Service,
};

use crate::{occupancy, persistence, tables::Tables};

/// Slots of the ring looked at before the members are gone through: one, unless backends are full.
const TRIES: u32 = 4;
/// How often a place at the best one is tried for, which others may take in between.
const RACES: u32 = 2;

/// What there is to choose from, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ring {
    /// First slot.
    pub base: u32,
    /// Slots.
    pub len: u32,
    /// Members, behind the slots.
    pub members: u32,
    /// How.
    pub scheduler: Scheduler,
    /// The service.
    pub service: u32,
    /// For how long clients keep to their backend, s.
    pub persistence: u32,
    /// By how many bits of their address, of 128.
    pub prefix: u8,
    /// One more than the number of the backend that is chosen only if no other has room (`redispatch`); 0: no such.
    pub avoid: u32,
}

impl Ring {
    /// Of a service.
    #[inline(always)]
    pub const fn of(s: &Service) -> Self {
        Self {
            base: s.ring_base,
            len: s.ring_len,
            members: s.members as u32,
            scheduler: s.scheduler(),
            service: s.id,
            persistence: s.persistence,
            prefix: s.prefix,
            avoid: 0,
        }
    }

    /// As numbers, for a call between functions that are verified apart.
    #[inline(always)]
    pub const fn words(&self) -> [u64; 3] {
        let how = (self.members as u64) << 32 | (self.scheduler as u64) << 40 | (self.prefix as u64) << 48;
        let kept = self.persistence as u64 | (self.avoid as u64) << 32;
        [self.base as u64 | (self.len as u64) << 32, self.service as u64 | how, kept]
    }

    /// From these.
    #[inline(always)]
    pub const fn from_words([slots, how, kept]: [u64; 3]) -> Self {
        Self {
            base: slots as u32,
            len: (slots >> 32) as u32,
            members: (how >> 32) as u32 & 0xff,
            scheduler: Scheduler::from_u8((how >> 40) as u8),
            service: how as u32,
            persistence: kept as u32,
            prefix: (how >> 48) as u8,
            avoid: (kept >> 32) as u32,
        }
    }

    /// Whether a backend is the one to avoid.
    #[inline(always)]
    pub const fn avoids(&self, backend: u32) -> bool {
        backend.wrapping_add(1) == self.avoid
    }

    /// The one that its schedulers pass over. Not the one of priorities: there the first is the first for as long as its checks
    /// pass, and one lost SYN makes no second writer.
    #[inline(always)]
    pub const fn passed_over(&self) -> u32 {
        if matches!(self.scheduler, Scheduler::Fo) { 0 } else { self.avoid }
    }

    /// The slot of the first member.
    #[inline(always)]
    pub const fn first_member(&self) -> u32 {
        self.base.wrapping_add(self.len)
    }
}

/// Chooses the backend for the flow in `slot`, whose client is recorded, and holds a place there and at the service.
#[inline(always)]
pub fn pick<T: Tables>(slot: u32, ring: &Ring, t: &T) -> Result<u32, Reason> {
    let service = of_service(ring.service);
    if !t.occupy(service) {
        return Err(Reason::ServiceFull);
    }
    let picked = match t.flow(slot) {
        Some(f) if !occupancy::hold_client(f, t) => Err(Reason::ClientFull),
        Some(f) => kept_or_scheduled(f, ring, t).inspect_err(|_| occupancy::leave_client(f, t)),
        None => Err(Reason::BackendMissing),
    };
    if picked.is_err() {
        t.leave(service);
    }
    picked
}

#[inline(always)]
fn kept_or_scheduled<T: Tables>(f: &Flow, ring: &Ring, t: &T) -> Result<u32, Reason> {
    if ring.persistence == 0 {
        return scheduled(f, ring, t);
    }
    if let Some(kept) = persistence::recall(f, ring, t) {
        return Ok(kept);
    }
    let picked = scheduled(f, ring, t)?;
    persistence::remember(f, ring, picked, t);
    Ok(picked)
}

#[inline(always)]
fn scheduled<T: Tables>(f: &Flow, ring: &Ring, t: &T) -> Result<u32, Reason> {
    // One call of what compares, whatever leads to it: each would be followed by itself.
    let (by, start) = match ring.scheduler {
        Scheduler::Lc => (By::CONNECTIONS, t.next(ring.service)),
        Scheduler::Wlc => (By::LOAD, t.next(ring.service)),
        Scheduler::Fo => (By::ORDER, 0),
        Scheduler::Twos => match of_two(ring, t) {
            Ok(backend) => return Ok(backend),
            Err(start) => (By::LOAD, start),
        },
        _ => match from_table(f, ring, t)? {
            Drawn::Backend(backend) => return Ok(backend),
            Drawn::Full(at) => (By::ORDER, at),
        },
    };
    let mut races = 0;
    while races < RACES {
        let best = t.least(ring.first_member(), ring.members, by, start, ring.passed_over());
        let Some(backend) = best else { break };
        if t.occupy(backend) {
            return Ok(backend);
        }
        races += 1;
    }
    last_resort(ring, t)
}

/// The one to avoid, when there is no other.
#[inline(always)]
fn last_resort<T: Tables>(ring: &Ring, t: &T) -> Result<u32, Reason> {
    let backend = ring.avoid.wrapping_sub(1);
    if ring.avoid != 0 && t.is_member(ring.first_member(), ring.members, backend) && t.occupy(backend) {
        return Ok(backend);
    }
    Err(Reason::BackendsFull)
}

/// What the table gave.
enum Drawn {
    /// A backend, with a place held there.
    Backend(u32),
    /// Nothing but full ones; the last place drawn.
    Full(u32),
}

/// The next slot of the ring, or that of the flow's hash; when its backend is full, further ones, so that the others share what it
/// cannot take as they share everything.
#[inline(always)]
fn from_table<T: Tables>(f: &Flow, ring: &Ring, t: &T) -> Result<Drawn, Reason> {
    let hash = match ring.scheduler {
        Scheduler::Sh => hash::end(&f.client, Port([0; 2])),
        Scheduler::Dh => hash::end(&f.vip, f.vip_port),
        Scheduler::Mh => hash::flow(&f.forward_key()),
        // At random: the turn of the backend that did not take it is over, and the next ones are those of new connections. (Drawn
        // in turn, of two backends the good one would spend all its turns on what the other leaves.)
        _ => u32::from(f.place) << 16 | u32::from(f.client_port.number()),
    };
    let in_turn = !ring.scheduler.is_hash() && ring.avoid == 0;
    let mut at = 0;
    let mut tries = 0;
    while tries < TRIES {
        at = if in_turn { t.next(ring.service) } else { hash::step(hash, tries) };
        let slot = ring.base.wrapping_add(at % ring.len.max(1));
        let word = t.ring(slot).ok_or(Reason::BackendMissing)?;
        if !ring.avoids(backend(word)) && t.occupy(backend(word)) {
            return Ok(Drawn::Backend(backend(word)));
        }
        tries += 1;
    }
    Ok(Drawn::Full(at))
}

/// The better of two members drawn at random, with a place held there; or where to begin to look at all of them.
#[inline(always)]
fn of_two<T: Tables>(ring: &Ring, t: &T) -> Result<u32, u32> {
    let drawn = hash::step(t.next(ring.service), 0);
    let better = better_of_two(ring.first_member(), ring.members, ring.avoid, drawn, t);
    if better < NEITHER && t.occupy(better as u32) {
        Ok(better as u32)
    } else {
        Err(drawn % ring.members.max(1))
    }
}

/// [`better_of_two`] gives this when neither has room.
const NEITHER: u64 = 1 << 32;

/// The better of the two of `n` members from slot `first` on that a random number draws, but not the one before number `avoid`. A
/// function of its own: what it needs of the stack its caller need not have.
#[inline(never)]
fn better_of_two<T: Tables>(first: u32, n: u32, avoid: u32, drawn: u32, t: &T) -> u64 {
    let one = drawn % n.max(1);
    let other = (one + 1 + (drawn >> 16) % n.wrapping_sub(1).max(1)) % n.max(1);
    let mut best = Best::NONE;
    best.compare(first.wrapping_add(one), By::LOAD, avoid, t);
    best.compare(first.wrapping_add(other), By::LOAD, avoid, t);
    best.backend().map_or(NEITHER, u64::from)
}

/// What members are compared by: masks, since the verifier would follow every step for each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct By {
    /// Of their connections.
    connections: u32,
    /// Of their weights.
    weights: u32,
}

impl By {
    /// Their order: the first that has room.
    pub const ORDER: Self = Self { connections: 0, weights: 0 };
    /// Their connections.
    pub const CONNECTIONS: Self = Self { connections: u32::MAX, weights: 0 };
    /// Their connections for their weight, the new one counted: of two with none the one with the greater weight gets it.
    pub const LOAD: Self = Self { connections: u32::MAX, weights: u32::MAX };

    /// As a number.
    #[inline(always)]
    pub const fn masks(self) -> u64 {
        self.connections as u64 | (self.weights as u64) << 32
    }

    /// From it.
    #[inline(always)]
    pub const fn from_masks(masks: u64) -> Self {
        Self { connections: masks as u32, weights: (masks >> 32) as u32 }
    }
}

/// The best so far.
#[derive(Debug, Clone, Copy)]
struct Best {
    word: u64,
    load: u64,
    /// 0: there is none yet, and any weight is more.
    weight: u64,
}

impl Best {
    const NONE: Self = Self { word: 0, load: 1, weight: 0 };

    /// Takes the backend in a slot if it has room and is better, but not the one before number `avoid`; whether the slot is one.
    #[inline(always)]
    fn compare<T: Tables>(&mut self, slot: u32, by: By, avoid: u32, t: &T) -> bool {
        let Some(word) = t.ring(slot) else { return false };
        let Some(o) = t.occupancy(backend(word)) else { return false };
        let load = (o.open() & u64::from(by.connections)) + 1;
        let avoided = backend(word).wrapping_add(1) == avoid;
        let weight =
            (weight(word) & u64::from(by.weights) | u64::from(!by.weights & 1)) * u64::from(!avoided);
        if !o.is_full() && load * self.weight < self.load * weight {
            *self = Self { word, load, weight };
        }
        true
    }

    #[inline(always)]
    fn backend(&self) -> Option<u32> {
        (self.weight != 0).then_some(backend(self.word))
    }
}

/// Of `members` members from slot `first` on the best that has room; of equals the first, beginning with the one at `start` (which
/// goes round); never the one before number `avoid`. To be called as [`Tables::least`].
#[inline(always)]
pub fn least<T: Tables>(first: u32, members: u32, by: By, start: u32, avoid: u32, t: &T) -> Option<u32> {
    let mut best = Best::NONE;
    let start = start % members.max(1);
    let mut seen = 0;
    while seen < MAX_MEMBERS as u32 && seen < members {
        // A remainder rather than a comparison: of that the verifier would follow both outcomes at each step.
        if !best.compare(first.wrapping_add((start + seen) % members.max(1)), by, avoid, t) {
            break;
        }
        seen += 1;
    }
    best.backend()
}

/// Whether a backend is among the members. To be called as [`Tables::is_member`].
#[inline(always)]
pub fn is_member<T: Tables>(first: u32, members: u32, wanted: u32, t: &T) -> bool {
    let mut at = 0;
    while at < MAX_MEMBERS as u32 && at < members {
        if t.ring(first.wrapping_add(at)).is_some_and(|word| backend(word) == wanted) {
            return true;
        }
        at += 1;
    }
    false
}
