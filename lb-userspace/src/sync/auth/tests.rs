use super::{
    super::testing::{keys, record},
    *,
};

fn hello() -> Message {
    Message::Hello { highest: 1, claims: Vec::new() }
}

fn news(port: u16) -> Message {
    Message::Flows(vec![record(port)])
}

/// Two runs that know each other.
fn open() -> (Session, Session) {
    let (mut a, mut b) = (Session::new(10), Session::new(20));
    let k = keys(&[1]);
    assert_eq!(b.open(&a.seal(&hello(), &k), &k).expect("a greeting").message, None, "presence alone");
    let opened = a.open(&b.seal(&hello(), &k), &k).expect("an answer");
    assert!(opened.begins && opened.greet && opened.message.is_some());
    assert!(b.open(&a.seal(&hello(), &k), &k).expect("an answer").begins);
    assert!(a.is_open() && b.is_open());
    (a, b)
}

fn refused(opened: Result<Opened, Refusal>) -> Refusal {
    opened.expect_err("refused")
}

#[test]
fn after_a_greeting_both_ways_messages_are_taken_and_newer_ones_are_known_to_be() {
    let (mut a, mut b) = open();
    let k = keys(&[1]);
    let first = b.open(&a.seal(&news(1), &k), &k).expect("news");
    let second = b.open(&a.seal(&news(2), &k), &k).expect("news");
    assert_eq!(first.message, Some(news(1)));
    assert!(!first.begins && !first.greet && second.stamp > first.stamp);
}

#[test]
fn who_has_another_key_or_changes_a_bit_is_refused() {
    let (mut a, mut b) = open();
    let (k, other) = (keys(&[1]), Keys::new(&[(1, vec![9; 32])]).expect("a key"));
    assert_eq!(refused(b.open(&a.seal(&news(1), &other), &k)), Refusal::BadTag);
    assert_eq!(refused(b.open(&a.seal(&news(1), &keys(&[3])), &k)), Refusal::UnknownKey);
    let good = a.seal(&news(1), &k);
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let refusal = refused(b.open(&bad, &k));
        assert!(
            matches!(refusal, Refusal::BadTag | Refusal::UnknownKey | Refusal::Malformed | Refusal::Version),
            "bit {bit}: {refusal}"
        );
    }
    for length in 0..good.len() {
        let refusal = refused(b.open(&good[..length], &k));
        assert!(matches!(refusal, Refusal::Malformed | Refusal::BadTag), "{length} bytes: {refusal}");
    }
    assert!(b.open(&good, &k).is_ok(), "the true one is still taken");
    assert_eq!(b.refused()[&Refusal::UnknownKey], 1 + 8, "each is counted");
}

#[test]
fn keys_are_replaced_node_by_node_and_a_removed_one_is_refused() {
    let (mut a, mut b) = open();
    let (old, both, new) = (keys(&[1]), keys(&[2, 1]), keys(&[2]));
    let with_old = a.seal(&news(1), &old);
    assert!(b.open(&with_old, &both).is_ok(), "b knows the new one already");
    assert!(a.open(&b.seal(&news(1), &keys(&[1, 2])), &old).is_ok(), "and still seals with the old one");
    assert!(b.open(&a.seal(&news(2), &both), &new).is_ok());
    assert_eq!(refused(b.open(&a.seal(&news(3), &old), &new)), Refusal::UnknownKey);
}

#[test]
fn a_datagram_is_taken_once_and_out_of_order_only_within_the_window() {
    let (mut a, mut b) = open();
    let k = keys(&[1]);
    let all: Vec<_> = (0..WINDOW as u16 + 10).map(|port| a.seal(&news(port), &k)).collect();
    assert!(b.open(&all[5], &k).is_ok());
    assert!(b.open(&all[3], &k).is_ok(), "late");
    for seen in [3, 5] {
        assert_eq!(refused(b.open(&all[seen], &k)), Refusal::Replayed);
    }
    assert!(b.open(all.last().unwrap(), &k).is_ok());
    assert_eq!(refused(b.open(&all[2], &k)), Refusal::Replayed, "too old to be told from one seen");
    assert!(b.open(&all[11], &k).is_ok());
    assert_eq!(refused(b.open(&all[11], &k)), Refusal::Replayed);
}

#[test]
fn what_was_recorded_before_this_start_or_of_a_run_that_is_over_changes_nothing() {
    let (mut a, mut b) = open();
    let k = keys(&[1]);
    let (recorded, greeting) = (a.seal(&news(1), &k), a.seal(&hello(), &k));
    // b starts anew: a does not know it yet.
    let mut b2 = Session::new(21);
    assert_eq!(refused(b2.open(&recorded, &k)), Refusal::StaleSession);
    let greeted = b2.open(&greeting, &k).expect("a greeting");
    assert_eq!((greeted.message, greeted.begins), (None, false), "presence alone");
    // a starts anew, and everything of its former run is over.
    let mut a2 = Session::new(11);
    assert!(!b.open(&a2.seal(&hello(), &k), &k).expect("a greeting").begins);
    let _ = a2.open(&b.seal(&hello(), &k), &k);
    assert!(b.open(&a2.seal(&hello(), &k), &k).is_ok());
    assert!(a2.open(&b.seal(&hello(), &k), &k).is_ok());
    assert!(b.open(&a2.seal(&news(2), &k), &k).is_ok());
    for old in [&recorded, &greeting, &a.seal(&news(3), &k)] {
        assert_eq!(refused(b.open(old, &k)), Refusal::Replayed);
    }
    let own = b.seal(&hello(), &k);
    assert_eq!(refused(b.open(&own, &k)), Refusal::Replayed, "its own, reflected");
}

#[test]
fn a_session_survives_neither_end_starting_anew_at_once() {
    let k = keys(&[1]);
    let (mut a, mut b) = (Session::new(1), Session::new(2));
    // Greetings cross, and some are lost.
    let (to_b, to_a) = (a.seal(&hello(), &k), b.seal(&hello(), &k));
    assert!(a.open(&to_a, &k).expect("a greeting").greet);
    assert!(b.open(&to_b, &k).expect("a greeting").greet);
    assert!(a.open(&b.seal(&hello(), &k), &k).expect("an answer").begins);
    assert!(b.open(&a.seal(&news(1), &k), &k).expect("any message shows it").begins);
}

#[test]
fn a_run_before_the_present_one_does_not_end_that_however_late_it_is_heard() {
    let k = keys(&[1]);
    let [mut a, mut b1, mut b2] = [1, 2, 3].map(Session::new);
    // The first run has heard of a, and what it says then is long on its way.
    let _ = b1.open(&a.seal(&hello(), &k), &k);
    let delayed = b1.seal(&news(1), &k);
    let _ = b2.open(&a.seal(&hello(), &k), &k);
    assert!(a.open(&b2.seal(&hello(), &k), &k).expect("the present run").begins);
    assert_eq!(refused(a.open_beside(&delayed, &k, true)), Refusal::StaleSession);
    assert!(a.open(&b2.seal(&news(2), &k), &k).is_ok(), "the present run goes on");
}
