//! Whose connections end, and when.

use super::*;
use crate::config::model::{Sessions, Then};

const S: Duration = Duration::from_secs(1);

struct World {
    model: Model,
    began: Instant,
}

impl World {
    fn new(sessions: Sessions) -> Self {
        let mut model = model();
        model.config.services[0].sessions = sessions;
        let mut world = Self { model, began: Instant::now() };
        for backend in [0, 1] {
            world.check(0, backend, Ok(()));
        }
        world
    }

    fn check(&mut self, at: u32, backend: usize, result: Result<(), Failure>) {
        let cause = result.err();
        let event = health::Event {
            service: 0,
            backend,
            state: cause.as_ref().map_or(Up::Up, Failure::leads_to),
            changed: true,
            latency: cause.is_none().then_some(Duration::ZERO),
            cause,
            galera: None,
            share: None,
            output: String::new(),
            at: self.began + at * S,
        };
        self.model.on_health(&event, T);
    }

    fn due(&mut self, at: u32) -> Vec<u32> {
        self.model.take_endings(self.began + at * S).into_iter().map(|e| e.backend).collect()
    }
}

#[test]
fn connections_of_a_backend_that_is_lost_end_at_once_and_once() {
    let mut w = World::new(Sessions::default());
    assert_eq!(w.due(0), [0; 0]);
    w.check(1, 1, Err(Failure::Refused));
    let due = w.model.take_endings(w.began + S);
    assert_eq!(due[0].why, "service a: backend a2 is down: connection refused");
    assert_eq!((due[0].backend, due.len()), (1, 1));
    w.check(2, 1, Err(Failure::Closed));
    assert_eq!(w.due(9), [0; 0], "still lost");
    assert!(w.model.is_in_trouble(1) && !w.model.is_in_trouble(0));
    w.check(10, 1, Ok(()));
    assert!(!w.model.is_in_trouble(1), "what comes now is not ended by a pass that is still to come");
    w.check(11, 1, Err(Failure::Refused));
    assert_eq!(w.due(11), [1]);
}

/// The password of the check's account is none of the clients' business.
#[test]
fn connections_stay_where_only_the_check_fails_until_the_server_is_lost() {
    let mut w = World::new(Sessions::default());
    w.check(1, 0, Err(Failure::Denied));
    assert_eq!(w.due(9), [0; 0]);
    w.check(10, 0, Err(Failure::Unreachable("no route to host".into())));
    assert_eq!(w.due(10), [0]);
}

#[test]
fn connections_that_may_go_on_for_a_while_end_then_unless_the_backend_is_back() {
    let sessions = Sessions { drain: Then::Reset(30 * S), ..Sessions::default() };
    let mut w = World::new(sessions);
    let order = |w: &mut World, at: u32, admin| {
        let now = (w.began + at * S, T);
        w.model.on_order("a", "a1", health::Order::Admin(admin), now).unwrap();
    };
    order(&mut w, 1, health::Admin::Drain);
    order(&mut w, 20, health::Admin::Ready);
    assert_eq!(w.due(40), [0; 0]);
    order(&mut w, 50, health::Admin::Drain);
    assert_eq!(w.due(79), [0; 0]);
    assert_eq!(w.due(80), [0]);
    order(&mut w, 90, health::Admin::Maint);
    assert_eq!(w.due(200), [0; 0], "kept in maintenance unless asked for");
}

#[test]
fn who_becomes_owner_ends_what_a_peer_knew_of_backends_that_are_lost() {
    let mut w = World::new(Sessions::default());
    w.check(1, 1, Err(Failure::Refused));
    assert_eq!(w.due(1), [1]);
    let entered = |state| vrrp::Event::Entered {
        router: 0,
        state,
        reason: vrrp::Reason::Silence,
        at: vrrp::BootTime(0),
    };
    w.model.on_vrrp(&entered(vrrp::State::Master), T);
    assert_eq!(w.model.take_endings(Instant::now()), [], "checks may be about to find it again");
    assert_eq!(w.model.take_endings(Instant::now() + 60 * S)[0].backend, 1);
    w.check(3, 1, Ok(()));
    w.model.on_vrrp(&entered(vrrp::State::Master), T);
    assert_eq!(w.model.take_endings(Instant::now() + 60 * S), []);
}

#[test]
fn a_node_that_was_cut_off_ends_nothing_of_backends_that_it_finds_again_after_it_has_taken_over() {
    let mut w = World::new(Sessions::default());
    for backend in [0, 1] {
        w.check(1, backend, Err(Failure::Unreachable("no route to host".into())));
    }
    assert_eq!(w.due(1), [0, 1], "it owns no flow, and ends none");
    w.check(5, 0, Ok(()));
    let reason = vrrp::Reason::Silence;
    let entered =
        vrrp::Event::Entered { router: 0, state: vrrp::State::Master, reason, at: vrrp::BootTime(0) };
    w.model.on_vrrp(&entered, T);
    w.check(6, 1, Ok(()));
    assert_eq!(w.model.take_endings(Instant::now() + 60 * S), []);
}

#[test]
fn flows_are_named_as_status_names_services_and_backends() {
    let m = model();
    let kill = |service: Option<&str>, backend: Option<&str>| {
        let (service, backend) = (service.map(str::to_owned), backend.map(str::to_owned));
        m.which(&crate::api::FlowKill { service, backend, ..Default::default() })
    };
    let which = kill(Some("b"), Some("b1")).unwrap();
    assert_eq!((which.service, which.backend), (Some(1), Some(2)));
    assert_eq!(kill(Some("a"), Some("b1")).unwrap_err(), "service a has no backend b1; it has a1, a2");
    assert_eq!(kill(Some("c"), None).unwrap_err(), "there is no service c; there is a, b");
    assert!(kill(None, Some("a1")).is_err(), "of which service?");
}
