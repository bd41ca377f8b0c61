//! `viplb sync show`: flow replication in full, from the same snapshot as `status`.

use std::{fmt::Write, process::ExitCode};

use anyhow::{Result, bail};

use super::{Format, status, table::Table};
use crate::api::snapshot::{RUNNING, Sync, SyncRouter};

/// Prints what a node replicates.
pub(super) fn show(name: Option<&str>, format: Format) -> Result<ExitCode> {
    let snapshot = status::ask(name)?;
    if snapshot.node.daemon != RUNNING {
        bail!("{}: only the daemon knows of its peers", snapshot.node.daemon);
    }
    let text = match (format, &snapshot.sync) {
        (Format::Text, Some(sync)) => render(sync),
        (Format::Text, None) => "flows are not replicated: the configuration has no [sync]\n".to_owned(),
        (Format::Json, sync) => serde_json::to_string(sync)? + "\n",
        (Format::PrettyJson, sync) => serde_json::to_string_pretty(sync)? + "\n",
    };
    Ok(status::print(&text, &snapshot))
}

/// For people.
pub fn render(s: &Sync) -> String {
    let mut out = format!("listens on {} (UDP)\n\n", s.listen);
    let mut t = Table::new(&["ROUTER", "STATE", "FLOWS", "OWNER HAS", "PRE-EMPTS"]);
    for r in &s.routers {
        t.row([
            r.name.clone(),
            state(r),
            r.flows.to_string(),
            r.owner_flows.map_or_else(|| "-".into(), |n| n.to_string()),
            pre_empts(r),
        ]);
    }
    out.push_str(&t.render(0));
    out.push('\n');
    let mut t = Table::new(&[
        "PEER", "STATE", "HEARD", "NEWS OUT", "NEWS IN", "SENT", "FETCHED", "REPAIRS", "DROPPED",
    ]);
    for p in &s.peers {
        t.row([
            p.addr.clone(),
            p.state.clone(),
            p.heard_ms.map_or_else(|| "never".into(), |ms| format!("{:.1} s ago", ms / 1000.0)),
            p.news_sent.to_string(),
            p.news_heard.to_string(),
            p.flows_sent.to_string(),
            p.flows_heard.to_string(),
            p.repairs.to_string(),
            p.dropped.to_string(),
        ]);
    }
    out.push_str(&t.render(0));
    let _ = writeln!(out, "\nflows of peers: {} taken in or changed, {} removed", s.taken, s.removed);
    for (what, counts) in [
        ("not taken in", &s.unfit),
        ("not replicated", &s.not_replicated),
        ("datagrams refused", &s.refused),
        ("SYN-ACKs that waited for peers", &s.strict),
    ] {
        if !counts.is_empty() {
            let words: Vec<_> = counts.iter().map(|(why, n)| format!("{why} {n}")).collect();
            let _ = writeln!(out, "{what}: {}", words.join(", "));
        }
    }
    if s.events_lost + s.unsent > 0 {
        let _ = writeln!(out, "events without room {}, datagrams not sent {}", s.events_lost, s.unsent);
    }
    out
}

/// One line for `status`.
pub(super) fn line(s: &Sync) -> String {
    let alive = s.peers.iter().filter(|p| p.state == "alive").count();
    let router = |r: &SyncRouter| {
        let waits = if r.waits_ms.is_some() { ", does not pre-empt yet" } else { "" };
        format!("{} {} ({} flows{waits})", r.name, state(r), r.flows)
    };
    let routers: Vec<_> = s.routers.iter().map(router).collect();
    format!("sync {}; peers {alive}/{} alive\n", routers.join(", "), s.peers.len())
}

fn state(r: &SyncRouter) -> String {
    match r.fetched {
        Some((done, of)) => format!("{} {done}/{of}", r.state),
        None => r.state.clone(),
    }
}

fn pre_empts(r: &SyncRouter) -> String {
    match (r.waits_ms, r.waited_out) {
        (Some(ms), _) => format!("once it has the flows, or in {:.0} s", (ms / 1000.0).ceil()),
        (None, true) => "the wait was over".into(),
        (None, false) => "freely".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::snapshot::SyncPeer;

    #[test]
    fn a_node_that_catches_up_says_how_far_it_is_and_how_long_it_waits() {
        let router = SyncRouter {
            name: "VI_1".into(),
            state: "fetching".into(),
            flows: 1200,
            owner_flows: Some(5000),
            fetched: Some((260, 1024)),
            waits_ms: Some(28_400.0),
            waited_out: false,
        };
        let peer = SyncPeer {
            addr: "172.18.0.8:29113".into(),
            state: "alive".into(),
            heard_ms: Some(130.0),
            flows_heard: 1200,
            ..SyncPeer::default()
        };
        let s = Sync {
            listen: "0.0.0.0:29113".into(),
            peers: vec![peer],
            routers: vec![router],
            taken: 1200,
            refused: [("bad-tag".to_owned(), 3)].into(),
            ..Sync::default()
        };
        let text = render(&s);
        for part in [
            "VI_1    fetching 260/1024  1200   5000       once it has the flows, or in 29 s",
            "172.18.0.8:29113  alive  0.1 s ago",
            "datagrams refused: bad-tag 3",
        ] {
            assert!(text.contains(part), "{part} is missing from\n{text}");
        }
        assert_eq!(
            line(&s),
            "sync VI_1 fetching 260/1024 (1200 flows, does not pre-empt yet); peers 1/1 alive\n"
        );
    }
}
