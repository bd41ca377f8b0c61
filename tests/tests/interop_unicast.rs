//! viplb's election with unicast peers against keepalived's `unicast_peer` and against itself.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use lb_tests::vrrp_net::{
    Capture, Keepalived, Net, PASSWORD, SECOND, SKEW, TAKEOVER, Viplb, run, setup, setup_v3, setup_v6,
    wait_until, with_peers,
};
use lb_userspace::{
    config::model::{Transport, UnicastPeer},
    vrrp::{Event, Reason, RouterSetup, State, packet::Refusal},
};

const FAST: Duration = Duration::from_millis(100);
const A: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 18, 0, 7));
const B: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 18, 0, 8));
/// Nobody.
const C: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 18, 0, 9));
/// keepalived in `b` talks to `a` alone.
const UNICAST: &str = "unicast_src_ip 172.18.0.8\n unicast_peer {\n 172.18.0.7\n }";

fn keepalived_v2(net: &Net, priority: u8) -> Keepalived {
    net.keepalived(priority, PASSWORD, UNICAST)
}

fn keepalived_v3(net: &Net, priority: u8, advert_int: &str) -> Keepalived {
    net.keepalived_with(priority, &format!("version 3\n advert_int {advert_int}\n {UNICAST}"))
}

fn two(priority: u8) -> RouterSetup {
    with_peers(setup(priority), &[B])
}

fn three(priority: u8) -> RouterSetup {
    with_peers(setup_v3(priority, FAST), &[B])
}

fn refused_nothing(viplb: &Viplb) {
    for reason in Refusal::ALL {
        assert_eq!(viplb.counters().refused(reason), 0, "{reason}");
    }
}

#[test]
fn viplb_of_higher_priority_preempts_keepalived_by_unicast() {
    let Some(net) = Net::new("upre", &["keepalived"]) else { return };
    let keepalived = keepalived_v2(&net, 100);
    keepalived.wait_until_owner(true, TAKEOVER);
    let mut viplb = Viplb::start(&net.a, two(101));
    assert_eq!(viplb.wait_entered(State::Master, TAKEOVER).0, Reason::Preempted);
    keepalived.wait_until_owner(false, SECOND);
    refused_nothing(&viplb);
}

#[test]
fn keepalived_of_higher_priority_preempts_viplb_by_unicast_and_its_farewell_hands_over() {
    let Some(net) = Net::new("uyield", &["keepalived"]) else { return };
    let mut viplb = Viplb::start(&net.a, two(100));
    assert_eq!(viplb.wait_entered(State::Master, TAKEOVER).0, Reason::Silence);
    let mut keepalived = keepalived_v2(&net, 101);
    assert_eq!(viplb.wait_entered(State::Backup, TAKEOVER).0, Reason::HigherPriority);
    assert!(!viplb.lease.is_held());
    keepalived.wait_until_owner(true, SECOND);
    keepalived.terminate();
    let stopped = Instant::now();
    let (reason, at) = viplb.wait_entered(State::Master, TAKEOVER);
    assert_eq!(reason, Reason::MasterLeft);
    assert!(at - stopped < SKEW + SECOND, "took {:?}", at - stopped);
    refused_nothing(&viplb);
}

#[test]
fn version_3_by_unicast_preempts_and_hands_over_in_both_directions() {
    let Some(net) = Net::new("u3", &["keepalived"]) else { return };
    let mut keepalived = keepalived_v3(&net, 100, "0.1");
    keepalived.wait_until_owner(true, TAKEOVER);
    let mut viplb = Viplb::start(&net.a, three(101));
    assert_eq!(viplb.wait_entered(State::Master, TAKEOVER).0, Reason::Preempted);
    keepalived.wait_until_owner(false, SECOND);
    viplb.stop();
    let stopped = Instant::now();
    let at = keepalived.wait_until_owner(true, TAKEOVER);
    assert!(at - stopped < SECOND, "took {:?}", at - stopped);
    keepalived.terminate();
    let mut viplb = Viplb::start(&net.a, three(100));
    viplb.wait_entered(State::Master, TAKEOVER);
    let keepalived = keepalived_v3(&net, 101, "0.1");
    assert_eq!(viplb.wait_entered(State::Backup, TAKEOVER).0, Reason::HigherPriority);
    keepalived.wait_until_owner(true, SECOND);
    refused_nothing(&viplb);
}

#[test]
fn viplb_learns_keepaliveds_interval_by_unicast() {
    let Some(net) = Net::new("ulearn", &["keepalived"]) else { return };
    let _keepalived = keepalived_v3(&net, 101, "0.5");
    let mut viplb = Viplb::start(&net.a, three(100));
    let (learnt, _) = viplb.wait_for("other interval", TAKEOVER, |event| match *event {
        Event::IntervalLearnt { interval, .. } => Some(interval),
        _ => None,
    });
    assert_eq!(learnt, SECOND / 2);
    refused_nothing(&viplb);
}

#[test]
fn adverts_of_nobody_else_are_believed_and_are_counted_by_reason() {
    let Some(net) = Net::new("ustranger", &["keepalived"]) else { return };
    let mut keepalived = keepalived_v2(&net, 200);
    let mut viplb = Viplb::start(&net.a, with_peers(setup(100), &[C]));
    viplb.wait_refused(Refusal::Source);
    wait_until("both to be masters", TAKEOVER, || viplb.lease.is_held() && keepalived.owns_the_address());
    keepalived.terminate();
    // A peer that talks to everybody, and a router that has no peers and is talked to.
    let mut keepalived = net.keepalived(200, PASSWORD, "");
    let mut viplb = Viplb::start(&net.a, two(100));
    viplb.wait_entered(State::Master, TAKEOVER);
    assert_eq!(viplb.counters().received(), 0, "the group is not joined without need");
    keepalived.terminate();
    let _keepalived = keepalived_v2(&net, 200);
    let mut viplb = Viplb::start(&net.a, setup(100));
    viplb.wait_refused(Refusal::Destination);
}

#[test]
fn a_peers_ttl_has_to_be_within_its_limits() {
    let Some(net) = Net::new("uttl", &["keepalived"]) else { return };
    let _keepalived = net.keepalived(200, PASSWORD, &format!("{UNICAST}\n unicast_ttl 60"));
    let within = |min_ttl, max_ttl| {
        let peer = UnicastPeer { addr: B, min_ttl, max_ttl };
        RouterSetup { transport: Transport::Unicast(vec![peer]), ..setup(100) }
    };
    Viplb::start(&net.a, within(255, 255)).wait_refused(Refusal::Ttl);
    Viplb::start(&net.a, within(61, 64)).wait_refused(Refusal::Ttl);
    let mut viplb = Viplb::start(&net.a, within(59, 61));
    viplb.wait_heard(200);
    refused_nothing(&viplb);
}

#[test]
fn each_peer_gets_adverts_from_the_set_source_that_tshark_finds_good() {
    let Some(net) = Net::new("ushark", &["tshark", "tcpdump"]) else { return };
    run("ip", &["-n", &net.a, "addr", "add", "172.18.0.77/16", "dev", "eth0"]);
    run("ip", &["-n", &net.b, "addr", "add", "172.18.0.9/16", "dev", "eth0"]);
    let capture = Capture::start(&net);
    let source = Some(IpAddr::V4(Ipv4Addr::new(172, 18, 0, 77)));
    let viplb = Viplb::start(&net.a, RouterSetup { source, ..with_peers(setup_v3(101, FAST), &[B, C]) });
    viplb.wait_sent(8);
    let recording = capture.finish();
    let fields = ["vrrp.checksum.status", "ip.checksum.status", "ip.ttl", "ip.src"];
    for peer in [B, C] {
        let lines = recording.read(&format!("vrrp && !icmp && ip.dst == {peer}"), &fields);
        assert!(lines.len() >= 7, "{peer}: {lines:?}");
        assert!(lines.iter().all(|line| line == "1 1 255 172.18.0.77"), "{peer}: {lines:?}");
    }
}

#[test]
fn one_peer_that_cannot_be_reached_does_not_cost_the_lease() {
    let Some(net) = Net::new("uaway", &[]) else { return };
    run("ip", &["-n", &net.a, "addr", "add", "fd00::7/64", "dev", "eth0", "nodad"]);
    let [there, nowhere]: [IpAddr; 2] = ["fd00::8", "2001:db8::1"].map(|address| address.parse().unwrap());
    let mut viplb = Viplb::start(&net.a, with_peers(setup_v6(101, FAST), &[nowhere, there]));
    viplb.wait_entered(State::Master, TAKEOVER);
    viplb.wait_sent(20);
    assert!(viplb.lease.is_held());
    assert_eq!(viplb.counters().send_errors(), 0);
    viplb.stop();
    let mut alone = Viplb::start(&net.a, with_peers(setup_v6(101, FAST), &[nowhere]));
    wait_until("send errors", TAKEOVER, || alone.counters().send_errors() > 5);
    alone.stop();
    assert!(alone.lease.spans().is_empty(), "a lease goes with adverts");
}

#[test]
fn two_viplbs_elect_one_by_unicast_over_ipv6_with_link_local_and_with_global_addresses() {
    let Some(net) = Net::new("u6", &[]) else { return };
    let [global_a, global_b]: [IpAddr; 2] = ["fd00::7", "fd00::8"].map(|address| address.parse().unwrap());
    for (namespace, address) in [(&net.a, global_a), (&net.b, global_b)] {
        run("ip", &["-n", namespace, "addr", "add", &format!("{address}/64"), "dev", "eth0", "nodad"]);
    }
    let link_local = [net.link_local(&net.a).into(), net.link_local(&net.b).into()];
    for [a, b] in [link_local, [global_a, global_b]] {
        let mut h2 = Viplb::start(&net.b, with_peers(setup_v6(100, FAST), &[a]));
        h2.wait_entered(State::Master, TAKEOVER);
        let mut h1 = Viplb::start(&net.a, with_peers(setup_v6(101, FAST), &[b]));
        assert_eq!(h1.wait_entered(State::Master, TAKEOVER).0, Reason::Preempted);
        assert_eq!(h2.wait_entered(State::Backup, TAKEOVER).0, Reason::HigherPriority);
        h1.stop();
        assert_eq!(h2.wait_entered(State::Master, TAKEOVER).0, Reason::MasterLeft);
        refused_nothing(&h2);
    }
}

#[test]
fn a_source_that_is_not_here_is_refused_because_nobody_could_answer_it() {
    let Some(net) = Net::new("ubad", &[]) else { return };
    let elsewhere = RouterSetup { source: Some(C), ..two(101) };
    let Err(error) = Viplb::try_start(&net.a, vec![elsewhere]) else { panic!("it started") };
    assert_eq!(error.to_string(), "virtual router vip: its source 172.18.0.9 is no address of this node");
    assert!(Viplb::try_start(&net.a, vec![RouterSetup { source: Some(A), ..two(101) }]).is_ok());
}
