//! The state machine of one backend: results of checks in, state changes and the time of the next check out.
//!
//! Pure: no clock, no I/O; `task` drives it. Rules: no traffic before the first pass; that first pass is enough; a
//! failure before it means down; later `fall` failures in a row take it down and `rise` passes in a row bring it back.
//! What a server says of itself (full, drain, maintenance, down) counts at once. While results speak against the
//! present state, checks follow each other faster.
//!
//! ```text
//!                    pass           fall × failure
//!      unchecked ──────────▶ up ─────────────────────▶ down
//!          │                 ▲ │    rise × pass          │ ▲
//!          │                 │ │◀────────────────────────┘ │
//!          │      rise × pass│ │ says so                   │ fall × failure
//!          │                 │ ▼                           │
//!          ├──────▶ full · drain · maint ──────────────────┤
//!          │ says so         ▲──────────── says so ────────┤
//!          └───────────────────────────────────────────────┘ failure
//! ```

use std::time::{Duration, Instant};

use super::Failure;
use crate::config::model::Check;

/// Whether a backend gets new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Not checked since the start; no traffic.
    Unchecked,
    /// Gets traffic.
    Up,
    /// Alive without room: no new connections, the existing ones stay.
    Full,
    /// Shall be left: no new connections, the existing ones stay.
    Drain,
    /// Taken out by its operator: no new connections, the existing ones stay.
    Maint,
    /// No traffic.
    Down,
}

impl State {
    /// The word of status and log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unchecked => "unchecked",
            Self::Up => "up",
            Self::Full => "full",
            Self::Drain => "drain",
            Self::Maint => "maint",
            Self::Down => "down",
        }
    }
}

/// A change of state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// Before.
    pub from: State,
    /// From now on.
    pub to: State,
    /// The failure that caused it; `None` on the way up.
    pub cause: Option<Failure>,
    /// When.
    pub at: Instant,
}

/// One backend.
#[derive(Debug, Clone)]
pub struct Backend {
    state: State,
    cause: Option<Failure>,
    /// The state that the latest results speak for, if it is another one, and how many of them in a row.
    against: Option<(State, u32)>,
    rise: u32,
    fall: u32,
    interval: Duration,
    fast_interval: Duration,
    /// Checks that follow each other faster without a result that would make them.
    hurried: u32,
    jitter: Jitter,
}

impl Backend {
    /// An unchecked backend. `seed` sets its jitter apart from that of others.
    pub fn new(check: &Check, seed: u64) -> Self {
        Self {
            state: State::Unchecked,
            cause: None,
            against: None,
            hurried: 0,
            rise: check.rise.max(1),
            fall: check.fall.max(1),
            interval: check.interval,
            fast_interval: check.fast_interval,
            jitter: Jitter::new(seed),
        }
    }

    /// The same, found in this state by the checks of a former configuration.
    #[must_use]
    pub fn in_state(self, state: State) -> Self {
        Self { state, ..self }
    }

    /// The present state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Why it is not up; or, while it is up, why the last check failed.
    pub fn cause(&self) -> Option<&Failure> {
        self.cause.as_ref()
    }

    /// Takes the result of a check that ended `now`.
    pub fn handle_result(&mut self, now: Instant, result: Result<Duration, Failure>) -> Option<Transition> {
        self.hurried = self.hurried.saturating_sub(1);
        let to = result.as_ref().map_or_else(Failure::leads_to, |_| State::Up);
        let failure = result.err();
        if to == self.state {
            self.cause = failure;
            self.against = None;
            return None;
        }
        let so_far = self.against.filter(|(state, _)| *state == to).map_or(0, |(_, n)| n);
        if so_far + 1 < self.needed(to, failure.as_ref()) {
            self.against = Some((to, so_far + 1));
            // A first pass does not excuse what took it down.
            if failure.is_some() {
                self.cause = failure;
            }
            return None;
        }
        let from = std::mem::replace(&mut self.state, to);
        self.against = None;
        self.cause = failure;
        Some(Transition { from, to, cause: self.cause.clone(), at: now })
    }

    /// Results in a row that lead from the present state to another one.
    fn needed(&self, to: State, failure: Option<&Failure>) -> u32 {
        match (self.state, to) {
            (State::Unchecked, _) => 1,
            (_, State::Up) => self.rise,
            _ if failure.is_some_and(Failure::is_final) => 1,
            _ => self.fall,
        }
    }

    /// Something else speaks against the present state: the next checks follow each other faster, as many as could change it.
    pub fn hurry(&mut self) {
        self.hurried = self.fall.max(self.rise);
    }

    /// When to check next: one interval, give or take 5 %, after the last check was due; at once if that is over.
    pub fn next_check(&mut self, last_due: Instant, now: Instant) -> Instant {
        let permille = 950 + self.jitter.below(101) as u32;
        let hurries = self.against.is_some() || self.hurried > 0;
        let interval = if hurries { self.fast_interval } else { self.interval };
        (last_due + interval * permille / 1000).max(now)
    }
}

/// Delay of the first check of backend `index` of `total` after the start: spread evenly, the first at once.
pub fn first_check(index: usize, total: usize) -> Duration {
    FIRST_SPREAD * u32::try_from(index).unwrap_or(u32::MAX) / u32::try_from(total.max(1)).unwrap_or(u32::MAX)
}

/// All first checks begin within this time.
const FIRST_SPREAD: Duration = Duration::from_millis(200);

/// xorshift64*: enough to keep checks from falling into step.
#[derive(Debug, Clone)]
struct Jitter(u64);

impl Jitter {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}

#[cfg(test)]
mod tests;
