//! Packet cases of connections that a new owner does not know: which segments open a flow, for how long, to which backend and from
//! which port, and what becomes of it.

use lb_common::{
    flow::{ADOPTED, Stage},
    lease::Lease,
    mode::Mode,
    reason::Reason,
    schedule::Scheduler,
};
use lb_tests::{
    packets::{FAMILIES, Family, Segment, seen},
    pair::{NOW, Pair},
};
use lb_userspace::datapath::tables::Desired;

/// Three backends by hash, in `mode`, and a service that adopts.
fn adopting(family: Family, mode: Mode) -> Desired {
    let mut world = family.world(3);
    world.backends.iter_mut().for_each(|backend| backend.mode = mode as u8);
    world.services[0].choice.scheduler = Scheduler::Mh;
    world.services[0].adopts = true;
    world
}

/// A node that has just taken the address.
fn new_owner(world: &Desired) -> Pair {
    let mut p = Pair::new(world);
    p.set_lease(Lease { until: u64::MAX, term: 1, adopt_until: u64::MAX, ..Lease::default() });
    p
}

/// The client's next segment on a connection that has been going on for some time.
fn middle(family: Family, port: u16) -> Segment {
    Segment { seq: 5000, ack: Some(70_000), data: vec![3; 20], ..Segment::of(family, port) }
}

#[test]
fn a_new_owner_gives_an_unknown_connection_to_the_backend_and_from_the_port_that_it_had() {
    for family in FAMILIES {
        for mode in [Mode::Nat, Mode::Dnat] {
            let world = adopting(family, mode);
            let (mut lost, mut p) = (Pair::new(&world), new_owner(&world));
            for port in [40_000, 40_001, 51_234] {
                let before = lost.establish_in(family, port);
                let adopted = p.receive(&middle(family, port).frame());
                assert_eq!(adopted.reason, Reason::Adopted);
                let there = seen(&adopted.frame);
                assert_eq!((there.src, there.dst), (before.src, before.dst), "{mode:?}");
                assert_eq!((there.seq, there.ack, there.data), (5000, Some(70_000), 20));
            }
        }
    }
}

#[test]
fn an_adopted_connection_is_established_once_its_backend_has_answered() {
    for family in FAMILIES {
        for mode in [Mode::Nat, Mode::Dnat] {
            let mut p = new_owner(&adopting(family, mode));
            let there = seen(&p.receive(&middle(family, 40_000).frame()).frame);
            assert_ne!(p.only_flow().place, 0, "anybody could have made the segment up");
            assert_eq!(p.receive(&middle(family, 40_000).frame()).reason, Reason::Forwarded);
            assert_ne!(p.only_flow().place, 0, "and another one");
            let answer = Segment { seq: 70_000, ack: Some(5020), ..Segment::answer(&there) };
            assert_eq!(p.receive(&answer.frame()).reason, Reason::Returned);
            let flow = p.only_flow();
            assert_eq!((flow.stage(), flow.place), (Stage::Established, 0));
            assert_eq!((flow.client_next, flow.backend_next), (5020, 70_000));
            assert_ne!(flow.flags & ADOPTED, 0);
            // Its numbers are known, so that its end is believed.
            p.receive(&Segment { fin: true, seq: 5020, data: Vec::new(), ..middle(family, 40_000) }.frame());
            p.receive(&Segment { fin: true, ack: Some(5021), ..answer }.frame());
            assert_eq!(p.only_flow().stage(), Stage::Closing);
        }
    }
}

#[test]
fn a_backend_that_does_not_know_the_connection_resets_it_and_the_flow_is_never_established() {
    let mut p = new_owner(&adopting(Family::V4, Mode::Nat));
    let there = seen(&p.receive(&middle(Family::V4, 40_000).frame()).frame);
    let reset = Segment { rst: true, seq: 70_000, ack: None, ..Segment::answer(&there) };
    let reset = p.receive(&reset.frame());
    assert_eq!(reset.reason, Reason::Returned);
    assert_eq!(seen(&reset.frame).seq, 70_000, "the number that the client waits for");
    assert_ne!(p.only_flow().place, 0);
}

#[test]
fn what_answers_the_client_directly_is_established_by_the_clients_second_segment() {
    let mut p = new_owner(&adopting(Family::V4, Mode::Dsr));
    assert_eq!(p.receive(&middle(Family::V4, 40_000).frame()).reason, Reason::Adopted);
    assert_eq!(p.receive(&middle(Family::V4, 40_000).frame()).reason, Reason::Forwarded);
    let flow = p.only_flow();
    assert_eq!((flow.stage(), flow.place), (Stage::Established, 0));
}

#[test]
fn only_segments_in_the_middle_of_a_connection_open_one() {
    let mut p = new_owner(&adopting(Family::V4, Mode::Nat));
    let of = |change: fn(&mut Segment)| {
        let mut segment = middle(Family::V4, 40_000);
        change(&mut segment);
        segment.frame()
    };
    for (frame, reason) in [
        (of(|s| s.fin = true), Reason::UnknownFlow),
        (of(|s| s.rst = true), Reason::StrayReset),
        (of(|s| s.syn = true), Reason::UnknownFlow),
        (of(|s| s.ack = None), Reason::UnknownFlow),
    ] {
        assert_eq!(p.receive(&frame).reason, reason);
    }
}

#[test]
fn later_and_where_the_service_does_not_say_so_they_are_refused_as_ever() {
    let mut world = adopting(Family::V4, Mode::Nat);
    let mut p = Pair::new(&world);
    p.set_lease(Lease { until: u64::MAX, term: 1, adopt_until: NOW, ..Lease::default() });
    assert_eq!(p.receive(&middle(Family::V4, 40_000).frame()).reason, Reason::UnknownFlow);
    world.services[0].adopts = false;
    let mut p = new_owner(&world);
    let refused = p.receive(&middle(Family::V4, 40_000).frame());
    assert_eq!(refused.reason, Reason::UnknownFlow);
    let refused = seen(&refused.frame);
    assert_eq!((refused.rst, refused.seq), (true, 70_000));
}

#[test]
fn a_new_connection_of_the_same_port_takes_the_place_of_one_that_nobody_confirmed() {
    let mut p = new_owner(&adopting(Family::V4, Mode::Nat));
    p.receive(&middle(Family::V4, 40_000).frame());
    assert_eq!(p.receive(&Segment::syn(40_000).frame()).reason, Reason::NewFlow);
}

#[test]
fn made_up_segments_displace_each_other_and_no_established_flow() {
    let mut p = new_owner(&adopting(Family::V4, Mode::Nat));
    p.establish(39_999);
    for port in 40_000..40_200 {
        assert_eq!(p.receive(&middle(Family::V4, port).frame()).reason, Reason::Adopted);
    }
    let ack = Segment { seq: 1001, ack: Some(9001), ..Segment::of(Family::V4, 39_999) };
    assert_eq!(p.receive(&ack.frame()).reason, Reason::Forwarded);
}
