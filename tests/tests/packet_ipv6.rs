//! IPv6: neighbour discovery and echo for a virtual address, TCP through it, extension headers, and the fences.

use std::net::{IpAddr, Ipv6Addr};

use etherparse::{Icmpv6Type, NetHeaders, PacketHeaders, TransportHeader};
use lb_common::{flow::Stage, reason::Reason};
use lb_ebpf::Action;
use lb_tests::packets::{
    Advertisement, CLIENT_MAC, CLIENT6, Datagram, Family, HOST_MAC, LO, PORT, REPLY_MAC, Segment, VIP6,
    advertisement, echo_request, octets6, seen, solicitation, unicast_solicitation,
};
use lb_tests::pair::{OVER, Pair};

const UNSPECIFIED: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
const LINK_LOCAL: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 7));

fn pair() -> Pair {
    Pair::new(&Family::V6.world(3))
}

fn backend(i: u8) -> IpAddr {
    Family::V6.backend(i)
}

fn syn(port: u16) -> Segment {
    Segment { syn: true, ..Segment::of(Family::V6, port) }
}

#[test]
fn a_connection_is_translated_both_ways() {
    let mut p = pair();
    let out = p.receive(&syn(40_000).frame());
    assert_eq!((out.reason, out.action), (Reason::NewFlow, Action::Route(LO)));
    let first = seen(&out.frame);
    assert_eq!((first.src.0, first.dst, first.ttl), (VIP6, (backend(0), PORT), 63));
    let back = p.receive(&Segment { syn: true, ..Segment::answer(&first) }.frame());
    let back_seen = seen(&back.frame);
    assert_eq!((back_seen.src, back_seen.dst), ((VIP6, PORT), (CLIENT6, 40_000)));
    let ack = Segment { seq: 1001, ack: Some(9001), ..Segment::of(Family::V6, 40_000) };
    let data = Segment { data: b"SELECT 1".to_vec(), ..ack };
    assert_eq!(seen(&p.receive(&data.frame()).frame).data, 8);
    assert_eq!(p.only_flow().stage(), Stage::Established);
    assert_eq!(p.host.service_counters(0).forward.bytes, (60 + 8) + (60 + 8), "whole IP packets");
}

#[test]
fn what_is_refused_is_reset() {
    let mut p = Pair::new(&Family::V6.world(0));
    let out = p.receive(&syn(40_000).frame());
    assert_eq!((out.reason, out.action), (Reason::NoBackend, Action::Send(LO)));
    let rst = seen(&out.frame);
    assert_eq!((rst.src, rst.dst, rst.ack, rst.rst), ((VIP6, PORT), (CLIENT6, 40_000), Some(1001), true));
    let lost = Segment { ack: Some(70_000), data: vec![7; 99], ..Segment::of(Family::V6, 40_001) };
    let out = p.receive(&lost.frame());
    let rst = seen(&out.frame);
    assert_eq!((out.reason, rst.seq, rst.ack, rst.data), (Reason::UnknownFlow, 70_000, None, 0));
    assert_eq!(&out.frame[..12], [CLIENT_MAC, HOST_MAC].concat(), "sent back");
}

#[test]
fn a_solicitation_is_answered_with_the_interfaces_address() {
    let mut p = pair();
    for frame in [solicitation(CLIENT6, VIP6), unicast_solicitation(CLIENT6, VIP6)] {
        let out = p.receive(&frame);
        assert_eq!((out.reason, out.action), (Reason::NeighbourAnswered, Action::Send(LO)));
        let expected = Advertisement {
            link: (CLIENT_MAC, REPLY_MAC.0),
            addrs: (VIP6, CLIENT6),
            flags: [false, true, true],
            target: VIP6,
            mac: REPLY_MAC.0,
        };
        assert_eq!(Advertisement::seen(&out.frame), expected);
    }
}

#[test]
fn who_wants_the_address_for_itself_is_told_before_all_nodes_that_it_is_taken() {
    let out = pair().receive(&solicitation(UNSPECIFIED, VIP6));
    assert_eq!(out.reason, Reason::NeighbourAnswered);
    let told = Advertisement::seen(&out.frame);
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    assert_eq!((told.link.0, told.addrs), ([0x33, 0x33, 0, 0, 0, 1], (VIP6, all_nodes.into())));
    assert_eq!(told.flags, [false, false, true], "nobody to whom it would be solicited");
}

#[test]
fn solicitations_for_others_or_from_beyond_the_link_are_left_to_the_nodes_own_stack() {
    let mut p = pair();
    let mut far = solicitation(CLIENT6, VIP6);
    far[21] = 254;
    for (what, frame, reason) in [
        ("another target", solicitation(CLIENT6, backend(0)), Reason::NotVirtual),
        ("hop limit", far, Reason::OtherHost),
        ("an advertisement", advertisement(CLIENT6, VIP6), Reason::NotVirtual),
    ] {
        let out = p.receive(&frame);
        assert_eq!((out.reason, out.action, out.frame), (reason, Action::Pass, frame), "{what}");
    }
}

#[test]
fn an_echo_request_is_answered_with_a_valid_reply() {
    let mut p = pair();
    for (ttl, data) in [(64, &b"even"[..]), (1, b"odd"), (255, b"")] {
        let out = p.receive(&echo_request(VIP6, ttl, data));
        assert_eq!((out.reason, out.action), (Reason::EchoAnswered, Action::Send(LO)));
        let h = PacketHeaders::from_ethernet_slice(&out.frame).expect("a frame");
        let Some(NetHeaders::Ipv6(ip, _)) = h.net else { panic!("not IPv6") };
        let Some(TransportHeader::Icmpv6(icmp)) = h.transport else { panic!("not ICMPv6") };
        assert_eq!((ip.source, ip.destination, ip.hop_limit), (octets6(VIP6), octets6(CLIENT6), 64));
        assert!(matches!(icmp.icmp_type, Icmpv6Type::EchoReply(e) if e.id == 7 && e.seq == 3));
        let sum = icmp.icmp_type.calc_checksum(ip.source, ip.destination, h.payload.slice());
        assert_eq!(icmp.checksum, sum.expect("short"));
        assert_eq!(h.payload.slice(), data);
    }
}

#[test]
fn without_the_lease_nothing_of_the_virtual_address_is_answered_or_forwarded() {
    let mut p = pair();
    let first = p.establish_in(Family::V6, 40_000);
    p.lease(OVER);
    let data = Segment { seq: 1001, ack: Some(9001), data: vec![1; 10], ..Segment::of(Family::V6, 40_000) };
    let reply = Segment { data: vec![2; 10], seq: 9001, ..Segment::answer(&first) };
    for (what, frame) in [
        ("a new connection", syn(41_000).frame()),
        ("an established one", data.frame()),
        ("a backend's reply", reply.frame()),
        ("an echo request", echo_request(VIP6, 64, b"ping")),
        ("a solicitation", solicitation(CLIENT6, VIP6)),
        ("a unicast one", unicast_solicitation(CLIENT6, VIP6)),
        ("a claim to the address", solicitation(UNSPECIFIED, VIP6)),
        ("another port", Segment { dst: (VIP6, 22), ..syn(42_000) }.frame()),
        ("UDP", Datagram::of(Family::V6, 40_000).frame()),
    ] {
        let out = p.receive(&frame);
        assert_eq!((out.reason, out.action), (Reason::NotOwner, Action::Drop), "{what}");
    }
    for (what, frame) in [
        ("TCP", Segment { src: (VIP6, 80), ..syn(1) }.frame()),
        ("an advertisement from the address", advertisement(VIP6, VIP6)),
        ("an advertisement from another", advertisement(LINK_LOCAL, VIP6)),
        ("a solicitation", solicitation(VIP6, CLIENT6)),
    ] {
        assert_eq!(p.send(&frame).reason, Reason::EgressFenced, "{what}");
    }
    for (what, frame) in [
        ("an advertisement for another", advertisement(LINK_LOCAL, LINK_LOCAL)),
        ("a question about the address", solicitation(LINK_LOCAL, VIP6)),
    ] {
        assert_eq!(p.send(&frame).reason, Reason::EgressPassed, "{what}");
    }
}

#[test]
fn with_the_lease_the_nodes_own_packets_leave() {
    let mut p = pair();
    for frame in [advertisement(LINK_LOCAL, VIP6), advertisement(VIP6, VIP6), syn(1).frame()] {
        assert_eq!(p.send(&frame).reason, Reason::EgressPassed);
    }
}

/// The frame with another next header.
fn with_next_header(mut frame: Vec<u8>, next: u8) -> Vec<u8> {
    frame[20] = next;
    frame
}

#[test]
fn other_protocols_and_extension_headers_go_to_the_nodes_own_stack() {
    let mut p = pair();
    let to = |dst| Segment { dst: (dst, PORT), ..syn(40_000) }.frame();
    for (next, reason) in
        [(51, Reason::IpOptions), (135, Reason::IpOptions), (50, Reason::NoService), (132, Reason::NoService)]
    {
        assert_eq!(p.receive(&with_next_header(to(VIP6), next)).reason, reason, "{next}");
        let other = p.receive(&with_next_header(to(backend(5)), next));
        assert_eq!(other.reason, Reason::NotVirtual, "{next}, another address");
    }
}

#[test]
fn headers_that_contradict_themselves_are_dropped() {
    let mut p = pair();
    let mut long = syn(40_000).frame();
    long[18..20].copy_from_slice(&2000u16.to_be_bytes());
    let mut short = syn(40_000).frame();
    short[18..20].copy_from_slice(&19u16.to_be_bytes());
    let mut offset = syn(40_000).frame();
    offset[66] = 4 << 4;
    for frame in [long, short, offset] {
        assert_eq!(p.receive(&frame).reason, Reason::Malformed);
    }
}

#[test]
fn a_packet_whose_hop_limit_is_used_up_goes_no_further() {
    let mut p = pair();
    assert_eq!(p.receive(&Segment { ttl: 1, ..syn(40_000) }.frame()).reason, Reason::TtlExpired);
}
