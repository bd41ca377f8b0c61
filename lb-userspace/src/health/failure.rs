//! Why a check failed, and what follows from it for the backend.
//!
//! Checks make a [`Failure`] of whatever went wrong; `schedule` asks it for the state it leads to; its `Display` gives
//! the words of status and log. It never holds a password.

use std::{fmt, io, time::Duration};

use super::State;

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
    /// Another status of HTTP than one that passes.
    Status(u16),
    /// The answer does not hold the words that it should.
    Words,
    /// Another response code of DNS than the one that passes (RFC 1035, 4.1.1).
    Rcode(u8),
    /// A script ended with another code than 0, or by a signal.
    Exit {
        /// `exit code 1`, `signal 9`.
        how: String,
        /// The last line it wrote.
        output: String,
    },
    /// A script could not be started; the system's words.
    NotStarted(String),
    /// The server says itself that it is down.
    Said(String),
    /// It asks for no new connections.
    Drain(String),
    /// It is in maintenance.
    Maint(String),
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
    /// `SHOW GLOBAL STATUS` and `VARIABLES`.
    State,
    /// An answer to what was sent.
    Answer,
    /// The end of a program.
    End,
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

    /// The state that enough of it lead to.
    pub fn leads_to(&self) -> State {
        match self {
            Self::Full => State::Full,
            Self::Drain(_) => State::Drain,
            Self::Maint(_) => State::Maint,
            _ => State::Down,
        }
    }

    /// Whether it means that the server does nothing for anybody any more, its present clients included. What it says to the
    /// check's account, or a status that a page has, is no such thing.
    pub fn is_loss(&self) -> bool {
        matches!(
            self,
            Self::Refused | Self::Unreachable(_) | Self::Timeout { .. } | Self::Closed | Self::NotReady
        )
    }

    /// One is enough: the server is there and says so itself.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Full | Self::Drain(_) | Self::Maint(_) | Self::Said(_))
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
            Self::Status(status) => write!(f, "HTTP status {status}"),
            Self::Words => f.write_str("the answer lacks the expected words"),
            Self::Rcode(code) => write!(f, "DNS response code {code}"),
            Self::Exit { how, output } if output.is_empty() => f.write_str(how),
            Self::Exit { how, output } => write!(f, "{how}: {output}"),
            Self::NotStarted(why) => write!(f, "cannot be run: {why}"),
            Self::Said(words) | Self::Drain(words) | Self::Maint(words) => f.write_str(words),
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
            Self::State => "no answer to SHOW STATUS",
            Self::Answer => "no answer",
            Self::End => "it did not end",
        })
    }
}

/// A server's words, cut to what a log line bears.
pub fn printable(text: &str) -> String {
    let mut out: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LIMIT_CHARS).collect();
    if text.chars().nth(LIMIT_CHARS).is_some() {
        out.push('…');
    }
    out
}

const LIMIT_CHARS: usize = 160;
