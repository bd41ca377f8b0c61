//! `[service.NAME.check]` as written, and the words that Galera's policy has in a service.
//!
//! All keys of all kinds of check are read here; which kind has a use for which is `resolve`'s to say.

use std::{ops::RangeInclusive, time::Duration};

use toml::{Spanned, de::DeTable};

use super::{COUNT, HOUR, Hints};
use crate::config::{
    diagnostic::Report,
    model::{Donor, Failback, Role},
    reader::{Bare, Field, Reader, Refusal},
};

/// `[service.NAME.check]`.
pub struct Check {
    /// `type`.
    pub kind: Field<CheckType>,
    /// `port`.
    pub port: Field<u16>,
    /// `user`.
    pub user: Field<String>,
    /// `password`.
    pub password: Field<String>,
    /// `password_file`.
    pub password_file: Field<String>,
    /// `interval`.
    pub interval: Field<Duration>,
    /// `fast_interval`.
    pub fast_interval: Field<Duration>,
    /// `timeout`.
    pub timeout: Field<Duration>,
    /// `rise`.
    pub rise: Field<u32>,
    /// `fall`.
    pub fall: Field<u32>,
    /// `login_every`.
    pub login_every: Field<u32>,
    /// `donor`.
    pub donor: Field<Donor>,
    /// `max_receive_queue`.
    pub max_receive_queue: Field<u32>,
    /// `max_flow_control`.
    pub max_flow_control: Field<u8>,
    /// `path`.
    pub path: Field<String>,
    /// `host`.
    pub host: Field<String>,
    /// `status`.
    pub status: Field<(u16, u16)>,
    /// `body`.
    pub body: Field<String>,
    /// `ca_file`.
    pub ca_file: Field<String>,
    /// `query`.
    pub query: Field<Vec<u8>>,
    /// `record`.
    pub record: Field<u16>,
    /// `rcode`.
    pub rcode: Field<u8>,
    /// `send`.
    pub send: Field<String>,
    /// `expect`.
    pub expect: Field<String>,
    /// `command`.
    pub command: Field<Vec<Spanned<String>>>,
}

/// `type` of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckType {
    /// Full login and ping.
    Mysql,
    /// The cluster's state.
    Galera,
    /// Connect.
    Tcp,
    /// A request.
    Http,
    /// The same over TLS.
    Https,
    /// A query to a name server.
    Dns,
    /// A datagram.
    Udp,
    /// A program.
    Script,
    /// The server's own words.
    Agent,
}

impl CheckType {
    /// The word of the file.
    pub fn word(self) -> &'static str {
        TYPES.iter().find(|(_, kind)| *kind == self).map_or("?", |(word, _)| word)
    }
}

pub(super) fn read(service: &str, table: &Spanned<&DeTable<'_>>, report: &mut Report) -> Check {
    let title = format!("[service.{service}.check]");
    let mut r = Reader::new(table.get_ref(), title, table.span(), report).hints(CHECK_HINTS);
    let check = Check {
        kind: r.choice("type", TYPES),
        port: r.integer("port", 1..=65_535),
        user: r.parsed("user", check_user),
        password: r.string("password"),
        password_file: r.string("password_file"),
        interval: r.duration("interval", Bare::Refused, INTERVAL),
        fast_interval: r.duration("fast_interval", Bare::Refused, INTERVAL),
        timeout: r.duration("timeout", Bare::Refused, TIMEOUT),
        rise: r.integer("rise", COUNT),
        fall: r.integer("fall", COUNT),
        login_every: r.integer("login_every", 1..=100_000),
        donor: r.choice("donor", DONORS),
        max_receive_queue: r.integer("max_receive_queue", 1..=10_000_000),
        max_flow_control: r.integer("max_flow_control", 1..=100),
        path: r.parsed("path", check_path),
        host: r.parsed("host", check_host),
        status: r.parsed("status", check_status),
        body: r.parsed("body", not_empty),
        ca_file: r.string("ca_file"),
        query: r.parsed("query", check_query),
        record: r.choice("record", RECORDS),
        rcode: r.choice("rcode", RCODES),
        send: r.string("send"),
        expect: r.parsed("expect", not_empty),
        command: r.list("command", |word| Ok(word.to_owned())),
    };
    r.require("type", &check.kind, "type = \"mysql\"");
    r.finish();
    check
}

fn check_user(text: &str) -> Result<String, Refusal> {
    // MariaDB's limit; MySQL's is 32.
    if (1..=80).contains(&text.chars().count()) && !text.contains('\0') {
        return Ok(text.to_owned());
    }
    Err(("`user` cannot be the name of an account".into(), Some("1 to 80 characters".into())))
}

fn check_path(text: &str) -> Result<String, Refusal> {
    if text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err((
        format!("`{}` cannot be a path", text.escape_debug()),
        Some("it starts with `/`; write blanks as %20".into()),
    ))
}

fn check_host(text: &str) -> Result<String, Refusal> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err((
        format!("`{}` cannot be a host", text.escape_debug()),
        Some("write for example \"db.local\"".into()),
    ))
}

fn check_status(text: &str) -> Result<(u16, u16), Refusal> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.trim().parse(), last.trim().parse()) {
        (Ok(first), Ok(last)) if 100 <= first && first <= last && last <= 599 => Ok((first, last)),
        _ => Err(("`status` is no status of HTTP".into(), Some("write \"200\" or \"200-399\"".into()))),
    }
}

fn not_empty(text: &str) -> Result<String, Refusal> {
    if text.is_empty() {
        return Err(("an empty text is in every answer".into(), Some("leave the key out".into())));
    }
    Ok(text.to_owned())
}

/// A name as length-prefixed labels (RFC 1035, 3.1).
fn check_query(text: &str) -> Result<Vec<u8>, Refusal> {
    let mut wire = Vec::new();
    for label in text.trim_end_matches('.').split('.').filter(|_| text != ".") {
        let fits = (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_graphic());
        if !fits {
            let help = "write for example \"example.org\", or \".\" for the root";
            return Err((format!("`{}` cannot be asked for", text.escape_debug()), Some(help.into())));
        }
        wire.push(label.len() as u8);
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    if wire.len() > 255 {
        return Err(("`query` is longer than a name can be".into(), None));
    }
    Ok(wire)
}

const TYPES: &[(&str, CheckType)] = &[
    ("mysql", CheckType::Mysql),
    ("galera", CheckType::Galera),
    ("tcp", CheckType::Tcp),
    ("http", CheckType::Http),
    ("https", CheckType::Https),
    ("dns", CheckType::Dns),
    ("udp", CheckType::Udp),
    ("script", CheckType::Script),
    ("agent", CheckType::Agent),
];

const DONORS: &[(&str, Donor)] =
    &[("avoid", Donor::Avoid), ("allow", Donor::Allow), ("allow-if-last", Donor::AllowIfLast)];

pub(super) const ROLES: &[(&str, Role)] =
    &[("writer", Role::Writer), ("reader", Role::Reader), ("any", Role::Any)];

pub(super) const FAILBACKS: &[(&str, Failback)] =
    &[("never", Failback::Never), ("when-idle", Failback::WhenIdle), ("now", Failback::Now)];

/// RFC 1035, 3.2.2; RFC 3596; RFC 2782.
const RECORDS: &[(&str, u16)] = &[
    ("A", 1),
    ("NS", 2),
    ("CNAME", 5),
    ("SOA", 6),
    ("PTR", 12),
    ("MX", 15),
    ("TXT", 16),
    ("AAAA", 28),
    ("SRV", 33),
];

/// RFC 1035, 4.1.1.
const RCODES: &[(&str, u8)] = &[("NOERROR", 0), ("SERVFAIL", 2), ("NXDOMAIN", 3), ("REFUSED", 5)];

const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=HOUR;
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=HOUR;

const CHECK_HINTS: Hints = &[
    ("inter", "write `interval`"),
    ("delay_loop", "write `interval`"),
    ("fastinter", "write `fast_interval`"),
    ("connect_timeout", "write `timeout`"),
    ("retry", "write `fall`"),
    ("misc_path", "write `command = [\"/path/to/program\"]`"),
];
