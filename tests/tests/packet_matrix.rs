//! Every mode, family and hook end to end: 20 MB of TCP both ways and datagrams between namespaces, no checksum errors; and
//! a table of it all with a pass or the reason in every cell. Lines that begin with `matrix` are shown by `cargo xtask test`.
//!
//! A mode is one line of `MODES`. The programs run by themselves, on one leg: client, node and backend share a switch.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use lb_common::{fast::Left, lease::Lease, mode::Mode, reason::Reason};
use lb_tests::{
    foreign::{self, Foreign},
    packets::{FAMILIES, Family, PORT},
    wire::{Node, Wire},
};
use lb_userspace::{config::model::Hook, datapath::counters};

/// Sets a mode up and runs one cell of it.
type Run = fn(&Wire, &mut Node, Family);

const MODES: [(&str, Run); 1] = [("nat", nat)];
const HOOKS: [(&str, Hook); 4] =
    [("tcx", Hook::Tcx), ("clsact", Hook::Clsact), ("xdp", Hook::Xdp), ("xdp-generic", Hook::XdpGeneric)];
const LIMIT: Duration = Duration::from_secs(20);
/// A smaller transfer does not notice a connection that stalls on offloaded segments.
const BULK: usize = 20 << 20;

fn owner() -> Lease {
    Lease { until: u64::MAX, term: 1, ..Lease::default() }
}

fn nat(wire: &Wire, _: &mut Node, family: Family) {
    bulk(wire, family);
    datagrams(wire, family);
}

fn bulk(wire: &Wire, family: Family) {
    let at = SocketAddr::new(family.backend(0), PORT);
    let listener = wire.host('s').run(|| TcpListener::bind(at)).unwrap().expect("bind");
    let backend = thread::spawn(move || {
        let (mut connection, _) = listener.accept().expect("accept");
        let mut data = vec![0; BULK];
        connection.read_exact(&mut data).expect("data of the client");
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

fn datagrams(wire: &Wire, family: Family) {
    let open = |host, at| {
        let socket = wire.host(host).run(|| UdpSocket::bind(at)).unwrap().expect("bind");
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket
    };
    let backend = open('s', SocketAddr::new(family.backend(0), PORT));
    let client = open('c', SocketAddr::new(family.client(), 0));
    client.connect(SocketAddr::new(family.vip(), PORT)).expect("connect");
    for length in [0, 1, 2, 333, 1400] {
        let data: Vec<u8> = (0..length).map(|i| i as u8).collect();
        client.send(&data).expect("send");
        let mut buffer = [0; 2000];
        let (n, from) = backend.recv_from(&mut buffer).expect("a datagram of the client");
        assert_eq!(buffer[..n], data);
        backend.send_to(&data, from).expect("send");
        let n = client.recv(&mut buffer).expect("a datagram of the backend");
        assert_eq!(buffer[..n], data);
    }
}

/// `InCsumErrors` of TCP and UDP in both families, of client and backend together.
fn checksum_errors(wire: &Wire) -> u64 {
    let read = || {
        let v4 = fs::read_to_string("/proc/thread-self/net/snmp").expect("snmp");
        let v6 = fs::read_to_string("/proc/thread-self/net/snmp6").expect("snmp6");
        let mut lines = v4.lines();
        let mut sum = 0;
        while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
            let pairs = names.split(' ').zip(values.split(' '));
            sum += pairs
                .filter(|(n, _)| *n == "InCsumErrors")
                .map(|(_, v)| v.parse::<u64>().unwrap())
                .sum::<u64>();
        }
        let six = v6.lines().filter(|l| l.contains("InCsumErrors"));
        sum + six.map(|l| l.split_whitespace().last().unwrap().parse::<u64>().unwrap()).sum::<u64>()
    };
    ['c', 's'].map(|host| wire.host(host).run(read).unwrap()).iter().sum()
}

/// Packets that XDP sent on.
fn sent_by_xdp(node: &mut Node) -> u64 {
    counters::fast(node.kernel().tables.maps()).expect("counters").0
}

fn cells(name: &str, hook: Hook) {
    let Some(wire) = Wire::new(&name.replace('-', "")) else { return };
    wire.forwarding('a');
    // XDP_TX on a veth arrives only where its peer has a program, too.
    let _peer = (hook == Hook::Xdp).then(|| attach(&wire, foreign::Hook::Xdp));
    let mut node = wire.node_with('a', false, hook, Mode::Nat);
    let attached = node.kernel().attached[0].clone();
    assert_eq!(attached.hook, name, "{}", attached.why);
    node.set_lease(owner());
    for offload in ["offloads", "plain"] {
        if offload == "plain" {
            wire.without_offload('c');
            wire.without_offload('s');
        }
        for (mode, run) in MODES {
            for family in FAMILIES {
                let before = (checksum_errors(&wire), sent_by_xdp(&mut node));
                run(&wire, &mut node, family);
                assert_eq!(checksum_errors(&wire), before.0, "{mode} {family:?} {name} {offload}");
                let sent = sent_by_xdp(&mut node) - before.1;
                if offload == "plain" && name.starts_with("xdp") {
                    // Two frames of a standard link's size in a thousand may go by TC.
                    assert!(sent > 2 * BULK as u64 / 1500, "{sent} packets by XDP: {:?}", left(&mut node));
                }
                println!("matrix  {mode:6} {family:?}  {name:12} {offload:9} pass ({sent} packets by XDP)");
            }
        }
    }
}

fn left(node: &mut Node) -> Vec<(Left, u64)> {
    counters::fast(node.kernel().tables.maps()).expect("counters").1
}

fn attach(wire: &Wire, hook: foreign::Hook) -> Foreign {
    let on = || Foreign::attach(nix::net::if_::if_nametoindex("to-a").expect("to-a"), hook);
    wire.switch().run(on).unwrap().expect("a program")
}

#[test]
fn every_mode_and_family_by_tcx() {
    cells(HOOKS[0].0, HOOKS[0].1);
}

#[test]
fn every_mode_and_family_by_clsact() {
    cells(HOOKS[1].0, HOOKS[1].1);
}

#[test]
fn every_mode_and_family_by_xdp() {
    cells(HOOKS[2].0, HOOKS[2].1);
}

#[test]
fn every_mode_and_family_by_generic_xdp() {
    cells(HOOKS[3].0, HOOKS[3].1);
}

#[test]
fn the_self_test_notices_a_veth_that_loses_what_xdp_sends() {
    let Some(wire) = Wire::new("lost") else { return };
    wire.forwarding('a');
    let mut node = wire.node_with('a', false, Hook::Xdp, Mode::Nat);
    let attached = node.kernel().attached[0].clone();
    assert_eq!(attached.hook, "tcx", "{}", attached.why);
    assert!(attached.why.contains("was lost on its way"), "{}", attached.why);
    node.set_lease(owner());
    datagrams(&wire, Family::V4);
}

#[test]
fn without_forwarding_there_is_no_xdp_and_the_reason_is_said() {
    let Some(wire) = Wire::new("fwd") else { return };
    wire.host('a').sysctl("net/ipv4/conf/eth0/forwarding", "0").unwrap();
    let mut node = wire.node_with('a', false, Hook::XdpGeneric, Mode::Nat);
    let attached = &node.kernel().attached[0];
    assert_eq!(attached.hook, "tcx");
    assert!(attached.why.contains("net.ipv4.conf.eth0.forwarding=1"), "{}", attached.why);
}

#[test]
fn somebody_elses_programs_stay_and_are_named() {
    let Some(wire) = Wire::new("alien") else { return };
    wire.forwarding('a');
    let on = |hook| {
        let attach = || Foreign::attach(nix::net::if_::if_nametoindex("eth0").expect("eth0"), hook);
        wire.host('a').run(attach).unwrap().expect("a program")
    };
    let (xdp, _first, _last) =
        (on(foreign::Hook::Xdp), on(foreign::Hook::TcxFirst), on(foreign::Hook::TcxLast));
    let mut node = wire.node_with('a', false, Hook::Xdp, Mode::Nat);
    let attached = node.kernel().attached[0].clone();
    assert_eq!(attached.hook, "tcx");
    let named = format!("XDP program {} (foreign) is attached already", xdp.id());
    assert!(attached.why.contains(&named), "{}", attached.why);
    node.set_lease(owner());
    datagrams(&wire, Family::V4);
    let all = counters::reasons(node.kernel().tables.maps()).expect("counters");
    assert!(all.contains(&(Reason::NewFlow, 1)), "{all:?}");
    drop(node);
    let shown =
        std::process::Command::new("ip").args(["-n", wire.host('a').name(), "link", "show", "eth0"]).output();
    let shown = String::from_utf8(shown.expect("ip").stdout).expect("text");
    assert!(shown.contains(&format!("prog/xdp id {}", xdp.id())), "{shown}");
}
