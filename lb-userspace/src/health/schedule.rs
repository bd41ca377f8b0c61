//! The state machine of one backend: results of checks in, state changes and the time of the next check out.
//!
//! Pure: no clock, no I/O; `task` drives it. Rules: no traffic before the first pass; that first pass is enough; a
//! failure before it means down; later `fall` failures in a row take it down and `rise` passes in a row bring it back.
//!
//! ```text
//!              pass                    fall × failure
//!  Unchecked ────────────────▶ Up ─────────────────────▶ Down
//!      │                        ▲      rise × pass        │ ▲
//!      │                        └─────────────────────────┘ │
//!      └────────────────────────────────────────────────────┘
//!                            failure
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
    /// No traffic.
    Down,
}

impl State {
    /// The word of status and log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unchecked => "unchecked",
            Self::Up => "up",
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
    /// The failure that took it down; `None` on the way up.
    pub cause: Option<Failure>,
    /// When.
    pub at: Instant,
}

/// One backend.
#[derive(Debug, Clone)]
pub struct Backend {
    state: State,
    cause: Option<Failure>,
    /// Results in a row that speak against the present state.
    against: u32,
    rise: u32,
    fall: u32,
    interval: Duration,
    jitter: Jitter,
}

impl Backend {
    /// An unchecked backend. `seed` sets its jitter apart from that of others.
    pub fn new(check: &Check, seed: u64) -> Self {
        Self {
            state: State::Unchecked,
            cause: None,
            against: 0,
            rise: check.rise.max(1),
            fall: check.fall.max(1),
            interval: check.interval,
            jitter: Jitter::new(seed),
        }
    }

    /// The present state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Why it is down; or, while it is up, why the last check failed.
    pub fn cause(&self) -> Option<&Failure> {
        self.cause.as_ref()
    }

    /// Takes the result of a check that ended `now`.
    pub fn handle_result(&mut self, now: Instant, result: Result<Duration, Failure>) -> Option<Transition> {
        let to = match (self.state, &result) {
            (State::Up, Ok(_)) => {
                self.cause = None;
                self.against = 0;
                return None;
            }
            (State::Down, Err(_)) => {
                self.cause = result.err();
                self.against = 0;
                return None;
            }
            (State::Unchecked, Ok(_)) => State::Up,
            (State::Unchecked, Err(_)) => State::Down,
            (State::Up, Err(_)) => {
                self.cause = result.as_ref().err().cloned();
                self.against += 1;
                if self.against < self.fall {
                    return None;
                }
                State::Down
            }
            (State::Down, Ok(_)) => {
                self.against += 1;
                if self.against < self.rise {
                    return None;
                }
                State::Up
            }
        };
        let from = std::mem::replace(&mut self.state, to);
        self.against = 0;
        self.cause = result.err();
        Some(Transition { from, to, cause: self.cause.clone(), at: now })
    }

    /// When to check next: one interval, give or take 5 %, after the last check was due; at once if that is over.
    pub fn next_check(&mut self, last_due: Instant, now: Instant) -> Instant {
        let permille = 950 + self.jitter.below(101) as u32;
        (last_due + self.interval * permille / 1000).max(now)
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
mod tests {
    use super::*;
    use crate::config::model::CheckKind;

    fn check(rise: u32, fall: u32) -> Check {
        let (interval, timeout) = (Duration::from_secs(2), Duration::from_secs(1));
        Check { kind: CheckKind::Tcp, interval, timeout, rise, fall }
    }

    /// Feeds `+` (pass) and `-` (failure), returns the first letter of the state after each.
    fn states(rise: u32, fall: u32, results: &str) -> String {
        let now = Instant::now();
        let mut backend = Backend::new(&check(rise, fall), 1);
        let mut feed = |result| {
            let result = if result == '+' { Ok(Duration::ZERO) } else { Err(Failure::Refused) };
            let before = backend.state();
            let transition = backend.handle_result(now, result);
            assert_eq!(transition.map(|t| t.to), (before != backend.state()).then_some(backend.state()));
            backend.state().as_str().chars().next().unwrap()
        };
        results.chars().map(&mut feed).collect()
    }

    #[test]
    fn rise_and_fall_count_results_in_a_row() {
        for (rise, fall, results, expected, why) in [
            (2, 3, "+", "u", "the first pass after the start is enough"),
            (2, 3, "-", "d", "a first failure is down at once"),
            (2, 3, "-+", "dd", "after a failure, `rise` counts"),
            (2, 3, "-++", "ddu", "`rise` passes bring it up"),
            (2, 3, "+--", "uuu", "two failures of three leave it up"),
            (2, 3, "+---", "uuud", "`fall` failures take it down"),
            (2, 3, "+--+--", "uuuuuu", "a pass starts the count again"),
            (2, 3, "-+-+-+", "dddddd", "so does a failure while down"),
            (2, 3, "+---++---", "uuudduuud", "and round again"),
            (1, 1, "+-+-", "udud", "one of each"),
        ] {
            assert_eq!(states(rise, fall, results), expected, "{why}: rise {rise}, fall {fall}, {results}");
        }
    }

    #[test]
    fn nothing_is_up_before_its_first_pass() {
        let backend = Backend::new(&check(1, 1), 1);
        assert_eq!((backend.state(), backend.cause()), (State::Unchecked, None));
    }

    #[test]
    fn the_cause_of_a_down_backend_is_its_latest_failure() {
        let now = Instant::now();
        let mut backend = Backend::new(&check(2, 1), 1);
        backend.handle_result(now, Ok(Duration::ZERO));
        let transition = backend.handle_result(now, Err(Failure::Refused)).unwrap();
        assert_eq!(transition.cause, Some(Failure::Refused));
        backend.handle_result(now, Err(Failure::Full));
        assert_eq!(backend.cause(), Some(&Failure::Full));
        backend.handle_result(now, Ok(Duration::ZERO));
        assert_eq!(backend.cause(), Some(&Failure::Full), "one pass of two does not excuse it");
        backend.handle_result(now, Ok(Duration::ZERO));
        assert_eq!((backend.state(), backend.cause()), (State::Up, None));
    }

    #[test]
    fn first_checks_are_spread_over_a_fifth_of_a_second() {
        for total in [1, 2, 3, 7, 1000] {
            let delays: Vec<_> = (0..total).map(|i| first_check(i, total)).collect();
            assert_eq!(delays[0], Duration::ZERO);
            assert!(delays.iter().all(|d| *d < Duration::from_millis(200)));
            assert!(delays.is_sorted());
        }
    }

    #[test]
    fn later_checks_come_an_interval_apart_give_or_take_five_percent() {
        let start = Instant::now();
        let mut backend = Backend::new(&check(1, 1), 7);
        let gaps: Vec<_> = (0..1000).map(|_| backend.next_check(start, start) - start).collect();
        assert!(gaps.iter().all(|g| (1_900..=2_100).contains(&g.as_millis())));
        assert!(gaps.iter().min() < gaps.iter().max(), "no jitter at all");
    }

    #[test]
    fn a_late_check_is_made_at_once_and_not_made_up_for() {
        let due = Instant::now();
        let now = due + Duration::from_secs(60);
        let mut backend = Backend::new(&check(1, 1), 7);
        assert_eq!(backend.next_check(due, now), now);
        assert!(backend.next_check(now, now) > now, "one late check, not thirty");
    }
}
