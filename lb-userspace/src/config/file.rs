//! The configuration as written: every section with its values and their places in the file, types and ranges
//! checked value by value, nothing resolved and nothing compared yet.
//!
//! `resolve` turns it into the model; nothing else sees it. A section with mistakes still yields its good values,
//! so that the comparisons in `resolve` can find further mistakes in one run. Its types have no `Debug`: they hold
//! passwords.

mod check;

use std::{net::SocketAddr, time::Duration};

use toml::{Spanned, de::DeTable};

use super::{
    address::{self, Endpoint},
    diagnostic::{Diagnostic, Report},
    model::{Failback, Hook, Mode, Preempt, Protocol, Role, Scheduler, V3Checksum, VirtualAddress},
    reader::{Bare, Field, Reader, Refusal},
    secret,
};

pub use check::{Check, CheckType};

/// A whole file.
#[derive(Default)]
pub struct File {
    /// `[node]`.
    pub node: Node,
    /// `[vrrp.NAME]`, in the order of the file.
    pub vrrp: Vec<Vrrp>,
    /// `[service.NAME]`, in the order of the file.
    pub services: Vec<Service>,
}

/// `[node]`.
#[derive(Default)]
pub struct Node {
    /// `name`.
    pub name: Field<String>,
    /// `flows`.
    pub flows: Field<u32>,
    /// `datapath_log`.
    pub datapath_log: Field<bool>,
    /// `hook`.
    pub hook: Field<Hook>,
    /// `realtime`.
    pub realtime: Field<bool>,
}

/// `[vrrp.NAME]`.
pub struct Vrrp {
    /// The `NAME`, with its place.
    pub name: Spanned<String>,
    /// `interface`.
    pub interface: Field<String>,
    /// `virtual_router_id`.
    pub vrid: Field<u8>,
    /// `priority`.
    pub priority: Field<u8>,
    /// `version`.
    pub version: Field<u8>,
    /// `advert_int`.
    pub advert_int: Field<Duration>,
    /// `v3_checksum`.
    pub v3_checksum: Field<V3Checksum>,
    /// `auth_pass`.
    pub auth_pass: Field<String>,
    /// `auth_pass_file`.
    pub auth_pass_file: Field<String>,
    /// `virtual_ipaddress`.
    pub addresses: Field<Vec<Spanned<VirtualAddress>>>,
    /// `preempt`.
    pub preempt: Field<Preempt>,
    /// `lease`.
    pub lease: Field<Duration>,
    /// `garp_master_repeat`.
    pub garp_repeat: Field<u8>,
    /// `garp_master_delay`.
    pub garp_delay: Field<Duration>,
    /// `garp_master_refresh`.
    pub garp_refresh: Field<Duration>,
}

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
    /// `slow_start`.
    pub slow_start: Field<Duration>,
    /// `role`.
    pub role: Field<Role>,
    /// `failback`.
    pub failback: Field<Failback>,
}

/// `[[service.NAME.backend]]`.
pub struct Backend {
    /// `name`.
    pub name: Field<String>,
    /// `address`.
    pub address: Field<Endpoint>,
    /// `weight`.
    pub weight: Field<u16>,
    /// `priority`.
    pub priority: Field<u8>,
}

/// Reads the file; every mistake goes into the report, which must have been made of the same `source`.
pub fn read(source: &str, report: &mut Report) -> File {
    let (document, syntax_errors) = DeTable::parse_recoverable(source);
    hide_secrets(document.get_ref(), report);
    if !syntax_errors.is_empty() {
        push_syntax_errors(source, syntax_errors, report);
        // What is left of a file with broken syntax would only give mistakes that are none.
        return File::default();
    }
    let mut top = Reader::new(document.get_ref(), "the file", 0..0, report).hints(TOP_HINTS);
    let node = top.table("node");
    let vrrp = named_tables(&mut top, "vrrp");
    let services = named_tables(&mut top, "service");
    top.finish();
    File {
        node: node.given().map(|t| read_node(t, report)).unwrap_or_default(),
        vrrp: vrrp.into_iter().map(|(name, table)| read_vrrp(name, table, report)).collect(),
        services: services.into_iter().map(|(name, table)| read_service(name, table, report)).collect(),
    }
}

/// The parser's words; one mistake per line, because it stumbles over the rest of a line after the first.
fn push_syntax_errors(source: &str, errors: Vec<toml::de::Error>, report: &mut Report) {
    let mut last_line = None;
    for error in errors {
        let span = error.span().unwrap_or(source.len()..source.len());
        let line = source.as_bytes()[..span.start.min(source.len())].iter().filter(|b| **b == b'\n').count();
        if last_line.replace(line) != Some(line) {
            let message = error.message().trim_end_matches(", expected nothing");
            report.push(Diagnostic::error(span, message.to_owned()));
        }
    }
}

/// The tables of `[section.NAME]`, in the order of the file.
fn named_tables<'t>(
    top: &mut Reader<'t, '_>,
    section: &'static str,
) -> Vec<(Spanned<String>, &'t DeTable<'t>)> {
    let field = top.table(section);
    let Some(parent) = field.value() else { return Vec::new() };
    let mut tables = Vec::new();
    for (key, value) in parent.iter() {
        let name = Spanned::new(key.span(), key.get_ref().to_string());
        let problem = match (value.get_ref().as_table(), check_name(key.get_ref())) {
            (None, _) => {
                (format!("`{}` stands outside of a `[{section}.NAME]`", key.get_ref().escape_debug()), None)
            }
            (Some(_), Err(refusal)) => refusal,
            (Some(table), Ok(_)) => {
                tables.push((name, table));
                continue;
            }
        };
        top.report.push(Diagnostic { help: problem.1, ..Diagnostic::error(key.span(), problem.0) });
    }
    tables.sort_by_key(|(name, _)| name.span().start);
    tables
}

fn read_node(table: &Spanned<&DeTable<'_>>, report: &mut Report) -> Node {
    let mut r = Reader::new(table.get_ref(), "[node]", table.span(), report);
    let node = Node {
        name: r.parsed("name", check_name),
        flows: r.integer("flows", FLOWS),
        datapath_log: r.boolean("datapath_log"),
        hook: r.choice("hook", &[("auto", Hook::Auto), ("tcx", Hook::Tcx), ("clsact", Hook::Clsact)]),
        realtime: r.boolean("realtime"),
    };
    r.finish();
    node
}

fn read_vrrp(name: Spanned<String>, table: &DeTable<'_>, report: &mut Report) -> Vrrp {
    let title = format!("[vrrp.{}]", name.get_ref());
    let mut r = Reader::new(table, title, name.span(), report).hints(VRRP_HINTS);
    let vrrp = Vrrp {
        interface: r.parsed("interface", check_interface),
        vrid: r.integer("virtual_router_id", 1..=255),
        priority: r.integer("priority", 1..=254),
        version: r.integer("version", 2..=3),
        advert_int: r.duration("advert_int", Bare::Seconds, ADVERT_INT),
        v3_checksum: r.choice("v3_checksum", V3_CHECKSUMS),
        auth_pass: r.parsed("auth_pass", check_auth_pass),
        auth_pass_file: r.string("auth_pass_file"),
        addresses: r.list("virtual_ipaddress", address::virtual_address),
        preempt: r.choice("preempt", &[("now", Preempt::NOW), ("never", Preempt::Never)]),
        lease: r.duration("lease", Bare::Refused, LEASE),
        garp_repeat: r.integer("garp_master_repeat", 1..=100),
        garp_delay: r.duration("garp_master_delay", Bare::Seconds, Duration::ZERO..=HOUR),
        garp_refresh: r.duration("garp_master_refresh", Bare::Seconds, Duration::ZERO..=HOUR),
        name,
    };
    r.require("interface", &vrrp.interface, "interface = \"eth0\"");
    r.require("virtual_router_id", &vrrp.vrid, "virtual_router_id = 51");
    r.require("priority", &vrrp.priority, "priority = 100");
    r.require("virtual_ipaddress", &vrrp.addresses, "virtual_ipaddress = [\"172.18.0.201\"]");
    r.finish();
    vrrp
}

fn read_service(name: Spanned<String>, table: &DeTable<'_>, report: &mut Report) -> Service {
    let title = format!("[service.{}]", name.get_ref());
    let mut r = Reader::new(table, title, name.span(), report).hints(SERVICE_HINTS);
    let listen = r.parsed("listen", address::listen);
    r.require("listen", &listen, "listen = \"172.18.0.201:3306\"");
    let protocol = r.choice("protocol", &[("tcp", Protocol::Tcp)]);
    let mode = r.choice("mode", &[("nat", Mode::Nat)]);
    let scheduler = r.choice("scheduler", &[("rr", Scheduler::Rr), ("wrr", Scheduler::Wrr)]);
    let slow_start = r.duration("slow_start", Bare::Refused, Duration::ZERO..=HOUR);
    let role = r.choice("role", check::ROLES);
    let failback = r.choice("failback", check::FAILBACKS);
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
            Field::Given(Spanned::new(table.span(), check::read(name.get_ref(), &table, report)))
        }
    };
    Service { name, listen, protocol, mode, scheduler, backends, check, slow_start, role, failback }
}

fn read_backend(service: &str, table: &Spanned<&DeTable<'_>>, report: &mut Report) -> Backend {
    let title = format!("[[service.{service}.backend]]");
    let mut r = Reader::new(table.get_ref(), title, table.span(), report).hints(SERVICE_HINTS);
    let backend = Backend {
        name: r.parsed("name", check_name),
        address: r.parsed("address", address::endpoint),
        weight: r.integer("weight", 0..=256),
        priority: r.integer("priority", 0..=255),
    };
    r.require("address", &backend.address, "address = \"172.18.0.2:3306\"");
    r.finish();
    backend
}

/// Every value of a password key, wherever it stands.
fn hide_secrets(table: &DeTable<'_>, report: &mut Report) {
    for (key, value) in table.iter() {
        if secret::is_secret_key(key.get_ref()) {
            report.hide(value.span());
            continue;
        }
        if let Some(inner) = value.get_ref().as_table() {
            hide_secrets(inner, report);
        }
        for inner in value.get_ref().as_array().into_iter().flat_map(|a| a.iter()) {
            if let Some(inner) = inner.get_ref().as_table() {
                hide_secrets(inner, report);
            }
        }
    }
}

/// Names stand in paths (pins, sockets), maps and output columns.
pub fn check_name(text: &str) -> Result<String, Refusal> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=32).contains(&text.len()) && text.chars().all(fits) && text != "." && text != ".." {
        return Ok(text.to_owned());
    }
    let help = "letters, digits, `-`, `_` and `.`; 1 to 32 of them";
    Err((format!("`{}` cannot be a name", text.escape_debug()), Some(help.into())))
}

fn check_interface(text: &str) -> Result<String, Refusal> {
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if (1..=15).contains(&text.len()) && !text.contains(bad) && text != "." && text != ".." {
        return Ok(text.to_owned());
    }
    Err((
        format!("`{}` cannot be the name of an interface", text.escape_debug()),
        Some("see `ip link`".into()),
    ))
}

fn check_auth_pass(text: &str) -> Result<String, Refusal> {
    if text.is_empty() || text.contains('\0') {
        return Err(("`auth_pass` is empty or holds a NUL".into(), Some("1 to 8 characters".into())));
    }
    Ok(text.to_owned())
}

const FLOWS: std::ops::RangeInclusive<u32> = 1_024..=16_777_216;
const HOUR: Duration = Duration::from_secs(3_600);
// VRRPv2 carries whole seconds in one byte, version 3 centiseconds in 12 bits; `resolve` refuses with words of its own
// what the version at hand cannot.
const ADVERT_INT: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(255);
const LEASE: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=HOUR;

const V3_CHECKSUMS: &[(&str, V3Checksum)] =
    &[("pseudo-header", V3Checksum::PseudoHeader), ("plain", V3Checksum::Plain)];

/// Words of keepalived and HAProxy, and what takes their place.
type Hints = &'static [(&'static str, &'static str)];

const TOP_HINTS: Hints = &[
    ("vrrp_instance", "write `[vrrp.NAME]`"),
    ("virtual_server", "write `[service.NAME]`"),
    ("global_defs", "write `[node]`"),
    ("frontend", "write `[service.NAME]`"),
    ("backend", "write `[[service.NAME.backend]]`"),
];

const VRRP_HINTS: Hints = &[
    ("state", "leave it out: every node starts as backup and the priority decides"),
    ("nopreempt", "write `preempt = \"never\"`"),
    ("authentication", "write `auth_pass = \"…\"`"),
    ("auth_type", "leave it out: `auth_pass` means PASS"),
    ("address", "write `virtual_ipaddress = [\"…\"]`"),
    ("addresses", "write `virtual_ipaddress = [\"…\"]`"),
    ("vrid", "write `virtual_router_id`"),
    ("vrrp_version", "write `version`"),
    ("v3_checksum_as_v2", "write `v3_checksum = \"plain\"`"),
];

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
    ("slowstart", "write `slow_start`"),
    ("backup", "write `priority`, and `role = \"writer\"` in the service"),
];
