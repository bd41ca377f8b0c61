//! viplb's election against FRR's vrrpd: version 3 of both families. FRR sends from virtual hardware addresses, and by
//! its defaults IPv4's checksum has the pseudo-header.

use std::time::{Duration, Instant};

use lb_tests::vrrp_net::{Frr, Net, SECOND, TAKEOVER, Viplb, setup_v3, setup_v6, wait_until};
use lb_userspace::vrrp::{Event, Reason, RouterSetup, State, packet::Refusal};

const FAST: Duration = Duration::from_millis(100);
const FAMILIES: [&str; 2] = ["v4", "v6"];

/// The same two routers, one a family, as FRR has.
fn both(priority: u8, advert_int: Duration) -> Vec<RouterSetup> {
    vec![setup_v3(priority, advert_int), setup_v6(priority, advert_int)]
}

fn wait_until_both(frr: &Frr, state: &str) -> Instant {
    FAMILIES.map(|family| frr.wait_until(family, state, TAKEOVER))[1]
}

fn refused_nothing(viplb: &Viplb) {
    let driver = viplb.driver.as_ref().unwrap();
    for (router, reason) in (0..2).flat_map(|router| Refusal::ALL.map(|reason| (router, reason))) {
        assert_eq!(driver.counters(router).unwrap().refused(reason), 0, "router {router}: {reason}");
    }
}

#[test]
fn viplb_of_higher_priority_preempts_frr_and_hands_over_with_its_farewell() {
    let Some(net) = Net::new("fpre", &["vtysh"]) else { return };
    let frr = net.frr(100, SECOND);
    frr.settle();
    wait_until_both(&frr, "Master");
    let mut viplb = Viplb::try_start(&net.a, both(101, SECOND)).unwrap();
    for router in 0..2 {
        assert_eq!(viplb.wait_router_entered(router, State::Master, TAKEOVER).0, Reason::Preempted);
    }
    wait_until_both(&frr, "Backup");
    refused_nothing(&viplb);
    viplb.stop();
    let stopped = Instant::now();
    let at = wait_until_both(&frr, "Master");
    // Silence would take three intervals and the skew.
    assert!(at - stopped < 3 * SECOND, "took {:?}", at - stopped);
}

#[test]
fn frr_of_higher_priority_preempts_viplb_and_its_farewell_hands_over() {
    let Some(net) = Net::new("fyield", &["vtysh"]) else { return };
    let mut viplb = Viplb::try_start(&net.a, both(100, FAST)).unwrap();
    for router in 0..2 {
        assert_eq!(viplb.wait_router_entered(router, State::Master, TAKEOVER).0, Reason::Silence);
    }
    let mut frr = net.frr(101, FAST);
    frr.settle();
    wait_until("both addresses to be FRR's", TAKEOVER, || {
        FAMILIES.iter().all(|family| frr.state(family) == "Master")
            && !viplb.lease.is_held_by(0)
            && !viplb.lease.is_held_by(1)
    });
    frr.terminate();
    wait_until("both addresses to be viplb's", TAKEOVER, || {
        viplb.lease.is_held_by(0) && viplb.lease.is_held_by(1)
    });
    refused_nothing(&viplb);
    viplb.stop();
}

#[test]
fn each_learns_the_others_interval() {
    let Some(net) = Net::new("flearn", &["vtysh"]) else { return };
    let frr = net.frr(150, SECOND / 2);
    frr.settle();
    wait_until_both(&frr, "Master");
    let mut viplb = Viplb::try_start(&net.a, both(100, FAST)).unwrap();
    let (learnt, _) = viplb.wait_for("other interval", TAKEOVER, |event| match *event {
        Event::IntervalLearnt { interval, .. } => Some(interval),
        _ => None,
    });
    assert_eq!(learnt, SECOND / 2);
    viplb.stop();
    let mut viplb = Viplb::try_start(&net.a, both(200, FAST)).unwrap();
    for router in 0..2 {
        viplb.wait_router_entered(router, State::Master, TAKEOVER);
    }
    wait_until("FRR to learn 100 ms", TAKEOVER, || {
        let shown = frr.show();
        let learnt =
            |family| shown.contains(&format!("Master Advertisement Interval ({family}) Rx   100 ms"));
        FAMILIES.into_iter().all(learnt)
    });
}
