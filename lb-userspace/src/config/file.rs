//! The configuration as written: every section with its values and their places in the file, types and ranges
//! checked value by value, nothing resolved and nothing compared yet.
//!
//! `resolve` turns it into the model; nothing else sees it. A section with mistakes still yields its good values,
//! so that the comparisons in `resolve` can find further mistakes in one run. Its types have no `Debug`: they hold
//! passwords.

pub mod access;
mod check;
mod choice;
pub mod discovery;
pub mod group;
pub mod limits;
pub mod missed;
mod path;
mod service;
mod sync;
pub mod track;
mod vrrp;

use std::{net::SocketAddr, ops::RangeInclusive, time::Duration};

use toml::{Spanned, de::DeTable};

use super::{
    address,
    diagnostic::{Diagnostic, Report},
    model::Hook,
    reader::{Field, Reader, Refusal},
    secret,
};
pub use check::{Check, CheckType};
pub use service::Service;
pub use sync::Sync;
pub use vrrp::Vrrp;

/// A whole file.
#[derive(Default)]
pub struct File {
    /// `[node]`.
    pub node: Node,
    /// `[vrrp.NAME]`, in the order of the file.
    pub vrrp: Vec<Vrrp>,
    /// `[service.NAME]`, in the order of the file.
    pub services: Vec<Service>,
    /// `[track.NAME]`, in the order of the file.
    pub tracks: Vec<track::Track>,
    /// `[sync_group.NAME]`, in the order of the file.
    pub groups: Vec<group::Group>,
    /// `[http] listen`.
    pub http: Field<SocketAddr>,
    /// `[sync]`.
    pub sync: Option<Sync>,
}

/// `[node]`.
#[derive(Default)]
pub struct Node {
    /// `name`.
    pub name: Field<String>,
    /// `flows`.
    pub flows: Field<u32>,
    /// `watch_config`.
    pub watch_config: Field<bool>,
    /// `datapath_log`.
    pub datapath_log: Field<bool>,
    /// `hook`.
    pub hook: Field<Hook>,
    /// `hooks`: interface and hook.
    pub hooks: Vec<(String, Hook)>,
    /// `local_clients`.
    pub local_clients: Field<bool>,
    /// `realtime`.
    pub realtime: Field<bool>,
    /// `snat_ports`: first and last.
    pub snat_ports: Field<(u16, u16)>,
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
    let tracks = named_tables(&mut top, "track");
    let groups = named_tables(&mut top, "sync_group");
    let http = top.table("http");
    let sync = top.table("sync");
    top.finish();
    File {
        node: node.given().map(|t| read_node(t, report)).unwrap_or_default(),
        vrrp: vrrp.into_iter().map(|(name, table)| vrrp::read(name, table, report)).collect(),
        services: services.into_iter().map(|(name, table)| service::read(name, table, report)).collect(),
        tracks: tracks.into_iter().map(|(name, table)| track::read(name, table, report)).collect(),
        groups: groups.into_iter().map(|(name, table)| group::read(name, table, report)).collect(),
        http: http.given().map_or(Field::Absent, |t| read_http(t, report)),
        sync: sync.given().map(|t| sync::read(t, report)),
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
    let hooks = r.table("hooks");
    let node = Node {
        name: r.parsed("name", check_name),
        flows: r.integer("flows", FLOWS),
        watch_config: r.boolean("watch_config"),
        datapath_log: r.boolean("datapath_log"),
        hook: r.choice("hook", &HOOKS),
        hooks: Vec::new(),
        local_clients: r.boolean("local_clients"),
        realtime: r.boolean("realtime"),
        snat_ports: r.parsed("snat_ports", limits::parse_ports),
    };
    r.finish();
    let hooks = hooks.given().map(|t| read_hooks(t, report)).unwrap_or_default();
    Node { hooks, ..node }
}

/// `hooks = { INTERFACE = "…" }`.
fn read_hooks(table: &Spanned<&DeTable<'_>>, report: &mut Report) -> Vec<(String, Hook)> {
    let mut hooks = Vec::new();
    for (key, value) in table.get_ref().iter() {
        let name = match check_interface(key.get_ref()) {
            Ok(name) => name,
            Err((message, help)) => {
                report.push(Diagnostic { help, ..Diagnostic::error(key.span(), message) });
                continue;
            }
        };
        let found = value.get_ref().as_str().and_then(|text| HOOKS.iter().find(|(word, _)| *word == text));
        match found {
            Some((_, hook)) => hooks.push((name, *hook)),
            None => {
                let offered: Vec<_> = HOOKS.iter().map(|(word, _)| format!("\"{word}\"")).collect();
                let message = format!("`{name}` in `hooks` has no hook that viplb knows");
                report.push(
                    Diagnostic::error(value.span(), message)
                        .help(format!("write one of {}", offered.join(", "))),
                );
            }
        }
    }
    hooks
}

const HOOKS: [(&str, Hook); 5] = [
    ("auto", Hook::Auto),
    ("xdp", Hook::Xdp),
    ("xdp-generic", Hook::XdpGeneric),
    ("tcx", Hook::Tcx),
    ("clsact", Hook::Clsact),
];

fn read_http(table: &Spanned<&DeTable<'_>>, report: &mut Report) -> Field<SocketAddr> {
    let mut r = Reader::new(table.get_ref(), "[http]", table.span(), report);
    let listen = r.parsed("listen", address::local);
    r.require("listen", &listen, "listen = \"127.0.0.1:9112\"");
    r.finish();
    listen
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

/// Names as the kernel takes them (IFNAMSIZ).
pub fn check_interface(text: &str) -> Result<String, Refusal> {
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if (1..=15).contains(&text.len()) && !text.contains(bad) && text != "." && text != ".." {
        return Ok(text.to_owned());
    }
    Err((
        format!("`{}` cannot be the name of an interface", text.escape_debug()),
        Some("see `ip link`".into()),
    ))
}

const FLOWS: RangeInclusive<u32> = 1_024..=16_777_216;
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = HOUR.saturating_mul(24);
/// Of `rise`, `fall` and quorums.
const COUNT: RangeInclusive<u32> = 1..=100;

/// Words of keepalived and HAProxy, and what takes their place.
type Hints = &'static [(&'static str, &'static str)];

const TOP_HINTS: Hints = &[
    ("vrrp_instance", "write `[vrrp.NAME]`"),
    ("virtual_server", "write `[service.NAME]`"),
    ("global_defs", "write `[node]`"),
    ("frontend", "write `[service.NAME]`"),
    ("backend", "write `[[service.NAME.backend]]`"),
    ("vrrp_sync_group", "write `[sync_group.NAME]`"),
    ("vrrp_script", "write `[track.NAME]` with `type = \"script\"`"),
    ("vrrp_track_process", "write `[track.NAME]` with `type = \"process\"`"),
    ("vrrp_track_file", "write `[track.NAME]` with `type = \"file\"`"),
    ("track_file", "write `[track.NAME]` with `type = \"file\"`"),
    ("bfd_instance", "write `[track.NAME]` with `type = \"peer\"`"),
    ("garp_group", "write `garp_interval` into `[vrrp.NAME]`"),
];
