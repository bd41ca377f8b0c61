//! The virtual hardware address: told to who asks, and listened to though no interface has it.

use lb_common::{addr::Mac, lease::Lease, reason::Reason, service::Vip};
use lb_ebpf::Action;
use lb_tests::packets::{
    Advertisement, CLIENT, CLIENT_MAC, CLIENT6, Datagram, FAMILIES, Family, LO, PORT, REPLY_MAC, Segment,
    VIP, VIP6, arp_request, echo_request, octets, seen, solicitation, unicast_solicitation,
};
use lb_tests::pair::{FOREVER, OVER, Pair};

fn virtual_mac(family: Family) -> Mac {
    Mac::virtual_router(family == Family::V6, 51)
}

fn pair(family: Family) -> Pair {
    let mut world = family.world(3);
    world.vips[0].1 = Vip { mac: virtual_mac(family), ..Vip::default() };
    Pair::new(&world)
}

/// The frame, to `mac`.
fn to(mac: Mac, mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&mac.0);
    frame
}

fn syn(family: Family, port: u16) -> Segment {
    Segment { syn: true, ..Segment::of(family, port) }
}

#[test]
fn the_address_is_said_to_be_at_the_virtual_hardware_address() {
    assert_eq!(virtual_mac(Family::V4).to_string(), "00:00:5e:00:01:33");
    assert_eq!(virtual_mac(Family::V6).to_string(), "00:00:5e:00:02:33");
    let mac = virtual_mac(Family::V4);
    let mut p = pair(Family::V4);
    for frame in [arp_request(CLIENT, VIP), to(mac, arp_request(CLIENT, VIP))] {
        let out = p.receive(&frame);
        assert_eq!((out.reason, out.action), (Reason::ArpAnswered, Action::Send(LO)));
        assert_eq!(out.frame[..12], [CLIENT_MAC, mac.0].concat(), "Ethernet addresses");
        assert_eq!(out.frame[22..32], [&mac.0[..], &octets(VIP)].concat(), "sender");
    }
    let mac = virtual_mac(Family::V6);
    let mut p = pair(Family::V6);
    for frame in [solicitation(CLIENT6, VIP6), to(mac, unicast_solicitation(CLIENT6, VIP6))] {
        let out = p.receive(&frame);
        assert_eq!((out.reason, out.action), (Reason::NeighbourAnswered, Action::Send(LO)));
        let told = Advertisement::seen(&out.frame);
        assert_eq!((told.link, told.mac), ((CLIENT_MAC, mac.0), mac.0));
    }
}

#[test]
fn frames_for_the_address_at_it_are_served() {
    for family in FAMILIES {
        let mac = virtual_mac(family);
        let mut p = pair(family);
        let out = p.receive(&to(mac, syn(family, 40_000).frame()));
        assert_eq!((out.reason, out.action), (Reason::NewFlow, Action::Route(LO)));
        let reply = Segment { syn: true, ..Segment::answer(&seen(&out.frame)) };
        assert_eq!(p.receive(&to(mac, reply.frame())).reason, Reason::Returned);
        let out = p.receive(&to(mac, echo_request(family.vip(), 64, b"ping")));
        assert_eq!((out.reason, out.action), (Reason::EchoAnswered, Action::Send(LO)));
        assert_eq!(out.frame[..12], [CLIENT_MAC, mac.0].concat(), "from the address that was asked");
        let ssh = to(mac, Segment { dst: (family.vip(), 22), ..syn(family, 41_000) }.frame());
        let out = p.receive(&ssh);
        assert_eq!((out.reason, out.action, out.frame), (Reason::NoService, Action::Pass, ssh));
        assert_eq!(p.receive(&syn(family, 42_000).frame()).reason, Reason::NewFlow, "the interface's too");
    }
}

#[test]
fn other_frames_to_it_pass_untouched() {
    for family in FAMILIES {
        let mac = virtual_mac(family);
        let mut p = pair(family);
        let other = Segment { dst: (family.backend(5), PORT), ..syn(family, 40_000) };
        let another_router = Mac::virtual_router(family == Family::V6, 52);
        let other_family = Mac::virtual_router(family == Family::V4, 51);
        for (what, frame) in [
            ("another address", to(mac, other.frame())),
            ("another router's", to(another_router, syn(family, 40_000).frame())),
            ("the other family's", to(other_family, syn(family, 40_000).frame())),
            ("any other", to(Mac([2, 9, 9, 9, 9, 9]), syn(family, 40_000).frame())),
            ("UDP to another address", {
                let datagram = Datagram { dst: (family.backend(5), PORT), ..Datagram::of(family, 4000) };
                to(mac, datagram.frame())
            }),
        ] {
            let out = p.receive(&frame);
            assert_eq!((out.reason, out.action), (Reason::OtherHost, Action::Pass), "{what}");
            assert_eq!(out.frame, frame, "{what}");
        }
    }
}

#[test]
fn without_one_frames_to_any_virtual_hardware_address_are_left_alone() {
    let mut p = Pair::new(&Family::V4.world(3));
    let out = p.receive(&to(virtual_mac(Family::V4), syn(Family::V4, 40_000).frame()));
    assert_eq!((out.reason, out.action), (Reason::OtherHost, Action::Pass));
}

#[test]
fn without_the_lease_it_is_silent_and_a_relay_speaks_for_itself() {
    for family in FAMILIES {
        let mac = virtual_mac(family);
        let mut p = pair(family);
        p.lease(OVER);
        let frame = to(mac, syn(family, 40_000).frame());
        let out = p.receive(&frame);
        assert_eq!((out.reason, out.action), (Reason::NotOwner, Action::Drop));
        let peer = Mac([2, 0, 0, 0, 0, 8]);
        p.set_lease(Lease { relay_until: FOREVER, relay: peer, ..Lease::default() });
        let out = p.receive(&frame);
        assert_eq!(out.reason, Reason::Relayed);
        assert_eq!(
            out.frame[..12],
            [peer.0, REPLY_MAC.0].concat(),
            "the virtual one would draw frames back here"
        );
    }
}
