//! One task per backend: wait for the next check, make it, feed the state machine, report.
//!
//! [`spawn`] is called by the control loop, once per configuration. Each task ends when the token is cancelled or
//! nobody listens any more; a check under way is dropped then, which is safe because it owns its only connection.
//! Every check has a deadline of its own, so no task waits on a server for longer than `timeout`.

use std::{
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    time::Duration,
};

use tokio::{
    sync::mpsc::UnboundedSender,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};

use super::{Event, Failure, Step, mysql, schedule, tcp};
use crate::config::model::{Check, CheckKind, Service};

/// Starts the checks of all backends of all services. Must be called within a tokio runtime.
///
/// The channel is unbounded because a check interval bounds the rate: at most ten events a second and backend.
pub fn spawn(
    services: &[Service],
    events: &UnboundedSender<Event>,
    cancel: &CancellationToken,
    tracker: &TaskTracker,
) {
    let total = services.iter().map(|s| s.backends.len()).sum();
    let seeds = RandomState::new();
    let start = Instant::now();
    let all = services.iter().enumerate().flat_map(|(s, service)| {
        service.backends.iter().enumerate().map(move |(b, backend)| (s, b, service, backend))
    });
    for (index, (service, backend, config, server)) in all.enumerate() {
        let task = BackendTask {
            service,
            backend,
            schedule: schedule::Backend::new(&config.check, seeds.hash_one(index)),
            checker: Checker::new(server.addr, &config.check),
            limit: config.check.timeout,
            events: events.clone(),
        };
        let first = start + schedule::first_check(index, total);
        let cancel = cancel.clone();
        tracker.spawn(async move { cancel.run_until_cancelled_owned(task.run(first)).await });
    }
}

struct BackendTask {
    service: usize,
    backend: usize,
    schedule: schedule::Backend,
    checker: Checker,
    limit: Duration,
    events: UnboundedSender<Event>,
}

impl BackendTask {
    async fn run(mut self, first: Instant) {
        let mut due = first;
        loop {
            sleep_until(due).await;
            let result = self.check().await;
            let now = Instant::now();
            let event = self.take(now.into_std(), result);
            if self.events.send(event).is_err() {
                return;
            }
            due = self.schedule.next_check(due.into_std(), now.into_std()).into();
        }
    }

    /// One check, in a task of its own: whatever a server sends, even if it made the driver panic, this loop goes on
    /// and says so. The second deadline is for a check that forgets its own.
    async fn check(&mut self) -> Result<Duration, Failure> {
        let mut checker = self.checker.clone();
        let limit = self.limit;
        let mut job = AbortOnDropHandle::new(tokio::spawn(async move {
            let result = checker.check(limit).await;
            (checker, result)
        }));
        match timeout(limit * 2, &mut job).await {
            Ok(Ok((checker, result))) => {
                self.checker = checker;
                result
            }
            Ok(Err(_)) => Err(Failure::Protocol("the answer broke the check".into())),
            Err(_) => Err(Failure::Timeout { step: Step::Login, limit }),
        }
    }

    fn take(&mut self, now: std::time::Instant, result: Result<Duration, Failure>) -> Event {
        let latency = result.as_ref().ok().copied();
        let changed = self.schedule.handle_result(now, result).is_some();
        Event {
            service: self.service,
            backend: self.backend,
            state: self.schedule.state(),
            changed,
            cause: self.schedule.cause().cloned(),
            latency,
            at: now,
        }
    }
}

/// The check of one backend.
#[derive(Clone)]
enum Checker {
    Mysql(mysql::Checker),
    Tcp(SocketAddr),
}

impl Checker {
    fn new(addr: SocketAddr, check: &Check) -> Self {
        match &check.kind {
            CheckKind::Mysql(login) => Self::Mysql(mysql::Checker::new(addr, login, check.timeout)),
            CheckKind::Tcp => Self::Tcp(addr),
        }
    }

    async fn check(&mut self, limit: Duration) -> Result<Duration, Failure> {
        match self {
            Self::Mysql(checker) => checker.check().await,
            Self::Tcp(addr) => tcp::check(*addr, limit).await,
        }
    }
}

#[cfg(test)]
mod tests;
