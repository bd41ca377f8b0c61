//! One task per backend: wait for the next check, make it, feed the state machine, report.
//!
//! `checks` starts them. Each task ends when the token is cancelled or
//! nobody listens any more; a check under way is dropped then, which is safe because it owns its only connection.
//! Every check has a deadline of its own, so no task waits on a server for longer than `timeout`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Event, Failure, Outcome, State, Step, agent, dns, galera, http, mysql, schedule, script, tcp, udp,
};
use crate::config::model::{Backend, Check, CheckKind, DnsCheck, ScriptCheck, Service, UdpCheck};

/// Checks a backend for ever: the first time after `after`, as one that is in `state` already; a `nudge` has the next check made at
/// once, and those after it soon. Ends once `report` has nobody to tell; its events name no place, which the control loop knows. `overdue`
/// is told when an answer takes far longer than the one before.
pub(super) fn check(
    (config, server): (&Service, &Backend),
    seed: u64,
    state: State,
    (after, nudge): (Duration, Arc<Notify>),
    (report, overdue): (impl FnMut(Event) -> bool + Send + 'static, impl FnMut() + Send + 'static),
) -> impl Future<Output = ()> + Send + 'static {
    let task = BackendTask {
        schedule: schedule::Backend::new(&config.check, seed).in_state(state),
        checker: None,
        usual: Duration::ZERO,
        ask: Ask {
            addr: SocketAddr::new(server.addr.ip(), config.check.port.unwrap_or(server.addr.port())),
            service: config.name.clone(),
            backend: server.name.clone(),
            check: config.check.clone(),
        },
        nudge,
    };
    task.run(Instant::now() + after, report, overdue)
}

/// An answer that has not come by then is overdue, unless the last one took a good part of that.
const OVERDUE: Duration = Duration::from_millis(200);

struct BackendTask {
    schedule: schedule::Backend,
    /// `None` before the first check and after one that broke.
    checker: Option<Checker>,
    /// How long its last answer took.
    usual: Duration,
    ask: Ask,
    nudge: Arc<Notify>,
}

impl BackendTask {
    async fn run(mut self, first: Instant, mut report: impl FnMut(Event) -> bool, mut overdue: impl FnMut()) {
        let mut due = first;
        loop {
            tokio::select! {
                () = sleep_until(due) => {}
                () = self.nudge.notified() => {
                    self.schedule.hurry();
                    due = Instant::now();
                }
            }
            let outcome = self.check(&mut overdue).await;
            let now = Instant::now();
            let event = self.take(now.into_std(), outcome);
            if !report(event) {
                return;
            }
            due = self.schedule.next_check(due.into_std(), now.into_std()).into();
        }
    }

    /// One check, in a task of its own: whatever a server sends, even if it made the driver panic, this loop goes on
    /// and says so. The second deadline is for a check that forgets its own.
    async fn check(&mut self, overdue: &mut impl FnMut()) -> Outcome {
        let limit = self.ask.check.timeout;
        let mut checker = self.checker.take().unwrap_or_else(|| Checker::new(&self.ask));
        let mut job = AbortOnDropHandle::new(tokio::spawn(async move {
            let outcome = checker.check(limit).await;
            (checker, outcome)
        }));
        let patience = OVERDUE.max(self.usual * 4).min(limit * 2);
        let done = match timeout(patience, &mut job).await {
            Ok(done) => Ok(done),
            Err(_) => {
                overdue();
                timeout(limit * 2 - patience, &mut job).await
            }
        };
        match done {
            Ok(Ok((checker, outcome))) => {
                self.checker = Some(checker);
                outcome
            }
            Ok(Err(_)) => Err(Failure::Protocol("the answer broke the check".into())).into(),
            Err(_) => Err(Failure::Timeout { step: Step::Login, limit }).into(),
        }
    }

    fn take(&mut self, now: std::time::Instant, outcome: Outcome) -> Event {
        let latency = outcome.result.as_ref().ok().copied();
        self.usual = latency.unwrap_or(self.usual);
        let changed = self.schedule.handle_result(now, outcome.result).is_some();
        Event {
            service: 0,
            backend: 0,
            state: self.schedule.state(),
            changed,
            cause: self.schedule.cause().cloned(),
            latency,
            galera: outcome.galera,
            share: outcome.share,
            output: outcome.output,
            at: now,
        }
    }
}

/// What is asked of whom.
struct Ask {
    addr: SocketAddr,
    service: String,
    backend: String,
    check: Check,
}

/// The check of one backend.
enum Checker {
    Mysql(mysql::Checker),
    Galera(Box<galera::Checker>),
    Agent(agent::Checker),
    Tcp(SocketAddr),
    Http(http::Checker),
    Dns(SocketAddr, DnsCheck),
    Udp(SocketAddr, UdpCheck),
    Script(script::Subject, ScriptCheck),
}

impl Checker {
    fn new(ask: &Ask) -> Self {
        let (addr, limit) = (ask.addr, ask.check.timeout);
        match &ask.check.kind {
            CheckKind::Mysql(login) => Self::Mysql(mysql::Checker::new(addr, login, limit)),
            CheckKind::Galera(check) => Self::Galera(Box::new(galera::Checker::new(addr, check, limit))),
            CheckKind::Agent(check) => Self::Agent(agent::Checker::new(addr, check, limit)),
            CheckKind::Tcp => Self::Tcp(addr),
            CheckKind::Http(check) => Self::Http(http::Checker::new(addr, check, limit)),
            CheckKind::Dns(check) => Self::Dns(addr, check.clone()),
            CheckKind::Udp(check) => Self::Udp(addr, check.clone()),
            CheckKind::Script(check) => {
                let (service, backend) = (ask.service.clone(), ask.backend.clone());
                Self::Script(script::Subject { service, backend, addr }, check.clone())
            }
        }
    }

    async fn check(&mut self, limit: Duration) -> Outcome {
        match self {
            Self::Mysql(checker) => checker.check().await.into(),
            Self::Galera(checker) => checker.check().await,
            Self::Agent(checker) => checker.check().await,
            Self::Tcp(addr) => tcp::check(*addr, limit).await.into(),
            Self::Http(checker) => checker.check().await.into(),
            Self::Dns(addr, check) => dns::check(*addr, check, limit).await.into(),
            Self::Udp(addr, check) => udp::check(*addr, check, limit).await.into(),
            Self::Script(subject, check) => script::check(subject, check, limit).await,
        }
    }
}

#[cfg(test)]
mod tests;
