//! What is shown of flow replication: the part of a snapshot that the pure state has.

use std::time::Duration;

use super::{gate::Gate, hold::Counts, node::Node, pull::Standing};
use crate::{api::snapshot, vrrp::BootTime};

/// Peers and routers, of which numbers and names are given.
pub(super) fn of(
    node: &Node,
    routers: impl Iterator<Item = (usize, String)>,
    now: BootTime,
) -> snapshot::Sync {
    let words = |why: &dyn ToString, count: u64| (why.to_string(), count);
    snapshot::Sync {
        peers: node.links.iter().map(|link| peer(link, now)).collect(),
        routers: routers.map(|(number, name)| router(node, number, name, now)).collect(),
        taken: node.table.taken,
        removed: node.table.removed,
        unfit: node.table.unfit.iter().map(|(why, count)| words(why, *count)).collect(),
        not_replicated: node.table.kept().map(|(why, count)| words(&why, count as u64)).collect(),
        strict: strict(node.waiting.counts),
        refused: node.refused().iter().map(|(why, count)| words(why, *count)).collect(),
        ..snapshot::Sync::default()
    }
}

/// Nothing of it where nothing has waited.
fn strict(c: Counts) -> std::collections::BTreeMap<String, u64> {
    let all = [
        ("confirmed", c.confirmed),
        ("late", c.late),
        ("alone", c.alone),
        ("crowded", c.crowded),
        ("stale", c.stale),
    ];
    all.into_iter().filter(|(_, n)| *n > 0).map(|(what, n)| (what.to_owned(), n)).collect()
}

fn peer(link: &super::node::Link, now: BootTime) -> snapshot::SyncPeer {
    let x = &link.peer.exchanged;
    snapshot::SyncPeer {
        addr: link.addr.to_string(),
        state: if link.peer.is_alive(now) { "alive" } else { "silent" }.into(),
        heard_ms: link.peer.heard().map(|at| ms(now.since(at))),
        news_sent: x.news_sent,
        news_heard: x.news_heard,
        flows_sent: x.flows_sent,
        flows_heard: x.flows_heard,
        repairs: x.repairs,
        dropped: x.dropped,
    }
}

fn router(node: &Node, i: usize, name: String, now: BootTime) -> snapshot::SyncRouter {
    let best = if node.table.owns(i) { None } else { node.best(i, now) };
    let gate = node.gates[i];
    let state = match best {
        _ if node.table.owns(i) => "owner",
        None => "no-owner",
        Some(Standing::Comparing) => "comparing",
        Some(Standing::Fetching { .. }) => "fetching",
        Some(Standing::InSync) => "in-sync",
        Some(Standing::Repairing) => "repairing",
    };
    let claimed = node.links.iter().filter_map(|link| link.peer.claimed(i)).map(|s| u64::from(s.count)).max();
    snapshot::SyncRouter {
        name,
        state: state.into(),
        flows: node.table.total(i).count.into(),
        owner_flows: claimed.filter(|_| best.is_some()),
        fetched: match best {
            Some(Standing::Fetching { done, of }) => Some((done, of)),
            _ => None,
        },
        waits_ms: gate.is_closed().then(|| ms(gate.left(now, node.wait()))),
        waited_out: gate == Gate::WaitedOut,
    }
}

fn ms(d: Duration) -> f64 {
    d.as_micros() as f64 / 1000.0
}
