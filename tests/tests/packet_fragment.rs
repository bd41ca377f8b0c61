//! Fragments, and packets with IPv6 extension headers.

use lb_common::{flow::Stage, reason::Reason};
use lb_ebpf::Action;
use lb_tests::packets::{
    Datagram, FAMILIES, Family, LO, PORT, Segment, fragments, reassembled, seen, with_extensions,
    without_extensions,
};
use lb_tests::pair::{OVER, Pair};

fn long(family: Family) -> Datagram {
    Datagram { data: (0..4000).map(|i| (i * 7 + i / 251) as u8).collect(), ..Datagram::of(family, 40_000) }
}

/// Sends fragments through; gives what they make up, and the first one's reason.
fn sent(p: &mut Pair, frames: &[Vec<u8>], rest: Reason) -> (Reason, Vec<u8>) {
    let out: Vec<_> = frames.iter().map(|f| p.receive(f)).collect();
    for o in &out {
        assert_eq!(o.action, Action::Route(LO), "{:?}", o.reason);
    }
    assert!(out[1..].iter().all(|o| o.reason == rest));
    (out[0].reason, reassembled(&out.into_iter().map(|o| o.frame).collect::<Vec<_>>()))
}

#[test]
fn a_fragmented_datagram_opens_a_flow_and_its_answer_comes_back() {
    for family in FAMILIES {
        let mut p = Pair::new(&family.udp_world(3));
        let (reason, whole) =
            sent(&mut p, &fragments(&long(family).frame(), 1448, 0xbeef), Reason::Forwarded);
        let there = Datagram::seen(&whole);
        assert_eq!((reason, there.dst, there.ttl), (Reason::NewFlow, (family.backend(0), PORT), 63));
        assert_eq!((there.src.0, &there.data), (family.vip(), &long(family).data));
        assert_eq!(p.host.service_counters(0).forward.packets, 3);

        let answer = Datagram { data: long(family).data, ..there.answer() };
        let (reason, whole) = sent(&mut p, &fragments(&answer.frame(), 1448, 0xbeef), Reason::Returned);
        let back = Datagram::seen(&whole);
        assert_eq!(
            (reason, back.src, back.dst),
            (Reason::Returned, (family.vip(), PORT), (family.client(), 40_000))
        );
        assert_eq!(back.data, answer.data);
        assert_eq!(p.only_flow().stage(), Stage::TwoWay);
    }
}

#[test]
fn a_fragmented_segment_follows_its_connection() {
    for family in FAMILIES {
        let mut p = Pair::new(&family.world(3));
        p.establish_in(family, 40_000);
        let data = vec![9; 3000];
        let segment = Segment { seq: 1001, ack: Some(9001), data, ..Segment::of(family, 40_000) };
        let (reason, whole) = sent(&mut p, &fragments(&segment.frame(), 1480, 7), Reason::Forwarded);
        let seen = seen(&whole);
        assert_eq!((reason, seen.dst, seen.data), (Reason::Forwarded, (family.backend(0), PORT), 3000));
    }
}

#[test]
fn a_fragment_before_the_first_is_dropped_and_counted() {
    for family in FAMILIES {
        let mut p = Pair::new(&family.udp_world(3));
        let frames = fragments(&long(family).frame(), 1448, 1);
        for f in &frames[1..] {
            let out = p.receive(f);
            assert_eq!((out.reason, out.action), (Reason::Fragment, Action::Drop));
        }
        // That of another datagram does not follow either.
        p.receive(&frames[0]);
        let other = fragments(&long(family).frame(), 1448, 2);
        assert_eq!(p.receive(&other[1]).reason, Reason::Fragment);
        assert_eq!(p.receive(&frames[1]).reason, Reason::Forwarded);
        let elsewhere = Datagram { dst: (family.backend(7), PORT), ..long(family) };
        for f in fragments(&elsewhere.frame(), 1448, 1) {
            assert_eq!(p.receive(&f).reason, Reason::NotVirtual);
        }
    }
}

#[test]
fn a_first_fragment_without_a_whole_transport_header_is_dropped() {
    for family in FAMILIES {
        let mut p = Pair::new(&family.world(3));
        let out =
            p.receive(&fragments(&Segment { syn: true, ..Segment::of(family, 40_000) }.frame(), 16, 1)[0]);
        assert_eq!((out.reason, out.action), (Reason::Malformed, Action::Drop));
    }
}

#[test]
fn without_the_lease_no_fragment_passes() {
    for family in FAMILIES {
        let mut p = Pair::new(&family.udp_world(3));
        let frames = fragments(&long(family).frame(), 1448, 1);
        p.receive(&frames[0]);
        p.lease(OVER);
        for f in &frames {
            let out = p.receive(f);
            assert_eq!((out.reason, out.action), (Reason::NotOwner, Action::Drop));
        }
    }
}

/// Hop-by-hop options, destination options and a used-up routing header, padded to eight bytes each.
fn options() -> Vec<(u8, Vec<u8>)> {
    let padding = vec![0, 0, 1, 4, 0, 0, 0, 0];
    vec![(0, padding.clone()), (60, padding.clone()), (43, vec![0; 8]), (60, padding)]
}

#[test]
fn segments_behind_extension_headers_reach_their_flow() {
    let mut p = Pair::new(&Family::V6.world(3));
    let syn = Segment { syn: true, ..Segment::of(Family::V6, 40_000) };
    let out = p.receive(&with_extensions(&syn.frame(), &options()));
    assert_eq!((out.reason, out.action), (Reason::NewFlow, Action::Route(LO)));
    let there = seen(&without_extensions(&out.frame, 32, 6));
    assert_eq!((there.dst, there.ttl), ((Family::V6.backend(0), PORT), 63));
    let answer = Segment { syn: true, ..Segment::answer(&there) }.frame();
    assert_eq!(p.receive(&with_extensions(&answer, &options()[1..2])).reason, Reason::Returned);
    let stray = Segment { ack: Some(5), ..Segment::of(Family::V6, 40_001) };
    let refused = p.receive(&with_extensions(&stray.frame(), &options()));
    let reset = seen(&refused.frame);
    assert_eq!((refused.reason, reset.rst, reset.seq), (Reason::UnknownFlow, true, 5));
    assert_eq!(reset.dst, (Family::V6.client(), 40_001));
}

#[test]
fn headers_that_lead_on_to_nothing_known_are_left_to_the_nodes_own_stack() {
    let mut p = Pair::new(&Family::V6.world(3));
    let syn = Segment { syn: true, ..Segment::of(Family::V6, 40_000) }.frame();
    let segments_left = vec![(43, vec![0, 0, 0, 1, 0, 0, 0, 0])];
    let authentication = vec![(51, vec![0; 8])];
    let too_many = vec![(60, vec![0; 8]); 7];
    for headers in [segments_left, authentication, too_many] {
        let out = p.receive(&with_extensions(&syn, &headers));
        assert_eq!((out.reason, out.action), (Reason::IpOptions, Action::Pass));
    }
    let beyond = vec![(60, vec![0, 200, 0, 0, 0, 0, 0, 0])];
    assert_eq!(p.receive(&with_extensions(&syn, &beyond)).reason, Reason::Malformed);
}
