//! Packets that go no further and whose senders are told: too long for a link, or at the end of their TTL, in every mode.

use lb_common::{mode::Mode, reason::Reason, service::NO_CLAMP};
use lb_ebpf::{Action, report::BURST};
use lb_tests::{
    packets::{
        Datagram, Error, FAMILIES, Family, LO, PORT, Segment, fix_ip_checksum, mss, seen, udp_world_between,
        world_between,
    },
    pair::{NOW, OVER, Pair},
};

const MTU: u16 = 1400;

fn header(family: Family) -> usize {
    if family == Family::V4 { 20 } else { 40 }
}

fn ack(family: Family, length: usize) -> Segment {
    let data = vec![7; length - header(family) - 20];
    Segment { seq: 1001, ack: Some(9001), data, ..Segment::of(family, 40_000) }
}

fn too_big(family: Family) -> ([u8; 2], [u8; 4]) {
    (if family == Family::V4 { [3, 4] } else { [2, 0] }, u32::from(MTU).to_be_bytes())
}

fn expired(family: Family) -> [u8; 2] {
    if family == Family::V4 { [11, 0] } else { [3, 0] }
}

#[test]
fn a_client_is_told_what_the_link_to_the_backend_takes() {
    for family in FAMILIES {
        let mut p = Pair::new(&world_between(family, family, Mode::Nat, MTU));
        p.establish_in(family, 40_000);
        assert_eq!(p.receive(&ack(family, MTU.into()).frame()).reason, Reason::Forwarded);
        let counters = p.host.service_counters(0);
        let sent = ack(family, usize::from(MTU) + 1).frame();
        let out = p.receive(&sent);
        assert_eq!((out.reason, out.action), (Reason::TooBig, Action::Send(LO)));
        let error = Error::seen(&out.frame);
        assert_eq!((error.src, error.dst), (family.vip(), family.client()));
        assert_eq!((error.what, error.rest), too_big(family));
        assert!(sent[14..].starts_with(&error.quoted), "as it came");
        assert_eq!(p.host.service_counters(0), counters, "not forwarded, so not counted as such");
    }
}

#[test]
fn a_backend_is_told_what_the_link_to_the_client_takes() {
    for (family, mode) in FAMILIES.into_iter().flat_map(|f| [Mode::Nat, Mode::Dnat].map(|m| (f, m))) {
        let mut world = world_between(family, family, mode, MTU);
        world.paths[0].mtu = 9000;
        let mut p = Pair::new(&world);
        let syn = p.establish_in(family, 40_000);
        let data = vec![7; usize::from(MTU) - header(family) - 19];
        let out = p.receive(&Segment { seq: 9001, data, ..Segment::answer(&syn) }.frame());
        assert_eq!((out.reason, out.action), (Reason::TooBig, Action::Send(LO)), "{family:?} {mode:?}");
        let error = Error::seen(&out.frame);
        assert_eq!((error.src, error.dst), (family.vip(), family.backend(0)));
        assert_eq!((error.what, error.rest), too_big(family));
        let long = p.receive(&ack(family, 2000).frame());
        assert_eq!((long.reason, long.frame.len()), (Reason::Forwarded, 2014), "the other way takes more");
    }
}

#[test]
fn dsr_packets_are_told_of_too() {
    for family in FAMILIES {
        let mut p = Pair::new(&world_between(family, family, Mode::Dsr, MTU));
        p.receive(&Segment { syn: true, ..Segment::of(family, 40_000) }.frame());
        let out = p.receive(&ack(family, 1500).frame());
        assert_eq!((out.reason, out.action), (Reason::TooBig, Action::Send(LO)));
        assert_eq!((Error::seen(&out.frame).what, Error::seen(&out.frame).rest), too_big(family));
    }
}

#[test]
fn a_packet_that_may_be_fragmented_is_answered_all_the_same() {
    let mut p = Pair::new(&udp_world_between(Family::V4, Family::V4, Mode::Nat, MTU));
    let datagram = Datagram { data: vec![1; 1450], ..Datagram::of(Family::V4, 40_000) };
    p.receive(&Datagram { data: vec![1], ..datagram.clone() }.frame());
    let mut frame = datagram.frame();
    frame[20] = 0;
    fix_ip_checksum(&mut frame);
    let out = p.receive(&frame);
    assert_eq!((out.reason, Error::seen(&out.frame).what), (Reason::TooBig, [3, 4]));
}

#[test]
fn a_packet_without_hops_left_is_answered_as_a_router_does() {
    for family in FAMILIES {
        let mut p = Pair::new(&family.world(1));
        p.establish_in(family, 40_000);
        for spent in [ack(family, 100), Segment { syn: true, ..Segment::of(family, 40_001) }] {
            let sent = Segment { ttl: 1, ..spent }.frame();
            let out = p.receive(&sent);
            assert_eq!((out.reason, out.action), (Reason::TtlExpired, Action::Send(LO)));
            let error = Error::seen(&out.frame);
            assert_eq!((error.src, error.dst), (family.vip(), family.client()));
            assert_eq!((error.what, error.rest), (expired(family), [0; 4]));
            assert_eq!(error.quoted, sent[14..], "all of a short one");
        }
    }
}

#[test]
fn a_datagram_without_hops_left_is_quoted_in_whole_words() {
    for family in FAMILIES {
        let mut p = Pair::new(&udp_world_between(family, family, Mode::Nat, MTU));
        for length in [0, 1, 2, 3, 4, 15, 16, 17, 100] {
            let sent = Datagram { ttl: 1, data: vec![3; length], ..Datagram::of(family, 40_000) }.frame();
            let error = Error::seen(&p.receive(&sent).frame);
            assert_eq!(error.quoted, sent[14..14 + (header(family) + 8 + length) / 4 * 4], "{length}");
        }
    }
}

#[test]
fn nobody_is_told_who_is_no_single_host_and_nothing_without_the_lease() {
    for family in FAMILIES {
        let mut p = Pair::new(&family.world(1));
        let spent = Segment { ttl: 1, syn: true, ..Segment::of(family, 40_000) };
        let groups: [std::net::IpAddr; 2] = match family {
            Family::V4 => ["224.0.0.5".parse().unwrap(), "0.1.2.3".parse().unwrap()],
            Family::V6 => ["ff02::5".parse().unwrap(), "::".parse().unwrap()],
        };
        for group in groups {
            let out = p.receive(&Segment { src: (group, 40_000), ..spent.clone() }.frame());
            assert_eq!((out.reason, out.action), (Reason::TtlExpired, Action::Drop), "{group}");
        }
        p.lease(OVER);
        assert_eq!(p.receive(&spent.frame()).action, Action::Drop);
    }
}

#[test]
fn errors_come_at_a_steady_pace_after_a_burst() {
    use lb_common::lease::Lease;
    use lb_ebpf::{
        Arrival, handle,
        report::PACE_NS,
        testing::{Buffer, Memory},
    };
    let mut m = Memory::new(16);
    m.set_lease(0, Lease { until: u64::MAX, term: 1, ..Lease::default() });
    let world = Family::V4.world(1);
    m.vips = world.vips.iter().copied().collect();
    let service = lb_common::service::ServiceKey {
        addr: Family::V4.vip().into(),
        port: lb_common::addr::Port::new(PORT),
        proto: 6,
        pad: [0; 5],
    };
    m.services.insert(service, lb_common::service::Service::default());
    let spent = Segment { ttl: 1, syn: true, ..Segment::of(Family::V4, 40_000) }.frame();
    let told = |now, n: u64| {
        (0..n)
            .filter(|_| {
                let action = handle(&mut Buffer::new(spent.clone()), &m, &Arrival { now, ifindex: 1 }).action;
                action == Action::Send(1)
            })
            .count() as u64
    };
    assert_eq!(told(NOW, 2 * BURST), BURST);
    assert_eq!(told(NOW + PACE_NS, 5), 1);
    assert_eq!(told(NOW + 11 * PACE_NS, 50), 10);
    assert_eq!(m.counted(Reason::TtlExpired), 2 * BURST + 55, "counted whether told or not");
}

#[test]
fn a_service_may_limit_the_segments_of_both_sides() {
    for family in FAMILIES {
        for (setting, asked) in [(NO_CLAMP, 1460), (1200, 1200), (9000, 1460)] {
            let mut world = world_between(family, family, Mode::Nat, 1500);
            world.paths[0].mss = setting;
            let mut p = Pair::new(&world);
            let syn = p.receive(&Segment { syn: true, ..Segment::of(family, 40_000) }.frame()).frame;
            assert_eq!(mss(&syn), Some(asked), "{family:?} {setting}");
            let syn_ack = Segment { syn: true, ..Segment::answer(&seen(&syn)) };
            let syn_ack = p.receive(&syn_ack.frame());
            assert_eq!((syn_ack.reason, mss(&syn_ack.frame)), (Reason::Returned, Some(asked)));
            let _ = seen(&syn_ack.frame);
            p.receive(&Segment { seq: 1001, ack: Some(9001), ..Segment::of(family, 40_000) }.frame());
            assert_eq!(p.only_flow().mtu, 1500, "established, it goes the simple way");
            assert_eq!(p.receive(&ack(family, 1000).frame()).reason, Reason::Forwarded);
        }
    }
}

#[test]
fn the_segment_size_is_found_behind_other_options_and_at_odd_places() {
    let mut world = world_between(Family::V4, Family::V4, Mode::Nat, 1500);
    world.paths[0].mss = 1000;
    let mut p = Pair::new(&world);
    let options: [(&[u8], Option<u16>); 6] = [
        (&[1, 2, 4, 5, 180, 1, 1, 0], Some(1000)),
        (&[4, 2, 2, 4, 5, 180, 0, 0], Some(1000)),
        (&[3, 3, 7, 2, 4, 5, 180, 0], Some(1000)),
        (&[2, 4, 1, 0, 0, 0, 0, 0], Some(256)),
        (&[0, 2, 4, 5, 180, 0, 0, 0], None),
        (&[3, 0, 2, 4, 5, 180, 0, 0], None),
    ];
    for (port, (bytes, expected)) in (40_000..).zip(options) {
        let out = p.receive(&Segment::syn(port).frame_with_options(bytes));
        assert_eq!(out.reason, Reason::NewFlow, "{bytes:?}");
        let _ = seen(&out.frame);
        match expected {
            Some(_) => assert_eq!(mss(&out.frame), expected, "{bytes:?}"),
            None => assert_eq!(&out.frame[54..62], bytes, "left as it is"),
        }
    }
}
