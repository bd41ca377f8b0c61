//! Peer probes: what the ingress program answers, what it promises by that, and what it leaves to the daemon.

use lb_common::{
    addr::Mac,
    lease::Lease,
    probe::{Kind, Message, State},
    reason::Reason,
};
use lb_ebpf::Action;
use lb_tests::packets::{
    CLIENT_MAC, Datagram, FAMILIES, Family, HOST_MAC, LO, REPLY_MAC, Segment, VIP, fix_ip_checksum,
    peer_message,
};
use lb_tests::pair::{FOREVER, NOW, OVER, Pair};

/// Sends a probe about the virtual address and gives the answer, headers verified.
fn asked(p: &mut Pair, family: Family) -> Message {
    let probe = peer_message(family, Kind::Probe, family.vip());
    let out = p.receive(&probe.frame());
    assert_eq!((out.reason, out.action), (Reason::ProbeAnswered, Action::Send(LO)));
    assert_eq!((&out.frame[..6], &out.frame[6..12]), (&CLIENT_MAC[..], &HOST_MAC[..]), "Ethernet addresses");
    let answer = Datagram::seen(&out.frame);
    assert_eq!((answer.src, answer.dst, answer.ttl), (probe.dst, probe.src, 255));
    let (sent, told) = (Message::parse(&probe.data).unwrap(), Message::parse(&answer.data).unwrap());
    let repeated = Message { kind: sent.kind, state: 0, mac: [0; 6], rest: [0; 8], ..told };
    assert_eq!(repeated, sent, "everything else is repeated");
    assert_eq!((told.kind(), Mac(told.mac)), (Some(Kind::Answer), REPLY_MAC));
    told
}

#[test]
fn a_probe_is_answered_with_the_state_and_the_rest_of_the_lease() {
    for family in FAMILIES {
        let mut p = Pair::new(&family.world(3));
        p.lease(FOREVER);
        let told = asked(&mut p, family);
        assert_eq!((told.state, u64::from_be_bytes(told.rest)), (State::Valid as u8, FOREVER - NOW));
        assert_eq!(p.host.lease_of(0).probed, NOW, "noted");
        p.lease(0);
        let told = asked(&mut p, family);
        assert_eq!((told.state, told.rest), (State::Released as u8, [0; 8]));
    }
}

#[test]
fn who_is_told_that_a_lease_ran_out_can_rely_on_it() {
    for family in FAMILIES {
        let mut p = Pair::new(&family.world(3));
        p.set_lease(Lease { until: OVER, term: 7, ..Lease::default() });
        assert_eq!(asked(&mut p, family).state, State::Expired as u8);
        let fenced = p.host.lease_of(0);
        assert_eq!(fenced.fenced, 7, "before the answer leaves");
        p.set_lease(Lease { until: FOREVER, ..fenced });
        assert_eq!(asked(&mut p, family).state, State::Expired as u8, "a late renewal changes nothing");
        let syn = Segment { syn: true, ..Segment::of(family, 40_000) };
        assert_eq!(p.receive(&syn.frame()).reason, Reason::NotOwner);
        p.set_lease(Lease { until: FOREVER, term: 8, ..fenced });
        assert_eq!(asked(&mut p, family).state, State::Valid as u8, "another term is another matter");
    }
}

#[test]
fn an_address_that_is_not_virtual_here_is_unknown() {
    let mut p = Pair::new(&Family::V4.world(3));
    let probe = peer_message(Family::V4, Kind::Probe, Family::V4.backend(9));
    let answer = Datagram::seen(&p.receive(&probe.frame()).frame);
    assert_eq!(Message::parse(&answer.data).unwrap().state, State::Unknown as u8);
    assert_eq!(p.host.lease_of(0).probed, 0);
}

#[test]
fn a_probe_without_a_checksum_is_answered_without_one() {
    let mut p = Pair::new(&Family::V4.world(3));
    let mut frame = peer_message(Family::V4, Kind::Probe, VIP).frame();
    frame[40..42].fill(0);
    let out = p.receive(&frame);
    assert_eq!((out.reason, &out.frame[40..42]), (Reason::ProbeAnswered, &[0, 0][..]));
}

#[test]
fn every_other_datagram_to_the_port_is_left_to_the_daemon() {
    for family in FAMILIES {
        let mut p = Pair::new(&family.world(3));
        let probe = peer_message(family, Kind::Probe, family.vip());
        let changed = |at: usize, to: u8| {
            let mut data = probe.data.clone();
            data[at] = to;
            Datagram { data, ..probe.clone() }
        };
        let long = Datagram { data: [&probe.data[..], &[0]].concat(), ..probe.clone() };
        for (what, datagram) in [
            ("an answer", peer_message(family, Kind::Answer, family.vip())),
            ("an offer", peer_message(family, Kind::Offer, family.vip())),
            ("a grant", peer_message(family, Kind::Grant, family.vip())),
            ("from beyond a router", Datagram { ttl: 254, ..probe.clone() }),
            ("too short", Datagram { data: probe.data[..63].to_vec(), ..probe.clone() }),
            ("too long", long),
            ("other magic", changed(3, b'x')),
            ("another version", changed(4, 2)),
            ("another port", Datagram { dst: (probe.dst.0, 29_113), ..probe.clone() }),
        ] {
            let out = p.receive(&datagram.frame());
            assert_eq!((out.reason, out.action), (Reason::NotVirtual, Action::Pass), "{what}");
            assert_eq!(out.frame, datagram.frame(), "{what}");
        }
        assert_eq!(p.host.lease_of(0).probed, 0, "nothing was noted");
    }
}

#[test]
fn probes_of_no_single_node_are_not_answered() {
    let mut p = Pair::new(&Family::V4.world(3));
    let probe = peer_message(Family::V4, Kind::Probe, VIP);
    for mac in [[0xff; 6], [1, 0, 0x5e, 0, 0, 18], [2, 9, 9, 9, 9, 9]] {
        let mut frame = probe.frame();
        frame[..6].copy_from_slice(&mac);
        assert_eq!(p.receive(&frame).reason, Reason::OtherHost);
    }
    let to_vip = Datagram { dst: (VIP, 29_112), ..probe.clone() };
    assert_eq!(p.receive(&to_vip.frame()).reason, Reason::NoService, "its owner is not a node");
    p.lease(OVER);
    assert_eq!(p.receive(&to_vip.frame()).reason, Reason::NotOwner);
    let mut fragment = probe.frame();
    fragment[20] = 0x20;
    fix_ip_checksum(&mut fragment);
    assert_eq!(p.receive(&fragment).reason, Reason::NotVirtual);
    assert_eq!(p.host.lease_of(0).fenced, 0);
}
