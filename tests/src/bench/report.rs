//! From the outcomes of the failover bench's cycles to its rows. No I/O.

use std::{fmt::Write as _, time::Duration};

use super::{
    arp::ArpRecord,
    event::Event,
    failover::NAME,
    prober::Protocol,
    row::Row,
    scene::{Product, Profile, Scene},
};

/// A client that waits longer than this after a healed partition was forgotten.
const HEALED_LIMIT: Duration = Duration::from_secs(1);

/// The blackout of each protocol, none for one that was not probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blackouts(pub [Option<Duration>; 3]);

impl Blackouts {
    /// Of one protocol.
    pub fn of(&self, protocol: Protocol) -> Option<Duration> {
        self.0[protocol as usize]
    }

    /// The longest of them: what a client of all three had.
    pub fn worst(&self) -> Duration {
        self.0.into_iter().flatten().max().unwrap_or_default()
    }
}

/// What the ARP watch saw of a frozen owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arp {
    /// Questions asked, from before the freeze on.
    pub samples: usize,
    /// Those that two nodes answered.
    pub two_answers: usize,
    /// The first of them.
    pub first_two: Option<String>,
    /// Bursts of gratuitous ARPs after the resume, by whatever node.
    pub bursts: usize,
    /// The frames in them.
    pub announcements: usize,
}

impl Arp {
    /// Of a record in which the node was resumed at `resumed`.
    pub fn of(record: &ArpRecord, resumed: Duration) -> Self {
        Arp {
            samples: record.samples(),
            two_answers: record.two_answers(Duration::ZERO),
            first_two: record.first_two(Duration::ZERO),
            bursts: record.bursts(resumed),
            announcements: record.announcements(resumed),
        }
    }
}

/// One cycle.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Whose nodes.
    pub product: Product,
    /// With which parameters.
    pub profile: Profile,
    /// What was done.
    pub event: Event,
    /// The event's blackouts and its undoing's; none if the nodes did not come back to order.
    pub figures: Option<[Blackouts; 2]>,
    /// Of a freeze.
    pub arp: Option<Arp>,
    /// The latest answer that still counted as one.
    pub latest: Duration,
    /// How late the prober itself came at worst.
    pub own_lateness: Duration,
}

impl Outcome {
    /// Of a cycle that did not come to its end.
    pub fn failed(scene: &Scene, event: Event) -> Self {
        let (product, profile) = (scene.product, scene.profile);
        let (latest, own_lateness) = (Duration::ZERO, Duration::ZERO);
        Outcome { product, profile, event, figures: None, arp: None, latest, own_lateness }
    }

    /// For the progress: what was done and what it cost.
    pub fn line(&self) -> String {
        let mut text = format!("{} at {:?}", self.product.word(), self.profile.advert_int(self.product));
        let Some(figures) = &self.figures else { return text + ": not measured" };
        for (words, blackouts) in self.event.words().into_iter().zip(figures) {
            let _ = write!(text, "  {words} {:.0} ms", ms(blackouts.worst()));
            for (protocol, length) in Protocol::ALL.into_iter().zip(blackouts.0) {
                let length = length.map_or_else(|| "-".to_owned(), |length| format!("{:.0}", ms(length)));
                let _ = write!(text, " {} {length}", protocol.word());
            }
        }
        if let Some(arp) = &self.arp {
            let _ = write!(text, "  two answers {} of {}", arp.two_answers, arp.samples);
            let _ = arp.first_two.as_ref().map(|first| write!(text, " ({first})"));
            let _ = write!(text, ", GARPs after the resume {} in {} bursts", arp.announcements, arp.bursts);
        }
        text
    }
}

/// Whole milliseconds: the resolution is that of the probes.
fn ms(length: Duration) -> f64 {
    (length.as_secs_f64() * 1000.0).round()
}

/// Outcomes of one profile, asked by product.
struct Of<'o> {
    outcomes: &'o [Outcome],
    profile: Profile,
    peer: Option<&'o str>,
}

impl<'o> Of<'o> {
    fn each<T: 'o>(
        &self,
        product: Product,
        pick: impl Fn(&'o Outcome) -> Option<T> + 'o,
    ) -> impl Iterator<Item = T> + 'o {
        let profile = self.profile;
        let of = move |outcome: &&Outcome| outcome.product == product && outcome.profile == profile;
        self.outcomes.iter().filter(of).filter_map(pick)
    }

    /// A median row beside the peer's.
    fn median(&self, figure: &str, pick: impl Fn(&Outcome) -> Option<f64> + Copy + 'o) -> Row {
        let values = |product| self.each(product, pick).collect::<Vec<_>>();
        let row = Row::median(NAME, self.named(figure), "ms", &values(Product::Viplb));
        match self.peer {
            Some(peer) => row.beside(peer, &values(Product::Keepalived)),
            None => row,
        }
    }

    /// A row that adds up over the runs, beside the peer's.
    fn total(&self, figure: &str, unit: &str, pick: impl Fn(&Outcome) -> Option<usize> + Copy + 'o) -> Row {
        let sum = |product| self.each(product, pick).fold((0, 0), |(sum, runs), n| (sum + n, runs + 1));
        let (ours, runs) = sum(Product::Viplb);
        let row = Row::sum(NAME, self.named(figure), unit, ours as f64, runs);
        match self.peer {
            Some(peer) => row.beside_sum(peer, sum(Product::Keepalived).0 as f64),
            None => row,
        }
    }

    /// A row of the highest number of all runs, beside the peer's.
    fn most(&self, figure: &str, unit: &str, pick: impl Fn(&Outcome) -> Option<usize> + Copy + 'o) -> Row {
        let most = |product| self.each(product, pick).max().map(|most| most as f64);
        let runs = self.each(Product::Viplb, pick).count();
        let ours = most(Product::Viplb).unwrap_or(f64::NAN);
        let row = Row::sum(NAME, self.named(figure), unit, ours, runs);
        match (self.peer, most(Product::Keepalived)) {
            (Some(peer), Some(theirs)) => row.beside_sum(peer, theirs),
            _ => row,
        }
    }

    fn named(&self, figure: &str) -> String {
        format!("{}: {figure}", self.profile.words())
    }
}

/// The rows of the bench: per profile each event and its undoing, then by protocol, then what else was counted.
pub fn rows(outcomes: &[Outcome], profiles: &[Profile], events: &[Event], peer: Option<&str>) -> Vec<Row> {
    let mut rows = Vec::new();
    for profile in profiles {
        let of = Of { outcomes, profile: *profile, peer };
        for (undone, event) in events.iter().flat_map(|event| [(0, *event), (1, *event)]) {
            let worst = move |outcome: &Outcome| figure(outcome, event, undone).map(|b| ms(b.worst()));
            let target = event.targets_ms(*profile)[undone];
            rows.push(of.median(event.words()[undone], worst).at_most(target));
        }
        rows.extend(counted(&of, events));
        for (undone, event) in events.iter().flat_map(|event| [(0, *event), (1, *event)]) {
            for protocol in Protocol::ALL {
                let one = move |outcome: &Outcome| figure(outcome, event, undone)?.of(protocol).map(ms);
                rows.push(of.median(&format!("{}, {}", event.words()[undone], protocol.word()), one));
            }
        }
        rows.push(of.median("latest answer that counted", |outcome| Some(ms(outcome.latest))));
        rows.push(of.median("lateness of the prober itself", |outcome| Some(ms(outcome.own_lateness))));
    }
    rows
}

fn figure(outcome: &Outcome, event: Event, undone: usize) -> Option<&Blackouts> {
    (outcome.event == event).then_some(outcome.figures.as_ref()?).map(|figures| &figures[undone])
}

fn counted(of: &Of<'_>, events: &[Event]) -> Vec<Row> {
    let mut rows = Vec::new();
    if events.contains(&Event::Freeze) {
        let two = |outcome: &Outcome| outcome.arp.as_ref().map(|arp| arp.two_answers);
        let row = of.total("frozen and resumed, ARP requests with two answers", "samples", two);
        rows.push(row.at_most(0.0));
        let bursts = |outcome: &Outcome| outcome.arp.as_ref().map(|arp| arp.bursts);
        rows.push(of.most("GARP bursts after the resume, at most", "bursts", bursts).at_most(1.0));
        let frames = |outcome: &Outcome| outcome.arp.as_ref().map(|arp| arp.announcements);
        rows.push(of.most("GARPs after the resume, at most", "frames", frames));
    }
    if events.contains(&Event::Partition) {
        let forgotten = |outcome: &Outcome| {
            let healed = figure(outcome, Event::Partition, 1)?.worst();
            Some(usize::from(healed > HEALED_LIMIT))
        };
        let row = of.total("partitions healed, client without service for more than 1 s", "times", forgotten);
        rows.push(row.at_most(0.0));
    }
    let disorder = |outcome: &Outcome| Some(usize::from(outcome.figures.is_none()));
    rows.push(of.total("cycles that did not end in order", "times", disorder).at_most(0.0));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(product: Product, event: Event, fault_ms: [u64; 3], healed_ms: u64) -> Outcome {
        let blackouts = |ms: [u64; 3]| Blackouts(ms.map(|ms| Some(Duration::from_millis(ms))));
        Outcome {
            product,
            profile: Profile::Default,
            event,
            figures: Some([blackouts(fault_ms), blackouts([healed_ms; 3])]),
            arp: None,
            latest: Duration::ZERO,
            own_lateness: Duration::ZERO,
        }
    }

    fn row<'r>(rows: &'r [Row], figure: &str) -> &'r Row {
        let named = format!("1 s: {figure}");
        rows.iter().find(|row| row.figure == named).unwrap_or_else(|| panic!("{named}: {rows:#?}"))
    }

    #[test]
    fn a_row_is_the_median_of_the_worst_protocols_beside_the_peers() {
        let (ours, theirs) = (Product::Viplb, Product::Keepalived);
        let outcomes = [
            outcome(ours, Event::Stop, [0, 10, 0], 0),
            outcome(ours, Event::Stop, [30, 0, 0], 0),
            outcome(ours, Event::Stop, [0, 0, 20], 0),
            outcome(theirs, Event::Stop, [610, 600, 620], 0),
            outcome(ours, Event::Kill, [400, 400, 501], 0),
        ];
        let rows = rows(&outcomes, &[Profile::Default], &[Event::Stop, Event::Kill], Some("other"));
        let stop = row(&rows, "stopped (SIGTERM)");
        assert_eq!((stop.value, stop.runs, stop.target, stop.ok), (20.0, 3, Some(20.0), true));
        assert_eq!(stop.spread["viplb"], [10.0, 30.0]);
        assert_eq!((stop.peers["other"], stop.spread["other"]), (620.0, [620.0, 620.0]));
        assert_eq!(row(&rows, "stopped (SIGTERM), udp").value, 0.0);
        assert!(!row(&rows, "killed (SIGKILL)").ok);
        assert!(row(&rows, "failback after the start").ok);
        assert!(!row(&rows, "killed (SIGKILL)").peers.contains_key("other"), "not measured, not shown");
    }

    #[test]
    fn partitions_frozen_owners_and_disorder_are_counted() {
        let mut frozen = outcome(Product::Viplb, Event::Freeze, [0; 3], 0);
        frozen.arp = Some(Arp { samples: 9, two_answers: 2, first_two: None, bursts: 1, announcements: 5 });
        let mut again = frozen.clone();
        again.arp = Some(Arp { samples: 9, two_answers: 0, first_two: None, bursts: 2, announcements: 10 });
        let mut disorder = outcome(Product::Viplb, Event::Partition, [0; 3], 0);
        disorder.figures = None;
        let outcomes = [
            frozen,
            again,
            disorder,
            outcome(Product::Viplb, Event::Partition, [0; 3], 1000),
            outcome(Product::Viplb, Event::Partition, [0; 3], 1010),
        ];
        let rows = rows(&outcomes, &[Profile::Default], &[Event::Freeze, Event::Partition], None);
        for (figure, value, runs) in [
            ("frozen and resumed, ARP requests with two answers", 2.0, 2),
            ("GARP bursts after the resume, at most", 2.0, 2),
            ("partitions healed, client without service for more than 1 s", 1.0, 2),
            ("cycles that did not end in order", 1.0, 5),
        ] {
            let row = row(&rows, figure);
            assert_eq!((row.value, row.runs, row.ok), (value, runs, false), "{figure}");
        }
    }
}
