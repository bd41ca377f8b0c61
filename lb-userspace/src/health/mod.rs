//! Health of backends: who gets new connections.
//!
//! [`schedule`] decides (pure), [`mysql`] and [`tcp`] ask the server, `task` runs one task per backend and reports an
//! [`Event`] after every check. The control loop starts it all with [`spawn`] and only ever reads events; nothing
//! here touches maps. No backend is up before its first passed check.

pub mod mysql;
pub mod schedule;
pub mod tcp;

mod task;
#[cfg(test)]
mod testserver;

use std::{
    fmt, io,
    time::{Duration, Instant},
};

pub use schedule::{State, Transition};
pub use task::spawn;

/// What one check of one backend found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Index of the service in the configuration.
    pub service: usize,
    /// Index of the backend within the service.
    pub backend: usize,
    /// State after this check.
    pub state: State,
    /// Set when the check changed the state.
    pub changed: bool,
    /// Why the backend is down; or, while it is up, why this check failed. `None` for an up backend after a pass.
    pub cause: Option<Failure>,
    /// How long the check took, if it passed.
    pub latency: Option<Duration>,
    /// When the check ended.
    pub at: Instant,
}

impl Event {
    /// Whether the check itself passed, whatever the state.
    pub fn passed(&self) -> bool {
        self.latency.is_some()
    }
}

/// Why a check failed. `Display` gives the words that status and log show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Nothing listens on the port.
    Refused,
    /// No way to the host; the system's words.
    Unreachable(String),
    /// A step did not end in time.
    Timeout {
        /// What was waited for.
        step: Step,
        /// The limit of the whole check.
        limit: Duration,
    },
    /// The server closed the connection.
    Closed,
    /// The server takes no more connections (1040, 1203): it is alive, but has no room.
    Full,
    /// The server blocks this host for earlier broken logins (1129).
    Blocked,
    /// User or password are wrong, or this host may not connect (1044, 1045, 1130, 1698).
    Denied,
    /// A Galera node outside of the primary component, or still joining (1047).
    NotReady,
    /// Any other error the server sent.
    Server {
        /// MySQL error number.
        code: u16,
        /// Its message, shortened, printable characters only.
        message: String,
    },
    /// What was received is not the protocol.
    Protocol(String),
}

/// Steps of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// TCP handshake.
    Connect,
    /// The server's first words.
    Greeting,
    /// Connect, greeting and authentication in one.
    Login,
    /// `COM_PING`.
    Ping,
}

impl Failure {
    /// What an I/O error means.
    pub fn from_io(error: &io::Error, step: Step, limit: Duration) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionRefused => Self::Refused,
            Kind::TimedOut => Self::Timeout { step, limit },
            Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown => {
                Self::Unreachable(printable(&error.kind().to_string()))
            }
            Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe | Kind::UnexpectedEof => {
                Self::Closed
            }
            _ => Self::Protocol(printable(&error.to_string())),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::Unreachable(reason) => f.write_str(reason),
            Self::Timeout { step, limit } => write!(f, "{step} within {limit:?}"),
            Self::Closed => f.write_str("closed by the server"),
            Self::Full => f.write_str("full: too many connections"),
            Self::Blocked => f.write_str("this host is blocked by max_connect_errors; run FLUSH HOSTS there"),
            Self::Denied => f.write_str("access denied to the check's account"),
            Self::NotReady => f.write_str("WSREP not ready"),
            Self::Server { code, message } => write!(f, "error {code}: {message}"),
            Self::Protocol(what) => write!(f, "not the expected protocol: {what}"),
        }
    }
}

impl std::error::Error for Failure {}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "no answer to connect",
            Self::Greeting => "connected, but no greeting",
            Self::Login => "no login",
            Self::Ping => "no answer to ping",
        })
    }
}

/// A server's words, cut to what a log line bears.
fn printable(text: &str) -> String {
    let mut out: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LIMIT_CHARS).collect();
    if text.chars().nth(LIMIT_CHARS).is_some() {
        out.push('…');
    }
    out
}

const LIMIT_CHARS: usize = 160;
