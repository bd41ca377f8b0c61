//! Which backend a new connection gets: every scheduler, limits, and clients that keep to their backend, through the host core and
//! the kernel's programs; and that each connection counts once, whatever ends it.

use std::net::{IpAddr, Ipv4Addr};

use lb_common::{flow::Stage, occupancy::of_service, reason::Reason, schedule::Scheduler};
use lb_ebpf::{Action, Tables};
use lb_tests::{
    packets::{Datagram, FAMILIES, Family, LO, PORT, Seen, Segment, VIP, backend, seen, world},
    pair::Pair,
};
use lb_userspace::datapath::{
    ring::{self, Taker},
    tables::{Choice, Desired},
};

/// Slots of a table by hash, a prime.
const SLOTS: u32 = 1021;

/// `world` with these weights, by this scheduler.
fn by(mut world: Desired, scheduler: Scheduler, weights: &[u16]) -> Desired {
    let takers: Vec<_> = (0..)
        .zip(weights)
        .map(|(id, weight)| Taker { id, weight: *weight, seed: ring::seed((backend(id as u8), PORT).into()) })
        .collect();
    for service in &mut world.services {
        service.ring = ring::table(scheduler, &takers, SLOTS);
        let members = takers.iter().filter(|t| t.weight > 0).map(|t| (t.id, t.weight)).collect();
        service.choice = Choice { scheduler, members, ..Choice::default() };
    }
    world
}

fn equal(n: u8, scheduler: Scheduler) -> Desired {
    by(world(n), scheduler, &vec![1; n.into()])
}

/// A connection request of another client than the usual one.
fn from(client: u8, port: u16) -> Segment {
    Segment { src: (Ipv4Addr::new(172, 18, 1, client).into(), port), ..Segment::syn(port) }
}

/// Opens a connection; gives the SYN as the backend sees it.
fn open(p: &mut Pair, syn: &Segment) -> Seen {
    let out = p.receive(&syn.frame());
    assert_eq!(out.reason, Reason::NewFlow);
    seen(&out.frame)
}

/// Numbers of the backends that these connections get.
fn chosen(p: &mut Pair, syns: impl IntoIterator<Item = Segment>) -> Vec<u8> {
    syns.into_iter().map(|syn| number(open(p, &syn).dst.0)).collect()
}

fn number(addr: IpAddr) -> u8 {
    (0..=255).find(|i| backend(*i) == addr).expect("a backend")
}

fn ports(n: u16) -> impl Iterator<Item = Segment> {
    (0..n).map(|i| Segment::syn(20_000 + i))
}

/// Ends the connection that this SYN opened before it was answered.
fn reset(p: &mut Pair, syn: &Segment) {
    let rst = Segment { syn: false, rst: true, seq: syn.seq + 1, ..syn.clone() };
    assert_eq!(p.receive(&rst.frame()).reason, Reason::Forwarded);
}

/// Connections that are counted of a backend, the same on both sides.
fn count(p: &Pair, backend: u32) -> u64 {
    p.host.occupancy(backend).expect("counts").connections
}

fn shares(chosen: &[u8], n: u8) -> Vec<usize> {
    (0..n).map(|i| chosen.iter().filter(|c| **c == i).count()).collect()
}

#[test]
fn weighted_round_robin_gives_each_backend_exactly_its_share_and_spreads_it() {
    let mut p = Pair::new(&by(world(3), Scheduler::Wrr, &[5, 1, 1]));
    assert_eq!(chosen(&mut p, ports(14)), [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn by_fewest_connections_the_next_one_goes_where_one_has_ended() {
    let mut p = Pair::new(&by(world(3), Scheduler::Lc, &[9, 1, 3]));
    let syns: Vec<_> = ports(9).collect();
    let first = chosen(&mut p, syns.clone());
    assert_eq!(shares(&first, 3), [3, 3, 3], "weights do not count");
    let gone = first[4];
    reset(&mut p, &syns[4]);
    assert_eq!(chosen(&mut p, [Segment::syn(30_000)]), [gone]);
}

#[test]
fn by_fewest_connections_for_the_weight_shares_are_those_of_the_weights() {
    let mut p = Pair::new(&by(world(3), Scheduler::Wlc, &[4, 2, 1]));
    let chosen = chosen(&mut p, ports(28));
    assert_eq!(chosen[0], 0, "an idle backend of greater weight is given the first");
    assert_eq!(shares(&chosen, 3), [16, 8, 4]);
}

#[test]
fn by_source_a_client_keeps_its_backend_and_clients_spread() {
    let mut p = Pair::with_room(&equal(3, Scheduler::Sh), 256);
    for client in 1..=20 {
        let of_one = chosen(&mut p, (0..3).map(|i| from(client, 20_000 + i)));
        assert_eq!(of_one, [of_one[0]; 3], "client {client}");
    }
    assert!((0..3).all(|b| count(&p, b) >= 3), "{:?}", (0..3).map(|b| count(&p, b)).collect::<Vec<_>>());
}

#[test]
fn by_destination_a_port_keeps_its_backend_and_ports_spread() {
    let mut range = equal(3, Scheduler::Dh);
    range.services[0].last = Some(lb_common::addr::Port::new(PORT + 20));
    let mut p = Pair::with_room(&range, 256);
    for port in 0..=20 {
        let to = |client| Segment { dst: (VIP, PORT + port), ..from(client, 20_000) };
        let there: Vec<_> = (1..4).map(|client| open(&mut p, &to(client)).dst.0).collect();
        assert_eq!(there, [there[0]; 3], "port {port}");
    }
    assert!((0..3).all(|b| count(&p, b) >= 3));
}

#[test]
fn by_maglev_a_backend_that_goes_moves_only_its_own_connections_mostly() {
    let mut p = Pair::with_room(&equal(3, Scheduler::Mh), 1024);
    let syns: Vec<_> = ports(90).collect();
    let before = chosen(&mut p, syns.clone());
    assert!(shares(&before, 3).iter().all(|n| *n >= 15), "{:?}", shares(&before, 3));
    syns.iter().for_each(|syn| reset(&mut p, syn));
    assert_eq!(chosen(&mut p, syns.clone()), before, "the same connections, the same backends");
    syns.iter().for_each(|syn| reset(&mut p, syn));

    p.publish(&by(world(3), Scheduler::Mh, &[1, 0, 1]));
    let after = chosen(&mut p, syns);
    assert!(after.iter().all(|b| *b != 1));
    let moved = before.iter().zip(&after).filter(|(b, a)| **b != 1 && b != a).count();
    assert!(moved <= 4, "{moved} of other backends moved");
}

#[test]
fn the_first_available_takes_everything_until_it_is_full_or_gone() {
    let mut limited = equal(3, Scheduler::Fo);
    limited.limits = vec![4, 2];
    let mut p = Pair::new(&limited);
    let syns: Vec<_> = ports(7).collect();
    assert_eq!(chosen(&mut p, syns.clone()), [0, 0, 0, 0, 1, 1, 2]);
    reset(&mut p, &syns[0]);
    assert_eq!(chosen(&mut p, [Segment::syn(30_000)]), [0], "there is room again");
    p.publish(&Desired { limits: Vec::new(), ..by(world(3), Scheduler::Fo, &[0, 1, 1]) });
    assert_eq!(chosen(&mut p, [Segment::syn(30_001), Segment::syn(30_002)]), [1, 1]);
}

#[test]
fn of_two_drawn_the_less_loaded_is_taken() {
    let mut p = Pair::new(&by(world(2), Scheduler::Twos, &[3, 1]));
    assert_eq!(shares(&chosen(&mut p, ports(20)), 2), [15, 5], "of two backends both are drawn");
    let mut p = Pair::with_room(&equal(5, Scheduler::Twos), 256);
    let shares = shares(&chosen(&mut p, ports(100)), 5);
    assert!(shares.iter().all(|n| (15..=25).contains(n)), "{shares:?}");
}

#[test]
fn a_service_with_one_backend_or_none_works_with_every_scheduler() {
    for scheduler in Scheduler::ALL {
        let mut p = Pair::new(&equal(1, scheduler));
        assert_eq!(chosen(&mut p, ports(3)), [0; 3], "{scheduler:?}");
        p.publish(&by(world(1), scheduler, &[0]));
        assert_eq!(p.receive(&Segment::syn(30_000).frame()).reason, Reason::NoBackend, "{scheduler:?}");
    }
}

#[test]
fn every_scheduler_passes_full_backends_by_and_refuses_when_all_are_full() {
    for scheduler in Scheduler::ALL {
        let mut limited = equal(3, scheduler);
        limited.limits = vec![1, 5, 2];
        let mut p = Pair::new(&limited);
        assert_eq!(shares(&chosen(&mut p, ports(8)), 3), [1, 5, 2], "{scheduler:?}");
        let out = p.receive(&Segment::syn(30_000).frame());
        assert_eq!((out.reason, out.action), (Reason::BackendsFull, Action::Send(LO)), "{scheduler:?}");
        let rst = seen(&out.frame);
        assert!(rst.rst && rst.ack == Some(1001), "{rst:?}");
        assert_eq!(p.host.service_counters(0).refused, 1);
        reset(&mut p, &Segment::syn(20_000));
        open(&mut p, &Segment::syn(30_001));
    }
}

#[test]
fn a_service_takes_as_many_connections_as_it_may_have_and_others_are_not_concerned() {
    let mut two = equal(3, Scheduler::Rr);
    two.services.push(two.services[0].clone());
    two.services[1].port = lb_common::addr::Port::new(PORT + 1);
    two.services[0].choice.max_connections = 4;
    let mut p = Pair::new(&two);
    chosen(&mut p, ports(4));
    let out = p.receive(&Segment::syn(30_000).frame());
    assert_eq!((out.reason, seen(&out.frame).rst), (Reason::ServiceFull, true));
    open(&mut p, &Segment { dst: (VIP, PORT + 1), ..Segment::syn(30_000) });
    two.services[0].choice.max_connections = 5;
    p.publish(&two);
    open(&mut p, &Segment::syn(30_001));
    assert_eq!(p.receive(&Segment::syn(30_002).frame()).reason, Reason::ServiceFull);
    let counts = [0, 1].map(|s| p.host.occupancy(of_service(s)).expect("counts"));
    assert_eq!(counts.map(|o| (o.connections, o.limit)), [(5, 5), (1, 0)]);
}

#[test]
fn what_is_over_the_limit_of_a_udp_service_is_dropped() {
    for family in FAMILIES {
        let mut limited = by(family.udp_world(2), Scheduler::Rr, &[1, 1]);
        limited.limits = vec![1, 1];
        let mut p = Pair::new(&limited);
        for port in 0..2 {
            assert_eq!(p.receive(&Datagram::of(family, 20_000 + port).frame()).reason, Reason::NewFlow);
        }
        let out = p.receive(&Datagram::of(family, 20_002).frame());
        assert_eq!((out.reason, out.action), (Reason::BackendsFull, Action::Drop));
        assert_eq!(p.receive(&Datagram::of(family, 20_000).frame()).reason, Reason::Forwarded, "a known one");
    }
}

#[test]
fn a_connection_counts_from_its_request_to_its_end_once() {
    for family in FAMILIES {
        let mut p = Pair::new(&family.world(1));
        let of = |port| Segment::of(family, port);
        // Closed by both sides.
        let syn = p.establish_in(family, 20_000);
        assert_eq!(count(&p, 0), 1);
        let fin = Segment { fin: true, seq: 1001, ack: Some(9001), ..of(20_000) };
        p.receive(&fin.frame());
        assert_eq!(count(&p, 0), 1, "closed by one side");
        let fin = Segment { fin: true, seq: 9001, ack: Some(1002), ..Segment::answer(&syn) };
        p.receive(&fin.frame());
        assert_eq!(count(&p, 0), 0, "closed by both");
        p.receive(&Segment { seq: 1002, ack: Some(9002), ..of(20_000) }.frame());
        // The same port again, over the record of the closed one.
        p.establish_in(family, 20_000);
        assert_eq!(count(&p, 0), 1);
        // Reset, twice.
        for _ in 0..2 {
            p.receive(&Segment { rst: true, seq: 1001, ..of(20_000) }.frame());
            assert_eq!(count(&p, 0), 0);
        }
        // A request that is given up for another.
        let syn = Segment { syn: true, ..of(20_001) };
        p.receive(&syn.frame());
        p.receive(&syn.frame());
        assert_eq!(count(&p, 0), 1, "sent again");
        p.receive(&Segment { seq: 77_000, ..syn }.frame());
        assert_eq!(count(&p, 0), 1, "begun anew");
    }
}

#[test]
fn half_open_connections_that_give_way_count_no_more() {
    let mut p = Pair::with_room(&world(3), 16);
    let places = lb_common::half_open::places(16) as u16;
    p.establish(50_000);
    for i in 0..places + 10 {
        p.receive(&Segment::syn(20_000 + i).frame());
    }
    let counts: u64 = (0..3).map(|b| count(&p, b)).sum();
    assert_eq!(counts, u64::from(places) + 1);
}

#[test]
fn a_connection_that_finds_no_source_port_does_not_count() {
    let mut one_port = world(1);
    one_port.settings.snat_ports =
        lb_common::settings::SnatPorts { low_first: 2000, low_last: 2000, high_first: 1, high_last: 0 };
    let mut p = Pair::new(&one_port);
    open(&mut p, &Segment::syn(20_000));
    assert_eq!(p.receive(&Segment::syn(20_001).frame()).reason, Reason::SnatPortsExhausted);
    assert_eq!((count(&p, 0), p.host.occupancy(of_service(0)).expect("counts").connections), (1, 1));
}

#[test]
fn the_collector_takes_what_it_frees_off_the_counts() {
    let mut p = Pair::new(&world(3));
    chosen(&mut p, ports(6));
    p.establish(30_000);
    let kernel_counts = |p: &mut Pair, later_s: u64| {
        let at = lb_userspace::vrrp::BootTime::now().0 + later_s * 1_000_000_000;
        let flows = p.flows;
        let d = p.kernel();
        d.collector.sweep(d.tables.maps(), at, flows).expect("sweep");
        (0..3).map(|b| d.collector.connections(b)).collect::<Vec<_>>()
    };
    assert_eq!(kernel_counts(&mut p, 30), [3, 2, 2]);
    assert_eq!(kernel_counts(&mut p, 90), [1, 0, 0], "what was never answered is gone");
    assert_eq!(kernel_counts(&mut p, 6 * 24 * 3600), [0, 0, 0]);
}

/// `world` of round robin whose clients keep to their backends, known by so many bits of IPv4.
fn persistent(n: u8, bits: u8) -> Desired {
    let mut world = equal(n, Scheduler::Rr);
    world.services[0].choice.persistence = Some((96 + bits, 300));
    world
}

#[test]
fn a_client_keeps_to_its_backend_and_others_get_theirs_in_turn() {
    let mut p = Pair::new(&persistent(3, 32));
    let connections = (0..4).flat_map(|i| (1..=3).map(move |client| from(client, 20_000 + i)));
    assert_eq!(chosen(&mut p, connections), [0, 1, 2].repeat(4));
}

#[test]
fn clients_of_one_network_keep_to_one_backend() {
    let mut p = Pair::new(&persistent(3, 24));
    assert_eq!(chosen(&mut p, (1..=9).map(|client| from(client, 20_000))), [0; 9]);
    assert_eq!(chosen(&mut p, ports(2)), [1; 2], "of another network");
}

#[test]
fn a_client_whose_backend_takes_no_more_is_given_another_and_keeps_to_that() {
    let mut p = Pair::new(&persistent(3, 32));
    assert_eq!(chosen(&mut p, [from(1, 20_000), from(2, 20_000)]), [0, 1]);
    let mut less = persistent(3, 32);
    (less.services[0].ring, less.services[0].choice.members) = (vec![1, 2], vec![(1, 1), (2, 1)]);
    p.publish(&less);
    let anew = chosen(&mut p, [from(1, 20_001), from(1, 20_002)]);
    assert!(anew[0] != 0 && anew[0] == anew[1], "{anew:?}");
    p.publish(&persistent(3, 32));
    assert_eq!(chosen(&mut p, [from(1, 20_003)]), [anew[0]], "the first one is forgotten");
    let mut full = persistent(3, 32);
    full.limits = vec![0; 3];
    full.limits[usize::from(anew[0])] = 1;
    p.publish(&full);
    assert_ne!(chosen(&mut p, [from(1, 20_004)]), [anew[0]], "a full one is passed by");
}

#[test]
fn a_flow_in_use_shows_its_mode_beside_the_mark() {
    let mut p = Pair::new(&Family::V4.world(1));
    open(&mut p, &Segment::syn(20_000));
    let f = p.only_flow();
    assert!(f.is_counted());
    assert_eq!((f.stage(), f.mode()), (Stage::SynSent, lb_common::mode::Mode::Nat));
}
