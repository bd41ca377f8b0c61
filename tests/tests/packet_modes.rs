//! Packet cases of the forwarding modes besides `nat`: what the backend gets, what comes back, and how far a flow gets of
//! which one direction alone is seen.

use lb_common::{flow::Stage, mode::Mode, reason::Reason};
use lb_ebpf::Action;
use lb_tests::{
    packets::{Datagram, FAMILIES, Family, LO, PORT, Segment, seen},
    pair::{OVER, Pair},
};
use lb_userspace::datapath::tables::Desired;

/// `world` with all its backends in `mode`.
fn in_mode(mut world: Desired, mode: Mode) -> Desired {
    for backend in &mut world.backends {
        backend.mode = mode as u8;
    }
    world
}

fn ack(family: Family, port: u16) -> Segment {
    Segment { seq: 1001, ack: Some(9001), ..Segment::of(family, port) }
}

#[test]
fn dnat_shows_the_client_to_the_backend_and_takes_the_reply_back_through_this_node() {
    for family in FAMILIES {
        let mut p = Pair::new(&in_mode(family.world(3), Mode::Dnat));
        let syn = p.establish_in(family, 40_000);
        assert_eq!((syn.src, syn.dst), ((family.client(), 40_000), (family.backend(0), PORT)));
        let reply = p.receive(&Segment { data: vec![7; 50], ..Segment::answer(&syn) }.frame());
        assert_eq!((reply.reason, reply.action), (Reason::Returned, Action::Route(LO)));
        let reply = seen(&reply.frame);
        assert_eq!((reply.src, reply.dst), ((family.vip(), PORT), (family.client(), 40_000)));
        assert_eq!(p.only_flow().stage(), Stage::Established);
    }
}

#[test]
fn dnat_translates_the_port_and_carries_datagrams() {
    for family in FAMILIES {
        let mut world = in_mode(family.udp_world(1), Mode::Dnat);
        world.backends[0].port = lb_common::addr::Port::new(5353);
        let mut p = Pair::new(&world);
        let there = Datagram::seen(&p.receive(&Datagram::of(family, 40_000).frame()).frame);
        assert_eq!((there.src, there.dst), ((family.client(), 40_000), (family.backend(0), 5353)));
        let back = Datagram::seen(&p.receive(&there.answer().frame()).frame);
        assert_eq!((back.src, back.dst), ((family.vip(), PORT), (family.client(), 40_000)));
    }
}

#[test]
fn dnat_refuses_what_its_backend_could_not_tell_from_another_connection() {
    let mut world = in_mode(Family::V4.world(1), Mode::Dnat);
    let mut other = world.services[0].clone();
    other.port = lb_common::addr::Port::new(3307);
    world.services.push(other);
    let mut p = Pair::new(&world);
    p.establish(40_000);
    let syn = Segment::syn(40_000);
    let refused = p.receive(&Segment { dst: (syn.dst.0, 3307), ..syn }.frame());
    assert_eq!(refused.reason, Reason::SnatPortsExhausted);
    assert!(seen(&refused.frame).rst);
    assert_eq!(
        p.receive(&ack(Family::V4, 40_000).frame()).reason,
        Reason::Forwarded,
        "the first one goes on"
    );
}

#[test]
fn dsr_sends_the_packet_to_the_backend_as_it_is() {
    for family in FAMILIES {
        let mut p = Pair::new(&in_mode(family.world(3), Mode::Dsr));
        let syn = Segment { syn: true, ..Segment::of(family, 40_000) };
        let out = p.receive(&syn.frame());
        let Action::Backend(slot) = out.action else { panic!("{:?}", out.action) };
        assert_eq!(out.reason, Reason::NewFlow);
        assert_eq!(p.host.record(slot).backend, family.backend(0).into());
        assert_eq!(out.frame, Segment { ttl: 63, ..syn }.frame(), "all but the TTL, and its checksum");
        let data = Segment { data: b"SELECT 1".to_vec(), ..ack(family, 40_000) };
        let out = p.receive(&data.frame());
        assert_eq!((out.reason, out.action), (Reason::Forwarded, Action::Backend(slot)));
        assert_eq!(out.frame, Segment { ttl: 63, ..data }.frame());
    }
}

#[test]
fn the_clients_segments_alone_move_a_dsr_flow() {
    let mut p = Pair::new(&in_mode(Family::V4.world(3), Mode::Dsr));
    p.receive(&Segment::syn(40_000).frame());
    assert_eq!(p.only_flow().stage(), Stage::SynSent);
    p.receive(&Segment::syn(40_000).frame());
    assert_eq!(p.only_flow().stage(), Stage::SynSent, "a retransmission is no acknowledgement");
    p.receive(&ack(Family::V4, 40_000).frame());
    let f = p.only_flow();
    assert_eq!((f.stage(), f.client_next, f.backend_next), (Stage::Established, 1001, 9001));
    p.receive(&Segment { fin: true, ..ack(Family::V4, 40_000) }.frame());
    assert_eq!(p.only_flow().stage(), Stage::Closing);
    let again = p.receive(&Segment { seq: 777_000, ..Segment::syn(40_000) }.frame());
    assert_eq!(again.reason, Reason::NewFlow, "the port is free for a new connection");
    let Action::Backend(slot) = again.action else { panic!("{:?}", again.action) };
    assert_eq!(p.host.record(slot).backend, Family::V4.backend(1).into(), "chosen anew");
    p.receive(&Segment { rst: true, ..ack(Family::V4, 40_000) }.frame());
    assert_eq!(p.host.record(slot).stage(), Stage::Closed);
}

#[test]
fn a_dsr_flow_of_datagrams_counts_as_answered_with_its_second_one() {
    for family in FAMILIES {
        let mut p = Pair::new(&in_mode(family.udp_world(1), Mode::Dsr));
        let datagram = Datagram::of(family, 40_000);
        let out = p.receive(&datagram.frame());
        assert_eq!(Datagram::seen(&out.frame), Datagram { ttl: 63, ..datagram.clone() });
        assert_eq!(p.only_flow().stage(), Stage::OneWay);
        p.receive(&datagram.frame());
        assert_eq!(p.only_flow().stage(), Stage::TwoWay);
    }
}

#[test]
fn a_dsr_packet_ends_with_its_ttl_and_without_the_lease() {
    for family in FAMILIES {
        let mut p = Pair::new(&in_mode(family.world(1), Mode::Dsr));
        p.receive(&Segment { syn: true, ..Segment::of(family, 40_000) }.frame());
        let spent = p.receive(&Segment { ttl: 1, ..ack(family, 40_000) }.frame());
        assert_eq!(
            (spent.reason, spent.action),
            (Reason::TtlExpired, Action::Send(LO)),
            "its sender is told"
        );
        p.lease(OVER);
        let late = p.receive(&ack(family, 40_000).frame());
        assert_eq!((late.reason, late.action), (Reason::NotOwner, Action::Drop));
    }
}

#[test]
fn backends_of_one_service_differ_in_mode() {
    let mut world = Family::V4.world(3);
    world.backends[1].mode = Mode::Dnat as u8;
    world.backends[2].mode = Mode::Dsr as u8;
    let mut p = Pair::new(&world);
    let sent = [40_000, 40_001, 40_002].map(|port| seen(&p.receive(&Segment::syn(port).frame()).frame));
    let (client, vip) = (Family::V4.client(), Family::V4.vip());
    assert_eq!(
        sent.map(|s| (s.src.0, s.dst.0)),
        [(vip, Family::V4.backend(0)), (client, Family::V4.backend(1)), (client, vip),]
    );
}
