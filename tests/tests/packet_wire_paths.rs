//! Narrow links and big datagrams, with real sockets: path MTU discovery through the virtual address on either side, and
//! fragments both ways; frames of VLANs.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use lb_common::{lease::Lease, reason::Reason};
use lb_tests::{
    packets::{Datagram, FAMILIES, Family, PORT},
    wire::{Node, Wire},
};
use lb_userspace::datapath::counters;

const LIMIT: Duration = Duration::from_secs(20);
/// Many windows' worth.
const BULK: usize = 4 << 20;

fn owner() -> Lease {
    Lease { until: u64::MAX, term: 1, ..Lease::default() }
}

fn counted(node: &mut Node, reason: Reason) -> u64 {
    let all = counters::reasons(node.kernel().tables.maps()).expect("counters");
    all.into_iter().find(|(r, _)| *r == reason).map_or(0, |(_, n)| n)
}

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

/// Bulk both ways, which a black hole stops.
fn bulk_comes_back_whole(wire: &Wire, family: Family) {
    let to = SocketAddr::new(family.backend(0), PORT);
    let listener = wire.host('s').run(|| TcpListener::bind(to)).unwrap().expect("bind");
    let backend = thread::spawn(move || {
        let (mut connection, _) = listener.accept().expect("accept");
        connection.set_read_timeout(Some(LIMIT)).unwrap();
        let mut data = vec![0; BULK];
        connection.read_exact(&mut data).expect("data of the client");
        connection.set_write_timeout(Some(LIMIT)).unwrap();
        connection.write_all(&data).expect("data for the client");
    });
    let connect = || TcpStream::connect_timeout(&SocketAddr::new(family.vip(), PORT), LIMIT);
    let mut connection = wire.host('c').run(connect).unwrap().expect("a connection");
    connection.set_read_timeout(Some(LIMIT)).unwrap();
    connection.set_write_timeout(Some(LIMIT)).unwrap();
    let sent: Vec<u8> = (0..BULK).map(|i| (i * 7 + i / 251) as u8).collect();
    connection.write_all(&sent).expect("data for the backend");
    let mut back = vec![0; BULK];
    connection.read_exact(&mut back).expect("data of the backend");
    assert!(back == sent, "{family:?}: other bytes came back");
    backend.join().unwrap();
}

/// Whether a narrow link on the way to `host` holds up nothing.
fn a_narrow_link_holds_up_nothing(test: &str, host: char) {
    let Some(wire) = Wire::new(test) else { return };
    let mut node = wire.node('a', false);
    node.set_lease(owner());
    behind_router(&wire, host);
    for family in FAMILIES {
        let before = counted(&mut node, Reason::ErrorForwarded);
        bulk_comes_back_whole(&wire, family);
        assert!(counted(&mut node, Reason::ErrorForwarded) > before, "{family:?}: the link was not narrow");
    }
    assert_eq!(counted(&mut node, Reason::ErrorOutsideWindow), 0);
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
            let open = |host, at| {
                let socket = wire.host(host).run(|| UdpSocket::bind(at)).unwrap().expect("bind");
                socket.set_read_timeout(Some(LIMIT)).unwrap();
                socket
            };
            let backend = open('s', SocketAddr::new(family.backend(0), PORT));
            let client = open('c', SocketAddr::new(family.client(), 0));
            client.connect(SocketAddr::new(family.vip(), PORT)).expect("connect");
            // The first opens the flow; 65,000 bytes are 44 fragments.
            for length in [4000usize, 1473, 65_000] {
                let data: Vec<u8> = (0..length).map(|i| (i * 7 + i / 251) as u8).collect();
                client.send(&data).expect("send");
                let mut buffer = vec![0; 70_000];
                let (n, from) = backend.recv_from(&mut buffer).expect("a datagram of the client");
                assert!(buffer[..n] == data && from.ip() == family.vip(), "{family:?}, {length} bytes");
                backend.send_to(&data, from).expect("send");
                let n = client.recv(&mut buffer).expect("a datagram of the backend");
                assert!(buffer[..n] == data, "{family:?}, {length} bytes");
            }
        }
    }
    assert_eq!(counted(&mut node, Reason::Fragment), 0);
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
        while counted(&mut node, reason) == 0 {
            assert!(std::time::Instant::now() < until, "{reason:?} was not counted");
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(counted(&mut node, Reason::NewFlow), u64::from(reason == Reason::NewFlow));
    }
}
