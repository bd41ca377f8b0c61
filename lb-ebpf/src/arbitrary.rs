//! Arbitrary bytes as frames through the whole packet path, on tables with services whose flows they can open and meet.
//!
//! The fuzz targets `packet` and `quotation` (`tests/fuzz`) and property tests call it. Whatever comes in: no panic, one reason each, and a
//! packet that is passed on to the node's stack is left as it was.

use lb_common::{
    addr::{Addr, PROTO_TCP, PROTO_UDP, Port},
    lease::Lease,
    reason::Reason,
    schedule,
    service::{Backend, Service, ServiceKey, Vip},
    settings::SnatPorts,
};

use crate::{
    Action, Arrival, handle,
    testing::{Buffer, Memory},
};

const CLIENT: u8 = 1;
const BACKEND: u8 = 2;
const VIP: u8 = 3;
const PORT: u16 = 53;

/// Sends frames through that `bytes` describe: for each a length, then the frame from its EtherType on. A first byte of the
/// address field chooses among the hosts of the tables, so that flows are met.
///
/// # Panics
///
/// If the packet path breaks one of its rules.
pub fn any_frames(bytes: &[u8]) {
    let m = tables();
    let mut rest = bytes;
    let mut sent = 0;
    while let Some((length, more)) = rest.split_first() {
        let (body, after) = more.split_at(more.len().min(usize::from(*length)));
        rest = after;
        sent += 1;
        let frame = frame(body);
        let mut b = Buffer::new(frame.clone());
        let verdict = handle(&mut b, &m, &Arrival { now: sent, ifindex: 1 });
        assert!(
            verdict.action != Action::Pass || b.bytes == frame,
            "{verdict:?}: a passed packet was changed"
        );
    }
    let counted: u64 = Reason::ALL.iter().map(|r| m.counted(*r)).sum();
    assert_eq!(counted, sent, "each packet ends in one reason");
}

/// Sends ICMP errors about flows that are there, of both families and protocols and from either side. Of each error `bytes`
/// give a selector, a length, and changes to the quotation: pairs of a place and a value, then the quotation is cut to the
/// length. Unchanged and uncut ones are forwarded, whatever else comes is survived.
///
/// # Panics
///
/// If the packet path breaks one of its rules.
pub fn any_errors(bytes: &[u8]) {
    let m = tables();
    open_flows(&m);
    let opened: u64 = Reason::ALL.iter().map(|r| m.counted(*r)).sum();
    let mut sent = 0;
    for chunk in bytes.chunks(12) {
        let [selector, length, changes @ ..] = chunk else { break };
        sent += 1;
        let frame = error(&m, *selector, usize::from(*length), changes);
        let mut b = Buffer::new(frame.clone());
        let verdict = handle(&mut b, &m, &Arrival { now: 100 + sent, ifindex: 1 });
        let kept = verdict.action != Action::Pass || b.bytes == frame;
        assert!(kept, "{verdict:?}: a passed packet was changed");
        assert_eq!(b.bytes.len(), frame.len(), "{verdict:?}: no error grows or shrinks");
        if changes.is_empty() && *length == u8::MAX {
            assert_eq!(verdict.reason, Reason::ErrorForwarded, "selector {selector}");
        }
    }
    let counted: u64 = Reason::ALL.iter().map(|r| m.counted(*r)).sum();
    assert_eq!(counted, opened + sent, "each packet ends in one reason");
}

/// A TCP and a UDP flow in each family, from the client's port 40,000.
fn open_flows(m: &Memory) {
    let ports = [0x9c, 0x40, 0, PORT as u8];
    for family in [0, 1] {
        let mut syn = vec![family, 0];
        syn.extend(ports);
        syn.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
        let mut datagram = vec![family | if family == 0 { 0x40 } else { 0x20 }, 0];
        datagram.extend(ports);
        datagram.extend([0, 8, 0, 0]);
        for body in [syn, datagram] {
            let verdict = handle(&mut Buffer::new(frame(&body)), m, &Arrival { now: 1, ifindex: 1 });
            assert_eq!(verdict.reason, Reason::NewFlow);
        }
    }
}

/// An error of the family, the protocol and the side that a selector's lowest bits say; of a kind and code by the others.
fn error(m: &Memory, selector: u8, length: usize, changes: &[u8]) -> Vec<u8> {
    let (v6, udp, of_client) = (selector & 1 != 0, selector & 2 != 0, selector & 4 != 0);
    let proto = if udp { PROTO_UDP } else { PROTO_TCP };
    let addr = if v6 { v6_host } else { v4 };
    let port = (0..m.records()).map(|s| m.record(s)).find(|f| f.proto == proto && f.vip == addr(VIP));
    let port = port.map_or([0; 2], |f| f.snat_port.0);
    // Quoted is what was sent on to the backend, or what its answer became.
    let (src, dst, ports) = if of_client {
        (VIP, CLIENT, [0, PORT as u8, 0x9c, 0x40])
    } else {
        (VIP, BACKEND, [port[0], port[1], 0, PORT as u8])
    };
    let mut quoted = quotation(v6, proto, src, dst, ports);
    for change in changes.chunks_exact(2) {
        let at = usize::from(change[0]) % quoted.len();
        quoted[at] = change[1];
    }
    quoted.truncate(length);
    let (kind, code) = match (v6, selector >> 6) {
        (false, 0) => (3, 3),
        (false, 1) => (3, 4),
        (false, 2) => (11, 0),
        (false, _) => (12, 0),
        (true, 0) => (1, 4),
        (true, 1) => (2, 0),
        (true, 2) => (3, 0),
        (true, _) => (4, 1),
    };
    let from = if of_client { 0 } else { 1 };
    let mut body = if v6 { vec![0x41, from, kind, code] } else { vec![0x80, from, kind, code] };
    body.extend([0, 0, 0, 0, 5, 0]);
    body.extend(quoted);
    frame(&body)
}

fn quotation(v6: bool, proto: u8, src: u8, dst: u8, ports: [u8; 4]) -> Vec<u8> {
    let mut quoted = if v6 {
        let mut header = vec![0x60, 0, 0, 0, 0, 20, proto, 63];
        header.extend(v6_host(src).bytes());
        header.extend(v6_host(dst).bytes());
        header
    } else {
        vec![0x45, 0, 0, 40, 0, 1, 0, 0, 63, proto, 0, 0, 10, 0, 0, src, 10, 0, 0, dst]
    };
    quoted.extend(ports);
    if proto == PROTO_UDP {
        quoted.extend([0, 20, 0x12, 0x34, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    } else {
        // The client began at 1; of what the backend sent nothing is known yet.
        let seq = u8::from(dst == BACKEND);
        quoted.extend([0, 0, 0, seq, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0x12, 0x34, 0, 0]);
    }
    quoted
}

/// A frame of a family by the first byte, between two hosts by the second, the network header's rest filled in as far as an
/// arbitrary one would lead nowhere; all else as it comes.
fn frame(body: &[u8]) -> Vec<u8> {
    let [family, hosts, payload @ ..] = body else { return body.to_vec() };
    let (src, dst) = match hosts & 3 {
        0 => (CLIENT, VIP),
        1 => (BACKEND, VIP),
        2 => (CLIENT, hosts >> 2),
        _ => (hosts >> 2, VIP),
    };
    let mut frame = vec![0; 12];
    let length = payload.len() as u16;
    if family & 1 == 0 {
        let [high, low] = (20 + length).to_be_bytes();
        let frags = if family & 2 == 0 { [0, 0] } else { [family >> 2 & 0x3f, *hosts] };
        let proto = [PROTO_TCP, PROTO_UDP, 1, *family][usize::from(family >> 6)];
        frame.extend([8, 0, 0x45, 0, high, low, 0, 1, frags[0], frags[1], 64, proto, 0, 0]);
        frame.extend([10, 0, 0, src, 10, 0, 0, dst]);
    } else {
        let [high, low] = length.to_be_bytes();
        let next = [PROTO_TCP, PROTO_UDP, 58, 44, 0, 43, 60, *family][usize::from(family >> 5)];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, high, low, next, 64]);
        frame.extend(v6_host(src).bytes());
        frame.extend(v6_host(dst).bytes());
    }
    frame.extend(payload);
    frame
}

fn v4(host: u8) -> Addr {
    Addr::v4([10, 0, 0, host])
}

fn v6_host(host: u8) -> Addr {
    Addr::new([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host])
}

/// A TCP and a UDP service in each family with one backend.
fn tables() -> Memory {
    let mut m = Memory::new(16);
    m.settings.snat_ports = SnatPorts { low_first: 2000, low_last: 2003, high_first: 1, high_last: 0 };
    m.set_lease(0, Lease { until: u64::MAX, term: 1, ..Lease::default() });
    for (i, addr) in (0..).zip([v4 as fn(u8) -> Addr, v6_host]) {
        m.vips.insert(addr(VIP), Vip::default());
        let port = Port::new(PORT);
        m.backends.insert(i, Backend { addr: addr(BACKEND), ifindex: 1, port, ..Backend::default() });
        m.rings.insert(i, schedule::word(i, 1));
        for (n, proto) in (0..).zip([PROTO_TCP, PROTO_UDP]) {
            let key = ServiceKey { addr: addr(VIP), port, proto, pad: [0; 5] };
            let service = Service { id: 2 * i + n, ring_base: i, ring_len: 1, ..Service::default() };
            m.services.insert(key, service);
        }
    }
    m.make_pools(|b| if b.addr.is_v4() { v4(VIP) } else { v6_host(VIP) });
    m
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        #[test]
        fn arbitrary_frames_are_survived_and_counted(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            any_frames(&bytes);
        }

        #[test]
        fn arbitrary_quotations_in_errors_are_survived_and_counted(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            any_errors(&bytes);
        }
    }

    #[test]
    fn an_error_that_quotes_a_flow_as_it_is_is_forwarded_whatever_its_kind() {
        for selector in 0..=u8::MAX {
            any_errors(&[selector, u8::MAX]);
        }
    }

    #[test]
    fn a_tagged_frame_is_left_alone_whatever_it_is() {
        let m = tables();
        let datagram = [0x40, 0, 0x9c, 0x40, 0, 53, 0, 8, 0, 0];
        for body in [&datagram[..], &[0x80, 1, 3, 3, 0, 0, 0, 0, 0, 0]] {
            assert_ne!(reason(&m, body), Reason::VlanTagged);
            let mut b = Buffer { tagged: true, ..Buffer::new(frame(body)) };
            let verdict = handle(&mut b, &m, &Arrival { now: 1, ifindex: 1 });
            assert_eq!((verdict.reason, verdict.action), (Reason::VlanTagged, Action::Pass));
            assert_eq!(b.bytes, frame(body));
        }
    }

    fn reason(m: &Memory, body: &[u8]) -> Reason {
        handle(&mut Buffer::new(frame(body)), m, &Arrival { now: 1, ifindex: 1 }).reason
    }

    #[test]
    fn what_bytes_describe_can_meet_flows() {
        let m = tables();
        assert_eq!(reason(&m, &[0x40, 0, 0x9c, 0x40, 0, 53, 0, 8, 0, 0]), Reason::NewFlow);
        // "Port unreachable" about what was sent on to the backend.
        let slot = m.keys.borrow().values().next().expect("the flow's keys").slot;
        let port = m.record(slot).snat_port.0;
        let mut error = vec![0x80, 1, 3, 3, 0, 0, 0, 0, 0, 0];
        error.extend([0x45, 0, 0, 28, 0, 1, 0, 0, 63, PROTO_UDP, 0, 0, 10, 0, 0, VIP, 10, 0, 0, BACKEND]);
        error.extend([port[0], port[1], 0, 53, 0, 8, 0, 0]);
        assert_eq!(reason(&m, &error), Reason::ErrorForwarded);
        // A first fragment of IPv6, and the one that follows it.
        let first = [0x61, 0, PROTO_UDP, 0, 0, 1, 0, 0, 0, 1, 0x9c, 0x40, 0, 53, 0, 100, 0, 1];
        assert_eq!(reason(&m, &first), Reason::NewFlow);
        assert_eq!(reason(&m, &[0x61, 0, PROTO_UDP, 0, 0, 8, 0, 0, 0, 1, 9]), Reason::Forwarded);
    }
}
