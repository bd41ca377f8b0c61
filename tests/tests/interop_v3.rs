//! viplb's election in VRRP version 3 against keepalived and against itself, over real sockets in two namespaces.
//!
//! keepalived runs with its defaults, so its checksum has the pseudo-header. The intervals are short here: what is
//! waited for are three of them.

use std::{
    fs,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use lb_tests::vrrp_net::{
    Capture, Keepalived, Net, SECOND, TAKEOVER, VIP, Viplb, run, setup, setup_v3, wait_until,
};
use lb_userspace::vrrp::{
    Event, Reason, RouterSetup, State,
    packet::{Identity, Refusal, V3Checksum},
};

const FAST: Duration = Duration::from_millis(100);

fn keepalived(net: &Net, priority: u8, advert_int: &str) -> Keepalived {
    net.keepalived_with(priority, &format!("version 3\n advert_int {advert_int}"))
}

fn fast(priority: u8) -> RouterSetup {
    setup_v3(priority, FAST)
}

#[test]
fn viplb_of_higher_priority_preempts_keepalived_in_version_3() {
    let Some(net) = Net::new("3pre", &["keepalived"]) else { return };
    let keepalived = keepalived(&net, 100, "0.1");
    keepalived.wait_until_owner(true, TAKEOVER);
    let mut viplb = Viplb::start(&net.a, fast(101));
    assert_eq!(viplb.wait_entered(State::Master, TAKEOVER).0, Reason::Preempted);
    assert!(viplb.lease.is_held());
    keepalived.wait_until_owner(false, SECOND);
}

#[test]
fn keepalived_of_higher_priority_preempts_viplb_in_version_3() {
    let Some(net) = Net::new("3yield", &["keepalived"]) else { return };
    let mut viplb = Viplb::start(&net.a, fast(100));
    assert_eq!(viplb.wait_entered(State::Master, TAKEOVER).0, Reason::Silence);
    let keepalived = keepalived(&net, 101, "0.1");
    assert_eq!(viplb.wait_entered(State::Backup, TAKEOVER).0, Reason::HigherPriority);
    assert!(!viplb.lease.is_held());
    keepalived.wait_until_owner(true, SECOND);
}

#[test]
fn farewells_hand_over_in_both_directions_in_version_3() {
    let Some(net) = Net::new("3left", &["keepalived"]) else { return };
    let mut other = keepalived(&net, 101, "0.1");
    let mut viplb = Viplb::start(&net.a, fast(100));
    viplb.wait_heard(101);
    other.terminate();
    assert_eq!(viplb.wait_entered(State::Master, TAKEOVER).0, Reason::MasterLeft);
    let other = keepalived(&net, 50, "0.1");
    other.hear_the_master();
    viplb.stop();
    let stopped = Instant::now();
    let at = other.wait_until_owner(true, TAKEOVER);
    assert!(at - stopped < SECOND, "took {:?}", at - stopped);
}

#[test]
fn viplb_learns_keepaliveds_interval_and_does_not_drop_its_adverts() {
    let Some(net) = Net::new("3learn", &["keepalived"]) else { return };
    let other = keepalived(&net, 101, "1");
    let mut viplb = Viplb::start(&net.a, fast(100));
    let (learnt, _) = viplb.wait_for("other interval", TAKEOVER, |event| match *event {
        Event::IntervalLearnt { interval, .. } => Some(interval),
        _ => None,
    });
    assert_eq!(learnt, SECOND);
    other.wait_until_owner(true, SECOND);
    let quiet = Instant::now() + 5 * SECOND;
    wait_until("five seconds without a change", 6 * SECOND, || {
        assert!(!viplb.lease.is_held() && other.owns_the_address());
        Instant::now() >= quiet
    });
    let counters = viplb.driver.as_ref().unwrap().counters(0).unwrap();
    assert_eq!(counters.refused(Refusal::Interval), 0);
    assert!(counters.received() >= 4);
}

#[test]
fn a_version_2_master_is_refused_by_its_version() {
    let Some(net) = Net::new("3two", &["keepalived"]) else { return };
    let _keepalived = net.keepalived_with(101, "advert_int 1");
    let mut viplb = Viplb::start(&net.a, fast(100));
    viplb.wait_for("refusal", TAKEOVER, |event| match *event {
        Event::Refused { reason: Refusal::Version, .. } => Some(()),
        _ => None,
    });
}

#[test]
fn two_viplbs_with_different_checksums_at_50_ms_elect_one_and_never_two() {
    let Some(net) = Net::new("3two10", &[]) else { return };
    let at_50_ms = |priority, v3_checksum| {
        let setup = setup_v3(priority, Duration::from_millis(50));
        RouterSetup { identity: Identity { v3_checksum, ..setup.identity }, ..setup }
    };
    let mut h2 = Viplb::start(&net.b, at_50_ms(200, V3Checksum::Plain));
    h2.wait_entered(State::Master, TAKEOVER);
    let mut h1 = Viplb::start(&net.a, at_50_ms(254, V3Checksum::PseudoHeader));
    assert_eq!(h1.wait_entered(State::Master, TAKEOVER).0, Reason::Preempted);
    h2.wait_entered(State::Backup, SECOND);
    h1.stop();
    let stopped = Instant::now();
    let (reason, at) = h2.wait_entered(State::Master, TAKEOVER);
    assert_eq!(reason, Reason::MasterLeft);
    assert!(at - stopped < SECOND / 2, "took {:?}", at - stopped);
    h2.stop();
    for (from, to) in h1.lease.spans() {
        for (other_from, other_to) in h2.lease.spans() {
            assert!(to <= other_from || other_to <= from, "two leases at once");
        }
    }
}

#[test]
fn tshark_finds_every_emitted_version_3_advert_good() {
    let Some(net) = Net::new("3shark", &["tshark", "tcpdump"]) else { return };
    let capture = Capture::start(&net);
    let viplb = Viplb::start(&net.a, setup_v3(101, SECOND / 10));
    viplb.wait_sent(8);
    let fields =
        ["vrrp.checksum.status", "vrrp.version", "ip.ttl", "ip.dst", "vrrp.prio", "vrrp.short_adver_int"];
    let lines = capture.finish().read("vrrp", &fields);
    assert!(lines.len() >= 7, "{lines:?}");
    assert!(lines.iter().all(|line| line == "1 3 255 224.0.0.18 101 10"), "{lines:?}");
}

/// Policy and priority of every thread of this process that is called `vrrp`, as the kernel has them.
fn vrrp_threads() -> Vec<(String, String)> {
    let stat = |task: fs::DirEntry| fs::read_to_string(task.path().join("stat")).ok();
    let tasks = fs::read_dir("/proc/self/task").unwrap().filter_map(|task| stat(task.ok()?));
    let fields = |stat: String| stat.split(' ').map(str::to_owned).collect::<Vec<_>>();
    tasks.map(fields).filter(|f| f[1] == "(vrrp)").map(|f| (f[40].clone(), f[39].clone())).collect()
}

#[test]
fn the_thread_says_what_it_runs_with_and_the_kernel_says_the_same() {
    let Some(net) = Net::new("3rt", &[]) else { return };
    let mut viplb = Viplb::start(&net.a, fast(101));
    let (told, _) = viplb.wait_for("scheduling", SECOND, |event| match event {
        Event::Scheduling(scheduling) => Some(scheduling.clone()),
        _ => None,
    });
    let fifo_50 = vrrp_threads().iter().any(|(policy, priority)| policy == "1" && priority == "50");
    assert_eq!(told.realtime, fifo_50, "{told:?}");
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
    assert_eq!(told.memory_locked, locked.trim() != "0 kB", "{told:?}");
    let lacking = usize::from(!told.realtime) + usize::from(!told.memory_locked);
    assert_eq!(told.missing.len(), lacking, "{told:?}");
}

/// Two routers on one interface of two nodes: each node is the owner of one, as two load-sharing nodes are set up.
#[test]
fn two_routers_of_opposite_priorities_share_the_work_of_one_interface_and_survive_either_node() {
    let Some(net) = Net::new("3pair", &[]) else { return };
    let pair = |first: u8, second: u8| {
        let one = setup(first);
        let two = fast(second);
        let three_addresses =
            |from: u32| (0..3).map(|i| Ipv4Addr::from(u32::from(VIP) + from + i).into()).collect();
        let one = RouterSetup { identity: Identity { addresses: three_addresses(0), ..one.identity }, ..one };
        let two = RouterSetup {
            name: "second".into(),
            identity: Identity { vrid: 52, addresses: three_addresses(10), ..two.identity },
            ..two
        };
        vec![one, two]
    };
    let mut h1 = Viplb::try_start(&net.a, pair(101, 50)).unwrap();
    let mut h2 = Viplb::try_start(&net.b, pair(100, 60)).unwrap();
    h1.wait_router_entered(0, State::Master, TAKEOVER);
    wait_until("each to own its router alone", TAKEOVER, || {
        let held = |node: &Viplb| [node.lease.is_held_by(0), node.lease.is_held_by(1)];
        held(&h1) == [true, false] && held(&h2) == [false, true]
    });
    let counters = h2.driver.as_ref().unwrap();
    for router in 0..2 {
        for reason in Refusal::ALL {
            assert_eq!(counters.counters(router).unwrap().refused(reason), 0, "router {router}: {reason}");
        }
    }
    // Each of the three addresses of router 1 was announced by h2.
    assert!(counters.counters(1).unwrap().announcements().is_multiple_of(15));
    h1.stop();
    h2.wait_router_entered(0, State::Master, TAKEOVER);
    assert!(h2.lease.is_held_by(0) && h2.lease.is_held_by(1));
}

#[test]
fn routers_on_two_interfaces_fail_apart() {
    let Some(net) = Net::new("3ports", &[]) else { return };
    let (a, b) = (net.a.as_str(), net.b.as_str());
    run("ip", &["link", "add", "eth1", "netns", a, "type", "veth", "peer", "name", "eth1", "netns", b]);
    for (namespace, address) in [(a, "10.9.0.7/24"), (b, "10.9.0.8/24")] {
        run("ip", &["-n", namespace, "addr", "add", address, "dev", "eth1"]);
        run("ip", &["-n", namespace, "link", "set", "eth1", "up"]);
    }
    let elsewhere = fast(101);
    let elsewhere = RouterSetup {
        name: "elsewhere".into(),
        interface: "eth1".into(),
        identity: Identity { addresses: vec!["10.9.0.201".parse().unwrap()], ..elsewhere.identity },
        ..elsewhere
    };
    let mut viplb = Viplb::try_start(&net.a, vec![fast(101), elsewhere]).unwrap();
    viplb.wait_router_entered(1, State::Master, TAKEOVER);
    wait_until("both to be owned", TAKEOVER, || viplb.lease.is_held_by(0) && viplb.lease.is_held_by(1));
    run("ip", &["-n", b, "link", "set", "eth1", "down"]);
    viplb.wait_router_entered(1, State::Fault, SECOND);
    assert!(viplb.lease.is_held_by(0) && !viplb.lease.is_held_by(1));
}
