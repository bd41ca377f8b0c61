//! What readings mean: hysteresis of all kinds, and the effect of trackers on a priority.
//!
//! Pure: no clock, no I/O. The tasks of `track` feed the hystereses, the control loop asks [`tracked`].

use std::time::{Duration, Instant};

use crate::config::model::TrackUse;

/// What a tracker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// What it watches is as it should be.
    Good,
    /// It is not.
    Bad,
    /// A file's value.
    Value(i64),
}

impl From<bool> for Reading {
    fn from(good: bool) -> Self {
        if good { Self::Good } else { Self::Bad }
    }
}

/// What a tracker does to a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It adds this to the priority.
    Add(i32),
    /// The router can take no part.
    Fault,
}

/// A result beyond this of a file is a fault, as keepalived has it.
const LOWEST: i64 = -253;

/// What `reading` does to a router that uses its tracker so.
pub fn effect(used: &TrackUse, reading: Reading) -> Effect {
    let weight = i64::from(used.weight);
    match reading {
        Reading::Value(value) if weight == 0 => {
            if (value == 0) == used.reverse {
                Effect::Fault
            } else {
                Effect::Add(0)
            }
        }
        Reading::Value(value) => {
            let value = value.clamp(-LIMIT, LIMIT) * weight;
            let value = if used.reverse { -value } else { value };
            if value < LOWEST { Effect::Fault } else { Effect::Add(value.min(-LOWEST) as i32) }
        }
        Reading::Good | Reading::Bad => {
            let good = (reading == Reading::Good) != used.reverse;
            match (weight, good) {
                (0, false) => Effect::Fault,
                (1.., true) | (..=-1, false) => Effect::Add(weight as i32),
                _ => Effect::Add(0),
            }
        }
    }
}

/// Values beyond this are as good as it: every weight turns it into more than a priority can hold.
const LIMIT: i64 = 1_000;

/// Priority and fault of a router of priority `base` under these effects.
pub fn tracked(base: u8, effects: impl IntoIterator<Item = Effect>) -> (u8, bool) {
    let (mut sum, mut fault) = (0, false);
    for effect in effects {
        match effect {
            Effect::Add(weight) => sum += weight,
            Effect::Fault => fault = true,
        }
    }
    // The owner of the addresses (RFC 9568 §5.2.4) is that whatever else it is.
    let priority = if base == u8::MAX { base } else { (i32::from(base) + sum).clamp(1, 254) as u8 };
    (priority, fault)
}

/// So many passes in a row make it good, so many failures in a row make it bad.
#[derive(Debug, Clone, Copy)]
pub struct Streak {
    good: bool,
    /// No result has come yet: the first decides at once.
    fresh: bool,
    against: u32,
    rise: u32,
    fall: u32,
}

impl Streak {
    /// The first result decides.
    pub fn fresh(rise: u32, fall: u32, good: bool) -> Self {
        Self { good, fresh: true, against: 0, rise, fall }
    }

    /// The first result is one of many.
    pub fn settled(rise: u32, fall: u32, good: bool) -> Self {
        Self { fresh: false, ..Self::fresh(rise, fall, good) }
    }

    /// Takes a result in; whether it is good now.
    pub fn take(&mut self, passed: bool) -> bool {
        if passed == self.good {
            self.against = 0;
        } else {
            self.against += 1;
            let needed = if self.good { self.fall } else { self.rise };
            if self.fresh || self.against >= needed {
                (self.good, self.against) = (passed, 0);
            }
        }
        self.fresh = false;
        self.good
    }

    /// Whether it is good.
    pub fn is_good(&self) -> bool {
        self.good
    }
}

/// A change counts once it has lasted for a while; the first value counts at once.
#[derive(Debug, Clone, Copy)]
pub struct Lasting {
    delay: Duration,
    value: Option<bool>,
    other_since: Option<Instant>,
}

impl Lasting {
    /// Nothing has been seen yet.
    pub fn new(delay: Duration) -> Self {
        Self { delay, value: None, other_since: None }
    }

    /// Takes in what is seen now; what counts.
    pub fn take(&mut self, now: Instant, seen: bool) -> bool {
        let value = *self.value.get_or_insert(seen);
        if seen == value {
            self.other_since = None;
            return value;
        }
        let since = *self.other_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= self.delay {
            (self.value, self.other_since) = (Some(seen), None);
            return seen;
        }
        value
    }
}

/// Enough of many, with a hysteresis; the first count is judged without it.
#[derive(Debug, Clone, Copy)]
pub struct Quorum {
    good: Option<bool>,
    quorum: u32,
    hysteresis: u32,
}

impl Quorum {
    /// `hysteresis` is less than `quorum`.
    pub fn new(quorum: u32, hysteresis: u32) -> Self {
        Self { good: None, quorum, hysteresis }
    }

    /// Whether both judge alike.
    pub fn is_like(&self, other: &Self) -> bool {
        (self.quorum, self.hysteresis) == (other.quorum, other.hysteresis)
    }

    /// Whether a count is enough, without the hysteresis and without being remembered.
    pub fn is_met_by(&self, count: u32) -> bool {
        count >= self.quorum
    }

    /// Takes a count in; whether they are enough.
    pub fn take(&mut self, count: u32) -> bool {
        let limit = match self.good {
            None => self.quorum,
            Some(true) => self.quorum.saturating_sub(self.hysteresis),
            Some(false) => self.quorum.saturating_add(self.hysteresis),
        };
        *self.good.insert(count >= limit)
    }
}

#[cfg(test)]
mod tests;
