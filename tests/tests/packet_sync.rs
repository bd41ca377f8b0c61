//! What the packet programs tell the daemon of flows that are replicated: through the host core and the kernel's programs.

use std::net::SocketAddr;

use lb_common::{
    addr::{PROTO_TCP, Port},
    flow::{Flow, REPLICATED, Stage, TIMED},
    held::Held,
    mode::Mode,
    reason::Reason,
    service::Path,
};
use lb_tests::{
    packets::{CLIENT, Datagram, FAMILIES, Family, LO, PORT, Segment, VIP, backend, seen, world},
    pair::{NOW, Pair},
};
use lb_userspace::{
    config::{self, SecretError, Surroundings},
    control::numbers::Numbers,
    datapath::{
        held::HeldPackets,
        load::Datapath,
        ports,
        replica::{Events, Replica},
        tables::Desired,
    },
    sync::{
        directory::{Directory, fill},
        table::{Flows, Unfit},
        wire::Record,
    },
    vrrp::BootTime,
};

const NOTHING: [u32; 0] = [];

fn replicating(mut desired: Desired) -> Desired {
    desired.settings.sync = 1;
    desired
}

/// The slots of the events since this was last asked: on the host and from the kernel's ring, which agree.
#[track_caller]
fn told(p: &Pair, events: &mut Events) -> Vec<u32> {
    let host: Vec<u32> = p.host.flow_events.borrow_mut().drain(..).map(|e| e.slot).collect();
    let kernel: Vec<u32> = std::iter::from_fn(|| events.next()).collect();
    assert_eq!(kernel, host);
    host
}

#[test]
fn the_daemon_is_told_of_a_connections_establishment_and_of_each_step_towards_its_end() {
    for family in FAMILIES {
        let mut p = Pair::new(&replicating(family.world(3)));
        let mut events = Events::open(&p.pins).expect("a ring");
        let syn = Segment { syn: true, ..Segment::of(family, 40_000) };
        let syn = seen(&p.receive(&syn.frame()).frame);
        p.receive(&Segment { syn: true, ..Segment::answer(&syn) }.frame());
        assert_eq!(told(&p, &mut events), NOTHING, "half-open flows are nobody's affair");
        let next = Segment { seq: 1001, ack: Some(9001), ..Segment::of(family, 40_000) };
        p.receive(&next.frame());
        assert_eq!(told(&p, &mut events).len(), 1, "established");
        for _ in 0..3 {
            p.receive(&next.frame());
        }
        assert_eq!(told(&p, &mut events), NOTHING, "what changes nothing costs nothing");
        p.receive(&Segment { fin: true, ..next }.frame());
        assert_eq!(told(&p, &mut events).len(), 1, "the client has ended");
        p.receive(&Segment { fin: true, seq: 9001, ack: Some(1002), ..Segment::answer(&syn) }.frame());
        assert_eq!(told(&p, &mut events).len(), 1, "both have");
        let again = Segment { syn: true, seq: 77_000, ..Segment::of(family, 40_000) };
        assert_eq!(p.receive(&again.frame()).reason, Reason::NewFlow);
        assert_eq!(told(&p, &mut events).len(), 1, "the old one has lost its keys to a new one");
    }
}

#[test]
fn the_daemon_is_told_of_datagrams_once_they_are_answered() {
    for family in FAMILIES {
        let mut p = Pair::new(&replicating(family.udp_world(3)));
        let mut events = Events::open(&p.pins).expect("a ring");
        let first = Datagram::seen(&p.receive(&Datagram::of(family, 30_000).frame()).frame);
        assert_eq!(told(&p, &mut events), NOTHING);
        p.receive(&first.answer().frame());
        assert_eq!(told(&p, &mut events).len(), 1);
        p.receive(&Datagram::of(family, 30_000).frame());
        assert_eq!(told(&p, &mut events), NOTHING);
    }
}

#[test]
fn without_replication_nobody_is_told_anything() {
    let mut p = Pair::new(&world(3));
    let mut events = Events::open(&p.pins).expect("a ring");
    p.establish(40_000);
    assert_eq!(told(&p, &mut events), NOTHING);
}

/// What waits in the host's and in the kernel's ring, which agree but for the time.
#[track_caller]
fn held(p: &Pair, packets: &mut HeldPackets) -> Vec<Held> {
    let host: Vec<Held> = p.host.held.borrow_mut().drain(..).collect();
    let kernel: Vec<Held> = std::iter::from_fn(|| packets.next()).map(|h| Held { at: NOW, ..h }).collect();
    assert_eq!(kernel, host.iter().map(|h| Held { at: NOW, ..*h }).collect::<Vec<_>>());
    host
}

fn strict(mut desired: Desired) -> Desired {
    desired.paths = vec![Path { strict: 1, ..Path::default() }; desired.backends.len()];
    desired
}

#[test]
fn a_strict_services_syn_ack_is_left_to_the_daemon_as_it_would_have_gone_out() {
    for family in FAMILIES {
        let mut p = Pair::new(&replicating(strict(family.world(1))));
        let mut packets = HeldPackets::open(&p.pins).expect("a ring");
        let mut ordinary = Pair::new(&replicating(family.world(1)));
        let syn = Segment { syn: true, ..Segment::of(family, 40_000) };
        let to_backend = seen(&p.receive(&syn.frame()).frame);
        ordinary.receive(&syn.frame());
        let syn_ack = Segment { syn: true, ..Segment::answer(&to_backend) }.frame();
        for again in ["once", "and when the backend repeats it"] {
            assert_eq!(p.receive(&syn_ack).reason, Reason::Held, "{again}");
            let waits = held(&p, &mut packets);
            assert_eq!(waits.len(), 1, "{again}");
            let straight = ordinary.receive(&syn_ack);
            assert_eq!((straight.reason, waits[0].packet()), (Reason::Returned, &straight.frame[14..]));
        }
        let ack = Segment { seq: 1001, ack: Some(9001), ..Segment::of(family, 40_000) };
        assert_eq!(p.receive(&ack.frame()).reason, Reason::Forwarded);
        let data = Segment { seq: 9001, ack: Some(1001), data: vec![7; 10], ..Segment::answer(&to_backend) };
        assert_eq!(p.receive(&data.frame()).reason, Reason::Returned);
        assert!(held(&p, &mut packets).is_empty(), "what is established waits for nobody");
    }
}

#[test]
fn without_replication_no_syn_ack_waits() {
    let mut p = Pair::new(&strict(world(1)));
    let mut packets = HeldPackets::open(&p.pins).expect("a ring");
    let to_backend = seen(&p.receive(&Segment::syn(40_000).frame()).frame);
    let syn_ack = Segment { syn: true, ..Segment::answer(&to_backend) };
    assert_eq!(p.receive(&syn_ack.frame()).reason, Reason::Returned);
    assert!(held(&p, &mut packets).is_empty());
}

/// The services of `world`, as a configuration has them.
fn directory() -> Directory {
    directory_of(Family::V4, Mode::Nat)
}

/// Those of a family's, in another mode.
fn directory_of(family: Family, mode: Mode) -> Directory {
    let backends: String = (0..3)
        .map(|i| SocketAddr::new(family.backend(i), PORT))
        .map(|addr| format!("[[service.db.backend]]\naddress = \"{addr}\"\n"))
        .collect();
    let link_local = if family == Family::V6 { "\"fe80::201\", " } else { "" };
    let (vip, listen) = (family.vip(), SocketAddr::new(family.vip(), PORT));
    let text = format!(
        "[node]\nname = \"n\"\n[vrrp.vip]\ninterface = \"lo\"\nvirtual_router_id = 1\npriority = 1\nversion = 3\n\
         virtual_ipaddress = [{link_local}\"{vip}\"]\n[service.db]\nlisten = \"{listen}\"\nmode = \"{}\"\n{backends}\
         [service.db.check]\ntype = \"tcp\"\n",
        mode.word()
    );
    let none = |path: &std::path::Path| Err(SecretError::WorldReadable(path.display().to_string()));
    let around = Surroundings {
        host_name: "n".into(),
        directory: std::path::Path::new("/"),
        read_secret: &none,
        read_keys: &none,
        check_program: &|_| Ok(()),
        find_user: &|_| None,
        world_readable: false,
    };
    let loaded = config::parse(&text, "viplb.toml", &around).unwrap_or_else(|report| panic!("{report}"));
    Directory::new(&loaded.config, &Numbers::of(&loaded.config), |_, _| LO, &[LO; 3])
}

/// What a peer says of the connection from a client's port.
fn told_by_peer(port: u16, snat_port: u16) -> Record {
    let flow = Flow {
        vip: VIP.into(),
        vip_port: Port::new(PORT),
        client: CLIENT.into(),
        client_port: Port::new(port),
        backend: backend(1).into(),
        backend_port: Port::new(PORT),
        snat: VIP.into(),
        snat_port: Port::new(snat_port),
        proto: PROTO_TCP,
        stage: Stage::Established as u8,
        client_next: 5,
        backend_next: 6,
        seen: NOW,
        ..Flow::default()
    };
    Record::of(&flow, NOW)
}

fn replica<'a>(kernel: &'a mut Datapath, directory: &'a Directory) -> Replica<'a> {
    let Datapath { tables, collector, .. } = kernel;
    Replica::new(tables.maps(), collector, directory, BootTime::now())
}

#[test]
fn a_peers_connection_is_forwarded_both_ways_and_its_numbers_are_learnt() {
    let mut p = Pair::new(&replicating(world(3)));
    let directory = directory();
    let told = told_by_peer(40_000, 2_000);
    let slot = replica(p.kernel(), &directory).insert(&told, &mut Vec::new()).expect("room");
    // Days further than the peer has said.
    let ask = Segment { seq: 70_000, ack: Some(90_000), data: vec![1; 10], ..Segment::from_client(40_000) };
    let (verdict, frame) = p.kernel().test_run(false, &ask.frame()).expect("a test run");
    assert_eq!(verdict, 7, "sent on");
    let asked = seen(&frame);
    assert_eq!((asked.src, asked.dst), ((VIP, 2_000), (backend(1), PORT)));
    let answer = Segment { seq: 90_000, ack: Some(70_010), ..Segment::answer(&asked) };
    let (_, frame) = p.kernel().test_run(false, &answer.frame()).expect("a test run");
    assert_eq!(seen(&frame).dst, (CLIENT, 40_000));
    let flow = replica(p.kernel(), &directory).read(slot);
    assert_eq!((flow.client_next, flow.backend_next, flow.place), (70_010, 90_000, 0));
    // So its end is believed.
    let fin = Segment { fin: true, data: Vec::new(), seq: 70_010, ..ask };
    p.kernel().test_run(false, &fin.frame()).expect("a test run");
    let fin = Segment { fin: true, ack: Some(70_011), ..answer };
    p.kernel().test_run(false, &fin.frame()).expect("a test run");
    assert_eq!(replica(p.kernel(), &directory).read(slot).stage(), Stage::Closing);
}

/// Whatever the mode, the record that a peer makes of a flow is the one that it would have made itself.
#[test]
fn a_replicated_record_is_what_the_packet_programs_would_have_made_of_it() {
    for (family, mode) in FAMILIES
        .into_iter()
        .flat_map(|f| [Mode::Nat, Mode::Dnat, Mode::Dsr, Mode::Tunnel].map(|mode| (f, mode)))
    {
        let mut desired = replicating(family.world(3));
        for (backend, path) in desired.backends.iter_mut().zip(&mut desired.paths) {
            (backend.mode, path.least) = (mode as u8, 1400);
        }
        let mut p = Pair::new(&desired);
        if mode.is_one_way() {
            let syn = Segment { syn: true, ..Segment::of(family, 40_000) };
            p.receive(&syn.frame());
            p.receive(&Segment { seq: 1001, ack: Some(9001), ..Segment::of(family, 40_000) }.frame());
        } else {
            p.establish_in(family, 40_000);
        }
        let made = p.only_flow();
        let record = Record::of(&made, NOW);
        let place = directory_of(family, mode).place(&record).expect("its service and backend");
        let path = desired.paths[place.backend as usize];
        let filled = fill(&record, &place, &path, made.generation, NOW);
        assert_eq!(filled.flags, TIMED | REPLICATED);
        // It is counted for its backend, and has a pool for its port, once it is entered.
        assert_eq!((filled.mode(), filled.is_counted()), (made.mode(), false));
        assert_eq!(
            Flow { flags: made.flags, mode: made.mode, pool: made.pool, ..filled },
            made,
            "{family:?} {mode:?}"
        );
        assert!(Record::of(&filled, NOW).is_same(&record));
        assert_eq!(Record::of(&filled, NOW).sum(), record.sum());
    }
}

#[test]
fn a_peers_flow_counts_for_its_backend_and_has_its_source_port_until_it_ends() {
    let desired = replicating(world(3));
    let port = desired.settings.snat_ports.nth(5);
    let mut p = Pair::new(&desired);
    let directory = directory();
    let mut displaced = Vec::new();
    let record = Record { snat_port: port, ..told_by_peer(40_000, 2_000) };
    let place = directory.place(&record).expect("its service and backend");
    let stands = |p: &mut Pair| {
        let kernel = p.kernel();
        let free = ports::free_ports(kernel.tables.maps(), place.backend).expect("a pool");
        (kernel.collector.connections(place.backend), free)
    };
    let (none, all) = stands(&mut p);
    assert_eq!(none, 0);
    let slot = replica(p.kernel(), &directory).insert(&record, &mut displaced).expect("room");
    assert_eq!(stands(&mut p), (1, all - 1));
    replica(p.kernel(), &directory).update(slot, &record);
    assert_eq!(stands(&mut p), (1, all - 1));
    replica(p.kernel(), &directory).update(slot, &Record { stage: Stage::Closed, ..record });
    assert_eq!(stands(&mut p), (0, all - 1));
    replica(p.kernel(), &directory).remove(slot);
    assert_eq!(stands(&mut p), (0, all));
}

#[test]
fn a_peers_flow_takes_the_place_of_what_is_in_its_way() {
    let mut p = Pair::new(&replicating(world(3)));
    let directory = directory();
    let mut r = replica(p.kernel(), &directory);
    let mut displaced = Vec::new();
    let first = r.insert(&told_by_peer(40_000, 2_000), &mut displaced).expect("room");
    let other = r.insert(&told_by_peer(40_001, 2_001), &mut displaced).expect("room");
    assert_eq!(displaced, NOTHING);
    assert!(!r.has_way(&told_by_peer(40_000, 2_009)) && !r.has_way(&told_by_peer(40_009, 2_001)));
    assert!(r.has_way(&told_by_peer(40_009, 2_009)));
    // The client of the one, the translated port of the other.
    let both = r.insert(&told_by_peer(40_000, 2_001), &mut displaced).expect("room");
    displaced.sort_unstable();
    assert_eq!(displaced, [first.min(other), first.max(other)]);
    assert_eq!(r.find(&told_by_peer(40_000, 0).id), Some(both));
    assert_eq!(r.find(&told_by_peer(40_001, 0).id), None);
    assert_eq!(r.maps.flow_keys.keys().count(), 2);
}

#[test]
fn slots_are_neither_lost_nor_given_twice_and_a_full_table_says_so() {
    let mut p = Pair::with_room(&replicating(world(3)), 16);
    let directory = directory();
    let mut r = replica(p.kernel(), &directory);
    for round in 0..10 {
        let mut slots: Vec<u32> = (0..16)
            .map(|i| r.insert(&told_by_peer(40_000 + i, 2_000 + i), &mut Vec::new()).expect("room"))
            .collect();
        assert_eq!(
            r.insert(&told_by_peer(50_000, 3_000), &mut Vec::new()),
            Err(Unfit::Full),
            "round {round}"
        );
        for slot in &slots {
            r.remove(*slot);
        }
        assert_eq!(r.maps.flow_keys.keys().count(), 0);
        slots.sort_unstable();
        slots.dedup();
        assert_eq!(slots.len(), 16);
    }
    let stranger = Record { backend: VIP.into(), ..told_by_peer(1, 2) };
    assert_eq!(r.insert(&stranger, &mut Vec::new()), Err(Unfit::Backend));
    let mut elsewhere = told_by_peer(1, 2);
    elsewhere.id.vip_port = Port::new(1);
    assert_eq!(r.insert(&elsewhere, &mut Vec::new()), Err(Unfit::Service));
}
