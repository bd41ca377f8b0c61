//! From what became of the connections at each fault to rows. No I/O, no clock.

use std::collections::BTreeMap;

use super::{Fault, NAME, Options, scene::Stack};
use crate::bench::{
    row::{OURS, Row, median},
    scene::Profile,
};

/// An application's worst wait at a hand-over from one living node to another, ms.
const PLANNED_MS: f64 = 20.0;
/// Of a thousand connections, so many may be lost where replication loses datagrams.
const LOST_OF_A_THOUSAND: f64 = 1.0;

/// What became of the connections at a fault, or at a failback.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Those there were.
    pub of: u32,
    /// Those that were lost.
    pub lost: u32,
    /// Sessions among them.
    pub sessions_lost: u32,
    /// Each active survivor's longest wait, ms.
    pub stalls_ms: Vec<f64>,
    /// Why connections were lost.
    pub why: BTreeMap<String, u32>,
}

/// A fault and its failback.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Whose nodes.
    pub stack: Stack,
    /// What was done.
    pub fault: Fault,
    /// Connections younger than a second when it was done.
    pub young: u32,
    /// At the fault, and at the failback.
    pub phases: [Counts; 2],
}

impl Counts {
    fn stall_median(&self) -> Option<f64> {
        median(&self.stalls_ms)
    }

    fn stall_worst(&self) -> Option<f64> {
        self.stalls_ms.iter().copied().max_by(f64::total_cmp)
    }

    fn line(&self) -> String {
        let mut text = format!("{} of {} survive", self.of - self.lost.min(self.of), self.of);
        if let (Some(median), Some(worst)) = (self.stall_median(), self.stall_worst()) {
            text += &format!(", stall {median:.0} ms, worst {worst:.0} ms");
        }
        for (why, count) in &self.why {
            text += &format!(", {count}: {why}");
        }
        text
    }
}

impl Outcome {
    /// For the console.
    pub fn line(&self) -> String {
        let stack = match self.stack {
            Stack::Viplb => OURS,
            Stack::Peer(peer) => peer.words(),
        };
        let [fault, back] = self.fault.words();
        let [at_fault, at_failback] = &self.phases;
        format!("{stack}: {fault}: {}; {back}: {}", at_fault.line(), at_failback.line())
    }
}

/// What is measured of a phase.
#[derive(Clone, Copy)]
enum Figure {
    Lost,
    Sessions,
    Median,
    Worst,
}

impl Figure {
    fn of(self, counts: &Counts) -> Option<f64> {
        match self {
            Self::Lost => Some(counts.lost.into()),
            Self::Sessions => Some(counts.sessions_lost.into()),
            Self::Median => counts.stall_median(),
            Self::Worst => counts.stall_worst(),
        }
    }

    /// Of several rounds, the worst counts, rather than the median.
    fn is_count(self) -> bool {
        matches!(self, Self::Lost | Self::Sessions)
    }

    /// Of a program's rounds.
    fn over(self, values: &[f64]) -> Option<f64> {
        if self.is_count() { values.iter().copied().max_by(f64::total_cmp) } else { median(values) }
    }

    fn words(self, options: &Options) -> (String, &'static str) {
        match self {
            Self::Lost => (format!("lost of {}, worst round", options.connections), "connections"),
            Self::Sessions => (format!("lost of {}, worst round", options.sessions), "sessions"),
            Self::Median => ("longest wait, median of connections".to_owned(), "ms"),
            Self::Worst => ("longest wait, worst connection".to_owned(), "ms"),
        }
    }

    fn target(self, options: &Options, planned: bool, phase: usize) -> Option<f64> {
        match self {
            Self::Lost if options.loss > 0 => {
                Some((f64::from(options.connections) * LOST_OF_A_THOUSAND / 1000.0).floor())
            }
            Self::Lost | Self::Sessions => Some(0.0),
            Self::Median if planned => Some(PLANNED_MS),
            // At a healed partition both have been owners; after nothing there is nothing to wait for.
            Self::Median if phase == 1 => None,
            Self::Median => Some(match options.profile {
                Profile::Default => 500.0,
                Profile::Fast => 250.0,
            }),
            Self::Worst => None,
        }
    }
}

/// The rows: each figure of each fault and failback.
pub fn rows(outcomes: &[Outcome], options: &Options, stacks: &[Stack]) -> Vec<Row> {
    let mut rows = Vec::new();
    for fault in options.faults() {
        let of = |stack: Stack| outcomes.iter().filter(move |o| o.stack == stack && o.fault == fault);
        for phase in 0..2 {
            for figure in [Figure::Lost, Figure::Sessions, Figure::Median, Figure::Worst] {
                if options.sessions == 0 && matches!(figure, Figure::Sessions) {
                    continue;
                }
                let (words, unit) = figure.words(options);
                let words = format!("{}: {words}", fault.words()[phase]);
                let values =
                    |stack| -> Vec<f64> { of(stack).filter_map(|o| figure.of(&o.phases[phase])).collect() };
                let ours = values(Stack::Viplb);
                let mut row = Row::median(NAME, words, unit, &ours);
                row.value = figure.over(&ours).unwrap_or(f64::NAN);
                for stack in stacks {
                    let Stack::Peer(peer) = stack else { continue };
                    let theirs = values(*stack);
                    row = row.beside(peer.words(), &theirs);
                    row.peers.extend(figure.over(&theirs).map(|value| (peer.words().to_owned(), value)));
                }
                rows.push(match figure.target(options, fault.is_planned()[phase], phase) {
                    Some(target) => row.at_most(target),
                    None => row,
                });
            }
        }
        let young: Vec<f64> = of(Stack::Viplb).map(|o| o.young.into()).collect();
        let words = format!("{}: younger than 1 s before", fault.words()[0]);
        rows.push(Row::median(NAME, words, "connections", &young));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::survive::peers::Peer;

    fn options(loss: u8) -> Options {
        Options {
            connections: 1000,
            sessions: 8,
            rounds: 2,
            only: vec![Fault::Kill, Fault::Stop],
            profile: Profile::Default,
            loss,
            join: None,
            adopt: false,
            strict: false,
            no_peers: false,
        }
    }

    fn outcome(stack: Stack, fault: Fault, lost: u32, stalls_ms: &[f64]) -> Outcome {
        let counts = Counts { of: 1000, lost, stalls_ms: stalls_ms.to_vec(), ..Counts::default() };
        Outcome { stack, fault, young: 250, phases: [counts, Counts { of: 1000, ..Counts::default() }] }
    }

    fn row<'r>(rows: &'r [Row], figure: &str) -> &'r Row {
        rows.iter().find(|row| row.figure == figure).unwrap_or_else(|| panic!("{figure}: {rows:#?}"))
    }

    #[test]
    fn losses_are_those_of_the_worst_round_and_waits_are_medians_beside_the_peers() {
        let peer = Stack::Peer(Peer::Conntrackd);
        let outcomes = [
            outcome(Stack::Viplb, Fault::Kill, 0, &[400.0, 420.0, 9000.0]),
            outcome(Stack::Viplb, Fault::Kill, 1, &[600.0]),
            outcome(peer, Fault::Kill, 30, &[6000.0]),
            outcome(peer, Fault::Kill, 12, &[6000.0]),
            outcome(Stack::Viplb, Fault::Stop, 0, &[1.0, 21.0, 22.0]),
        ];
        let rows = rows(&outcomes, &options(0), &[Stack::Viplb, peer]);
        let lost = row(&rows, "killed (SIGKILL): lost of 1000, worst round");
        assert_eq!(
            (lost.value, lost.runs, lost.ok, lost.peers[Peer::Conntrackd.words()]),
            (1.0, 2, false, 30.0)
        );
        assert_eq!(lost.spread[OURS], [0.0, 1.0]);
        let wait = row(&rows, "killed (SIGKILL): longest wait, median of connections");
        assert_eq!((wait.value, wait.target, wait.ok), (510.0, Some(500.0), false));
        assert_eq!(
            row(&rows, "killed (SIGKILL): longest wait, worst connection").spread[OURS],
            [600.0, 9000.0]
        );
        let planned = row(&rows, "stopped (SIGTERM): longest wait, median of connections");
        assert_eq!((planned.value, planned.target), (21.0, Some(20.0)));
        assert!(
            !row(&rows, "restarted: longest wait, median of connections").ok,
            "what was not measured is not met"
        );
    }

    #[test]
    fn one_connection_of_a_thousand_may_be_lost_where_datagrams_are() {
        let outcomes = [
            outcome(Stack::Viplb, Fault::Kill, 1, &[1.0]),
            outcome(Stack::Viplb, Fault::Kill, 0, &[1.0]),
            outcome(Stack::Viplb, Fault::Stop, 2, &[1.0]),
        ];
        let lossy = rows(&outcomes, &options(5), &[Stack::Viplb]);
        let lost = row(&lossy, "killed (SIGKILL): lost of 1000, worst round");
        assert_eq!((lost.target, lost.ok), (Some(1.0), true));
        assert!(!row(&lossy, "stopped (SIGTERM): lost of 1000, worst round").ok);
    }
}
