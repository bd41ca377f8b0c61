//! Hand-over: the old owner relays what still comes to it, the new one takes what the old one relays, and both end by their
//! deadlines.

use lb_common::{addr::Mac, lease::Lease, reason::Reason};
use lb_ebpf::Action;
use lb_tests::packets::{
    CLIENT_MAC, Datagram, FAMILIES, Family, LO, PORT, REPLY_MAC, Segment, arp_request, echo_request, seen,
    solicitation, unicast_solicitation,
};
use lb_tests::pair::{FOREVER, OVER, Outcome, Pair};

const PEER: Mac = Mac([2, 0, 0, 0, 0, 8]);

/// The lease was given up; the peer has it.
fn relaying() -> Lease {
    Lease { relay_until: FOREVER, relay: PEER, term: 1, ..Lease::default() }
}

/// The lease is not taken yet; the client's node, which sends all frames of these cases, hands over.
fn delegate() -> Lease {
    Lease { delegate_until: FOREVER, delegate: Mac(CLIENT_MAC), ..Lease::default() }
}

fn syn(family: Family, port: u16) -> Segment {
    Segment { syn: true, ..Segment::of(family, port) }
}

fn assert_relayed(out: &Outcome, sent: &[u8]) {
    assert_eq!((out.reason, out.action), (Reason::Relayed, Action::Send(LO)));
    assert_eq!(out.frame[..12], [PEER.0, REPLY_MAC.0].concat(), "to the peer, from the interface");
    assert_eq!(out.frame[26..], sent[26..], "addresses and all that follows are as they were");
    assert_eq!(out.frame.len(), sent.len());
}

#[test]
fn what_still_comes_after_the_hand_over_goes_on_to_the_peer() {
    for family in FAMILIES {
        let mut p = Pair::new(&family.world(3));
        let first = p.establish_in(family, 40_000);
        p.set_lease(relaying());
        let data = Segment { seq: 1001, ack: Some(9001), data: vec![1; 10], ..Segment::of(family, 40_000) };
        let reply = Segment { data: vec![2; 10], seq: 9001, ..Segment::answer(&first) };
        for frame in [
            syn(family, 41_000).frame(),
            data.frame(),
            reply.frame(),
            Segment { dst: (family.vip(), 22), ..syn(family, 42_000) }.frame(),
            Datagram::of(family, 4000).frame(),
            echo_request(family.vip(), 64, b"ping"),
        ] {
            let out = p.receive(&frame);
            assert_relayed(&out, &frame);
        }
        let onward = seen(&p.receive(&syn(family, 41_000).frame()).frame);
        assert_eq!((onward.dst, onward.ttl), ((family.vip(), PORT), 63), "one hop later, checksums right");
        assert_eq!(p.only_flow().client_next, 1001, "the flow is the peer's now");
    }
}

#[test]
fn nothing_is_relayed_once_the_time_is_over_or_back_to_where_it_came_from() {
    for family in FAMILIES {
        let mut p = Pair::new(&family.world(3));
        let frame = syn(family, 40_000).frame();
        for lease in [
            Lease { relay_until: OVER, ..relaying() },
            Lease { relay_until: 0, ..relaying() },
            Lease { relay: Mac(CLIENT_MAC), ..relaying() },
        ] {
            p.set_lease(lease);
            let out = p.receive(&frame);
            assert_eq!((out.reason, out.action), (Reason::NotOwner, Action::Drop), "{lease:?}");
        }
        p.set_lease(relaying());
        let spent = p.receive(&Segment { ttl: 1, ..syn(family, 40_000) }.frame());
        assert_eq!(spent.reason, Reason::TtlExpired, "no ring of nodes keeps a packet for ever");
    }
}

#[test]
fn an_owner_that_is_about_to_hand_over_goes_on_with_what_it_knows_and_leaves_to_the_peer_what_begins() {
    for family in FAMILIES {
        let mut p = Pair::new(&family.world(3));
        p.establish_in(family, 40_000);
        p.set_lease(Lease { until: FOREVER, term: 2, ..relaying() });
        let data = Segment { seq: 1001, ack: Some(9001), data: vec![1; 10], ..Segment::of(family, 40_000) };
        assert_eq!(p.receive(&data.frame()).reason, Reason::Forwarded);
        let unknown = Segment { src: (family.client(), 40_001), ..data };
        for frame in [syn(family, 41_000).frame(), unknown.frame(), Datagram::of(family, 4000).frame()] {
            let out = p.receive(&frame);
            assert_relayed(&out, &frame);
        }
        p.set_lease(Lease { until: FOREVER, term: 2, relay: Mac(CLIENT_MAC), ..relaying() });
        assert_eq!(p.receive(&syn(family, 41_000).frame()).reason, Reason::NewFlow, "it came from there");
        p.set_lease(Lease { until: FOREVER, term: 2, fenced: 2, ..relaying() });
        let known = Segment { seq: 1011, ..Segment { ack: Some(9001), ..Segment::of(family, 40_000) } };
        assert_eq!(p.receive(&known.frame()).reason, Reason::Relayed, "a fenced term is over");
    }
}

#[test]
fn where_the_address_is_nobody_else_is_told_by_a_relay_or_a_delegate() {
    for lease in [relaying(), delegate()] {
        let mut p = Pair::new(&Family::V4.world(3));
        p.set_lease(lease);
        let asked = arp_request(Family::V4.client(), Family::V4.vip());
        assert_eq!(p.receive(&asked).reason, Reason::NotOwner);
        let own = Segment { src: (Family::V4.vip(), 80), ..syn(Family::V4, 1) };
        assert_eq!(p.send(&own.frame()).reason, Reason::EgressFenced);
        let (client, vip) = (Family::V6.client(), Family::V6.vip());
        let mut p = Pair::new(&Family::V6.world(3));
        p.set_lease(lease);
        for asked in [solicitation(client, vip), unicast_solicitation(client, vip)] {
            assert_eq!(p.receive(&asked).reason, Reason::NotOwner);
        }
    }
}

#[test]
fn a_delegate_opens_and_serves_flows_of_what_the_old_owner_relays() {
    for family in FAMILIES {
        let mut p = Pair::new(&family.world(3));
        p.set_lease(delegate());
        let out = p.receive(&syn(family, 40_000).frame());
        assert_eq!((out.reason, out.action), (Reason::NewFlow, Action::Route(LO)));
        let first = seen(&out.frame);
        assert_eq!(first.dst, (family.backend(0), PORT));
        let reply = Segment { syn: true, ..Segment::answer(&first) };
        assert_eq!(p.receive(&reply.frame()).reason, Reason::Returned);
        p.set_lease(Lease { delegate_until: OVER, ..delegate() });
        assert_eq!(p.receive(&reply.frame()).reason, Reason::NotOwner, "over");
    }
}

#[test]
fn a_delegate_takes_frames_from_nobody_but_the_old_owner() {
    for family in FAMILIES {
        let mut p = Pair::new(&family.world(3));
        p.set_lease(Lease { delegate: PEER, ..delegate() });
        for frame in [syn(family, 40_000).frame(), echo_request(family.vip(), 64, b"ping")] {
            assert_eq!(p.receive(&frame).reason, Reason::NotOwner);
        }
    }
}

/// The frame's link-layer source is the node that relayed it: turned round, an answer would end there.
#[test]
fn a_delegates_own_answers_go_by_the_route_to_the_client() {
    for family in FAMILIES {
        let mut p = Pair::new(&family.world(0));
        p.set_lease(delegate());
        let out = p.receive(&echo_request(family.vip(), 64, b"ping"));
        assert_eq!((out.reason, out.action), (Reason::EchoAnswered, Action::Route(LO)));
        let out = p.receive(&syn(family, 40_000).frame());
        assert_eq!((out.reason, out.action), (Reason::NoBackend, Action::Route(LO)));
        assert!(seen(&out.frame).rst);
        p.lease(FOREVER);
        let out = p.receive(&echo_request(family.vip(), 64, b"ping"));
        assert_eq!(out.action, Action::Send(LO), "as the owner it turns them round");
    }
}

#[test]
fn a_delegate_gives_nothing_to_its_own_stack() {
    for family in FAMILIES {
        let mut p = Pair::new(&family.world(3));
        p.set_lease(delegate());
        let ssh = Segment { dst: (family.vip(), 22), ..syn(family, 40_000) };
        let out = p.receive(&ssh.frame());
        assert_eq!((out.reason, out.action), (Reason::NotOwner, Action::Drop));
        let other = Segment { dst: (family.backend(5), 22), ..syn(family, 40_000) };
        assert_eq!(p.receive(&other.frame()).reason, Reason::NotVirtual, "what is its own, it keeps");
    }
}
