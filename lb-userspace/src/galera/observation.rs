//! One node's state at one moment, from the rows of `SHOW GLOBAL STATUS` and `SHOW GLOBAL VARIABLES`, and what its
//! history adds to it.
//!
//! The `galera` check asks for [`STATUS_NAMES`] and [`VARIABLE_NAMES`]. Rows come from a server that may be anything:
//! what cannot be read is left at its default, and [`Observation::is_galera`] tells whether there was anything.

use std::time::Instant;

use crate::{config::model::Galera, health::failure::printable};

/// What `SHOW GLOBAL STATUS` is asked for.
pub const STATUS_NAMES: &[&str] = &[
    "Threads_connected",
    "wsrep_cluster_conf_id",
    "wsrep_cluster_size",
    "wsrep_cluster_state_uuid",
    "wsrep_cluster_status",
    "wsrep_connected",
    "wsrep_flow_control_paused_ns",
    "wsrep_flow_control_sent",
    "wsrep_incoming_addresses",
    "wsrep_last_committed",
    "wsrep_local_index",
    "wsrep_local_recv_queue",
    "wsrep_local_state",
    "wsrep_local_state_comment",
    "wsrep_ready",
];

/// What `SHOW GLOBAL VARIABLES` is asked for. `pxc_maint_mode` and `super_read_only` are not everywhere.
pub const VARIABLE_NAMES: &[&str] = &[
    "max_connections",
    "pxc_maint_mode",
    "read_only",
    "super_read_only",
    "wsrep_desync",
    "wsrep_reject_queries",
    "wsrep_sst_donor_rejects_queries",
];

/// A node's state at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observation {
    /// `wsrep_cluster_status`: `Primary`, `non-Primary`, `Disconnected`.
    pub cluster_status: String,
    /// `wsrep_cluster_state_uuid`: which cluster.
    pub cluster_uuid: String,
    /// `wsrep_cluster_conf_id`: counts the views of the cluster; meaningless outside of a primary component.
    pub conf_id: u64,
    /// `wsrep_cluster_size`: nodes of its component.
    pub cluster_size: u32,
    /// `wsrep_incoming_addresses`: client addresses of its component, sorted.
    pub incoming: Vec<String>,
    /// `wsrep_connected`; stays on while a node is isolated.
    pub connected: bool,
    /// `wsrep_ready`; stays on while queries are rejected.
    pub ready: bool,
    /// `wsrep_local_state`: 4 is Synced, 2 Donor/Desynced, 0 outside of a primary component.
    pub state: u8,
    /// `wsrep_local_state_comment`.
    pub state_comment: String,
    /// `wsrep_local_index`: its place in the view, by which all balancers agree.
    pub local_index: u32,
    /// `wsrep_last_committed`: number of its last transaction.
    pub last_committed: i64,
    /// `wsrep_local_recv_queue`: write sets that wait to be applied.
    pub recv_queue: u32,
    /// `wsrep_flow_control_paused_ns`: how long it was paused since its start.
    pub flow_control_paused_ns: u64,
    /// `wsrep_flow_control_sent`: how often it had the cluster paused.
    pub flow_control_sent: u64,
    /// `wsrep_desync`: set by an operator, or by a backup.
    pub desync: bool,
    /// `wsrep_reject_queries`: `NONE`, `ALL`, `ALL_KILL`.
    pub reject_queries: String,
    /// `wsrep_sst_donor_rejects_queries`.
    pub donor_rejects_queries: bool,
    /// `read_only` or `super_read_only`.
    pub read_only: bool,
    /// `pxc_maint_mode`: `DISABLED`, `MAINTENANCE`, `SHUTDOWN`; empty where there is none.
    pub maint_mode: String,
    /// `Threads_connected`.
    pub threads_connected: u32,
    /// `max_connections`.
    pub max_connections: u32,
}

impl Observation {
    /// Takes in a row of either statement.
    pub fn take(&mut self, name: &str, value: &str) {
        let text = || printable(value.trim());
        let on = matches!(value.trim().to_ascii_uppercase().as_str(), "ON" | "1" | "YES" | "TRUE");
        match name.to_ascii_lowercase().as_str() {
            "wsrep_cluster_status" => self.cluster_status = text(),
            "wsrep_cluster_state_uuid" => self.cluster_uuid = text().to_ascii_lowercase(),
            "wsrep_cluster_conf_id" => self.conf_id = number(value),
            "wsrep_cluster_size" => self.cluster_size = number(value),
            "wsrep_incoming_addresses" => self.incoming = addresses(value),
            "wsrep_connected" => self.connected = on,
            "wsrep_ready" => self.ready = on,
            "wsrep_local_state" => self.state = number(value),
            "wsrep_local_state_comment" => self.state_comment = text(),
            // All ones outside of a primary component.
            "wsrep_local_index" => self.local_index = value.trim().parse().unwrap_or(u32::MAX),
            "wsrep_last_committed" => self.last_committed = value.trim().parse().unwrap_or(-1),
            "wsrep_local_recv_queue" => self.recv_queue = number(value),
            "wsrep_flow_control_paused_ns" => self.flow_control_paused_ns = number(value),
            "wsrep_flow_control_sent" => self.flow_control_sent = number(value),
            "wsrep_desync" => self.desync = on,
            "wsrep_reject_queries" => self.reject_queries = text().to_ascii_uppercase(),
            "wsrep_sst_donor_rejects_queries" => self.donor_rejects_queries = on,
            "read_only" | "super_read_only" => self.read_only |= on || value.trim().starts_with("NO_LOCK"),
            "pxc_maint_mode" => self.maint_mode = text().to_ascii_uppercase(),
            "threads_connected" => self.threads_connected = number(value),
            "max_connections" => self.max_connections = number(value),
            _ => {}
        }
    }

    /// Whether the server is a Galera node at all: others have none of these variables, or wsrep off.
    pub fn is_galera(&self) -> bool {
        !self.cluster_status.is_empty()
    }

    /// Whether it is in a primary component.
    pub fn is_primary(&self) -> bool {
        self.cluster_status.eq_ignore_ascii_case("primary")
    }
}

fn number<N: std::str::FromStr + Default>(value: &str) -> N {
    value.trim().parse().unwrap_or_default()
}

/// More members than any cluster has are somebody's bad joke.
const MOST_ADDRESSES: usize = 64;

fn addresses(value: &str) -> Vec<String> {
    let named = value.split(',').map(str::trim).filter(|a| !a.is_empty() && !a.eq_ignore_ascii_case("AUTO"));
    let mut list: Vec<String> = named.take(MOST_ADDRESSES).map(printable).collect();
    list.sort();
    list
}

/// An observation and what those before it add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The latest.
    pub now: Observation,
    /// When it was made.
    pub at: Instant,
    /// Since when this node was seen with this cluster, component and view.
    pub view_since: Instant,
    /// Share of the last interval that the node was paused, in percent, if it had the cluster paused itself.
    pub paused_percent: u8,
    /// It has more write sets waiting, or the cluster paused more, than it is allowed to.
    pub lags: bool,
}

impl Seen {
    /// The history with one more observation, made `at`.
    pub fn next(before: Option<&Self>, now: Observation, at: Instant, rules: &Galera) -> Self {
        let primary = |b: &&Self| b.now.is_primary() && now.is_primary();
        let same_view = before.filter(primary).filter(|b| view(&b.now) == view(&now));
        let paused_percent = before.map_or(0, |b| paused_percent(&b.now, &now, at - b.at));
        Self {
            view_since: same_view.map_or(at, |b| b.view_since),
            lags: lags(&now, paused_percent, before.is_some_and(|b| b.lags), rules),
            now,
            at,
            paused_percent,
        }
    }
}

/// What makes two views one: nodes that differ in any of it are not in one component.
pub(super) fn view(o: &Observation) -> (&str, u64, u32, &[String]) {
    (&o.cluster_uuid, o.conf_id, o.cluster_size, &o.incoming)
}

fn paused_percent(before: &Observation, now: &Observation, between: std::time::Duration) -> u8 {
    let paused = now.flow_control_paused_ns.saturating_sub(before.flow_control_paused_ns);
    // Every node counts the pauses; only the slow one asked for them.
    if now.flow_control_sent <= before.flow_control_sent || between.is_zero() {
        return 0;
    }
    (u128::from(paused) * 100 / between.as_nanos()).min(100) as u8
}

/// Over a limit; or was, and is not yet below half of it.
fn lags(now: &Observation, paused_percent: u8, before: bool, rules: &Galera) -> bool {
    let over = |value: u32, limit: u32| value > if before { limit / 2 } else { limit };
    rules.max_receive_queue.is_some_and(|limit| over(now.recv_queue, limit))
        || rules.max_flow_control.is_some_and(|limit| over(u32::from(paused_percent), u32::from(limit)))
}

#[cfg(test)]
mod tests;
