//! `[service.NAME]` with its backends, as written.
//!
//! `file` calls [`read`] once per section; what HAProxy and keepalived call otherwise is answered with viplb's word.

use std::{net::IpAddr, time::Duration};

use toml::{Spanned, de::DeTable};

use super::{
    DAY, HOUR, Hints,
    access::{self, Access, ClientLimit},
    check::{self, Check},
    check_name,
    choice::{self, ChoiceKeys},
    discovery::{self, Discovery},
    limits::{self, Timeouts},
    missed::{self, MissedKeys},
    path::{self, PathKeys},
};
use crate::config::{
    address::{self, Endpoint, Listen},
    diagnostic::Report,
    model::{Admin, Failback, Mode, Protocol, Role, Then, Unknown},
    reader::{Bare, Field, Reader, Refusal, parse_duration},
};

/// `[service.NAME]`.
pub struct Service {
    /// The `NAME`, with its place.
    pub name: Spanned<String>,
    /// `listen`.
    pub listen: Field<Listen>,
    /// `lease`.
    pub lease: Field<bool>,
    /// `protocol`.
    pub protocol: Field<Protocol>,
    /// `mode`.
    pub mode: Field<Mode>,
    /// Keys about tunnels and segment sizes.
    pub path: PathKeys,
    /// Keys about how a backend is chosen.
    pub choice: ChoiceKeys,
    /// `[[service.NAME.backend]]`.
    pub backends: Field<Vec<Backend>>,
    /// `[service.NAME.check]`.
    pub check: Field<Check>,
    /// `slow_start`.
    pub slow_start: Field<Duration>,
    /// `quorum`.
    pub quorum: Field<u32>,
    /// `hysteresis`.
    pub hysteresis: Field<u32>,
    /// `on_lost`.
    pub on_lost: Field<Then>,
    /// `on_failed`.
    pub on_failed: Field<Then>,
    /// `on_drain`.
    pub on_drain: Field<Then>,
    /// `on_maint`.
    pub on_maint: Field<Then>,
    /// `redispatch`, `move_ungreeted`, `passive`.
    pub missed: MissedKeys,
    /// `unknown`.
    pub unknown: Field<Unknown>,
    /// `sync`: whether it is `"strict"`.
    pub sync: Field<bool>,
    /// `role`.
    pub role: Field<Role>,
    /// `failback`.
    pub failback: Field<Failback>,
    /// `[service.NAME.discover]`.
    pub discovery: Field<Discovery>,
    /// `allow`, `deny`, `deny_action`.
    pub access: Access,
    /// `client_limit`.
    pub client_limit: Field<ClientLimit>,
    /// `snat`.
    pub snat: Field<Vec<Spanned<IpAddr>>>,
    /// `[service.NAME.timeouts]`.
    pub timeouts: Field<Timeouts>,
}

/// `[[service.NAME.backend]]`.
pub struct Backend {
    /// `name`.
    pub name: Field<String>,
    /// `address`.
    pub address: Field<Endpoint>,
    /// `weight`.
    pub weight: Field<u16>,
    /// `max_connections`.
    pub max_connections: Field<u32>,
    /// `priority`.
    pub priority: Field<u8>,
    /// `sorry`.
    pub sorry: Field<bool>,
    /// `mode`.
    pub mode: Field<Mode>,
    /// `state`.
    pub admin: Field<Admin>,
}

/// Reads one section.
pub fn read(name: Spanned<String>, table: &DeTable<'_>, report: &mut Report) -> Service {
    let title = format!("[service.{}]", name.get_ref());
    let mut r = Reader::new(table, title, name.span(), report).hints(SERVICE_HINTS);
    let listen = r.parsed("listen", address::listen);
    r.require("listen", &listen, "listen = \"172.18.0.201:3306\"");
    let lease = r.boolean("lease");
    let protocol = r.choice("protocol", &[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)]);
    let mode = r.parsed("mode", parse_mode);
    let path = path::read(&mut r);
    let choice = choice::read(&mut r);
    let slow_start = r.duration("slow_start", Bare::Refused, Duration::ZERO..=HOUR);
    let quorum = r.integer("quorum", 1..=MOST_BACKENDS);
    let hysteresis = r.integer("hysteresis", 0..=MOST_BACKENDS);
    let [on_lost, on_failed, on_drain, on_maint] =
        ["on_lost", "on_failed", "on_drain", "on_maint"].map(|key| r.parsed(key, parse_then));
    let missed = missed::take(&mut r);
    let unknown = r.choice("unknown", &[("reset", Unknown::Reset), ("adopt", Unknown::Adopt)]);
    let sync = r.choice("sync", &[("prompt", false), ("strict", true)]);
    let role = r.choice("role", check::ROLES);
    let failback = r.choice("failback", check::FAILBACKS);
    let discovery = r.table("discover");
    let access = access::read(&mut r);
    let client_limit = r.table("client_limit");
    let snat = limits::read_snat(&mut r);
    let timeouts = r.table("timeouts");
    let backends = r.tables("backend");
    let check = r.table("check");
    r.require("check", &check, &format!("[service.{}.check]` with `type = \"mysql\"", name.get_ref()));
    r.finish();
    let missed = missed::read(name.get_ref(), missed, report);
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
            Field::Given(Spanned::new(table.span(), check::read(name.get_ref(), &table, report)))
        }
    };
    let client_limit = match client_limit {
        Field::Absent => Field::Absent,
        Field::Bad => Field::Bad,
        Field::Given(table) => {
            let read = access::read_limit(name.get_ref(), &table, report);
            Field::Given(Spanned::new(table.span(), read))
        }
    };
    let discovery = match discovery {
        Field::Absent => Field::Absent,
        Field::Bad => Field::Bad,
        Field::Given(table) => {
            let read = discovery::read(name.get_ref(), &table, report);
            Field::Given(Spanned::new(table.span(), read))
        }
    };
    let timeouts = match timeouts {
        Field::Absent => Field::Absent,
        Field::Bad => Field::Bad,
        Field::Given(table) => {
            let read = limits::read_timeouts(name.get_ref(), &table, report);
            Field::Given(Spanned::new(table.span(), read))
        }
    };
    Service {
        name,
        listen,
        lease,
        protocol,
        mode,
        path,
        choice,
        backends,
        check,
        slow_start,
        quorum,
        hysteresis,
        on_lost,
        on_failed,
        on_drain,
        on_maint,
        missed,
        unknown,
        sync,
        role,
        failback,
        discovery,
        access,
        client_limit,
        snat,
        timeouts,
    }
}

fn read_backend(service: &str, table: &Spanned<&DeTable<'_>>, report: &mut Report) -> Backend {
    let title = format!("[[service.{service}.backend]]");
    let mut r = Reader::new(table.get_ref(), title, table.span(), report).hints(SERVICE_HINTS);
    let backend = Backend {
        name: r.parsed("name", check_name),
        address: r.parsed("address", address::backend),
        weight: r.integer("weight", 0..=256),
        max_connections: r.integer("max_connections", 1..=choice::MOST_CONNECTIONS),
        priority: r.integer("priority", 0..=255),
        sorry: r.boolean("sorry"),
        mode: r.parsed("mode", parse_mode),
        admin: r.choice("state", &Admin::ALL.map(|admin| (admin.as_str(), admin))),
    };
    r.require("address", &backend.address, "address = \"172.18.0.2:3306\"");
    r.finish();
    backend
}

/// keepalived's `DR` and `TUN` mean the same. Its `NAT` keeps the client's address, as `dnat` does: taken for `nat`, a file that was
/// carried over would hide the clients; taken for `dnat`, one written by hand would lose replies.
fn parse_mode(text: &str) -> Result<Mode, Refusal> {
    match text {
        "nat" => Ok(Mode::Nat),
        "dnat" => Ok(Mode::Dnat),
        "dsr" | "DR" => Ok(Mode::Dsr),
        "tunnel" | "TUN" => Ok(Mode::Tunnel),
        "local" => Ok(Mode::Local),
        "NAT" => {
            let help = "keepalived's NAT is \"dnat\" (backends see the client, this node is their gateway); with \"nat\" \
                        they see the virtual address and need no route";
            Err(("`mode` cannot be \"NAT\"".into(), Some(help.into())))
        }
        _ => {
            let help = "offered: \"nat\", \"dnat\", \"dsr\", \"tunnel\", \"local\"";
            Err((format!("`mode` cannot be \"{}\"", text.escape_debug()), Some(help.into())))
        }
    }
}

/// What becomes of connections: a word, or how long they may go on.
fn parse_then(text: &str) -> Result<Then, Refusal> {
    match text {
        "keep" => Ok(Then::Keep),
        "reset" => Ok(Then::Reset(Duration::ZERO)),
        _ => match parse_duration(text) {
            Some(after) if after <= DAY => Ok(Then::Reset(after)),
            Some(_) => {
                let help = "write \"keep\" to have connections end by themselves";
                Err((format!("\"{text}\" is longer than a day"), Some(help.into())))
            }
            None => {
                let help = "offered: \"reset\", \"keep\", or how long connections may go on before they are reset, as \"30s\"";
                Err((format!("it cannot be \"{}\"", text.escape_debug()), Some(help.into())))
            }
        },
    }
}

/// More backends than a service can have.
const MOST_BACKENDS: u32 = 1024;

const SERVICE_HINTS: Hints = &[
    ("bind", "write `listen`"),
    ("balance", "write `scheduler`"),
    ("lb_algo", "write `scheduler`"),
    ("lvs_sched", "write `scheduler`"),
    ("lb_kind", "write `mode`"),
    ("lvs_method", "write `mode`"),
    ("forward", "write `mode`"),
    ("server", "write `[[service.NAME.backend]]`"),
    ("real_server", "write `[[service.NAME.backend]]`"),
    ("backends", "write `[[service.NAME.backend]]`, once for each"),
    ("disabled", "write `state = \"maint\"`"),
    ("port", "write `address = \"ADDR:PORT\"`"),
    ("slowstart", "write `slow_start`"),
    ("on-marked-down", "write `on_lost`"),
    ("shutdown-sessions", "write `on_lost = \"reset\"`"),
    ("option", "HAProxy's `option redispatch` is `redispatch = true`, which is the default"),
    ("observe", "write `passive`"),
    ("error-limit", "write `passive = { after = … }`"),
    ("outlier_detection", "write `passive`"),
    ("maxconn", "write `max_connections`"),
    ("fullconn", "write `max_connections`"),
    ("uthreshold", "write `max_connections`"),
    ("persistence_granularity", "write `persistence_prefix`, the number of the mask's bits"),
    ("stick", "write `persistence_timeout`"),
    ("hash_type", "leave it out: every table by hash is a consistent one"),
    ("source", "write `snat`"),
    ("timeout", "write `timeouts = { established = \"…\" }`"),
    ("sorry_server", "write a `[[service.NAME.backend]]` with `sorry = true`"),
    (
        "backup",
        "write `sorry = true`; for one writer at a time `priority`, and `role = \"writer\"` in the service",
    ),
];
