//! Golden frames captured from keepalived 2.2.7 and FRR 8.4.4, one refusal per check and family, and arbitrary bytes.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::config::model::{Garp, Preempt, Transport, UnicastPeer, VirtualAddress};

const ETHERNET_LEN: usize = 14;
const ADVERT: &str = include_str!("../../../../tests/fixtures/vrrp/keepalived-v2-pass-advert.hex");
const LEAVE: &str = include_str!("../../../../tests/fixtures/vrrp/keepalived-v2-pass-leave.hex");
const ADVERT_V3: &str = include_str!("../../../../tests/fixtures/vrrp/keepalived-v3-advert.hex");

const LEAVE_V3: &str = include_str!("../../../../tests/fixtures/vrrp/keepalived-v3-leave.hex");
const ADVERT_IPV6: &str = include_str!("../../../../tests/fixtures/vrrp/keepalived-v3-ipv6-advert.hex");
const LEAVE_IPV6: &str = include_str!("../../../../tests/fixtures/vrrp/keepalived-v3-ipv6-leave.hex");
const FRR_V3: &str = include_str!("../../../../tests/fixtures/vrrp/frr-v3-advert.hex");
const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 18, 0, 7));
const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 18, 0, 8));
const GROUP: IpAddr = IpAddr::V4(GROUP_V4);
const MESSAGE_AT: usize = ETHERNET_LEN + 20;

fn frame(hex: &str) -> Vec<u8> {
    hex.lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(str::split_whitespace)
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}

fn seed_router() -> Identity {
    Identity {
        version: Version::V2,
        vrid: 51,
        advert_int: Duration::from_secs(1),
        auth: Auth::Pass(AuthPass(*b"123456\0\0")),
        v3_checksum: V3Checksum::default(),
        addresses: vec![Ipv4Addr::new(172, 18, 0, 201).into()],
    }
}

/// The router of the version 3 captures: 100 ms.
fn v3_router(v3_checksum: V3Checksum) -> Identity {
    let advert_int = Duration::from_millis(100);
    Identity { version: Version::V3, advert_int, auth: Auth::None, v3_checksum, ..seed_router() }
}

fn v3() -> Identity {
    v3_router(V3Checksum::PseudoHeader)
}

/// This node's way to all others.
fn multicast() -> Path {
    Path { local: LOCAL, transport: Transport::Multicast }
}

fn parse(identity: &Identity, datagram: &Datagram<'_>) -> Result<Advert, Refusal> {
    identity.parse(&multicast(), datagram)
}

fn parse_frame(identity: &Identity, frame: &[u8]) -> Result<Advert, Refusal> {
    parse(identity, &Datagram::from_ipv4(&frame[ETHERNET_LEN..]).unwrap())
}

/// The message of an advert to the group.
fn emitted(identity: &Identity, priority: u8) -> Vec<u8> {
    emitted_datagram(identity, priority, SOURCE, GROUP)[20..].to_vec()
}

fn emitted_datagram(identity: &Identity, priority: u8, source: IpAddr, destination: IpAddr) -> Vec<u8> {
    let mut datagram = vec![0xa5; identity.datagram_len()];
    identity.emit(priority, source, destination, &mut datagram);
    datagram
}

/// The seed's advert with `change` made to its VRRP message and the checksum put right again.
fn altered(change: impl FnOnce(&mut Vec<u8>)) -> Result<Advert, Refusal> {
    let mut message = frame(ADVERT)[MESSAGE_AT..].to_vec();
    change(&mut message);
    if message.len() >= HEADER_LEN {
        message[field::CHECKSUM].fill(0);
        let sum = checksum::plain(&message);
        message[field::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
    }
    parse(&seed_router(), &received(&message))
}

/// keepalived's version 3 advert with `change` made to its VRRP message and the checksum put right again.
fn altered_v3(change: impl FnOnce(&mut Vec<u8>)) -> Result<Advert, Refusal> {
    let mut message = frame(ADVERT_V3)[MESSAGE_AT..].to_vec();
    change(&mut message);
    if message.len() >= HEADER_LEN {
        message[field::CHECKSUM].fill(0);
        let sum = checksum::with_pseudo_header(SOURCE, GROUP, PROTOCOL, &message);
        message[field::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
    }
    parse(&v3(), &received(&message))
}

fn received(payload: &[u8]) -> Datagram<'_> {
    Datagram { source: SOURCE, destination: GROUP, ttl: TTL, payload }
}

/// The router of the IPv6 captures: two addresses, 100 ms.
fn ipv6() -> Identity {
    let address = |last| IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last));
    Identity { addresses: vec![address(0x201), address(0x202)], ..v3() }
}

/// The node beside the one of the IPv6 captures.
fn ipv6_path(transport: Transport) -> Path {
    Path { local: "fe80::2".parse().unwrap(), transport }
}

/// What a raw socket and its control messages tell of a captured IPv6 frame.
fn received_v6(frame: &[u8]) -> Datagram<'_> {
    let address = |at: usize| Ipv6Addr::from(*frame[ETHERNET_LEN + at..].first_chunk::<16>().unwrap()).into();
    let (source, destination, payload) = (address(8), address(24), &frame[ETHERNET_LEN + 40..]);
    Datagram { source, destination, ttl: frame[ETHERNET_LEN + 7], payload }
}

fn parse_v6(datagram: &Datagram<'_>) -> Result<Advert, Refusal> {
    ipv6().parse(&ipv6_path(Transport::Multicast), datagram)
}

/// keepalived's IPv6 advert with `change` made to its VRRP message and the checksum put right again.
fn altered_v6(change: impl FnOnce(&mut Vec<u8>)) -> Result<Advert, Refusal> {
    let frame = frame(ADVERT_IPV6);
    let good = received_v6(&frame);
    let mut message = good.payload.to_vec();
    change(&mut message);
    if message.len() >= HEADER_LEN {
        message[field::CHECKSUM].fill(0);
        let sum = checksum::with_pseudo_header(good.source, good.destination, PROTOCOL, &message);
        message[field::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
    }
    parse_v6(&Datagram { payload: &message, ..good })
}

/// A peer at `SOURCE` whose adverts may have crossed up to `hops` routers.
fn peer(hops: u8) -> Transport {
    Transport::Unicast(vec![UnicastPeer { addr: SOURCE, min_ttl: TTL - hops, max_ttl: TTL }])
}

#[test]
fn keepaliveds_advert_deconstructs() {
    let frame = frame(ADVERT);
    let datagram = Datagram::from_ipv4(&frame[ETHERNET_LEN..]).unwrap();
    assert_eq!(datagram.source, SOURCE);
    assert_eq!(datagram.vrid(), Some(51));
    let advert = parse(&seed_router(), &datagram).unwrap();
    assert_eq!(advert, Advert { priority: 101, interval: Duration::from_secs(1) });
}

#[test]
fn keepaliveds_farewell_deconstructs_to_priority_zero() {
    assert_eq!(parse_frame(&seed_router(), &frame(LEAVE)).unwrap().priority, PRIORITY_LEAVING);
}

#[test]
fn our_advert_constructs_keepaliveds_bytes() {
    for (capture, priority) in [(ADVERT, 101), (LEAVE, 0)] {
        assert_eq!(emitted(&seed_router(), priority), frame(capture)[MESSAGE_AT..]);
    }
}

#[test]
fn without_authentication_the_eight_bytes_are_sent_as_zero() {
    let identity = Identity { auth: Auth::None, ..seed_router() };
    let buffer = emitted(&identity, 100);
    assert_eq!((buffer.len(), buffer[field::AUTH_TYPE], &buffer[12..]), (20, 0, &[0; 8][..]));
    assert_eq!(parse(&identity, &received(&buffer)).unwrap().priority, 100);
}

#[test]
fn each_check_has_its_own_refusal() {
    assert_eq!(parse_frame(&seed_router(), &frame(ADVERT_V3)), Err(Refusal::Version));
    assert_eq!(altered(|m| m[0] = 0x22), Err(Refusal::Type));
    assert_eq!(altered(|m| m.truncate(7)), Err(Refusal::Length));
    assert_eq!(altered(|m| m.truncate(19)), Err(Refusal::Length));
    assert_eq!(altered(|m| m.push(0)), Err(Refusal::Length));
    assert_eq!(altered(|m| m[1] = 52), Err(Refusal::Vrid));
    assert_eq!(altered(|m| m[4] = 0), Err(Refusal::AuthType));
    assert_eq!(altered(|m| m[12] = b'x'), Err(Refusal::Password));
    assert_eq!(altered(|m| m[5] = 2), Err(Refusal::Interval));
    assert_eq!(altered(|m| m[11] = 202), Err(Refusal::Addresses));
    assert_eq!(altered(|m| m[5] = 0), Err(Refusal::ZeroInterval));
    let no_address = altered(|m| {
        m[3] = 0;
        m.drain(8..12);
    });
    assert_eq!(no_address, Err(Refusal::NoAddress));
}

#[test]
fn keepaliveds_and_frrs_version_3_adverts_deconstruct() {
    for capture in [ADVERT_V3, FRR_V3] {
        let expected = Advert { priority: 101, interval: Duration::from_millis(100) };
        assert_eq!(parse_frame(&v3(), &frame(capture)), Ok(expected));
    }
    assert_eq!(parse_frame(&v3(), &frame(LEAVE_V3)).unwrap().priority, PRIORITY_LEAVING);
}

#[test]
fn our_version_3_advert_constructs_keepaliveds_and_frrs_bytes() {
    for (capture, priority) in [(ADVERT_V3, 101), (FRR_V3, 101), (LEAVE_V3, 0)] {
        assert_eq!(emitted(&v3(), priority), frame(capture)[MESSAGE_AT..]);
    }
}

#[test]
fn the_version_3_checksum_is_taken_with_and_without_the_pseudo_header_and_sent_as_set() {
    let mut sums = Vec::new();
    for sent in [V3Checksum::PseudoHeader, V3Checksum::Plain] {
        let buffer = emitted(&v3_router(sent), 101);
        for set in [V3Checksum::PseudoHeader, V3Checksum::Plain] {
            assert!(parse(&v3_router(set), &received(&buffer)).is_ok(), "sent {sent:?}, set to {set:?}");
        }
        sums.push(buffer[field::CHECKSUM].to_vec());
    }
    assert_eq!(sums[0], [0x30, 0x3d]);
    assert_ne!(sums[0], sums[1]);
    let bytes = frame(ADVERT_V3);
    let forged = Datagram { source: LOCAL, ..received(&bytes[MESSAGE_AT..]) };
    assert_eq!(parse(&v3(), &forged), Err(Refusal::Checksum), "the pseudo-header counts");
}

#[test]
fn version_2_has_no_pseudo_header() {
    let mut message = frame(ADVERT)[MESSAGE_AT..].to_vec();
    message[field::CHECKSUM].fill(0);
    let sum = checksum::with_pseudo_header(SOURCE, GROUP, PROTOCOL, &message);
    message[field::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(parse(&seed_router(), &received(&message)), Err(Refusal::Checksum));
}

#[test]
fn each_check_of_version_3_has_its_own_refusal() {
    assert_eq!(parse_frame(&v3(), &frame(ADVERT)), Err(Refusal::Version));
    assert_eq!(altered_v3(|m| m[0] = 0x32), Err(Refusal::Type));
    assert_eq!(altered_v3(|m| m.truncate(7)), Err(Refusal::Length));
    assert_eq!(altered_v3(|m| m.truncate(11)), Err(Refusal::Length));
    assert_eq!(altered_v3(|m| m.push(0)), Err(Refusal::Length));
    assert_eq!(altered_v3(|m| m[1] = 52), Err(Refusal::Vrid));
    assert_eq!(altered_v3(|m| m[5] = 0), Err(Refusal::ZeroInterval));
    assert_eq!(altered_v3(|m| m[11] = 202), Err(Refusal::Addresses));
    let no_address = altered_v3(|m| {
        m[3] = 0;
        m.truncate(8);
    });
    assert_eq!(no_address, Err(Refusal::NoAddress));
    let bytes = frame(ADVERT_V3);
    let crossed = Datagram { ttl: 254, ..received(&bytes[MESSAGE_AT..]) };
    assert_eq!(parse(&v3(), &crossed), Err(Refusal::Ttl));
}

#[test]
fn in_version_3_another_interval_is_learnt_and_the_reserved_bits_are_ignored() {
    let learnt = |m: [u8; 2]| altered_v3(|bytes| bytes[4..6].copy_from_slice(&m)).unwrap().interval;
    assert_eq!(learnt([0x00, 0x01]), Duration::from_millis(10));
    assert_eq!(learnt([0x0f, 0xff]), Duration::from_millis(40_950));
    assert_eq!(learnt([0xf0, 0x0a]), Duration::from_millis(100));
}

#[test]
fn keepaliveds_ipv6_adverts_deconstruct() {
    let expected = Advert { priority: 101, interval: Duration::from_millis(100) };
    assert_eq!(parse_v6(&received_v6(&frame(ADVERT_IPV6))), Ok(expected));
    assert_eq!(parse_v6(&received_v6(&frame(LEAVE_IPV6))).unwrap().priority, PRIORITY_LEAVING);
}

#[test]
fn our_ipv6_advert_constructs_keepaliveds_bytes_but_for_the_flow_label() {
    for (capture, priority) in [(ADVERT_IPV6, 101), (LEAVE_IPV6, 0)] {
        let mut expected = frame(capture)[ETHERNET_LEN..].to_vec();
        expected[1] &= 0xf0;
        expected[2..4].fill(0);
        let source = received_v6(&frame(capture)).source;
        for set in [V3Checksum::PseudoHeader, V3Checksum::Plain] {
            let identity = Identity { v3_checksum: set, ..ipv6() };
            assert_eq!(emitted_datagram(&identity, priority, source, GROUP_V6.into()), expected, "{set:?}");
        }
    }
}

#[test]
fn each_check_of_an_ipv6_advert_has_its_own_refusal() {
    let frame = frame(ADVERT_IPV6);
    let good = received_v6(&frame);
    assert_eq!(parse_v6(&Datagram { ttl: 254, ..good }), Err(Refusal::Ttl));
    assert_eq!(
        parse_v6(&Datagram { destination: "ff02::1".parse().unwrap(), ..good }),
        Err(Refusal::Destination)
    );
    assert_eq!(parse_v6(&Datagram { source: "fe80::9".parse().unwrap(), ..good }), Err(Refusal::Checksum));
    assert_eq!(altered_v6(|m| m[0] = 0x21), Err(Refusal::Version));
    assert_eq!(altered_v6(|m| m[0] = 0x32), Err(Refusal::Type));
    assert_eq!(altered_v6(|m| m.truncate(7)), Err(Refusal::Length));
    assert_eq!(altered_v6(|m| m.truncate(39)), Err(Refusal::Length));
    assert_eq!(altered_v6(|m| m[3] = 8), Err(Refusal::Length), "as many addresses of IPv4 would fit");
    assert_eq!(altered_v6(|m| m[1] = 52), Err(Refusal::Vrid));
    assert_eq!(altered_v6(|m| m[5] = 0), Err(Refusal::ZeroInterval));
    assert_eq!(altered_v6(|m| m[39] = 9), Err(Refusal::Addresses));
    let no_address = altered_v6(|m| {
        m[3] = 0;
        m.truncate(8);
    });
    assert_eq!(no_address, Err(Refusal::NoAddress));
}

#[test]
fn over_ipv6_a_checksum_without_the_pseudo_header_is_a_bad_one() {
    let frame = frame(ADVERT_IPV6);
    let good = received_v6(&frame);
    let mut message = good.payload.to_vec();
    message[field::CHECKSUM].fill(0);
    let sum = checksum::plain(&message);
    message[field::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(parse_v6(&Datagram { payload: &message, ..good }), Err(Refusal::Checksum));
}

#[test]
fn an_advert_of_the_address_owner_is_believed_whatever_addresses_it_lists() {
    let owners = |m: &mut Vec<u8>| (m[2], m[11]) = (255, 202);
    assert_eq!(altered(owners).unwrap().priority, 255);
    assert_eq!(altered_v3(owners).unwrap().priority, 255);
    assert_eq!(emitted(&v3(), 255)[field::PRIORITY], 255);
}

#[test]
fn with_peers_only_theirs_to_our_own_address_are_believed_within_their_limits() {
    let sent = |to: IpAddr, from: IpAddr| emitted_datagram(&seed_router(), 101, from, to);
    let parse = |transport, datagram: &[u8], ttl| {
        let datagram = Datagram { ttl, ..Datagram::from_ipv4(datagram).unwrap() };
        seed_router().parse(&Path { local: LOCAL, transport }, &datagram).map(|advert| advert.priority)
    };
    let to_us = sent(LOCAL, SOURCE);
    assert_eq!(parse(peer(0), &to_us, 255), Ok(101));
    assert_eq!(parse(peer(0), &to_us, 254), Err(Refusal::Ttl));
    assert_eq!((parse(peer(1), &to_us, 254), parse(peer(1), &to_us, 253)), (Ok(101), Err(Refusal::Ttl)));
    let far = Transport::Unicast(vec![UnicastPeer { addr: SOURCE, min_ttl: 60, max_ttl: 64 }]);
    assert_eq!((parse(far.clone(), &to_us, 64), parse(far, &to_us, 65)), (Ok(101), Err(Refusal::Ttl)));
    let stranger = sent(LOCAL, IpAddr::from([172, 18, 0, 9]));
    assert_eq!(parse(peer(0), &stranger, 255), Err(Refusal::Source));
    assert_eq!(parse(peer(0), &sent(GROUP, SOURCE), 255), Err(Refusal::Destination));
    assert_eq!(parse(Transport::Multicast, &to_us, 255), Err(Refusal::Destination));
}

#[test]
fn each_peer_gets_an_advert_whose_checksum_is_for_it() {
    let peers = [LOCAL, IpAddr::from([172, 18, 0, 9])];
    let of = |addr| UnicastPeer { addr, min_ttl: TTL, max_ttl: TTL };
    let path = Path { local: SOURCE, transport: Transport::Unicast(peers.map(of).to_vec()) };
    assert!(path.destinations().eq(peers));
    for to in path.destinations() {
        let datagram = emitted_datagram(&v3(), 101, path.local, to);
        let back = Path { local: to, transport: peer(0) };
        assert!(v3().parse(&back, &Datagram::from_ipv4(&datagram).unwrap()).is_ok(), "{to}");
    }
}

#[test]
fn the_ip_header_is_keepaliveds_but_for_the_identification() {
    let mut expected = frame(ADVERT)[ETHERNET_LEN..MESSAGE_AT].to_vec();
    expected[4..6].fill(0);
    expected[10..12].fill(0);
    let sum = checksum::plain(&expected);
    expected[10..12].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(emitted_datagram(&seed_router(), 101, SOURCE, GROUP)[..20], expected);
}

#[test]
fn a_damaged_advert_is_refused() {
    let mut bytes = frame(ADVERT);
    bytes[MESSAGE_AT + field::PRIORITY] ^= 1;
    assert_eq!(parse_frame(&seed_router(), &bytes), Err(Refusal::Checksum));
}

#[test]
fn an_advert_that_crossed_a_router_or_was_sent_elsewhere_is_refused() {
    let bytes = frame(ADVERT);
    let good = received(&bytes[MESSAGE_AT..]);
    assert_eq!(parse(&seed_router(), &Datagram { ttl: 254, ..good }), Err(Refusal::Ttl));
    let unicast = Datagram { destination: LOCAL, ..good };
    assert_eq!(parse(&seed_router(), &unicast), Err(Refusal::Destination));
}

#[test]
fn a_peer_without_authentication_is_refused_as_keepalived_does() {
    let identity = Identity { auth: Auth::None, ..seed_router() };
    assert_eq!(parse_frame(&identity, &frame(ADVERT)), Err(Refusal::AuthType));
}

#[test]
fn the_order_of_addresses_does_not_matter_but_their_set_does() {
    let [a, b, c] = [201, 202, 203].map(|host| IpAddr::from([172, 18, 0, host]));
    let with = |addresses: &[IpAddr]| Identity { addresses: addresses.to_vec(), ..seed_router() };
    let sent = with(&[a, b]);
    let buffer = emitted(&sent, 100);
    assert!(parse(&with(&[b, a]), &received(&buffer)).is_ok());
    for other in [&[a, c][..], &[a], &[a, b, c]] {
        assert_eq!(parse(&with(other), &received(&buffer)), Err(Refusal::Addresses));
    }
}

#[test]
fn an_ipv6_list_in_another_order_or_without_a_link_local_address_is_believed() {
    let [local, global] = ["fe80::201", "fd00::201"].map(|address| address.parse::<IpAddr>().unwrap());
    let with = |addresses: &[IpAddr]| Identity { addresses: addresses.to_vec(), ..ipv6() };
    let source: IpAddr = "fe80::1".parse().unwrap();
    let path = ipv6_path(Transport::Multicast);
    for (sent, ours) in [(vec![global, local], vec![local, global]), (vec![global], vec![global])] {
        let datagram = emitted_datagram(&with(&sent), 100, source, GROUP_V6.into());
        let received = Datagram { source, destination: GROUP_V6.into(), ttl: TTL, payload: &datagram[40..] };
        assert!(with(&ours).parse(&path, &received).is_ok());
        assert_eq!(with(&[local]).parse(&path, &received), Err(Refusal::Addresses));
    }
}

#[test]
fn a_link_local_address_is_advertised_first_wherever_it_stands_in_the_file() {
    let listed = ["fd00::202", "fe80::201", "fd00::201"].map(|addr| VirtualAddress {
        addr: addr.parse().unwrap(),
        prefix_len: 128,
        dev: None,
    });
    let router = VirtualRouter {
        witness: false,
        name: "six".into(),
        interface: "eth0".into(),
        vrid: 51,
        priority: 100,
        version: Version::V3,
        advert_int: Duration::from_secs(1),
        v3_checksum: V3Checksum::default(),
        auth_pass: None,
        transport: Transport::Multicast,
        source: None,
        addresses: listed.to_vec(),
        track: Vec::new(),
        notify: Default::default(),
        excluded: Vec::new(),
        assign: true,
        virtual_mac: false,
        preempt: Preempt::NOW,
        lease: Duration::from_millis(2500),
        probe: None,
        garp: Garp::default(),
    };
    let advertised = Identity::from(&router).addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(advertised, ["fe80::201", "fd00::202", "fd00::201"]);
}

#[test]
fn refusals_are_numbered_by_their_place_in_the_list() {
    for (index, refusal) in Refusal::ALL.into_iter().enumerate() {
        assert_eq!(refusal as usize, index);
    }
}

#[test]
fn the_password_is_not_in_debug_output() {
    assert!(!format!("{:?}", seed_router()).contains("49"), "no byte of the password may be printed");
}

proptest! {
    #[test]
    fn no_input_makes_the_parser_panic_or_believe_what_it_should_not(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        any_bytes(&bytes);
    }

    #[test]
    fn no_change_of_an_advert_makes_the_parser_panic_or_believe_what_it_should_not(
        capture in proptest::sample::select(vec![(ADVERT, 20), (ADVERT_V3, 20), (ADVERT_IPV6, 40)]),
        at in 0_usize..16, byte: u8, whole_datagram: bool,
    ) {
        let (frame, header) = (frame(capture.0), capture.1);
        let mut bytes = frame[ETHERNET_LEN + if whole_datagram { 0 } else { header }..].to_vec();
        if let Some(slot) = bytes.get_mut(at) {
            *slot = byte;
        }
        any_bytes(&bytes);
    }

    #[test]
    fn damage_never_turns_into_an_advert(at in 0_usize..20, bit in 0_u8..8) {
        let mut bytes = frame(ADVERT);
        bytes[MESSAGE_AT + at] ^= 1 << bit;
        prop_assert!(parse_frame(&seed_router(), &bytes).is_err());
    }

    #[test]
    fn damage_never_turns_into_a_version_3_advert(at in 0_usize..12, bit in 0_u8..8) {
        let mut bytes = frame(ADVERT_V3);
        bytes[MESSAGE_AT + at] ^= 1 << bit;
        prop_assert!(parse_frame(&v3(), &bytes).is_err());
    }

    #[test]
    fn whatever_is_emitted_in_version_3_is_parsed_back(
        priority: u8, vrid in 1_u8.., centiseconds in 1_u32..=4095, plain: bool,
        addresses in proptest::collection::hash_set(any::<u32>().prop_map(|bits| Ipv4Addr::from(bits).into()), 1..20),
    ) {
        let identity = Identity {
            version: Version::V3, vrid, advert_int: Duration::from_millis(10) * centiseconds, auth: Auth::None,
            v3_checksum: if plain { V3Checksum::Plain } else { V3Checksum::PseudoHeader },
            addresses: addresses.into_iter().collect(),
        };
        let buffer = emitted(&identity, priority);
        let advert = parse(&identity, &received(&buffer)).unwrap();
        prop_assert_eq!(advert, Advert { priority, interval: identity.advert_int });
    }

    #[test]
    fn whatever_is_emitted_over_ipv6_is_parsed_back(
        priority: u8, vrid in 1_u8.., centiseconds in 1_u32..=4095, source: u128,
        addresses in proptest::collection::hash_set(any::<u128>(), 1..=MAX_IPV6_ADDRESSES),
    ) {
        let addresses = addresses.into_iter().map(|bits| Ipv6Addr::from(bits).into()).collect();
        let identity = Identity { vrid, advert_int: Duration::from_millis(10) * centiseconds, addresses, ..v3() };
        let source = Ipv6Addr::from(source).into();
        let datagram = emitted_datagram(&identity, priority, source, GROUP_V6.into());
        prop_assert!(datagram.len() <= 1280);
        let received = Datagram { source, destination: GROUP_V6.into(), ttl: datagram[7], payload: &datagram[40..] };
        let advert = identity.parse(&ipv6_path(Transport::Multicast), &received).unwrap();
        prop_assert_eq!(advert, Advert { priority, interval: identity.advert_int });
    }

    #[test]
    fn damage_never_turns_into_an_ipv6_advert(at in 0_usize..40, bit in 0_u8..8) {
        let mut bytes = frame(ADVERT_IPV6);
        bytes[ETHERNET_LEN + 40 + at] ^= 1 << bit;
        prop_assert!(parse_v6(&received_v6(&bytes)).is_err());
    }

    #[test]
    fn whatever_is_emitted_is_parsed_back(
        priority: u8, vrid in 1_u8.., seconds in 1_u64..=255, password: [u8; 8],
        addresses in proptest::collection::hash_set(any::<u32>().prop_map(|bits| Ipv4Addr::from(bits).into()), 1..20),
    ) {
        let identity = Identity {
            version: Version::V2, vrid, advert_int: Duration::from_secs(seconds),
            auth: Auth::Pass(AuthPass(password)), v3_checksum: V3Checksum::Plain,
            addresses: addresses.into_iter().collect(),
        };
        let buffer = emitted(&identity, priority);
        let advert = parse(&identity, &received(&buffer)).unwrap();
        prop_assert_eq!(advert, Advert { priority, interval: identity.advert_int });
    }
}
