//! Every mode, family and hook end to end: 20 MB of TCP both ways and datagrams between namespaces, no checksum errors; and
//! a table of it all with a pass or the reason in every cell. Lines that begin with `matrix` are shown by `cargo xtask test`.
//!
//! A mode is a word in `MODES` and what `prepare` does for it. The programs run by themselves, on one leg: client, node and
//! backend share a switch.

use std::net::SocketAddr;

use aya::util::KernelVersion;
use lb_common::{fast::Left, mode::Mode, reason::Reason};
use lb_tests::{
    decapsulator,
    foreign::{self, Foreign},
    packets::{FAMILIES, Family, PORT},
    proc,
    wire::{Node, Wire, traffic::owner},
};
use lb_userspace::{config::model::Hook, datapath::counters};

/// Each mode, and whether client and backend are of different families. `dnat` and `dsr` keep the packet's addresses, and with
/// them its family.
const MODES: [(Mode, bool); 6] = [
    (Mode::Nat, false),
    (Mode::Dnat, false),
    (Mode::Dsr, false),
    (Mode::Tunnel, false),
    (Mode::Tunnel, true),
    (Mode::Nat, true),
];
const HOOKS: [(&str, Hook); 4] =
    [("tcx", Hook::Tcx), ("clsact", Hook::Clsact), ("xdp", Hook::Xdp), ("xdp-generic", Hook::XdpGeneric)];
/// Hosts whose checksum offloads are switched off. Offloaded frames carry unfinished checksums; without offload on the node,
/// they are finished and verified behind it; without it everywhere, they are finished before.
const OFFLOADS: [(&str, &[char]); 3] =
    [("offloads", &[]), ("mixed", &['a', 's']), ("plain", &['c', 's', 'a'])];
/// A smaller transfer does not notice a connection that stalls on offloaded segments.
const BULK: usize = 20 << 20;

/// Makes the backend fit for the mode; what must live as long as it shall be.
fn prepare(wire: &Wire, mode: Mode) -> Option<Foreign> {
    let backend = wire.host('s');
    match mode {
        Mode::Nat => {}
        Mode::Local => unreachable!("has no backend: packet_reach and reach show it"),
        // The node is the gateway to the client, though that is on the same switch.
        Mode::Dnat => backend
            .ip_batch("route add 172.18.0.100 via 172.18.0.7\nroute add fd12::100 via fd12::7\n")
            .unwrap(),
        Mode::Dsr | Mode::Tunnel => {
            for (key, value) in [("arp_ignore", "1"), ("arp_announce", "2")] {
                backend.sysctl(&format!("net/ipv4/conf/all/{key}"), value).unwrap();
            }
            for (family, prefix) in FAMILIES.into_iter().zip([32, 128]) {
                backend.ip(&format!("addr add {}/{prefix} dev lo", family.vip())).unwrap();
            }
        }
    }
    let unpack = || decapsulator::attach(nix::net::if_::if_nametoindex("eth0").expect("eth0"));
    (mode == Mode::Tunnel).then(|| backend.run(unpack).unwrap().expect("a program"))
}

/// TCP and UDP through the virtual address; the backend sees whom the mode says.
fn go_through(wire: &Wire, (mode, crossed): (Mode, bool), family: Family) {
    let other = if family == Family::V4 { Family::V6 } else { Family::V4 };
    let (listens, seen) = match mode {
        // The node's own address.
        Mode::Nat if crossed => (other.backend(0), other.backend(5)),
        Mode::Nat => (family.backend(0), family.vip()),
        Mode::Dnat => (family.backend(0), family.client()),
        Mode::Dsr | Mode::Tunnel | Mode::Local => (family.vip(), family.client()),
    };
    let at = SocketAddr::new(listens, PORT);
    assert_eq!(wire.bulk(family, at, BULK), seen, "{mode:?} {family:?}");
    assert_eq!(wire.datagrams(family, at, &[0, 1, 2, 333, 1400]), seen, "{mode:?} {family:?}");
}

/// Packets that XDP sent on.
fn sent_by_xdp(node: &mut Node) -> u64 {
    counters::fast(node.kernel().tables.maps()).expect("counters").0
}

/// The hook that TC has on this kernel: links since Linux 6.6.
fn tc() -> &'static str {
    let links = KernelVersion::current().expect("a version") >= KernelVersion::new(6, 6, 0);
    if links { "tcx" } else { "clsact" }
}

/// All cells of a hook.
fn cells((name, hook): (&str, Hook)) {
    if hook == Hook::Tcx && tc() != "tcx" {
        println!("matrix  {:20} not run: this kernel has no tcx", "all by tcx");
        return;
    }
    println!("matrix  local  both  {name:12} not run: no backend on a wire; packet_reach and reach show it");
    for way @ (mode, crossed) in MODES {
        let short = name.replace('-', "");
        let Some(wire) = Wire::new(&format!("{}{short}{}", mode.word(), u8::from(crossed))) else { return };
        wire.forwarding('a');
        let _unpacks = prepare(&wire, mode);
        // XDP_TX on a veth arrives only where its peer has a program, too.
        let _peer = (hook == Hook::Xdp).then(|| attach(&wire, foreign::Hook::Xdp));
        let mut node = wire.node_between('a', false, hook, way);
        let attached = node.kernel().attached[0].clone();
        assert_eq!(attached.hook, name, "{}", attached.why);
        node.set_lease(owner());
        for (offload, without) in OFFLOADS {
            without.iter().for_each(|host| wire.without_offload(*host));
            for family in FAMILIES {
                forget_sizes(&wire);
                let before = (wire.checksum_errors(), sent_by_xdp(&mut node), node.counted(Reason::TooBig));
                go_through(&wire, way, family);
                let to = if crossed { "other" } else { "same" };
                let cell = format!("{:6} {family:?} to {to:5}  {name:12} {offload:9}", mode.word());
                assert_eq!(wire.checksum_errors(), before.0, "{cell}: checksum errors");
                let sent = sent_by_xdp(&mut node) - before.1;
                if mode == Mode::Tunnel {
                    // The client's first full segments do not fit, and it is told.
                    assert!(node.counted(Reason::TooBig) > before.2, "{cell}: nothing was too big");
                }
                if offload == "plain" && name.starts_with("xdp") && !mode.is_one_way() && !crossed {
                    // Two frames of a standard link's size in a thousand may go by TC.
                    assert!(sent > 2 * BULK as u64 / 1500, "{cell}: {sent} by XDP, {:?}", left(&mut node));
                }
                println!("matrix  {cell} pass ({sent} packets by XDP)");
            }
        }
        // Direct return means that no answer comes by here.
        assert_eq!(node.counted(Reason::Returned) == 0, mode.is_one_way(), "{mode:?}");
    }
}

/// Has the client forget what it was told of packet sizes.
fn forget_sizes(wire: &Wire) {
    for family in ["-4", "-6"] {
        let mut ip = std::process::Command::new("ip");
        ip.args(["-n", wire.host('c').name(), family, "route", "flush", "cache"]);
        proc::finish(&mut ip).expect("ip forgets");
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
    cells(HOOKS[0]);
}

#[test]
fn every_mode_and_family_by_clsact() {
    cells(HOOKS[1]);
}

#[test]
fn every_mode_and_family_by_xdp() {
    cells(HOOKS[2]);
}

#[test]
fn every_mode_and_family_by_generic_xdp() {
    cells(HOOKS[3]);
}

#[test]
fn the_self_test_notices_a_veth_that_loses_what_xdp_sends() {
    let Some(wire) = Wire::new("lost") else { return };
    wire.forwarding('a');
    let mut node = wire.node_with('a', false, Hook::Xdp, Mode::Nat);
    let attached = node.kernel().attached[0].clone();
    assert_eq!(attached.hook, tc(), "{}", attached.why);
    assert!(attached.why.contains("was lost on its way"), "{}", attached.why);
    node.set_lease(owner());
    go_through(&wire, (Mode::Nat, false), Family::V4);
}

#[test]
fn without_forwarding_there_is_no_xdp_and_the_reason_is_said() {
    let Some(wire) = Wire::new("fwd") else { return };
    wire.host('a').sysctl("net/ipv4/conf/eth0/forwarding", "0").unwrap();
    let mut node = wire.node_with('a', false, Hook::XdpGeneric, Mode::Nat);
    let attached = &node.kernel().attached[0];
    assert_eq!(attached.hook, tc());
    assert!(attached.why.contains("net.ipv4.conf.eth0.forwarding=1"), "{}", attached.why);
}

#[test]
fn somebody_elses_programs_stay_and_are_named() {
    if tc() != "tcx" {
        // Theirs are attached by links, too.
        eprintln!("not run: this kernel has no tcx");
        return;
    }
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
    go_through(&wire, (Mode::Nat, false), Family::V4);
    assert_eq!(node.counted(Reason::NewFlow), 2, "one of TCP, one of UDP");
    drop(node);
    let shown =
        std::process::Command::new("ip").args(["-n", wire.host('a').name(), "link", "show", "eth0"]).output();
    let shown = String::from_utf8(shown.expect("ip").stdout).expect("text");
    assert!(shown.contains(&format!("prog/xdp id {}", xdp.id())), "{shown}");
}
