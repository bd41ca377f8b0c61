//! What becomes of the connections of a backend that is lost, fails its checks, or is taken out: they are kept, ended at once,
//! or ended after a while.
//!
//! Follows from the standings alone, so nothing has to be told twice: what a backend's standing asks for is compared with what
//! was last asked for. The control loop takes what is due with [`Model::take_endings`] and ends it.

use std::time::{Duration, Instant};

use super::Model;
use crate::{
    config::model::{Check, Sessions, Then},
    health::{Cause, Standing, State},
};

/// Why a backend's connections may have to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// Nobody gets an answer from it any more, or Galera has it outside.
    Lost,
    /// It answers, and its checks fail.
    Failed,
    /// It is to be left.
    Drained,
    /// It is in maintenance.
    Maint,
}

/// What was last asked for about a backend.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ending {
    trouble: Option<Trouble>,
    due: Option<Instant>,
}

/// Connections that are to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToEnd {
    /// Number of the backend.
    pub backend: u32,
    /// `service mysql: backend db2 is down: connection refused`.
    pub why: String,
}

impl Trouble {
    /// Only what is known to be lost is lost: a check that is refused for its password says nothing of the sessions.
    fn of(standing: &Standing) -> Option<Self> {
        match (standing.state, &standing.cause) {
            (State::Unchecked | State::Up | State::Full, _)
            | (_, Some(Cause::Flapping(_) | Cause::Passive(_))) => None,
            (State::Down, Some(Cause::Check(failure))) if !failure.is_loss() => Some(Self::Failed),
            (State::Down, _) => Some(Self::Lost),
            (State::Drain, _) => Some(Self::Drained),
            (State::Maint, _) => Some(Self::Maint),
        }
    }

    fn then(self, sessions: &Sessions) -> Then {
        match self {
            Self::Lost => sessions.lost,
            Self::Failed => sessions.failed,
            Self::Drained => sessions.drain,
            Self::Maint => sessions.maint,
        }
    }
}

impl Ending {
    fn follow(&mut self, trouble: Option<Trouble>, sessions: &Sessions, at: Instant) {
        if trouble == self.trouble {
            return;
        }
        self.trouble = trouble;
        self.due = match trouble.map(|trouble| trouble.then(sessions)) {
            Some(Then::Reset(after)) => Some(at + after),
            Some(Then::Keep) | None => None,
        };
    }

    /// When its connections are to end.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What was ended where this node owned nothing is to be ended where it does.
    fn again(&mut self, sessions: &Sessions, at: Instant) {
        if let (None, Some(Then::Reset(_))) = (self.due, self.trouble.map(|trouble| trouble.then(sessions))) {
            self.due = Some(at);
        }
    }
}

/// How long checks take to find a backend that is back, at most.
fn until_up(check: &Check) -> Duration {
    check.interval + check.timeout + check.fast_interval * check.rise
}

impl Model {
    /// Has the endings of a service follow from how its backends stand.
    pub(super) fn follow_endings(&mut self, service: usize, at: Instant) {
        let sessions = self.config.services[service].sessions;
        for (b, backend) in self.backends[service].iter_mut().enumerate() {
            let trouble = Trouble::of(self.pools[service].standing(b));
            backend.ending.follow(trouble, &sessions, at);
        }
    }

    /// A router owns its addresses from now on, and with them the flows that a peer may have known.
    ///
    /// Not before checks have had the time to find a backend again: a node that was cut off has lost all of them, takes the addresses
    /// back once it has found the first one, and the others' connections are as good as ever.
    pub(super) fn end_as_owner(&mut self, router: usize, at: Instant) {
        for (service, backends) in self.config.services.iter().zip(&mut self.backends) {
            if service.router == Some(router) {
                let at = at + until_up(&service.check);
                backends.iter_mut().for_each(|b| b.ending.again(&service.sessions, at));
            }
        }
    }

    /// Whether a backend, by its number, still stands in a way that its connections are ended for.
    pub fn is_in_trouble(&self, backend: u32) -> bool {
        let place = self.numbers.place(backend);
        // Whoever is no longer in the file is to be left for good.
        place.is_none_or(|(s, b)| self.backends[s][b].ending.trouble.is_some())
    }

    /// The backends whose connections are to end now, each once.
    pub fn take_endings(&mut self, now: Instant) -> Vec<ToEnd> {
        let mut due = self.take_leaving(now);
        for (s, config) in self.config.services.iter().enumerate() {
            for (b, backend) in self.backends[s].iter_mut().enumerate() {
                if backend.ending.due.take_if(|due| *due <= now).is_some() {
                    let standing = self.pools[s].standing(b);
                    let cause =
                        standing.cause.as_ref().map_or_else(String::new, |cause| format!(": {cause}"));
                    let (name, state) = (&config.backends[b].name, standing.state.as_str());
                    let why = format!("service {}: backend {name} is {state}{cause}", config.name);
                    due.push(ToEnd { backend: self.numbers.backend(s, b), why });
                }
            }
        }
        due
    }
}
