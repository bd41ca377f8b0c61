//! Passive checks: what the packet programs count of connections that a backend leaves unanswered or refuses, and when it is
//! ejected for them.
//!
//! Checks ask now and then, clients all the time; and a backend may answer the check and not its clients (a full accept queue, a
//! firewall's rule). Pure; `pool` keeps one [`Watch`] per backend, gives it the counters at every tick and asks it who is out. An
//! ejection is over when its time is, and checks pass; each further one within a few minutes is longer (Envoy's outlier
//! detection has the same rule).

use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

use crate::config::model::Passive;

/// No ejection is longer, unless the first one is to be.
const LONGEST: Duration = Duration::from_secs(300);
/// One ejection is forgotten for each time of this length without another.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Counters of a backend since its map was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// New connections.
    pub flows: u64,
    /// Of them unanswered.
    pub unanswered: u64,
    /// Of them refused.
    pub refused: u64,
}

/// What was seen within the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// What it counts.
    pub of: Counts,
    /// Within so long.
    pub window: Duration,
}

/// What passive checks know of one backend.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    /// Counters as they were, the oldest just outside of the window.
    samples: VecDeque<(Instant, Counts)>,
    /// When it was last found to be suspect.
    suspected: Option<Instant>,
    ejected: Option<Ejection>,
    /// Ejections that are not forgotten.
    times: u32,
    /// When the last one was over, or one was last forgotten.
    rested: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Ejection {
    until: Instant,
    tally: Tally,
    /// Checks in a row that have passed since it began.
    passes: u32,
}

impl Counts {
    /// Not taken.
    fn missed(&self) -> u64 {
        self.unanswered + self.refused
    }

    /// What has come since; `None` if the counters have begun anew meanwhile.
    fn since(&self, before: &Self) -> Option<Self> {
        Some(Self {
            flows: self.flows.checked_sub(before.flows)?,
            unanswered: self.unanswered.checked_sub(before.unanswered)?,
            refused: self.refused.checked_sub(before.refused)?,
        })
    }
}

impl Tally {
    /// Whether it is more than the rules allow.
    fn is_too_much(&self, rules: &Passive) -> bool {
        let missed = self.of.missed();
        // What is found out now may have begun before the window.
        let flows = self.of.flows.max(missed);
        missed >= u64::from(rules.after) && missed * 100 >= flows * u64::from(rules.share)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { flows, unanswered, refused } = self.of;
        let how = match (unanswered, refused) {
            (_, 0) => "unanswered",
            (0, _) => "refused",
            _ => "unanswered or refused",
        };
        let missed = unanswered + refused;
        write!(f, "passive: {missed} of {} connections {how} in {:?}", flows.max(missed), self.window)
    }
}

impl Watch {
    /// Takes in the counters at `now`. What there is against the backend, once a window.
    pub fn count(&mut self, counts: Counts, now: Instant, rules: &Passive) -> Option<Tally> {
        if self.samples.back().is_some_and(|(_, last)| counts.since(last).is_none()) {
            self.samples.clear();
        }
        self.samples.push_back((now, counts));
        let is_over = |at: Instant| now.saturating_duration_since(at) >= rules.window;
        while self.samples.get(1).is_some_and(|(at, _)| is_over(*at)) {
            self.samples.pop_front();
        }
        let (_, first) = self.samples.front()?;
        let tally = Tally { of: counts.since(first)?, window: rules.window };
        if self.suspected.is_some_and(|at| !is_over(at)) || !tally.is_too_much(rules) {
            return None;
        }
        self.suspected = Some(now);
        Some(tally)
    }

    /// Ejects it.
    pub fn eject(&mut self, tally: Tally, now: Instant, rules: &Passive) {
        self.forget(now);
        self.times += 1;
        let longest = rules.ejection.max(LONGEST);
        let until = now + rules.ejection.saturating_mul(self.times).min(longest);
        self.ejected = Some(Ejection { until, tally, passes: 0 });
    }

    /// Takes in whether a check passed.
    pub fn checked(&mut self, passed: bool) {
        if let Some(ejection) = &mut self.ejected {
            ejection.passes = if passed { ejection.passes + 1 } else { 0 };
        }
    }

    /// What it is ejected for at `now`, if it is. So many checks in a row have to pass before it is let in again.
    pub fn ejected(&mut self, now: Instant, rise: u32) -> Option<Tally> {
        let ejection = self.ejected?;
        if now < ejection.until || ejection.passes < rise {
            return Some(ejection.tally);
        }
        self.ejected = None;
        // What it did not take before is paid for.
        self.samples.clear();
        self.rested = Some(now);
        None
    }

    /// Whether it was ejected when that was last asked for.
    pub fn is_ejected(&self) -> bool {
        self.ejected.is_some()
    }

    fn forget(&mut self, now: Instant) {
        let Some(rested) = self.rested else { return };
        let forgotten = now.saturating_duration_since(rested).as_secs() / FORGOTTEN.as_secs();
        self.times = self.times.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(250);

    struct World {
        watch: Watch,
        counts: Counts,
        now: Instant,
        rules: Passive,
    }

    impl World {
        fn new() -> Self {
            let mut world = Self {
                watch: Watch::default(),
                counts: Counts { flows: 1000, unanswered: 500, refused: 70 },
                now: Instant::now(),
                rules: Passive::default(),
            };
            assert_eq!(world.tick(0, 0, 0), None, "what was counted before is over");
            world
        }

        fn tick(&mut self, flows: u64, unanswered: u64, refused: u64) -> Option<Tally> {
            self.now += TICK;
            self.counts.flows += flows;
            self.counts.unanswered += unanswered;
            self.counts.refused += refused;
            self.watch.count(self.counts, self.now, &self.rules)
        }

        fn eject(&mut self) {
            let tally = Tally { of: Counts::default(), window: self.rules.window };
            self.watch.eject(tally, self.now, &self.rules);
        }

        /// For how long it is out although every check passes.
        fn is_out_for(&mut self) -> Duration {
            let from = self.now;
            self.watch.checked(true);
            while self.watch.ejected(self.now, 1).is_some() {
                self.now += TICK;
            }
            self.now - from
        }
    }

    #[test]
    fn few_misses_or_a_small_share_of_them_are_no_reason() {
        let mut w = World::new();
        assert_eq!(w.tick(2, 0, 2), None, "two of two");
        assert_eq!(w.tick(5, 1, 0), None, "three, but of seven");
        assert!(w.tick(1, 1, 0).is_some(), "four of eight");
    }

    #[test]
    fn a_backend_that_takes_no_connection_is_found_out_by_the_third() {
        let mut w = World::new();
        assert_eq!(w.tick(1, 0, 1), None);
        assert_eq!(w.tick(1, 0, 1), None);
        let tally = w.tick(1, 0, 1).expect("three of three");
        assert_eq!(tally.to_string(), "passive: 3 of 3 connections refused in 1s");
        assert_eq!(w.tick(1, 0, 1), None, "once a window");
    }

    #[test]
    fn connections_of_before_the_window_that_are_found_unanswered_in_it_count() {
        let mut w = World::new();
        assert_eq!(w.tick(4, 0, 0), None);
        for _ in 0..4 {
            assert_eq!(w.tick(0, 0, 0), None);
        }
        let tally = w.tick(1, 4, 0).expect("none of four answered");
        assert_eq!(tally.to_string(), "passive: 4 of 4 connections unanswered in 1s");
    }

    #[test]
    fn misses_that_are_spread_over_more_than_the_window_are_no_reason() {
        let mut w = World::new();
        for _ in 0..10 {
            assert_eq!(w.tick(1, 1, 0), None);
            assert_eq!(w.tick(0, 0, 0), None);
        }
        assert!(w.tick(2, 1, 1).is_some(), "two before, and these");
    }

    #[test]
    fn counters_that_begin_anew_begin_the_window_anew() {
        let mut w = World::new();
        w.counts = Counts::default();
        assert_eq!(w.tick(3, 3, 0), None);
        assert_eq!(w.tick(2, 2, 0), None);
        assert!(w.tick(1, 1, 0).is_some());
    }

    #[test]
    fn an_ejection_ends_when_its_time_is_over_and_checks_pass() {
        let mut w = World::new();
        w.eject();
        w.now += Duration::from_secs(11);
        w.watch.checked(true);
        assert!(w.watch.ejected(w.now, 2).is_some(), "one pass of two");
        w.watch.checked(false);
        w.watch.checked(true);
        assert!(w.watch.ejected(w.now, 2).is_some(), "not in a row");
        w.watch.checked(true);
        assert_eq!(w.watch.ejected(w.now, 2), None);
    }

    #[test]
    fn each_further_ejection_is_longer_until_it_is_forgotten() {
        let mut w = World::new();
        for times in 1..=4 {
            w.eject();
            assert_eq!(w.is_out_for(), Duration::from_secs(10 * times));
        }
        w.now += Duration::from_secs(125);
        w.eject();
        assert_eq!(w.is_out_for(), Duration::from_secs(30), "two of four are forgotten");
        for _ in 0..40 {
            w.eject();
            assert!(w.is_out_for() <= LONGEST);
        }
    }
}
