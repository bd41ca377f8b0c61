//! The lease as the VRRP thread writes it into the pinned map, read back through another handle of the same map, and
//! judged by the loaded programs.

use lb_common::{addr::Mac, lease::Lease, reason::Reason};
use lb_tests::packets::{Segment, world};
use lb_tests::pair::Pair;
use lb_userspace::{
    datapath::lease::KernelLease,
    vrrp::{BootTime, Lease as _},
};

const FAR: BootTime = BootTime(u64::MAX / 2);

fn element(p: &mut Pair, router: u32) -> Lease {
    p.kernel().tables.maps().leases.get(&router, 0).expect("lease")
}

/// Likewise without the time that it was taken at.
fn timeless(p: &mut Pair, router: u32) -> Lease {
    Lease { adopt_until: 0, ..element(p, router) }
}

/// Whether the loaded program forwards a connection request.
fn forwards(p: &mut Pair, port: u16) -> bool {
    let (verdict, _) = p.kernel().test_run(false, &Segment::syn(port).frame()).expect("test run");
    assert!([2, 7].contains(&verdict), "{verdict}");
    verdict == 7
}

#[test]
fn the_programs_act_from_taking_the_lease_until_it_is_given_up() {
    let mut p = Pair::new(&world(3));
    p.set_lease(Lease::default());
    let mut lease = KernelLease::open(&p.pins).expect("mapped");
    lease.set(0, FAR).expect("set");
    assert!(!forwards(&mut p, 40_000), "a lease that was never taken has no term");
    assert!(!lease.noted(0).fenced);
    lease.take(0, FAR).expect("take");
    assert!(forwards(&mut p, 40_001));
    lease.set(0, BootTime(0)).expect("set");
    assert!(!forwards(&mut p, 40_002));
    lease.set(0, FAR).expect("set");
    assert!(forwards(&mut p, 40_003), "renewed");
    assert_eq!(timeless(&mut p, 0), Lease { until: FAR.0, term: 1, ..Lease::default() });
}

#[test]
fn a_term_that_a_program_fenced_stays_over_until_the_lease_is_taken_anew() {
    let mut p = Pair::new(&world(3));
    let mut lease = KernelLease::open(&p.pins).expect("mapped");
    lease.take(0, FAR).expect("take");
    assert!(!lease.noted(0).fenced);
    let fenced = Lease { probed: 77, fenced: 2, ..element(&mut p, 0) };
    assert_eq!(fenced.term, 2, "one more than the term that was there");
    p.set_lease(fenced);
    let noted = lease.noted(0);
    assert_eq!((noted.probed, noted.fenced), (BootTime(77), true));
    lease.set(0, FAR).expect("set");
    assert!(!forwards(&mut p, 40_000), "renewed too late");
    lease.take(0, FAR).expect("take");
    assert!(forwards(&mut p, 40_001) && !lease.noted(0).fenced);
    assert_eq!(element(&mut p, 0).probed, 77, "the programs' words are left alone");
}

#[test]
fn a_new_daemon_goes_on_from_the_terms_of_the_pinned_map() {
    let mut p = Pair::new(&world(3));
    p.set_lease(Lease { term: 3, fenced: 9, ..Lease::default() });
    KernelLease::open(&p.pins).expect("mapped").take(0, FAR).expect("take");
    assert_eq!(element(&mut p, 0).term, 10, "greater than what was ever fenced");
    let mut next = KernelLease::open(&p.pins).expect("mapped");
    next.set(0, BootTime(0)).expect("set");
    next.take(0, FAR).expect("take");
    assert_eq!(element(&mut p, 0).term, 11);
}

#[test]
fn routers_are_told_apart_and_one_beyond_the_map_is_an_error() {
    let mut p = Pair::new(&world(3));
    let mut lease = KernelLease::open(&p.pins).expect("mapped");
    let before = BootTime::now();
    lease.take(255, FAR).expect("take");
    assert_eq!(timeless(&mut p, 255), Lease { until: FAR.0, term: 1, ..Lease::default() });
    assert!(element(&mut p, 255).adopt_until > before.0, "it was taken a moment ago");
    assert_eq!(element(&mut p, 254), Lease::default());
    assert!(lease.take(256, FAR).is_err() && lease.set(256, FAR).is_err());
}

#[test]
fn relay_and_delegate_carry_their_address_and_deadline() {
    let mut p = Pair::new(&world(3));
    let mut lease = KernelLease::open(&p.pins).expect("mapped");
    lease.relay(1, [2, 0, 0, 0, 0, 8], BootTime(100));
    lease.delegate(1, [2, 0, 0, 0, 0, 9], BootTime(200));
    let written = Lease {
        relay_until: 100,
        delegate_until: 200,
        relay: Mac([2, 0, 0, 0, 0, 8]),
        delegate: Mac([2, 0, 0, 0, 0, 9]),
        ..Lease::default()
    };
    assert_eq!(element(&mut p, 1), written);
    lease.relay(1, [2, 0, 0, 0, 0, 9], BootTime(0));
    let closed = Lease { relay_until: 0, relay: Mac([2, 0, 0, 0, 0, 9]), ..written };
    assert_eq!(element(&mut p, 1), closed);
    assert_eq!(p.receive(&Segment::syn(40_000).frame()).reason, Reason::NewFlow, "router 0 is another");
}
