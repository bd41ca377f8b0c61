//! `viplb status`: the node on one screen. It asks the daemon; if that is dead or frozen, it reads the pinned maps, which
//! tell what the kernel does, and says so.

use std::{
    fmt::Write,
    io::Write as _,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};

use super::{Format, node, runtime, sync, table::Table};
use crate::{
    api::{
        client::{self, AskError},
        snapshot::{Backend, Health, RUNNING, Service, Snapshot, Times, Vrrp},
    },
    config::diagnostic::count,
    datapath::{observe, pins, pins::Pins},
    units::{age, bytes},
};

/// Prints the status of a node.
pub fn run(name: Option<&str>, format: Format) -> Result<ExitCode> {
    let snapshot = ask(name)?;
    let text = match format {
        Format::Text => render(&snapshot, now()),
        Format::Json => serde_json::to_string(&snapshot)? + "\n",
        Format::PrettyJson => serde_json::to_string_pretty(&snapshot)? + "\n",
    };
    Ok(print(&text, &snapshot))
}

/// The snapshot of a node: its daemon's, or if that is dead or frozen, what the pinned maps tell.
pub(super) fn ask(name: Option<&str>) -> Result<Snapshot> {
    let name = node::choose(name)?;
    match runtime()?.block_on(client::status(&pins::socket(&name))) {
        Ok(s) => Ok(s),
        Err(AskError::Other(e)) => Err(e).context(format!("node {name} cannot be asked")),
        Err(why) => observe::snapshot(&name, &Pins::of(&name), &why.to_string())
            .with_context(|| format!("node {name}: {why}, and its pinned maps do not tell either")),
    }
}

/// In unix seconds.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Prints, and turns the node's health into an exit code.
pub(super) fn print(text: &str, snapshot: &Snapshot) -> ExitCode {
    // A closed pipe (`| head`) is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    match snapshot.health() {
        Health::Healthy => ExitCode::SUCCESS,
        Health::Degraded => ExitCode::from(1),
    }
}

/// The snapshot for people. `now` is in unix seconds.
pub fn render(s: &Snapshot, now: u64) -> String {
    let mut out = String::new();
    let since = |t: u64| if t == 0 { "-".to_owned() } else { age(now.saturating_sub(t)) };
    if s.node.daemon == RUNNING {
        let _ = writeln!(
            out,
            "node {}  viplb {}  pid {}  up {}",
            s.node.name,
            s.node.programs.as_ref().map_or_else(|| s.node.version.clone(), ToString::to_string),
            s.node.pid,
            since(s.node.since)
        );
    } else {
        let _ = writeln!(
            out,
            "node {}  {}; what follows is read from the pinned maps",
            s.node.name, s.node.daemon
        );
        if let Some(build) = &s.node.programs {
            let _ = writeln!(out, "note   the packet programs are of viplb {build}");
        }
    }
    for why in s.node.vrrp_thread.iter().flat_map(|thread| &thread.missing) {
        let _ = writeln!(out, "note   VRRP thread: {why}");
    }
    if let Some(refused) = &s.configuration.refused {
        let why = refused.why.lines().next().unwrap_or_default();
        let _ = writeln!(
            out,
            "note   configuration refused {} ago, the one from before goes on: {why}",
            since(refused.at)
        );
    }
    if s.configuration.unwritten {
        let _ = writeln!(out, "note   services were changed by order, and {} was not", s.configuration.file);
    }
    for l in &s.leaving {
        let connections = count(l.connections as usize, "connection");
        let _ = writeln!(
            out,
            "note   service {}: backend {} is removed, {connections} left",
            l.service, l.backend
        );
    }
    for a in &s.alarms {
        let _ = writeln!(out, "ALARM  {a}");
    }
    out.push('\n');
    out.push_str(&vrrp(s, &since));
    if !s.interfaces.is_empty() {
        out.push('\n');
        let mut t = Table::new(&["INTERFACE", "HOOK", "WHY"]);
        for i in &s.interfaces {
            t.row([i.name.clone(), i.hook.clone(), i.why.clone()]);
        }
        out.push_str(&t.render(0));
    }
    out.push('\n');
    out.push_str(&services(s, &since));
    out.push('\n');
    out.push_str(&totals(s));
    out
}

fn vrrp(s: &Snapshot, since: &dyn Fn(u64) -> String) -> String {
    let mut t = Table::new(&[
        "VRRP",
        "INTERFACE",
        "ID",
        "PRIO",
        "STATE",
        "SINCE",
        "LEASE",
        "OWNER",
        "ADDRESSES",
        "REASON",
    ]);
    for v in &s.vrrp {
        t.row([
            v.name.clone(),
            v.interface.clone(),
            known(v.vrid != 0, v.vrid),
            known(v.priority != 0, priority(v)),
            v.state.clone(),
            since(v.since),
            if v.lease_valid { "valid" } else { "none" }.into(),
            v.owner.clone().unwrap_or_else(|| "-".into()),
            v.addresses.join(","),
            v.reason.clone(),
        ]);
    }
    t.render(0)
}

/// The priority that counts, and the configured one where it differs.
pub(super) fn priority(v: &Vrrp) -> String {
    match v.effective_priority {
        // A daemon that knows of no trackers.
        0 => v.priority.to_string(),
        effective if effective == v.priority => v.priority.to_string(),
        effective => format!("{effective} (of {})", v.priority),
    }
}

fn services(s: &Snapshot, since: &dyn Fn(u64) -> String) -> String {
    let mut out = String::new();
    for v in &s.services {
        let _ = writeln!(
            out,
            "service {}  {}/{}  {} {}  backends {}/{} up  flows {}  active {}  refused {}  packets {}  {}",
            v.name,
            v.listen,
            v.protocol,
            v.mode,
            v.scheduler,
            v.up,
            v.backends.len(),
            v.flows,
            connections(v.active, v.limit),
            refused(v),
            v.packets,
            bytes(v.bytes)
        );
        let mut t = Table::new(&[
            "BACKEND", "ADDRESS", "STATE", "SINCE", "WEIGHT", "CHECK", "CONNECT", "RESPONSE", "FLOWS",
            "ACTIVE", "PACKETS", "BYTES", "CAUSE",
        ]);
        for b in &v.backends {
            let asked = b.state != "unknown";
            t.row([
                name(b),
                b.addr.clone(),
                state(b),
                since(b.since),
                known(asked, b.weight),
                b.check_ms.map_or_else(|| "-".into(), |ms| format!("{ms} ms")),
                times(b.connect.as_ref()),
                times(b.response.as_ref()),
                flows(b),
                connections(b.active, b.limit),
                b.packets.to_string(),
                bytes(b.bytes),
                if b.cause.is_empty() { b.output.clone() } else { b.cause.clone() },
            ]);
        }
        out.push_str(&t.render(2));
    }
    out
}

/// Refused connections, and what of them this node could not take for want of something.
fn refused(v: &Service) -> String {
    let of =
        [("no source port", v.ports_exhausted), ("flow table full", v.table_full), ("too fast", v.limited)];
    let of: Vec<_> = of.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{what} {n}")).collect();
    let mut text = v.refused.to_string();
    if !of.is_empty() {
        let _ = write!(text, " ({})", of.join(", "));
    }
    if v.denied > 0 {
        let _ = write!(text, "  not allowed {}", v.denied);
    }
    text
}

/// Its name, and whether it is in no file.
pub(super) fn name(b: &Backend) -> String {
    if b.discovered { format!("{} (discovered)", b.name) } else { b.name.clone() }
}

/// Its state, and its part in a service for the writer.
fn state(b: &Backend) -> String {
    match (b.part.as_str(), b.slow_start) {
        ("", None) => b.state.clone(),
        ("", Some(percent)) => format!("{} {percent}%", b.state),
        (part, _) if b.state == "up" => format!("{} {part}", b.state),
        _ => b.state.clone(),
    }
}

/// New flows, and what of them the backend did not take.
fn flows(b: &Backend) -> String {
    let of: Vec<_> = [("unanswered", b.unanswered), ("refused", b.refused), ("moved on", b.moved)]
        .iter()
        .filter(|(_, n)| *n > 0)
        .map(|(what, n)| format!("{n} {what}"))
        .collect();
    if of.is_empty() { b.flows.to_string() } else { format!("{} ({})", b.flows, of.join(", ")) }
}

/// Those that are open, and how many there may be.
fn connections(active: u64, limit: u64) -> String {
    if limit == 0 { active.to_string() } else { format!("{active}/{limit}") }
}

/// Median and 99th percentile.
fn times(t: Option<&Times>) -> String {
    t.map_or_else(|| "-".into(), |t| format!("{}/{} ms", t.p50_ms, t.p99_ms))
}

/// A value that only the daemon has, or `-`: the pinned maps do not tell it.
fn known(known: bool, value: impl ToString) -> String {
    if known { value.to_string() } else { "-".into() }
}

fn totals(s: &Snapshot) -> String {
    let mut out = format!("flows {} of {}\n", s.flows.used, s.flows.capacity);
    out.extend(s.sync.as_ref().map(sync::line));
    for kind in ["forwarded", "answered", "refused", "dropped", "passed"] {
        let of_kind: Vec<_> = s
            .packets
            .iter()
            .filter(|p| p.kind == kind)
            .map(|p| format!("{} {}", p.reason, p.count))
            .collect();
        if !of_kind.is_empty() {
            let _ = writeln!(out, "packets {kind}: {}", of_kind.join(", "));
        }
    }
    out
}
