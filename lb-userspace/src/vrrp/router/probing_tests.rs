//! What viplb peers say to each other, against every state: the second half of the table in `tests`, and the behaviours
//! that probes and hand-over are for.

use lb_common::lease::Standing;

use super::{
    tests::{Bench, SECOND, actions, ip, params},
    *,
};
use crate::{config::model::Probe, vrrp::Noted};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 5];
const PROBE: Probe = Probe { interval: Duration::from_millis(40), lease: Duration::from_millis(400) };
const REST: Standing = Standing::Valid(300_000_000);

fn probing() -> Params {
    Params { probe: Some(PROBE), ..params() }
}

impl Bench {
    fn say(&mut self, host: u8, message: Message) -> String {
        self.router.handle_message(self.now, ip(host), message);
        actions(&mut self.router)
    }

    /// Fires the next probe, and lets the watched master answer it.
    fn answered(&mut self, host: u8, standing: Standing) -> String {
        let nonce = loop {
            self.now = self.router.poll_deadline().expect("a probe is due");
            self.router.handle_timeout(self.now);
            let probe = std::iter::from_fn(|| self.router.poll_action()).find_map(|action| match action {
                Action::Probe { nonce, .. } => Some(nonce),
                _ => None,
            });
            if let Some(nonce) = probe {
                break nonce;
            }
        };
        self.say(host, Message::Answer { nonce, standing, mac: MAC })
    }

    /// Lets the time between the end of new connections and that of the lease go by.
    fn settled(&mut self) -> String {
        while matches!(self.router.phase, Phase::Master(master) if master.giving.is_some()) {
            self.now = self.router.poll_deadline().expect("a deadline is set");
            self.router.handle_timeout(self.now);
        }
        let done = actions(&mut self.router);
        done.split_once("relay").map(|(_, rest)| format!("relay{rest}")).unwrap_or(done)
    }

    fn noted(&mut self, fenced: bool) -> String {
        self.router.handle_noted(self.now, Noted { probed: self.now, fenced });
        actions(&mut self.router)
    }

    fn tracked(&mut self, priority: u8, fault: bool) -> String {
        self.local(LocalEvent::Tracked(Tracked { priority, fault, blind: false }))
    }

    /// The nonce of the request under way.
    fn request_nonce(&self) -> u64 {
        let Phase::Requesting(request) = self.router.phase else { panic!("{:?}", self.router.phase) };
        request.nonce
    }

    fn in_probing_phase(phase: &str) -> Self {
        let mut bench = Self::new(probing());
        match phase {
            "init" => drop(bench.local(LocalEvent::Stop)),
            "fault" => drop(bench.local(LocalEvent::LinkDown)),
            "backup" => {
                bench.wait(SECOND).hear(9, 200);
                bench.answered(9, REST);
            }
            "lower" | "requesting" => {
                bench.wait(SECOND).hear(5, 50);
                bench.answered(5, REST);
                while phase == "requesting" && !matches!(bench.router.phase, Phase::Requesting(_)) {
                    bench.answered(5, REST);
                }
            }
            "claiming" => {
                while !bench.router.is_claiming() {
                    bench.timeout();
                }
            }
            "master" | "watched" | "giving" | "leaving" => {
                bench.until_master();
                bench.wait(SECOND / 50);
                if phase != "master" {
                    bench.noted(false);
                }
                if phase == "giving" {
                    bench.say(9, Message::Request { nonce: 1, priority: 200, mac: MAC });
                }
                if phase == "leaving" {
                    bench.local(LocalEvent::Stop);
                }
            }
            other => panic!("no phase {other}"),
        }
        bench
    }

    /// The state, as the table names it.
    fn probing_phase(&self) -> &'static str {
        match self.router.phase {
            Phase::Master(master) if master.giving.is_some() => "giving",
            Phase::Master(master) if master.leaving.is_some() => "leaving",
            _ => self.phase(),
        }
    }

    fn probing_event(&mut self, event: &str) -> String {
        let watched = self.router.watched().map_or(ip(9), |(peer, ..)| peer);
        let holder = if watched == ip(5) { 5 } else { 9 };
        match event {
            "valid" | "expired" | "released" if self.router.watched().is_some() && self.probes() => {
                let standing = match event {
                    "valid" => REST,
                    "expired" => Standing::Expired,
                    _ => Standing::Released,
                };
                self.answered(holder, standing)
            }
            "valid" | "expired" | "released" => {
                let answer = Message::Answer { nonce: 7, standing: Standing::Expired, mac: MAC };
                self.say(holder, answer)
            }
            "offer" => self.say(holder, Message::Offer { mac: MAC }),
            "offer-other" => self.say(33, Message::Offer { mac: MAC }),
            "request-lower" => self.say(5, Message::Request { nonce: 1, priority: 50, mac: MAC }),
            "request-higher" => self.say(9, Message::Request { nonce: 1, priority: 200, mac: MAC }),
            "grant" if matches!(self.router.phase, Phase::Requesting(_)) => {
                let nonce = self.request_nonce();
                self.say(holder, Message::Grant { nonce })
            }
            "grant" | "grant-other" => self.say(holder, Message::Grant { nonce: 1 }),
            "fenced" => self.noted(true),
            "tracker-fails" => self.tracked(100, true),
            "priority" => self.tracked(60, false),
            "step-down" => self.local(LocalEvent::StepDown),
            "stop" => self.local(LocalEvent::Stop),
            other => panic!("no event {other}"),
        }
    }

    fn probes(&self) -> bool {
        matches!(self.router.phase, Phase::Backup(_))
    }
}

const PHASES: [&str; 10] =
    ["init", "fault", "backup", "lower", "requesting", "claiming", "master", "watched", "giving", "leaving"];
const EVENTS: [&str; 14] = [
    "valid",
    "expired",
    "released",
    "offer",
    "offer-other",
    "request-lower",
    "request-higher",
    "grant",
    "grant-other",
    "fenced",
    "tracker-fails",
    "priority",
    "step-down",
    "stop",
];

/// (state, event, next state, actions). "lower": a Backup that watches a lower master and is in its hold-down.
/// "watched" is a Master that a peer asks for its lease, "leaving" one that was told to stop then.
const TABLE: &[(&str, &str, &str, &str)] = &[
    ("init", "valid", "init", ""),
    ("init", "expired", "init", ""),
    ("init", "released", "init", ""),
    ("init", "offer", "init", ""),
    ("init", "offer-other", "init", ""),
    ("init", "request-lower", "init", ""),
    ("init", "request-higher", "init", ""),
    ("init", "grant", "init", ""),
    ("init", "grant-other", "init", ""),
    ("init", "fenced", "init", ""),
    ("init", "tracker-fails", "init", ""),
    ("init", "priority", "init", ""),
    ("init", "step-down", "init", ""),
    ("init", "stop", "init", ""),
    ("fault", "valid", "fault", ""),
    ("fault", "expired", "fault", ""),
    ("fault", "released", "fault", ""),
    ("fault", "offer", "fault", ""),
    ("fault", "offer-other", "fault", ""),
    ("fault", "request-lower", "fault", ""),
    ("fault", "request-higher", "fault", ""),
    ("fault", "grant", "fault", ""),
    ("fault", "grant-other", "fault", ""),
    ("fault", "fenced", "fault", ""),
    ("fault", "tracker-fails", "fault", ""),
    ("fault", "priority", "fault", ""),
    ("fault", "step-down", "fault", ""),
    ("fault", "stop", "init", "Init:Stopped"),
    ("backup", "valid", "backup", ""),
    ("backup", "expired", "claiming", "send100"),
    ("backup", "released", "backup", ""),
    ("backup", "offer", "requesting", "delegate request"),
    ("backup", "offer-other", "backup", ""),
    ("backup", "request-lower", "backup", ""),
    ("backup", "request-higher", "backup", ""),
    ("backup", "grant", "backup", ""),
    ("backup", "grant-other", "backup", ""),
    ("backup", "fenced", "backup", ""),
    ("backup", "tracker-fails", "fault", "Fault:TrackerFailed"),
    ("backup", "priority", "backup", ""),
    ("backup", "step-down", "backup", ""),
    ("backup", "stop", "init", "Init:Stopped"),
    ("lower", "valid", "backup", ""),
    ("lower", "expired", "claiming", "send100"),
    ("lower", "released", "backup", ""),
    ("lower", "offer", "requesting", "delegate request"),
    ("lower", "offer-other", "backup", ""),
    ("lower", "request-lower", "backup", ""),
    ("lower", "request-higher", "backup", ""),
    ("lower", "grant", "backup", ""),
    ("lower", "grant-other", "backup", ""),
    ("lower", "fenced", "backup", ""),
    ("lower", "tracker-fails", "fault", "Fault:TrackerFailed"),
    ("lower", "priority", "backup", ""),
    ("lower", "step-down", "backup", ""),
    ("lower", "stop", "init", "Init:Stopped"),
    ("requesting", "valid", "requesting", ""),
    ("requesting", "expired", "requesting", ""),
    ("requesting", "released", "requesting", ""),
    ("requesting", "offer", "requesting", ""),
    ("requesting", "offer-other", "requesting", ""),
    ("requesting", "request-lower", "requesting", ""),
    ("requesting", "request-higher", "requesting", ""),
    ("requesting", "grant", "master", "send100 take garp5 Master:Preempted"),
    ("requesting", "grant-other", "requesting", ""),
    ("requesting", "fenced", "requesting", ""),
    ("requesting", "tracker-fails", "fault", "Fault:TrackerFailed"),
    ("requesting", "priority", "requesting", ""),
    ("requesting", "step-down", "requesting", ""),
    ("requesting", "stop", "init", "Init:Stopped"),
    ("claiming", "valid", "claiming", ""),
    ("claiming", "expired", "claiming", ""),
    ("claiming", "released", "claiming", ""),
    ("claiming", "offer", "claiming", ""),
    ("claiming", "offer-other", "claiming", ""),
    ("claiming", "request-lower", "claiming", ""),
    ("claiming", "request-higher", "claiming", ""),
    ("claiming", "grant", "claiming", ""),
    ("claiming", "grant-other", "claiming", ""),
    ("claiming", "fenced", "claiming", ""),
    ("claiming", "tracker-fails", "fault", "send0 Fault:TrackerFailed"),
    ("claiming", "priority", "claiming", ""),
    ("claiming", "step-down", "claiming", ""),
    ("claiming", "stop", "init", "send0 Init:Stopped"),
    ("master", "valid", "master", ""),
    ("master", "expired", "master", ""),
    ("master", "released", "master", ""),
    ("master", "offer", "master", ""),
    ("master", "offer-other", "master", ""),
    ("master", "request-lower", "master", ""),
    ("master", "request-higher", "giving", "relay"),
    ("master", "grant", "master", ""),
    ("master", "grant-other", "master", ""),
    ("master", "fenced", "backup", "drop Backup:Fenced"),
    ("master", "tracker-fails", "fault", "drop send0 Fault:TrackerFailed"),
    ("master", "priority", "master", "send60 renew"),
    ("master", "step-down", "backup", "drop send0 Backup:Group"),
    ("master", "stop", "init", "drop send0 Init:Stopped"),
    ("watched", "valid", "master", ""),
    ("watched", "expired", "master", ""),
    ("watched", "released", "master", ""),
    ("watched", "offer", "master", ""),
    ("watched", "offer-other", "master", ""),
    ("watched", "request-lower", "master", ""),
    ("watched", "request-higher", "giving", "relay"),
    ("watched", "grant", "master", ""),
    ("watched", "grant-other", "master", ""),
    ("watched", "fenced", "backup", "drop Backup:Fenced"),
    ("watched", "tracker-fails", "leaving", "offer"),
    ("watched", "priority", "master", "send60 renew"),
    ("watched", "step-down", "leaving", "offer"),
    ("watched", "stop", "leaving", "offer"),
    ("giving", "valid", "giving", ""),
    ("giving", "expired", "giving", ""),
    ("giving", "released", "giving", ""),
    ("giving", "offer", "giving", ""),
    ("giving", "offer-other", "giving", ""),
    ("giving", "request-lower", "giving", ""),
    ("giving", "request-higher", "giving", ""),
    ("giving", "grant", "giving", ""),
    ("giving", "grant-other", "giving", ""),
    ("giving", "fenced", "backup", "relay drop Backup:Fenced"),
    ("giving", "tracker-fails", "giving", ""),
    ("giving", "priority", "giving", "send60 renew"),
    ("giving", "step-down", "giving", ""),
    ("giving", "stop", "giving", ""),
    ("leaving", "valid", "leaving", ""),
    ("leaving", "expired", "leaving", ""),
    ("leaving", "released", "leaving", ""),
    ("leaving", "offer", "leaving", ""),
    ("leaving", "offer-other", "leaving", ""),
    ("leaving", "request-lower", "leaving", ""),
    ("leaving", "request-higher", "leaving", ""),
    ("leaving", "grant", "leaving", ""),
    ("leaving", "grant-other", "leaving", ""),
    ("leaving", "fenced", "backup", "drop Backup:Fenced"),
    ("leaving", "tracker-fails", "leaving", ""),
    ("leaving", "priority", "leaving", "send60 renew"),
    ("leaving", "step-down", "leaving", ""),
    ("leaving", "stop", "leaving", ""),
];

#[test]
fn every_state_answers_every_word_of_a_peer_as_the_table_says() {
    for &(phase, event, next, expected) in TABLE {
        let mut bench = Bench::in_probing_phase(phase);
        let done = bench.probing_event(event);
        assert_eq!((bench.probing_phase(), done.as_str()), (next, expected), "{phase} on {event}");
    }
}

#[test]
fn the_table_leaves_no_pair_out() {
    for phase in PHASES {
        for event in EVENTS {
            let rows = TABLE.iter().filter(|row| (row.0, row.1) == (phase, event)).count();
            assert_eq!(rows, 1, "{phase} on {event}");
        }
    }
}

#[test]
fn without_probes_a_router_does_not_hear_what_peers_say() {
    let mut bench = Bench::new(params());
    bench.until_master();
    let request = Message::Request { nonce: 1, priority: 200, mac: MAC };
    assert_eq!((bench.say(9, request), bench.phase()), (String::new(), "master"));
}

/// Fires deadlines until the router claims; how long that took.
fn until_it_claims(bench: &mut Bench) -> Duration {
    let from = bench.now;
    while !bench.router.is_claiming() {
        bench.timeout();
    }
    bench.now.since(from)
}

#[test]
fn a_frozen_owner_is_replaced_at_the_first_answer_that_its_lease_ran_out() {
    let mut bench = Bench::in_probing_phase("backup");
    let last = bench.now;
    assert_eq!(bench.answered(9, Standing::Expired), "send100");
    assert_eq!(bench.now.since(last), PROBE.interval);
    assert!(bench.until_master().ends_with("take garp5 Master:MasterFrozen"));
    assert_eq!(bench.now.since(last), PROBE.interval + CONTEND_WAIT);
}

#[test]
fn an_owner_that_is_gone_is_replaced_when_its_lease_is_over_and_nine_probes_are_unanswered() {
    for (rest, waits) in [(300, 10 * 40), (400, 400), (399, 400), (2000, 2000)] {
        let mut bench = Bench::in_probing_phase("backup");
        bench.answered(9, Standing::Valid(rest * 1_000_000));
        let waited = until_it_claims(&mut bench);
        assert_eq!(waited, Duration::from_millis(waits), "{rest} ms of its lease were left");
        assert!(bench.until_master().ends_with("Master:MasterGone"));
    }
}

#[test]
fn who_never_answers_is_left_alone_after_nine_probes_and_its_adverts_alone_count() {
    let mut bench = Bench::new(probing());
    bench.wait(SECOND).hear(9, 200);
    let heard = bench.now;
    let mut probes = 0;
    while !bench.router.is_claiming() {
        probes += bench.timeout().matches("probe").count();
    }
    assert_eq!(probes, usize::from(watch::ENOUGH));
    assert_eq!(bench.now.since(heard), bench.router.master_down());
}

#[test]
fn a_filter_that_begins_to_swallow_probes_costs_one_claim_that_the_living_owner_answers() {
    let mut bench = Bench::in_probing_phase("backup");
    until_it_claims(&mut bench);
    assert_eq!(bench.hear(9, 200), "", "its answer");
    for _ in 0..9 {
        let next_advert = bench.now + SECOND;
        while bench.router.poll_deadline().unwrap() < next_advert {
            let done = bench.timeout();
            assert!(["", "probe"].contains(&done.as_str()), "{done}");
        }
        bench.now = next_advert;
        assert_eq!(bench.hear(9, 200), "");
    }
}

#[test]
fn a_valid_lease_is_as_good_as_an_advert() {
    let mut bench = Bench::in_probing_phase("backup");
    for _ in 0..1000 {
        assert_eq!(bench.answered(9, REST), "");
    }
    assert_eq!(bench.phase(), "backup");
}

#[test]
fn late_probes_of_a_stalled_thread_are_not_held_against_the_master() {
    let mut bench = Bench::in_probing_phase("backup");
    for _ in 0..20 {
        bench.wait(2 * PROBE.interval);
        bench.router.handle_timeout(bench.now);
        assert_eq!(actions(&mut bench.router), "probe");
    }
}

#[test]
fn a_watched_owner_keeps_a_short_lease_and_an_unwatched_one_the_long_one() {
    let mut bench = Bench::in_probing_phase("watched");
    let lease = |bench: &mut Bench| {
        bench.now = bench.router.poll_deadline().unwrap();
        bench.router.handle_timeout(bench.now);
        std::iter::from_fn(|| bench.router.poll_action()).find_map(|action| match action {
            Action::RenewLease { until } => Some(until.since(bench.now)),
            _ => None,
        })
    };
    bench.router.handle_timeout(bench.now);
    assert_eq!(actions(&mut bench.router), "renew", "at once when the first probe was seen");
    for _ in 0..20 {
        let before = bench.now;
        assert_eq!(lease(&mut bench), Some(PROBE.lease));
        assert!(bench.now.since(before) <= PROBE.interval);
    }
    let unwatched_from = bench.now + master::WATCH_HOLD;
    let mut last = None;
    while bench.now < unwatched_from + SECOND {
        last = lease(&mut bench).or(last);
    }
    assert_eq!(last, Some(bench.router.params.lease));
}

#[test]
fn an_owner_that_stops_hands_over_to_the_best_that_asks_and_stays_owner_until_then() {
    let mut bench = Bench::in_probing_phase("leaving");
    assert_eq!(bench.say(5, Message::Request { nonce: 1, priority: 50, mac: [5; 6] }), "");
    assert_eq!(bench.say(8, Message::Request { nonce: 2, priority: 90, mac: [8; 6] }), "");
    assert_eq!(bench.router.state(), State::Master);
    bench.now = bench.router.poll_deadline().unwrap();
    bench.router.handle_timeout(bench.now);
    let relayed: Vec<_> = std::iter::from_fn(|| bench.router.poll_action()).collect();
    assert!(matches!(relayed[..], [Action::Relay { to: [8, ..], .. }, ..]), "what begins: {relayed:?}");
    assert_eq!(bench.router.state(), State::Master);
    assert_eq!(bench.say(8, Message::Request { nonce: 2, priority: 90, mac: [8; 6] }), "", "it has to wait");
    while bench.router.state() == State::Master {
        bench.now = bench.router.poll_deadline().unwrap();
        bench.router.handle_timeout(bench.now);
    }
    let done: Vec<_> = std::iter::from_fn(|| bench.router.poll_action()).collect();
    let at = done.iter().position(|action| *action == Action::DropLease).expect("it leaves");
    assert!(matches!(done[at - 1], Action::Relay { to: [8, ..], .. }), "{done:?}");
    assert_eq!(done[at + 1], Action::Grant { to: ip(8), nonce: 2 });
    assert_eq!(bench.router.state(), State::Init);
    assert!(bench.router.is_leaving(bench.now), "the grant may have to be given again");
    let again = bench.say(8, Message::Request { nonce: 2, priority: 90, mac: [8; 6] });
    assert_eq!(again, "grant", "it was lost");
    assert_eq!(
        bench.say(5, Message::Request { nonce: 1, priority: 50, mac: [5; 6] }),
        "",
        "nobody else gets one"
    );
    bench.wait(handover::TAKE_BACK);
    assert!(!bench.router.is_leaving(bench.now));
}

#[test]
fn an_owner_whose_offers_nobody_takes_leaves_by_a_farewell() {
    let mut bench = Bench::in_probing_phase("leaving");
    let mut done = String::new();
    while bench.router.state() == State::Master {
        done += &bench.timeout();
    }
    assert!(done.starts_with("offer") && done.ends_with("drop send0 Init:Stopped"), "{done}");
}

#[test]
fn a_grant_that_comes_after_its_time_is_void() {
    let mut bench = Bench::in_probing_phase("requesting");
    let nonce = bench.request_nonce();
    bench.wait(handover::GRANT_LIMIT);
    assert_eq!(bench.say(5, Message::Grant { nonce }), "");
    assert!(bench.router.state() == State::Backup);
    const { assert!(handover::GRANT_LIMIT.as_nanos() < handover::TAKE_BACK.as_nanos()) };
}

#[test]
fn an_owner_that_has_handed_over_takes_its_lease_back_from_who_shows_no_life() {
    let mut bench = Bench::in_probing_phase("watched");
    bench.say(9, Message::Request { nonce: 1, priority: 200, mac: MAC });
    assert_eq!(bench.settled(), "relay drop grant Backup:HandedOver");
    let granted = bench.now;
    assert!(bench.until_master().ends_with("Master:Silence"));
    assert!(bench.now.since(granted) < 2 * handover::TAKE_BACK);
}

#[test]
fn an_owner_that_has_handed_over_leaves_the_new_one_be_once_its_lease_is_valid() {
    let mut bench = Bench::in_probing_phase("watched");
    bench.say(9, Message::Request { nonce: 1, priority: 200, mac: MAC });
    bench.settled();
    bench.answered(9, Standing::Released);
    bench.answered(9, REST);
    for _ in 0..50 {
        assert_eq!(bench.answered(9, REST), "");
    }
    assert_eq!(bench.phase(), "backup");
}

#[test]
fn a_lower_owner_is_asked_after_the_hold_down_and_replaced_by_its_grant_with_one_burst() {
    let mut bench = Bench::in_probing_phase("requesting");
    assert_eq!(bench.now.since(tests::START).as_secs(), 3, "the master-down time since the start");
    let nonce = bench.request_nonce();
    assert_eq!(bench.say(5, Message::Grant { nonce }), "send100 take garp5 Master:Preempted");
    let more = (0..200).filter(|_| bench.timeout().contains("garp")).count();
    assert_eq!(more, 0, "the old owner lives and relays: no second burst");
}

#[test]
fn a_delay_of_pre_emption_counts_from_when_the_lower_master_is_heard() {
    let preempt = Preempt::After(30 * SECOND);
    let mut bench = Bench::new(Params { preempt, ..probing() });
    bench.wait(SECOND).hear(5, 50);
    let heard = bench.now;
    while !matches!(bench.router.phase, Phase::Requesting(_)) {
        bench.answered(5, REST);
    }
    let waited = bench.now.since(heard);
    assert!((30 * SECOND..31 * SECOND).contains(&waited), "{waited:?}");
}

#[test]
fn a_master_that_dies_during_that_delay_is_replaced_all_the_same() {
    let mut bench = Bench::new(Params { preempt: Preempt::After(30 * SECOND), ..params() });
    bench.wait(SECOND).hear(5, 50);
    let heard = bench.now;
    assert!(bench.until_master().ends_with("Master:Silence"));
    assert!(bench.now.since(heard) < 4 * SECOND);
}

#[test]
fn the_addresses_owner_waits_for_no_hold_down_and_never_lets_a_lower_master_be() {
    let mut bench = Bench::new(Params { priority: 255, preempt: Preempt::Never, ..params() });
    bench.wait(SECOND / 10);
    assert_eq!(bench.hear(5, 254), "");
    // That it may be claimed at all was found while this thread was awake; the next advert is answered.
    bench.timeout();
    assert_eq!(bench.hear(5, 254), "send255");
}

#[test]
fn the_addresses_owner_alone_waits_no_longer_than_a_lease_it_has_not_heard_of() {
    let mut bench = Bench::new(Params { priority: 255, ..params() });
    bench.until_master();
    assert_eq!(bench.now.since(tests::START), bench.router.params.lease + CONTEND_WAIT);
}

#[test]
fn a_tracker_that_recovers_while_a_successor_is_looked_for_keeps_the_owner_owner() {
    let mut bench = Bench::in_probing_phase("watched");
    assert_eq!(bench.tracked(100, true), "offer");
    assert_eq!(bench.tracked(100, false), "");
    assert_eq!((bench.probing_phase(), bench.router.is_leaving(bench.now)), ("master", false));
}

/// Tells it what the witness says: whether this node reaches the primary component.
fn sees(bench: &mut Bench, cluster: bool) -> String {
    let priority = if cluster { 100 } else { 1 };
    bench.local(LocalEvent::Tracked(Tracked { priority, fault: false, blind: !cluster }))
}

#[test]
fn without_a_sign_of_the_cluster_a_silent_peers_addresses_are_left_alone_until_there_is_one() {
    let mut bench = Bench::in_probing_phase("backup");
    sees(&mut bench, false);
    for _ in 0..500 {
        bench.timeout();
        assert_eq!((bench.router.state(), bench.router.is_claiming()), (State::Backup, false));
    }
    sees(&mut bench, true);
    while bench.router.state() != State::Master {
        bench.timeout();
    }
}

#[test]
fn a_node_that_never_knew_a_peer_owns_whatever_the_cluster_does() {
    let mut bench = Bench::new(probing());
    sees(&mut bench, false);
    bench.until_master();
    for _ in 0..100 {
        bench.timeout();
        assert_eq!(bench.router.state(), State::Master);
    }
}

#[test]
fn an_owner_that_has_lost_its_peer_and_the_cluster_gives_the_addresses_up_and_one_that_is_watched_stays() {
    let mut bench = Bench::in_probing_phase("watched");
    sees(&mut bench, false);
    let lost = bench.now;
    for _ in 0..100 {
        bench.noted(false);
        bench.timeout();
        assert_eq!(bench.router.state(), State::Master, "the peer is there: connections are refused");
    }
    assert!(bench.now > lost + 2 * SECOND);
    let cut = bench.now;
    while bench.router.state() == State::Master {
        bench.timeout();
    }
    assert!(bench.now < cut + 4 * SECOND, "{:?}", bench.now.since(cut));
    for _ in 0..200 {
        bench.timeout();
        assert_eq!(bench.router.state(), State::Backup);
    }
    sees(&mut bench, true);
    bench.until_master();
}

#[test]
fn a_living_peer_can_hand_over_to_a_node_without_the_cluster() {
    let mut bench = Bench::in_probing_phase("backup");
    sees(&mut bench, false);
    bench.probing_event("offer");
    let nonce = bench.request_nonce();
    bench.say(9, Message::Grant { nonce });
    assert_eq!(bench.router.state(), State::Master);
}

#[test]
fn who_lacks_flows_does_not_ask_a_living_owner_for_its_lease_but_takes_it_when_it_is_offered() {
    let mut bench = Bench::in_probing_phase("lower");
    bench.local(LocalEvent::CatchingUp(true));
    for _ in 0..200 {
        bench.answered(5, REST);
        bench.hear(5, 50);
        assert_eq!(bench.phase(), "backup");
    }
    bench.say(5, Message::Offer { mac: MAC });
    let nonce = bench.request_nonce();
    assert!(bench.say(5, Message::Grant { nonce }).ends_with("Master:MasterLeft"));
    let mut bench = Bench::in_probing_phase("lower");
    bench.local(LocalEvent::CatchingUp(true));
    bench.answered(5, Standing::Expired);
    assert!(bench.until_master().ends_with("Master:MasterFrozen"));
}

#[test]
fn a_living_owner_is_asked_for_its_lease_once_what_it_has_told_of_its_flows_is_taken_in() {
    let mut bench = Bench::in_probing_phase("lower");
    bench.local(LocalEvent::CatchingUp(false));
    let mut said = String::new();
    for _ in 0..200 {
        said += &bench.answered(5, REST);
        said += &bench.hear(5, 50);
        if said.contains("take-in") {
            break;
        }
    }
    assert!(said.ends_with("take-in") && bench.phase() == "backup", "{said}");
    assert!(bench.local(LocalEvent::TakenIn).ends_with("request"));
    assert_eq!(bench.phase(), "requesting");
}
