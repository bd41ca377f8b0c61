//! Properties of the packet path under arbitrary packets: it never panics, every packet ends in one counted reason, flows
//! and keys stay paired, and what is emitted has valid checksums as an independent parser sees it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    IpHeaders, NetHeaders, PacketBuilder, PacketBuilderStep, PacketHeaders, TcpHeader, TransportHeader,
};
use lb_common::{
    access::Limits,
    addr::{Addr, Mac, Port},
    flow::{FORWARD, Flow, FlowKey, REVERSE, Stage},
    half_open,
    lease::Lease,
    maps::{FORMER, FORMER_OPENS},
    occupancy::of_service,
    reason::Reason,
    schedule::{self, Scheduler},
    service::{Backend, Interface, Service, ServiceKey, Vip},
    settings::SnatPorts,
};
use proptest::prelude::*;

use crate::{
    Action, Arrival, Tables, handle,
    testing::{Buffer, Memory},
};

const CLIENT: u8 = 100;
const VIP: u8 = 201;
const PORT: u16 = 3306;
/// Room for established flows.
const FLOWS: u32 = 3;
const PLACES: u32 = 4;
const RECORDS: u32 = FLOWS + PLACES;
const SENDER: [u8; 6] = [2; 6];
/// Between two packets, so that a SYN may come again after one or after two.
const STEP_NS: u64 = 150_000_000;

/// One packet among few hosts and ports, so that flows meet.
#[derive(Debug, Clone)]
struct Packet {
    v6: bool,
    kind: Kind,
    src: (u8, u16),
    dst: (u8, u16),
    flags: u8,
    seq: u32,
    ack: u32,
    data: usize,
    ttl: u8,
    /// Of a known flow: with the numbers that it goes on with, and what comes next in a handshake.
    fits: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Udp,
    Echo,
}

fn packet() -> impl Strategy<Value = Packet> {
    let host = prop_oneof![Just(CLIENT), Just(CLIENT + 1), Just(VIP), 2u8..5];
    let port = prop_oneof![Just(PORT), 2000u16..2004, 40_000u16..40_003];
    let kind = prop_oneof![4 => Just(Kind::Tcp), 2 => Just(Kind::Udp), 1 => Just(Kind::Echo)];
    let what = (any::<bool>(), kind, host.clone(), port.clone(), host, port);
    (what, any::<u8>(), any::<u32>(), any::<u32>(), 0usize..40, 0u8..4, any::<bool>()).prop_map(
        |((v6, kind, a, ap, b, bp), flags, seq, ack, data, ttl, fits)| Packet {
            v6,
            kind,
            src: (a, ap),
            dst: (b, bp),
            flags,
            seq,
            ack,
            data,
            ttl,
            fits,
        },
    )
}

fn address(v6: bool, host: u8) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd12, 0, 0, 0, 0, 0xffff, 0, host.into()).into()
    } else {
        Ipv4Addr::new(172, 18, 0, host).into()
    }
}

fn frame(p: &Packet) -> Vec<u8> {
    let b = PacketBuilder::ethernet2(SENDER, [4; 6]);
    let b = match (address(p.v6, p.src.0), address(p.v6, p.dst.0)) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => b.ipv4(src.octets(), dst.octets(), p.ttl),
        (IpAddr::V6(src), IpAddr::V6(dst)) => b.ipv6(src.octets(), dst.octets(), p.ttl),
        _ => unreachable!("one family"),
    };
    let mut out = Vec::new();
    let data = vec![7; p.data];
    let written = match p.kind {
        Kind::Tcp => segment(b, p).write(&mut out, &data),
        Kind::Udp => b.udp(p.src.1, p.dst.1).write(&mut out, &data),
        Kind::Echo if p.v6 => b.icmpv6_echo_request(1, 2).write(&mut out, &data),
        Kind::Echo => b.icmpv4_echo_request(1, 2).write(&mut out, &data),
    };
    written.expect("a frame in memory");
    out
}

fn segment(b: PacketBuilderStep<IpHeaders>, p: &Packet) -> PacketBuilderStep<TcpHeader> {
    let mut b = b.tcp(p.src.1, p.dst.1, p.seq, 1000);
    if p.flags & 1 != 0 {
        b = b.fin();
    }
    // Connection requests and plain acknowledgements are what builds flows up: make them frequent.
    if p.flags & 6 == 2 {
        b = b.syn();
    }
    if p.flags & 0x18 == 0x18 {
        b = b.rst();
    }
    if p.flags & 0x20 != 0 {
        b = b.ack(p.ack);
    }
    b
}

/// The answer of a backend to the first half-open flow there is, or its refusal, or what the client then sends, or its request once
/// more: arbitrary packets alone seldom hit upon it.
fn fit(p: &Packet, m: &Memory) -> Packet {
    let fits = |f: &Flow| match f.stage() {
        Stage::SynSent if p.flags & 3 == 1 => {
            Some((f.forward_key(), f.client_next.wrapping_sub(1), f.backend_next, 0x02))
        }
        Stage::SynSent if p.flags & 3 == 2 => Some((f.reverse_key(), 0, f.client_next, 0x38)),
        Stage::Closed if f.place != 0 && p.flags & 1 == 1 => {
            Some((f.forward_key(), f.client_next.wrapping_sub(1), f.backend_next, 0x02))
        }
        Stage::SynSent | Stage::OneWay => Some((f.reverse_key(), f.backend_next, f.client_next, 0x32)),
        Stage::SynReceived => Some((f.forward_key(), f.client_next, f.backend_next, 0x20)),
        _ => None,
    };
    let Some((key, seq, ack, flags)) = (0..RECORDS).find_map(|s| fits(&m.record(s))) else {
        return p.clone();
    };
    let host = |a: Addr| (0..=255).find(|h| [false, true].map(|v6| address(v6, *h).into()).contains(&a));
    let (Some(src), Some(dst)) = (host(key.src), host(key.dst)) else { return p.clone() };
    let FlowKey { sport, dport, proto, .. } = key;
    let kind = if proto == 17 { Kind::Udp } else { Kind::Tcp };
    let (src, dst) = ((src, sport.number()), (dst, dport.number()));
    Packet {
        v6: address(true, src.0) == IpAddr::from(key.src),
        kind,
        src,
        dst,
        seq,
        ack,
        flags,
        data: 0,
        ..p.clone()
    }
}

/// How backends are chosen, and how many connections there may be.
#[derive(Debug, Clone, Copy)]
struct Choice {
    scheduler: Scheduler,
    /// Seconds; 0: clients do not keep to their backends.
    persistence: u32,
    /// Of a backend and of a service; 0: any number.
    limits: [u64; 2],
    /// What a backend does not take goes to another.
    redispatch: bool,
}

fn choice() -> impl Strategy<Value = Choice> {
    let limits = [prop_oneof![Just(0), Just(0), 1u64..3], prop_oneof![Just(0), Just(0), 1u64..5]];
    (prop::sample::select(Scheduler::ALL.to_vec()), 0u32..2, limits, any::<bool>()).prop_map(
        |(scheduler, persistence, limits, redispatch)| Choice { scheduler, persistence, limits, redispatch },
    )
}

/// A TCP and a UDP service in each family, three backends, four SNAT ports, room for few flows.
fn tables() -> Memory {
    tables_with(Choice { scheduler: Scheduler::Rr, persistence: 0, limits: [0; 2], redispatch: true })
}

fn tables_with(choice: Choice) -> Memory {
    const SLOTS: u32 = 6;
    let mut m = Memory::with_places(FLOWS, PLACES);
    m.settings.snat_ports = SnatPorts { low_first: 2000, low_last: 2003, high_first: 1, high_last: 0 };
    m.set_lease(0, lease(u64::MAX));
    m.interfaces.insert(1, Interface { mac: Mac([2; 6]), ..Interface::default() });
    for (family, v6) in (0..).zip([false, true]) {
        let vip = address(v6, VIP).into();
        m.vips.insert(vip, Vip::default());
        let base = family * 3;
        let ring_base = family * SLOTS;
        for (i, proto) in (0..).zip([6, 17]) {
            let key = ServiceKey { addr: vip, port: Port::new(PORT), proto, pad: [0; 5] };
            let id = family * 2 + i;
            let service = Service {
                id,
                ring_base,
                ring_len: 3,
                members: 3,
                scheduler: choice.scheduler as u8,
                persistence: choice.persistence,
                prefix: 127,
                ..Service::default()
            };
            m.services.insert(key, service);
            m.set_limit(of_service(id), choice.limits[1]);
            m.limits.insert(id, Limits { redispatch: choice.redispatch.into(), ..Limits::default() });
        }
        for i in 0..3 {
            for slot in [i, 3 + i] {
                m.rings.insert(ring_base + slot, schedule::word(base + i, 1 + i as u16));
            }
            m.set_limit(base + i, choice.limits[0]);
            let addr = address(v6, 2 + i as u8).into();
            m.backends
                .insert(base + i, Backend { addr, ifindex: 1, port: Port::new(PORT), ..Backend::default() });
        }
    }
    m.make_pools(|b| address(!b.addr.is_v4(), VIP).into());
    m
}

fn lease(until: u64) -> Lease {
    Lease { until, term: 1, ..Lease::default() }
}

/// A node that may hand over to this one, or take over from it.
const PEER: [u8; 6] = [6; 6];

/// Who sends a frame, and what the lease says at the moment.
#[derive(Debug, Clone)]
struct Moment {
    from_peer: bool,
    valid: bool,
    fenced: bool,
    relay: bool,
    delegate: bool,
}

fn moment() -> impl Strategy<Value = Moment> {
    any::<[bool; 5]>().prop_map(|[from_peer, valid, fenced, relay, delegate]| Moment {
        from_peer,
        valid,
        fenced,
        relay,
        delegate,
    })
}

impl Moment {
    fn lease(&self) -> Lease {
        let until = |on| if on { u64::MAX } else { 1 };
        Lease {
            until: until(self.valid),
            relay_until: until(self.relay),
            delegate_until: until(self.delegate),
            term: 1,
            fenced: u32::from(self.fenced),
            relay: Mac(PEER),
            delegate: Mac(PEER),
            ..Lease::default()
        }
    }
}

fn check_pairs(m: &Memory) {
    let keys = m.keys.borrow();
    let mut seen = [[0u32; 2]; RECORDS as usize];
    for (key, to) in keys.iter() {
        let f = m.record(to.slot);
        assert_eq!(f.generation, to.generation, "a key of an older flow: {key:?}");
        assert_ne!(f.stage(), Stage::Free, "a key without a flow: {key:?}");
        let expected = if to.direction == FORWARD { f.forward_key() } else { f.reverse_key() };
        assert_eq!(*key, expected);
        seen[to.slot as usize][to.direction as usize] += 1;
    }
    assert_eq!((FORWARD, REVERSE), (0, 1));
    for (slot, [forward, reverse]) in seen.into_iter().enumerate() {
        assert_eq!(forward, reverse, "half a pair of slot {slot}");
        assert!(forward <= 1);
    }
    let mut owned: Vec<u32> = m.free.borrow().iter().copied().collect();
    for i in 1..=PLACES {
        let word = m.place(i).expect("a place");
        assert_ne!(word, half_open::TAKEN, "a place was not given back");
        owned.push(half_open::slot(word));
        let f = m.record(half_open::slot(word));
        assert!(
            f.stage() == Stage::Free || u32::from(f.place) == i,
            "an established flow in place {i}: {f:?}"
        );
    }
    let established = |s: &u32| m.record(*s).stage() != Stage::Free && m.record(*s).place == 0;
    owned.extend((0..RECORDS).filter(established));
    owned.sort_unstable();
    check_ports(m);
    assert_eq!(owned, (0..RECORDS).collect::<Vec<_>>(), "a slot was lost or has two owners");
}

/// A port is taken as long as a reverse key needs it.
fn check_ports(m: &Memory) {
    let mut taken = vec![0; m.pools.len()];
    for to in m.keys.borrow().values().filter(|to| to.direction == REVERSE) {
        let f = m.record(to.slot);
        assert_eq!(f.snat, m.pools[usize::from(f.pool)].source, "{f:?}");
        taken[usize::from(f.pool)] += 1;
    }
    for (pool, taken) in taken.into_iter().enumerate().skip(1) {
        assert_eq!(
            m.free_ports(pool as u16) + taken,
            4,
            "a port of pool {pool} was lost, or is free and in use"
        );
    }
}

/// Backends and services have as many connections counted as there are flows of theirs that have not ended, and no more than they
/// may have.
fn check_counts(m: &Memory) {
    let live: Vec<_> = (0..RECORDS)
        .map(|slot| m.record(slot))
        .filter(|f| f.stage() != Stage::Free && !f.has_ended())
        .collect();
    assert!(live.iter().all(Flow::is_counted), "a live flow that does not count");
    let found = |element| {
        let o = m.occupancy(element).expect("an element");
        assert!(o.limit == 0 || o.connections <= o.limit, "{element}: {o:?}");
        o.connections as usize
    };
    for id in 0..6 {
        assert_eq!(found(id), live.iter().filter(|f| f.backend_id == id).count(), "of backend {id}");
    }
    for id in 0..4 {
        let of = live.iter().filter(|f| f.service == id).count();
        assert_eq!(found(of_service(id)), of, "of service {id}");
    }
}

/// Ends every flow as the collector does.
fn collect(m: &Memory) {
    for slot in 0..RECORDS {
        let f = m.flow(slot).expect("a record");
        if f.stage() == Stage::Free {
            continue;
        }
        m.end_flow(f, slot);
        f.stage = Stage::Free as u8;
        if f.place == 0 {
            m.free_slot(slot);
        }
    }
}

fn check_emitted(frame: &[u8]) {
    let h = PacketHeaders::from_ethernet_slice(frame).expect("a frame");
    let data = h.payload.slice();
    let (found, sum) = match (h.net.as_ref().expect("a network header"), h.transport.as_ref()) {
        (NetHeaders::Ipv4(ip, _), transport) => {
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            match transport.expect("a transport header") {
                TransportHeader::Tcp(h) => (h.checksum, h.calc_checksum_ipv4(ip, data)),
                TransportHeader::Udp(h) => (h.checksum, h.calc_checksum_ipv4(ip, data)),
                TransportHeader::Icmpv4(h) => (h.checksum, Ok(h.icmp_type.calc_checksum(data))),
                other => panic!("{other:?} in IPv4"),
            }
        }
        (NetHeaders::Ipv6(ip, _), transport) => match transport.expect("a transport header") {
            TransportHeader::Tcp(h) => (h.checksum, h.calc_checksum_ipv6(ip, data)),
            TransportHeader::Udp(h) => (h.checksum, h.calc_checksum_ipv6(ip, data)),
            TransportHeader::Icmpv6(h) => {
                (h.checksum, h.icmp_type.calc_checksum(ip.source, ip.destination, data))
            }
            other => panic!("{other:?} in IPv6"),
        },
        _ => panic!("not IP"),
    };
    assert_eq!(found, sum.expect("short"));
}

/// While flows are brought over from other maps, the program that has those decides about what no flow is known for here, and
/// about nothing else.
fn check_offered(b: &Buffer, reason: Reason) {
    let offered = b.offered.borrow();
    match reason {
        Reason::Forwarded | Reason::Returned => assert!(offered.is_empty(), "{reason:?}: {offered:?}"),
        Reason::NewFlow | Reason::Redispatched => {
            assert!(
                !offered.is_empty() && offered.iter().all(|s| *s == FORMER_OPENS),
                "{reason:?}: {offered:?}"
            );
        }
        Reason::UnknownFlow | Reason::NotVirtual => assert_eq!(*offered, [FORMER], "{reason:?}"),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_sequence_of_packets_keeps_flows_and_keys_paired_and_checksums_right(
        packets in prop::collection::vec(packet(), 1..60),
        choice in choice(),
    ) {
        let m = tables_with(choice);
        for (now, packet) in (1..).map(|n| n * STEP_NS).zip(&packets) {
            let packet = &if packet.fits { fit(packet, &m) } else { packet.clone() };
            let mut b = Buffer::new(frame(packet));
            let v = handle(&mut b, &m, &Arrival { now, ifindex: 1 });
            match v.action {
                Action::Route(_) | Action::Backend(_) | Action::Send(_) => check_emitted(&b.bytes),
                Action::Pass => prop_assert_eq!(&b.bytes, &frame(packet), "a passed packet is left as it was"),
                Action::Drop => {}
            }
            check_offered(&b, v.reason);
            check_pairs(&m);
            check_counts(&m);
        }
        let counted: u64 = Reason::ALL.iter().map(|r| m.counted(*r)).sum();
        prop_assert_eq!(counted, packets.len() as u64, "each packet ends in one reason");
        collect(&m);
        check_pairs(&m);
        check_counts(&m);
    }

    #[test]
    fn any_bytes_are_survived_and_counted(
        bytes in prop::collection::vec(any::<u8>(), 0..140),
        family in 0..3u8,
        next in prop_oneof![Just(6u8), Just(17), Just(58), Just(1), any::<u8>()],
    ) {
        let m = tables();
        let mut bytes = bytes;
        if family == 1 && bytes.len() > 34 {
            bytes[12..15].copy_from_slice(&[8, 0, 0x45]);
            bytes[23] = next;
            bytes[30..34].copy_from_slice(&Addr::from(address(false, VIP)).bytes()[12..]);
        } else if family == 2 && bytes.len() > 54 {
            bytes[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
            bytes[20] = next;
            bytes[38..54].copy_from_slice(&Addr::from(address(true, VIP)).bytes());
        }
        let mut b = Buffer::new(bytes);
        let v = handle(&mut b, &m, &Arrival { now: 1, ifindex: 1 });
        prop_assert_eq!(m.counted(v.reason), 1);
    }

    #[test]
    fn without_the_lease_nothing_leaves_and_nothing_changes(packets in prop::collection::vec(packet(), 1..20)) {
        let mut m = tables();
        m.set_lease(0, lease(5));
        for packet in &packets {
            let mut b = Buffer::new(frame(packet));
            let v = handle(&mut b, &m, &Arrival { now: 5, ifindex: 1 });
            prop_assert!(matches!(v.action, Action::Pass | Action::Drop));
            prop_assert_eq!(matches!(v.reason, Reason::NotOwner), packet.dst.0 == VIP);
        }
        prop_assert_eq!(m.keys.borrow().len(), 0);
    }

    /// Whatever hands over to whom: without a valid lease nothing for a virtual address is answered or forwarded, but for
    /// what is relayed as it is, and what comes from the node that hands over.
    #[test]
    fn without_the_lease_only_hand_overs_move_anything(
        steps in prop::collection::vec((packet(), moment()), 1..60),
    ) {
        let mut m = tables();
        for (now, (packet, moment)) in (2..).zip(&steps) {
            m.set_lease(0, moment.lease());
            let mut sent = frame(packet);
            if moment.from_peer {
                sent[6..12].copy_from_slice(&PEER);
            }
            let keys = m.keys.borrow().len();
            let mut b = Buffer::new(sent.clone());
            let v = handle(&mut b, &m, &Arrival { now, ifindex: 1 });
            check_pairs(&m);
            if packet.dst.0 != VIP {
                prop_assert_eq!((v.action, &b.bytes), (Action::Pass, &sent));
            } else if moment.valid && !moment.fenced {
                // An owner that hands over leaves what begins to the other, and goes on with what it knows.
                let hands_over = moment.relay && !moment.from_peer;
                prop_assert_ne!(v.reason, Reason::NotOwner);
                prop_assert!(hands_over || v.reason != Reason::Relayed);
                prop_assert!(!hands_over || m.keys.borrow().len() <= keys);
            } else if moment.delegate && moment.from_peer {
                prop_assert!(!matches!(v.action, Action::Pass | Action::Send(_)), "{:?}", v);
            } else if moment.relay && !moment.from_peer && packet.ttl > 1 {
                prop_assert_eq!((v.reason, v.action), (Reason::Relayed, Action::Send(1)));
                prop_assert_eq!(&b.bytes[..12], [PEER, [2; 6]].concat());
                check_emitted(&b.bytes);
                prop_assert_eq!(m.keys.borrow().len(), keys);
            } else {
                prop_assert!(matches!(v.reason, Reason::NotOwner | Reason::TtlExpired));
                prop_assert_eq!((v.action, m.keys.borrow().len()), (Action::Drop, keys));
            }
        }
    }
}
