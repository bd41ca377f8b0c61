//! `/metrics`: a snapshot in Prometheus' text format (version 0.0.4).
//!
//! Written by hand: a snapshot is at hand whole, so that a library with registries would only hold it a second time. The
//! names are part of the interface. Nothing that varies without bound becomes a label: no addresses of clients, no causes
//! in words.

use std::fmt::{Display, Write};

use super::snapshot::{Backend, RUNNING, Service, Snapshot, Sync, SyncRouter, Times, Track, Vrrp};

/// States of a virtual router, each a series of its own: exactly one of them is 1.
const STATES: [&str; 4] = ["Init", "Backup", "Master", "Fault"];

/// The whole text.
pub fn render(s: &Snapshot) -> String {
    let mut out = Text(String::with_capacity(8192));
    node(&mut out, s);
    routers(&mut out, &s.vrrp);
    adverts(&mut out, &s.vrrp);
    punctuality(&mut out, &s.vrrp);
    trackers(&mut out, &s.vrrp);
    services(&mut out, &s.services);
    backends(&mut out, &s.services);
    packets(&mut out, s);
    s.sync.iter().for_each(|sync| replication(&mut out, sync));
    out.0
}

/// Families of samples, one after the other.
struct Text(String);

impl Text {
    /// A family: every sample with its labels. One without samples is left out.
    fn family<V: Display, L: AsRef<[(&'static str, String)]>>(
        &mut self,
        (name, kind, help): (&str, &str, &str),
        samples: impl IntoIterator<Item = (L, V)>,
    ) {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        // Writing to a String cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (labels, value) in samples {
            let _ = write!(self.0, "{name}");
            for (i, (key, text)) in labels.as_ref().iter().enumerate() {
                let _ = write!(self.0, "{}{key}=\"{}\"", if i == 0 { '{' } else { ',' }, escape(text));
            }
            let close = if labels.as_ref().is_empty() { "" } else { "}" };
            let _ = writeln!(self.0, "{close} {value}");
        }
    }
}

impl Text {
    /// A family of histograms. Buckets above the slowest time are left out but for the infinite one.
    fn histogram<'a>(
        &mut self,
        (name, help): (&str, &str),
        samples: impl IntoIterator<Item = ([(&'static str, String); 2], &'a Times)>,
    ) {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} histogram\n");
        for (labels, times) in samples {
            let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escape(v))).collect();
            let labels = labels.join(",");
            let mut below = 0;
            for (end, n) in &times.buckets {
                below += n;
                let _ = writeln!(self.0, "{name}_bucket{{{labels},le=\"{}\"}} {below}", end / 1000.0);
                if below == times.count {
                    break;
                }
            }
            let (sum, count) = (times.sum_ms / 1000.0, times.count);
            let _ = writeln!(self.0, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
            let _ = writeln!(self.0, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {count}");
        }
    }
}

/// Backslash, quotes and line ends, as the format wants them.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn node(out: &mut Text, s: &Snapshot) {
    let info = [("node", s.node.name.clone()), ("version", s.node.version.clone())];
    out.family(("viplb_info", "gauge", "The node and its version."), [(info, 1)]);
    let none: [(&str, String); 0] = [];
    let up = u8::from(s.node.daemon == RUNNING);
    out.family(("viplb_up", "gauge", "Whether the daemon answers."), [(none.clone(), up)]);
    out.family(
        ("viplb_start_time_seconds", "gauge", "When the daemon started, unix time."),
        [(none.clone(), s.node.since)],
    );
    let thread = s.node.vrrp_thread.iter();
    out.family(
        ("viplb_vrrp_thread", "gauge", "Whether the VRRP thread has what keeps it punctual."),
        thread.flat_map(|t| {
            [("realtime", t.realtime), ("memory_locked", t.memory_locked)]
                .map(|(what, has)| ([("has", what.to_owned())], u8::from(has)))
        }),
    );
    out.family(
        ("viplb_alarm", "gauge", "What somebody should look at; absent when there is nothing."),
        s.alarm_list.iter().map(|a| ([("alarm", a.kind.clone()), ("router", a.router.clone())], 1)),
    );
    out.family(("viplb_flows", "gauge", "Flows in the table."), [(none.clone(), s.flows.used)]);
    out.family(("viplb_flows_capacity", "gauge", "Room in the table."), [(none, s.flows.capacity)]);
}

/// A family with one sample for each router.
fn per_router<V: Display>(
    out: &mut Text,
    head: (&str, &str, &str),
    all: &[Vrrp],
    value: impl Fn(&Vrrp) -> V,
) {
    out.family(head, all.iter().map(|v| ([("router", v.name.clone())], value(v))));
}

fn routers(out: &mut Text, all: &[Vrrp]) {
    out.family(
        ("viplb_vrrp_state", "gauge", "1 for the state that a virtual router is in."),
        all.iter().flat_map(|v| {
            STATES.map(|state| {
                ([("router", v.name.clone()), ("state", state.to_lowercase())], u8::from(v.state == state))
            })
        }),
    );
    per_router(out, ("viplb_vrrp_lease_valid", "gauge", "Whether the packet programs act."), all, |v| {
        u8::from(v.lease_valid)
    });
    let seconds = |ms: f64| ms / 1000.0;
    per_router(out, ("viplb_vrrp_lease_left_seconds", "gauge", "What is left of the lease."), all, |v| {
        seconds(v.timers.lease_left)
    });
    per_router(
        out,
        ("viplb_vrrp_since_seconds", "gauge", "Since when it is in its state, unix time."),
        all,
        |v| v.since,
    );
    per_router(out, ("viplb_vrrp_priority", "gauge", "Configured priority."), all, |v| v.priority);
    per_router(out, ("viplb_vrrp_effective_priority", "gauge", "The priority that counts."), all, |v| {
        v.effective_priority
    });
}

fn adverts(out: &mut Text, all: &[Vrrp]) {
    out.family(
        ("viplb_vrrp_adverts_total", "counter", "Adverts."),
        all.iter().flat_map(|v| {
            [("sent", v.adverts_sent), ("received", v.adverts_received), ("not_sent", v.send_errors)]
                .map(|(what, count)| ([("router", v.name.clone()), ("what", what.to_owned())], count))
        }),
    );
    out.family(
        ("viplb_vrrp_refused_total", "counter", "Adverts refused."),
        all.iter().flat_map(|v| {
            let name = &v.name;
            v.refused
                .iter()
                .map(move |(why, count)| ([("router", name.clone()), ("reason", why.clone())], *count))
        }),
    );
    per_router(out, ("viplb_vrrp_announcements_total", "counter", "Announcements sent."), all, |v| {
        v.announcements
    });
}

fn punctuality(out: &mut Text, all: &[Vrrp]) {
    per_router(
        out,
        ("viplb_vrrp_late_wakes_total", "counter", "Wakes after the end of the own lease or claim."),
        all,
        |v| v.late_wakes,
    );
    out.family(
        ("viplb_vrrp_lateness_max_seconds", "gauge", "The latest that the thread ever came to a deadline."),
        all.iter().flat_map(|v| {
            [("true", v.lateness_max_ms), ("false", v.lateness_in_time_ms)].map(|(stalls, ms)| {
                ([("router", v.name.clone()), ("with_stalls", stalls.to_owned())], ms / 1000.0)
            })
        }),
    );
}

fn trackers(out: &mut Text, all: &[Vrrp]) {
    let each = || all.iter().flat_map(|v| v.tracks.iter().map(move |t| (v, t)));
    let labels = |v: &Vrrp, t: &Track| [("router", v.name.clone()), ("track", t.name.clone())];
    let good = each().filter_map(|(v, t)| match t.state.as_str() {
        "good" => Some((labels(v, t), 1)),
        "bad" => Some((labels(v, t), 0)),
        _ => None,
    });
    out.family(("viplb_track_good", "gauge", "Whether what is tracked is as it should be."), good);
    let value = each().filter_map(|(v, t)| Some((labels(v, t), t.state.parse::<i64>().ok()?)));
    out.family(("viplb_track_value", "gauge", "Value of a tracked file."), value);
    let fault = each().map(|(v, t)| (labels(v, t), u8::from(t.effect == "fault")));
    out.family(("viplb_track_fault", "gauge", "Whether it keeps the router from taking part."), fault);
}

fn services(out: &mut Text, all: &[Service]) {
    let mut family = |head: (&str, &str, &str), value: &dyn Fn(&Service) -> u64| {
        out.family(head, all.iter().map(|v| ([("service", v.name.clone())], value(v))));
    };
    family(("viplb_service_backends_up", "gauge", "Backends that take new connections."), &|v| v.up as u64);
    family(("viplb_service_backends", "gauge", "Backends."), &|v| v.backends.len() as u64);
    family(("viplb_service_connections", "gauge", "Connections that are open."), &|v| v.active);
    family(("viplb_service_connections_limit", "gauge", "As many as there may be; 0: any number."), &|v| {
        v.limit
    });
    family(("viplb_service_flows_total", "counter", "New flows."), &|v| v.flows);
    family(("viplb_service_refused_total", "counter", "Connections refused."), &|v| v.refused);
    family(("viplb_service_ports_exhausted_total", "counter", "Of these: no source port was free."), &|v| {
        v.ports_exhausted
    });
    family(("viplb_service_table_full_total", "counter", "Of these: the flow table was full."), &|v| {
        v.table_full
    });
    family(
        ("viplb_service_denied_total", "counter", "Connections that the service's rules kept out."),
        &|v| v.denied,
    );
    family(
        (
            "viplb_service_limited_total",
            "counter",
            "Refused connections of clients that were too fast or had too many.",
        ),
        &|v| v.limited,
    );
    family(
        ("viplb_service_displaced_total", "counter", "Half-open flows that gave way to newer ones."),
        &|v| v.displaced,
    );
    family(("viplb_service_packets_total", "counter", "Packets of both directions."), &|v| v.packets);
    family(("viplb_service_bytes_total", "counter", "Bytes of both directions."), &|v| v.bytes);
}

fn backends(out: &mut Text, all: &[Service]) {
    let each = || all.iter().flat_map(|v| v.backends.iter().map(move |b| (v, b)));
    let labels = |v: &Service, b: &Backend| [("service", v.name.clone()), ("backend", b.name.clone())];
    let mut family = |head: (&str, &str, &str), value: &dyn Fn(&Backend) -> u64| {
        out.family(head, each().map(|(v, b)| (labels(v, b), value(b))));
    };
    family(("viplb_backend_up", "gauge", "Whether its check passes."), &|b| u64::from(b.state == "up"));
    family(("viplb_backend_weight", "gauge", "Configured weight."), &|b| u64::from(b.weight));
    family(("viplb_backend_connections", "gauge", "Connections that are open."), &|b| b.active);
    family(("viplb_backend_connections_limit", "gauge", "As many as there may be; 0: any number."), &|b| {
        b.limit
    });
    family(("viplb_backend_flows_total", "counter", "New flows."), &|b| b.flows);
    family(
        ("viplb_backend_unanswered_total", "counter", "New flows whose first SYN it did not answer."),
        &|b| b.unanswered,
    );
    family(("viplb_backend_refused_total", "counter", "New flows that it refused, by RST or ICMP."), &|b| {
        b.refused
    });
    family(
        (
            "viplb_backend_moved_total",
            "counter",
            "Connections that it accepted, did not greet, and others took over.",
        ),
        &|b| b.moved,
    );
    family(("viplb_backend_packets_total", "counter", "Packets of both directions."), &|b| b.packets);
    family(("viplb_backend_bytes_total", "counter", "Bytes of both directions."), &|b| b.bytes);
    let checks = each().filter_map(|(v, b)| Some((labels(v, b), b.check_ms? / 1000.0)));
    out.family(("viplb_backend_check_seconds", "gauge", "Duration of the last passed check."), checks);
    latency(out, all);
}

fn latency(out: &mut Text, all: &[Service]) {
    let each = |times: fn(&Backend) -> Option<&Times>| {
        all.iter().flat_map(|v| v.backends.iter().map(move |b| (v, b))).filter_map(move |(v, b)| {
            Some(([("service", v.name.clone()), ("backend", b.name.clone())], times(b)?))
        })
    };
    out.histogram(
        ("viplb_backend_connect_seconds", "From a client's SYN to the backend's SYN-ACK."),
        each(|b| b.connect.as_ref()),
    );
    out.histogram(
        ("viplb_backend_response_seconds", "From a flow's first request byte to its first response byte."),
        each(|b| b.response.as_ref()),
    );
}

fn packets(out: &mut Text, s: &Snapshot) {
    let labels = |kind: &str, reason: &str| [("kind", kind.to_owned()), ("reason", reason.to_owned())];
    out.family(
        ("viplb_packets_total", "counter", "Packets by what became of them."),
        s.packets.iter().map(|p| (labels(&p.kind, &p.reason), p.count)),
    );
}

fn replication(out: &mut Text, s: &Sync) {
    let peers = || s.peers.iter();
    let peer = |addr: &str| ("peer", addr.to_owned());
    out.family(
        ("viplb_sync_peer_alive", "gauge", "Whether a peer is heard."),
        peers().map(|p| ([peer(&p.addr)], u8::from(p.state == "alive"))),
    );
    out.family(
        ("viplb_sync_flows_total", "counter", "Flows exchanged with a peer."),
        peers().flat_map(|p| {
            [
                ("news_sent", p.news_sent),
                ("news_heard", p.news_heard),
                ("sent", p.flows_sent),
                ("fetched", p.flows_heard),
                ("dropped", p.dropped),
            ]
            .map(|(what, count)| ([peer(&p.addr), ("what", what.to_owned())], count))
        }),
    );
    out.family(
        ("viplb_sync_repairs_total", "counter", "How often something was lost and fetched."),
        peers().map(|p| ([peer(&p.addr)], p.repairs)),
    );
    let routers = |value: fn(&SyncRouter) -> u64| {
        s.routers.iter().map(move |r| ([("router", r.name.clone())], value(r)))
    };
    out.family(
        ("viplb_sync_current", "gauge", "Whether this node owns the router, or has what its owner has."),
        routers(|r| u64::from(matches!(r.state.as_str(), "owner" | "in-sync"))),
    );
    out.family(("viplb_sync_flows", "gauge", "Flows that are or can be replicated."), routers(|r| r.flows));
    out.family(
        ("viplb_sync_waits", "gauge", "Whether this node does not pre-empt yet, for want of flows."),
        routers(|r| u64::from(r.waits_ms.is_some())),
    );
    let by_reason = |counts: &std::collections::BTreeMap<String, u64>| {
        counts.iter().map(|(why, n)| ([("reason", why.clone())], *n)).collect::<Vec<_>>()
    };
    out.family(("viplb_sync_refused_total", "counter", "Datagrams refused."), by_reason(&s.refused));
    out.family(
        ("viplb_sync_unfit_total", "counter", "Flows of peers that were not taken in."),
        by_reason(&s.unfit),
    );
    out.family(
        ("viplb_sync_not_replicated", "gauge", "Flows that no peer could go on with."),
        by_reason(&s.not_replicated),
    );
    let outcomes = s.strict.iter().map(|(what, n)| ([("outcome", what.clone())], *n));
    out.family(
        ("viplb_sync_held_total", "counter", "SYN-ACKs of strict services, by what became of them."),
        outcomes,
    );
    let none: [(&str, String); 0] = [];
    out.family(
        (
            "viplb_sync_events_lost_total",
            "counter",
            "Flow events without room; the next pass found the flows.",
        ),
        [(none, s.events_lost)],
    );
}

#[cfg(test)]
mod tests;
