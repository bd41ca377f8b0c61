//! Health of backends: who gets new connections.
//!
//! `task` runs one task per backend that makes its check (`mysql`, `galera`, `tcp`, …), lets [`schedule`] count passes
//! and failures, and reports an [`Event`]. [`pool`] makes of all events of a service, of what the packet programs see of its
//! connections ([`passive`]), of Galera's policy and of what operators ask for the standing of each backend. All are pure. The
//! control loop starts the tasks by [`Checks`]
//! and feeds the pools; nothing here touches maps. No backend is up before its first passed check.

pub mod agent;
pub mod damping;
pub mod dns;
pub mod failure;
pub mod galera;
pub mod http;
pub mod mysql;
pub mod passive;
pub mod pool;
pub mod ramp;
pub mod schedule;
pub mod script;
pub mod tcp;
pub mod tls;
pub mod udp;

mod checks;
mod task;
#[cfg(test)]
mod testserver;

use std::time::{Duration, Instant};

use crate::galera::Observation;

pub use checks::{Checks, Task};
pub use failure::{Failure, Step};
pub use pool::{Admin, Cause, Change, Order, Part, Pool, Restored, Standing};
pub use schedule::{State, Transition};

/// What one check of one backend found.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Index of the service in the configuration, which the control loop fills in: a task does not know it.
    pub service: usize,
    /// Index of the backend within the service; likewise.
    pub backend: usize,
    /// State after this check, as far as the backend alone goes.
    pub state: State,
    /// Set when the check changed the state.
    pub changed: bool,
    /// Why the backend is not up; or, while it is up, why this check failed. `None` for an up backend after a pass.
    pub cause: Option<Failure>,
    /// How long the check took, if it passed.
    pub latency: Option<Duration>,
    /// What a `galera` check saw.
    pub galera: Option<Box<Observation>>,
    /// Share of its weight that the backend asks for itself, in percent (`agent`).
    pub share: Option<u8>,
    /// What the check has to say besides: the last line of a script.
    pub output: String,
    /// When the check ended.
    pub at: Instant,
}

impl Event {
    /// Whether the check itself passed, whatever the state.
    pub fn passed(&self) -> bool {
        self.latency.is_some()
    }
}

/// What a check brings home.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// How long it took, or why it failed.
    pub result: Result<Duration, Failure>,
    /// [`Event::galera`].
    pub galera: Option<Box<Observation>>,
    /// [`Event::share`].
    pub share: Option<u8>,
    /// [`Event::output`].
    pub output: String,
}

impl From<Result<Duration, Failure>> for Outcome {
    fn from(result: Result<Duration, Failure>) -> Self {
        Self { result, galera: None, share: None, output: String::new() }
    }
}
