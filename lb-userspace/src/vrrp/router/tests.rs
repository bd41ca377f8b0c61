//! First every state against every event, then the behaviours operators know by name.

use std::net::Ipv4Addr;

use super::*;
use crate::{config::model::Garp, vrrp::packet::Version};

const MS: u64 = 1_000_000;
pub(super) const SECOND: Duration = Duration::from_secs(1);
/// Where every test's clock starts.
pub(super) const START: BootTime = BootTime(1_000_000 * MS);
const LEASE: Duration = Duration::from_millis(2500);

pub(super) fn ip(host: u8) -> IpAddr {
    Ipv4Addr::new(172, 18, 0, host).into()
}

/// The router under test: 172.18.0.7, priority 100.
pub(super) fn params() -> Params {
    Params {
        version: Version::V2,
        local: ip(7),
        priority: 100,
        advert_int: SECOND,
        preempt: Preempt::NOW,
        lease: LEASE,
        probe: None,
        seed: 1,
        garp: Garp { repeat: 5, delay: 5 * SECOND, refresh: None, ..Garp::default() },
    }
}

/// The same in version 3 at another interval, with the default lease.
fn params_v3(advert_int: Duration) -> Params {
    Params { version: Version::V3, advert_int, lease: advert_int * 5 / 2, ..params() }
}

/// Version 2 as the users have it; version 3 from its shortest interval to its longest.
fn profiles() -> Vec<Params> {
    let v3 = [10, 30, 100, 1000, 40_950].map(|ms| params_v3(Duration::from_millis(ms)));
    [params()].into_iter().chain(v3).collect()
}

/// Drains the actions into the table's shorthand.
pub(super) fn actions(router: &mut Router) -> String {
    let mut words = Vec::new();
    while let Some(action) = router.poll_action() {
        words.push(match action {
            Action::Send { priority } => format!("send{priority}"),
            Action::TakeLease { .. } => "take".into(),
            Action::RenewLease { .. } => "renew".into(),
            Action::DropLease => "drop".into(),
            Action::Announce { repeat } => format!("garp{repeat}"),
            Action::Rival { priority, .. } => format!("rival{priority}"),
            Action::Entered { state, reason } => format!("{state:?}:{reason:?}"),
            Action::Probe { .. } => "probe".into(),
            Action::Offer { .. } => "offer".into(),
            Action::Request { .. } => "request".into(),
            Action::Grant { .. } => "grant".into(),
            Action::Relay { .. } => "relay".into(),
            Action::Delegate { .. } => "delegate".into(),
            Action::TakeIn => "take-in".into(),
        });
    }
    words.join(" ")
}

/// A router and the clock it is driven by; every event comes a fiftieth of an interval after the one before.
pub(super) struct Bench {
    pub(super) router: Router,
    pub(super) now: BootTime,
    /// What the others say their interval is.
    interval: Duration,
}

impl Bench {
    pub(super) fn new(params: Params) -> Self {
        let mut router = Router::new(params, START);
        assert_eq!(actions(&mut router), "Backup:Started");
        Self { router, now: START, interval: params.advert_int }
    }

    pub(super) fn wait(&mut self, duration: Duration) -> &mut Self {
        self.now = self.now + duration;
        self
    }

    pub(super) fn hear(&mut self, host: u8, priority: u8) -> String {
        let advert = Advert { priority, interval: self.interval };
        self.router.handle_advert(self.now, ip(host), &advert);
        actions(&mut self.router)
    }

    pub(super) fn local(&mut self, event: LocalEvent) -> String {
        self.router.handle_local(self.now, event);
        actions(&mut self.router)
    }

    /// Goes to the router's own deadline.
    pub(super) fn timeout(&mut self) -> String {
        self.now = self.router.poll_deadline().expect("a deadline is set");
        self.router.handle_timeout(self.now);
        actions(&mut self.router)
    }

    /// Fires deadlines until the router is master; everything it did on the way.
    pub(super) fn until_master(&mut self) -> String {
        let mut done = Vec::new();
        while self.router.state() != State::Master {
            done.push(self.timeout());
        }
        done.join(" ")
    }

    pub(super) fn phase(&self) -> &'static str {
        match self.router.phase {
            Phase::Init => "init",
            Phase::Fault => "fault",
            Phase::Backup(Backup { armed: false, .. }) => "backup",
            Phase::Backup(Backup { armed: true, .. }) => "armed",
            Phase::Requesting(_) => "requesting",
            Phase::Claiming(_) => "claiming",
            Phase::Master(_) => "master",
        }
    }

    fn in_phase(phase: &str) -> Self {
        Self::in_phase_of(params(), phase)
    }

    fn in_phase_of(params: Params, phase: &str) -> Self {
        let mut bench = Self::new(params);
        let interval = params.advert_int;
        match phase {
            "backup" => {
                bench.wait(interval).hear(9, 200);
            }
            "armed" | "claiming" => {
                bench.wait(3 * interval).hear(5, 50);
                bench.timeout();
                if phase == "claiming" {
                    bench.wait(interval / 1000).hear(5, 50);
                }
            }
            "master" => {
                bench.until_master();
            }
            "fault" => {
                bench.local(LocalEvent::LinkDown);
            }
            "init" => {
                bench.local(LocalEvent::Stop);
            }
            other => panic!("no phase {other}"),
        }
        assert_eq!(bench.phase(), phase);
        bench.wait((interval / 50).min(Duration::from_millis(20)));
        bench
    }

    fn event(&mut self, event: &str) -> String {
        match event {
            "leave" => self.hear(if self.phase() == "backup" { 9 } else { 5 }, 0),
            "leave-other" => self.hear(33, 0),
            "lower" => self.hear(5, 50),
            "equal-lower-ip" => self.hear(5, 100),
            "equal-higher-ip" => self.hear(9, 100),
            "higher" => self.hear(9, 200),
            "own" => self.hear(7, 100),
            "timeout" => self.timeout(),
            "link-down" => self.local(LocalEvent::LinkDown),
            "link-up" => self.local(LocalEvent::LinkUp),
            "late-wake" => self.local(LocalEvent::LateWake),
            "send-failed" => self.local(LocalEvent::SendFailed),
            "lease-failed" => self.local(LocalEvent::LeaseFailed),
            "stop" => self.local(LocalEvent::Stop),
            other => panic!("no event {other}"),
        }
    }
}

const PHASES: [&str; 6] = ["init", "fault", "backup", "armed", "claiming", "master"];
const EVENTS: [&str; 14] = [
    "leave",
    "leave-other",
    "lower",
    "equal-lower-ip",
    "equal-higher-ip",
    "higher",
    "own",
    "timeout",
    "link-down",
    "link-up",
    "late-wake",
    "send-failed",
    "lease-failed",
    "stop",
];

/// (state, event, next state, actions). "armed" is a Backup whose hold-down is over while a lower master lives,
/// "claiming" one that has answered this master's advert with a claim.
const TABLE: &[(&str, &str, &str, &str)] = &[
    ("init", "leave", "init", ""),
    ("init", "leave-other", "init", ""),
    ("init", "lower", "init", ""),
    ("init", "equal-lower-ip", "init", ""),
    ("init", "equal-higher-ip", "init", ""),
    ("init", "higher", "init", ""),
    ("init", "own", "init", ""),
    ("init", "link-down", "init", ""),
    ("init", "link-up", "init", ""),
    ("init", "late-wake", "init", ""),
    ("init", "send-failed", "init", ""),
    ("init", "lease-failed", "init", ""),
    ("init", "stop", "init", ""),
    ("fault", "leave", "fault", ""),
    ("fault", "leave-other", "fault", ""),
    ("fault", "lower", "fault", ""),
    ("fault", "equal-lower-ip", "fault", ""),
    ("fault", "equal-higher-ip", "fault", ""),
    ("fault", "higher", "fault", ""),
    ("fault", "own", "fault", ""),
    ("fault", "link-down", "fault", ""),
    ("fault", "link-up", "backup", "Backup:LinkUp"),
    ("fault", "late-wake", "fault", ""),
    ("fault", "send-failed", "fault", ""),
    ("fault", "lease-failed", "fault", ""),
    ("fault", "stop", "init", "Init:Stopped"),
    ("backup", "leave", "backup", ""),
    ("backup", "leave-other", "backup", ""),
    ("backup", "lower", "backup", ""),
    ("backup", "equal-lower-ip", "backup", ""),
    ("backup", "equal-higher-ip", "backup", ""),
    ("backup", "higher", "backup", ""),
    ("backup", "own", "backup", ""),
    ("backup", "timeout", "claiming", "send100"),
    ("backup", "link-down", "fault", "Fault:LinkDown"),
    ("backup", "link-up", "backup", ""),
    ("backup", "late-wake", "backup", ""),
    ("backup", "send-failed", "backup", ""),
    ("backup", "lease-failed", "backup", ""),
    ("backup", "stop", "init", "Init:Stopped"),
    ("armed", "leave", "armed", ""),
    ("armed", "leave-other", "armed", ""),
    ("armed", "lower", "claiming", "send100"),
    ("armed", "equal-lower-ip", "backup", ""),
    ("armed", "equal-higher-ip", "backup", ""),
    ("armed", "higher", "backup", ""),
    ("armed", "own", "armed", ""),
    ("armed", "timeout", "claiming", "send100"),
    ("armed", "link-down", "fault", "Fault:LinkDown"),
    ("armed", "link-up", "armed", ""),
    ("armed", "late-wake", "armed", ""),
    ("armed", "send-failed", "armed", ""),
    ("armed", "lease-failed", "armed", ""),
    ("armed", "stop", "init", "Init:Stopped"),
    ("claiming", "leave", "claiming", ""),
    ("claiming", "leave-other", "claiming", ""),
    ("claiming", "lower", "claiming", "send100"),
    ("claiming", "equal-lower-ip", "claiming", "send100"),
    ("claiming", "equal-higher-ip", "backup", ""),
    ("claiming", "higher", "backup", ""),
    ("claiming", "own", "claiming", ""),
    ("claiming", "timeout", "claiming", "send100"),
    ("claiming", "link-down", "fault", "Fault:LinkDown"),
    ("claiming", "link-up", "claiming", ""),
    ("claiming", "late-wake", "backup", ""),
    ("claiming", "send-failed", "claiming", ""),
    ("claiming", "lease-failed", "claiming", ""),
    ("claiming", "stop", "init", "send0 Init:Stopped"),
    ("master", "leave", "master", "send100 renew"),
    ("master", "leave-other", "master", "send100 renew"),
    ("master", "lower", "master", "rival50 send100 renew"),
    ("master", "equal-lower-ip", "master", "rival100 send100 renew"),
    ("master", "equal-higher-ip", "backup", "drop send0 Backup:HigherPriority"),
    ("master", "higher", "backup", "drop send0 Backup:HigherPriority"),
    ("master", "own", "master", ""),
    ("master", "timeout", "master", "send100 renew"),
    ("master", "link-down", "fault", "drop Fault:LinkDown"),
    ("master", "link-up", "master", ""),
    ("master", "late-wake", "backup", "drop Backup:LateWake"),
    ("master", "send-failed", "master", ""),
    ("master", "lease-failed", "backup", "drop send0 Backup:LeaseFailed"),
    ("master", "stop", "init", "drop send0 Init:Stopped"),
];

#[test]
fn every_state_answers_every_event_as_the_table_says() {
    for params in profiles() {
        for &(phase, event, next, expected) in TABLE {
            let mut bench = Bench::in_phase_of(params, phase);
            let done = bench.event(event);
            // With more than 5 s between two adverts, the second burst of announcements comes first.
            let expected = match (phase, event) {
                ("master", "timeout") if params.advert_int > params.garp.delay => "garp5",
                _ => expected,
            };
            let (version, interval) = (params.version, params.advert_int);
            let at = format!("{phase} on {event}, {version:?}, {interval:?}");
            assert_eq!((bench.phase(), done.as_str()), (next, expected), "{at}");
        }
    }
}

#[test]
fn the_table_leaves_no_pair_out() {
    for phase in PHASES {
        for event in EVENTS {
            let timeless = event == "timeout" && ["init", "fault"].contains(&phase);
            let rows = TABLE.iter().filter(|row| (row.0, row.1) == (phase, event)).count();
            assert_eq!(rows, usize::from(!timeless), "{phase} on {event}");
        }
    }
    for phase in ["init", "fault"] {
        assert_eq!(Bench::in_phase(phase).router.poll_deadline(), None);
    }
}

#[test]
fn a_lone_router_waits_for_the_master_down_time_before_it_owns_anything() {
    let mut bench = Bench::new(params());
    assert_eq!(
        bench.until_master(),
        format!("{}send100 take garp5 Master:Silence", "send100 ".repeat(usize::from(CLAIM_COPIES)))
    );
    let waited = bench.now.since(START);
    assert_eq!(waited, timers::master_down(Version::V2, 100, SECOND) + CONTEND_WAIT);
}

#[test]
fn at_30_ms_a_lone_router_owns_the_addresses_in_less_than_110_ms() {
    let interval = Duration::from_millis(30);
    let mut bench = Bench::new(Params { priority: 200, ..params_v3(interval) });
    bench.until_master();
    let waited = bench.now.since(START);
    assert_eq!(waited, timers::master_down(Version::V3, 200, interval) + interval / 8);
    assert!(waited < Duration::from_millis(110), "{waited:?}");
}

#[test]
fn in_version_3_a_backup_waits_three_of_the_masters_intervals_not_of_its_own() {
    let own = Duration::from_millis(100);
    for masters in [own / 10, own * 10] {
        let mut bench = Bench::new(params_v3(own));
        bench.interval = masters;
        bench.wait(own).hear(9, 200);
        let heard = bench.now;
        assert_eq!(bench.router.master_int(), masters);
        bench.until_master();
        let waited = bench.now.since(heard);
        assert_eq!(waited, timers::master_down(Version::V3, 100, masters) + contend_wait(own));
        let lease_of_master = masters * 5 / 2;
        assert!(waited > lease_of_master, "the old lease is over");
    }
}

#[test]
fn in_version_3_the_skew_after_a_farewell_is_of_the_masters_interval() {
    let (own, masters) = (Duration::from_millis(100), SECOND);
    let mut bench = Bench::new(params_v3(own));
    bench.interval = masters;
    bench.wait(own).hear(9, 200);
    bench.wait(own).hear(9, 0);
    let left = bench.now;
    bench.timeout();
    assert_eq!(bench.now.since(left), timers::skew(Version::V3, 100, masters));
}

#[test]
fn a_quick_claimer_does_not_shorten_the_wait_for_a_slow_owner() {
    let own = Duration::from_millis(30);
    let mut bench = Bench::new(params_v3(own));
    bench.interval = SECOND;
    bench.wait(own).hear(9, 200);
    let deadline = bench.router.poll_deadline();
    bench.interval = own;
    for copy in 0..5 {
        bench.wait(own / 64).hear(33, 150);
        assert_eq!(bench.router.poll_deadline(), deadline, "copy {copy}: the owner's lease may last as long");
    }
    bench.wait(4 * SECOND).hear(33, 150);
    let wait = bench.router.poll_deadline().unwrap().since(bench.now);
    assert_eq!(wait, timers::master_down(Version::V3, 100, own), "by then it is the owner");
}

#[test]
fn a_new_interval_of_the_same_master_is_followed_at_once() {
    let mut bench = Bench::new(params_v3(SECOND));
    bench.wait(SECOND).hear(9, 200);
    bench.interval = SECOND / 10;
    bench.wait(SECOND).hear(9, 200);
    let wait = bench.router.poll_deadline().unwrap().since(bench.now);
    assert_eq!(wait, timers::master_down(Version::V3, 100, SECOND / 10));
}

#[test]
fn short_intervals_shorten_every_wait_of_a_claim_and_keep_their_order() {
    for params in profiles() {
        let router = Router::new(params, START);
        let copies = router.resend_gap() * u32::from(CLAIM_COPIES - 1);
        let interval = params.advert_int;
        assert!(copies < router.contend_wait(), "{interval:?}: all copies before the end of the wait");
        assert!(router.answer_gap() < router.resend_gap(), "{interval:?}: each copy gets an answer");
        assert!(router.contend_wait() < router.claim_wait(), "{interval:?}");
        assert!(router.claim_wait() < interval, "{interval:?}: third routers hear of the new master in time");
    }
}

#[test]
fn a_masters_farewell_shortens_the_wait_to_the_skew() {
    let mut bench = Bench::new(params());
    bench.wait(SECOND).hear(9, 200);
    bench.wait(SECOND).hear(9, 0);
    let left = bench.now;
    assert!(bench.until_master().ends_with("take garp5 Master:MasterLeft"));
    assert_eq!(bench.now.since(left), timers::skew(Version::V2, 100, SECOND) + CONTEND_WAIT);
}

#[test]
fn a_losers_farewell_does_not_make_a_backup_forget_the_living_master() {
    let mut bench = Bench::new(params());
    bench.wait(SECOND).hear(9, 200);
    let deadline = bench.router.poll_deadline();
    bench.wait(SECOND / 10).hear(5, 0);
    assert_eq!(bench.router.poll_deadline(), deadline);
}

#[test]
fn a_living_lower_master_is_asked_first_and_replaced_on_its_acknowledgement() {
    let mut bench = Bench::in_phase("armed");
    assert_eq!(bench.hear(5, 50), "send100");
    assert_eq!(bench.router.state(), State::Backup);
    bench.wait(Duration::from_millis(15));
    assert_eq!(bench.hear(5, 0), "");
    bench.router.handle_timeout(bench.now);
    assert_eq!(actions(&mut bench.router), "send100 take garp5 Master:Preempted");
}

#[test]
fn an_early_acknowledgement_does_not_cut_the_time_for_objections() {
    let mut bench = Bench::in_phase("armed");
    bench.hear(5, 50);
    let claimed = bench.now;
    bench.wait(Duration::from_millis(1)).hear(5, 0);
    bench.until_master();
    assert_eq!(bench.now.since(claimed), CONTEND_WAIT);
}

#[test]
fn a_master_that_never_acknowledges_as_keepalived_is_replaced_after_the_claim_wait() {
    let mut bench = Bench::in_phase("armed");
    bench.hear(5, 50);
    let claimed = bench.now;
    let copies = "send100 ".repeat(usize::from(CLAIM_COPIES) - 1);
    assert_eq!(bench.until_master(), format!("{copies}send100 take garp5 Master:Preempted"));
    assert_eq!(bench.now.since(claimed), CLAIM_WAIT);
}

#[test]
fn a_lower_master_that_falls_silent_before_it_is_claimed_has_lost_its_lease_when_it_is_replaced() {
    let mut bench = Bench::new(params());
    bench.wait(3 * SECOND).hear(5, 50);
    let last_advert = bench.now;
    assert!(bench.until_master().ends_with("Master:Silence"));
    assert!(bench.now.since(last_advert) > LEASE);
}

#[test]
fn a_router_that_never_preempts_lets_a_lower_master_be() {
    let mut bench = Bench::new(Params { preempt: Preempt::Never, ..params() });
    for _ in 0..20 {
        assert_eq!(bench.wait(SECOND).hear(5, 50), "");
        assert_eq!(bench.phase(), "backup");
    }
    assert!(bench.until_master().ends_with("Master:Silence"), "it takes over when the master is gone");
}

#[test]
fn a_backup_with_equal_priority_keeps_waiting() {
    let mut bench = Bench::new(params());
    for _ in 0..20 {
        assert_eq!(bench.wait(SECOND).hear(5, 100), "");
    }
    assert_eq!(bench.phase(), "backup");
}

#[test]
fn a_master_renews_its_lease_with_each_advert_and_only_then() {
    let mut bench = Bench::in_phase("master");
    for _ in 0..3 {
        assert_eq!(bench.timeout(), "send100 renew");
    }
    bench.router.handle_timeout(bench.router.poll_deadline().unwrap());
    assert_eq!(bench.router.poll_action(), Some(Action::Send { priority: 100 }));
    assert_eq!(bench.local(LocalEvent::SendFailed), "", "an advert that did not leave buys no lease");
}

#[test]
fn a_master_whose_adverts_do_not_leave_gives_up_when_the_lease_is_over() {
    let mut bench = Bench::in_phase("master");
    for _ in 0..2 {
        bench.now = bench.router.poll_deadline().unwrap();
        bench.router.handle_timeout(bench.now);
        assert_eq!(bench.router.poll_action(), Some(Action::Send { priority: 100 }));
        assert_eq!(bench.local(LocalEvent::SendFailed), "");
    }
    assert_eq!(bench.timeout(), "drop Backup:SendFailed");
}

#[test]
fn a_claimer_whose_last_advert_does_not_leave_takes_nothing() {
    let mut bench = Bench::in_phase("claiming");
    bench.wait(CLAIM_WAIT);
    bench.router.handle_timeout(bench.now);
    assert_eq!(bench.router.poll_action(), Some(Action::Send { priority: 100 }));
    assert_eq!(bench.local(LocalEvent::SendFailed), "");
    assert_eq!(bench.phase(), "backup");
}

#[test]
fn a_master_that_wakes_after_its_lease_goes_to_backup_in_silence_whatever_wakes_it() {
    for event in ["timeout", "lower", "higher", "leave"] {
        let mut bench = Bench::in_phase("master");
        bench.wait(LEASE);
        assert!(bench.router.overslept(bench.now));
        let done = match event {
            "timeout" => {
                bench.router.handle_timeout(bench.now);
                actions(&mut bench.router)
            }
            other => bench.event(other),
        };
        assert_eq!((bench.phase(), done.as_str()), ("backup", "drop Backup:LateWake"), "woken by {event}");
        let wait = bench.router.poll_deadline().unwrap().since(bench.now);
        assert_eq!(wait, timers::master_down(Version::V2, 100, SECOND));
    }
}

#[test]
fn a_master_that_wakes_late_but_within_its_lease_goes_on() {
    let mut bench = Bench::in_phase("master");
    bench.wait(LEASE - Duration::from_millis(21));
    bench.router.handle_timeout(bench.now);
    assert_eq!(actions(&mut bench.router), "send100 renew");
    assert_eq!(bench.router.poll_deadline(), Some(bench.now + SECOND), "no burst makes up for lost adverts");
}

#[test]
fn the_first_announcement_is_repeated_once_after_the_delay() {
    let mut bench = Bench::in_phase("master");
    let mut garps = Vec::new();
    for _ in 0..20 {
        if bench.timeout().contains("garp5") {
            garps.push(bench.now);
        }
    }
    assert_eq!(garps.len(), 1);
}

#[test]
fn with_a_refresh_the_addresses_are_announced_singly_for_as_long_as_they_are_owned() {
    let garp = Garp { repeat: 5, delay: Duration::ZERO, refresh: Some(10 * SECOND), ..Garp::default() };
    let mut bench = Bench::new(Params { garp, ..params() });
    bench.until_master();
    let done: Vec<_> = (0..44).map(|_| bench.timeout()).filter(|done| done.contains("garp")).collect();
    assert_eq!(done.len(), 4, "{done:?}");
    assert!(done.iter().all(|done| done.contains("garp1")), "{done:?}");
}

#[test]
fn another_owners_traces_are_wiped_by_a_burst_after_its_farewell_too() {
    let mut bench = Bench::in_phase("master");
    bench.wait(SECOND / 2);
    assert_eq!(bench.hear(5, 50), "rival50 send100 renew garp5");
    bench.wait(Duration::from_millis(2));
    assert_eq!(bench.hear(5, 0), "send100 renew", "the second burst waits for the gap between bursts");
    assert_eq!(bench.timeout(), "garp5");
}

#[test]
fn two_masters_that_both_think_they_win_do_not_storm() {
    let mut bench = Bench::in_phase("master");
    let sent: usize =
        (0..1000).map(|_| bench.wait(Duration::from_micros(10)).hear(5, 50).matches("send100").count()).sum();
    assert!((39..=41).contains(&sent), "{sent} answers in 10 ms");
}

#[test]
fn who_lacks_flows_pre_empts_nobody_until_it_has_them_and_has_heard_the_owner_out() {
    for params in profiles() {
        let interval = params.advert_int;
        let mut bench = Bench::in_phase_of(params, "armed");
        bench.local(LocalEvent::CatchingUp(true));
        assert!(bench.router.has_rival(bench.now), "its sync group waits with it");
        for _ in 0..10 {
            assert_eq!(bench.wait(interval).hear(5, 50), "", "{params:?}");
        }
        bench.local(LocalEvent::CatchingUp(false));
        let mut adverts = 0;
        while bench.phase() != "claiming" {
            adverts += 1;
            assert!(adverts < 8, "{:?}", bench.router);
            let next = bench.now + interval;
            while bench.router.poll_deadline().is_some_and(|at| at <= next) && bench.phase() == "backup" {
                bench.timeout();
            }
            bench.now = next;
            bench.hear(5, 50);
        }
    }
}

#[test]
fn who_lacks_flows_replaces_an_owner_that_is_gone_or_leaves_all_the_same() {
    let mut bench = Bench::in_phase("armed");
    bench.local(LocalEvent::CatchingUp(true));
    bench.hear(5, 50);
    assert!(bench.until_master().ends_with("Master:Silence"));
    let mut bench = Bench::in_phase("backup");
    bench.local(LocalEvent::CatchingUp(true));
    bench.hear(9, 0);
    assert!(bench.until_master().ends_with("Master:MasterLeft"));
    let mut alone = Bench::new(Params { priority: PRIORITY_OWNER, ..params() });
    alone.local(LocalEvent::CatchingUp(true));
    assert!(alone.until_master().ends_with("Master:Silence"), "nobody is there to wait for");
}

#[test]
fn who_claims_takes_in_first_what_peers_have_told_of_their_flows_and_waits_for_it_within_a_bound() {
    for params in profiles() {
        let claiming = || {
            let mut bench = Bench::in_phase_of(params, "backup");
            bench.local(LocalEvent::CatchingUp(false));
            let mut said = String::new();
            while bench.phase() != "claiming" {
                said = bench.timeout();
            }
            assert!(said.ends_with("take-in"), "{said}");
            bench
        };
        let wait = contend_wait(params.advert_int);
        let mut prompt = claiming();
        let begun = prompt.now;
        prompt.local(LocalEvent::TakenIn);
        assert!(prompt.until_master().ends_with("Master:Silence"));
        assert_eq!(prompt.now.since(begun), wait, "nobody waits longer for it");
        let mut busy = claiming();
        let begun = busy.now;
        while busy.router.poll_deadline().is_some_and(|at| at <= begun + wait) {
            busy.timeout();
        }
        busy.now = begun + wait + wait / 2;
        busy.router.handle_timeout(busy.now);
        assert_eq!(busy.phase(), "claiming", "{params:?}");
        assert!(busy.local(LocalEvent::TakenIn).contains("Master:Silence"));
        let mut hung = claiming();
        let begun = hung.now;
        assert!(hung.until_master().ends_with("Master:Silence"));
        assert!(hung.now.since(begun) <= params.advert_int / 2);
    }
}

#[test]
fn a_lease_that_was_left_is_gone_on_with_in_the_same_term_and_given_back() {
    let mut router = Router::new(params(), START);
    router.resume(START, START + 30 * SECOND);
    let mut renewed = None;
    let mut said = Vec::new();
    while let Some(action) = router.poll_action() {
        if let Action::RenewLease { until } = action {
            renewed = Some(until);
        }
        said.push(action);
    }
    assert_eq!(renewed, Some(START + LEASE), "the rest of the time is given back");
    let resumed = Action::Entered { state: State::Master, reason: Reason::Resumed };
    assert!(said.contains(&resumed) && said.contains(&Action::Send { priority: 100 }), "{said:?}");
    assert!(!said.iter().any(|a| matches!(a, Action::TakeLease { .. } | Action::DropLease)), "{said:?}");
    assert!(router.is_alone());
    // A peer that came meanwhile and is better takes over by the ordinary rule.
    let advert = Advert { priority: 200, interval: SECOND };
    router.handle_advert(START + SECOND, ip(8), &advert);
    assert_eq!(actions(&mut router), "drop send0 Backup:HigherPriority");
    assert!(!router.is_alone());
}

#[test]
fn a_router_that_is_set_to_something_else_goes_on_in_its_state() {
    let mut bench = Router::new(params(), START);
    bench.handle_timeout(START + 4 * SECOND);
    bench.handle_timeout(START + 5 * SECOND);
    assert_eq!(bench.state(), State::Master);
    actions(&mut bench);
    let set = Router::new(Params { advert_int: SECOND / 2, lease: SECOND, priority: 7, ..params() }, START);
    let now = START + 5 * SECOND + SECOND / 10;
    bench.change(now, &set, true);
    assert_eq!(actions(&mut bench), "send100 renew garp5", "the priority is the trackers'");
    assert_eq!((bench.lease(now), bench.poll_deadline()), (SECOND, Some(now + SECOND / 2)));

    let mut backup = Router::new(params(), START);
    actions(&mut backup);
    backup.change(START, &set, true);
    assert_eq!((backup.state(), actions(&mut backup).as_str()), (State::Backup, ""));
}
