use super::*;
use crate::config::model::CheckKind;

fn check(rise: u32, fall: u32) -> Check {
    Check {
        kind: CheckKind::Tcp,
        port: None,
        interval: Duration::from_secs(2),
        fast_interval: Duration::from_millis(500),
        timeout: Duration::from_secs(1),
        rise,
        fall,
    }
}

/// Feeds `+` (pass), `-` (failure), `f` (full), `d` (drain), `m` (maintenance), `s` (says it is down); returns the
/// first letter of the state after each, `D` for drain.
fn states(rise: u32, fall: u32, results: &str) -> String {
    let now = Instant::now();
    let mut backend = Backend::new(&check(rise, fall), 1);
    let mut feed = |result| {
        let result = match result {
            '+' => Ok(Duration::ZERO),
            'f' => Err(Failure::Full),
            'd' => Err(Failure::Drain("drain".into())),
            'm' => Err(Failure::Maint("maint".into())),
            's' => Err(Failure::Said("stopped".into())),
            _ => Err(Failure::Refused),
        };
        let before = backend.state();
        let transition = backend.handle_result(now, result);
        assert_eq!(transition.map(|t| t.to), (before != backend.state()).then_some(backend.state()));
        match backend.state() {
            State::Drain => 'D',
            state => state.as_str().chars().next().unwrap(),
        }
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
        (2, 3, "+f", "uf", "a full server says so itself"),
        (2, 3, "f", "f", "also before anything else was heard"),
        (2, 3, "+ff++", "ufffu", "`rise` passes show that there is room again"),
        (2, 3, "+f---", "ufffd", "a full one that vanishes is down after `fall`"),
        (2, 3, "+f--+--+-", "uffffffff", "passes and failures are counted apart"),
        (2, 3, "+d+d++", "uDDDDu", "a drain ends with passes in a row"),
        (2, 3, "+dm", "uDm", "maintenance follows drain at once"),
        (2, 3, "-df", "dDf", "one that is alive again is not down"),
        (2, 3, "+s", "ud", "a server that calls itself down is believed"),
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
    backend.handle_result(now, Err(Failure::Closed));
    assert_eq!(backend.cause(), Some(&Failure::Closed));
    backend.handle_result(now, Ok(Duration::ZERO));
    assert_eq!(backend.cause(), Some(&Failure::Closed), "one pass of two does not excuse it");
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
fn while_results_speak_against_the_state_checks_follow_each_other_faster() {
    let start = Instant::now();
    let mut backend = Backend::new(&check(2, 2), 7);
    let gap = |backend: &mut Backend| (backend.next_check(start, start) - start).as_millis();
    let (slow, fast) = (1_900..=2_100, 475..=525);
    backend.handle_result(start, Ok(Duration::ZERO));
    assert!(slow.contains(&gap(&mut backend)), "settled");
    backend.handle_result(start, Err(Failure::Refused));
    assert!(fast.contains(&gap(&mut backend)), "one failure of two");
    backend.handle_result(start, Err(Failure::Refused));
    assert!(slow.contains(&gap(&mut backend)), "down for good");
    backend.handle_result(start, Ok(Duration::ZERO));
    assert!(fast.contains(&gap(&mut backend)), "one pass of two");
}

#[test]
fn checks_that_are_hurried_follow_each_other_faster_as_often_as_could_change_the_state() {
    let start = Instant::now();
    let mut backend = Backend::new(&check(2, 3), 7);
    backend.handle_result(start, Ok(Duration::ZERO));
    backend.hurry();
    let mut gaps = Vec::new();
    for _ in 0..4 {
        backend.handle_result(start, Ok(Duration::ZERO));
        gaps.push((backend.next_check(start, start) - start).as_millis() < 1_000);
    }
    assert_eq!(gaps, [true, true, false, false], "the first of three is made at once");
}

#[test]
fn a_late_check_is_made_at_once_and_not_made_up_for() {
    let due = Instant::now();
    let now = due + Duration::from_secs(60);
    let mut backend = Backend::new(&check(1, 1), 7);
    assert_eq!(backend.next_check(due, now), now);
    assert!(backend.next_check(now, now) > now, "one late check, not thirty");
}
