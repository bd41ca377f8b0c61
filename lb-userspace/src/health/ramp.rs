//! Slow start: a backend that came back gets its full share of new connections only after a while.
//!
//! Pure; `pool` asks it. In steps, because each one is a new ring.

use std::time::{Duration, Instant};

/// Percent of its weight that a backend has, which came up at `up_since` (`None`: with the daemon).
pub fn percent(up_since: Option<Instant>, now: Instant, slow_start: Duration) -> u8 {
    let Some(since) = up_since.filter(|_| !slow_start.is_zero()) else { return 100 };
    let part = now.saturating_duration_since(since).div_duration_f64(slow_start);
    (STEPS * (1.0 + (part * STEPS).floor())).min(100.0) as u8
}

/// Ten of ten percent.
const STEPS: f64 = 10.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_from_a_tenth_to_the_whole() {
        let (start, slow) = (Instant::now(), Duration::from_secs(20));
        let at = |s| percent(Some(start), start + Duration::from_secs(s), slow);
        assert_eq!([at(0), at(1), at(2), at(10), at(17), at(18), at(1000)], [10, 10, 20, 60, 90, 100, 100]);
    }

    #[test]
    fn without_slow_start_or_at_the_daemons_own_start_it_is_whole_at_once() {
        let now = Instant::now();
        assert_eq!(percent(Some(now), now, Duration::ZERO), 100);
        assert_eq!(percent(None, now, Duration::from_secs(20)), 100);
    }
}
