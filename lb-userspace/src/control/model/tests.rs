use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Instant,
};

use super::*;
use crate::notify;
use crate::{
    api::snapshot::Health,
    config::{self, SecretError, Surroundings, model::VirtualAddress},
    health::{Failure, State as Up},
};

const T: SystemTime = UNIX_EPOCH;

/// Two services on one address: `a` with two backends, `b` with one.
fn model() -> Model {
    model_with("")
}

/// The same with further lines of the virtual router.
fn model_with(lines: &str) -> Model {
    model_of(|text| text.replace("MORE", lines))
}

fn model_of(change: impl Fn(&str) -> String) -> Model {
    let text = r#"
        [node]
        name = "h1"
        [vrrp.v]
        interface = "eth0"
        virtual_router_id = 51
        priority = 101
        virtual_ipaddress = ["172.18.0.201"]
        MORE
        [service.a]
        listen = "172.18.0.201:3306"
        backend = [{ name = "a1", address = "172.18.0.2" }, { name = "a2", address = "172.18.0.3" }]
        check = { type = "tcp" }
        [service.b]
        listen = "172.18.0.201:8888"
        backend = [{ name = "b1", address = "172.18.0.4:80" }]
        check = { type = "tcp" }
    "#;
    let text = change(text).replace("MORE", "");
    let around = Surroundings {
        host_name: "test".into(),
        directory: Path::new("."),
        read_secret: &|path| Err(SecretError::WorldReadable(path.display().to_string())),
        read_keys: &|path| Err(SecretError::WorldReadable(path.display().to_string())),
        check_program: &|_| Ok(()),
        find_user: &|_| None,
        world_readable: false,
    };
    let config = match config::parse(&text, "test.toml", &around) {
        Ok(loaded) => loaded.config,
        Err(report) => panic!("{report}"),
    };
    let machine = Machine {
        interfaces: vec![MachineInterface {
            name: "eth0".into(),
            ifindex: 7,
            mac: Mac([2; 6]),
            mtu: 1500,
            hook: ("tcx", "test".into()),
            ways: [0; 4],
        }],
        placements: [("eth0".to_owned(), 7), ("eth1".to_owned(), 8)].into(),
        routes: vec![7, 7, 7],
        ways: vec![Way { source: Some("172.18.0.7".parse().unwrap()), mtu: None }; 3],
        snat_ports: SnatPorts::around(32768, 60999),
        started: Some(T),
        program: "/usr/bin/viplb".into(),
    };
    Model::new(config, machine, T)
}

fn check(m: &mut Model, service: usize, backend: usize, state: Up) {
    let passed = state == Up::Up;
    m.on_health(
        &health::Event {
            service,
            backend,
            state,
            changed: true,
            cause: (!passed).then_some(Failure::Refused),
            latency: passed.then_some(Duration::from_millis(1)),
            galera: None,
            share: None,
            output: String::new(),
            at: Instant::now(),
        },
        T,
    );
}

fn entered(m: &mut Model, state: vrrp::State) {
    let reason = vrrp::Reason::Silence;
    m.on_vrrp(&vrrp::Event::Entered { router: 0, state, reason, at: vrrp::BootTime(1) }, T);
}

fn rings(m: &Model) -> Vec<Vec<u32>> {
    m.desired().services.into_iter().map(|s| s.ring).collect()
}

#[test]
fn no_backend_gets_connections_before_its_first_passed_check() {
    let mut m = model();
    assert_eq!(rings(&m), vec![Vec::<u32>::new(); 2]);
    check(&mut m, 0, 1, Up::Up);
    assert_eq!(rings(&m), [vec![1], vec![]]);
    check(&mut m, 1, 0, Up::Up);
    assert_eq!(rings(&m), [vec![1], vec![2]], "backends are numbered across services");
}

#[test]
fn services_are_published_under_their_protocol() {
    let mut m = model();
    m.config.services[1].protocol = Protocol::Udp;
    let protocols: Vec<_> = m.desired().services.iter().map(|s| s.proto).collect();
    assert_eq!(protocols, [PROTO_TCP, PROTO_UDP]);
    assert_eq!(m.snapshot(T).services[1].protocol, "udp");
}

#[test]
fn all_addresses_of_a_router_are_virtual_and_at_its_own_hardware_address_if_that_is_set() {
    let mut m = model();
    let excluded: IpAddr = "fd12::201".parse().unwrap();
    m.config.vrrp[0].excluded.push(VirtualAddress { addr: excluded, prefix_len: 64, dev: None });
    let vips = |m: &Model| m.desired().vips.into_iter().map(|(a, v)| (IpAddr::from(a), v.router, v.mac));
    let advertised = IpAddr::from(Ipv4Addr::new(172, 18, 0, 201));
    let none = Mac::default();
    assert_eq!(vips(&m).collect::<Vec<_>>(), [(advertised, 0, none), (excluded, 0, none)]);
    m.config.vrrp[0].virtual_mac = true;
    let macs: Vec<_> = vips(&m).map(|(.., mac)| mac.to_string()).collect();
    assert_eq!(macs, ["00:00:5e:00:01:33", "00:00:5e:00:02:33"]);
}

#[test]
fn services_on_own_addresses_and_on_several_ports_are_published_as_such() {
    let mut m = model();
    let own: SocketAddr = "172.18.0.7:30000".parse().unwrap();
    let service = &mut m.config.services[1];
    service.router = None;
    service.listen = config::model::Listen { first: own, last: Some(30_100) };
    service.snat = vec![own.ip(), "fd00::7".parse().unwrap()];
    service.backends[0].keeps_port = true;
    let desired = m.desired();
    assert!(desired.vips.contains(&(own.ip().into(), Vip::OWN)));
    let (one, several) = (&desired.services[0], &desired.services[1]);
    assert_eq!((one.router, one.last), (0, None));
    assert_eq!(
        (several.router, several.port.number(), several.last),
        (NO_ROUTER, 30_000, Some(Port::new(30_100)))
    );
    assert_eq!(several.snat.len(), 2);
    assert_eq!(several.snat[0], own.ip().into());
    let ports: Vec<_> = desired.backends.iter().map(|b| b.port.number()).collect();
    assert_eq!(ports, [3306, 3306, 0], "0: the one that the client spoke to");
    assert_eq!(m.snapshot(T).services[1].listen, "172.18.0.7:30000-30100");
}

#[test]
fn a_lost_backend_leaves_the_ring_and_returns_to_its_place() {
    let mut m = model();
    check(&mut m, 0, 0, Up::Up);
    check(&mut m, 0, 1, Up::Up);
    check(&mut m, 0, 0, Up::Down);
    assert_eq!(rings(&m)[0], [1]);
    check(&mut m, 0, 0, Up::Up);
    assert_eq!(rings(&m)[0], [0, 1]);
}

#[test]
fn maps_are_written_only_when_a_state_changed() {
    let mut m = model();
    assert!(m.take_changed(), "at start");
    check(&mut m, 0, 0, Up::Up);
    assert!(m.take_changed());
    check(&mut m, 0, 0, Up::Up);
    assert!(!m.take_changed(), "another pass changes nothing");
}

#[test]
fn addresses_follow_the_election_and_a_leftover_one_is_removed_at_start() {
    let mut m = model();
    let change = |present| {
        let addr = Ipv4Addr::new(172, 18, 0, 201).into();
        vec![AddressChange { ifindex: 7, addr, prefix_len: 32, present }]
    };
    assert!(m.address_changes().is_empty(), "the election may go on with what is there");
    entered(&mut m, vrrp::State::Backup);
    assert_eq!(m.address_changes(), change(false), "whatever a killed daemon left");
    assert!(m.address_changes().is_empty());
    entered(&mut m, vrrp::State::Master);
    assert_eq!(m.address_changes(), change(true));
    assert!(m.address_changes().is_empty());
    entered(&mut m, vrrp::State::Fault);
    assert_eq!(m.address_changes(), change(false));
    entered(&mut m, vrrp::State::Master);
    m.address_changes();
    assert_eq!(m.address_removals(&[]), change(false), "at stop");
}

#[test]
fn addresses_outside_of_the_advert_move_along_each_on_its_own_interface() {
    let mut m = model_with("virtual_ipaddress_excluded = [\"fd00::201/64 dev eth1\", \"10.0.0.1/8\"]");
    m.address_changes();
    entered(&mut m, vrrp::State::Master);
    let added = m.address_changes().into_iter().map(|a| (a.ifindex, format!("{}/{}", a.addr, a.prefix_len)));
    let expected = [(7, "172.18.0.201/32"), (8, "fd00::201/64"), (7, "10.0.0.1/8")];
    assert_eq!(added.collect::<Vec<_>>(), expected.map(|(i, a)| (i, a.to_owned())));
}

#[test]
fn without_assignment_a_leftover_address_is_removed_and_none_is_added() {
    let mut m = model_with("assign_address = false");
    entered(&mut m, vrrp::State::Master);
    let changes = m.address_changes();
    assert!(!changes.is_empty() && changes.iter().all(|a| !a.present));
    assert!(m.address_changes().is_empty());
}

#[test]
fn losing_the_election_and_a_backend_at_once_does_both() {
    let mut m = model();
    check(&mut m, 0, 0, Up::Up);
    check(&mut m, 0, 1, Up::Up);
    entered(&mut m, vrrp::State::Master);
    m.address_changes();
    check(&mut m, 0, 0, Up::Down);
    entered(&mut m, vrrp::State::Backup);
    assert_eq!(rings(&m)[0], [1]);
    assert!(!m.address_changes()[0].present);
}

#[test]
fn the_owner_shown_is_this_node_or_whoever_advertises() {
    let mut m = model();
    let from = Ipv4Addr::new(172, 18, 0, 8).into();
    entered(&mut m, vrrp::State::Backup);
    m.on_vrrp(&vrrp::Event::Heard { router: 0, from, priority: 100 }, T);
    assert_eq!(m.snapshot(T).vrrp[0].owner.as_deref(), Some("172.18.0.8"));
    m.on_vrrp(&vrrp::Event::Heard { router: 0, from, priority: 0 }, T);
    assert_eq!(m.snapshot(T).vrrp[0].owner, None, "it has left");
    entered(&mut m, vrrp::State::Master);
    assert_eq!(m.snapshot(T).vrrp[0].owner.as_deref(), Some("h1"));
}

#[test]
fn an_alarm_names_the_foreign_host_and_ends_a_minute_after_it_was_last_seen() {
    let mut m = model();
    let addr: SocketAddr = "172.18.0.201:0".parse().unwrap();
    m.on_vrrp(&vrrp::Event::ForeignOwner { router: 0, addr: addr.ip(), mac: [2, 0, 0, 0, 0, 9] }, T);
    let alarms = m.snapshot(T + Duration::from_secs(59)).alarms;
    assert!(alarms[0].contains("02:00:00:00:00:09") && alarms[0].contains("172.18.0.201"), "{alarms:?}");
    assert!(m.snapshot(T + Duration::from_secs(60)).alarms.is_empty());
}

#[test]
fn a_node_is_healthy_only_with_every_backend_up_and_a_part_in_the_election() {
    let mut m = model();
    entered(&mut m, vrrp::State::Backup);
    for (s, b) in [(0, 0), (0, 1)] {
        check(&mut m, s, b, Up::Up);
    }
    assert_eq!(m.snapshot(T).health(), Health::Degraded, "b1 was never checked");
    check(&mut m, 1, 0, Up::Up);
    assert_eq!(m.snapshot(T).health(), Health::Healthy);
    entered(&mut m, vrrp::State::Fault);
    assert_eq!(m.snapshot(T).health(), Health::Degraded);
}

/// What programs would be told: subject, state before, state.
fn notices(m: &mut Model) -> Vec<(Subject, notify::State, notify::State)> {
    m.take_notices().into_iter().map(|n| (n.subject, n.old, n.state)).collect()
}

#[test]
fn every_change_of_state_is_told_with_its_reason_and_addresses() {
    use notify::State::{Backup, Init, Master, Stop};
    let mut m = model_with("virtual_ipaddress_excluded = [\"10.0.0.1\"]");
    let router = Subject::Router(0);
    entered(&mut m, vrrp::State::Backup);
    entered(&mut m, vrrp::State::Master);
    let told = m.take_notices();
    assert_eq!((told[0].old, told[0].state), (Init, Backup));
    assert_eq!(told[1].addresses, "172.18.0.201 10.0.0.1");
    assert_eq!((told[1].reason.as_str(), told[1].priority), ("no master was heard", 101));
    assert_eq!(told[1].name, "v");
    entered(&mut m, vrrp::State::Master);
    assert_eq!(notices(&mut m), [], "nothing changed");
    entered(&mut m, vrrp::State::Init);
    assert_eq!(notices(&mut m), [], "the stop is told by itself");
    let mut m = model();
    entered(&mut m, vrrp::State::Master);
    let stopping = m.stop_notices();
    assert_eq!((stopping[0].subject, stopping[0].old, stopping[0].state), (router, Master, Stop));
}

#[test]
fn a_group_changes_with_the_last_of_its_members_that_rises_and_the_first_that_falls() {
    use notify::State::{Backup, Init, Master};
    let other = "[vrrp.w]\ninterface = \"eth0\"\nvirtual_router_id = 52\npriority = 101\n\
                 virtual_ipaddress = [\"172.18.0.202\"]\n[sync_group.g]\ngroup = [\"v\", \"w\"]\n";
    let mut m = model_with(other);
    let enter = |m: &mut Model, router, state| {
        let reason = vrrp::Reason::Silence;
        m.on_vrrp(&vrrp::Event::Entered { router, state, reason, at: vrrp::BootTime(1) }, T);
        notices(m)
            .into_iter()
            .filter(|(s, ..)| *s == Subject::Group(0))
            .map(|(_, a, b)| (a, b))
            .collect::<Vec<_>>()
    };
    assert_eq!(enter(&mut m, 0, vrrp::State::Backup), []);
    assert_eq!(enter(&mut m, 1, vrrp::State::Backup), [(Init, Backup)]);
    assert_eq!(enter(&mut m, 0, vrrp::State::Master), []);
    assert_eq!(enter(&mut m, 1, vrrp::State::Master), [(Backup, Master)]);
    assert_eq!(enter(&mut m, 1, vrrp::State::Backup), [(Master, Backup)]);
    assert_eq!(m.snapshot(T).vrrp[1].sync_group.as_deref(), Some("g"));
}

#[test]
fn a_backends_tracker_speaks_once_every_backend_has_been_checked() {
    let mut m = model_with(
        "track = [{ name = \"db\", weight = -5 }]\n[track.db]\ntype = \"backends\"\nservice = \"a\"\nquorum = 2",
    );
    m.tracking.changes();
    check(&mut m, 0, 0, Up::Down);
    assert_eq!(m.tracking.changes(), [], "the other one may be up");
    check(&mut m, 0, 1, Up::Up);
    assert_eq!(m.tracking.changes(), [(0, vrrp::Tracked { priority: 96, fault: false, blind: false })]);
    assert_eq!((m.snapshot(T).vrrp[0].priority, m.snapshot(T).vrrp[0].effective_priority), (101, 96));
}

#[test]
fn an_ejection_moves_new_connections_and_neither_the_election_nor_those_that_exist() {
    let mut m = model_with(
        "track = [{ name = \"db\", weight = -5 }]\n[track.db]\ntype = \"backends\"\nservice = \"a\"\nquorum = 2",
    );
    check(&mut m, 0, 0, Up::Up);
    check(&mut m, 0, 1, Up::Up);
    check(&mut m, 1, 0, Up::Up);
    m.tracking.changes();
    let start = Instant::now();
    let mut counts = |ms, of: [u64; 3]| {
        let counts = |id: u32| {
            let refused = of[id as usize];
            health::passive::Counts { flows: refused, refused, unanswered: 0 }
        };
        let suspects = m.on_counts((start + Duration::from_millis(ms), T), counts);
        (suspects, rings(&m))
    };
    assert_eq!(counts(0, [7, 7, 7]), (vec![], vec![vec![0, 1], vec![2]]));
    let (suspects, rings) = counts(250, [7, 10, 10]);
    assert_eq!(suspects, [(0, 1), (1, 0)], "by service and backend");
    assert_eq!(rings, [vec![0], vec![2]], "the only one of a service stays");
    assert_eq!(m.tracking.changes(), [], "the peer would find the same");
    assert!(!m.is_in_trouble(1) && m.take_endings(start + Duration::from_secs(60)).is_empty());
    let shown = m.snapshot(T).services[0].backends[1].clone();
    assert_eq!(
        (shown.state.as_str(), shown.cause.as_str()),
        ("down", "passive: 3 of 3 connections refused in 1s")
    );
}

#[test]
fn an_order_changes_the_ring_and_is_shown_and_a_wrong_name_is_told_what_there_is() {
    let mut m = model();
    check(&mut m, 0, 0, Up::Up);
    check(&mut m, 0, 1, Up::Up);
    m.take_changed();
    let now = (Instant::now(), T + Duration::from_secs(9));
    let drain = health::Order::Admin(health::Admin::Drain);
    m.on_order("a", "a1", drain, now).unwrap();
    assert!(m.take_changed());
    assert_eq!(rings(&m)[0], [1]);
    let backend = m.snapshot(T).services[0].backends[0].clone();
    assert_eq!(
        (backend.state.as_str(), backend.ordered.as_str(), backend.cause.as_str()),
        ("drain", "drain", "by order")
    );
    assert_eq!(backend.since, 9);
    let wrong = |m: &mut Model, service, backend| m.on_order(service, backend, drain, now).unwrap_err();
    assert_eq!(wrong(&mut m, "c", "a1"), "there is no service c; there is a, b");
    assert_eq!(wrong(&mut m, "a", "b1"), "service a has no backend b1; it has a1, a2");
    assert!(!m.take_changed());
}

#[test]
fn backends_are_numbered_across_services_also_when_time_passes() {
    let mut m = model();
    let asked = std::cell::RefCell::new(Vec::new());
    m.on_tick((Instant::now(), T), |id| {
        asked.borrow_mut().push(id);
        0
    });
    assert_eq!(*asked.borrow(), [0, 1, 2]);
    assert!(m.take_changed(), "from the start");
    m.on_tick((Instant::now(), T), |_| 7);
    assert!(!m.take_changed());
}

#[test]
fn no_secret_is_in_a_snapshot() {
    let text = serde_json::to_string(&model().snapshot(T)).unwrap();
    assert!(!text.contains("pass"), "{text}");
}

#[test]
fn ways_to_backends_follow_the_mtu_of_their_interface_and_the_file() {
    use config::model::{Mode, Mss, PathOptions};
    let mut m = model();
    m.config.services[0].backends[0].mode = Mode::Tunnel;
    let path = |m: &Model| m.desired().paths[0];
    assert_eq!((path(&m).mtu, path(&m).least, path(&m).mss), (1500, 1500, 0));
    assert_eq!(path(&m).source, Addr::v4([172, 18, 0, 7]));
    m.take_changed();
    m.on_mtu(7, 1500);
    m.on_mtu(8, 1300);
    assert!(!m.take_changed(), "nothing new, and not an interface with programs");
    m.on_mtu(7, 1400);
    assert!(m.take_changed());
    assert_eq!((path(&m).mtu, path(&m).least), (1400, 1400));
    m.on_mtu(7, 65_536);
    assert_eq!(path(&m).mtu, u16::MAX, "as long as a packet can be");
    m.on_mtu(7, 1500);
    m.config.services[0].path = PathOptions {
        tunnel_source: Some("172.18.0.9".parse().unwrap()),
        tunnel_mtu: Some(1300),
        mss: Mss::AtMost(1000),
    };
    assert_eq!((path(&m).mtu, path(&m).least, path(&m).mss), (1320, 1500, 1000));
    assert_eq!(m.desired().paths[1].source, Addr::v4([172, 18, 0, 7]), "a backend in another mode");
    assert_eq!(path(&m).source, Addr::v4([172, 18, 0, 9]));
}

#[test]
fn programs_are_told_how_a_backend_is_chosen_and_what_limits_there_are() {
    let mut m = model_of(|text| {
        let first = "address = \"172.18.0.3\", priority = 9, max_connections = 7, weight = 3";
        text.replace("address = \"172.18.0.3\"", first).replace(
            "[service.a]",
            "[service.a]\nscheduler = \"fo\"\nmax_connections = 11\npersistence_timeout = 60\npersistence_prefix = 24",
        )
    });
    check(&mut m, 0, 0, Up::Up);
    check(&mut m, 0, 1, Up::Up);
    let desired = m.desired();
    assert_eq!(desired.limits, [0, 7, 0]);
    let service = &desired.services[0];
    assert_eq!(service.ring, [1, 0], "the one with the higher priority first");
    let choice = &service.choice;
    assert_eq!(choice.members, [(1, 3), (0, 1)]);
    assert_eq!(
        (choice.scheduler, choice.max_connections, choice.persistence),
        (lb_common::schedule::Scheduler::Fo, 11, Some((120, 60)))
    );
    assert_eq!(m.snapshot(T).services[0].scheduler, "fo");
}
mod endings;
mod reload;
