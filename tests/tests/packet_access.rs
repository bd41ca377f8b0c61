//! Who may open connections to a service, how fast, and how many.

use std::net::IpAddr;

use lb_common::{
    access::{ALLOW, DROP, Limits, REFUSE},
    addr::PROTO_UDP,
    reason::Reason,
};
use lb_ebpf::Action;
use lb_tests::{
    packets::{Datagram, Family, Segment, seen, world},
    pair::Pair,
};
use lb_userspace::datapath::{access::Access, counters, tables::Desired};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Rules for the one service.
fn with_rules(mut desired: Desired, rules: &[(&str, u8, u32)]) -> Desired {
    let rule = |(addr, bits, word): &(&str, u8, u32)| (ip(addr).into(), *bits, *word);
    desired.access = vec![Access { rules: rules.iter().map(rule).collect(), ..Access::default() }];
    desired
}

fn syn(p: &mut Pair, family: Family, from: &str, port: u16) -> Reason {
    p.receive(&Segment { src: (ip(from), port), syn: true, ..Segment::of(family, port) }.frame()).reason
}

#[test]
fn the_longest_prefix_decides_in_either_family() {
    let rules = [
        ("172.18.0.0", 96 + 16, ALLOW),
        ("172.18.7.0", 96 + 24, DROP),
        ("172.18.7.9", 128, ALLOW),
        ("fd12::", 16, ALLOW),
        ("fd12::300", 120, REFUSE),
        ("::", 0, DROP),
    ];
    let mut p = Pair::new(&with_rules(world(1), &rules));
    for (i, (from, reason)) in [
        ("172.18.0.100", Reason::NewFlow),
        ("172.18.7.8", Reason::AccessDenied),
        ("172.18.7.9", Reason::NewFlow),
        ("10.0.0.1", Reason::AccessDenied),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(syn(&mut p, Family::V4, from, 40_000 + i as u16), reason, "{from}");
    }
    let counters = p.host.service_counters(0);
    assert_eq!((counters.denied, counters.refused, counters.flows), (2, 0, 2));

    let mut p = Pair::new(&with_rules(Family::V6.world(1), &rules));
    for (i, (from, reason)) in [
        ("fd12::100", Reason::NewFlow),
        ("fd12::3ff", Reason::AccessRefused),
        ("fd13::1", Reason::AccessDenied),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(syn(&mut p, Family::V6, from, 40_000 + i as u16), reason, "{from}");
    }
    let counters = p.host.service_counters(0);
    assert_eq!((counters.denied, counters.refused, counters.flows), (2, 1, 1));
}

#[test]
fn who_is_refused_is_told_or_not_and_what_is_open_goes_on() {
    let mut p = Pair::new(&world(1));
    p.establish(40_000);
    p.publish(&with_rules(world(1), &[("0.0.0.0", 96, DROP)]));
    let data = Segment { seq: 1001, ack: Some(9001), data: vec![0; 5], ..Segment::from_client(40_000) };
    assert_eq!(p.receive(&data.frame()).reason, Reason::Forwarded, "rules are for new connections");
    let silent = p.receive(&Segment::syn(40_001).frame());
    assert_eq!((silent.reason, silent.action), (Reason::AccessDenied, Action::Drop));
    p.publish(&with_rules(world(1), &[("0.0.0.0", 96, REFUSE)]));
    let told = p.receive(&Segment::syn(40_002).frame());
    assert_eq!(told.reason, Reason::AccessRefused);
    assert!(seen(&told.frame).rst);
    p.publish(&world(1));
    assert_eq!(p.receive(&Segment::syn(40_003).frame()).reason, Reason::NewFlow, "the rules are gone");
}

#[test]
fn a_datagram_is_refused_in_silence() {
    let mut p = Pair::new(&with_rules(Family::V4.udp_world(1), &[("172.18.0.100", 128, REFUSE)]));
    assert_eq!(p.host.services.keys().next().expect("a service").proto, PROTO_UDP);
    let out = p.receive(&Datagram::of(Family::V4, 40_000).frame());
    assert_eq!((out.reason, out.action), (Reason::AccessRefused, Action::Drop));
}

#[test]
fn a_client_with_as_many_connections_as_it_may_have_is_refused_until_one_has_ended() {
    let mut desired = world(1);
    let limits = Limits { connections: 2, prefix_v4: 96 + 24, prefix_v6: 64, ..Limits::default() };
    desired.access = vec![Access { limits, ..Access::default() }];
    let mut p = Pair::new(&desired);
    p.establish(40_000);
    for (i, (from, reason)) in [
        ("172.18.0.101", Reason::NewFlow),
        ("172.18.0.102", Reason::ClientFull),
        ("172.18.1.100", Reason::NewFlow),
        ("172.18.0.103", Reason::ClientFull),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(syn(&mut p, Family::V4, from, 41_000 + i as u16), reason, "{i}: {from}");
    }
    let counters = p.host.service_counters(0);
    assert_eq!((counters.limited, counters.refused, counters.flows), (2, 2, 3));
    let reset = Segment { seq: 1001, rst: true, ..Segment::from_client(40_000) };
    assert_eq!(p.receive(&reset.frame()).reason, Reason::Forwarded);
    assert_eq!(syn(&mut p, Family::V4, "172.18.0.104", 41_004), Reason::NewFlow, "one has ended");
    assert_eq!(syn(&mut p, Family::V4, "172.18.0.105", 41_005), Reason::ClientFull);
}

#[test]
fn a_limit_on_clients_that_is_new_counts_those_that_are_connected_by_the_collectors_next_pass() {
    let mut p = Pair::new(&world(1));
    p.establish(40_000);
    p.establish(40_001);
    let mut desired = world(1);
    let limits = Limits { connections: 2, prefix_v4: 128, prefix_v6: 64, ..Limits::default() };
    desired.access = vec![Access { limits, ..Access::default() }];
    p.publish(&desired);
    let d = p.kernel();
    let all = d.collector.records();
    d.collector.sweep(d.tables.maps(), 0, all).expect("a pass");
    let frame = Segment::syn(40_002).frame();
    let (verdict, _) = p.kernel().test_run(false, &frame).expect("a run");
    assert_eq!(verdict, 7, "the refusal goes back");
    let refused = counters::service(p.kernel().tables.maps(), 0).expect("counters");
    assert_eq!((refused.limited, refused.flows), (1, 2));
}

#[test]
fn a_client_that_is_too_fast_is_refused_and_others_are_not() {
    let minute = 60_000_000_000;
    let mut desired = world(1);
    let limits = Limits {
        interval: minute,
        ahead: 2 * minute,
        prefix_v4: 96 + 24,
        prefix_v6: 64,
        ..Limits::default()
    };
    desired.access = vec![Access { limits, ..Access::default() }];
    let mut p = Pair::new(&desired);
    for (i, (from, reason)) in [
        ("172.18.0.100", Reason::NewFlow),
        ("172.18.0.100", Reason::NewFlow),
        ("172.18.0.101", Reason::NewFlow),
        ("172.18.0.100", Reason::ClientRate),
        ("172.18.1.100", Reason::NewFlow),
        ("172.18.0.7", Reason::ClientRate),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(syn(&mut p, Family::V4, from, 40_000 + i as u16), reason, "{i}: {from}");
    }
    let counters = p.host.service_counters(0);
    assert_eq!((counters.limited, counters.refused, counters.flows), (2, 2, 4));
    // A repeated SYN belongs to its flow and costs nothing.
    assert_eq!(syn(&mut p, Family::V4, "172.18.0.100", 40_000), Reason::Forwarded);
}
