//! From numbered probes to the time without an answer. No I/O, no clock.
//!
//! A probe is *answered* if its answer came within [`ANSWER_LIMIT`] of its sending, and counts at its sending time then.
//! A blackout is a run of probes that were not answered, and lasts from the sending of the last answered one before it
//! to the sending of the first answered one after it, less one period: what a client that asks all the time would call
//! the time without service. With no unanswered probe there is none, however irregular the sending was.

use std::time::Duration;

/// Between two probes of one protocol.
pub const PERIOD: Duration = Duration::from_millis(10);
/// A later answer is none. Less than the kernel's first retransmission, of a SYN after 1 s or of data after 200 ms: so
/// a TCP probe that is answered was answered to the very packets that were sent at its time.
pub const ANSWER_LIMIT: Duration = Duration::from_millis(190);

/// One probe. Times are counted from the prober's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// When it was sent (for TCP: when its SYN was).
    pub sent: Duration,
    /// When its answer came, if one did. A refusal (RST, ICMP error) is not an answer.
    pub answered: Option<Duration>,
}

impl Probe {
    /// Whether it counts as answered.
    pub fn is_answered(&self) -> bool {
        self.answered.is_some_and(|at| at.saturating_sub(self.sent) <= ANSWER_LIMIT)
    }
}

/// The longest blackout that began in `from..to`, by the sending of its first unanswered probe. One that has no end in
/// the record lasts as far as the record can tell: to its last probe that had its time to be answered at `end`.
pub fn longest(probes: &[Probe], from: Duration, to: Duration, end: Duration) -> Duration {
    let mut longest = Duration::ZERO;
    let mut last_answered = None;
    // Sending times: of the last answered probe, and of the first unanswered one after it.
    let mut open: Option<(Duration, Duration)> = None;
    let judged = probes.iter().filter(|probe| probe.is_answered() || probe.sent + ANSWER_LIMIT <= end);
    let counts = |first: Duration| (from..to).contains(&first);
    for probe in judged {
        match (probe.is_answered(), open) {
            (true, Some((before, first))) => {
                if counts(first) {
                    longest = longest.max(span(before, probe.sent));
                }
                open = None;
            }
            (false, None) => open = Some((last_answered.unwrap_or(probe.sent), probe.sent)),
            (false, Some((before, first))) if counts(first) => {
                longest = longest.max(span(before, probe.sent + PERIOD));
            }
            _ => {}
        }
        if probe.is_answered() {
            last_answered = Some(probe.sent);
        }
    }
    longest
}

fn span(before: Duration, after: Duration) -> Duration {
    after.saturating_sub(before).saturating_sub(PERIOD)
}

/// Whether all probes sent in the `length` before `now` that had their time are answered, and there were some.
pub fn is_served(probes: &[Probe], now: Duration, length: Duration) -> bool {
    let Some(from) = now.checked_sub(length) else { return false };
    let recent = || probes.iter().rev().take_while(|probe| probe.sent >= from);
    recent().any(Probe::is_answered)
        // The newest ones may still be under way.
        && recent().all(|probe| probe.is_answered() || (probe.answered.is_none() && probe.sent + PERIOD >= now))
}

/// The longest that an answered probe waited for its answer.
pub fn latest(probes: &[Probe]) -> Duration {
    let waits = probes.iter().filter(|probe| probe.is_answered());
    waits.filter_map(|probe| Some(probe.answered? - probe.sent)).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// A probe each 10 ms: `.` answered after 1 ms, `x` never, `o` after 150 ms, `L` after 300 ms.
    fn record(of: &str) -> Vec<Probe> {
        let probe = |(i, what): (usize, char)| {
            let sent = PERIOD * i as u32;
            let after = match what {
                '.' => Some(ms(1)),
                'o' => Some(ms(150)),
                'L' => Some(ms(300)),
                _ => None,
            };
            Probe { sent, answered: after.map(|after| sent + after) }
        };
        of.chars().enumerate().map(probe).collect()
    }

    fn whole(of: &str) -> Duration {
        longest(&record(of), Duration::ZERO, ms(100_000), ms(100_000))
    }

    #[test]
    fn a_blackout_is_the_span_between_answered_probes_less_one_period() {
        for (of, expected, why) in [
            ("..........", 0, "all answered"),
            ("...x......", 10, "one lost"),
            ("...xxx....", 30, "three lost"),
            ("..xx..xxx.", 30, "the longer of two"),
            ("..xxx..xx.", 30, "the longer of two, the other way round"),
            ("...o......", 0, "late, but within the limit, counts at its sending"),
            ("...L......", 10, "too late is no answer"),
            ("...xLx....", 30, "too late between lost ones does not end the blackout"),
            ("...xxoxx..", 20, "late within the limit ends it"),
            ("......xxxx", 40, "no end: as far as the record goes"),
            ("xxx.......", 20, "no beginning: from the first probe"),
            ("xxxx", 30, "nothing ever"),
            ("", 0, "no probes"),
        ] {
            assert_eq!(whole(of), ms(expected), "{of}: {why}");
        }
    }

    #[test]
    fn only_blackouts_that_begin_in_the_window_count() {
        let probes = record("..xxxx....xx....x..");
        let at = |from, to| longest(&probes, ms(from), ms(to), ms(100_000));
        assert_eq!(at(0, 200), ms(40));
        assert_eq!(at(0, 20), ms(0), "the first lost one was sent at 20 ms");
        assert_eq!(at(20, 21), ms(40), "it counts whole though it ends after the window");
        assert_eq!(at(21, 200), ms(20));
        assert_eq!(at(110, 200), ms(10));
    }

    #[test]
    fn an_irregular_sender_makes_no_blackout_but_lengthens_one() {
        let answered = |sent| Probe { sent: ms(sent), answered: Some(ms(sent)) };
        let lost = |sent| Probe { sent: ms(sent), answered: None };
        let of = |probes: &[Probe]| longest(probes, ms(0), ms(9999), ms(9999));
        assert_eq!(of(&[answered(0), answered(500), answered(510)]), ms(0));
        assert_eq!(of(&[answered(0), lost(40), answered(50)]), ms(40), "who did not ask cannot tell");
    }

    #[test]
    fn probes_that_had_not_their_time_yet_are_not_judged() {
        let probes = record("...xx");
        assert_eq!(longest(&probes, ms(0), ms(999), ms(41)), ms(0));
        assert_eq!(longest(&probes, ms(0), ms(999), ms(40) + ANSWER_LIMIT), ms(20));
    }

    #[test]
    fn service_is_back_once_every_recent_probe_is_answered_but_those_under_way() {
        for (of, expected) in [
            (".....", true),
            ("....x", true),
            ("...xx", false),
            ("x....", true),
            (".x...", false),
            ("..L..", false),
            ("xxxxx", false),
        ] {
            assert_eq!(is_served(&record(of), ms(41), ms(31)), expected, "{of}");
        }
        assert!(!is_served(&[], ms(41), ms(31)));
        assert!(!is_served(&record("..."), ms(21), ms(31)), "too young to tell");
    }

    #[test]
    fn the_latest_answer_is_of_those_that_count() {
        assert_eq!(latest(&record("..o.L.x")), ms(150));
        assert_eq!(latest(&[]), ms(0));
    }
}
