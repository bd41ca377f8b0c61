//! viplb's election against keepalived and against itself, over real sockets in two network namespaces.
//!
//! The driver runs in this process (its thread inherits the namespace it is spawned in), keepalived as a child in the
//! other namespace. Each test has its own pair of namespaces, named by process id, and takes them down in any case.

use std::time::Instant;

use lb_tests::vrrp_net::{
    Capture, Net, PASSWORD, SECOND, SKEW, TAKEOVER, VIP, Viplb, output, run, setup, wait_until,
};
use lb_userspace::vrrp::{
    Event, Reason, RouterSetup, State,
    packet::{Auth, Identity, Refusal},
};

#[test]
fn viplb_of_higher_priority_preempts_keepalived() {
    let Some(net) = Net::new("pre", &["keepalived"]) else { return };
    let keepalived = net.keepalived(100, PASSWORD, "");
    keepalived.wait_until_owner(true, TAKEOVER);
    let mut viplb = Viplb::start(&net.a, setup(101));
    let (reason, _) = viplb.wait_entered(State::Master, TAKEOVER);
    assert_eq!(reason, Reason::Preempted);
    assert!(viplb.lease.is_held());
    keepalived.wait_until_owner(false, SECOND);
}

#[test]
fn keepalived_of_higher_priority_preempts_viplb_which_has_no_lease_from_then_on() {
    let Some(net) = Net::new("yield", &["keepalived"]) else { return };
    let mut viplb = Viplb::start(&net.a, setup(100));
    assert_eq!(viplb.wait_entered(State::Master, TAKEOVER).0, Reason::Silence);
    let keepalived = net.keepalived(101, PASSWORD, "");
    let (reason, _) = viplb.wait_entered(State::Backup, TAKEOVER);
    assert_eq!(reason, Reason::HigherPriority);
    assert!(!viplb.lease.is_held());
    keepalived.wait_until_owner(true, SECOND);
}

#[test]
fn nopreempt_keepalived_of_higher_priority_lets_viplb_be() {
    let Some(net) = Net::new("nopre", &["keepalived"]) else { return };
    let mut viplb = Viplb::start(&net.a, setup(100));
    viplb.wait_entered(State::Master, TAKEOVER);
    let keepalived = net.keepalived(101, PASSWORD, "nopreempt");
    let quiet = Instant::now() + 6 * SECOND;
    wait_until("six seconds without a change", 7 * SECOND, || {
        assert!(viplb.lease.is_held() && !keepalived.owns_the_address());
        Instant::now() >= quiet
    });
}

#[test]
fn keepaliveds_farewell_hands_over_after_the_skew() {
    let Some(net) = Net::new("left", &["keepalived"]) else { return };
    let mut keepalived = net.keepalived(101, PASSWORD, "");
    let mut viplb = Viplb::start(&net.a, setup(100));
    viplb.wait_heard(101);
    keepalived.terminate();
    let stopped = Instant::now();
    let (reason, at) = viplb.wait_entered(State::Master, TAKEOVER);
    assert_eq!(reason, Reason::MasterLeft);
    assert!(at - stopped < SKEW + SECOND, "took {:?}", at - stopped);
}

#[test]
fn viplbs_farewell_hands_over_to_keepalived_after_the_skew() {
    let Some(net) = Net::new("leave", &["keepalived"]) else { return };
    let mut viplb = Viplb::start(&net.a, setup(101));
    viplb.wait_entered(State::Master, TAKEOVER);
    let keepalived = net.keepalived(100, PASSWORD, "");
    // Time to become a backup that has heard a master, or it would be its start-up that is measured.
    let started = Instant::now();
    wait_until("keepalived's start", 5 * SECOND, || {
        assert!(!keepalived.owns_the_address());
        started.elapsed() > 4 * SECOND
    });
    viplb.stop();
    let stopped = Instant::now();
    assert!(!viplb.lease.is_held());
    let at = keepalived.wait_until_owner(true, TAKEOVER);
    assert!(at - stopped < SKEW + SECOND, "took {:?}", at - stopped);
}

#[test]
fn with_different_passwords_both_are_masters_as_two_keepaliveds_are_and_it_is_counted() {
    let Some(net) = Net::new("pass", &["keepalived"]) else { return };
    let keepalived = net.keepalived(101, "other", "");
    let mut viplb = Viplb::start(&net.a, setup(100));
    viplb.wait_entered(State::Master, TAKEOVER);
    keepalived.wait_until_owner(true, TAKEOVER);
    viplb.wait_for("refusal", TAKEOVER, |event| match *event {
        Event::Refused { reason: Refusal::Password, .. } => Some(()),
        _ => None,
    });
    assert!(viplb.lease.is_held() && keepalived.owns_the_address());
    let driver = viplb.driver.as_ref().unwrap();
    assert!(driver.counters(0).unwrap().refused(Refusal::Password) > 0);
    assert_eq!(driver.counters(0).unwrap().received(), 0);
}

#[test]
fn between_two_viplbs_the_old_owner_drops_its_lease_before_the_new_one_takes_it() {
    let Some(net) = Net::new("two", &[]) else { return };
    let mut h2 = Viplb::start(&net.b, setup(100));
    h2.wait_entered(State::Master, TAKEOVER);
    let mut h1 = Viplb::start(&net.a, setup(101));
    assert_eq!(h1.wait_entered(State::Master, TAKEOVER).0, Reason::Preempted);
    assert_eq!(h2.wait_entered(State::Backup, SECOND).0, Reason::HigherPriority);
    h1.stop();
    assert_eq!(h2.wait_entered(State::Master, TAKEOVER).0, Reason::MasterLeft);
    h2.stop();
    for (from, to) in h1.lease.spans() {
        for (other_from, other_to) in h2.lease.spans() {
            assert!(to <= other_from || other_to <= from, "two leases at once");
        }
    }
}

#[test]
fn without_a_carrier_the_lease_is_dropped_at_once_and_with_it_the_election_starts_anew() {
    let Some(net) = Net::new("cut", &[]) else { return };
    let mut viplb = Viplb::start(&net.a, setup(101));
    viplb.wait_entered(State::Master, TAKEOVER);
    run("ip", &["-n", &net.b, "link", "set", "eth0", "down"]);
    assert_eq!(viplb.wait_entered(State::Fault, SECOND).0, Reason::LinkDown);
    assert!(!viplb.lease.is_held());
    run("ip", &["-n", &net.b, "link", "set", "eth0", "up"]);
    assert_eq!(viplb.wait_entered(State::Backup, SECOND).0, Reason::LinkUp);
    viplb.wait_entered(State::Master, TAKEOVER);
}

#[test]
fn a_host_that_has_the_address_but_sends_no_adverts_is_named_by_its_hardware_address() {
    let Some(net) = Net::new("alien", &[]) else { return };
    run("ip", &["-n", &net.b, "addr", "add", &format!("{VIP}/32"), "dev", "eth0"]);
    let expected = output("ip", &["netns", "exec", &net.b, "cat", "/sys/class/net/eth0/address"]);
    let mut viplb = Viplb::start(&net.a, setup(101));
    let (mac, _) = viplb.wait_for("alarm", TAKEOVER, |event| match *event {
        Event::ForeignOwner { addr, mac, .. } if addr == VIP => Some(mac),
        _ => None,
    });
    assert_eq!(mac.map(|byte| format!("{byte:02x}")).join(":"), expected.trim());
}

#[test]
fn tshark_finds_every_emitted_advert_good() {
    let Some(net) = Net::new("shark", &["tshark", "tcpdump"]) else { return };
    let fields = [
        "vrrp.checksum.status",
        "ip.checksum.status",
        "ip.ttl",
        "ip.dsfield",
        "ip.src",
        "ip.dst",
        "vrrp.prio",
    ];
    let open = Identity { auth: Auth::None, ..setup(101).identity };
    for (router, auth) in [(setup(101), "1"), (RouterSetup { identity: open, ..setup(101) }, "0")] {
        let capture = Capture::start(&net);
        let mut viplb = Viplb::start(&net.a, router);
        viplb.wait_sent(7);
        viplb.stop();
        let recording = capture.finish();
        let lines = recording.read(&format!("vrrp.prio > 0 && vrrp.auth_type == {auth}"), &fields);
        assert!(lines.len() >= 6, "{lines:?}");
        assert!(lines.iter().all(|line| line == "1 1 255 0xc0 172.18.0.7 224.0.0.18 101"), "{lines:?}");
        assert_eq!(recording.read("vrrp.prio == 0", &fields), ["1 1 255 0xc0 172.18.0.7 224.0.0.18 0"]);
    }
}

#[test]
fn a_start_that_cannot_work_says_why_in_one_sentence() {
    let Some(net) = Net::new("bad", &[]) else { return };
    run("ip", &["-n", &net.a, "addr", "flush", "dev", "eth0"]);
    let error = |setup: RouterSetup| match Viplb::try_start(&net.a, vec![setup]) {
        Ok(_) => panic!("it started"),
        Err(error) => error.to_string(),
    };
    assert_eq!(
        error(setup(101)),
        "interface eth0 has no IPv4 address of its own to send adverts from: give it one (`ip addr add`)"
    );
    let elsewhere = RouterSetup { interface: "eth7".into(), ..setup(101) };
    assert_eq!(error(elsewhere), "interface eth7 does not exist");
    run("ip", &["-n", &net.a, "addr", "add", &format!("{VIP}/16"), "dev", "eth0"]);
    assert_eq!(
        error(setup(101)),
        "interface eth0 has no IPv4 address of its own to send adverts from: give it one (`ip addr add`)"
    );
}
