//! Connections that a backend does not take, through the host core and the kernel's programs: by silence or by RST, with every
//! scheduler, and what is counted of whom.

use lb_common::{
    access::Limits,
    flow::{Flow, Stage},
    mode::Mode,
    occupancy::of_service,
    reason::Reason,
    schedule::Scheduler,
};
use lb_ebpf::{Action, Tables};
use lb_tests::{
    packets::{Error, FAMILIES, Family, PORT, Seen, Segment, seen},
    pair::Pair,
};
use lb_userspace::datapath::{
    access::Access,
    ring::{self, Taker},
    tables::{Choice, Desired},
};

/// Slots of a table by hash, a prime.
const SLOTS: u32 = 251;

/// One service with `n` equal backends, whose connections go to another if one does not take them.
fn world(family: Family, n: u8, scheduler: Scheduler) -> Desired {
    let mut world = family.world(n);
    let seed = |id: u32| ring::seed((family.backend(id as u8), PORT).into());
    let takers: Vec<_> = (0..u32::from(n)).map(|id| Taker { id, weight: 1, seed: seed(id) }).collect();
    let service = &mut world.services[0];
    service.ring = ring::table(scheduler, &takers, SLOTS);
    let members = takers.iter().map(|t| (t.id, t.weight)).collect();
    service.choice = Choice { scheduler, members, ..Choice::default() };
    let limits = Limits { redispatch: 1, ..Limits::default() };
    world.access = vec![Access { limits, rules: Vec::new() }];
    world
}

fn syn(family: Family) -> Segment {
    Segment { syn: true, ..Segment::of(family, 20_000) }
}

/// The backend's refusal of a SYN as it saw it.
fn refusal(syn: &Seen) -> Segment {
    Segment { rst: true, seq: 0, ..Segment::answer(syn) }
}

/// Sends a SYN for the first time; gives what a backend saw.
fn open(p: &mut Pair, syn: &Segment) -> Seen {
    let out = p.receive(&syn.frame());
    assert_eq!(out.reason, Reason::NewFlow);
    seen(&out.frame)
}

/// Sends it again a second later, to another backend.
fn again(p: &mut Pair, syn: &Segment) -> Seen {
    p.a_second_later();
    let out = p.receive(&syn.frame());
    assert_eq!(out.reason, Reason::Redispatched);
    seen(&out.frame)
}

fn number(family: Family, seen: &Seen) -> u32 {
    (0..=255).find(|i| family.backend(*i) == seen.dst.0).expect("a backend").into()
}

/// Connections that are counted of each of the first backends.
fn connections(p: &Pair, n: u32) -> Vec<u64> {
    (0..n).map(|b| p.host.occupancy(b).expect("counts").connections).collect()
}

/// New flows of a backend, those unanswered, those refused.
fn taken(p: &Pair, backend: u32) -> [u64; 3] {
    let c = p.host.backend_counters(backend);
    [c.flows, c.unanswered, c.refusing]
}

/// Answers a SYN as the backend saw it, up to the established stage.
fn establish(p: &mut Pair, family: Family, at_backend: &Seen) {
    let syn_ack = Segment { syn: true, ..Segment::answer(at_backend) };
    assert_eq!(p.receive(&syn_ack.frame()).reason, Reason::Returned);
    let ack = Segment { seq: 1001, ack: Some(9001), ..Segment::of(family, 20_000) };
    assert_eq!(p.receive(&ack.frame()).reason, Reason::Forwarded);
}

fn flows(p: &Pair) -> Vec<Flow> {
    let all = (0..p.flows).map(|slot| p.host.record(slot));
    all.filter(|f| !matches!(f.stage(), Stage::Free | Stage::Closed)).collect()
}

#[test]
fn a_syn_that_a_backend_does_not_answer_goes_to_another_when_it_comes_again() {
    for family in FAMILIES {
        let mut p = Pair::new(&world(family, 3, Scheduler::Rr));
        let first = open(&mut p, &syn(family));
        let silent = number(family, &first);
        let second = again(&mut p, &syn(family));
        let other = number(family, &second);
        assert_ne!(silent, other);
        assert_eq!(second.seq, 1000, "the very SYN");
        assert_eq!((taken(&p, silent), taken(&p, other)), ([1, 1, 0], [1, 0, 0]));
        assert_eq!(connections(&p, 3).iter().sum::<u64>(), 1, "it is one connection");
        assert_eq!(p.host.occupancy(of_service(0)).expect("counts").connections, 1);
        assert_eq!(p.host.service_counters(0).flows, 1, "and one to the client");
        establish(&mut p, family, &second);
        assert_eq!(flows(&p).len(), 1);
        // Too late: it belongs to no flow, and the backend is told to forget it.
        let late = Segment { syn: true, ..Segment::answer(&first) };
        assert_eq!(p.receive(&late.frame()).reason, Reason::UnknownFlow);
    }
}

#[test]
fn a_syn_that_the_network_doubles_stays_with_its_backend() {
    let mut p = Pair::new(&world(Family::V4, 3, Scheduler::Rr));
    let first = open(&mut p, &syn(Family::V4));
    let out = p.receive(&syn(Family::V4).frame());
    assert_eq!((out.reason, seen(&out.frame).dst), (Reason::Forwarded, first.dst));
    assert_eq!(taken(&p, number(Family::V4, &first)), [1, 0, 0]);
}

#[test]
fn every_scheduler_but_the_one_of_priorities_avoids_the_silent_backend_however_often_it_comes_again() {
    for scheduler in Scheduler::ALL {
        let mut p = Pair::new(&world(Family::V4, 3, scheduler));
        let mut last = open(&mut p, &syn(Family::V4)).dst;
        for _ in 0..6 {
            p.a_second_later();
            let out = p.receive(&syn(Family::V4).frame());
            let now = seen(&out.frame).dst;
            if scheduler == Scheduler::Fo {
                assert_eq!((out.reason, now), (Reason::Forwarded, last), "the first one's checks pass");
            } else {
                assert_eq!(out.reason, Reason::Redispatched, "{scheduler:?}");
                assert_ne!(now, last, "{scheduler:?}");
            }
            last = now;
        }
        assert_eq!(connections(&p, 3).iter().sum::<u64>(), 1, "{scheduler:?}");
    }
}

#[test]
fn by_priorities_a_syn_that_comes_again_goes_to_who_is_first_by_now() {
    let mut p = Pair::new(&world(Family::V4, 2, Scheduler::Fo));
    let first = open(&mut p, &syn(Family::V4));
    let mut without = world(Family::V4, 2, Scheduler::Fo);
    let service = &mut without.services[0];
    (service.ring, service.choice.members) = (vec![1], vec![(1, 1)]);
    p.publish(&without);
    assert_ne!(again(&mut p, &syn(Family::V4)).dst, first.dst);
}

#[test]
fn where_there_is_no_other_backend_the_syn_goes_to_the_same_and_its_refusal_to_the_client() {
    for family in FAMILIES {
        let mut p = Pair::new(&world(family, 1, Scheduler::Rr));
        let first = open(&mut p, &syn(family));
        p.a_second_later();
        for _ in 0..3 {
            p.a_second_later();
            let out = p.receive(&syn(family).frame());
            assert_eq!(out.reason, Reason::Forwarded);
            assert_eq!(seen(&out.frame), first, "from the same port");
        }
        assert_eq!(taken(&p, 0), [1, 1, 0], "once a connection");
        let out = p.receive(&refusal(&first).frame());
        assert_eq!(out.reason, Reason::Returned);
        let told = seen(&out.frame);
        assert!(told.rst && told.dst == (family.client(), 20_000), "{told:?}");
        assert_eq!(connections(&p, 1), [0]);
    }
}

#[test]
fn a_refusal_is_kept_from_the_client_whose_next_syn_another_backend_takes() {
    for family in FAMILIES {
        let mut p = Pair::new(&world(family, 3, Scheduler::Rr));
        let first = open(&mut p, &syn(family));
        let out = p.receive(&refusal(&first).frame());
        assert_eq!((out.reason, out.action), (Reason::RefusalWithheld, Action::Drop));
        assert_eq!(connections(&p, 3), [0; 3], "it is over");
        let second = again(&mut p, &syn(family));
        assert_ne!(second.dst, first.dst);
        let (refusing, other) = (number(family, &first), number(family, &second));
        assert_eq!((taken(&p, refusing), taken(&p, other)), ([1, 0, 1], [1, 0, 0]));
        establish(&mut p, family, &second);
        assert_eq!(connections(&p, 3).iter().sum::<u64>(), 1);
        assert_eq!(p.host.service_counters(0).flows, 1);
    }
}

#[test]
fn the_second_refusal_of_a_connection_reaches_the_client() {
    for family in FAMILIES {
        let mut p = Pair::new(&world(family, 3, Scheduler::Rr));
        let first = open(&mut p, &syn(family));
        p.receive(&refusal(&first).frame());
        let second = again(&mut p, &syn(family));
        let out = p.receive(&refusal(&second).frame());
        assert_eq!(out.reason, Reason::Returned);
        assert!(seen(&out.frame).rst);
        assert_eq!(taken(&p, number(family, &second)), [1, 0, 1]);
        // The client tries once more, from the same port: a new connection, with another number.
        let anew = Segment { seq: 70_000, ..syn(family) };
        assert_eq!(p.receive(&anew.frame()).reason, Reason::NewFlow);
        assert_eq!(p.host.service_counters(0).flows, 2);
        assert_eq!(connections(&p, 3).iter().sum::<u64>(), 1);
    }
}

#[test]
fn a_refusal_that_does_not_acknowledge_the_syn_is_none() {
    let mut p = Pair::new(&world(Family::V4, 3, Scheduler::Rr));
    let first = open(&mut p, &syn(Family::V4));
    for forged in [Segment { ack: Some(77), ..refusal(&first) }, Segment { ack: None, ..refusal(&first) }] {
        assert_eq!(p.receive(&forged.frame()).reason, Reason::Returned);
    }
    assert_eq!(taken(&p, number(Family::V4, &first)), [1, 0, 0]);
}

#[test]
fn an_icmp_error_about_the_first_syn_is_kept_from_the_client_and_the_next_one_reaches_it() {
    for family in FAMILIES {
        let kinds: &[[u8; 2]] = match family {
            Family::V4 => &[[3, 0], [3, 1], [3, 3], [3, 13], [11, 0]],
            Family::V6 => &[[1, 0], [1, 3], [1, 4], [3, 0]],
        };
        for what in kinds {
            let mut p = Pair::new(&world(family, 3, Scheduler::Rr));
            let error =
                |frame: &[u8]| Error { what: *what, rest: [0; 4], ..Error::too_big(family, frame, 64) };
            let out = p.receive(&syn(family).frame());
            let first = seen(&out.frame);
            let out = p.receive(&error(&out.frame).frame());
            assert_eq!((out.reason, out.action), (Reason::RefusalWithheld, Action::Drop), "{what:?}");
            assert_eq!(connections(&p, 3), [0; 3]);
            p.a_second_later();
            let out = p.receive(&syn(family).frame());
            assert_eq!(out.reason, Reason::Redispatched);
            assert_ne!(seen(&out.frame).dst, first.dst);
            assert_eq!(p.receive(&error(&out.frame).frame()).reason, Reason::ErrorForwarded, "{what:?}");
            assert_eq!(taken(&p, number(family, &first)), [1, 0, 1]);
        }
    }
}

#[test]
fn an_error_that_asks_for_shorter_packets_refuses_nothing() {
    for family in FAMILIES {
        let mut p = Pair::new(&world(family, 3, Scheduler::Rr));
        let out = p.receive(&syn(family).frame());
        let error = Error::too_big(family, &out.frame, 64);
        assert_eq!(p.receive(&error.frame()).reason, Reason::ErrorForwarded);
        establish(&mut p, family, &seen(&out.frame));
    }
}

#[test]
fn a_connection_that_the_backend_has_answered_stays_with_it() {
    let mut p = Pair::new(&world(Family::V4, 3, Scheduler::Rr));
    let first = open(&mut p, &syn(Family::V4));
    let syn_ack = Segment { syn: true, ..Segment::answer(&first) };
    assert_eq!(p.receive(&syn_ack.frame()).reason, Reason::Returned);
    p.a_second_later();
    let out = p.receive(&syn(Family::V4).frame());
    assert_eq!((out.reason, seen(&out.frame).dst), (Reason::Forwarded, first.dst), "its answer was lost");
    let rst = Segment { rst: true, seq: 9001, ..Segment::answer(&first) };
    assert_eq!(p.receive(&rst.frame()).reason, Reason::Returned, "it has thought better of it");
    assert_eq!(taken(&p, number(Family::V4, &first)), [1, 0, 0]);
}

#[test]
fn a_full_backend_is_no_other_one() {
    let mut full = world(Family::V4, 2, Scheduler::Rr);
    full.limits = vec![0, 1];
    let mut p = Pair::new(&full);
    let first = open(&mut p, &syn(Family::V4));
    let other = Segment { syn: true, ..Segment::from_client(30_000) };
    assert_ne!(open(&mut p, &other).dst, first.dst);
    p.a_second_later();
    let out = p.receive(&syn(Family::V4).frame());
    assert_eq!((out.reason, seen(&out.frame).dst), (Reason::Forwarded, first.dst));
    let out = p.receive(&refusal(&first).frame());
    assert_eq!(out.reason, Reason::Returned, "nobody waits for nothing");
}

#[test]
fn a_client_that_keeps_to_its_backend_keeps_to_the_other_from_now_on() {
    let mut kept = world(Family::V4, 3, Scheduler::Rr);
    kept.services[0].choice.persistence = Some((128, 300));
    let mut p = Pair::new(&kept);
    let first = open(&mut p, &syn(Family::V4));
    let second = again(&mut p, &syn(Family::V4));
    assert_ne!(second.dst, first.dst);
    let next = Segment { syn: true, ..Segment::from_client(30_000) };
    assert_eq!(open(&mut p, &next).dst, second.dst);
}

#[test]
fn a_service_whose_file_says_no_leaves_both_to_the_client_and_counts_them() {
    let mut off = world(Family::V4, 3, Scheduler::Rr);
    off.access[0].limits.redispatch = 0;
    let mut p = Pair::new(&off);
    let first = open(&mut p, &syn(Family::V4));
    p.a_second_later();
    let out = p.receive(&syn(Family::V4).frame());
    assert_eq!((out.reason, seen(&out.frame).dst), (Reason::Forwarded, first.dst));
    assert_eq!(p.receive(&refusal(&first).frame()).reason, Reason::Returned);
    assert_eq!(taken(&p, number(Family::V4, &first)), [1, 1, 0]);
}

#[test]
fn what_goes_to_another_backend_is_no_second_connection_of_a_limited_client() {
    let mut limited = world(Family::V4, 3, Scheduler::Rr);
    // One, and none after it for an hour.
    limited.access[0].limits = Limits { interval: 3_600_000_000_000, ..limited.access[0].limits };
    let mut p = Pair::new(&limited);
    open(&mut p, &syn(Family::V4));
    again(&mut p, &syn(Family::V4));
    let next = Segment { syn: true, ..Segment::from_client(30_000) };
    assert_eq!(p.receive(&next.frame()).reason, Reason::ClientRate);
}

#[test]
fn where_this_node_does_not_see_the_answers_a_syn_that_comes_again_says_nothing() {
    let mut direct = world(Family::V4, 3, Scheduler::Rr);
    direct.backends.iter_mut().for_each(|b| b.mode = Mode::Dsr as u8);
    let mut p = Pair::new(&direct);
    let out = p.receive(&syn(Family::V4).frame());
    assert_eq!(out.reason, Reason::NewFlow);
    p.a_second_later();
    assert_eq!(p.receive(&syn(Family::V4).frame()).reason, Reason::Forwarded);
    assert_eq!((0..3).map(|b| taken(&p, b)).filter(|c| *c == [1, 0, 0]).count(), 1);
}

#[test]
fn clients_that_backends_see_are_moved_as_well() {
    for family in FAMILIES {
        let mut dnat = world(family, 3, Scheduler::Rr);
        dnat.backends.iter_mut().for_each(|b| b.mode = Mode::Dnat as u8);
        let mut p = Pair::new(&dnat);
        let first = open(&mut p, &syn(family));
        assert_eq!(p.receive(&refusal(&first).frame()).reason, Reason::RefusalWithheld);
        let second = again(&mut p, &syn(family));
        assert_eq!((second.src, second.dst != first.dst), (first.src, true));
        establish(&mut p, family, &second);
    }
}

#[test]
fn a_backend_of_the_other_family_is_left_and_chosen_as_any_other() {
    let mut mixed = world(Family::V4, 2, Scheduler::Rr);
    for (i, backend) in (0..).zip(&mut mixed.backends) {
        backend.addr = Family::V6.backend(i).into();
    }
    mixed.paths.iter_mut().for_each(|path| path.source = Family::V6.backend(7).into());
    let mut p = Pair::new(&mixed);
    let first = open(&mut p, &syn(Family::V4));
    let out = p.receive(&refusal(&first).frame());
    assert_eq!((out.reason, out.action), (Reason::RefusalWithheld, Action::Drop));
    let second = again(&mut p, &syn(Family::V4));
    assert_ne!(second.dst, first.dst);
    let third = again(&mut p, &syn(Family::V4));
    assert_eq!(third.dst, first.dst, "of two it is the other again");
    assert_eq!(flows(&p).len(), 1);
}
