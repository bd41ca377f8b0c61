//! UDP services: translation both ways, stages, checksums that may be absent, refusals in silence.

use lb_common::{flow::Stage, reason::Reason, settings::SnatPorts};
use lb_ebpf::Action;
use lb_tests::packets::{Datagram, FAMILIES, Family, LO, PORT, Segment, VIP};
use lb_tests::pair::{OVER, Pair};

const S: u64 = 1_000_000_000;

#[test]
fn datagrams_are_translated_both_ways_and_keep_their_backend() {
    for family in FAMILIES {
        let mut p = Pair::new(&family.udp_world(3));
        let out = p.receive(&Datagram::of(family, 40_000).frame());
        assert_eq!((out.reason, out.action), (Reason::NewFlow, Action::Route(LO)));
        let first = Datagram::seen(&out.frame);
        assert_eq!((first.src.0, first.dst, first.ttl), (family.vip(), (family.backend(0), PORT), 63));
        assert_eq!((p.only_flow().stage(), p.only_flow().proto), (Stage::OneWay, 17));

        let again = p.receive(&Datagram::of(family, 40_000).frame());
        assert_eq!((again.reason, Datagram::seen(&again.frame)), (Reason::Forwarded, first.clone()));
        assert_eq!(p.only_flow().stage(), Stage::OneWay, "nobody has answered");

        let back = p.receive(&first.answer().frame());
        assert_eq!(back.reason, Reason::Returned);
        let back = Datagram::seen(&back.frame);
        assert_eq!((back.src, back.dst), ((family.vip(), PORT), (family.client(), 40_000)));
        assert_eq!(back.data, b"answer");
        assert_eq!(p.only_flow().stage(), Stage::TwoWay);
        p.receive(&Datagram::of(family, 40_000).frame());
        assert_eq!(p.only_flow().stage(), Stage::TwoWay);
    }
}

#[test]
fn round_robin_gives_each_client_port_its_backend() {
    let mut p = Pair::new(&Family::V4.udp_world(3));
    let mut chosen = |port| Datagram::seen(&p.receive(&Datagram::of(Family::V4, port).frame()).frame).dst.0;
    let backends: Vec<_> = (0..4).map(|i| chosen(40_000 + i)).collect();
    assert_eq!(backends, [0, 1, 2, 0].map(|i| Family::V4.backend(i)));
}

#[test]
fn no_checksum_stays_none() {
    let mut p = Pair::new(&Family::V4.udp_world(1));
    let mut frame = Datagram::of(Family::V4, 40_000).frame();
    frame[40..42].fill(0);
    let out = p.receive(&frame);
    assert_eq!((out.reason, &out.frame[40..42]), (Reason::NewFlow, &[0, 0][..]));
    Datagram::seen(&out.frame);
}

/// A result of zero would say that there is no checksum, which IPv6 does not allow and which no longer protects in IPv4.
#[test]
fn a_checksum_that_comes_out_as_zero_is_sent_as_all_ones() {
    for family in FAMILIES {
        let mut world = family.udp_world(1);
        world.settings.snat_ports =
            SnatPorts { low_first: 2000, low_last: 2000, high_first: 1, high_last: 0 };
        // What the sum of a translated datagram lacks to all ones, the data make up for.
        let translated = |data: [u8; 2]| {
            let (src, dst) = ((family.vip(), 2000), (family.backend(0), PORT));
            let frame = Datagram { src, dst, ttl: 63, data: data.to_vec() }.frame();
            [frame[frame.len() - 4], frame[frame.len() - 3]]
        };
        let data = translated([0, 0]);
        assert_eq!(translated(data), [0xff, 0xff], "etherparse agrees");
        let mut p = Pair::new(&world);
        let out = p.receive(&Datagram { data: data.to_vec(), ..Datagram::of(family, 40_000) }.frame());
        assert_eq!(out.reason, Reason::NewFlow);
        assert_eq!(out.frame[out.frame.len() - 4..][..2], [0xff, 0xff]);
        Datagram::seen(&out.frame);
    }
}

#[test]
fn what_cannot_be_forwarded_is_dropped_in_silence_and_counted() {
    let mut p = Pair::new(&Family::V4.udp_world(0));
    let out = p.receive(&Datagram::of(Family::V4, 40_000).frame());
    assert_eq!((out.reason, out.action), (Reason::NoBackend, Action::Drop));
    assert_eq!(p.host.service_counters(0).refused, 1);

    let mut p = Pair::with_room(&Family::V4.udp_world(1), 1);
    let first = Datagram::seen(&p.receive(&Datagram::of(Family::V4, 40_000).frame()).frame);
    p.receive(&first.answer().frame());
    let full = p.receive(&Datagram::of(Family::V4, 40_001).frame());
    assert_eq!((full.reason, full.action), (Reason::FlowTableFull, Action::Drop));
}

#[test]
fn the_sender_of_a_datagram_whose_ttl_is_used_up_is_told() {
    let mut p = Pair::new(&Family::V4.udp_world(1));
    let spent = p.receive(&Datagram { ttl: 1, ..Datagram::of(Family::V4, 40_000) }.frame());
    assert_eq!((spent.reason, spent.action), (Reason::TtlExpired, Action::Send(LO)));
}

#[test]
fn a_service_is_of_its_protocol_only() {
    let mut p = Pair::new(&Family::V4.udp_world(3));
    assert_eq!(p.receive(&Segment::syn(40_000).frame()).reason, Reason::NoService);
    let mut p = Pair::new(&Family::V4.world(3));
    assert_eq!(p.receive(&Datagram::of(Family::V4, 40_000).frame()).reason, Reason::NoService);
}

#[test]
fn without_the_lease_no_datagram_passes_either_way() {
    for family in FAMILIES {
        let mut p = Pair::new(&family.udp_world(3));
        let first = Datagram::seen(&p.receive(&Datagram::of(family, 40_000).frame()).frame);
        p.lease(OVER);
        for frame in [
            Datagram::of(family, 40_000).frame(),
            first.answer().frame(),
            Datagram::of(family, 40_001).frame(),
        ] {
            let out = p.receive(&frame);
            assert_eq!((out.reason, out.action), (Reason::NotOwner, Action::Drop));
        }
    }
}

#[test]
fn lengths_that_contradict_each_other_are_dropped() {
    let mut p = Pair::new(&Family::V4.udp_world(3));
    for length in [7u16, 14, 0xffff] {
        let mut frame = Datagram { dst: (VIP, PORT), ..Datagram::of(Family::V4, 40_000) }.frame();
        frame[38..40].copy_from_slice(&length.to_be_bytes());
        assert_eq!(p.receive(&frame).reason, Reason::Malformed, "{length}");
    }
}

#[test]
fn unanswered_flows_end_after_half_a_minute_and_others_after_three() {
    let mut p = Pair::new(&Family::V4.udp_world(3));
    p.receive(&Datagram::of(Family::V4, 40_000).frame());
    let other = Datagram::seen(&p.receive(&Datagram::of(Family::V4, 40_001).frame()).frame);
    p.receive(&other.answer().frame());
    let now = lb_userspace::vrrp::BootTime::now().0;
    let flows = p.flows;
    let mut freed_at = |seconds: u64| {
        let d = p.kernel();
        d.collector.sweep(d.tables.maps(), now + seconds * S, flows).expect("sweep")
    };
    assert_eq!([25, 31, 175, 181].map(&mut freed_at), [0, 1, 0, 1]);
}
