//! Who answers for the address around a freeze and a partition, seen from outside by what the failover bench measures with.
//!
//! One cycle each, with the default parameters; `cargo xtask bench failover` does many and holds the figures against
//! their targets. Here only what must hold at every single time is asserted, on a machine however busy. Needs root.

use std::time::Duration;

use lb_tests::{
    bench::{
        event::Event,
        failover::cycle,
        report::{Arp, Blackouts},
        scene::{Product, Profile, Scene},
    },
    console::Console,
};

/// A freeze and its resume take about 15 s, and an answer was asked for every millisecond.
const SAMPLES: usize = 1000;
/// After a resume: that of its pre-emption, at most. (The second burst of h2's takeover falls away when it hands over.)
const BURSTS: usize = 1;
/// Of service, at the fault. The lease and the peer's patience end within 4 s; the rest is for a busy machine.
const FAULT_LIMIT: Duration = Duration::from_secs(8);
/// The owners of the two sides of a healed partition hear each other within an advert interval.
const HEALED_LIMIT: Duration = Duration::from_secs(1);

/// A hand-over takes two datagrams; the skew alone would be 0.6 s. The rest is for a busy machine.
const HAND_OVER_LIMIT: Duration = Duration::from_millis(300);

/// One cycle in a scene of its own: the blackouts of the event and of its undoing. Nothing where it cannot run.
fn one(test: &str, event: Event) -> Option<([Blackouts; 2], Option<Arp>)> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("not run: a lab needs root");
        return None;
    }
    let prefix = format!("{test}{}", std::process::id());
    let quiet = Console::quiet();
    let scene = Scene::raise(&prefix, Product::Viplb, Profile::Default, &quiet).unwrap();
    let outcome = cycle(&scene, event, 0.3, &quiet).unwrap();
    eprintln!("{}", outcome.line());
    Some((outcome.figures.unwrap(), outcome.arp))
}

#[test]
fn a_frozen_and_resumed_owner_never_answers_arp_beside_its_peer() {
    let Some((figures, arp)) = one("vtown", Event::Freeze) else { return };
    let arp = arp.unwrap();
    assert!(arp.samples > SAMPLES, "{arp:?}");
    assert_eq!(arp.two_answers, 0, "{arp:?}");
    assert!(arp.bursts <= BURSTS, "{arp:?}");
    assert!(figures[0].worst() < FAULT_LIMIT, "{figures:?}");
}

#[test]
fn after_a_partition_clients_are_served_within_a_second() {
    let Some((figures, _)) = one("vtpar", Event::Partition) else { return };
    assert!(figures[0].worst() < FAULT_LIMIT, "{figures:?}");
    assert!(figures[1].worst() <= HEALED_LIMIT, "{figures:?}");
}

#[test]
fn a_planned_stop_and_the_return_move_the_address_without_a_gap_that_an_election_would_make() {
    let Some((figures, _)) = one("vthnd", Event::Stop) else { return };
    assert!(figures[0].worst() < HAND_OVER_LIMIT, "stop: {figures:?}");
    assert!(figures[1].worst() < HAND_OVER_LIMIT, "return: {figures:?}");
}
