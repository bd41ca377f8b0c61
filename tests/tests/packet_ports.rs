//! Source ports towards backends: all are given out, none twice, they come back when flows end, and a daemon that adopts the maps
//! finds them as they are.

use std::collections::BTreeSet;
use std::time::Duration;

use lb_common::{
    addr::{Addr, Port},
    flow::{FlowKey, FlowRef},
    ports::WORDS,
    reason::Reason,
    settings::SnatPorts,
};
use lb_tests::{
    down::Bpffs,
    packets::{Family, PORT, Segment, VIP, backend, seen, world},
    pair::Pair,
};
use lb_userspace::{
    config::model::{Hook, Timeouts},
    datapath::{
        load::Datapath,
        pins::Pins,
        tables::{Desired, DesiredService},
    },
    vrrp::BootTime,
};

/// One backend, and so many ports.
fn few_ports(count: u16) -> Desired {
    let mut desired = world(1);
    desired.settings.snat_ports =
        SnatPorts { low_first: 2000, low_last: 1999 + count, high_first: 1, high_last: 0 };
    desired
}

/// Frees what is older than so many seconds.
fn collect(p: &mut Pair, after_s: u64) -> u32 {
    let flows = p.flows;
    let d = p.kernel();
    d.collector.sweep(d.tables.maps(), BootTime::now().0 + after_s * 1_000_000_000, flows).expect("sweep")
}

#[test]
fn all_ports_of_the_range_are_used_before_a_connection_is_refused_and_come_back_with_the_collector() {
    let mut p = Pair::new(&few_ports(40));
    let mut used = BTreeSet::new();
    for port in 0..40 {
        let out = p.receive(&Segment::syn(40_000 + port).frame());
        assert_eq!(out.reason, Reason::NewFlow);
        used.insert(seen(&out.frame).src.1);
    }
    assert_eq!(used, (2000..2040).collect());
    let refused = p.receive(&Segment::syn(50_000).frame());
    assert_eq!(refused.reason, Reason::SnatPortsExhausted);
    assert!(seen(&refused.frame).rst);
    let counters = p.host.service_counters(0);
    assert_eq!((counters.refused, counters.ports_exhausted, counters.table_full), (1, 1, 0));
    assert_eq!(p.kernel().collector.connections(0), 40, "what got no port is no connection of its backend");
    assert_eq!(collect(&mut p, 90), 40);
    assert_eq!(free(p.kernel(), 1), 40);
}

#[test]
fn a_flow_that_is_ended_by_order_gives_its_port_back_before_the_first_sweep() {
    let mut p = Pair::new(&few_ports(2));
    p.establish(40_000);
    assert_eq!(p.receive(&Segment::syn(40_001).frame()).reason, Reason::NewFlow);
    assert_eq!(free(p.kernel(), 1), 0);
    let flows = p.flows;
    let d = p.kernel();
    for slot in 0..flows {
        if let Some(flow) = d.collector.flow(slot) {
            assert!(d.collector.end(d.tables.maps(), slot, &flow).expect("a flow ends"));
        }
    }
    assert_eq!((free(d, 1), d.collector.connections(0)), (2, 0));
}

#[test]
fn a_port_comes_back_as_soon_as_its_flow_gives_way_or_begins_anew() {
    let mut p = Pair::new(&few_ports(1));
    let syn = Segment::syn(40_000);
    assert_eq!(p.receive(&syn.frame()).reason, Reason::NewFlow);
    // The same client port with another number is another connection.
    let anew = p.receive(&Segment { seq: 77_000, ..syn.clone() }.frame());
    assert_eq!((anew.reason, seen(&anew.frame).src.1), (Reason::NewFlow, 2000));

    // A reset flow gives way to a new one of the same client port.
    let mut p = Pair::new(&few_ports(1));
    p.establish(40_000);
    let reset = Segment { seq: 1001, rst: true, ..Segment::from_client(40_000) };
    assert_eq!(p.receive(&reset.frame()).reason, Reason::Forwarded);
    assert_eq!(p.receive(&Segment { seq: 5000, ..syn }.frame()).reason, Reason::NewFlow);
    assert_eq!(p.receive(&Segment::syn(40_001).frame()).reason, Reason::SnatPortsExhausted);
}

#[test]
fn further_sources_are_used_when_one_has_no_port_left() {
    for family in [Family::V4, Family::V6] {
        let mut desired = family.world(1);
        desired.settings.snat_ports =
            SnatPorts { low_first: 2000, low_last: 2003, high_first: 1, high_last: 0 };
        // Of the other family one is of no use to this backend.
        let other = if family == Family::V4 { Family::V6 } else { Family::V4 };
        let second = family.backend(9);
        desired.services[0].snat = vec![family.vip().into(), second.into(), other.vip().into()];
        let mut p = Pair::new(&desired);
        let mut used = BTreeSet::new();
        for port in 0..8 {
            let out = p.receive(&Segment { syn: true, ..Segment::of(family, 40_000 + port) }.frame());
            assert_eq!(out.reason, Reason::NewFlow, "{family:?}");
            used.insert(seen(&out.frame).src);
        }
        let all = (2000..2004).flat_map(|port| [(family.vip(), port), (second, port)]).collect();
        assert_eq!(used, all);
        let ninth = p.receive(&Segment { syn: true, ..Segment::of(family, 41_000) }.frame());
        assert_eq!(ninth.reason, Reason::SnatPortsExhausted);
        // What comes back to the second source finds its flow.
        let (ours, theirs) = p
            .host
            .keys
            .borrow()
            .iter()
            .find_map(|(key, _)| (key.dst == Addr::from(second)).then_some((key.dport, key.sport)))
            .expect("a flow from the second source");
        assert_eq!(theirs.number(), PORT);
        let answer = Segment {
            src: (family.backend(0), PORT),
            dst: (second, ours.number()),
            seq: 9000,
            ack: Some(1001),
            syn: true,
            ..Segment::of(family, 0)
        };
        assert_eq!(p.receive(&answer.frame()).reason, Reason::Returned);
    }
}

#[test]
fn a_backend_without_a_port_left_is_passed_by_for_another_that_has_some() {
    for members in [Vec::new(), vec![(0, 1), (1, 1)]] {
        let mut desired = world(2);
        desired.settings.snat_ports =
            SnatPorts { low_first: 2000, low_last: 2003, high_first: 1, high_last: 0 };
        desired.services[0].choice.members = members.clone();
        // Another service has the first backend to itself.
        let port = Port::new(PORT + 1);
        desired.services.push(DesiredService { port, ring: vec![0], ..desired.services[0].clone() });
        desired.services[1].choice.members.truncate(1);
        let mut p = Pair::new(&desired);
        for i in 0..4 {
            let syn = Segment { dst: (VIP, PORT + 1), ..Segment::syn(40_000 + i) };
            assert_eq!(p.receive(&syn.frame()).reason, Reason::NewFlow);
        }
        let fifth = Segment { dst: (VIP, PORT + 1), ..Segment::syn(41_000) };
        assert_eq!(p.receive(&fifth.frame()).reason, Reason::SnatPortsExhausted, "it has no other");
        for i in 0..4 {
            let out = p.receive(&Segment::syn(42_000 + i).frame());
            assert_eq!(out.reason, Reason::NewFlow, "{members:?}");
            assert_eq!(seen(&out.frame).dst.0, backend(1), "{members:?}");
        }
        let refused = p.receive(&Segment::syn(43_000).frame());
        assert_eq!(refused.reason, Reason::SnatPortsExhausted, "{members:?}");
        assert!(seen(&refused.frame).rst);
        let counters = p.host.service_counters(0);
        assert_eq!((counters.flows, counters.refused, counters.ports_exhausted), (4, 1, 1), "{members:?}");
        let counts = [0, 1].map(|backend| p.kernel().collector.connections(backend));
        assert_eq!(counts, [4, 4], "who was passed by has no connection of it");
    }
}

#[test]
fn a_port_that_is_in_use_behind_the_pools_back_is_passed_by() {
    let mut p = Pair::new(&few_ports(8));
    // As a daemon leaves them that dies in between: keys of no flow, on all ports but one.
    for port in (2000..2008).filter(|port| *port != 2005) {
        let key = FlowKey {
            src: Family::V4.backend(0).into(),
            dst: Family::V4.vip().into(),
            sport: Port::new(PORT),
            dport: Port::new(port),
            proto: 6,
            pad: [0; 3],
        };
        let to = FlowRef { slot: 5, generation: 99, direction: 1, pad: 0 };
        p.host.keys.borrow_mut().insert(key, to);
        p.kernel().tables.maps().flow_keys.insert(key, to, 0).expect("a key");
    }
    let out = p.receive(&Segment::syn(40_000).frame());
    assert_eq!((out.reason, seen(&out.frame).src.1), (Reason::NewFlow, 2005));
}

#[test]
fn each_service_has_time_outs_of_its_own() {
    let mut p = Pair::new(&few_ports(8));
    let timeouts = Timeouts { established: Duration::from_secs(300), ..Timeouts::default() };
    p.kernel().collector.set_timeouts(vec![timeouts]);
    p.establish(40_000);
    assert_eq!(collect(&mut p, 290), 0);
    assert_eq!(collect(&mut p, 310), 1);

    let mut p = Pair::new(&few_ports(8));
    p.establish(40_000);
    assert_eq!(collect(&mut p, 310), 0, "the default is days");
}

/// Free ports of a pool as its leaves tell, and as a search would find them.
fn free(d: &mut Datapath, pool: u32) -> u32 {
    let bits = d.tables.maps().ports.get(&pool, 0).expect("map PORTS");
    let leaves: u32 = bits.words[WORDS - 1024..].iter().map(|w| w.count_ones()).sum();
    assert_eq!(leaves == 0, bits.words[0] == 0, "what stands above the leaves agrees");
    leaves
}

#[test]
fn a_daemon_that_adopts_the_maps_keeps_ports_in_use_and_finds_lost_ones() {
    let name = format!("vt-ports-{}", std::process::id());
    let _bpffs = Bpffs::claim(&name).expect("bpffs");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let _inside = runtime.enter();
    let pins = Pins::of(&name);
    let open = |desired: &Desired| {
        let mut d = Datapath::open(&pins, &[], Hook::Auto, 64).expect("programs load");
        d.tables.publish(desired).expect("tables are written");
        let lease = lb_common::lease::Lease { until: u64::MAX, term: 1, ..Default::default() };
        d.tables.maps().leases.set(0, lease, 0).expect("a lease");
        d.tables.maps().alive.set(0, u64::MAX, 0).expect("alive");
        d
    };
    let mut d = open(&few_ports(8));
    let ports_of = |d: &mut Datapath| -> BTreeSet<u16> {
        let records = d.tables.maps().flows.iter().map(|f| f.expect("map FLOWS"));
        records.filter(|f| f.stage != 0).map(|f| f.snat_port.number()).collect()
    };
    for port in 0..3 {
        d.test_run(false, &Segment::syn(40_000 + port).frame()).expect("a run");
    }
    assert_eq!((ports_of(&mut d).len(), free(&mut d, 1)), (3, 5));
    // One that was taken, and whose flow its daemon did not live to see: its bit is lost.
    let mut bits = d.tables.maps().ports.get(&1, 0).expect("map PORTS");
    let lost = bits.words[WORDS - 1024..].iter_mut().find(|w| **w != 0).expect("a free port");
    *lost &= *lost - 1;
    d.tables.maps().ports.set(1, bits, 0).expect("map PORTS");
    assert_eq!(free(&mut d, 1), 4);
    drop(d);

    let mut d = open(&few_ports(8));
    assert!(d.adopted);
    assert_eq!(free(&mut d, 1), 5, "the lost one is found, those in use are not free");
    for port in 0..5 {
        d.test_run(false, &Segment::syn(41_000 + port).frame()).expect("a run");
    }
    assert_eq!((ports_of(&mut d).len(), free(&mut d, 1)), (8, 0), "no port was given out twice");
    drop(d);

    // Another range.
    let mut moved = few_ports(8);
    moved.settings.snat_ports.low_first = 2006;
    moved.settings.snat_ports.low_last = 2009;
    let mut d = open(&moved);
    assert_eq!(free(&mut d, 1), 2, "2008 and 2009 are new, 2006 and 2007 in use");
    let now = BootTime::now().0 + 90_000_000_000;
    assert_eq!(d.collector.sweep(d.tables.maps(), now, 1000).expect("sweep"), 8);
    assert_eq!(free(&mut d, 1), 4, "only those of the range came back");
    d.close().expect("pins removed");
}
