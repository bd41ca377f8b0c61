//! `[service.NAME]` with its backends and its check, as written.
//!
//! `file` calls [`read`] once per section; what HAProxy and keepalived call otherwise is answered with viplb's word.

use std::{net::SocketAddr, time::Duration};

use toml::{Spanned, de::DeTable};

use super::{COUNT, HOUR, Hints, check_name};
use crate::config::{
    address::{self, Endpoint},
    diagnostic::Report,
    model::{Mode, Protocol, Scheduler},
    reader::{Bare, Field, Reader, Refusal},
};

/// `[service.NAME]`.
pub struct Service {
    /// The `NAME`, with its place.
    pub name: Spanned<String>,
    /// `listen`.
    pub listen: Field<SocketAddr>,
    /// `protocol`.
    pub protocol: Field<Protocol>,
    /// `mode`.
    pub mode: Field<Mode>,
    /// `scheduler`.
    pub scheduler: Field<Scheduler>,
    /// `[[service.NAME.backend]]`.
    pub backends: Field<Vec<Backend>>,
    /// `[service.NAME.check]`.
    pub check: Field<Check>,
}

/// `[[service.NAME.backend]]`.
pub struct Backend {
    /// `name`.
    pub name: Field<String>,
    /// `address`.
    pub address: Field<Endpoint>,
    /// `weight`.
    pub weight: Field<u16>,
}

/// `[service.NAME.check]`.
pub struct Check {
    /// `type`.
    pub kind: Field<CheckType>,
    /// `user`.
    pub user: Field<String>,
    /// `password`.
    pub password: Field<String>,
    /// `password_file`.
    pub password_file: Field<String>,
    /// `interval`.
    pub interval: Field<Duration>,
    /// `timeout`.
    pub timeout: Field<Duration>,
    /// `rise`.
    pub rise: Field<u32>,
    /// `fall`.
    pub fall: Field<u32>,
}

/// `type` of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckType {
    /// Full login and ping.
    Mysql,
    /// Connect.
    Tcp,
}

/// Reads one section.
pub fn read(name: Spanned<String>, table: &DeTable<'_>, report: &mut Report) -> Service {
    let title = format!("[service.{}]", name.get_ref());
    let mut r = Reader::new(table, title, name.span(), report).hints(SERVICE_HINTS);
    let listen = r.parsed("listen", address::listen);
    r.require("listen", &listen, "listen = \"172.18.0.201:3306\"");
    let protocol = r.choice("protocol", &[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)]);
    let mode = r.choice("mode", &[("nat", Mode::Nat)]);
    let scheduler = r.choice("scheduler", &[("rr", Scheduler::Rr), ("wrr", Scheduler::Wrr)]);
    let backends = r.tables("backend");
    let check = r.table("check");
    r.require("check", &check, &format!("[service.{}.check]` with `type = \"mysql\"", name.get_ref()));
    r.finish();
    let backends = match backends {
        Field::Absent => Field::Absent,
        Field::Bad => Field::Bad,
        Field::Given(list) => {
            let read = list.get_ref().iter().map(|t| read_backend(name.get_ref(), t, report)).collect();
            Field::Given(Spanned::new(list.span(), read))
        }
    };
    let check = match check {
        Field::Absent => Field::Absent,
        Field::Bad => Field::Bad,
        Field::Given(table) => {
            Field::Given(Spanned::new(table.span(), read_check(name.get_ref(), &table, report)))
        }
    };
    Service { name, listen, protocol, mode, scheduler, backends, check }
}

fn read_backend(service: &str, table: &Spanned<&DeTable<'_>>, report: &mut Report) -> Backend {
    let title = format!("[[service.{service}.backend]]");
    let mut r = Reader::new(table.get_ref(), title, table.span(), report).hints(SERVICE_HINTS);
    let backend = Backend {
        name: r.parsed("name", check_name),
        address: r.parsed("address", address::endpoint),
        weight: r.integer("weight", 0..=256),
    };
    r.require("address", &backend.address, "address = \"172.18.0.2:3306\"");
    r.finish();
    backend
}

fn read_check(service: &str, table: &Spanned<&DeTable<'_>>, report: &mut Report) -> Check {
    let title = format!("[service.{service}.check]");
    let mut r = Reader::new(table.get_ref(), title, table.span(), report).hints(CHECK_HINTS);
    let check = Check {
        kind: r.choice("type", &[("mysql", CheckType::Mysql), ("tcp", CheckType::Tcp)]),
        user: r.parsed("user", check_user),
        password: r.string("password"),
        password_file: r.string("password_file"),
        interval: r.duration("interval", Bare::Refused, INTERVAL),
        timeout: r.duration("timeout", Bare::Refused, TIMEOUT),
        rise: r.integer("rise", COUNT),
        fall: r.integer("fall", COUNT),
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

const INTERVAL: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=HOUR;
const TIMEOUT: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=HOUR;

const SERVICE_HINTS: Hints = &[
    ("bind", "write `listen`"),
    ("balance", "write `scheduler`"),
    ("lb_algo", "write `scheduler`"),
    ("lvs_sched", "write `scheduler`"),
    ("lb_kind", "write `mode`"),
    ("server", "write `[[service.NAME.backend]]`"),
    ("real_server", "write `[[service.NAME.backend]]`"),
    ("backends", "write `[[service.NAME.backend]]`, once for each"),
    ("port", "write `address = \"ADDR:PORT\"`"),
];

const CHECK_HINTS: Hints = &[
    ("inter", "write `interval`"),
    ("delay_loop", "write `interval`"),
    ("connect_timeout", "write `timeout`"),
    ("retry", "write `fall`"),
];
