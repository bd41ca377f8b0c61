//! Half-open flows apart from established ones, and what sequence numbers are asked for: through the host core and the
//! kernel's programs.

use lb_common::{flow::Stage, half_open, reason::Reason};
use lb_ebpf::Action;
use lb_tests::{
    packets::{CLIENT, Datagram, FAMILIES, PORT, Seen, Segment, VIP, backend, seen, world},
    pair::Pair,
};

/// The client's next segment of a connection that `Pair::establish` opened.
fn next(port: u16) -> Segment {
    Segment { seq: 1001, ack: Some(9001), ..Segment::from_client(port) }
}

fn syn_ack(syn: &Seen) -> Segment {
    Segment { syn: true, ..Segment::answer(syn) }
}

#[test]
fn requests_throw_out_only_requests_and_a_client_that_answers_is_served() {
    let mut p = Pair::with_room(&world(3), 16);
    p.establish(30_000);
    let places = half_open::places(16) as u16;
    for port in 0..places + 10 {
        assert_eq!(p.receive(&Segment::syn(31_000 + port).frame()).reason, Reason::NewFlow);
    }
    assert_eq!(p.host.keys.borrow().len(), 2 + 2 * usize::from(places), "half-open flows have a bound");
    assert_eq!(p.host.service_counters(0).displaced, 10);
    assert_eq!(p.receive(&next(30_000).frame()).reason, Reason::Forwarded, "the established one goes on");
    p.establish(30_001);
    assert_eq!(p.receive(&next(30_001).frame()).reason, Reason::Forwarded);
}

#[test]
fn who_does_not_know_the_backends_number_establishes_nothing() {
    let mut p = Pair::new(&world(3));
    let syn = seen(&p.receive(&Segment::syn(40_000).frame()).frame);
    p.receive(&syn_ack(&syn).frame());
    let guess = Segment { ack: Some(9002), ..next(40_000) };
    assert_eq!(p.receive(&guess.frame()).reason, Reason::Forwarded);
    assert_eq!(p.only_flow().stage(), Stage::SynReceived);
    assert_ne!(p.only_flow().place, 0);
    p.receive(&next(40_000).frame());
    assert_eq!((p.only_flow().stage(), p.only_flow().place), (Stage::Established, 0));
}

#[test]
fn a_handshake_that_ends_in_a_full_table_is_refused_and_the_service_counts_it() {
    let mut p = Pair::with_room(&world(3), 1);
    let syn = seen(&p.receive(&Segment::syn(40_000).frame()).frame);
    p.receive(&syn_ack(&syn).frame());
    p.establish(40_001);
    let late = p.receive(&next(40_000).frame());
    assert_eq!((late.reason, seen(&late.frame).rst), (Reason::FlowTableFull, true));
    assert_eq!(seen(&late.frame).seq, 9001, "a number that the client takes");
    let new = p.receive(&Segment::syn(40_002).frame());
    assert_eq!((new.reason, seen(&new.frame).rst), (Reason::FlowTableFull, true));
    assert_eq!(p.host.service_counters(0).refused, 2);
    assert_eq!(p.receive(&next(40_001).frame()).reason, Reason::Forwarded);
}

#[test]
fn datagrams_that_nobody_answers_throw_out_only_their_like() {
    for family in FAMILIES {
        let mut p = Pair::with_room(&family.udp_world(3), 4);
        let first = Datagram::seen(&p.receive(&Datagram::of(family, 30_000).frame()).frame);
        assert_eq!(p.receive(&first.answer().frame()).reason, Reason::Returned);
        for port in 0..70 {
            assert_eq!(p.receive(&Datagram::of(family, 31_000 + port).frame()).reason, Reason::NewFlow);
        }
        assert_eq!(p.host.service_counters(0).displaced, 6);
        assert_eq!(p.receive(&Datagram::of(family, 30_000).frame()).reason, Reason::Forwarded);
        assert_eq!(p.receive(&first.answer().frame()).reason, Reason::Returned);
    }
}

#[test]
fn a_reset_or_fin_with_a_wrong_number_ends_nothing_and_is_left_to_its_receiver() {
    let mut p = Pair::new(&world(3));
    let syn = p.establish(40_000);
    for off in [1 << 30, u32::MAX / 2, 0u32.wrapping_sub(1 << 24)] {
        let client = Segment { seq: 1001u32.wrapping_add(off), ..next(40_000) };
        let server = Segment { seq: 9001u32.wrapping_add(off), ..Segment::answer(&syn) };
        for stray in [client, server] {
            for stray in [Segment { rst: true, ..stray.clone() }, Segment { fin: true, ..stray }] {
                let out = p.receive(&stray.frame());
                assert!(matches!(out.action, Action::Route(_)), "{:?}", out.reason);
                let f = p.only_flow();
                assert_eq!(
                    (f.stage(), f.flags, f.client_next, f.backend_next),
                    (Stage::Established, 0, 1001, 9001)
                );
            }
        }
    }
    let reset = Segment { rst: true, ack: None, ..next(40_000) };
    p.receive(&reset.frame());
    assert_eq!(p.only_flow().stage(), Stage::Closed);
}

#[test]
fn a_backend_that_refuses_ends_the_half_open_flow_if_it_acknowledges_the_syn() {
    let mut p = Pair::new(&world(3));
    let syn = seen(&p.receive(&Segment::syn(40_000).frame()).frame);
    let refusal = Segment { rst: true, seq: 0, ..Segment::answer(&syn) };
    p.receive(&Segment { ack: Some(5), ..refusal.clone() }.frame());
    assert_eq!(p.only_flow().stage(), Stage::SynSent);
    assert_eq!(p.receive(&refusal.frame()).reason, Reason::Returned);
    assert_eq!(p.only_flow().stage(), Stage::Closed);
}

#[test]
fn a_late_syn_goes_to_the_backend_and_moves_nothing() {
    let mut p = Pair::new(&world(3));
    let syn = p.establish(40_000);
    let late = p.receive(&Segment { seq: 0x7000_0000, ..Segment::syn(40_000) }.frame());
    assert_eq!((late.reason, seen(&late.frame).dst), (Reason::Forwarded, syn.dst));
    let f = p.only_flow();
    assert_eq!((f.stage(), f.client_next, f.backend_next), (Stage::Established, 1001, 9001));
}

#[test]
fn a_client_that_begins_anew_before_its_handshake_is_through_gets_a_flow_of_its_own() {
    let mut p = Pair::new(&world(3));
    let first = seen(&p.receive(&Segment::syn(40_000).frame()).frame);
    let anew = p.receive(&Segment { seq: 77_000, ..Segment::syn(40_000) }.frame());
    assert_eq!(anew.reason, Reason::NewFlow);
    let anew = seen(&anew.frame);
    assert_eq!((anew.src.0, anew.dst), (VIP, (backend(1), PORT)));
    assert_eq!(p.host.keys.borrow().len(), 2, "the keys of the first are gone");
    let back = p.receive(&syn_ack(&anew).frame());
    assert_eq!(seen(&back.frame).dst, (CLIENT, 40_000));
    let left = p.receive(&syn_ack(&first).frame());
    assert_eq!(left.reason, Reason::UnknownFlow, "the first leads nowhere");
}

#[test]
fn a_backend_that_answers_a_request_thrown_out_meanwhile_forgets_it_at_once_and_takes_the_next_on_that_port()
{
    let mut p = Pair::new(&world(3));
    let first = seen(&p.receive(&Segment::syn(40_000).frame()).frame);
    p.receive(&Segment { seq: 77_000, ..Segment::syn(40_000) }.frame());
    let left = p.receive(&syn_ack(&first).frame());
    assert_eq!(left.reason, Reason::UnknownFlow);
    let reset = seen(&left.frame);
    assert_eq!((reset.src, reset.dst), (first.src, first.dst), "from whom it knows, to the backend");
    assert_eq!((reset.rst, reset.ack, reset.seq), (true, None, first.seq.wrapping_add(1)), "in its window");
}

#[test]
fn answers_on_ports_that_flows_never_have_and_other_segments_are_left_to_the_nodes_own_stack() {
    let mut p = Pair::new(&world(3));
    let first = seen(&p.receive(&Segment::syn(40_000).frame()).frame);
    p.receive(&Segment { seq: 77_000, ..Segment::syn(40_000) }.frame());
    let others = [
        Segment { dst: (VIP, 45_000), ..syn_ack(&first) },
        Segment { syn: false, ..syn_ack(&first) },
        Segment { rst: true, ..syn_ack(&first) },
    ];
    for other in others {
        assert_eq!(p.receive(&other.frame()).reason, Reason::NoService, "{other:?}");
    }
}
