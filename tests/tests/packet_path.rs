//! Packet cases: each frame goes through the host core and, by `BPF_PROG_TEST_RUN`, through the programs in the kernel;
//! verdict, bytes, flow records and counters must be equal, and what comes out is judged by an independent parser.

use lb_common::{
    addr::PROTO_TCP,
    checksum::{fold, sum_addr},
    flow::Stage,
    reason::Reason,
};
use lb_ebpf::Action;
use lb_tests::packets::{
    CLIENT, CLIENT_MAC, LO, PORT, REPLY_MAC, Segment, VIP, arp_request, backend, echo_request,
    fix_ip_checksum, octets, seen, udp, world,
};
use lb_tests::pair::{OVER, Pair};

#[test]
fn a_connection_is_translated_both_ways_and_its_stages_follow_the_flags() {
    let mut p = Pair::new(&world(3));
    let out = p.receive(&Segment::syn(40_000).frame());
    assert_eq!(out.reason, Reason::NewFlow);
    assert_eq!(out.action, Action::Route(LO));
    let syn = seen(&out.frame);
    assert_eq!((syn.src.0, syn.dst, syn.ttl), (VIP, (backend(0), PORT), 63));
    assert!((1024..32768).contains(&syn.src.1) || syn.src.1 > 60999, "source port {}", syn.src.1);
    assert_eq!(p.only_flow().stage(), Stage::SynSent);

    let back = p.receive(&Segment { syn: true, ..Segment::answer(&syn) }.frame());
    assert_eq!(back.reason, Reason::Returned);
    let syn_ack = seen(&back.frame);
    assert_eq!((syn_ack.src, syn_ack.dst, syn_ack.ack), ((VIP, PORT), (CLIENT, 40_000), Some(1001)));
    assert_eq!(p.only_flow().stage(), Stage::SynReceived);

    let ack =
        Segment { seq: 1001, ack: Some(9001), data: b"SELECT 1".to_vec(), ..Segment::from_client(40_000) };
    let data = seen(&p.receive(&ack.frame()).frame);
    assert_eq!((data.dst, data.src, data.data), ((backend(0), PORT), syn.src, 8));
    let f = p.only_flow();
    assert_eq!((f.stage(), f.client_next, f.backend_next), (Stage::Established, 1009, 9001));
}

#[test]
fn a_finished_checksum_that_looks_unfinished_is_right_after_translation() {
    let mut p = Pair::new(&world(3));
    p.establish(40_000);
    let segment = |data: u16| {
        let data = data.to_be_bytes().to_vec();
        Segment { seq: 1001, ack: Some(9001), data, ..Segment::from_client(40_000) }.frame()
    };
    // What a frame holds whose checksum the hardware is to complete: the pseudo-header's sum.
    let pseudo = sum_addr(&CLIENT.into()) + sum_addr(&VIP.into()) + u32::from(PROTO_TCP) + 22;
    let looks_unfinished = |frame: &Vec<u8>| frame[50..52] == fold(pseudo).to_be_bytes();
    let frame = (0..=u16::MAX).map(segment).find(looks_unfinished).expect("one word makes up for any sum");
    let out = p.receive(&frame);
    assert_eq!(out.reason, Reason::Forwarded);
    assert_eq!(seen(&out.frame).dst, (backend(0), PORT));
}

#[test]
fn a_closed_connection_gives_its_client_port_to_a_new_one() {
    let mut p = Pair::new(&world(3));
    let syn = p.establish(40_000);
    let fin = Segment { fin: true, seq: 1001, ack: Some(9001), ..Segment::from_client(40_000) };
    p.receive(&fin.frame());
    assert_eq!(p.only_flow().stage(), Stage::Established, "half closed: the backend may go on sending");
    p.receive(&Segment { fin: true, seq: 9001, ..Segment::answer(&syn) }.frame());
    assert_eq!(p.only_flow().stage(), Stage::Closing);
    let again = p.receive(&Segment { seq: 777_000, ..Segment::syn(40_000) }.frame());
    assert_eq!(again.reason, Reason::NewFlow);
    assert_eq!(seen(&again.frame).dst, (backend(1), PORT), "chosen anew");
}

#[test]
fn a_retransmitted_syn_keeps_its_backend_and_port() {
    let mut p = Pair::new(&world(3));
    let first = seen(&p.receive(&Segment::syn(40_000).frame()).frame);
    let second = p.receive(&Segment::syn(40_000).frame());
    assert_eq!(second.reason, Reason::Forwarded);
    assert_eq!(seen(&second.frame), first);
}

#[test]
fn a_reset_ends_a_flow() {
    let mut p = Pair::new(&world(3));
    p.establish(40_000);
    let rst = Segment { rst: true, seq: 1001, ..Segment::from_client(40_000) };
    let out = p.receive(&rst.frame());
    assert_eq!(out.reason, Reason::Forwarded);
    assert!(seen(&out.frame).rst);
    assert_eq!(p.only_flow().stage(), Stage::Closed);
}

#[test]
fn round_robin_gives_each_backend_its_turn() {
    let mut p = Pair::new(&world(3));
    let chosen: Vec<_> =
        (0..6).map(|i| seen(&p.receive(&Segment::syn(40_000 + i).frame()).frame).dst.0).collect();
    assert_eq!(chosen, [0, 1, 2, 0, 1, 2].map(backend));
}

#[test]
fn without_the_lease_nothing_of_the_virtual_address_is_answered_or_forwarded() {
    let mut p = Pair::new(&world(3));
    let syn = p.establish(40_000);
    p.lease(OVER);
    let data = Segment { seq: 1001, ack: Some(9001), data: vec![1; 10], ..Segment::from_client(40_000) };
    let reply = Segment { data: vec![2; 10], seq: 9001, ..Segment::answer(&syn) };
    for (what, frame) in [
        ("a new connection", Segment::syn(41_000).frame()),
        ("an established one", data.frame()),
        ("a backend's reply", reply.frame()),
        ("an echo request", echo_request(VIP, 64, b"ping")),
        ("an ARP request", arp_request(CLIENT, VIP)),
        ("another port", Segment { dst: (VIP, 22), ..Segment::syn(42_000) }.frame()),
        ("UDP", udp(VIP, 53)),
    ] {
        let out = p.receive(&frame);
        assert_eq!((out.reason, out.action), (Reason::NotOwner, Action::Drop), "{what}");
    }
    for (what, frame) in
        [("ARP", arp_request(VIP, CLIENT)), ("TCP", Segment { src: (VIP, 80), ..Segment::syn(1) }.frame())]
    {
        assert_eq!(p.send(&frame).reason, Reason::EgressFenced, "{what} in the address's name");
    }
}

#[test]
fn with_the_lease_the_nodes_own_packets_leave() {
    let mut p = Pair::new(&world(3));
    assert_eq!(p.send(&arp_request(VIP, CLIENT)).reason, Reason::EgressPassed);
    p.lease(OVER);
    assert_eq!(p.send(&arp_request(backend(5), CLIENT)).reason, Reason::EgressPassed, "another address");
}

#[test]
fn arp_for_the_virtual_address_is_answered_with_the_interfaces_address() {
    let mut p = Pair::new(&world(3));
    let out = p.receive(&arp_request(CLIENT, VIP));
    assert_eq!((out.reason, out.action), (Reason::ArpAnswered, Action::Send(LO)));
    let f = &out.frame;
    assert_eq!((&f[..6], &f[6..12]), (&CLIENT_MAC[..], &REPLY_MAC.0[..]), "Ethernet addresses");
    assert_eq!(f[20..22], [0, 2], "a reply");
    assert_eq!((&f[22..28], &f[28..32]), (&REPLY_MAC.0[..], &octets(VIP)[..]), "sender");
    assert_eq!((&f[32..38], &f[38..42]), (&CLIENT_MAC[..], &octets(CLIENT)[..]), "target");
}

#[test]
fn announcements_and_requests_for_other_addresses_go_to_the_nodes_own_stack() {
    let mut p = Pair::new(&world(3));
    assert_eq!(p.receive(&arp_request(VIP, VIP)).reason, Reason::NoService);
    assert_eq!(p.receive(&arp_request(CLIENT, backend(0))).reason, Reason::NotVirtual);
}

#[test]
fn an_echo_request_is_answered_with_a_valid_reply() {
    let mut p = Pair::new(&world(3));
    for (ttl, data) in [(64, &b"even"[..]), (1, b"odd"), (200, b"")] {
        let out = p.receive(&echo_request(VIP, ttl, data));
        assert_eq!((out.reason, out.action), (Reason::EchoAnswered, Action::Send(LO)));
        let h = etherparse::PacketHeaders::from_ethernet_slice(&out.frame).expect("a frame");
        let Some(etherparse::NetHeaders::Ipv4(ip, _)) = h.net else { panic!("not IPv4") };
        let Some(etherparse::TransportHeader::Icmpv4(icmp)) = h.transport else { panic!("not ICMP") };
        assert_eq!((ip.source, ip.destination), (octets(VIP), octets(CLIENT)));
        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
        assert!(matches!(icmp.icmp_type, etherparse::Icmpv4Type::EchoReply(e) if e.id == 7 && e.seq == 3));
        assert_eq!(icmp.checksum, icmp.icmp_type.calc_checksum(h.payload.slice()));
        assert_eq!(h.payload.slice(), data);
    }
}

#[test]
fn a_service_without_a_backend_refuses_at_once() {
    let mut p = Pair::new(&world(0));
    let out = p.receive(&Segment::syn(40_000).frame());
    assert_eq!((out.reason, out.action), (Reason::NoBackend, Action::Send(LO)));
    let rst = seen(&out.frame);
    assert!(rst.rst);
    assert_eq!((rst.src, rst.dst, rst.ack), ((VIP, PORT), (CLIENT, 40_000), Some(1001)));
    assert_eq!(p.host.service_counters(0).refused, 1);
}

#[test]
fn a_segment_of_an_unknown_connection_is_reset_from_the_number_it_acknowledges() {
    let mut p = Pair::new(&world(3));
    for data in [0usize, 1, 999, 1400] {
        let lost =
            Segment { seq: 5000, ack: Some(70_000), data: vec![7; data], ..Segment::from_client(40_000) };
        let out = p.receive(&lost.frame());
        assert_eq!(out.reason, Reason::UnknownFlow);
        let rst = seen(&out.frame);
        assert_eq!((rst.rst, rst.seq, rst.ack, rst.data), (true, 70_000, None, 0));
    }
}

#[test]
fn a_reset_is_never_answered() {
    let mut p = Pair::new(&world(3));
    let rst = Segment { rst: true, ack: Some(1), ..Segment::from_client(40_000) };
    assert_eq!(p.receive(&rst.frame()).reason, Reason::StrayReset);
}

#[test]
fn packets_that_are_not_for_a_virtual_address_pass_untouched() {
    let mut p = Pair::new(&world(3));
    let other = Segment { dst: (backend(5), PORT), ..Segment::syn(40_000) };
    let mut ipv6 = other.frame();
    ipv6[12..14].copy_from_slice(&[0x86, 0xdd]);
    let mut vlan = other.frame();
    vlan[12..14].copy_from_slice(&[0x81, 0]);
    for (frame, reason) in [
        (other.frame(), Reason::NotVirtual),
        (udp(backend(1), 53), Reason::NotVirtual),
        (ipv6, Reason::OtherProtocol),
        (vlan, Reason::OtherProtocol),
        (Segment { dst: (VIP, 22), ..Segment::syn(40_000) }.frame(), Reason::NoService),
        (udp(VIP, 53), Reason::NoService),
    ] {
        let out = p.receive(&frame);
        assert_eq!((out.reason, out.action), (reason, Action::Pass));
        assert_eq!(out.frame, frame);
    }
}

#[test]
fn a_frame_for_another_host_is_left_alone() {
    let mut p = Pair::new(&world(3));
    let mut frame = Segment::syn(40_000).frame();
    frame[..6].copy_from_slice(&[2, 9, 9, 9, 9, 9]);
    assert_eq!(p.receive(&frame).reason, Reason::OtherHost);
}

#[test]
fn headers_that_contradict_themselves_are_dropped_only_for_a_virtual_address() {
    let mut p = Pair::new(&world(3));
    let change = |to: std::net::IpAddr, f: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = Segment { dst: (to, PORT), data: vec![1; 20], ..Segment::syn(40_000) }.frame();
        f(&mut frame);
        fix_ip_checksum(&mut frame);
        frame
    };
    type Breakage<'a> = (&'a str, &'a dyn Fn(&mut Vec<u8>));
    let broken: [Breakage<'_>; 4] = [
        ("IP length beyond the frame", &|f| f[16..18].copy_from_slice(&2000u16.to_be_bytes())),
        ("IP length below its header", &|f| f[16..18].copy_from_slice(&19u16.to_be_bytes())),
        ("TCP header below 20 bytes", &|f| f[46] = 4 << 4),
        ("TCP header beyond the packet", &|f| {
            f[46] = 15 << 4;
            f[16..18].copy_from_slice(&50u16.to_be_bytes());
        }),
    ];
    for (what, f) in broken {
        assert_eq!(p.receive(&change(VIP, f)).reason, Reason::Malformed, "{what}");
        assert_eq!(p.receive(&change(backend(0), f)).reason, Reason::NotVirtual, "{what}, another address");
    }
}

#[test]
fn ip_options_go_to_the_nodes_own_stack() {
    let mut p = Pair::new(&world(3));
    let mut f = Segment::syn(40_000).frame();
    f[14] = 0x46;
    assert_eq!(p.receive(&f).reason, Reason::IpOptions);
}

#[test]
fn a_packet_whose_ttl_is_used_up_goes_no_further() {
    let mut p = Pair::new(&world(3));
    assert_eq!(p.receive(&Segment { ttl: 1, ..Segment::syn(40_000) }.frame()).reason, Reason::TtlExpired);
    p.establish(41_000);
    let data = Segment { ttl: 1, seq: 1001, ack: Some(9001), ..Segment::from_client(41_000) };
    assert_eq!(p.receive(&data.frame()).reason, Reason::TtlExpired);
}

#[test]
fn a_full_flow_table_refuses_new_connections_and_keeps_the_old() {
    let mut p = Pair::with_room(&world(3), 2);
    p.establish(40_000);
    p.establish(40_001);
    let out = p.receive(&Segment::syn(40_002).frame());
    assert_eq!(out.reason, Reason::FlowTableFull);
    assert!(seen(&out.frame).rst);
    let data = Segment { seq: 1001, ack: Some(9001), data: vec![0; 5], ..Segment::from_client(40_000) };
    assert_eq!(p.receive(&data.frame()).reason, Reason::Forwarded);
}

#[test]
fn connections_share_a_source_port_only_towards_different_backends() {
    let mut one_port = world(2);
    one_port.settings.snat_ports =
        lb_common::settings::SnatPorts { low_first: 2000, low_last: 2000, high_first: 1, high_last: 0 };
    let mut p = Pair::new(&one_port);
    let a = seen(&p.receive(&Segment::syn(40_000).frame()).frame);
    let b = seen(&p.receive(&Segment::syn(40_001).frame()).frame);
    assert_eq!((a.src, b.src), ((VIP, 2000), (VIP, 2000)));
    assert_ne!(a.dst, b.dst);
    let third = p.receive(&Segment::syn(40_002).frame());
    assert_eq!(third.reason, Reason::SnatPortsExhausted);
    assert!(seen(&third.frame).rst);
    assert_eq!(
        p.kernel().tables.maps().flow_keys.keys().count(),
        4,
        "the refused connection left no key behind"
    );
}

#[test]
fn the_collector_frees_what_has_been_silent_for_too_long_and_nothing_else() {
    let mut p = Pair::new(&world(3));
    p.receive(&Segment::syn(40_000).frame());
    p.establish(40_001);
    let now = lb_userspace::vrrp::BootTime::now().0;
    let flows = p.flows;
    let sweep = |p: &mut Pair, at: u64| {
        let d = p.kernel();
        d.collector.sweep(d.tables.maps(), at, flows).expect("sweep")
    };
    assert_eq!(sweep(&mut p, now + 30_000_000_000), 0);
    assert_eq!(p.kernel().collector.used(), 2);
    assert_eq!(sweep(&mut p, now + 90_000_000_000), 1, "the one that never got an answer");
    assert_eq!(p.kernel().tables.maps().flow_keys.keys().count(), 2);
    assert_eq!(sweep(&mut p, now + 4 * 24 * 3_600_000_000_000), 0, "an established one may be idle for days");
    assert_eq!(sweep(&mut p, now + 6 * 24 * 3_600_000_000_000), 1);
    assert_eq!(p.kernel().tables.maps().flow_keys.keys().count(), 0);
}
