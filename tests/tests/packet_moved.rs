//! Connections that are moved to another server than their handshake was with, through the host core and the kernel's programs: what is
//! noted of the handshake, what is held, and which numbers each side sees.

use std::{collections::HashMap, net::IpAddr};

use etherparse::{PacketHeaders, TcpOptionElement, TransportHeader};
use lb_common::{
    flow::{DETOUR, Flow, Stage},
    opening::{Opening, SACK, SCALE, State, TIMES},
    reason::Reason,
};
use lb_ebpf::{Action, Tables};
use lb_tests::{
    packets::{FAMILIES, Family, Seen, Segment, seen},
    pair::Pair,
};
use lb_userspace::datapath::{load::Datapath, tables::Desired};

const PORT: u16 = 20_000;
/// Initial numbers and times of the two servers; the second one's lie behind.
const FIRST: (u32, u32) = (9000, 0xffff_ff00);
const SECOND: (u32, u32) = (0xffff_fff0, 77);

/// One service with `n` backends, whose connections may be moved.
fn world(family: Family, n: u8) -> Desired {
    let mut world = family.world(n);
    world.paths.iter_mut().for_each(|path| path.moves = 1);
    world
}

/// Of a SYN as Linux sends it: segment size, selective acknowledgements, timestamps, scale.
fn options(mss: u16, times: (u32, u32), scale: u8) -> Vec<u8> {
    let mut all = vec![2, 4];
    all.extend(mss.to_be_bytes());
    all.extend([4, 2, 8, 10]);
    all.extend(times.0.to_be_bytes());
    all.extend(times.1.to_be_bytes());
    all.extend([1, 3, 3, scale]);
    all
}

/// Timestamps behind so many bytes of padding: an odd number makes their words lie across the checksum's.
fn times(padding: usize, of: u32, echo: u32) -> Vec<u8> {
    let mut all = vec![1; padding];
    all.extend([8, 10]);
    all.extend(of.to_be_bytes());
    all.extend(echo.to_be_bytes());
    all.resize(all.len().next_multiple_of(4), 0);
    all
}

/// What a segment's options say.
fn said(frame: &[u8]) -> Vec<TcpOptionElement> {
    let headers = PacketHeaders::from_ethernet_slice(frame).expect("a frame");
    let Some(TransportHeader::Tcp(tcp)) = headers.transport else { panic!("not TCP") };
    tcp.options_iterator().flatten().filter(|o| *o != TcpOptionElement::Noop).collect()
}

/// Opens a connection with a whole handshake; gives what the backend saw of the SYN.
fn establish(p: &mut Pair, family: Family) -> Seen {
    let client = Segment::of(family, PORT);
    let syn = Segment { syn: true, ..client.clone() };
    let syn = p.receive(&syn.frame_with_options(&options(1460, (500, 0), 7)));
    assert_eq!(syn.reason, Reason::NewFlow);
    let syn = seen(&syn.frame);
    let answer = Segment { syn: true, seq: FIRST.0, ..Segment::answer(&syn) };
    let answer = p.receive(&answer.frame_with_options(&options(1400, (FIRST.1, 500), 9)));
    assert_eq!(answer.reason, Reason::Returned);
    let ack = Segment { seq: 1001, ack: Some(FIRST.0 + 1), ..client };
    let ack = p.receive(&ack.frame_with_options(&times(2, 501, FIRST.1)));
    assert_eq!(ack.reason, Reason::Forwarded);
    syn
}

/// The slot of the only flow.
fn slot(p: &Pair) -> u32 {
    (0..p.flows).find(|slot| p.host.record(*slot).stage() != Stage::Free).expect("a flow")
}

/// Has the host's side know what the daemon has changed of a flow on the kernel's.
fn take_over(p: &mut Pair, slot: u32) -> Flow {
    let Datapath { tables, collector, .. } = p.kernel();
    let (flow, opening) = (collector.record(slot), collector.opening(slot));
    let keys = tables.maps().flow_keys.iter().collect::<Result<HashMap<_, _>, _>>().expect("keys");
    let old = p.host.record(slot);
    if old.backend_id != flow.backend_id {
        p.host.leave(old.backend_id);
        p.host.join(flow.backend_id);
    }
    *p.host.flow(slot).expect("a record") = flow;
    *p.host.opening(slot).expect("an opening") = opening;
    *p.host.keys.borrow_mut() = keys;
    flow
}

/// Holds the only flow and gives it to the other backend; gives it as it is then.
fn give(p: &mut Pair, to: u32) -> Flow {
    let slot = slot(p);
    let flow = p.host.record(slot);
    let Datapath { tables, collector, .. } = p.kernel();
    assert_eq!(collector.hold(slot, &flow), Some(State::Agreed));
    let flow = collector.record(slot);
    assert!(flow.is_moved() && flow.mtu == DETOUR);
    collector.give(tables.maps(), slot, &flow, to).expect("maps").expect("a port");
    take_over(p, slot)
}

/// A segment from the flow's backend.
fn from_backend(flow: &Flow) -> Segment {
    Segment {
        src: (flow.backend.into(), flow.backend_port.number()),
        dst: (flow.snat.into(), flow.snat_port.number()),
        seq: SECOND.0,
        ack: Some(1001),
        ..Segment::from_client(0)
    }
}

/// Moves the only flow to the other backend.
fn moved(p: &mut Pair, family: Family) -> Flow {
    let first = establish(p, family);
    let to = (0..2).find(|i| family.backend(*i) != first.dst.0).expect("another");
    let flow = give(p, to.into());
    assert_eq!(IpAddr::from(flow.backend), family.backend(to));
    let answer = Segment { syn: true, ..from_backend(&flow) };
    let answer = p.receive(&answer.frame_with_options(&options(1400, (SECOND.1, 500), 9)));
    assert_eq!((answer.reason, answer.action), (Reason::Moving, Action::Drop), "it is for the daemon");
    let opening = p.host.opening_of(slot(p));
    assert_eq!(opening.state(), State::Answered);
    assert!(opening.is_alike());
    let slot = slot(p);
    p.kernel().collector.set_moved(slot);
    take_over(p, slot)
}

#[test]
fn both_syns_are_noted_where_connections_may_be_moved_and_the_way_is_the_usual_one_afterwards() {
    for family in FAMILIES {
        let mut p = Pair::new(&world(family, 2));
        establish(&mut p, family);
        let opening = p.host.opening_of(slot(&p));
        let expected = Opening {
            generation: p.only_flow().generation,
            state: State::Agreed as u8,
            agreed: SCALE | SACK | TIMES,
            client_mss: 1460,
            client_window: 64_240,
            server_mss: 1400,
            client_scale: 7,
            server_scale: 9,
            client_isn: 1000,
            server_isn: FIRST.0,
            client_ts: 500,
            server_ts: FIRST.1,
            ..Opening::default()
        };
        assert_eq!(opening, expected);
        assert_ne!(p.only_flow().mtu, DETOUR);
        let mut p = Pair::new(&family.world(2));
        establish(&mut p, family);
        assert_eq!(p.host.opening_of(slot(&p)), Opening::default(), "nobody has asked for it");
    }
}

#[test]
fn what_only_one_side_offers_is_not_agreed_and_what_is_unknown_cannot_be_moved() {
    let agreed = |answer: &[u8]| {
        let mut p = Pair::new(&world(Family::V4, 2));
        let syn = Segment::syn(PORT).frame_with_options(&options(1460, (500, 0), 7));
        let syn = seen(&p.receive(&syn).frame);
        let answer = Segment { syn: true, ..Segment::answer(&syn) }.frame_with_options(answer);
        assert_eq!(p.receive(&answer).reason, Reason::Returned);
        let opening = p.host.opening_of(slot(&p));
        (opening.state(), opening.agreed)
    };
    assert_eq!(agreed(&[2, 4, 5, 180]), (State::Agreed, 0));
    assert_eq!(agreed(&[2, 4, 5, 180, 1, 3, 3, 7]), (State::Agreed, SCALE));
    // Several paths (RFC 8684).
    assert_eq!(agreed(&[30, 4, 1, 0]).0, State::Unknown);
}

#[test]
fn packets_of_a_connection_that_is_being_moved_are_held() {
    for family in FAMILIES {
        let mut p = Pair::new(&world(family, 2));
        let first = establish(&mut p, family);
        let to = (0..2).find(|i| family.backend(*i) != first.dst.0).expect("another");
        let flow = give(&mut p, to.into());
        let said =
            Segment { seq: 1001, ack: Some(FIRST.0 + 1), data: vec![7; 9], ..Segment::of(family, PORT) };
        let closing = Segment { fin: true, data: Vec::new(), ..said.clone() };
        for frame in [said.frame(), closing.frame(), from_backend(&flow).frame()] {
            let out = p.receive(&frame);
            assert_eq!((out.reason, out.action), (Reason::Moving, Action::Drop));
        }
        let now = p.only_flow();
        assert_eq!((now.client_next, now.flags), (flow.client_next, flow.flags), "nobody has said anything");
        // The first server's late word is no part of it any more.
        let late = Segment { seq: FIRST.0 + 1, data: vec![1; 9], ..Segment::answer(&first) };
        assert_ne!(p.receive(&late.frame()).reason, Reason::Returned);
        let refusal = Segment { rst: true, seq: 0, ..from_backend(&flow) };
        assert_eq!(p.receive(&refusal.frame()).reason, Reason::Moving);
        assert_eq!(p.host.opening_of(slot(&p)).state(), State::Refused);
    }
}

#[test]
fn each_side_of_a_moved_connection_sees_its_own_numbers_and_times() {
    for (family, padding) in FAMILIES.into_iter().flat_map(|family| [(family, 2), (family, 1)]) {
        let mut p = Pair::new(&world(family, 2));
        let flow = moved(&mut p, family);
        let greeting = Segment { seq: SECOND.0.wrapping_add(1), data: vec![5; 80], ..from_backend(&flow) };
        let out = p.receive(&greeting.frame_with_options(&times(padding, SECOND.1 + 3, 501)));
        assert_eq!(out.reason, Reason::Returned);
        let at_client = seen(&out.frame);
        assert_eq!((at_client.src, at_client.dst.1), ((family.vip(), 3306), PORT));
        assert_eq!((at_client.seq, at_client.ack, at_client.data), (FIRST.0 + 1, Some(1001), 80));
        assert_eq!(said(&out.frame)[0], TcpOptionElement::Timestamp(FIRST.1 + 3, 501));
        assert_eq!(p.only_flow().backend_next, FIRST.0 + 81, "the record has the numbers of the client");

        let mut all = times(padding, 502, FIRST.1 + 3);
        all.truncate(padding + 10);
        // What it has of what comes after a gap, twice.
        all.extend([1, 5, 18]);
        for number in [200, 300, 400, 500] {
            all.extend((FIRST.0 + number).to_be_bytes());
        }
        all.resize(all.len().next_multiple_of(4), 1);
        let reply =
            Segment { seq: 1001, ack: Some(FIRST.0 + 81), data: vec![6; 33], ..Segment::of(family, PORT) };
        let out = p.receive(&reply.frame_with_options(&all));
        assert_eq!(out.reason, Reason::Forwarded);
        let at_backend = seen(&out.frame);
        assert_eq!(at_backend.dst, (flow.backend.into(), flow.backend_port.number()));
        assert_eq!((at_backend.seq, at_backend.ack), (1001, Some(SECOND.0.wrapping_add(81))));
        let of_second = |number: u32| SECOND.0.wrapping_add(number);
        assert_eq!(
            said(&out.frame),
            [
                TcpOptionElement::Timestamp(502, SECOND.1 + 3),
                TcpOptionElement::SelectiveAcknowledgement(
                    (of_second(200), of_second(300)),
                    [Some((of_second(400), of_second(500))), None, None]
                ),
            ]
        );
        assert_eq!((p.only_flow().client_next, p.only_flow().mtu), (1034, DETOUR));
    }
}

#[test]
fn a_moved_connection_ends_like_any_other() {
    for family in FAMILIES {
        let mut p = Pair::new(&world(family, 2));
        let flow = moved(&mut p, family);
        let client = Segment { seq: 1001, ack: Some(FIRST.0 + 1), fin: true, ..Segment::of(family, PORT) };
        assert_eq!(p.receive(&client.frame()).reason, Reason::Forwarded);
        let server =
            Segment { seq: SECOND.0.wrapping_add(1), ack: Some(1002), fin: true, ..from_backend(&flow) };
        assert_eq!(p.receive(&server.frame()).reason, Reason::Returned);
        assert_eq!(p.only_flow().stage(), Stage::Closing);
        let open = |b| p.host.occupancy(b).expect("counts").connections;
        assert_eq!((open(0), open(1)), (0, 0));
        let again = Segment { syn: true, seq: 70_000, ..Segment::of(family, PORT) };
        let again = p.receive(&again.frame_with_options(&options(1460, (900, 0), 7)));
        assert_eq!(again.reason, Reason::NewFlow, "and its client's port is free again");
    }
}

#[test]
fn a_reset_of_a_moved_connection_is_believed_by_its_own_numbers() {
    let mut p = Pair::new(&world(Family::V4, 2));
    let flow = moved(&mut p, Family::V4);
    let reset = Segment { seq: SECOND.0.wrapping_add(1), rst: true, ..from_backend(&flow) };
    let out = p.receive(&reset.frame());
    assert_eq!((out.reason, seen(&out.frame).seq), (Reason::Returned, FIRST.0 + 1));
    assert_eq!(p.only_flow().stage(), Stage::Closed);
}

#[test]
fn a_fragment_of_a_moved_connection_is_dropped() {
    let mut p = Pair::new(&world(Family::V4, 2));
    moved(&mut p, Family::V4);
    let said = Segment { seq: 1001, ack: Some(FIRST.0 + 1), data: vec![7; 64], ..Segment::from_client(PORT) };
    let mut frame = said.frame();
    // More fragments follow; the header's checksum is nobody's concern before it is sent on.
    frame[20] |= 0x20;
    assert_eq!(p.receive(&frame).reason, Reason::Untranslatable);
    assert_eq!(p.only_flow().client_next, 1001);
}
