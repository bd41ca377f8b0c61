//! viplb's election over IPv6 against keepalived and against itself, and what is special about the family: the address
//! that adverts are sent from comes and goes with the link, and neighbours are told by neighbour discovery.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use lb_tests::vrrp_net::{
    Capture, Keepalived, Net, SECOND, TAKEOVER, VIP6, Viplb, output, run, setup_v6, wait_until,
};
use lb_userspace::vrrp::{
    Event, Reason, RouterSetup, State,
    packet::{Identity, Refusal, Version},
};

const FAST: Duration = Duration::from_millis(100);

/// Version 3 over IPv6, once the node has an address to send from: keepalived does not wait for one.
fn keepalived(net: &Net, priority: u8, advert_int: &str) -> Keepalived {
    net.link_local(&net.b);
    net.keepalived_for(&[VIP6.into()], priority, &format!("version 3\n advert_int {advert_int}"))
}

fn fast(priority: u8) -> RouterSetup {
    setup_v6(priority, FAST)
}

#[test]
fn viplb_of_higher_priority_preempts_keepalived_over_ipv6() {
    let Some(net) = Net::new("6pre", &["keepalived"]) else { return };
    let keepalived = keepalived(&net, 100, "0.1");
    keepalived.wait_until_owner(true, TAKEOVER);
    let mut viplb = Viplb::start(&net.a, fast(101));
    assert_eq!(viplb.wait_entered(State::Master, TAKEOVER).0, Reason::Preempted);
    assert!(viplb.lease.is_held());
    keepalived.wait_until_owner(false, SECOND);
}

#[test]
fn keepalived_of_higher_priority_preempts_viplb_over_ipv6() {
    let Some(net) = Net::new("6yield", &["keepalived"]) else { return };
    let mut viplb = Viplb::start(&net.a, fast(100));
    assert_eq!(viplb.wait_entered(State::Master, TAKEOVER).0, Reason::Silence);
    let keepalived = keepalived(&net, 101, "0.1");
    assert_eq!(viplb.wait_entered(State::Backup, TAKEOVER).0, Reason::HigherPriority);
    assert!(!viplb.lease.is_held());
    keepalived.wait_until_owner(true, SECOND);
}

#[test]
fn farewells_hand_over_in_both_directions_over_ipv6() {
    let Some(net) = Net::new("6left", &["keepalived"]) else { return };
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
fn viplb_learns_keepaliveds_interval_over_ipv6() {
    let Some(net) = Net::new("6learn", &["keepalived"]) else { return };
    let other = keepalived(&net, 101, "1");
    let mut viplb = Viplb::start(&net.a, fast(100));
    let (learnt, _) = viplb.wait_for("other interval", TAKEOVER, |event| match *event {
        Event::IntervalLearnt { interval, from: IpAddr::V6(_), .. } => Some(interval),
        _ => None,
    });
    assert_eq!(learnt, SECOND);
    other.wait_until_owner(true, SECOND);
    let quiet = Instant::now() + 4 * SECOND;
    wait_until("four seconds without a change", 5 * SECOND, || {
        assert!(!viplb.lease.is_held() && other.owns_the_address());
        Instant::now() >= quiet
    });
    assert!(Refusal::ALL.into_iter().all(|reason| viplb.counters().refused(reason) == 0));
}

#[test]
fn a_link_local_address_first_in_the_advert_is_what_keepalived_takes_and_sends() {
    let Some(net) = Net::new("6local", &["keepalived"]) else { return };
    let addresses: [IpAddr; 2] = ["fe80::201".parse().unwrap(), VIP6.into()];
    net.link_local(&net.b);
    let keepalived = net.keepalived_for(&addresses, 100, "version 3\n advert_int 0.1");
    keepalived.wait_until_owner(true, TAKEOVER);
    let identity = Identity { addresses: addresses.to_vec(), ..fast(101).identity };
    let mut viplb = Viplb::start(&net.a, RouterSetup { identity, ..fast(101) });
    assert_eq!(viplb.wait_entered(State::Master, TAKEOVER).0, Reason::Preempted);
    keepalived.wait_until_owner(false, SECOND);
    // The virtual link-local address on its own interface must not become the source of its adverts.
    let own = net.link_local(&net.b);
    viplb.stop();
    keepalived.wait_until_owner(true, TAKEOVER);
    let mut viplb = Viplb::start(&net.a, RouterSetup { priority: 50, ..fast(50) });
    let (from, _) = viplb.wait_for("refusal", TAKEOVER, |event| match *event {
        Event::Refused { from, reason: Refusal::Addresses, .. } => Some(from),
        _ => None,
    });
    assert_eq!(from, IpAddr::V6(own));
}

#[test]
fn tshark_finds_every_emitted_ipv6_advert_good_and_announcements_of_both_families_go_out() {
    let Some(net) = Net::new("6shark", &["tshark", "tcpdump"]) else { return };
    let capture = Capture::start(&net);
    let excluded = vec!["172.18.0.222".parse().unwrap(), "fd00::222".parse().unwrap()];
    let mut viplb = Viplb::start(&net.a, RouterSetup { excluded, ..fast(101) });
    viplb.wait_entered(State::Master, TAKEOVER);
    viplb.wait_sent(10);
    viplb.stop();
    let source = net.link_local(&net.a);
    let file = capture.finish();
    let adverts = file.read(
        "vrrp && vrrp.prio > 0",
        &[
            "vrrp.checksum.status",
            "vrrp.version",
            "ipv6.hlim",
            "ipv6.src",
            "ipv6.dst",
            "vrrp.ipv6_addr",
            "vrrp.addr_count",
        ],
    );
    assert!(adverts.len() >= 8, "{adverts:?}");
    assert!(adverts.iter().all(|line| *line == format!("1 3 255 {source} ff02::12 {VIP6} 1")), "{adverts:?}");
    assert_eq!(file.read("vrrp.prio == 0", &["vrrp.checksum.status"]), ["1"]);
    let fields = [
        "ipv6.dst",
        "ipv6.hlim",
        "icmpv6.checksum.status",
        "icmpv6.nd.na.flag.r",
        "icmpv6.nd.na.flag.s",
        "icmpv6.nd.na.flag.o",
    ];
    for address in ["fd00::201", "fd00::222"] {
        let told = file.read(&format!("icmpv6.nd.na.target_address == {address}"), &fields);
        assert_eq!(told, ["ff02::1 255 1 1 0 1"; 5], "{address}");
    }
    assert_eq!(file.read("arp.isgratuitous && arp.src.proto_ipv4 == 172.18.0.222", &["arp.opcode"]).len(), 5);
}

#[test]
fn a_host_that_has_the_ipv6_address_but_sends_no_adverts_is_named_by_its_hardware_address() {
    let Some(net) = Net::new("6alien", &[]) else { return };
    run("ip", &["-n", &net.b, "addr", "add", &format!("{VIP6}/128"), "dev", "eth0", "nodad"]);
    let expected = output("ip", &["netns", "exec", &net.b, "cat", "/sys/class/net/eth0/address"]);
    let mut viplb = Viplb::start(&net.a, fast(101));
    let (mac, _) = viplb.wait_for("alarm", TAKEOVER, |event| match *event {
        Event::ForeignOwner { addr, mac, .. } if addr == VIP6 => Some(mac),
        _ => None,
    });
    assert_eq!(mac.map(|byte| format!("{byte:02x}")).join(":"), expected.trim());
}

#[test]
fn solicitations_for_the_address_reach_the_node_as_long_as_it_runs() {
    let Some(net) = Net::new("6group", &[]) else { return };
    let joined =
        || output("ip", &["-n", &net.a, "maddr", "show", "dev", "eth0"]).contains("ff02::1:ff00:201");
    let mut viplb = Viplb::start(&net.a, fast(101));
    assert!(joined());
    viplb.stop();
    assert!(!joined());
}

#[test]
fn adverts_wait_until_the_kernel_has_checked_the_address_that_they_are_sent_from() {
    let Some(net) = Net::new("6dad", &[]) else { return };
    // Link-local addresses are made when the link comes up, and are then checked for one to two seconds.
    run("ip", &["-n", &net.a, "link", "set", "eth0", "down"]);
    let mut viplb = Viplb::start(&net.a, fast(101));
    viplb.wait_entered(State::Fault, TAKEOVER);
    run("ip", &["-n", &net.a, "link", "set", "eth0", "up"]);
    viplb.wait_for("waiting for the address", TAKEOVER, |event| {
        matches!(event, Event::NoSource { router: 0 }).then_some(())
    });
    assert_eq!(viplb.counters().sent(), 0);
    assert_eq!(viplb.wait_entered(State::Backup, TAKEOVER).0, Reason::LinkUp);
    viplb.wait_entered(State::Master, TAKEOVER);
    // It goes, and with it the right to send; it comes back.
    let address = format!("{}/64", net.link_local(&net.a));
    run("ip", &["-n", &net.a, "addr", "del", &address, "dev", "eth0"]);
    viplb.wait_entered(State::Fault, TAKEOVER);
    assert!(!viplb.lease.is_held());
    run("ip", &["-n", &net.a, "addr", "add", &address, "dev", "eth0"]);
    viplb.wait_entered(State::Master, TAKEOVER);
}

#[test]
fn what_ipv6_lacks_is_said_in_one_sentence() {
    let Some(net) = Net::new("6bad", &[]) else { return };
    let error = |setup: RouterSetup| match Viplb::try_start(&net.a, vec![setup]) {
        Ok(_) => panic!("it started"),
        Err(error) => error.to_string(),
    };
    let two = Identity { version: Version::V2, ..fast(101).identity };
    assert!(
        error(RouterSetup { identity: two, ..fast(101) }).contains("in version 3 1 to 77 IPv6 addresses")
    );
    let mixed =
        Identity { addresses: vec![VIP6.into(), "172.18.0.201".parse().unwrap()], ..fast(101).identity };
    assert!(error(RouterSetup { identity: mixed, ..fast(101) }).contains("1 to 255 IPv4 addresses"));
    net.sysctl(&net.a, "net.ipv6.conf.eth0.disable_ipv6=1");
    assert_eq!(
        error(fast(101)),
        "interface eth0 has no IPv6 link-local address of its own to send adverts from: switch IPv6 on (sysctl \
         net.ipv6.conf.eth0.disable_ipv6, addr_gen_mode) or give it one (`ip addr add`)"
    );
}
