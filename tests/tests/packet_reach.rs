//! Packet cases of services that are more than one port of a virtual address: ranges of ports, the node's own addresses,
//! and those that this node's own stack serves.

use lb_common::{addr::Port, flow::Stage, mode::Mode, reach::NO_ROUTER, reason::Reason, service::Vip};
use lb_ebpf::Action;
use lb_tests::{
    packets::{
        Datagram, FAMILIES, Family, LO, PORT, Segment, arp_request, echo_request, fragments, seen,
        solicitation,
    },
    pair::{FOREVER, OVER, Pair},
};
use lb_userspace::datapath::tables::{Desired, DesiredService};

/// `world` with a second service on `first..=last`, whose backends keep the client's port.
fn with_range(mut world: Desired, first: u16, last: u16) -> Desired {
    let kept = world.backends.len() as u32;
    let keep = world.backends.iter().map(|b| lb_common::service::Backend { port: Port::default(), ..*b });
    let keep: Vec<_> = keep.collect();
    world.backends.extend(keep);
    let ring = world.services[0].ring.iter().map(|b| b + kept).collect();
    let (port, last) = (Port::new(first), Some(Port::new(last)));
    let range = DesiredService { port, last, ring, ..world.services[0].clone() };
    world.services.push(range);
    world
}

/// `world` on an address of the node's own.
fn own(mut world: Desired) -> Desired {
    world.vips.iter_mut().for_each(|(_, vip)| *vip = Vip::OWN);
    world.services.iter_mut().for_each(|s| s.router = NO_ROUTER);
    world
}

/// `world` with the node's own stack as backend.
fn local(mut world: Desired) -> Desired {
    world.backends.iter_mut().for_each(|b| (b.mode, b.port) = (Mode::Local as u8, Port::default()));
    world
}

fn to(segment: Segment, port: u16) -> Segment {
    Segment { dst: (segment.dst.0, port), ..segment }
}

#[test]
fn each_port_of_a_range_reaches_the_same_port_of_a_backend_and_no_other_does() {
    for family in FAMILIES {
        let mut p = Pair::new(&with_range(family.world(1), 30_000, 30_100));
        for port in [30_000, 30_001, 30_063, 30_064, 30_100] {
            let syn = to(Segment { syn: true, ..Segment::of(family, 40_000) }, port);
            let there = p.receive(&syn.frame());
            assert_eq!(
                (there.reason, there.action),
                (Reason::NewFlow, Action::Route(LO)),
                "{family:?} {port}"
            );
            let there = seen(&there.frame);
            assert_eq!(there.dst, (family.backend(0), port));
            let back = p.receive(&Segment { syn: true, ..Segment::answer(&there) }.frame());
            assert_eq!(seen(&back.frame).src, (family.vip(), port));
        }
        for port in [29_999, 30_101, 1, 65_535] {
            let syn = to(Segment { syn: true, ..Segment::of(family, 40_000) }, port);
            assert_eq!(p.receive(&syn.frame()).reason, Reason::NoService, "{family:?} {port}");
        }
    }
}

#[test]
fn a_service_on_the_very_port_goes_before_the_one_on_all_ports() {
    let mut p = Pair::new(&with_range(Family::V4.world(1), 0, 65_535));
    let at = |p: &Pair, service| p.host.service_counters(service).flows;
    p.establish(40_000);
    assert_eq!((at(&p, 0), at(&p, 1)), (1, 0));
    for port in [1, 22, PORT + 1, 65_535] {
        assert_eq!(p.receive(&to(Segment::syn(40_000), port).frame()).reason, Reason::NewFlow, "{port}");
    }
    assert_eq!((at(&p, 0), at(&p, 1)), (1, 4));
}

#[test]
fn a_range_may_lead_to_one_port_and_is_of_one_protocol() {
    let mut world = with_range(Family::V4.udp_world(1), 5_000, 5_999);
    world.backends[1].port = Port::new(53);
    let mut p = Pair::new(&world);
    let asked = Datagram { dst: (Family::V4.vip(), 5_500), ..Datagram::of(Family::V4, 40_000) };
    let there = Datagram::seen(&p.receive(&asked.frame()).frame);
    assert_eq!(there.dst.1, 53);
    let back = Datagram::seen(&p.receive(&there.answer().frame()).frame);
    assert_eq!((back.src, back.dst), (asked.dst, asked.src));
    assert_eq!(p.receive(&to(Segment::syn(40_000), 5_500).frame()).reason, Reason::NoService);
}

#[test]
fn a_range_that_is_taken_away_leads_nowhere() {
    let mut p = Pair::new(&with_range(Family::V4.world(1), 30_000, 30_100));
    assert_eq!(p.receive(&to(Segment::syn(40_000), 30_050).frame()).reason, Reason::NewFlow);
    p.kernel().tables.publish(&Family::V4.world(1)).unwrap();
    p.host.ranges.clear();
    assert_eq!(p.receive(&to(Segment::syn(40_001), 30_050).frame()).reason, Reason::NoService);
}

#[test]
fn replies_to_a_client_on_this_node_are_the_stacks_though_all_ports_are_a_service() {
    let mut p = Pair::new(&with_range(Family::V4.world(1), 0, 65_535));
    let vip = Family::V4.vip();
    let reply =
        Segment { src: (vip, PORT), dst: (vip, 40_000), syn: true, ack: Some(1), ..Segment::from_client(0) };
    let passed = p.receive(&reply.frame());
    assert_eq!((passed.reason, passed.action), (Reason::NoService, Action::Pass));
    let stray = Segment { src: (Family::V4.client(), 1), ..reply };
    assert_eq!(p.receive(&stray.frame()).reason, Reason::UnknownFlow);
}

#[test]
fn a_service_on_the_nodes_own_address_needs_no_lease() {
    for family in FAMILIES {
        let mut p = Pair::new(&own(family.world(2)));
        p.lease(OVER);
        let syn = p.establish_in(family, 40_000);
        assert_eq!((syn.src.0, syn.dst), (family.vip(), (family.backend(0), PORT)));
        assert_eq!(p.only_flow().stage(), Stage::Established);
    }
}

#[test]
fn all_else_of_the_nodes_own_address_is_the_stacks() {
    for family in FAMILIES {
        let mut p = Pair::new(&own(family.world(2)));
        p.lease(OVER);
        let segment = Segment::of(family, 40_000);
        let passed = [
            to(Segment { syn: true, ..segment.clone() }, 22).frame(),
            // The stack may have a connection on the service's port; if not, it resets what it does not know itself.
            Segment { ack: Some(7), ..segment.clone() }.frame(),
            Segment { rst: true, ..segment.clone() }.frame(),
            Segment { syn: true, ack: Some(7), ..segment.clone() }.frame(),
            Datagram::of(family, 40_000).frame(),
            echo_request(family.vip(), 64, b"x"),
        ];
        for frame in passed {
            let out = p.receive(&frame);
            assert_eq!((out.reason, out.action), (Reason::NoService, Action::Pass), "{family:?}");
            assert_eq!(out.frame, frame);
        }
        let asked = match family {
            Family::V4 => arp_request(family.client(), family.vip()),
            Family::V6 => solicitation(family.client(), family.vip()),
        };
        assert_eq!(p.receive(&asked).reason, Reason::NotVirtual);
        let sent = Segment { src: segment.dst, dst: segment.src, ..segment };
        assert_eq!(p.send(&sent.frame()).reason, Reason::EgressPassed, "no fence");
    }
}

#[test]
fn fragments_to_the_nodes_own_address_are_the_stacks_unless_a_service_has_their_first() {
    let mut p = Pair::new(&own(Family::V4.udp_world(1)));
    let datagram = Datagram { data: vec![7; 3000], ..Datagram::of(Family::V4, 40_000) };
    let elsewhere = Datagram { dst: (datagram.dst.0, 9), ..datagram.clone() };
    for frame in fragments(&elsewhere.frame(), 1400, 1) {
        let out = p.receive(&frame);
        assert_eq!(out.action, Action::Pass);
        assert!(matches!(out.reason, Reason::NoService | Reason::NotVirtual), "{:?}", out.reason);
    }
    let reasons: Vec<_> = fragments(&datagram.frame(), 1400, 2).iter().map(|f| p.receive(f).reason).collect();
    assert_eq!(reasons[0], Reason::NewFlow);
    assert!(reasons[1..].iter().all(|r| *r == Reason::Forwarded), "{reasons:?}");
}

#[test]
fn without_the_daemon_own_addresses_take_no_new_connections_and_keep_those_they_have() {
    let mut p = Pair::new(&own(Family::V4.world(1)));
    let there = p.establish(40_000);
    p.alive(OVER);
    let refused = p.receive(&Segment::syn(40_001).frame());
    assert_eq!(refused.reason, Reason::DaemonGone);
    assert!(seen(&refused.frame).rst);
    assert_eq!(p.receive(&Segment::answer(&there).frame()).reason, Reason::Returned);
    assert_eq!(
        p.receive(&Segment { seq: 1001, ack: Some(9001), ..Segment::from_client(40_000) }.frame()).reason,
        Reason::Forwarded
    );
    p.alive(FOREVER);
    assert_eq!(p.receive(&Segment::syn(40_001).frame()).reason, Reason::NewFlow);
}

#[test]
fn a_virtual_address_asks_the_lease_whatever_the_daemons_sign_of_life_says() {
    let mut p = Pair::new(&Family::V4.world(1));
    p.alive(OVER);
    p.establish(40_000);
}

#[test]
fn what_this_node_serves_itself_goes_up_as_it_came_and_is_counted() {
    for family in FAMILIES {
        let mut p = Pair::new(&local(family.world(1)));
        let syn = Segment { syn: true, ..Segment::of(family, 40_000) };
        let ack = Segment { seq: 1001, ack: Some(9001), ..Segment::of(family, 40_000) };
        let data = Segment { data: vec![7; 100], ..ack.clone() };
        for (segment, reason) in [(syn, Reason::NewFlow), (ack, Reason::Forwarded), (data, Reason::Forwarded)]
        {
            let frame = segment.frame();
            let up = p.receive(&frame);
            assert_eq!((up.reason, up.action), (reason, Action::Pass), "{family:?}");
            assert_eq!(up.frame, frame);
        }
        assert_eq!(p.only_flow().stage(), Stage::Established);
        let counted = p.host.service_counters(0);
        assert_eq!((counted.flows, counted.forward.packets), (1, 3));
        p.lease(OVER);
        let fenced = p.receive(&Segment { ack: Some(9001), ..Segment::of(family, 40_000) }.frame());
        assert_eq!((fenced.reason, fenced.action), (Reason::NotOwner, Action::Drop));
    }
}

#[test]
fn what_this_node_serves_itself_is_refused_while_its_check_fails() {
    let mut world = local(Family::V4.world(1));
    world.services[0].ring.clear();
    let mut p = Pair::new(&world);
    let refused = p.receive(&Segment::syn(40_000).frame());
    assert_eq!(refused.reason, Reason::NoBackend);
    assert!(seen(&refused.frame).rst);
}

#[test]
fn fragments_of_what_this_node_serves_itself_go_up_too() {
    let mut p = Pair::new(&local(Family::V4.udp_world(1)));
    let datagram = Datagram { data: vec![7; 3000], ..Datagram::of(Family::V4, 40_000) };
    for frame in fragments(&datagram.frame(), 1400, 1) {
        let up = p.receive(&frame);
        assert_eq!((up.action, up.frame), (Action::Pass, frame));
    }
    assert_eq!(p.only_flow().forward_key().dport.number(), PORT);
}
