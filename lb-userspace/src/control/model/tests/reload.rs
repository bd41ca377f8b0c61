//! What a new configuration leaves as it is, and what it does not.

use super::*;
use crate::{
    config::model::Then,
    control::numbers::{InUse, Numbers},
    health::{Admin, Order},
};

/// The model of `m` with another configuration.
fn follow(m: &Model, change: impl FnOnce(&mut Config)) -> Model {
    let mut config = m.config.clone();
    change(&mut config);
    let numbers = m.numbers().follow(&m.config, &config, InUse::default).unwrap();
    let backends = config.services.iter().map(|s| s.backends.len()).sum();
    let machine =
        Machine { routes: vec![7; backends], ways: vec![m.machine.ways[0]; backends], ..m.machine.clone() };
    m.follow(config, machine, numbers, (Instant::now(), T))
}

fn states(m: &Model) -> Vec<Vec<String>> {
    let of = |s: &snapshot::Service| s.backends.iter().map(|b| b.state.clone()).collect();
    m.snapshot(T).services.iter().map(of).collect()
}

fn all_up() -> Model {
    let mut m = model();
    for (s, b) in [(0, 0), (0, 1), (1, 0)] {
        check(&mut m, s, b, Up::Up);
    }
    m
}

#[test]
fn who_stays_keeps_state_number_and_ring_and_who_is_new_waits_for_its_first_check() {
    let mut m = all_up();
    m.on_order("a", "a2", Order::Weight(Some(3)), (Instant::now(), T)).unwrap();
    let mut next = follow(&m, |c| {
        let mut new = c.services[0].backends[0].clone();
        (new.name, new.addr) = ("a0".into(), "172.18.0.9:3306".parse().unwrap());
        c.services[0].backends.insert(0, new);
        c.services.swap(0, 1);
    });
    assert_eq!(states(&next), [vec!["up"], vec!["unchecked", "up", "up"]]);
    assert_eq!((next.numbers().services(), next.numbers().backends(1)), (&[1, 0][..], &[3, 0, 1][..]));
    let desired = next.desired();
    assert_eq!(desired.services.iter().map(|s| s.ring.clone()).collect::<Vec<_>>(), [vec![0, 1], vec![2]]);
    assert_eq!(desired.backends[2], m.desired().backends[2]);
    assert_eq!(next.snapshot(T).services[1].backends[2].weight, 3, "an order holds");
    check(&mut next, 1, 0, Up::Up);
    assert_eq!(next.desired().services[0].ring, [3, 0, 1]);
}

#[test]
fn the_files_newer_weight_goes_before_an_older_order_and_other_orders_hold() {
    let mut m = all_up();
    m.on_order("a", "a2", Order::Weight(Some(3)), (Instant::now(), T)).unwrap();
    m.on_order("a", "a1", Order::Admin(Admin::Drain), (Instant::now(), T)).unwrap();
    let next = follow(&m, |c| c.services[0].backends[1].weight = 7);
    assert_eq!(next.snapshot(T).services[0].backends[1].weight, 7);
    assert_eq!(states(&next)[0], ["drain", "up"]);
}

#[test]
fn a_removed_backend_takes_nobody_and_its_connections_end_as_its_service_says() {
    let mut m = all_up();
    m.config.services[0].sessions.drain = Then::Reset(Duration::from_secs(5));
    let mut next = follow(&m, |c| drop(c.services[0].backends.remove(1)));
    assert_eq!(rings(&next), [vec![0], vec![2]]);
    assert!(next.is_in_trouble(1) && !next.is_in_trouble(0));
    let now = Instant::now();
    assert_eq!(next.take_endings(now), []);
    let ended = next.take_endings(now + Duration::from_secs(6));
    assert_eq!(ended.iter().map(|e| e.backend).collect::<Vec<_>>(), [1]);
    assert!(ended[0].why.contains("a2 has been removed"), "{}", ended[0].why);
    assert_eq!(next.take_endings(now + Duration::from_secs(60)), []);
    next.on_tick((now, T), |number| u64::from(number == 1) * 4);
    assert_eq!(next.snapshot(T).leaving[0].connections, 4);
    next.on_tick((now, T), |_| 0);
    assert_eq!(next.snapshot(T).leaving, []);
    // All of a removed service leave, by default without an end.
    let mut none = follow(&all_up(), |c| drop(c.services.remove(1)));
    assert_eq!(none.desired().services.len(), 1);
    assert!(none.is_in_trouble(2));
    assert_eq!(none.take_endings(now + Duration::from_secs(60)), []);
}

#[test]
fn an_owners_addresses_follow_the_file_and_a_backups_do_not() {
    let another = |c: &mut Config| {
        let old = &mut c.vrrp[0].addresses;
        old[0].addr = "172.18.0.202".parse().unwrap();
    };
    let addresses = |changes: Vec<AddressChange>| -> Vec<_> {
        changes.iter().map(|c| (c.addr.to_string(), c.present)).collect()
    };
    let mut m = all_up();
    entered(&mut m, vrrp::State::Master);
    m.address_changes();
    let mut next = follow(&m, another);
    let expected = [("172.18.0.201".to_owned(), false), ("172.18.0.202".to_owned(), true)];
    assert_eq!(addresses(next.address_changes()), expected);
    assert_eq!(addresses(next.address_changes()), []);
    assert_eq!(next.owned(), [true]);
    let mut unassigned = follow(&next, |c| c.vrrp[0].assign = false);
    assert_eq!(addresses(unassigned.address_changes()), [("172.18.0.202".to_owned(), false)]);
    assert_eq!(addresses(unassigned.address_changes()), []);

    let mut m = all_up();
    entered(&mut m, vrrp::State::Backup);
    m.address_changes();
    assert_eq!(addresses(follow(&m, another).address_changes()), []);
}

#[test]
fn a_priority_in_the_file_is_told_to_the_election_once() {
    let mut m = all_up();
    m.tracking.changes();
    let mut next = follow(&m, |c| c.vrrp[0].priority = 77);
    let told: Vec<_> = next.tracking.changes().into_iter().map(|(i, t)| (i, t.priority)).collect();
    assert_eq!(told, [(0, 77)]);
    assert_eq!(next.tracking.changes(), []);
    assert_eq!(follow(&next, |_| {}).tracking.changes(), []);
}

#[test]
fn numbers_of_a_former_daemon_are_gone_on_with() {
    use crate::{control::kept::Kept, vrrp::BootTime};
    let mut m = all_up();
    m.on_order("a", "a1", Order::Admin(Admin::Maint), (Instant::now(), T)).unwrap();
    let m = follow(&m, |c| c.services.swap(0, 1));
    let kept = Kept::of(&m, BootTime(1));
    let mut next = Model::new(m.config.clone(), m.machine.clone(), T);
    assert_eq!(next.numbers(), &Numbers::of(&m.config));
    next.restore(&kept, (Instant::now(), T));
    assert_eq!(next.numbers(), m.numbers());
    assert_eq!(states(&next), states(&m));
    assert_eq!(next.desired().services, m.desired().services, "connections go on to whom they went");
}
