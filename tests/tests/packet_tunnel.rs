//! Packet cases of the mode `tunnel`: what surrounds a packet on its way to the backend, what fits in, and what becomes of what
//! does not.

use lb_common::{flow::Stage, mode::Mode, reason::Reason, service::NO_CLAMP};
use lb_ebpf::Action;
use lb_tests::{
    packets::{
        COMBINATIONS, Datagram, Error, Family, LO, Outer, Segment, fix_ip_checksum, fragments, mss,
        udp_world_between, world_between,
    },
    pair::{OVER, Pair},
};

const MTU: u16 = 1500;

fn tunnel(client: Family, backend: Family) -> Pair {
    Pair::new(&world_between(client, backend, Mode::Tunnel, MTU))
}

fn syn(client: Family) -> Segment {
    Segment { syn: true, ..Segment::of(client, 40_000) }
}

fn ack(client: Family) -> Segment {
    Segment { seq: 1001, ack: Some(9001), ..Segment::of(client, 40_000) }
}

fn header(family: Family) -> usize {
    if family == Family::V4 { 20 } else { 40 }
}

/// A packet of `length` bytes, from its IP header on.
fn long(client: Family, length: usize) -> Segment {
    Segment { data: vec![7; length - header(client) - 20], ..ack(client) }
}

#[test]
fn a_packet_travels_whole_inside_of_another_of_either_family() {
    for (client, backend) in COMBINATIONS {
        let mut p = tunnel(client, backend);
        let opened = p.receive(&syn(client).frame());
        assert_eq!(
            (opened.reason, opened.action),
            (Reason::NewFlow, Action::Route(LO)),
            "{client:?} {backend:?}"
        );
        let data = Segment { data: b"SELECT 1".to_vec(), ..ack(client) };
        let out = p.receive(&data.frame());
        assert_eq!((out.reason, out.action), (Reason::Forwarded, Action::Route(LO)));
        let outer = Outer::seen(&out.frame);
        assert_eq!(outer.addrs, (backend.backend(7), backend.backend(0)));
        assert_eq!((outer.ttl, outer.class, outer.whole), (64, 0, true));
        assert_eq!(outer.label != 0, backend == Family::V6, "a label spreads flows");
        assert_eq!(outer.inner, Segment { ttl: 63, ..data }.frame(), "as it was, one hop later");
        assert_eq!(p.only_flow().stage(), Stage::Established);
        assert_eq!(p.host.keys.borrow().len(), 1, "what the backend answers does not come by");
    }
}

#[test]
fn a_tunnels_flow_counts_each_packet_once() {
    let mut p = tunnel(Family::V4, Family::V6);
    p.receive(&syn(Family::V4).frame());
    p.receive(&ack(Family::V4).frame());
    assert_eq!([Reason::NewFlow, Reason::Forwarded].map(|r| p.host.counted(r)), [1, 1]);
    let counted = p.host.service_counters(0);
    assert_eq!((counted.flows, counted.forward.packets), (1, 2));
}

#[test]
fn the_traffic_class_and_a_congestion_mark_are_copied_to_the_outer_packet() {
    for (client, backend) in COMBINATIONS {
        let mut p = tunnel(client, backend);
        let mut frame = syn(client).frame();
        if client == Family::V4 {
            frame[15] = 0xbb;
            fix_ip_checksum(&mut frame);
        } else {
            (frame[14], frame[15]) = (0x6b, 0xb0);
        }
        assert_eq!(Outer::seen(&p.receive(&frame).frame).class, 0xbb, "{client:?} {backend:?}");
    }
}

#[test]
fn datagrams_go_into_the_tunnel_from_the_first_on() {
    for (client, backend) in COMBINATIONS {
        let mut p = Pair::new(&udp_world_between(client, backend, Mode::Tunnel, MTU));
        let datagram = Datagram::of(client, 40_000);
        for stage in [Stage::OneWay, Stage::TwoWay] {
            let outer = Outer::seen(&p.receive(&datagram.frame()).frame);
            assert_eq!(Datagram::seen(&outer.inner), Datagram { ttl: 63, ..datagram.clone() });
            assert_eq!(p.only_flow().stage(), stage);
        }
    }
}

#[test]
fn what_just_fits_goes_through_and_one_byte_more_is_answered_with_the_size_that_does() {
    for (client, backend) in COMBINATIONS {
        let mut p = tunnel(client, backend);
        p.receive(&syn(client).frame());
        p.receive(&ack(client).frame());
        let fits = usize::from(MTU) - header(backend);
        let out = p.receive(&long(client, fits).frame());
        assert_eq!((out.reason, out.frame.len()), (Reason::Forwarded, 14 + usize::from(MTU)));
        let before = p.host.service_counters(0);
        let sent = long(client, fits + 1).frame();
        let out = p.receive(&sent);
        assert_eq!((out.reason, out.action), (Reason::TooBig, Action::Send(LO)), "{client:?} {backend:?}");
        let error = Error::seen(&out.frame);
        let (what, quoted) = if client == Family::V4 { ([3, 4], 548) } else { ([2, 0], 1232) };
        assert_eq!((error.src, error.dst, error.what, error.ttl), (client.vip(), client.client(), what, 64));
        assert_eq!(error.rest, (fits as u32).to_be_bytes());
        assert_eq!(error.quoted, sent[14..14 + quoted], "as it came");
        assert_eq!(p.host.service_counters(0), before, "not counted as forwarded");
    }
}

#[test]
fn an_ipv6_sender_is_never_told_less_than_every_ipv6_link_takes() {
    let mut p = Pair::new(&world_between(Family::V6, Family::V4, Mode::Tunnel, 1290));
    p.receive(&syn(Family::V6).frame());
    let out = p.receive(&long(Family::V6, 1400).frame());
    assert_eq!((out.reason, Error::seen(&out.frame).rest), (Reason::TooBig, [0, 0, 5, 0]));
}

#[test]
fn a_syn_asks_for_no_larger_segments_than_fit_the_tunnel() {
    for (client, backend) in COMBINATIONS {
        let fitting = MTU - header(backend) as u16 - header(client) as u16 - 20;
        let mut world = world_between(client, backend, Mode::Tunnel, MTU);
        let mut p = Pair::new(&world);
        for (port, (setting, asked)) in
            (40_000..).zip([(0, fitting), (NO_CLAMP, 1460), (1000, 1000), (1461, 1460)])
        {
            world.paths[0].mss = setting;
            p.publish(&world);
            let out = p.receive(&Segment { src: (client.client(), port), ..syn(client) }.frame());
            assert_eq!(mss(&Outer::seen(&out.frame).inner), Some(asked), "{client:?} {backend:?} {setting}");
        }
    }
}

#[test]
fn fragments_go_into_the_tunnel_as_they_are() {
    for (client, backend) in COMBINATIONS {
        let mut p = Pair::new(&udp_world_between(client, backend, Mode::Tunnel, MTU));
        let datagram = Datagram { data: vec![9; 2000], ..Datagram::of(client, 40_000) };
        let sent = fragments(&datagram.frame(), 1000, 77);
        assert!(sent.len() > 1);
        for (i, fragment) in sent.iter().enumerate() {
            let out = p.receive(fragment);
            assert_eq!(out.reason, if i == 0 { Reason::NewFlow } else { Reason::Forwarded });
            let (inner, mut expected) = (Outer::seen(&out.frame).inner, fragment.clone());
            if client == Family::V4 {
                expected[22] -= 1;
                fix_ip_checksum(&mut expected);
            } else {
                expected[21] -= 1;
            }
            assert_eq!(inner, expected, "{client:?} {backend:?} {i}");
        }
    }
}

#[test]
fn an_error_about_what_the_backend_sent_follows_into_the_tunnel() {
    for (client, backend) in COMBINATIONS {
        let mut p = tunnel(client, backend);
        p.receive(&syn(client).frame());
        p.receive(&ack(client).frame());
        let answer = Segment { seq: 9001, src: ack(client).dst, dst: ack(client).src, ..ack(client) };
        let error = Error::too_big(client, &answer.frame(), 1500);
        let out = p.receive(&error.frame());
        assert_eq!(
            (out.reason, out.action),
            (Reason::ErrorForwarded, Action::Route(LO)),
            "{client:?} {backend:?}"
        );
        let inner = Error::seen(&Outer::seen(&out.frame).inner);
        assert_eq!(inner, Error { ttl: error.ttl - 1, ..error });
    }
}

#[test]
fn a_tunnel_ends_with_the_ttl_and_without_the_lease() {
    for (client, backend) in COMBINATIONS {
        let mut p = tunnel(client, backend);
        p.receive(&syn(client).frame());
        let spent = p.receive(&Segment { ttl: 1, ..ack(client) }.frame());
        assert_eq!((spent.reason, spent.action), (Reason::TtlExpired, Action::Send(LO)));
        p.lease(OVER);
        for late in [ack(client), long(client, 1500)] {
            let late = p.receive(&late.frame());
            assert_eq!((late.reason, late.action), (Reason::NotOwner, Action::Drop));
        }
    }
}

#[test]
fn without_an_address_of_its_own_in_the_backends_family_no_flow_is_opened() {
    let mut world = world_between(Family::V4, Family::V6, Mode::Tunnel, MTU);
    world.paths[0].source = Family::V4.backend(7).into();
    let mut p = Pair::new(&world);
    assert_eq!(p.receive(&syn(Family::V4).frame()).reason, Reason::BackendMissing);
    assert_eq!(p.host.keys.borrow().len(), 0);
}
