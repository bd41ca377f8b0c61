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
    assert_eq!(next.owned(), [0]);
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

/// Another virtual router before all others, with a service of its own.
fn put_another_before(c: &mut Config) {
    let mut new = c.vrrp[0].clone();
    (new.name, new.vrid) = ("w".into(), 52);
    new.addresses[0].addr = "172.18.0.202".parse().unwrap();
    c.vrrp.insert(0, new);
    c.services.iter_mut().for_each(|s| s.router = s.router.map(|r| r + 1));
    let mut service = c.services[1].clone();
    (service.name, service.router) = ("c".into(), Some(0));
    service.listen.first.set_ip("172.18.0.202".parse().unwrap());
    c.services.push(service);
}

fn vips(m: &Model) -> Vec<(Addr, u32)> {
    m.desired().vips.iter().map(|(addr, vip)| (*addr, vip.router)).collect()
}

const V: Addr = Addr::v4([172, 18, 0, 201]);
const W: Addr = Addr::v4([172, 18, 0, 202]);

#[test]
fn a_router_that_is_put_before_the_others_begins_anew_and_they_keep_number_state_and_alarms() {
    let mut m = all_up();
    entered(&mut m, vrrp::State::Master);
    m.address_changes();
    let from = "172.18.0.8".parse().unwrap();
    m.on_vrrp(&vrrp::Event::TwoOwners { router: 0, from, priority: 7 }, T);
    let mut next = follow(&m, put_another_before);
    let shown = next.snapshot(T);
    let stands: Vec<_> = shown.vrrp.iter().map(|v| (v.name.as_str(), v.state.as_str())).collect();
    assert_eq!(stands, [("w", "Init"), ("v", "Master")]);
    assert_eq!(shown.alarm_list[0].router, "v");
    assert_eq!((vips(&next), next.owned()), (vec![(V, 0), (W, 1)], vec![0]));
    let routers: Vec<_> = next.desired().services.iter().map(|s| s.router).collect();
    assert_eq!(routers, [0, 0, 1]);
    assert_eq!(next.address_changes(), [], "what is there stays, and who has not spoken has nothing");
    entered(&mut next, vrrp::State::Master);
    let changes = next.address_changes();
    assert_eq!((Addr::from(changes[0].addr), changes[0].present), (W, true));
    assert_eq!(next.owned(), [1, 0]);
}

#[test]
fn a_router_that_goes_is_answered_for_by_nobody_and_its_connections_are_not_reset() {
    let mut m = follow(&all_up(), put_another_before);
    m.config.services[2].sessions.drain = Then::Reset(Duration::ZERO);
    entered(&mut m, vrrp::State::Master);
    let now = Instant::now();
    let without = |c: &mut Config| {
        c.vrrp.remove(0);
        c.services.pop();
        c.services.iter_mut().for_each(|s| s.router = Some(0));
    };
    let mut next = follow(&m, without);
    assert_eq!(m.routers_gone_in(next.config()), [(1, 0)]);
    assert_eq!(vips(&next), [(V, 0), (W, 1)], "programs still swallow or relay what comes");
    assert_eq!(next.departed().collect::<Vec<_>>(), [1]);
    let later = now + Duration::from_secs(10);
    assert_eq!(next.take_endings(later), [], "they may be another node's");
    next.on_tick((later, T), |_| 0);
    assert!(next.take_changed());
    assert_eq!((vips(&next), next.departed().count()), (vec![(V, 0)], 0));
    // Its address goes to the one that stays: that counts at once.
    let mut moved = follow(&m, |c| {
        without(c);
        c.vrrp[0].addresses[0].addr = "172.18.0.202".parse().unwrap();
    });
    assert_eq!(vips(&moved), [(W, 0)]);
    moved.on_tick((later, T), |_| 0);
    assert_eq!(vips(&moved), [(W, 0)]);
    // One that comes again has a number of its own.
    let again = follow(&next, put_another_before);
    assert_eq!(again.numbers().routers(), [2, 0]);
}
