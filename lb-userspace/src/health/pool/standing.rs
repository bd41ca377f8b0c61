//! How a backend of a pool stands, why, and what changes it: the words between pool, control loop and operators.

use std::{fmt, time::Duration};

use super::super::{Failure, State, passive::Tally};
use crate::galera::policy::Reason;

pub use crate::config::model::Admin;

/// What a daemon knows of a backend and leaves to the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// What its own checks have found.
    pub health: State,
    /// What an operator wants of it.
    pub admin: Admin,
    /// What the file wanted of it then.
    pub configured_admin: Admin,
    /// The weight that was ordered.
    pub ordered_weight: Option<u16>,
    /// It is its service's writer.
    pub writer: bool,
}

/// An operator's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Set what is wanted.
    Admin(Admin),
    /// Set the weight; `None`: that of the configuration.
    Weight(Option<u16>),
}

/// A backend's part in a Galera service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Part {
    /// As any other.
    #[default]
    Plain,
    /// Gets all new connections.
    Writer,
    /// Good, and not the writer.
    Standby,
    /// Gets connections only while too few others are up.
    Sorry,
}

/// Why a backend stands as it does. `Display` gives the words of status and log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// Its own checks.
    Check(Failure),
    /// The policy.
    Galera(Reason),
    /// An operator.
    Operator,
    /// It went down too often; held for so much longer.
    Flapping(Duration),
    /// Its checks pass, but it did not take its clients' connections.
    Passive(Tally),
}

/// How a backend stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Its state.
    pub state: State,
    /// Why; `None` for a backend that is up without complaints.
    pub cause: Option<Cause>,
    /// Its part.
    pub part: Part,
    /// Weight in use, without slow start.
    pub weight: u16,
    /// Share of the weight that it has, in percent, while it starts slowly.
    pub percent: u8,
    /// Whether the policy has it outside of the primary component. Beside the cause, which an order takes the place of.
    pub outside: bool,
}

/// What has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A backend's state.
    State {
        /// Which.
        backend: usize,
        /// Before.
        from: State,
        /// From now on.
        to: State,
        /// Why.
        cause: Option<Cause>,
    },
    /// Whether enough ordinary backends are up.
    Quorum {
        /// They are.
        enough: bool,
        /// How many.
        up: u32,
    },
    /// The writer.
    Writer {
        /// Before.
        from: Option<usize>,
        /// From now on.
        to: Option<usize>,
    },
}

impl Standing {
    /// Its state without what passive checks say.
    pub fn by_checks(&self) -> State {
        if matches!(self.cause, Some(Cause::Passive(_))) { State::Up } else { self.state }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Check(failure) => failure.fmt(f),
            Self::Galera(reason) => reason.fmt(f),
            Self::Operator => f.write_str("by order"),
            Self::Flapping(left) => write!(f, "went down too often; held for {} s more", left.as_secs() + 1),
            Self::Passive(tally) => tally.fmt(f),
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admin(admin) => f.write_str(admin.as_str()),
            Self::Weight(Some(weight)) => write!(f, "weight {weight}"),
            Self::Weight(None) => f.write_str("its configured weight"),
        }
    }
}

impl Part {
    /// The word of status and log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Writer => "writer",
            Self::Standby => "standby",
            Self::Sorry => "sorry",
        }
    }
}
