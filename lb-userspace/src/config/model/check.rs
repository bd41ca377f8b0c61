//! The checked configuration of health: how backends are asked, and what a service makes of the answers of a Galera
//! cluster. `config::resolve` fills it in; `health` and `galera` work with it.
//!
//! Passwords live in [`MysqlLogin`] alone, whose `Debug` hides them.

use std::{fmt, path::PathBuf, time::Duration};

/// `[service.NAME.check]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What is asked.
    pub kind: CheckKind,
    /// Port that is asked, if it is not the backend's own.
    pub port: Option<u16>,
    /// Time between two checks of one backend. Default 2 s.
    pub interval: Duration,
    /// The same while results speak against the present state. Default a quarter of `interval`, at least 100 ms.
    pub fast_interval: Duration,
    /// Limit for a whole check. Default: the smaller of `interval` and 1 s.
    pub timeout: Duration,
    /// Passes in a row that make a backend up after it was down. Default 2. (The first check after start needs one pass.)
    pub rise: u32,
    /// Failures in a row that make a backend down. Default 3.
    pub fall: u32,
}

/// Kinds of check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    /// Connect with a full MySQL login and `COM_PING`: anything less raises the server's
    /// `max_connect_errors` count until it blocks this host (error 1129).
    Mysql(MysqlLogin),
    /// Galera's state over a connection that is kept.
    Galera(GaleraCheck),
    /// Connect and close. Right for anything but a MySQL server.
    Tcp,
    /// A request over HTTP/1.1.
    Http(HttpCheck),
    /// A query to a name server.
    Dns(DnsCheck),
    /// A datagram, and an answer if one is expected.
    Udp(UdpCheck),
    /// A program that exits with 0.
    Script(ScriptCheck),
    /// HAProxy's agent: a line of words that the server says of itself.
    Agent(AgentCheck),
}

/// Account of a MySQL check.
#[derive(Clone, PartialEq, Eq)]
pub struct MysqlLogin {
    /// User; needs no privilege but to connect.
    pub user: String,
    /// Password in clear text, from `password` or read from `password_file` when the file was loaded.
    pub password: String,
    /// Where it came from, for reloads.
    pub password_file: Option<PathBuf>,
}

impl fmt::Debug for MysqlLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MysqlLogin {{ user: {:?}, password: … }}", self.user)
    }
}

/// `type = "galera"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GaleraCheck {
    /// The account.
    pub login: MysqlLogin,
    /// Every so many checks the connection is replaced by a new one. Default 10.
    pub login_every: u32,
}

/// `type = "http" | "https"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpCheck {
    /// Path and query. Default `/`.
    pub path: String,
    /// `Host` header; default address and port.
    pub host: Option<String>,
    /// First and last status that pass. Default 200–399.
    pub status: (u16, u16),
    /// Words that the body must hold.
    pub body: Option<String>,
    /// With `https`.
    pub tls: Option<Tls>,
}

/// How an `https` check takes certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Certificates of `ca_file`, in DER; none: any certificate will do.
    pub authorities: Vec<Vec<u8>>,
}

/// `type = "dns"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsCheck {
    /// The name that is asked for, in the form of the wire. Default the root.
    pub query: Vec<u8>,
    /// Its type. Default NS.
    pub record: u16,
    /// The response code that passes. Default 0, NOERROR.
    pub rcode: u8,
}

/// `type = "udp"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UdpCheck {
    /// What is sent.
    pub send: Vec<u8>,
    /// What an answer must hold; without it silence passes, and only a refusal fails.
    pub expect: Option<Vec<u8>>,
}

/// `type = "script"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptCheck {
    /// Program, an absolute path, and its arguments. No shell reads them.
    pub command: Vec<String>,
    /// User and group it runs as, with the name as given; default those of the daemon.
    pub user: Option<(String, u32, u32)>,
}

/// `type = "agent"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentCheck {
    /// What is sent first.
    pub send: Vec<u8>,
}

/// What a service makes of the state of a Galera cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Galera {
    /// Which nodes it is for.
    pub role: Role,
    /// When a better writer takes over from a good one.
    pub failback: Failback,
    /// Whether a donor or desynced node (state 2) takes connections.
    pub donor: Donor,
    /// A node with more write sets waiting than this takes no new connections.
    pub max_receive_queue: Option<u32>,
    /// Nor does one that had the cluster paused for more than this share of the time, in percent.
    pub max_flow_control: Option<u8>,
}

/// `role = "writer" | "reader" | "any"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// Exactly one node.
    Writer,
    /// Every synced node, read-only ones too.
    Reader,
    /// Every synced node that takes writes.
    #[default]
    Any,
}

impl Role {
    /// The word of the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Writer => "writer",
            Self::Reader => "reader",
            Self::Any => "any",
        }
    }
}

/// `failback = "never" | "when-idle" | "now"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Failback {
    /// The writer stays as long as it is good.
    #[default]
    Never,
    /// Once it has no connection left.
    WhenIdle,
    /// At once.
    Now,
}

/// `donor = "avoid" | "allow" | "allow-if-last"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Donor {
    /// Takes no new connections.
    Avoid,
    /// Takes them as any other.
    Allow,
    /// Takes them while no other node does.
    #[default]
    AllowIfLast,
}
