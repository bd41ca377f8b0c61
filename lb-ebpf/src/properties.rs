//! Properties of the packet path under arbitrary packets: it never panics, every packet ends in one counted reason, flows
//! and keys stay paired, and what is emitted has valid checksums as an independent parser sees it.

use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};
use lb_common::{
    addr::{Addr, Mac, Port},
    flow::{FORWARD, REVERSE, Stage},
    lease::Lease,
    reason::{Kind, Reason},
    service::{Backend, Interface, Service, ServiceKey, Vip},
    settings::SnatPorts,
};
use proptest::prelude::*;

use crate::{
    Action, Arrival, handle,
    testing::{Buffer, Memory},
};

const CLIENT: u8 = 100;
const VIP: u8 = 201;
const PORT: u16 = 3306;
const FLOWS: u32 = 6;

/// One segment among few hosts and ports, so that flows meet.
#[derive(Debug, Clone)]
struct Segment {
    src: (u8, u16),
    dst: (u8, u16),
    flags: u8,
    seq: u32,
    ack: u32,
    data: usize,
    ttl: u8,
}

fn segment() -> impl Strategy<Value = Segment> {
    let host = prop_oneof![Just(CLIENT), Just(CLIENT + 1), Just(VIP), 2u8..5];
    let port = prop_oneof![Just(PORT), 2000u16..2004, 40_000u16..40_003];
    (host.clone(), port.clone(), host, port, any::<u8>(), any::<u32>(), any::<u32>(), 0usize..40, 0u8..4)
        .prop_map(|(a, ap, b, bp, flags, seq, ack, data, ttl)| Segment {
            src: (a, ap),
            dst: (b, bp),
            flags,
            seq,
            ack,
            data,
            ttl,
        })
}

fn address(host: u8) -> [u8; 4] {
    [172, 18, 0, host]
}

fn frame(s: &Segment) -> Vec<u8> {
    let b = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(address(s.src.0), address(s.dst.0), s.ttl);
    let mut b = b.tcp(s.src.1, s.dst.1, s.seq, 1000);
    if s.flags & 1 != 0 {
        b = b.fin();
    }
    // Connection requests and plain acknowledgements are what builds flows up: make them frequent.
    if s.flags & 6 == 2 {
        b = b.syn();
    }
    if s.flags & 0x18 == 0x18 {
        b = b.rst();
    }
    if s.flags & 0x20 != 0 {
        b = b.ack(s.ack);
    }
    let mut out = Vec::new();
    b.write(&mut out, &vec![7; s.data]).expect("a frame in memory");
    out
}

/// One service, three backends, four SNAT ports, room for few flows.
fn tables() -> Memory {
    let mut m = Memory::new(FLOWS);
    m.settings.snat_ports = SnatPorts { low_first: 2000, low_last: 2003, high_first: 1, high_last: 0 };
    m.vips.insert(Addr::v4(address(VIP)), Vip { router: 0 });
    m.set_lease(0, lease(u64::MAX));
    m.interfaces.insert(1, Interface { mac: Mac([2; 6]), pad: [0; 2] });
    let key = ServiceKey { addr: Addr::v4(address(VIP)), port: Port::new(PORT), proto: 6, pad: [0; 5] };
    m.services
        .insert(key, Service { id: 0, router: 0, ring_base: 0, ring_len: 3, snat: Addr::v4(address(VIP)) });
    for i in 0..3u8 {
        m.rings.insert(u32::from(i), u32::from(i));
        let addr = Addr::v4(address(2 + i));
        m.backends.insert(u32::from(i), Backend { addr, ifindex: 1, port: Port::new(PORT), pad: [0; 2] });
    }
    m
}

fn lease(until: u64) -> Lease {
    Lease { until, term: 1, ..Lease::default() }
}

fn check_pairs(m: &Memory) {
    let keys = m.keys.borrow();
    let mut seen = [[0u32; 2]; FLOWS as usize];
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
    let used = (0..FLOWS).filter(|s| m.record(*s).stage() != Stage::Free).count();
    assert_eq!(used + m.free.borrow().len(), FLOWS as usize, "a slot was lost or given twice");
}

fn check_emitted(frame: &[u8]) {
    let h = PacketHeaders::from_ethernet_slice(frame).expect("a frame");
    let (Some(NetHeaders::Ipv4(ip, _)), Some(TransportHeader::Tcp(tcp))) = (&h.net, &h.transport) else {
        panic!("not TCP over IPv4");
    };
    assert_eq!(ip.header_checksum, ip.calc_header_checksum());
    assert_eq!(tcp.checksum, tcp.calc_checksum_ipv4(ip, h.payload.slice()).expect("short"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_sequence_of_segments_keeps_flows_and_keys_paired_and_checksums_right(
        segments in prop::collection::vec(segment(), 1..60),
    ) {
        let m = tables();
        for (now, s) in (1..).zip(&segments) {
            let mut b = Buffer::new(frame(s));
            let v = handle(&mut b, &m, &Arrival { now, ifindex: 1 });
            match v.action {
                Action::Route(_) | Action::Send(_) => check_emitted(&b.bytes),
                Action::Pass => prop_assert_eq!(&b.bytes, &frame(s), "a passed packet is left as it was"),
                Action::Drop => {}
            }
            check_pairs(&m);
        }
        let counted: u64 = Reason::ALL.iter().map(|r| m.counted(*r)).sum();
        prop_assert_eq!(counted, segments.len() as u64, "each packet ends in one reason");
    }

    #[test]
    fn any_bytes_are_survived_and_counted(bytes in prop::collection::vec(any::<u8>(), 0..120), ipv4 in any::<bool>()) {
        let m = tables();
        let mut bytes = bytes;
        if ipv4 && bytes.len() > 34 {
            bytes[12..15].copy_from_slice(&[8, 0, 0x45]);
            bytes[30..34].copy_from_slice(&address(VIP));
        }
        let mut b = Buffer::new(bytes);
        let v = handle(&mut b, &m, &Arrival { now: 1, ifindex: 1 });
        prop_assert_eq!(m.counted(v.reason), 1);
    }

    #[test]
    fn without_the_lease_nothing_leaves_and_nothing_changes(segments in prop::collection::vec(segment(), 1..20)) {
        let mut m = tables();
        m.set_lease(0, lease(5));
        for s in &segments {
            let mut b = Buffer::new(frame(s));
            let v = handle(&mut b, &m, &Arrival { now: 5, ifindex: 1 });
            prop_assert!(matches!(v.reason.kind(), Kind::Passed | Kind::Dropped));
            prop_assert_eq!(matches!(v.reason, Reason::NotOwner), s.dst.0 == VIP);
        }
        prop_assert_eq!(m.keys.borrow().len(), 0);
    }
}
