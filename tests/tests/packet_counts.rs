//! Counts of connections while several processors open and end them at once, rings that change under traffic, and what a restarted
//! daemon makes of both; on the kernel's programs alone.

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
};

use lb_common::{
    flow::{Flow, Stage},
    occupancy::{Occupancy, of_service},
    reason::Reason,
    schedule::Scheduler,
};
use lb_tests::{
    packets::{PORT, Segment, backend, world},
    pair::Pair,
    test_run::test_run,
};
use lb_userspace::{
    config::model::Hook,
    datapath::{
        counters,
        load::Datapath,
        ring::{self, Taker},
        tables::{Choice, Desired, DesiredService},
    },
};

const THREADS: u16 = 4;
const EACH: u16 = 250;
/// `TC_ACT_REDIRECT`.
const REDIRECT: i32 = 7;
/// Room for all half-open flows of a test.
const ROOM: u32 = 8192;

fn by(scheduler: Scheduler, n: u8) -> Desired {
    let mut world = world(n);
    let taker = |id: u32| Taker { id, weight: 1, seed: ring::seed((backend(id as u8), PORT).into()) };
    let takers: Vec<_> = (0..n.into()).map(taker).collect();
    world.services[0].ring = ring::table(scheduler, &takers, 1021);
    let members = takers.iter().map(|t| (t.id, 1)).collect();
    world.services[0].choice = Choice { scheduler, members, ..Choice::default() };
    world
}

fn ports(thread: u16) -> impl Iterator<Item = u16> {
    (0..EACH).map(move |i| 10_000 + thread * EACH + i)
}

/// Runs the same on every thread at once.
fn at_once(program: BorrowedFd<'_>, work: impl Fn(BorrowedFd<'_>, u16) + Sync) {
    thread::scope(|s| {
        for thread in 0..THREADS {
            let work = &work;
            s.spawn(move || work(program, thread));
        }
    });
}

fn open_all(p: &mut Pair) {
    let program = p.kernel().ingress().expect("loaded").try_clone().expect("descriptor");
    at_once(program.as_fd(), |program, thread| {
        for port in ports(thread) {
            assert_eq!(test_run(program, &Segment::syn(port).frame()).expect("test run"), REDIRECT);
        }
    });
}

fn counts(p: &mut Pair, backends: u32) -> Vec<u64> {
    let maps = p.kernel().tables.maps();
    let of = |element| counters::occupancy(maps, element).expect("counts").connections;
    (0..backends).chain([of_service(0)]).map(of).collect()
}

/// Flows of each backend that count, by their records.
fn records(p: &mut Pair, backends: u32) -> Vec<u64> {
    let flows = p.flows;
    let maps = p.kernel().tables.maps();
    let all: Vec<Flow> = (0..flows).map(|slot| maps.flows.get(&slot, 0).expect("record")).collect();
    let live: Vec<_> = all.iter().filter(|f| f.stage() != Stage::Free && f.is_counted()).collect();
    let of = |id: u32| live.iter().filter(|f| f.backend_id == id).count() as u64;
    (0..backends).map(of).chain([live.len() as u64]).collect()
}

fn reason(p: &mut Pair, wanted: Reason) -> u64 {
    let reasons = counters::reasons(p.kernel().tables.maps()).expect("counters");
    reasons.into_iter().find(|(r, _)| *r == wanted).map_or(0, |(_, n)| n)
}

#[test]
fn connections_that_several_processors_open_and_end_at_once_are_counted_exactly() {
    for scheduler in [Scheduler::Wrr, Scheduler::Wlc, Scheduler::Mh] {
        let mut p = Pair::with_room(&by(scheduler, 4), ROOM);
        open_all(&mut p);
        let all = u64::from(THREADS * EACH);
        let found = counts(&mut p, 4);
        assert_eq!(found[4], all, "{scheduler:?}");
        assert_eq!(found, records(&mut p, 4), "{scheduler:?}");
        if scheduler == Scheduler::Wrr {
            assert_eq!(found[..4], [all / 4; 4], "shares are exact");
        }
        // Every reset comes twice, on two threads at once: half of the connections end, each once.
        let program = p.kernel().ingress().expect("loaded").try_clone().expect("descriptor");
        at_once(program.as_fd(), |program, thread| {
            for port in ports(thread / 2) {
                let rst = Segment { syn: false, rst: true, seq: 1001, ..Segment::syn(port) };
                assert_eq!(test_run(program, &rst.frame()).expect("test run"), REDIRECT);
            }
        });
        let found = counts(&mut p, 4);
        assert_eq!(found[4], all / 2, "{scheduler:?}");
        assert_eq!(found, records(&mut p, 4), "{scheduler:?}");
    }
}

#[test]
fn a_limit_is_reached_and_never_exceeded_whoever_comes_at_once() {
    for scheduler in [Scheduler::Rr, Scheduler::Lc, Scheduler::Fo] {
        let mut limited = by(scheduler, 3);
        limited.limits = vec![100, 200, 50];
        let mut p = Pair::with_room(&limited, ROOM);
        let program = p.kernel().ingress().expect("loaded").try_clone().expect("descriptor");
        at_once(program.as_fd(), |program, thread| {
            for port in ports(thread) {
                test_run(program, &Segment::syn(port).frame()).expect("test run");
            }
        });
        assert_eq!(counts(&mut p, 3), [100, 200, 50, 350], "{scheduler:?}");
        assert_eq!(records(&mut p, 3), [100, 200, 50, 350], "{scheduler:?}");
        let refused = reason(&mut p, Reason::BackendsFull);
        assert_eq!(refused, u64::from(THREADS * EACH) - 350, "{scheduler:?}");
    }
}

#[test]
fn rings_change_under_traffic_and_every_connection_finds_a_whole_one() {
    let mut p = Pair::with_room(&by(Scheduler::Mh, 3), ROOM);
    let program = p.kernel().ingress().expect("loaded").try_clone().expect("descriptor");
    let (done, opened) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|s| {
        let traffic = s.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let n = opened.fetch_add(1, Ordering::Relaxed);
                let client = std::net::Ipv4Addr::from(0x0a00_0000 + n).into();
                let syn = Segment { src: (client, 20_000), ..Segment::syn(0) };
                assert_eq!(test_run(program.as_fd(), &syn.frame()).expect("test run"), REDIRECT);
            }
        });
        for i in 0..300u32 {
            let scheduler = Scheduler::ALL[i as usize % Scheduler::ALL.len()];
            let swapped = p.kernel().tables.publish(&by(scheduler, 1 + (i % 3) as u8));
            // Not before the thread ends, which the scope waits for.
            if let Err(e) = swapped {
                done.store(true, Ordering::Relaxed);
                panic!("{e:#}");
            }
            let seen = opened.load(Ordering::Relaxed);
            while opened.load(Ordering::Relaxed) < seen + 2 && !traffic.is_finished() {
                thread::yield_now();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(reason(&mut p, Reason::NewFlow), u64::from(opened.into_inner()));
    assert_eq!(counts(&mut p, 3), records(&mut p, 3));
}

#[test]
fn a_restarted_daemon_goes_on_with_the_counts_and_puts_right_what_its_predecessor_left_unfinished() {
    let mut p = Pair::with_room(&by(Scheduler::Wrr, 3), 256);
    for port in 0..6 {
        p.receive(&Segment::syn(20_000 + port).frame());
    }
    assert_eq!(counts(&mut p, 3), [2, 2, 2, 6]);
    // As if the former one had died between the mark and the count.
    for (element, connections) in [(1, 3), (of_service(0), 7)] {
        p.kernel().tables.maps().occupancy.set(element, Occupancy { connections, limit: 0 }, 0).expect("set");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let _inside = runtime.enter();
    let mut second = Datapath::open(&p.pins, &[], Hook::Auto, 256).expect("adopts");
    assert!(second.adopted);
    assert_eq!((0..3).map(|b| second.collector.connections(b)).collect::<Vec<_>>(), [2, 2, 2]);
    assert_eq!(counts(&mut p, 3), [2, 2, 2, 6]);

    // Its rings go where no service of the former one has its own.
    let base = |d: &mut Datapath| {
        let entries: Vec<_> = d.tables.maps().services.iter().collect::<Result<_, _>>().expect("services");
        entries[0].1.ring_base
    };
    let before = base(&mut second);
    second.tables.publish(&by(Scheduler::Mh, 2)).expect("tables are written");
    let after = base(&mut second);
    let half = second.tables.maps().rings.len() / 2;
    assert_ne!(before < half, after < half, "{before} and {after} of {half}");
}

#[test]
fn flows_of_a_former_daemon_count_for_their_own_backends_wherever_these_stand_in_the_file_now() {
    let mut old = world(3);
    old.limits = vec![10; 3];
    let mut p = Pair::with_room(&old, 256);
    // One more of the first backend, which has three then.
    for port in 0..7 {
        p.receive(&Segment::syn(20_000 + port).frame());
    }
    p.establish(30_000);
    assert_eq!(counts(&mut p, 3), [3, 3, 2, 8]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let _inside = runtime.enter();
    let mut second = Datapath::open(&p.pins, &[], Hook::Auto, 256).expect("adopts");

    // Another service comes first; of the old one's backends the second is gone, and the others have changed places.
    let mut new = world(1);
    let [first, second_one, third] = [0, 1, 2].map(|i| world(3).backends[i]);
    let port = lb_common::addr::Port::new(PORT + 1);
    new.services.insert(0, DesiredService { port, backends: vec![0], ..new.services[0].clone() });
    new.backends = vec![second_one, third, first];
    new.services[1].backends = vec![1, 2];
    new.services.iter_mut().for_each(|s| s.ring.clear());
    second.tables.publish(&new).expect("tables are written");
    assert_eq!(second.collector.renumber(&new), 8);
    let of = |d: &mut Datapath, element| {
        counters::occupancy(d.tables.maps(), element).expect("counts").connections
    };
    let found = [0, 1, 2, of_service(0), of_service(1)].map(|element| of(&mut second, element));
    assert_eq!(found, [0, 2, 3, 0, 5], "those of the backend that is gone count for nobody");
    assert_eq!(second.collector.renumber(&new), 3, "which are found again, and nothing else");

    // And each is taken off where it is counted.
    let records = second.collector.records();
    second.collector.sweep(second.tables.maps(), u64::MAX, records).expect("sweep");
    let found = [0, 1, 2, of_service(0), of_service(1)].map(|element| of(&mut second, element));
    assert_eq!(found, [0; 5]);
}

#[test]
fn a_configuration_that_takes_larger_rings_than_the_adopted_ones_is_refused_with_words() {
    use lb_userspace::datapath::load::Sizes;
    let p = Pair::new(&world(1));
    let sizes = Sizes { ring_slots: 1 << 20, ..Sizes::from(64) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let _inside = runtime.enter();
    let refused = Datapath::open(&p.pins, &[], Hook::Auto, sizes).err().expect("too small").to_string();
    assert!(refused.contains("stop viplb properly"), "{refused}");
}
