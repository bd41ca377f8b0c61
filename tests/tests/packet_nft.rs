//! The same traffic through viplb and through the kernel's own translation (nftables' DNAT and masquerade): what the backend
//! sees and what the client gets back must be the same, but for source ports, identifications, TTL, and into how many fragments
//! a datagram is cut: connection tracking puts them together and sends on a whole one where it fits.
//!
//! Frames are made and read beside the hosts' stacks: sessions with options, all kinds of ends, datagrams, fragments.

use std::{net::IpAddr, time::Duration};

use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6FragmentHeader, Ipv6Header, TcpHeader};
use lb_common::addr::Mac;
use lb_tests::{
    packets::{FAMILIES, Family, PORT},
    proc,
    wire::{
        Wire,
        raw::Raw,
        traffic::{LIMIT, owner},
    },
};

const TCP: u8 = 6;
const UDP: u8 = 17;
const FRAGMENT: u8 = 44;
/// How long something is waited for that must not come.
const SILENCE: Duration = Duration::from_millis(300);
const CLIENT_SEQ: u32 = 0xffff_fff0;
const BACKEND_SEQ: u32 = 77_000;

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Client,
    Backend,
}

/// A packet: its transport part without ports and checksum, and what of its network header matters.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Packet {
    from: From,
    proto: u8,
    /// DSCP and ECN.
    class: u8,
    /// Header after the ports, checksum zero, and data.
    rest: Vec<u8>,
    /// Sizes of the parts it is sent in; none: whole.
    parts: Vec<usize>,
    /// The checksum is left out (UDP over IPv4).
    unsummed: bool,
}

/// What arrived of one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Arrived {
    proto: u8,
    class: u8,
    rest: Vec<u8>,
    /// Right, wrong, or none.
    sum: Option<bool>,
}

/// A segment's flags and other fields, for [`segment`].
#[derive(Debug, Clone, Default)]
struct Flags {
    syn: bool,
    ack: bool,
    fin: bool,
    rst: bool,
    psh: bool,
    ece: bool,
    cwr: bool,
    urgent: u16,
}

fn segment(from: From, seq: u32, ack: u32, flags: &Flags, options: &[u8], data: usize) -> Packet {
    let own = if from == From::Client { CLIENT_SEQ } else { BACKEND_SEQ };
    let other = if from == From::Client { BACKEND_SEQ } else { CLIENT_SEQ };
    let mut h = TcpHeader::new(0, 0, own.wrapping_add(seq), 64_000 - seq as u16 % 1000);
    (h.syn, h.fin, h.rst, h.psh, h.ece, h.cwr) =
        (flags.syn, flags.fin, flags.rst, flags.psh, flags.ece, flags.cwr);
    h.ack = flags.ack;
    h.acknowledgment_number = if flags.ack { other.wrapping_add(ack) } else { 0 };
    (h.urg, h.urgent_pointer) = (flags.urgent != 0, flags.urgent);
    h.set_options_raw(options).expect("options");
    let mut rest = h.to_bytes()[4..].to_vec();
    rest.extend((0..data).map(|i| (i * 7 + i / 251) as u8));
    Packet { from, proto: TCP, class: 0, rest, parts: Vec::new(), unsummed: false }
}

fn datagram(from: From, data: usize) -> Packet {
    let mut rest = ((8 + data) as u16).to_be_bytes().to_vec();
    rest.extend([0, 0]);
    rest.extend((0..data).map(|i| (i * 3 + i / 250) as u8));
    Packet { from, proto: UDP, class: 0, rest, parts: Vec::new(), unsummed: false }
}

/// MSS, SACK permitted, timestamps, window scale, as Linux has them.
const SYN_OPTIONS: [u8; 20] = [2, 4, 5, 180, 4, 2, 8, 10, 0, 1, 2, 3, 0, 0, 0, 0, 1, 3, 3, 7];
const TIMES: [u8; 12] = [1, 1, 8, 10, 0, 1, 2, 3, 0, 9, 8, 7];
/// The client's bytes 101 to 200 were received out of order.
const SACK: [u8; 12] = [1, 1, 5, 10, 0, 0, 0, 0x55, 0, 0, 0, 0xb9];

fn handshake() -> Vec<Packet> {
    let (c, b) = (From::Client, From::Backend);
    vec![
        segment(c, 0, 0, &Flags { syn: true, ..Flags::default() }, &SYN_OPTIONS, 0),
        segment(b, 0, 1, &Flags { syn: true, ack: true, ..Flags::default() }, &SYN_OPTIONS, 0),
        segment(c, 1, 1, &Flags { ack: true, ..Flags::default() }, &TIMES, 0),
    ]
}

fn with_handshake(more: impl IntoIterator<Item = Packet>) -> Vec<Packet> {
    handshake().into_iter().chain(more).collect()
}

/// The sessions, by name.
fn sessions(family: Family) -> Vec<(&'static str, Vec<Packet>)> {
    let (c, b) = (From::Client, From::Backend);
    let ack = Flags { ack: true, ..Flags::default() };
    let psh = Flags { psh: true, ..ack.clone() };
    let fin = Flags { fin: true, ..ack.clone() };
    let rst = Flags { rst: true, ..ack.clone() };
    let sizes = [1, 2, 3, 535, 1399];
    let talk = sizes.iter().scan(1u32, |at, size| {
        let packets = [
            segment(c, *at, *at, &psh, &TIMES, *size),
            segment(b, *at, *at + *size as u32, &psh, &TIMES, *size),
        ];
        *at += *size as u32;
        Some(packets)
    });
    let marked = Flags { ece: true, cwr: true, ..psh.clone() };
    let urgent = Flags { urgent: 2, ..psh.clone() };
    let mut list = vec![
        ("data of all sizes", with_handshake(talk.flatten())),
        (
            "the client ends",
            with_handshake([
                segment(c, 1, 1, &fin, &[], 0),
                segment(b, 1, 2, &fin, &[], 0),
                segment(c, 2, 2, &ack, &[], 0),
            ]),
        ),
        (
            "the backend ends",
            with_handshake([
                segment(b, 1, 1, &fin, &[], 9),
                segment(c, 1, 11, &ack, &[], 0),
                segment(c, 1, 11, &fin, &[], 0),
                segment(b, 11, 2, &ack, &[], 0),
            ]),
        ),
        (
            "both end at once",
            with_handshake([
                segment(c, 1, 1, &fin, &[], 0),
                segment(b, 1, 1, &fin, &[], 0),
                segment(c, 2, 2, &ack, &[], 0),
                segment(b, 2, 2, &ack, &[], 0),
            ]),
        ),
        (
            "half closed",
            with_handshake([
                segment(c, 1, 1, &fin, &[], 0),
                segment(b, 1, 2, &psh, &[], 700),
                segment(c, 2, 701, &ack, &[], 0),
                segment(b, 701, 2, &psh, &[], 1),
            ]),
        ),
        (
            "the client resets",
            with_handshake([segment(c, 1, 1, &psh, &[], 10), segment(c, 11, 1, &rst, &[], 0)]),
        ),
        ("the backend resets", with_handshake([segment(b, 1, 1, &rst, &[], 0)])),
        (
            "lost and sent again",
            with_handshake([
                segment(c, 101, 1, &psh, &[], 100),
                segment(b, 1, 1, &ack, &SACK, 0),
                segment(c, 1, 1, &psh, &[], 100),
                segment(b, 1, 201, &ack, &[], 0),
            ]),
        ),
        ("a request sent again", {
            let mut packets = handshake();
            packets.insert(1, packets[0].clone());
            packets
        }),
        ("a refused request", vec![handshake()[0].clone(), segment(b, 0, 1, &rst, &[], 0)]),
        ("marks and urgent data", {
            let packets = [segment(c, 1, 1, &marked, &[], 50), segment(b, 1, 51, &urgent, &[], 50)];
            with_handshake(packets.map(|p| Packet { class: 0xba | 1, ..p }))
        }),
        (
            "datagrams of all sizes",
            [0, 1, 2, 333, 1472 - if family == Family::V4 { 0 } else { 20 }]
                .into_iter()
                .flat_map(|n| [datagram(c, n), datagram(b, n)])
                .collect(),
        ),
        ("fragments", {
            let parts = |from| Packet { parts: vec![1400, 1400, 208], ..datagram(from, 3000) };
            vec![parts(c), parts(b), Packet { parts: vec![8, 1000], ..datagram(c, 1000) }]
        }),
    ];
    if family == Family::V4 {
        let unsummed = |from| Packet { unsummed: true, ..datagram(from, 12) };
        list.push(("datagrams without checksums", vec![unsummed(c), unsummed(b)]));
    }
    list
}

/// One way from the client to the backend.
struct Way<'a> {
    client: &'a Raw,
    backend: &'a Raw,
    family: Family,
    /// The node between them, and its address that the client speaks to.
    node: Mac,
    addr: IpAddr,
    port: u16,
}

impl Way<'_> {
    /// Sends the packets one after the other and gives what arrived of each.
    fn play(&self, packets: &[Packet]) -> Vec<Option<Arrived>> {
        // Whom the backend answers: learnt from the first packet.
        let mut translated = None;
        packets
            .iter()
            .map(|packet| {
                let (src, dst, sender, receiver) = match packet.from {
                    From::Client => {
                        let src = (self.family.client(), self.port);
                        (src, (self.addr, PORT), self.client, self.backend)
                    }
                    From::Backend => {
                        let to = translated.expect("a session begins with the client");
                        ((self.family.backend(0), PORT), to, self.backend, self.client)
                    }
                };
                for frame in frames(packet, src, dst, self.node) {
                    sender.send(&frame);
                }
                let (arrived, from) = collect(receiver, packet)?;
                translated = translated.or(Some(from));
                Some(arrived)
            })
            .collect()
    }
}

/// Source and destination with ports, of both families.
type End = (IpAddr, u16);

fn frames(p: &Packet, src: End, dst: End, to: Mac) -> Vec<Vec<u8>> {
    let mut body = [src.1.to_be_bytes(), dst.1.to_be_bytes()].concat();
    body.extend(&p.rest);
    let at = if p.proto == TCP { 16 } else { 6 };
    if !p.unsummed {
        let sum = match !fold(pseudo(src.0, dst.0, p.proto, body.len()) + words(&body)) {
            0 if p.proto == UDP => 0xffff,
            sum => sum,
        };
        body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    let whole = [body.len()];
    let parts = if p.parts.is_empty() { &whole[..] } else { &p.parts };
    let mut offset = 0;
    let mut frames = Vec::new();
    for length in parts {
        let data = &body[offset..offset + length];
        let more = offset + length < body.len();
        let mut frame = to.0.to_vec();
        frame.extend([0; 6]);
        frame.extend(network(p, src.0, dst.0, data.len(), offset, more, whole[0] != *length));
        frame.extend(data);
        frames.push(frame);
        offset += length;
    }
    frames
}

/// EtherType and network header of a part.
fn network(
    p: &Packet,
    src: IpAddr,
    dst: IpAddr,
    length: usize,
    offset: usize,
    more: bool,
    part: bool,
) -> Vec<u8> {
    let units = etherparse::IpFragOffset::try_new((offset / 8) as u16).expect("an offset");
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut h = Ipv4Header::new(length as u16, 64, IpNumber(p.proto), src.octets(), dst.octets())
                .expect("a header");
            h.dscp = (p.class >> 2).try_into().expect("six bits");
            h.ecn = (p.class & 3).try_into().expect("two bits");
            (h.identification, h.dont_fragment) = (4711, !part);
            (h.more_fragments, h.fragment_offset) = (more, units);
            h.header_checksum = h.calc_header_checksum();
            [&[8, 0][..], &h.to_bytes()].concat()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let extra = if part { 8 } else { 0 };
            let h = Ipv6Header {
                traffic_class: p.class,
                flow_label: Ipv6FlowLabel::ZERO,
                payload_length: (length + extra) as u16,
                next_header: IpNumber(if part { FRAGMENT } else { p.proto }),
                hop_limit: 64,
                source: src.octets(),
                destination: dst.octets(),
            };
            let mut bytes = [&[0x86, 0xdd][..], &h.to_bytes()].concat();
            if part {
                bytes.extend(Ipv6FragmentHeader::new(IpNumber(p.proto), units, more, 4711).to_bytes());
            }
            bytes
        }
        _ => unreachable!("one family"),
    }
}

/// What a frame carries, as far as it is of interest.
struct Piece {
    src: IpAddr,
    dst: IpAddr,
    proto: u8,
    class: u8,
    offset: usize,
    more: bool,
    data: Vec<u8>,
}

fn piece(frame: &[u8]) -> Option<Piece> {
    let ip = &frame[14..];
    match frame[12..14] {
        [8, 0] => {
            let (h, rest) = Ipv4Header::from_slice(ip).expect("a header");
            assert_eq!(h.header_checksum, h.calc_header_checksum());
            let length = usize::from(h.total_len) - h.header_len();
            Some(Piece {
                src: h.source.into(),
                dst: h.destination.into(),
                proto: h.protocol.0,
                class: h.dscp.value() << 2 | h.ecn.value(),
                offset: usize::from(h.fragment_offset.value()) * 8,
                more: h.more_fragments,
                data: rest[..length].to_vec(),
            })
        }
        [0x86, 0xdd] => {
            let (h, rest) = Ipv6Header::from_slice(ip).expect("a header");
            let mut rest = &rest[..usize::from(h.payload_length)];
            let (mut proto, mut offset, mut more) = (h.next_header.0, 0, false);
            if proto == FRAGMENT {
                let (f, after) = Ipv6FragmentHeader::from_slice(rest).expect("a header");
                (proto, offset, more, rest) =
                    (f.next_header.0, usize::from(f.fragment_offset.value()) * 8, f.more_fragments, after);
            }
            let (src, dst) = (h.source.into(), h.destination.into());
            Some(Piece { src, dst, proto, class: h.traffic_class, offset, more, data: rest.to_vec() })
        }
        _ => None,
    }
}

/// Waits for all of a packet, and puts it together; with whom it came from.
fn collect(receiver: &Raw, packet: &Packet) -> Option<(Arrived, End)> {
    let (mut pieces, mut total) = (Vec::new(), None);
    while total.is_none_or(|total| pieces.iter().map(|p: &Piece| p.data.len()).sum::<usize>() < total) {
        let next = receiver.receive(LIMIT, |f| piece(f).filter(|p| p.proto == packet.proto))?;
        if !next.more {
            total = Some(next.offset + next.data.len());
        }
        pieces.push(next);
    }
    pieces.sort_by_key(|p| p.offset);
    let mut body: Vec<u8> = pieces.iter().flat_map(|p| p.data.iter().copied()).collect();
    let Piece { src, dst, proto, class, .. } = pieces[0];
    let at = if proto == TCP { 16 } else { 6 };
    let sum = (body[at..at + 2] != [0, 0])
        .then(|| fold(pseudo(src, dst, proto, body.len()) + words(&body)) == 0xffff);
    body[at..at + 2].fill(0);
    let port = u16::from_be_bytes([body[0], body[1]]);
    Some((Arrived { proto, class, rest: body.split_off(4), sum }, (src, port)))
}

fn pseudo(src: IpAddr, dst: IpAddr, proto: u8, length: usize) -> u32 {
    let bytes = |addr| match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    };
    words(&bytes(src)) + words(&bytes(dst)) + u32::from(proto) + length as u32
}

fn words(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|b| u32::from(b[0]) << 8 | b.get(1).map_or(0, |low| u32::from(*low))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[test]
fn the_backend_and_the_client_see_what_they_see_with_the_kernels_own_translation() {
    if proc::which("nft").is_none() {
        eprintln!("not run: nftables is not installed");
        return;
    }
    let Some(wire) = Wire::new("nf") else { return };
    let mut node = wire.node('a', false);
    node.set_lease(owner());
    wire.nftables('b');
    let (client, backend) = (wire.raw('c'), wire.raw('s'));
    let mut port = 40_000;
    for family in FAMILIES {
        for (name, packets) in sessions(family) {
            port += 1;
            let way = |node, addr| Way { client: &client, backend: &backend, family, node, addr, port };
            let ours = way(wire.mac('a'), family.vip()).play(&packets);
            let theirs = way(wire.mac('b'), wire.own('b', family)).play(&packets);
            for (i, ((ours, theirs), sent)) in ours.iter().zip(&theirs).zip(&packets).enumerate() {
                assert_eq!(ours, theirs, "{family:?}, {name}: packet {i} of the {:?}", sent.from);
                let arrived =
                    ours.as_ref().unwrap_or_else(|| panic!("{family:?}, {name}: packet {i} is lost"));
                let mut rest = sent.rest.clone();
                let at = if sent.proto == TCP { 12 } else { 2 };
                rest[at..at + 2].fill(0);
                assert_eq!(arrived.rest, rest, "{family:?}, {name}: packet {i}");
                assert_eq!(arrived.sum, (!sent.unsummed).then_some(true), "{family:?}, {name}: packet {i}");
            }
        }
    }
    // Nor does anything else come of it.
    assert!(client.receive(SILENCE, |f| piece(f).filter(|p| matches!(p.proto, TCP | UDP))).is_none());
}
