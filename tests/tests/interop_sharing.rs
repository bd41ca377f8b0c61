//! What routers of one interface share, and what they send in the name of the addresses: sockets of both families and
//! transports, virtual hardware addresses, announcements in a set rhythm.

use std::{net::IpAddr, time::Duration};

use lb_tests::vrrp_net::{
    Capture, Net, SECOND, TAKEOVER, VIP, VIP6, Viplb, output, run, setup, setup_v3, setup_v6, wait_until,
    with_peers,
};
use lb_userspace::{
    config::model::Garp,
    vrrp::{
        RouterSetup, State,
        packet::{Identity, Refusal},
    },
};

const FAST: Duration = Duration::from_millis(100);

fn with_vrid(setup: RouterSetup, vrid: u8, address: &str) -> RouterSetup {
    let identity = Identity { vrid, addresses: vec![address.parse().unwrap()], ..setup.identity };
    RouterSetup { name: format!("vr{vrid}"), identity, ..setup }
}

/// Versions, families and transports side by side on one interface: `mine` for the routers that this node shall own,
/// `others` for those of the other node, which is `peers` (IPv4, IPv6).
fn mixed(mine: u8, others: u8, [v4, v6]: [IpAddr; 2]) -> Vec<RouterSetup> {
    vec![
        setup(mine),
        with_vrid(setup_v6(others, FAST), 51, "fd00::201"), // the same id in the other family
        with_vrid(with_peers(setup_v3(mine, FAST), &[v4]), 52, "172.18.0.202"),
        with_vrid(with_peers(setup_v6(others, FAST), &[v6]), 53, "fd00::203"),
        RouterSetup { virtual_mac: true, ..with_vrid(setup_v3(others, FAST), 54, "172.18.0.204") },
        RouterSetup { virtual_mac: true, ..with_vrid(setup_v6(mine, FAST), 54, "fd00::204") },
    ]
}

#[test]
fn routers_of_both_families_and_transports_share_an_interface_and_do_not_disturb_each_other() {
    let Some(net) = Net::new("share", &[]) else { return };
    let a: [IpAddr; 2] = ["172.18.0.7".parse().unwrap(), net.link_local(&net.a).into()];
    let b: [IpAddr; 2] = ["172.18.0.8".parse().unwrap(), net.link_local(&net.b).into()];
    let mut h1 = Viplb::try_start(&net.a, mixed(150, 50, b)).unwrap();
    let mut h2 = Viplb::try_start(&net.b, mixed(100, 101, a)).unwrap();
    let held = |node: &Viplb| [0, 1, 2, 3, 4, 5].map(|router| node.lease.is_held_by(router));
    wait_until("each to own its routers alone", TAKEOVER, || {
        held(&h1) == [true, false, true, false, false, true]
            && held(&h2) == [false, true, false, true, true, false]
    });
    for node in [&h1, &h2] {
        let driver = node.driver.as_ref().unwrap();
        for (router, reason) in (0..6).flat_map(|router| Refusal::ALL.map(|reason| (router, reason))) {
            assert_eq!(driver.counters(router).unwrap().refused(reason), 0, "router {router}: {reason}");
        }
    }
    h1.stop();
    wait_until("the other node to own them all", TAKEOVER, || held(&h2) == [true; 6]);
    h2.stop();
}

#[test]
fn with_a_virtual_hardware_address_adverts_and_announcements_leave_with_it_and_frames_for_it_are_taken() {
    let Some(net) = Net::new("vmac", &["tshark", "tcpdump"]) else { return };
    let capture = Capture::start(&net);
    let routers =
        [setup_v3(101, FAST), setup_v6(101, FAST)].map(|setup| RouterSetup { virtual_mac: true, ..setup });
    let mut viplb = Viplb::try_start(&net.a, routers.to_vec()).unwrap();
    let taken = || output("bridge", &["-n", &net.a, "fdb", "show", "dev", "eth0"]);
    for mac in ["00:00:5e:00:01:33", "00:00:5e:00:02:33"] {
        assert!(taken().contains(mac), "{}", taken());
    }
    for router in 0..2 {
        viplb.wait_router_entered(router, State::Master, TAKEOVER);
    }
    wait_until("adverts and announcements", TAKEOVER, || {
        let driver = viplb.driver.as_ref().unwrap();
        (0..2).all(|router| {
            let counters = driver.counters(router).unwrap();
            counters.sent() >= 10 && counters.announcements() >= 5
        })
    });
    viplb.stop();
    assert!(!taken().contains("00:00:5e:00"), "{}", taken());
    let recording = capture.finish();
    let of = |filter: &str, fields: &[&str]| {
        let mut lines = recording.read(filter, fields);
        assert!(lines.len() >= 5, "{filter}: {lines:?}");
        lines.dedup();
        lines
    };
    let advert = ["eth.src", "eth.dst", "vrrp.checksum.status"];
    assert_eq!(of("vrrp && ip", &advert), ["00:00:5e:00:01:33 01:00:5e:00:00:12 1"]);
    assert_eq!(of("vrrp && ipv6", &advert), ["00:00:5e:00:02:33 33:33:00:00:00:12 1"]);
    let gratuitous = ["eth.src", "arp.src.hw_mac", "arp.dst.hw_mac", "arp.src.proto_ipv4"];
    assert_eq!(of("arp.isgratuitous", &gratuitous), [format!("{0} {0} {0} {VIP}", "00:00:5e:00:01:33")]);
    let advertisement = ["eth.src", "icmpv6.opt.linkaddr", "icmpv6.checksum.status"];
    assert_eq!(
        of("icmpv6.nd.na.target_address == fd00::201", &advertisement),
        ["00:00:5e:00:02:33 00:00:5e:00:02:33 1"]
    );
}

#[test]
fn neighbours_that_knew_another_owner_learn_the_new_one_from_its_announcements() {
    let Some(net) = Net::new("learn", &[]) else { return };
    // Linux does not let an ARP entry change twice within a second; the old one is a moment old here.
    net.sysctl(&net.b, "net.ipv4.neigh.eth0.locktime=0");
    let old = "02:00:00:00:00:99";
    let own = output("ip", &["netns", "exec", &net.a, "cat", "/sys/class/net/eth0/address"]);
    let vips = [VIP.to_string(), VIP6.to_string()];
    for (virtual_mac, expected) in
        [(false, [own.trim(), own.trim()]), (true, ["00:00:5e:00:01:33", "00:00:5e:00:02:33"])]
    {
        for vip in &vips {
            let entry = ["-n", &net.b, "neigh", "replace", vip, "lladdr", old, "dev", "eth0", "nud", "stale"];
            run("ip", &entry);
        }
        let routers = [setup_v3(101, FAST), setup_v6(101, FAST)];
        let routers = routers.map(|setup| RouterSetup { virtual_mac, ..setup }).to_vec();
        let mut viplb = Viplb::try_start(&net.a, routers).unwrap();
        for (vip, mac) in vips.iter().zip(expected) {
            wait_until("the neighbour to know the new owner", TAKEOVER, || {
                output("ip", &["-n", &net.b, "neigh", "show", vip]).contains(mac)
            });
        }
        viplb.stop();
    }
}

#[test]
fn announcements_keep_the_set_distance_in_their_order_while_adverts_go_on() {
    let Some(net) = Net::new("pace", &["tshark", "tcpdump"]) else { return };
    let capture = Capture::start(&net);
    let gap = Duration::from_millis(50);
    let garp = Garp { repeat: 4, delay: Duration::ZERO, interval: gap, gna_interval: gap, ..Garp::default() };
    let paced = |last: [u8; 3], vrid| {
        let addresses = last.map(|host| IpAddr::from([172, 18, 0, host])).to_vec();
        let setup = setup_v3(101, FAST);
        RouterSetup { identity: Identity { addresses, vrid, ..setup.identity }, garp, ..setup }
    };
    let mut viplb =
        Viplb::try_start(&net.a, vec![paced([201, 202, 203], 51), paced([211, 212, 213], 52)]).unwrap();
    viplb.wait_entered(State::Master, TAKEOVER);
    let announced = |viplb: &Viplb| {
        let driver = viplb.driver.as_ref().unwrap();
        [0, 1].map(|router| driver.counters(router).unwrap().announcements())
    };
    wait_until("both bursts", TAKEOVER, || {
        assert!(viplb.lease.is_held());
        announced(&viplb) == [12, 12]
    });
    viplb.stop();
    let recording = capture.finish();
    let lines = recording.read("arp.isgratuitous", &["frame.time_epoch", "arp.src.proto_ipv4"]);
    let frames: Vec<(f64, &str)> = lines
        .iter()
        .map(|line| line.split_once(' ').map(|(at, who)| (at.parse().unwrap(), who)).unwrap())
        .collect();
    assert_eq!(frames.len(), 24, "{lines:?}");
    // A millisecond for the way from one clock to the other.
    for pair in frames.windows(2) {
        assert!(pair[1].0 - pair[0].0 > gap.as_secs_f64() - 0.001, "{lines:?}");
    }
    for (first, hosts) in [("172.18.0.20", ["201", "202", "203"]), ("172.18.0.21", ["211", "212", "213"])] {
        let order: Vec<&str> =
            frames.iter().map(|frame| frame.1).filter(|who| who.starts_with(first)).collect();
        let expected: Vec<String> =
            hosts.iter().cycle().take(12).map(|host| format!("172.18.0.{host}")).collect();
        assert_eq!(order, expected);
    }
    let adverts =
        recording.read("vrrp && vrrp.prio > 0 && vrrp.virt_rtr_id == 51", &["frame.time_delta_displayed"]);
    let longest = adverts.iter().map(|delta| delta.parse::<f64>().unwrap()).fold(0.0, f64::max);
    assert!(longest < SECOND.as_secs_f64() / 4.0, "adverts {longest} s apart");
}

#[test]
fn who_steps_down_says_nothing_more_about_the_addresses() {
    let Some(net) = Net::new("hush", &[]) else { return };
    let garp = Garp { repeat: 100, interval: FAST, ..Garp::default() };
    let mut low = Viplb::start(&net.a, RouterSetup { garp, ..setup_v3(100, FAST) });
    low.wait_entered(State::Master, TAKEOVER);
    let mut high = Viplb::start(&net.b, setup_v3(101, FAST));
    low.wait_entered(State::Backup, TAKEOVER);
    let said = low.counters().announcements();
    assert!(said < 100);
    high.wait_sent(20);
    assert_eq!(low.counters().announcements(), said);
    high.stop();
}

#[test]
fn routers_come_and_go_beside_one_that_keeps_its_lease_and_misses_no_advert() {
    let Some(net) = Net::new("roster", &[]) else { return };
    net.link_local(&net.a);
    let fast = Duration::from_millis(50);
    let first = setup_v3(101, fast);
    let owner = Viplb::start(&net.a, first.clone());
    let peer = Viplb::start(&net.b, setup_v3(100, fast));
    wait_until("an owner", TAKEOVER, || owner.lease.is_held());
    let received = |viplb: &Viplb| viplb.counters().received();
    let kinds = [
        with_vrid(setup_v3(101, fast), 52, "172.18.0.202"),
        RouterSetup { virtual_mac: true, ..with_vrid(setup_v6(101, fast), 53, "fd00::203") },
        with_vrid(with_peers(setup(255), &["172.18.0.8".parse().unwrap()]), 54, "172.18.0.204"),
    ];
    for round in 0..12 {
        let number = 1 + round;
        let new = kinds[round % kinds.len()].clone();
        owner.add(&net.a, std::slice::from_ref(&first), (number, new)).unwrap();
        if new_owns(round) {
            wait_until("the new one owns", TAKEOVER, || owner.lease.is_held_by(number));
        }
        let heard = received(&peer);
        wait_until("adverts go on", TAKEOVER, || received(&peer) > heard + 3);
        owner.remove(number);
        assert!(!owner.lease.is_held_by(number));
        let sent = owner.driver.as_ref().unwrap().counters(number).unwrap().sent();
        let heard = received(&peer);
        wait_until("adverts go on", TAKEOVER, || received(&peer) > heard + 3);
        let counters = owner.driver.as_ref().unwrap().counters(number).unwrap();
        assert_eq!(counters.sent(), sent, "nothing more is said of it");
    }
    let nowhere = RouterSetup { interface: "eth7".into(), ..with_vrid(setup(100), 55, "172.18.0.205") };
    assert!(owner.add(&net.a, &[first], (20, nowhere)).is_err());
    let spans = owner.lease.spans();
    let whole = spans.windows(2).all(|pair| pair[0].1 >= pair[1].0);
    assert!(whole && owner.lease.is_held(), "one lease from its beginning: {spans:?}");
    assert!(peer.lease.spans().is_empty(), "and the peer has never owned");
}

/// The one with peers waits too long.
fn new_owns(round: usize) -> bool {
    round % 3 != 2
}
