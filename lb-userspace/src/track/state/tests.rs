use super::*;

fn used(weight: i16, reverse: bool) -> TrackUse {
    TrackUse { track: 0, weight, reverse }
}

#[test]
fn each_weight_means_to_each_reading_what_keepalived_says() {
    use Effect::{Add, Fault};
    use Reading::{Bad, Good, Value};
    for (weight, reverse, reading, expected) in [
        (0, false, Good, Add(0)),
        (0, false, Bad, Fault),
        (0, true, Good, Fault),
        (0, true, Bad, Add(0)),
        (20, false, Good, Add(20)),
        (20, false, Bad, Add(0)),
        (20, true, Good, Add(0)),
        (20, true, Bad, Add(20)),
        (-20, false, Good, Add(0)),
        (-20, false, Bad, Add(-20)),
        (-20, true, Good, Add(-20)),
        (-20, true, Bad, Add(0)),
        (1, false, Value(7), Add(7)),
        (-2, false, Value(7), Add(-14)),
        (-2, true, Value(7), Add(14)),
        (1, false, Value(-253), Add(-253)),
        (1, false, Value(-254), Fault),
        (1, false, Value(i64::MIN), Fault),
        (253, false, Value(i64::MAX), Add(253)),
        (-253, true, Value(i64::MAX), Add(253)),
        (0, false, Value(0), Add(0)),
        (0, false, Value(1), Fault),
        (0, true, Value(0), Fault),
        (0, true, Value(1), Add(0)),
    ] {
        assert_eq!(effect(&used(weight, reverse), reading), expected, "{weight} {reverse} {reading:?}");
    }
}

#[test]
fn the_effective_priority_is_the_sum_within_what_a_backup_may_have() {
    use Effect::{Add, Fault};
    for (base, effects, expected) in [
        (101, &[][..], (101, false)),
        (101, &[Add(-20), Add(5)], (86, false)),
        (101, &[Add(-253)], (1, false)),
        (101, &[Add(253), Add(253)], (254, false)),
        (101, &[Add(253), Add(-253)], (101, false)),
        (101, &[Add(-20), Fault], (81, true)),
        (255, &[Add(-253)], (255, false)),
        (255, &[Fault], (255, true)),
    ] {
        assert_eq!(tracked(base, effects.iter().copied()), expected, "{base} {effects:?}");
    }
}

/// Results and what they make of it, `+` and `-`.
fn streak(mut streak: Streak, results: &str) -> String {
    results.chars().map(|c| if streak.take(c == '+') { '+' } else { '-' }).collect()
}

#[test]
fn rise_and_fall_count_in_a_row_and_the_first_result_decides() {
    for (rise, fall, good, results, expected) in [
        (1, 1, true, "+-+-", "+-+-"),
        (2, 3, true, "-", "-"),
        (2, 3, false, "+", "+"),
        (2, 3, true, "+--+---", "++++++-"),
        (2, 3, true, "-+-++", "----+"),
    ] {
        assert_eq!(streak(Streak::fresh(rise, fall, good), results), expected, "{results}");
    }
    assert_eq!(streak(Streak::settled(3, 3, true), "--+---+++"), "+++++---+");
}

#[test]
fn a_change_counts_once_it_has_lasted_and_the_first_look_at_once() {
    let start = Instant::now();
    let at = |s| start + Duration::from_secs(s);
    let mut lasting = Lasting::new(Duration::from_secs(3));
    assert!(!lasting.take(at(0), false), "the first look");
    assert!(!lasting.take(at(1), true));
    assert!(!lasting.take(at(3), true));
    assert!(!lasting.take(at(3), false), "it went back: the count starts anew");
    assert!(!lasting.take(at(4), true));
    assert!(lasting.take(at(7), true));
    assert!(lasting.take(at(8), false));
    let mut at_once = Lasting::new(Duration::ZERO);
    assert!(at_once.take(at(0), true));
    assert!(!at_once.take(at(0), false));
}

#[test]
fn a_quorum_is_reached_above_its_hysteresis_and_lost_below() {
    let mut quorum = Quorum::new(3, 1);
    let seen: Vec<bool> = [0, 3, 4, 3, 2, 1, 3, 4].map(|n| quorum.take(n)).into();
    assert_eq!(seen, [false, false, true, true, true, false, false, true]);
    assert!(Quorum::new(3, 1).take(3), "the first count is judged as it is");
    let mut plain = Quorum::new(1, 0);
    assert_eq!([0, 1, 0].map(|n| plain.take(n)), [false, true, false]);
}
