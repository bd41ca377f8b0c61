//! Narrow links and big datagrams, with real sockets: path MTU discovery through the virtual address on either side, and
//! fragments both ways; frames of VLANs.

use std::{net::SocketAddr, thread, time::Duration};

use lb_common::reason::Reason;
use lb_tests::{
    packets::{Datagram, FAMILIES, Family, PORT},
    wire::{
        Wire,
        traffic::{LIMIT, owner},
    },
};

/// Many windows' worth.
const BULK: usize = 4 << 20;

/// Moves `host` behind a router, the host `b`: the router's link towards it takes packets of 1,300 bytes. (By a locked route:
/// an interface of that MTU would refuse what comes from the other end in silence.)
fn behind_router(wire: &Wire, host: char) {
    let (h, r) = (wire.host(host), wire.host('b'));
    let set = |space: &lb_tests::netns::Netns, lines: &str| space.ip_batch(lines).expect("routes");
    let number = if host == 'c' { 100 } else { 2 };
    set(&h, "link set eth0 down\naddr flush dev eth0\n");
    set(
        &h,
        &format!(
            "link add eth1 type veth peer name to-host netns {r}\naddr add 172.18.0.{number}/32 dev eth1\n\
             addr add fd12::{number}/128 dev eth1 nodad\nlink set eth1 up\n",
            r = r.name()
        ),
    );
    set(
        &r,
        &format!(
            "addr add 10.9.0.1/32 dev to-host\naddr add fd99::1/64 dev to-host nodad\nlink set to-host up\n\
             route add 172.18.0.{number}/32 dev to-host mtu lock 1300\n\
             route add fd12::{number}/128 dev to-host mtu lock 1300\n"
        ),
    );
    set(
        &h,
        &format!(
            "route add default via 10.9.0.1 dev eth1 onlink\naddr add fd99::2/64 dev eth1 nodad\n\
             route add ::/0 via fd99::1 dev eth1 src fd12::{number}\n"
        ),
    );
    let via =
        format!("route add 172.18.0.{number}/32 via 172.18.0.8\nroute add fd12::{number}/128 via fd12::8\n");
    set(&wire.host('a'), &via);
    r.run(|| {
        for (file, value) in [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")] {
            std::fs::write(format!("/proc/sys/net/{file}"), value).expect("a setting");
        }
    })
    .expect("the namespace");
}

/// Whether a narrow link on the way to `host` holds up nothing.
fn a_narrow_link_holds_up_nothing(test: &str, host: char) {
    let Some(wire) = Wire::new(test) else { return };
    let mut node = wire.node('a', false);
    node.set_lease(owner());
    behind_router(&wire, host);
    for family in FAMILIES {
        let before = node.counted(Reason::ErrorForwarded);
        // Both ways, which a black hole stops.
        wire.bulk(family, SocketAddr::new(family.backend(0), PORT), BULK);
        assert!(node.counted(Reason::ErrorForwarded) > before, "{family:?}: the link was not narrow");
    }
    assert_eq!(node.counted(Reason::ErrorOutsideWindow), 0);
}

#[test]
fn a_narrow_link_towards_the_client_makes_the_backends_segments_smaller() {
    a_narrow_link_holds_up_nothing("mc", 'c');
}

#[test]
fn a_narrow_link_towards_the_backend_makes_the_clients_segments_smaller() {
    a_narrow_link_holds_up_nothing("ms", 's');
}

#[test]
fn datagrams_in_fragments_come_back_whole() {
    let Some(wire) = Wire::new("fr") else { return };
    let mut node = wire.node('a', false);
    node.set_lease(owner());
    for without in [&[][..], &['c', 's', 'a']] {
        without.iter().for_each(|host| wire.without_offload(*host));
        for family in FAMILIES {
            // The first opens the flow; 65,000 bytes are 44 fragments.
            let at = SocketAddr::new(family.backend(0), PORT);
            assert_eq!(wire.datagrams(family, at, &[4000, 1473, 65_000]), family.vip());
        }
    }
    assert_eq!(node.counted(Reason::Fragment), 0);
}

/// Sends a frame as it is from the client's interface.
fn sends_raw(frame: &[u8]) {
    use std::os::fd::AsRawFd;
    let ifindex = nix::net::if_::if_nametoindex("eth0").expect("eth0");
    let socket = socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::RAW, None).expect("a socket");
    // SAFETY: all zero is valid.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_ifindex = ifindex as i32;
    // SAFETY: an open socket, and lengths of what is pointed to.
    let sent = unsafe {
        let to = (&raw const to).cast();
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            to,
            size_of::<libc::sockaddr_ll>() as u32,
        )
    };
    assert_eq!(sent, frame.len() as isize, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_frame_of_a_vlan_is_left_to_the_vlans_own_interface() {
    let Some(wire) = Wire::new("vl") else { return };
    let mut node = wire.node('a', false);
    node.set_lease(owner());
    let mut frame = Datagram::of(Family::V4, 40_000).frame();
    frame[..6].copy_from_slice(&wire.mac('a').0);
    for (tag, reason) in [(100u16, Reason::VlanTagged), (0xe000, Reason::NewFlow)] {
        let mut tagged = frame.clone();
        tagged.splice(12..12, [0x81, 0, tag.to_be_bytes()[0], tag.to_be_bytes()[1]]);
        wire.host('c').run(|| sends_raw(&tagged)).unwrap();
        let until = std::time::Instant::now() + LIMIT;
        while node.counted(reason) == 0 {
            assert!(std::time::Instant::now() < until, "{reason:?} was not counted");
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(node.counted(Reason::NewFlow), u64::from(reason == Reason::NewFlow));
    }
}

#[test]
fn a_way_that_becomes_narrower_makes_the_clients_segments_smaller() {
    let Some(wire) = Wire::new("mn") else { return };
    let mut node = wire.node('a', false);
    node.set_lease(owner());
    for (family, mtu) in FAMILIES.into_iter().zip([1400, 1300]) {
        let at = SocketAddr::new(family.backend(0), PORT);
        let before = node.counted(Reason::TooBig);
        wire.bulk(family, at, BULK);
        assert_eq!(node.counted(Reason::TooBig), before, "{family:?}: all of it fits");
        node.narrow(mtu);
        wire.bulk(family, at, BULK);
        assert!(node.counted(Reason::TooBig) > before, "{family:?}: the way is not narrow");
        node.narrow(1500);
    }
    assert_eq!(wire.checksum_errors(), 0);
}
