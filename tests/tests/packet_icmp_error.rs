//! ICMP errors about packets of flows: they reach the end that sent the packet, and speak of the packet that it sent.

use lb_common::reason::Reason;
use lb_ebpf::Action;
use lb_tests::packets::{Datagram, Error, FAMILIES, Family, LO, Segment};
use lb_tests::pair::{OVER, Pair};

/// All of a packet, and the least that a router quotes.
const QUOTED: [usize; 2] = [1500, 28];

fn least(family: Family, keep: usize) -> usize {
    if family == Family::V6 && keep == 28 { 48 } else { keep }
}

/// A segment of the client as it leaves, and as it reaches the backend's side.
fn client_sends(p: &mut Pair, family: Family) -> (Segment, Vec<u8>) {
    let segment = Segment { seq: 1001, ack: Some(9001), data: vec![7; 1001], ..Segment::of(family, 40_000) };
    let out = p.receive(&segment.frame());
    assert_eq!(out.reason, Reason::Forwarded);
    (segment, out.frame)
}

#[test]
fn an_error_about_what_a_client_sent_reaches_the_client() {
    for (family, keep) in FAMILIES.into_iter().flat_map(|f| QUOTED.map(|keep| (f, least(f, keep)))) {
        let mut p = Pair::new(&family.world(3));
        p.establish_in(family, 40_000);
        let (sent, forwarded) = client_sends(&mut p, family);
        let error = Error::too_big(family, &forwarded, keep);
        let out = p.receive(&error.frame());
        assert_eq!((out.reason, out.action), (Reason::ErrorForwarded, Action::Route(LO)), "{family:?}");
        let sent = Segment { ttl: 63, ..sent }.frame();
        let expected = Error {
            src: family.vip(),
            dst: family.client(),
            ttl: 59,
            quoted: sent[14..].iter().copied().take(keep).collect(),
            ..error
        };
        assert_eq!(Error::seen(&out.frame), expected, "{family:?}, {keep} bytes quoted");
    }
}

#[test]
fn an_error_about_what_a_backend_sent_reaches_the_backend() {
    for (family, keep) in FAMILIES.into_iter().flat_map(|f| QUOTED.map(|keep| (f, least(f, keep)))) {
        let mut p = Pair::new(&family.world(3));
        let syn = p.establish_in(family, 40_000);
        let sent = Segment { seq: 9001, data: vec![7; 1400], ..Segment::answer(&syn) };
        let returned = p.receive(&sent.frame()).frame;
        let error = Error::too_big(family, &returned, keep);
        let out = p.receive(&error.frame());
        assert_eq!((out.reason, out.action), (Reason::ErrorForwarded, Action::Route(LO)), "{family:?}");
        let sent = Segment { ttl: 63, ..sent }.frame();
        let expected = Error {
            src: family.vip(),
            dst: family.backend(0),
            ttl: 59,
            quoted: sent[14..].iter().copied().take(keep).collect(),
            ..error
        };
        assert_eq!(Error::seen(&out.frame), expected, "{family:?}, {keep} bytes quoted");
    }
}

#[test]
fn a_datagrams_errors_of_every_kind_are_brought_back() {
    for family in FAMILIES {
        let kinds: &[[u8; 2]] = match family {
            Family::V4 => &[[3, 0], [3, 1], [3, 3], [3, 4], [3, 13], [11, 0], [11, 1], [12, 0]],
            Family::V6 => &[[1, 0], [1, 4], [2, 0], [3, 0], [3, 1], [4, 0], [4, 1]],
        };
        let mut p = Pair::new(&family.udp_world(3));
        let sent = Datagram { ttl: 63, ..Datagram::of(family, 40_000) };
        let forwarded = p.receive(&Datagram::of(family, 40_000).frame()).frame;
        for what in kinds {
            let error = Error::too_big(family, &forwarded, 1500);
            let rest = if *what == error.what { error.rest } else { [0; 4] };
            let error = Error { what: *what, rest, ..error };
            let out = p.receive(&error.frame());
            assert_eq!(out.reason, Reason::ErrorForwarded, "{what:?}");
            let seen = Error::seen(&out.frame);
            assert_eq!((seen.what, seen.dst), (*what, family.client()));
            assert_eq!(seen.quoted, sent.frame()[14..], "{what:?}");
        }
    }
}

#[test]
fn a_quoted_datagram_without_checksum_stays_without() {
    let mut p = Pair::new(&Family::V4.udp_world(1));
    let mut sent = Datagram::of(Family::V4, 40_000).frame();
    sent[40..42].fill(0);
    let forwarded = p.receive(&sent).frame;
    let out = p.receive(&Error::too_big(Family::V4, &forwarded, 1500).frame());
    let seen = Error::seen(&out.frame);
    assert_eq!((out.reason, &seen.quoted[26..28]), (Reason::ErrorForwarded, &[0, 0][..]));
}

#[test]
fn an_error_about_no_flow_is_left_to_the_nodes_own_stack() {
    for family in FAMILIES {
        let mut p = Pair::new(&family.world(3));
        let (src, dst) = ((family.vip(), 2000), (family.backend(0), 3306));
        let foreign = Segment { src, dst, ..Segment::of(family, 0) }.frame();
        let out = p.receive(&Error::too_big(family, &foreign, 1500).frame());
        assert_eq!((out.reason, out.action), (Reason::ErrorUnknownFlow, Action::Pass));
        let elsewhere = Error { dst: family.backend(7), ..Error::too_big(family, &foreign, 1500) };
        assert_eq!(p.receive(&elsewhere.frame()).reason, Reason::NotVirtual);
    }
}

#[test]
fn an_error_addressed_to_another_than_the_quoted_source_is_not_believed() {
    for family in FAMILIES {
        let mut p = Pair::new(&family.world(3));
        p.establish_in(family, 40_000);
        let (_, forwarded) = client_sends(&mut p, family);
        let error = Error { dst: family.backend(9), ..Error::too_big(family, &forwarded, 1500) };
        let out = p.receive(&error.frame());
        assert_eq!((out.reason, out.action), (Reason::NotVirtual, Action::Pass));
    }
}

#[test]
fn a_guessed_error_about_sequence_numbers_that_were_not_sent_is_dropped() {
    for family in FAMILIES {
        let mut p = Pair::new(&family.world(3));
        p.establish_in(family, 40_000);
        let (_, forwarded) = client_sends(&mut p, family);
        let header = if family == Family::V4 { 20 } else { 40 };
        for (seq, reason) in [
            (1001u32, Reason::ErrorForwarded),
            (2002, Reason::ErrorForwarded),
            (2003, Reason::ErrorOutsideWindow),
            (2002u32.wrapping_sub((64 << 20) + 1), Reason::ErrorOutsideWindow),
        ] {
            let mut error = Error::too_big(family, &forwarded, 1500);
            error.quoted[header + 4..header + 8].copy_from_slice(&seq.to_be_bytes());
            assert_eq!(p.receive(&error.frame()).reason, reason, "{seq}");
        }
    }
}

#[test]
fn quotations_that_are_cut_short_or_of_other_protocols_reach_no_flow() {
    for family in FAMILIES {
        let mut p = Pair::new(&family.world(3));
        p.establish_in(family, 40_000);
        let (_, forwarded) = client_sends(&mut p, family);
        let header = if family == Family::V4 { 20 } else { 40 };
        for keep in [0, 8, header - 1, header, header + 7] {
            let out = p.receive(&Error::too_big(family, &forwarded, keep).frame());
            assert_eq!((out.reason, out.action), (Reason::Malformed, Action::Drop), "{keep} bytes");
        }
        let mut error = Error::too_big(family, &forwarded, 1500);
        error.quoted[if family == Family::V4 { 9 } else { 6 }] = 50;
        assert_eq!(p.receive(&error.frame()).reason, Reason::NoService);
        let mut options = Error::too_big(family, &forwarded, 1500);
        options.quoted[0] = if family == Family::V4 { 0x46 } else { 0x50 };
        assert_eq!(p.receive(&options.frame()).reason, Reason::NoService);
    }
}

#[test]
fn without_the_lease_no_error_passes_and_a_spent_one_goes_no_further() {
    for family in FAMILIES {
        let mut p = Pair::new(&family.world(3));
        p.establish_in(family, 40_000);
        let (_, forwarded) = client_sends(&mut p, family);
        let error = Error::too_big(family, &forwarded, 1500);
        let spent = Error { ttl: 1, ..error.clone() };
        assert_eq!(p.receive(&spent.frame()).reason, Reason::TtlExpired);
        p.lease(OVER);
        let out = p.receive(&error.frame());
        assert_eq!((out.reason, out.action), (Reason::NotOwner, Action::Drop));
    }
}
