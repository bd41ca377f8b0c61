//! `viplb vrrp show`: the election in full, from the same snapshot as `status`. A dead or frozen daemon's routers are
//! shown with what the pinned maps tell: addresses and lease.

use std::{fmt::Write, process::ExitCode};

use anyhow::Result;
use serde::Serialize;

use super::{Format, status};
use crate::{
    api::snapshot::{RUNNING, Snapshot, Track, Vrrp, VrrpProbe, VrrpThread},
    units::age,
};

/// What is printed as JSON: parts of the snapshot under their names.
#[derive(Serialize)]
struct Shown<'s> {
    vrrp_thread: &'s Option<VrrpThread>,
    vrrp: &'s [Vrrp],
}

/// Prints all virtual routers of a node.
pub(super) fn show(name: Option<&str>, format: Format) -> Result<ExitCode> {
    let snapshot = status::ask(name)?;
    let shown = Shown { vrrp_thread: &snapshot.node.vrrp_thread, vrrp: &snapshot.vrrp };
    let text = match format {
        Format::Text => render(&snapshot, status::now()),
        Format::Json => serde_json::to_string(&shown)? + "\n",
        Format::PrettyJson => serde_json::to_string_pretty(&shown)? + "\n",
    };
    Ok(status::print(&text, &snapshot))
}

/// For people. `now` is in unix seconds.
fn render(s: &Snapshot, now: u64) -> String {
    let mut out = String::new();
    if s.node.daemon != RUNNING {
        let _ = writeln!(out, "{}; what follows is read from the pinned maps", s.node.daemon);
    }
    if let Some(thread) = &s.node.vrrp_thread {
        let policy = if thread.realtime { "real-time (SCHED_FIFO)" } else { "ordinary (SCHED_OTHER)" };
        let memory = if thread.memory_locked { "locked" } else { "not locked" };
        let _ = writeln!(out, "thread  scheduling {policy}, memory {memory}");
        for why in &thread.missing {
            let _ = writeln!(out, "        {why}");
        }
    }
    for v in &s.vrrp {
        out.push('\n');
        router(&mut out, v, now);
    }
    out
}

fn router(out: &mut String, v: &Vrrp, now: u64) {
    let lease = if v.lease_valid { "valid" } else { "none" };
    let owner = v.owner.as_deref().unwrap_or("-");
    if v.version == 0 {
        let _ = writeln!(out, "{}  {}  lease {lease}", v.name, v.addresses.join(","));
        return;
    }
    let t = &v.timers;
    let since = age(now.saturating_sub(v.since));
    let _ = writeln!(
        out,
        "{}  {} id {}  version {}  priority {}  {} for {since} ({})",
        v.name,
        v.interface,
        v.vrid,
        v.version,
        status::priority(v),
        v.state,
        v.reason
    );
    let mut line = |word: &str, text: String| {
        let _ = writeln!(out, "  {word:<10}{text}");
    };
    line("addresses", v.addresses.join(","));
    if !v.excluded.is_empty() {
        line("excluded", v.excluded.join(","));
    }
    place(v, &mut line);
    for track in &v.tracks {
        line("track", self::track(track, now));
    }
    line("owner", owner.to_owned());
    line("lease", format!("{lease}, {} left of {}", ms(t.lease_left), ms(t.lease)));
    line("intervals", format!("own {}, master's {}", ms(t.advert_int), ms(t.master_int)));
    if let Some(probe) = &v.probe {
        line("probes", probes(probe));
    }
    let next = t.next.map_or_else(|| "none".to_owned(), |next| format!("in {}", ms(next)));
    line("timers", format!("skew {}, master down {}, next {next}", ms(t.skew), ms(t.master_down)));
    line(
        "adverts",
        format!("sent {}, not sent {}, received {}", v.adverts_sent, v.send_errors, v.adverts_received),
    );
    let refused: Vec<_> = v.refused.iter().map(|(why, count)| format!("{why} {count}")).collect();
    line("refused", if refused.is_empty() { "none".to_owned() } else { refused.join(", ") });
    line("announced", format!("{} times by ARP", v.announcements));
    punctuality(v, &mut line);
}

/// How late the thread came, and what that allows.
fn punctuality(v: &Vrrp, line: &mut impl FnMut(&str, String)) {
    let (in_time, latest) = (ms(v.lateness_in_time_ms), ms(v.lateness_max_ms));
    line(
        "lateness",
        format!("worst {in_time}, with stalls {latest}, woke after its lease {} times", v.late_wakes),
    );
    let shortest = match v.shortest_advert_int_ms {
        Some(shortest) => format!("safe advert_int {} in version {}", ms(shortest), v.version),
        None if v.lateness_in_time_ms == 0.0 => "safe advert_int not measured yet".to_owned(),
        None => "no safe advert_int for this lateness".to_owned(),
    };
    line("shortest", shortest);
}

/// `every 40 ms; master alive, answered 12 ms ago` or `…; watched by a peer, lease 400 ms`.
fn probes(p: &VrrpProbe) -> String {
    let mut text = format!("every {}", ms(p.interval));
    if !p.peer.is_empty() {
        let _ = write!(text, "; master {}", p.peer);
        if let Some(answered) = p.answered {
            let _ = write!(text, ", answered {} ago", ms(answered));
        }
    }
    if p.watched {
        let _ = write!(text, "; watched by a peer, lease {}", ms(p.lease));
    }
    text
}

/// What is not as it is by default.
fn place(v: &Vrrp, line: &mut impl FnMut(&str, String)) {
    if !v.assigned {
        line("placed", "on no interface: only the packet programs answer".to_owned());
    }
    if let Some(mac) = &v.virtual_mac {
        line("hardware", mac.clone());
    }
    line("transport", v.transport.clone());
    if let Some(group) = &v.sync_group {
        line("group", group.clone());
    }
}

/// `uplink (interface) bad for 5s: eth1 has no carrier; weight -20: -20`.
fn track(t: &Track, now: u64) -> String {
    let since = age(now.saturating_sub(t.since));
    let why = if t.cause.is_empty() { String::new() } else { format!(": {}", t.cause) };
    let reverse = if t.reverse { " reversed" } else { "" };
    format!(
        "{} ({}) {} for {since}{why}; weight {}{reverse}: {}",
        t.name, t.kind, t.state, t.weight, t.effect
    )
}

/// Milliseconds, or seconds from one on.
fn ms(n: f64) -> String {
    if n >= 1000.0 {
        format!("{} s", (n / 10.0).round() / 100.0)
    } else {
        format!("{} ms", (n * 100.0).round() / 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::snapshot::{Node, VrrpTimers};

    fn snapshot() -> Snapshot {
        let timers = VrrpTimers {
            advert_int: 30.0,
            master_int: 30.0,
            skew: 0.234,
            master_down: 90.234,
            lease: 75.0,
            lease_left: 61.5,
            next: Some(16.5),
        };
        let router = Vrrp {
            name: "VI_1".into(),
            interface: "eth0".into(),
            vrid: 51,
            priority: 254,
            state: "Master".into(),
            since: 1000,
            reason: "no master was heard".into(),
            owner: Some("h1".into()),
            addresses: vec!["172.18.0.201".into(), "172.18.0.202".into()],
            lease_valid: true,
            adverts_sent: 7,
            refused: [("bad checksum".to_owned(), 2)].into(),
            version: 3,
            timers,
            announcements: 10,
            lateness_max_ms: 9000.0,
            lateness_in_time_ms: 1.3,
            late_wakes: 1,
            shortest_advert_int_ms: Some(20.0),
            effective_priority: 254,
            transport: "multicast".into(),
            assigned: true,
            ..Vrrp::default()
        };
        let missing = vec!["memory not locked: it takes CAP_IPC_LOCK".to_owned()];
        let vrrp_thread = Some(VrrpThread { realtime: true, memory_locked: false, missing });
        let node = Node { daemon: RUNNING.into(), vrrp_thread, ..Node::default() };
        Snapshot { node, vrrp: vec![router], ..Snapshot::default() }
    }

    #[test]
    fn a_router_is_shown_with_its_timers_counters_and_punctuality() {
        let expected = "\
thread  scheduling real-time (SCHED_FIFO), memory not locked
        memory not locked: it takes CAP_IPC_LOCK

VI_1  eth0 id 51  version 3  priority 254  Master for 5s (no master was heard)
  addresses 172.18.0.201,172.18.0.202
  transport multicast
  owner     h1
  lease     valid, 61.5 ms left of 75 ms
  intervals own 30 ms, master's 30 ms
  timers    skew 0.23 ms, master down 90.23 ms, next in 16.5 ms
  adverts   sent 7, not sent 0, received 0
  refused   bad checksum 2
  announced 10 times by ARP
  lateness  worst 1.3 ms, with stalls 9 s, woke after its lease 1 times
  shortest  safe advert_int 20 ms in version 3
";
        assert_eq!(render(&snapshot(), 1005), expected);
    }

    #[test]
    fn what_moves_the_priority_and_what_is_not_the_default_is_shown() {
        let track = Track {
            name: "uplink".into(),
            kind: "interface".into(),
            state: "bad".into(),
            since: 1000,
            cause: "eth1 has no carrier".into(),
            weight: -20,
            reverse: false,
            effect: "-20".into(),
        };
        let mut s = snapshot();
        let v = &mut s.vrrp[0];
        (v.effective_priority, v.tracks, v.assigned) = (234, vec![track], false);
        v.transport = "unicast to 172.18.0.8".into();
        (v.virtual_mac, v.sync_group) = (Some("00:00:5e:00:01:33".into()), Some("both".into()));
        v.excluded = vec!["10.0.0.1".into()];
        let shown = render(&s, 1005);
        for line in [
            "VI_1  eth0 id 51  version 3  priority 234 (of 254)  Master for 5s (no master was heard)",
            "  excluded  10.0.0.1",
            "  placed    on no interface: only the packet programs answer",
            "  hardware  00:00:5e:00:01:33",
            "  transport unicast to 172.18.0.8",
            "  group     both",
            "  track     uplink (interface) bad for 5s: eth1 has no carrier; weight -20: -20",
        ] {
            assert!(shown.lines().any(|l| l == line), "{line} is missing from\n{shown}");
        }
    }

    #[test]
    fn of_a_frozen_daemon_the_lease_is_shown() {
        let router = Vrrp { name: "#0".into(), addresses: vec!["172.18.0.201".into()], ..Vrrp::default() };
        let node = Node { daemon: "the daemon does not answer".into(), ..Node::default() };
        let shown = render(&Snapshot { node, vrrp: vec![router], ..Snapshot::default() }, 0);
        assert!(shown.ends_with("#0  172.18.0.201  lease none\n"), "{shown}");
    }

    /// Fields are only added: a newer command line reads an older daemon.
    #[test]
    fn a_snapshot_of_an_older_daemon_is_read() {
        let mut old = serde_json::to_value(snapshot()).unwrap();
        let router = old["vrrp"][0].as_object_mut().unwrap();
        for new in [
            "version",
            "timers",
            "send_errors",
            "announcements",
            "late_wakes",
            "lateness_max_ms",
            "effective_priority",
            "tracks",
            "sync_group",
            "transport",
            "virtual_mac",
            "excluded",
            "assigned",
        ] {
            assert!(router.remove(new).is_some(), "{new}");
        }
        old["node"].as_object_mut().unwrap().remove("vrrp_thread");
        old.as_object_mut().unwrap().remove("alarm_list");
        let read: Snapshot = serde_json::from_value(old).unwrap();
        assert_eq!(read.vrrp[0].adverts_sent, 7);
    }
}
