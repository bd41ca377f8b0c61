//! Packet cases of `nat` between families: an IPv4 client and an IPv6 backend, and the other way round.

use lb_common::{flow::Stage, mode::Mode, reason::Reason};
use lb_ebpf::Action;
use lb_tests::{
    packets::{
        Datagram, Error, Family, LO, MIXED, PORT, Segment, fix_ip_checksum, fragments, seen,
        udp_world_between, with_extensions, world_between,
    },
    pair::Pair,
};

const MTU: u16 = 1500;

fn nat(client: Family, backend: Family) -> Pair {
    Pair::new(&world_between(client, backend, Mode::Nat, MTU))
}

fn header(family: Family) -> usize {
    if family == Family::V4 { 20 } else { 40 }
}

/// Opens a connection; gives what the backend saw of the SYN.
fn establish(p: &mut Pair, client: Family, backend: Family) -> lb_tests::packets::Seen {
    let syn = p.establish_in(client, 40_000);
    assert_eq!(
        (syn.src.0, syn.dst),
        (backend.backend(7), (backend.backend(0), PORT)),
        "{client:?} {backend:?}"
    );
    syn
}

#[test]
fn a_connection_changes_family_both_ways() {
    for (client, backend) in MIXED {
        let mut p = nat(client, backend);
        let syn = establish(&mut p, client, backend);
        assert_eq!(syn.ttl, 63);
        for length in [0, 1, 2, 100, 1001] {
            let data =
                Segment { seq: 1001, ack: Some(9001), data: vec![7; length], ..Segment::of(client, 40_000) };
            let out = p.receive(&data.frame());
            assert_eq!((out.reason, out.action), (Reason::Forwarded, Action::Route(LO)));
            let there = seen(&out.frame);
            assert_eq!((there.src, there.dst, there.data), (syn.src, syn.dst, length));
            let answer = Segment { seq: 9001, data: vec![8; length], ..Segment::answer(&syn) };
            let out = p.receive(&answer.frame());
            assert_eq!((out.reason, out.action), (Reason::Returned, Action::Route(LO)));
            let back = seen(&out.frame);
            assert_eq!((back.src, back.dst), ((client.vip(), PORT), (client.client(), 40_000)));
            assert_eq!((back.ttl, back.data, back.seq), (63, length, 9001));
        }
        assert_eq!(p.only_flow().stage(), Stage::Established);
    }
}

#[test]
fn datagrams_change_family_both_ways() {
    for (client, backend) in MIXED {
        let mut p = Pair::new(&udp_world_between(client, backend, Mode::Nat, MTU));
        for length in [0, 1, 5, 1400] {
            let sent = Datagram { data: vec![length as u8; length], ..Datagram::of(client, 40_000) };
            let there = Datagram::seen(&p.receive(&sent.frame()).frame);
            assert_eq!((there.src.0, there.dst), (backend.backend(7), (backend.backend(0), PORT)));
            assert_eq!(there.data, sent.data);
            let back = Datagram::seen(&p.receive(&there.answer().frame()).frame);
            assert_eq!((back.src, back.dst), ((client.vip(), PORT), (client.client(), 40_000)));
        }
    }
}

#[test]
fn header_fields_are_those_of_rfc_7915() {
    for (client, backend) in MIXED {
        let mut p = nat(client, backend);
        let mut frame = Segment { syn: true, ..Segment::of(client, 40_000) }.frame();
        if client == Family::V4 {
            frame[15] = 0xbb;
            fix_ip_checksum(&mut frame);
        } else {
            // With a flow label.
            frame[14..18].copy_from_slice(&[0x6b, 0xb1, 0x23, 0x45]);
        }
        let out = p.receive(&frame).frame;
        let _ = seen(&out);
        if backend == Family::V4 {
            assert_eq!((out[15], &out[18..22]), (0xbb, &[0, 0, 0x40, 0][..]), "DF, and no identification");
        } else {
            assert_eq!(out[14..18], [0x6b, 0xb0, 0, 0], "no flow label");
        }
    }
}

#[test]
fn what_is_longer_in_the_other_family_is_told_of_in_the_senders() {
    for (client, backend) in MIXED {
        let mut p = nat(client, backend);
        let syn = establish(&mut p, client, backend);
        // A packet of the largest size on the other side.
        let room = usize::from(MTU) - header(backend) - 20;
        let data = |length| Segment {
            seq: 1001,
            ack: Some(9001),
            data: vec![7; length],
            ..Segment::of(client, 40_000)
        };
        let out = p.receive(&data(room).frame());
        assert_eq!((out.reason, out.frame.len()), (Reason::Forwarded, 14 + usize::from(MTU)));
        let out = p.receive(&data(room + 1).frame());
        assert_eq!((out.reason, out.action), (Reason::TooBig, Action::Send(LO)));
        let error = Error::seen(&out.frame);
        let told = (room + header(client) + 20) as u32;
        assert_eq!((error.src, error.dst, error.rest), (client.vip(), client.client(), told.to_be_bytes()));
        // And back.
        let room = usize::from(MTU) - header(client) - 20;
        let data = |length| Segment { seq: 9001, data: vec![7; length], ..Segment::answer(&syn) };
        assert_eq!(p.receive(&data(room).frame()).frame.len(), 14 + usize::from(MTU));
        let error = Error::seen(&p.receive(&data(room + 1).frame()).frame);
        let told = (room + header(backend) + 20) as u32;
        assert_eq!(
            (error.src, error.dst, error.rest),
            (backend.backend(7), backend.backend(0), told.to_be_bytes())
        );
    }
}

#[test]
fn a_datagram_without_checksum_has_no_counterpart_in_ipv6() {
    let mut p = Pair::new(&udp_world_between(Family::V4, Family::V6, Mode::Nat, MTU));
    let mut frame = Datagram::of(Family::V4, 40_000).frame();
    frame[40..42].fill(0);
    let out = p.receive(&frame);
    assert_eq!((out.reason, out.action), (Reason::Untranslatable, Action::Drop));
}

#[test]
fn fragments_and_extension_headers_have_no_counterpart() {
    for (client, backend) in MIXED {
        let mut p = Pair::new(&udp_world_between(client, backend, Mode::Nat, MTU));
        let long = Datagram { data: vec![9; 2000], ..Datagram::of(client, 40_000) };
        for fragment in fragments(&long.frame(), 1000, 77) {
            let out = p.receive(&fragment);
            assert_eq!((out.reason, out.action), (Reason::Untranslatable, Action::Drop), "{client:?}");
        }
        if client == Family::V6 {
            let options = with_extensions(&Datagram::of(client, 40_000).frame(), &[(60, vec![0; 8])]);
            assert_eq!(p.receive(&options).reason, Reason::Untranslatable);
        }
    }
}

/// The kinds of errors of a family that have a counterpart in the other, with it.
fn counterparts(family: Family) -> Vec<([u8; 2], [u8; 2])> {
    match family {
        Family::V4 => [
            ([3, 0], [1, 0]),
            ([3, 1], [1, 0]),
            ([3, 3], [1, 4]),
            ([3, 4], [2, 0]),
            ([3, 10], [1, 1]),
            ([3, 13], [1, 1]),
            ([11, 0], [3, 0]),
            ([11, 1], [3, 1]),
        ]
        .to_vec(),
        Family::V6 => [
            ([1, 0], [3, 1]),
            ([1, 1], [3, 10]),
            ([1, 3], [3, 1]),
            ([1, 4], [3, 3]),
            ([2, 0], [3, 4]),
            ([3, 0], [11, 0]),
            ([3, 1], [11, 1]),
            ([4, 1], [3, 2]),
        ]
        .to_vec(),
    }
}

#[test]
fn errors_about_what_the_client_sent_reach_it_in_its_own_family() {
    for (client, backend) in MIXED {
        let mut p = nat(client, backend);
        establish(&mut p, client, backend);
        for (what, expected) in counterparts(backend) {
            let sent =
                Segment { seq: 1001, ack: Some(9001), data: vec![7; 1200], ..Segment::of(client, 40_000) };
            let forwarded = p.receive(&sent.frame()).frame;
            let error = Error { what, ..Error::too_big(backend, &forwarded, 576) };
            let out = p.receive(&error.frame());
            assert_eq!((out.reason, out.action), (Reason::ErrorForwarded, Action::Route(LO)), "{what:?}");
            let seen = Error::seen(&out.frame);
            assert_eq!((seen.src, seen.dst), (client.vip(), client.client()));
            assert_eq!(seen.what, expected, "{what:?}");
            if matches!(expected, [3, 4] | [2, 0]) {
                let told = if client == Family::V4 { 1260u32 } else { 1300 };
                assert_eq!(seen.rest, told.to_be_bytes());
            }
            let quoted = &sent.frame()[14..];
            let (l4, addresses) = if client == Family::V4 { (20, 12..20) } else { (40, 8..40) };
            assert_eq!(seen.quoted[addresses.clone()], quoted[addresses], "{what:?}");
            assert_eq!(seen.quoted[l4..l4 + 8], quoted[l4..l4 + 8], "ports and number");
            assert_eq!(seen.quoted[0] >> 4, quoted[0] >> 4);
        }
    }
}

#[test]
fn errors_about_what_the_backend_sent_reach_it_in_its_own_family() {
    for (client, backend) in MIXED {
        let mut p = nat(client, backend);
        let syn = establish(&mut p, client, backend);
        let sent = Segment { seq: 9001, data: vec![7; 1200], ..Segment::answer(&syn) };
        let returned = p.receive(&sent.frame()).frame;
        let out = p.receive(&Error::too_big(client, &returned, 576).frame());
        assert_eq!((out.reason, out.action), (Reason::ErrorForwarded, Action::Route(LO)));
        let seen = Error::seen(&out.frame);
        assert_eq!((seen.src, seen.dst), (backend.backend(7), backend.backend(0)));
        let l4 = header(backend);
        assert_eq!(seen.quoted[l4..l4 + 8], sent.frame()[14 + l4..14 + l4 + 8]);
    }
}

#[test]
fn errors_without_a_counterpart_end_here() {
    for (client, backend) in MIXED {
        let mut p = nat(client, backend);
        establish(&mut p, client, backend);
        let sent = Segment { seq: 1001, ack: Some(9001), data: vec![7; 100], ..Segment::of(client, 40_000) };
        let forwarded = p.receive(&sent.frame()).frame;
        let what = if backend == Family::V4 { [12, 0] } else { [4, 0] };
        let out = p.receive(&Error { what, ..Error::too_big(backend, &forwarded, 576) }.frame());
        assert_eq!((out.reason, out.action), (Reason::Untranslatable, Action::Drop));
    }
}
