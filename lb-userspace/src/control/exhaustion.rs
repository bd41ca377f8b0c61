//! Services that have run out of source ports or of room for flows: a line in the log when it begins, and one when it is over.
//!
//! The control loop shows each service's counters at every round. No I/O here, and no clock.

use std::time::{Duration, Instant};

use crate::api::snapshot::Service;

/// Without a refusal for this long it is over. Nothing is said more often than that.
const CALM: Duration = Duration::from_secs(10);

/// What can run out, how it is told, and where its counter is.
type Kind = (&'static str, &'static str, fn(&Service) -> u64);
const KINDS: [Kind; 2] = [
    (
        "no source port is free towards a backend",
        "widen `snat_ports` of [node], or name more addresses in the service's `snat`",
        |s| s.ports_exhausted,
    ),
    ("the flow table is full", "raise `flows` of [node]; it is taken in at a proper stop and start", |s| {
        s.table_full
    }),
];

/// One counter of one service.
#[derive(Debug, Clone, Copy, Default)]
struct Watch {
    seen: Option<u64>,
    /// While it lasts: since when, the counter then, and when it last grew.
    since: Option<(Instant, u64, Instant)>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Exhaustion {
    services: Vec<[Watch; 2]>,
}

/// Something to be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// It has begun.
    Begun(String),
    /// It is over.
    Over(String),
}

impl Exhaustion {
    /// What there is to say of service `i`.
    pub fn look(&mut self, i: usize, service: &Service, now: Instant) -> Vec<Word> {
        if self.services.len() <= i {
            self.services.resize(i + 1, Default::default());
        }
        let watches = self.services[i].iter_mut().zip(KINDS);
        watches.filter_map(|(watch, kind)| watch.look(service, kind, now)).collect()
    }
}

impl Watch {
    fn look(&mut self, service: &Service, (what, remedy, counter): Kind, now: Instant) -> Option<Word> {
        let count = counter(service);
        // What an adopted counter says is over.
        let before = self.seen.replace(count).unwrap_or(count);
        let name = &service.name;
        match &mut self.since {
            None if count > before => {
                self.since = Some((now, before, now));
                Some(Word::Begun(format!("service {name}: {what}: new connections are refused; {remedy}")))
            }
            None => None,
            Some((.., grown)) if count > before => {
                *grown = now;
                None
            }
            Some((since, first, grown)) if now.saturating_duration_since(*grown) >= CALM => {
                let refused = count.saturating_sub(*first);
                let lasted = grown.saturating_duration_since(*since).as_secs_f64();
                self.since = None;
                let over =
                    format!("service {name}: over: {what} ({refused} connections refused in {lasted:.1} s)");
                Some(Word::Over(over))
            }
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_runs_out_is_told_of_once_and_again_when_it_is_over() {
        let mut e = Exhaustion::default();
        let start = Instant::now();
        let mut at = |s: u64, ports_exhausted, table_full| {
            let service = Service { name: "db".into(), ports_exhausted, table_full, ..Service::default() };
            e.look(2, &service, start + Duration::from_secs(s))
        };
        assert_eq!(at(0, 7, 0), [], "what an adopted map has counted is over");
        let begun = at(1, 8, 0);
        assert!(
            matches!(&begun[..], [Word::Begun(text)] if text.contains("db") && text.contains("`snat`")),
            "{begun:?}"
        );
        assert_eq!(at(5, 100, 0), []);
        assert_eq!(at(14, 100, 0), []);
        let full = at(14, 100, 1);
        assert!(matches!(&full[..], [Word::Begun(text)] if text.contains("flow table")), "{full:?}");
        let over = at(15, 100, 1);
        assert!(
            matches!(&over[..], [Word::Over(text)] if text.contains("(93 connections refused in 4.0 s)")),
            "{over:?}"
        );
    }
}
