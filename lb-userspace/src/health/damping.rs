//! Flap damping: a backend that goes down again and again is held back for a while after it came up.
//!
//! Pure; `pool` keeps one per backend. Each time it goes down adds one to a penalty that halves every
//! [`HALF_LIFE`]; above [`HOLD`] it is held, below [`RELEASE`] it is released.

use std::time::{Duration, Instant};

/// The penalty halves in this time.
pub const HALF_LIFE: Duration = Duration::from_secs(30);
/// More than this and the backend is held: the fourth time down within a short while.
pub const HOLD: f64 = 3.0;
/// Less than this and it is released.
pub const RELEASE: f64 = 1.5;
/// The penalty grows no further, so that nobody is held for more than two half-lives.
const MOST: f64 = 6.0;

/// The penalty of one backend.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Damping {
    penalty: f64,
    at: Option<Instant>,
    held: bool,
}

impl Damping {
    /// It went down.
    pub fn went_down(&mut self, now: Instant) {
        self.penalty = (self.penalty_at(now) + 1.0).min(MOST);
        self.at = Some(now);
        self.held |= self.penalty > HOLD;
    }

    /// How much longer it is held, if it is.
    pub fn held(&mut self, now: Instant) -> Option<Duration> {
        let penalty = self.penalty_at(now);
        self.held &= penalty >= RELEASE;
        self.held.then(|| HALF_LIFE.mul_f64((penalty / RELEASE).log2()))
    }

    fn penalty_at(&self, now: Instant) -> f64 {
        let Some(at) = self.at else { return 0.0 };
        self.penalty * (-(now.saturating_duration_since(at).div_duration_f64(HALF_LIFE))).exp2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fourth_time_down_within_a_short_while_holds_for_under_a_minute() {
        let start = Instant::now();
        let after = |s| start + Duration::from_secs(s);
        let mut d = Damping::default();
        for s in [0, 1, 2] {
            d.went_down(after(s));
            assert_eq!(d.held(after(s)), None, "after {s} s");
        }
        d.went_down(after(3));
        let left = d.held(after(3)).expect("held");
        assert!((35..=45).contains(&left.as_secs()), "{left:?}");
        assert!(d.held(after(30)).is_some());
        assert_eq!(d.held(after(3) + left + Duration::from_secs(1)), None);
        for s in 100..200 {
            d.went_down(after(s));
        }
        assert!(d.held(after(199)).expect("held") <= HALF_LIFE * 2);
    }

    #[test]
    fn going_down_once_a_minute_is_no_flapping() {
        let mut now = Instant::now();
        let mut d = Damping::default();
        for _ in 0..100 {
            d.went_down(now);
            assert_eq!(d.held(now), None);
            now += Duration::from_secs(60);
        }
    }
}
