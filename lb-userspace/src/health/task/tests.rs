//! The tasks end to end: from a server that changes its ways to the events the control loop reads.

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::super::{
    State,
    testserver::{Script, Server},
};
use super::*;
use crate::config::model::{
    Access, Backend, Listen, Mode, MysqlLogin, Protocol, Scheduler, Sessions, Timeouts,
};

fn service(addrs: &[SocketAddr], kind: CheckKind) -> Service {
    let (interval, timeout) = (Duration::from_millis(50), Duration::from_secs(5));
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
        passive: None,
        max_connections: 0,
        backends: addrs
            .iter()
            .map(|a| Backend {
                name: a.to_string(),
                addr: *a,
                keeps_port: false,
                weight: 1,
                max_connections: 0,
                priority: 0,
                sorry: false,
                mode: Mode::Nat,
            })
            .collect(),
        check: Check { kind, port: None, interval, fast_interval: interval, timeout, rise: 2, fall: 3 },
        quorum: 1,
        hysteresis: 0,
        unknown: crate::config::model::Unknown::default(),
        sessions: Sessions::default(),
        slow_start: Duration::ZERO,
        galera: None,
    }
}

fn mysql() -> CheckKind {
    CheckKind::Mysql(MysqlLogin { user: "monitor".into(), password: "secret".into(), password_file: None })
}

struct Running {
    events: UnboundedReceiver<Event>,
    cancel: CancellationToken,
    tracker: TaskTracker,
    nudges: Nudges,
}

fn start(services: &[Service]) -> Running {
    let (sender, events) = unbounded_channel();
    let (cancel, tracker) = (CancellationToken::new(), TaskTracker::new());
    let nudges = spawn(services, &sender, &cancel, &tracker);
    tracker.close();
    Running { events, cancel, tracker, nudges }
}

impl Running {
    async fn next_of(&mut self, backend: usize) -> Event {
        loop {
            let event = self.events.recv().await.expect("tasks run");
            if event.backend == backend {
                return event;
            }
        }
    }

    async fn next_change(&mut self) -> Event {
        loop {
            let event = self.events.recv().await.expect("tasks run");
            if event.changed {
                return event;
            }
        }
    }
}

#[tokio::test]
async fn each_backend_of_each_service_is_reported_by_its_indices() {
    let (good, bad) = (Server::start(Script::Healthy).await, Server::start(Script::Close).await);
    let services = [service(&[good.addr], CheckKind::Tcp), service(&[good.addr, bad.addr], mysql())];
    let mut running = start(&services);
    let mut first = [running.next_change().await, running.next_change().await, running.next_change().await];
    first.sort_by_key(|e| (e.service, e.backend));
    let states: Vec<_> = first.iter().map(|e| (e.service, e.backend, e.state, e.passed())).collect();
    assert_eq!(states, [(0, 0, State::Up, true), (1, 0, State::Up, true), (1, 1, State::Down, false)]);
    assert_eq!(first[2].cause, Some(Failure::Closed));
}

#[tokio::test]
async fn a_backend_goes_down_after_fall_failures_and_comes_back_after_rise_passes() {
    let server = Server::start(Script::Healthy).await;
    let mut running = start(&[service(&[server.addr], mysql())]);
    assert_eq!(running.next_of(0).await.state, State::Up);

    server.become_(Script::ErrorAtLogin(1047, "WSREP has not yet prepared node"));
    let down = running.next_change().await;
    assert_eq!((down.state, down.cause, down.latency), (State::Down, Some(Failure::NotReady), None));

    server.become_(Script::Healthy);
    let first_pass = loop {
        let event = running.next_of(0).await;
        if event.passed() {
            break event;
        }
    };
    assert_eq!((first_pass.state, first_pass.cause), (State::Down, Some(Failure::NotReady)));
    let up = running.next_of(0).await;
    assert_eq!((up.state, up.changed, up.cause), (State::Up, true, None));
}

#[tokio::test]
async fn a_check_that_is_asked_for_is_made_at_once_and_is_that_backends_own() {
    let server = Server::start(Script::Healthy).await;
    let mut seldom = service(&[server.addr, server.addr], CheckKind::Tcp);
    seldom.check.interval = Duration::from_secs(3600);
    seldom.check.fast_interval = Duration::from_secs(3600);
    let mut running = start(&[seldom]);
    let first = [running.next_change().await.backend, running.next_change().await.backend];
    assert_ne!(first[0], first[1], "each is checked at the start");
    running.nudges.ask(0, 1);
    let asked = timeout(Duration::from_secs(10), running.events.recv()).await.expect("no waiting").unwrap();
    assert_eq!((asked.backend, asked.passed()), (1, true));
    running.nudges.ask(7, 0);
    running.nudges.ask(0, 7);
}

#[tokio::test]
async fn a_server_that_breaks_the_driver_is_down_and_still_checked() {
    let server = Server::start(Script::BrokenKey).await;
    let mut running = start(&[service(&[server.addr], mysql())]);
    let down = running.next_of(0).await;
    assert_eq!(down.state, State::Down);
    assert_eq!(down.cause, Some(Failure::Protocol("the answer broke the check".into())));
    server.become_(Script::Healthy);
    assert_eq!(running.next_change().await.state, State::Up);
}

#[tokio::test]
async fn cancelling_ends_every_task_also_one_that_waits_for_a_server() {
    let (healthy, frozen) = (Server::start(Script::Healthy).await, Server::start(Script::Silent).await);
    let mut running = start(&[service(&[healthy.addr, frozen.addr], mysql())]);
    running.next_of(0).await;
    running.cancel.cancel();
    timeout(Duration::from_secs(4), running.tracker.wait())
        .await
        .expect("sooner than the limit of the check");
}

#[tokio::test]
async fn nobody_listening_ends_the_tasks() {
    let server = Server::start(Script::Healthy).await;
    let running = start(&[service(&[server.addr], CheckKind::Tcp)]);
    drop(running.events);
    timeout(Duration::from_secs(20), running.tracker.wait()).await.expect("the next check ends the task");
}
