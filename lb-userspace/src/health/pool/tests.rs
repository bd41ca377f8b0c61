//! One service on made-up time: checks, orders, flapping, slow start, and Galera's roles.

use super::*;
use crate::{
    config::model::{
        Access, Backend, Check, CheckKind, Donor, Failback, Listen, Mode, Protocol, Sessions, Timeouts,
    },
    galera::Observation,
};

struct World {
    pool: Pool,
    now: Instant,
}

fn service(backends: &[(u16, u8)], galera: Option<Galera>, slow_start: Duration) -> Service {
    let backend = |(i, (weight, priority)): (u8, &(u16, u8))| Backend {
        name: format!("b{i}"),
        addr: SocketAddr::from(([10, 0, 0, i], 3306)),
        keeps_port: false,
        weight: *weight,
        max_connections: 0,
        priority: *priority,
        sorry: false,
        admin: Admin::Ready,
        mode: Mode::Nat,
        discovered: false,
    };
    Service {
        access: Access::default(),
        snat: Vec::new(),
        timeouts: Timeouts::default(),
        name: "db".into(),
        listen: Listen { first: "172.18.0.201:3306".parse().unwrap(), last: None },
        router: Some(0),
        protocol: Protocol::Tcp,
        mode: Mode::Nat,
        path: Default::default(),
        scheduler: Scheduler::Rr,
        hash_table_size: 251,
        persistence: None,
        redispatch: true,
        move_ungreeted: false,
        passive: None,
        max_connections: 0,
        backends: (0..).zip(backends).map(backend).collect(),
        check: Check {
            kind: CheckKind::Tcp,
            port: None,
            interval: Duration::from_secs(1),
            fast_interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            rise: 1,
            fall: 1,
        },
        slow_start,
        quorum: 1,
        hysteresis: 0,
        unknown: crate::config::model::Unknown::default(),
        sessions: Sessions::default(),
        galera,
        discovery: None,
        strict: false,
    }
}

fn rules(role: Role, failback: Failback) -> Galera {
    Galera { role, failback, donor: Donor::AllowIfLast, max_receive_queue: None, max_flow_control: None }
}

fn synced(local_index: u32) -> Observation {
    Observation {
        cluster_status: "Primary".into(),
        cluster_uuid: "a".into(),
        conf_id: 7,
        cluster_size: 3,
        ready: true,
        state: 4,
        local_index,
        reject_queries: "NONE".into(),
        ..Observation::default()
    }
}

impl World {
    fn plain(backends: usize) -> Self {
        Self::of(service(&vec![(1, 0); backends], None, Duration::ZERO))
    }

    /// A cluster whose nodes have these priorities; each is synced and its index is its number.
    fn cluster(role: Role, failback: Failback, priorities: &[u8]) -> Self {
        let backends: Vec<_> = priorities.iter().map(|p| (1, *p)).collect();
        let mut world = Self::of(service(&backends, Some(rules(role, failback)), Duration::ZERO));
        for i in 0..priorities.len() {
            world.sees(i, synced(i as u32));
        }
        world
    }

    fn of(service: Service) -> Self {
        Self { pool: Pool::new(&service), now: Instant::now() }
    }

    fn event(
        &mut self,
        backend: usize,
        state: State,
        cause: Option<Failure>,
        galera: Option<Observation>,
    ) -> Vec<Change> {
        let latency = cause.is_none().then_some(Duration::from_millis(1));
        let galera = galera.map(Box::new);
        let (share, output, at) = (None, String::new(), self.now);
        self.pool.on_event(&Event {
            service: 0,
            backend,
            state,
            changed: true,
            cause,
            latency,
            galera,
            share,
            output,
            at,
        })
    }

    fn up(&mut self, backend: usize) -> Vec<Change> {
        self.event(backend, State::Up, None, None)
    }

    fn down(&mut self, backend: usize) -> Vec<Change> {
        self.event(backend, State::Down, Some(Failure::Refused), None)
    }

    fn sees(&mut self, backend: usize, o: Observation) -> Vec<Change> {
        self.event(backend, State::Up, None, Some(o))
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.pool.tick(self.now, |_| 0);
    }

    fn order(&mut self, backend: usize, order: Order) {
        self.pool.order(backend, order, self.now);
    }

    fn ring(&self) -> Vec<usize> {
        self.pool.ring().1.into_iter().map(|(i, _)| i).collect()
    }

    fn states(&self) -> Vec<&'static str> {
        (0..self.pool.members.len()).map(|i| self.pool.standing(i).state.as_str()).collect()
    }

    fn cause(&self, backend: usize) -> String {
        self.pool.standing(backend).cause.as_ref().map(ToString::to_string).unwrap_or_default()
    }
}

#[test]
fn the_ring_holds_who_is_up_and_nobody_else() {
    let mut w = World::plain(5);
    assert_eq!(w.ring(), Vec::<usize>::new());
    for i in 0..4 {
        w.up(i);
    }
    w.event(0, State::Full, Some(Failure::Full), None);
    w.event(1, State::Drain, Some(Failure::Drain("agent: drain".into())), None);
    w.down(2);
    assert_eq!(w.states(), ["full", "drain", "down", "up", "unchecked"]);
    assert_eq!(w.ring(), [3]);
    assert_eq!(
        [w.cause(0), w.cause(1), w.cause(2)],
        ["full: too many connections", "agent: drain", "connection refused"]
    );
}

#[test]
fn orders_take_out_and_bring_back_and_checks_still_count() {
    let mut w = World::plain(2);
    w.up(0);
    w.up(1);
    w.order(0, Order::Admin(Admin::Drain));
    assert_eq!((w.states()[0], w.cause(0), w.ring()), ("drain", "by order".into(), vec![1]));
    w.down(0);
    assert_eq!(w.states()[0], "down", "a drained one that is lost is lost");
    w.order(0, Order::Admin(Admin::Maint));
    assert_eq!(w.states()[0], "maint", "in maintenance it may be what it likes");
    w.order(0, Order::Admin(Admin::Ready));
    assert_eq!(w.states()[0], "down", "ready is not up");
    w.up(0);
    assert_eq!(w.ring(), [0, 1]);
}

#[test]
fn an_ordered_weight_takes_the_place_of_the_configured_one_until_it_is_taken_back() {
    let mut w = World::of(service(&[(10, 0), (10, 0)], None, Duration::ZERO));
    w.up(0);
    w.up(1);
    w.order(0, Order::Weight(Some(3)));
    assert_eq!(w.pool.ring().1, [(0, 3), (1, 10)]);
    w.order(0, Order::Weight(Some(0)));
    assert_eq!(w.pool.ring().1, [(1, 10)]);
    w.order(0, Order::Weight(None));
    assert_eq!(w.pool.ring().1, [(0, 10), (1, 10)]);
}

#[test]
fn the_share_an_agent_asks_for_scales_the_weight_and_outlives_a_failed_check() {
    let mut w = World::of(service(&[(10, 0)], None, Duration::ZERO));
    let mut event = Event {
        service: 0,
        backend: 0,
        state: State::Up,
        changed: true,
        cause: None,
        latency: Some(Duration::ZERO),
        galera: None,
        share: Some(25),
        output: String::new(),
        at: w.now,
    };
    w.pool.on_event(&event);
    assert_eq!(w.pool.ring().1, [(0, 3)]);
    (event.share, event.latency, event.cause) = (None, None, Some(Failure::Closed));
    w.pool.on_event(&event);
    assert_eq!(w.pool.ring().1, [(0, 3)]);
}

#[test]
fn a_backend_that_came_back_starts_slowly_and_one_that_was_up_at_the_start_does_not() {
    let mut w = World::of(service(&[(1, 0), (1, 0)], None, Duration::from_secs(10)));
    w.up(0);
    w.up(1);
    assert_eq!(w.pool.ring(), (Scheduler::Rr, vec![(0, 1), (1, 1)]));
    w.down(0);
    w.up(0);
    assert_eq!(w.pool.ring(), (Scheduler::Wrr, vec![(0, 1), (1, 10)]));
    w.pass(Duration::from_secs(5));
    assert_eq!(w.pool.ring().1, [(0, 6), (1, 10)]);
    w.pass(Duration::from_secs(5));
    assert_eq!(w.pool.ring(), (Scheduler::Rr, vec![(0, 1), (1, 1)]));
}

#[test]
fn a_flapping_backend_is_held_and_the_last_one_never_is() {
    let mut w = World::plain(2);
    w.up(1);
    for _ in 0..4 {
        w.up(0);
        w.down(0);
    }
    let changes = w.up(0);
    assert_eq!(changes, [], "held: it stays down");
    assert!(w.cause(0).starts_with("went down too often; held for "), "{}", w.cause(0));
    assert_eq!(w.ring(), [1]);
    w.down(1);
    assert_eq!((w.states()[0], w.ring()), ("up", vec![0]), "nobody else is left");
    w.up(1);
    assert_eq!(w.ring(), [1]);
    w.pass(Duration::from_secs(60));
    assert_eq!(w.ring(), [0, 1]);
}

/// `backends` equal ones that are all up, ejected for two connections that they do not take; two passed checks bring them back.
fn watched(backends: usize) -> World {
    let mut s = service(&vec![(1, 0); backends], None, Duration::ZERO);
    s.passive = Some(Passive { after: 2, ..Passive::default() });
    s.check.rise = 2;
    let mut w = World::of(s);
    (0..backends).for_each(|i| drop(w.up(i)));
    w.pool.watch(w.now, |_| Counts::default());
    w
}

impl World {
    /// A quarter of a second later these have refused so many connections of as many, all together.
    fn refused(&mut self, refused: &[u64]) -> Vec<Change> {
        self.now += Duration::from_millis(250);
        self.pool.watch(self.now, |i| Counts { flows: refused[i], refused: refused[i], unanswered: 0 })
    }
}

#[test]
fn a_backend_that_takes_no_connections_is_ejected_and_comes_back_by_passed_checks() {
    let mut w = watched(3);
    assert_eq!(w.refused(&[0, 1, 0]), []);
    let changes = w.refused(&[0, 2, 0]);
    assert!(matches!(changes[..], [Change::State { backend: 1, to: State::Down, .. }]), "{changes:?}");
    assert_eq!((w.ring(), w.cause(1)), (vec![0, 2], "passive: 2 of 2 connections refused in 1s".into()));
    assert_eq!(w.pool.take_suspects(), [1], "its check is asked");
    assert_eq!(w.pool.take_suspects(), Vec::<usize>::new());
    w.up(1);
    w.pass(Duration::from_secs(9));
    w.up(1);
    assert_eq!(w.ring(), [0, 2], "its time is not over");
    w.pass(Duration::from_secs(1));
    assert_eq!(w.ring(), [0, 1, 2]);
    assert_eq!(w.refused(&[0, 2, 0]), [], "what it is paid for is forgotten");
}

#[test]
fn an_ejected_backend_whose_check_fails_is_down_for_that() {
    let mut w = watched(2);
    w.refused(&[2, 0]);
    w.down(0);
    assert_eq!((w.states()[0], w.cause(0).as_str()), ("down", "connection refused"));
    w.pass(Duration::from_secs(60));
    w.up(0);
    assert_eq!(w.ring(), [1], "one pass of two");
    w.up(0);
    assert_eq!(w.ring(), [0, 1]);
}

#[test]
fn no_more_than_half_are_ejected_and_never_the_last() {
    let mut w = watched(5);
    w.refused(&[9, 9, 9, 9, 9]);
    assert_eq!(w.ring(), [2, 3, 4], "two of five");
    let mut w = watched(2);
    w.refused(&[9, 9]);
    assert_eq!(w.ring(), [1], "one of two");
    w.down(1);
    assert_eq!(w.ring(), [0], "nobody else is left");
    let mut w = watched(1);
    w.refused(&[9]);
    assert_eq!((w.ring(), w.pool.take_suspects()), (vec![0], vec![0]));
    let mut w = watched(3);
    w.down(1);
    w.down(2);
    w.refused(&[9, 0, 0]);
    assert_eq!(w.ring(), [0], "the others are down");
}

#[test]
fn the_writer_is_never_ejected_and_its_check_is_asked() {
    let mut s =
        service(&[(1, 9), (1, 0), (1, 0)], Some(rules(Role::Writer, Failback::Never)), Duration::ZERO);
    s.passive = Some(Passive::default());
    let mut w = World::of(s);
    (0..3).for_each(|i| drop(w.sees(i, synced(i as u32))));
    w.pool.watch(w.now, |_| Counts::default());
    assert_eq!(w.refused(&[100, 0, 0]), []);
    assert_eq!((w.ring(), w.pool.take_suspects()), (vec![0], vec![0]));
}

#[test]
fn an_ejection_is_no_flapping() {
    let mut w = watched(2);
    for times in 1..=6 {
        w.refused(&[2 * times, 0]);
        assert!(w.cause(0).starts_with("passive: "), "{}", w.cause(0));
        w.up(0);
        w.up(0);
        w.pass(Duration::from_secs(60));
        assert_eq!(w.ring(), [0, 1]);
        w.refused(&[2 * times, 0]);
    }
}

#[test]
fn the_policy_takes_nodes_out_at_once_and_lets_them_back_at_once() {
    let mut w = World::cluster(Role::Any, Failback::Never, &[0, 0, 0]);
    assert_eq!(w.ring(), [0, 1, 2]);
    let mut o = synced(1);
    o.desync = true;
    o.state = 2;
    w.sees(1, o);
    assert_eq!((w.states()[1], w.cause(1).as_str(), w.ring()), ("drain", "wsrep_desync is ON", vec![0, 2]));
    w.sees(1, synced(1));
    assert_eq!(w.ring(), [0, 1, 2]);
    w.sees(1, Observation { cluster_status: "non-Primary".into(), ..synced(1) });
    assert_eq!(w.states()[1], "down");
}

#[test]
fn a_full_node_outside_of_the_primary_component_is_down_not_full() {
    let mut w = World::cluster(Role::Any, Failback::Never, &[0, 0]);
    let lost = Observation { cluster_status: "non-Primary".into(), ..synced(0) };
    w.event(0, State::Full, Some(Failure::Full), Some(lost));
    assert_eq!(w.states()[0], "down");
    w.event(0, State::Full, Some(Failure::Full), Some(synced(0)));
    assert_eq!(w.states()[0], "full");
}

#[test]
fn a_node_that_is_full_from_the_start_is_full_although_nobody_could_ask_it() {
    let mut w = World::of(service(&[(1, 0)], Some(rules(Role::Any, Failback::Never)), Duration::ZERO));
    w.event(0, State::Full, Some(Failure::Full), None);
    assert_eq!((w.states()[0], w.cause(0).as_str()), ("full", "full: too many connections"));
}

#[test]
fn a_component_that_went_astray_before_the_start_gets_no_connection_once_all_are_heard() {
    let mut w = World::of(service(
        &[(1, 9), (1, 0), (1, 0)],
        Some(rules(Role::Writer, Failback::Never)),
        Duration::ZERO,
    ));
    let astray = Observation { conf_id: 9, cluster_size: 1, ..synced(0) };
    for (i, o) in [astray, synced(1), synced(2)].into_iter().enumerate() {
        w.sees(i, o);
        w.pass(Duration::from_millis(60));
    }
    assert_eq!((w.states(), w.ring()), (vec!["down", "up", "up"], vec![1]));
}

#[test]
fn the_writer_is_chosen_when_all_are_heard_and_not_before() {
    let mut w = World::of(service(
        &[(1, 0), (1, 0), (1, 9)],
        Some(rules(Role::Writer, Failback::Never)),
        Duration::ZERO,
    ));
    w.sees(0, synced(0));
    w.sees(1, synced(1));
    assert_eq!(w.ring(), Vec::<usize>::new(), "the third has the highest priority and was not heard yet");
    let changes = w.sees(2, synced(2));
    assert!(changes.contains(&Change::Writer { from: None, to: Some(2) }), "{changes:?}");
    assert_eq!((w.ring(), w.states()), (vec![2], vec!["up"; 3]));
    assert_eq!([0, 1, 2].map(|i| w.pool.standing(i).part), [Part::Standby, Part::Standby, Part::Writer]);
}

#[test]
fn a_lost_writer_is_replaced_by_one_ring_and_comes_back_as_failback_says() {
    for (failback, after) in [(Failback::Never, 1), (Failback::Now, 0), (Failback::WhenIdle, 0)] {
        let mut w = World::cluster(Role::Writer, failback, &[1, 0, 0]);
        assert_eq!(w.ring(), [0]);
        w.down(0);
        assert_eq!(w.ring(), [1], "lowest index of the rest");
        w.pool.tick(w.now, |_| 5);
        w.sees(0, synced(0));
        let busy = if failback == Failback::Now { 0 } else { 1 };
        assert_eq!(w.ring(), [busy], "{failback:?} while it has connections");
        w.pool.tick(w.now, |_| 0);
        assert_eq!(w.ring(), [after], "{failback:?} once it has none");
    }
}

#[test]
fn a_writer_that_is_full_stays_and_one_that_is_read_only_or_drained_does_not() {
    let mut w = World::cluster(Role::Writer, Failback::Never, &[1, 0]);
    w.event(0, State::Full, Some(Failure::Full), Some(synced(0)));
    assert_eq!((w.ring(), w.pool.standing(0).part), (vec![], Part::Writer), "its sessions go on writing");
    w.sees(0, Observation { read_only: true, ..synced(0) });
    assert_eq!((w.ring(), w.states()), (vec![1], vec!["drain", "up"]));
    w.sees(0, synced(0));
    w.order(1, Order::Admin(Admin::Drain));
    assert_eq!(w.ring(), [0]);
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Event(usize, State, Option<u8>),
        Order(usize, Order),
        Pass(u64, u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let state = prop::sample::select(vec![
            State::Up,
            State::Up,
            State::Up,
            State::Full,
            State::Drain,
            State::Maint,
            State::Down,
        ]);
        let order = prop::sample::select(vec![
            Order::Admin(Admin::Ready),
            Order::Admin(Admin::Drain),
            Order::Admin(Admin::Maint),
            Order::Weight(Some(0)),
            Order::Weight(Some(7)),
            Order::Weight(None),
        ]);
        let step = prop_oneof![
            6 => (0usize..4, state, prop::option::of(any::<u8>())).prop_map(|(b, s, o)| Step::Event(b, s, o)),
            1 => (0usize..4, order).prop_map(|(b, o)| Step::Order(b, o)),
            1 => (0u64..20_000, 0u64..3).prop_map(|(ms, flows)| Step::Pass(ms, flows)),
        ];
        prop::collection::vec(step, 0..60)
    }

    /// Conditions by bits, so that most of them are rare.
    fn observation(bits: u8, local_index: u32) -> Observation {
        let mut o = synced(local_index);
        if bits % 8 == 7 {
            o.cluster_status = "non-Primary".into();
        }
        o.read_only = bits % 5 == 4;
        o.conf_id = 7 + u64::from(bits % 9 == 8);
        o.state = if bits % 7 == 6 { 2 } else { 4 };
        o
    }

    proptest! {
        #[test]
        fn at_most_one_writer_is_in_the_ring_and_only_who_is_up_and_wanted(
            steps in steps(),
            role in 0usize..3,
            failback in 0usize..3,
        ) {
            let role = [Role::Writer, Role::Reader, Role::Any][role];
            let failback = [Failback::Never, Failback::WhenIdle, Failback::Now][failback];
            let backends = [(1, 0), (1, 0), (4, 1), (0, 3)];
            let mut w = World::of(service(&backends, Some(rules(role, failback)), Duration::from_secs(5)));
            let mut heard = [false; 4];
            let mut shown = w.states();
            for step in steps {
                let changes = match step {
                    Step::Event(b, state, bits) => {
                        heard[b] = true;
                        let cause = (state != State::Up).then_some(Failure::Refused);
                        let o = observation(bits.unwrap_or(0), b as u32);
                        w.event(b, state, cause, (state != State::Down).then_some(o))
                    }
                    Step::Order(b, order) => w.pool.order(b, order, w.now),
                    Step::Pass(ms, flows) => {
                        w.now += Duration::from_millis(ms);
                        w.pool.tick(w.now, |_| flows)
                    }
                };
                let ring = w.ring();
                prop_assert!(role != Role::Writer || ring.len() <= 1, "{ring:?}");
                for b in &ring {
                    let m = &w.pool.members[*b];
                    prop_assert!(heard[*b] && m.health == State::Up && m.admin == Admin::Ready);
                    prop_assert!(m.standing.state == State::Up && m.standing.weight > 0);
                    let o = &m.seen.as_ref().unwrap().now;
                    prop_assert!(o.is_primary() && (!o.read_only || role == Role::Reader));
                }
                // Whoever follows the changes knows the states.
                for change in changes {
                    if let Change::State { backend, from, to, .. } = change {
                        prop_assert_eq!(shown[backend], from.as_str());
                        shown[backend] = to.as_str();
                    }
                }
                prop_assert_eq!(&shown, &w.states());
            }
        }
    }
}

#[test]
fn a_node_serves_as_long_as_it_reaches_a_backend_whatever_is_ordered() {
    let mut w = World::plain(2);
    assert!(w.pool.serves(), "who has not been checked may pass");
    w.up(0);
    w.down(1);
    assert!(w.pool.serves());
    w.order(0, Order::Admin(Admin::Maint));
    assert!(w.pool.serves(), "all are in maintenance or down: no peer could do better");
    w.down(0);
    assert!(!w.pool.serves(), "the order does not hide that it is out of reach");
}

#[test]
fn a_node_that_reaches_only_what_is_outside_of_the_primary_component_does_not_serve() {
    let mut w = World::cluster(Role::Any, Failback::Never, &[0, 0]);
    assert!(w.pool.serves());
    for backend in 0..2 {
        let alone = Observation { cluster_status: "non-Primary".into(), state: 0, ready: false, ..synced(0) };
        w.sees(backend, alone);
    }
    w.pass(Duration::from_secs(10));
    assert!(!w.pool.serves(), "{:?}", w.states());
    for backend in 0..2 {
        w.sees(backend, Observation { desync: true, state: 2, ..synced(backend as u32) });
    }
    assert!(w.pool.serves(), "a policy that holds for every viplb alike");
}

#[test]
fn an_order_hides_from_the_election_no_node_that_is_outside_of_the_primary_component() {
    for admin in [Admin::Ready, Admin::Drain, Admin::Maint] {
        let mut w = World::cluster(Role::Any, Failback::Never, &[0, 0]);
        w.order(0, Order::Admin(admin));
        for backend in 0..2 {
            let alone =
                Observation { cluster_status: "non-Primary".into(), state: 0, ready: false, ..synced(0) };
            w.sees(backend, alone);
        }
        w.pass(Duration::from_secs(10));
        assert!(!w.pool.serves(), "{admin:?}: {:?}", w.states());
    }
}

/// Of three backends the last is a sorry server.
fn with_sorry(quorum: u32, hysteresis: u32) -> World {
    let mut service = service(&[(1, 0); 4], None, Duration::ZERO);
    service.backends[3].sorry = true;
    (service.quorum, service.hysteresis) = (quorum, hysteresis);
    World::of(service)
}

#[test]
fn a_sorry_server_takes_connections_only_while_no_other_is_up() {
    let mut w = with_sorry(1, 0);
    w.up(3);
    assert_eq!(w.ring(), [3], "who is up at the start takes what comes");
    w.up(0);
    assert_eq!((w.ring(), w.pool.standing(3).part.as_str()), (vec![0], "sorry"));
    w.down(1);
    w.down(2);
    assert_eq!(
        w.down(0).last(),
        Some(&Change::State {
            backend: 0,
            from: State::Up,
            to: State::Down,
            cause: Some(Cause::Check(Failure::Refused))
        })
    );
    assert_eq!(w.ring(), [3]);
    assert!(!w.pool.serves(), "a sorry server is no reason to own addresses");
    assert!(w.up(1).contains(&Change::Quorum { enough: true, up: 1 }));
    assert_eq!(w.ring(), [1]);
}

#[test]
fn below_the_quorum_nobody_ordinary_takes_connections_until_more_than_it_are_up() {
    let mut w = with_sorry(2, 1);
    for i in 0..4 {
        w.up(i);
    }
    assert_eq!(w.ring(), [0, 1, 2]);
    w.down(0);
    w.down(1);
    assert_eq!(w.ring(), [2], "one less than two is borne");
    assert!(w.down(2).contains(&Change::Quorum { enough: false, up: 0 }));
    assert_eq!(w.ring(), [3]);
    w.up(0);
    w.up(1);
    assert_eq!(w.ring(), [3], "two are not enough any more");
    w.up(2);
    assert_eq!(w.ring(), [0, 1, 2]);
    w.down(3);
    w.down(0);
    w.down(1);
    w.down(2);
    assert_eq!(w.ring(), Vec::<usize>::new(), "refused");
}
