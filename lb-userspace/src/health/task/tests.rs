//! The tasks end to end: from a server that changes its ways to the events the control loop reads.

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::super::{
    Checks, State, Task,
    testserver::{Script, Server},
};
use super::*;
use crate::config::model::{
    Access, Admin, Backend, Listen, Mode, MysqlLogin, Protocol, Scheduler, Sessions, Timeouts,
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
        move_ungreeted: false,
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
                admin: Admin::Ready,
                mode: Mode::Nat,
                discovered: false,
            })
            .collect(),
        check: Check { kind, port: None, interval, fast_interval: interval, timeout, rise: 2, fall: 3 },
        quorum: 1,
        hysteresis: 0,
        unknown: crate::config::model::Unknown::default(),
        sessions: Sessions::default(),
        slow_start: Duration::ZERO,
        galera: None,
        discovery: None,
        strict: false,
    }
}

fn mysql() -> CheckKind {
    CheckKind::Mysql(MysqlLogin { user: "monitor".into(), password: "secret".into(), password_file: None })
}

struct Running {
    events: UnboundedReceiver<(Task, Event)>,
    checks: Checks,
    cancel: CancellationToken,
    tracker: TaskTracker,
}

fn start(services: &[Service]) -> Running {
    let (sender, events) = unbounded_channel();
    let (cancel, tracker) = (CancellationToken::new(), TaskTracker::new());
    let (overdue, _) = unbounded_channel();
    let mut checks = Checks::new((sender, overdue), &cancel, &tracker);
    let all = services.iter().flat_map(|s| s.backends.iter().map(move |b| (s, b)));
    for (number, who) in (0..).zip(all) {
        checks.start(number, who, State::Unchecked, Duration::ZERO);
    }
    tracker.close();
    Running { events, checks, cancel, tracker }
}

impl Running {
    /// The next event, with the number of its backend.
    async fn next(&mut self) -> (u32, Event) {
        let (task, event) = self.events.recv().await.expect("tasks run");
        (self.checks.speaks_for(task).expect("it runs"), event)
    }

    async fn next_of(&mut self, backend: u32) -> Event {
        loop {
            let (number, event) = self.next().await;
            if number == backend {
                return event;
            }
        }
    }

    async fn next_change(&mut self) -> (u32, Event) {
        loop {
            let (number, event) = self.next().await;
            if event.changed {
                return (number, event);
            }
        }
    }
}

#[tokio::test]
async fn each_backend_is_reported_by_its_number() {
    let (good, bad) = (Server::start(Script::Healthy).await, Server::start(Script::Close).await);
    let services = [service(&[good.addr], CheckKind::Tcp), service(&[good.addr, bad.addr], mysql())];
    let mut running = start(&services);
    let mut first = [running.next_change().await, running.next_change().await, running.next_change().await];
    first.sort_by_key(|(number, _)| *number);
    let states: Vec<_> = first.iter().map(|(number, e)| (*number, e.state, e.passed())).collect();
    assert_eq!(states, [(0, State::Up, true), (1, State::Up, true), (2, State::Down, false)]);
    assert_eq!(first[2].1.cause, Some(Failure::Closed));
}

#[tokio::test]
async fn a_backend_goes_down_after_fall_failures_and_comes_back_after_rise_passes() {
    let server = Server::start(Script::Healthy).await;
    let mut running = start(&[service(&[server.addr], mysql())]);
    assert_eq!(running.next_of(0).await.state, State::Up);

    server.become_(Script::ErrorAtLogin(1047, "WSREP has not yet prepared node"));
    let (_, down) = running.next_change().await;
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
    let first = [running.next_change().await.0, running.next_change().await.0];
    assert_ne!(first[0], first[1], "each is checked at the start");
    running.checks.ask(1);
    let (number, asked) = timeout(Duration::from_secs(10), running.next()).await.expect("no waiting");
    assert_eq!((number, asked.passed()), (1, true));
    running.checks.ask(7);
}

#[tokio::test]
async fn a_server_that_breaks_the_driver_is_down_and_still_checked() {
    let server = Server::start(Script::BrokenKey).await;
    let mut running = start(&[service(&[server.addr], mysql())]);
    let down = running.next_of(0).await;
    assert_eq!(down.state, State::Down);
    assert_eq!(down.cause, Some(Failure::Protocol("the answer broke the check".into())));
    server.become_(Script::Healthy);
    assert_eq!(running.next_change().await.1.state, State::Up);
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

#[tokio::test]
async fn a_check_that_takes_another_ones_place_goes_on_from_its_state_and_the_other_is_not_heard_any_more() {
    let (gone, there) = (Server::start(Script::Close).await, Server::start(Script::Healthy).await);
    let services = [service(&[gone.addr], mysql()), service(&[there.addr], mysql())];
    let mut running = start(&services);
    assert_eq!(running.next_of(0).await.state, State::Down);
    let (stale, _) = loop {
        let (task, event) = running.events.recv().await.expect("tasks run");
        if task.number == 0 {
            break (task, event);
        }
    };
    let [_, healthy] = &services;
    running.checks.start(0, (healthy, &healthy.backends[0]), State::Down, Duration::ZERO);
    assert_eq!(running.checks.speaks_for(stale), None);
    let first = loop {
        let (task, event) = running.events.recv().await.expect("tasks run");
        if task.number == 0 && running.checks.speaks_for(task).is_some() {
            break event;
        }
    };
    assert_eq!((first.state, first.passed()), (State::Down, true), "one pass of the two that it takes");
    running.checks.stop(0);
    assert_eq!(running.checks.speaks_for(Task { number: 0, ..stale }), None);
}
