//! What viplb shows of itself: the one structure behind status, API, stats page and metrics.
//!
//! Times are unix seconds. Fields are only ever added; their names are part of the interface.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::datapath::build::Build;

/// State of a node at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Snapshot {
    /// The node.
    pub node: Node,
    /// Its virtual routers.
    pub vrrp: Vec<Vrrp>,
    /// Interfaces with programs on them.
    pub interfaces: Vec<Interface>,
    /// Services.
    pub services: Vec<Service>,
    /// The flow table.
    pub flows: Flows,
    /// Packets by what became of them; reasons that never occurred are left out.
    pub packets: Vec<Packets>,
    /// The refused and dropped ones of `packets`, by reason.
    pub drops: BTreeMap<String, u64>,
    /// What somebody should look at, in words.
    pub alarms: Vec<String>,
    /// The same, with what each is about.
    #[serde(default)]
    pub alarm_list: Vec<Alarm>,
    /// Flow replication; none without `[sync]`, or when the daemon could not be asked.
    #[serde(default)]
    pub sync: Option<Sync>,
    /// The configuration that runs.
    #[serde(default)]
    pub configuration: Configuration,
    /// Backends that are no longer in the file and have connections yet.
    #[serde(default)]
    pub leaving: Vec<Leaving>,
}

/// The configuration that runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Configuration {
    /// Its file.
    pub file: String,
    /// When it was last taken in; the start counts.
    pub since: u64,
    /// How often another one was taken in since the start.
    pub reloads: u64,
    /// Why a later one was refused, which changed nothing.
    pub refused: Option<Refused>,
    /// Changed by order, and not written to the file: the next reload takes this back.
    pub unwritten: bool,
}

/// A configuration that was not taken in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Refused {
    /// When.
    pub at: u64,
    /// All of what is wrong with it.
    pub why: String,
}

/// A backend that is no longer in the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Leaving {
    /// Name of its service.
    pub service: String,
    /// Its name.
    pub backend: String,
    /// Its TCP connections.
    pub connections: u64,
}

/// Flow replication.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Sync {
    /// Where peers are heard.
    pub listen: String,
    /// The other nodes.
    pub peers: Vec<SyncPeer>,
    /// The virtual routers.
    pub routers: Vec<SyncRouter>,
    /// Flows taken in or changed by peers' word.
    pub taken: u64,
    /// Flows removed by peers' word.
    pub removed: u64,
    /// Flows of peers that were not taken in, by reason.
    pub unfit: BTreeMap<String, u64>,
    /// Flows here that no peer could go on with, by reason.
    pub not_replicated: BTreeMap<String, u64>,
    /// Datagrams refused, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Flow events for which there was no room; the next pass over the table found what they were about.
    pub events_lost: u64,
    /// Datagrams that the kernel would not send.
    pub unsent: u64,
    /// SYN-ACKs of strict services, by what became of them: `confirmed`, `late`, `alone`, `crowded`, `stale`.
    #[serde(default)]
    pub strict: BTreeMap<String, u64>,
}

/// A node that flows are replicated with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct SyncPeer {
    /// Its address and port.
    pub addr: String,
    /// `alive` or `silent`.
    pub state: String,
    /// Since it was last heard, ms.
    pub heard_ms: Option<f64>,
    /// Flows told as they happened.
    pub news_sent: u64,
    /// Flows heard of likewise.
    pub news_heard: u64,
    /// Flows sent because the peer lacked them.
    pub flows_sent: u64,
    /// Flows asked for and received.
    pub flows_heard: u64,
    /// How often something was lost and fetched.
    pub repairs: u64,
    /// News for which there was no room, and which the peer finds missing.
    pub dropped: u64,
}

/// A virtual router whose flows are replicated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct SyncRouter {
    /// Its name.
    pub name: String,
    /// `owner`, `comparing`, `fetching`, `in-sync`, `repairing`; `no-owner` when no peer says that it owns it.
    pub state: String,
    /// Flows here that are or can be replicated.
    pub flows: u64,
    /// What the owner says that it has.
    pub owner_flows: Option<u64>,
    /// Buckets of 1,024 that differed and have been fetched, and all that did, while fetching.
    pub fetched: Option<(u16, u16)>,
    /// How long this node waits at most before it pre-empts, ms; none when it does not wait.
    pub waits_ms: Option<f64>,
    /// It went on without all flows, because the wait was over.
    pub waited_out: bool,
}

/// What somebody should look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Alarm {
    /// `two_owners`, `foreign_owner` or `lease_failed`.
    pub kind: String,
    /// The virtual router's name.
    pub router: String,
    /// In words.
    pub text: String,
}

/// The node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// `running`, or why the daemon could not be asked.
    pub daemon: String,
    /// Process id of the daemon, 0 when it could not be asked.
    pub pid: u32,
    /// When it started.
    pub since: u64,
    /// Version of viplb.
    pub version: String,
    /// Whose packet programs the kernel has; none where nobody has said.
    #[serde(default)]
    pub programs: Option<Build>,
    /// The file of the program that runs.
    #[serde(default)]
    pub program: String,
    /// Another number at each start.
    #[serde(default)]
    pub run: u64,
    /// Whether packet programs log their slow paths.
    pub datapath_log: bool,
    /// What the VRRP thread runs with; not known before it has started.
    #[serde(default)]
    pub vrrp_thread: Option<VrrpThread>,
}

/// How punctual the VRRP thread can be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct VrrpThread {
    /// Whether it has real-time priority (SCHED_FIFO).
    pub realtime: bool,
    /// Whether the daemon's memory is locked.
    pub memory_locked: bool,
    /// What was asked for and not granted, and why.
    pub missing: Vec<String>,
}

/// A virtual router.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Vrrp {
    /// Its name.
    pub name: String,
    /// Its interface.
    pub interface: String,
    /// `virtual_router_id`.
    pub vrid: u8,
    /// This node's priority, as configured.
    pub priority: u8,
    /// `Init`, `Backup`, `Master` or `Fault`; `Unknown` when the daemon could not be asked.
    pub state: String,
    /// Since when.
    pub since: u64,
    /// Why it is in that state.
    pub reason: String,
    /// Address of the node that owns the virtual addresses, as far as known: this node's when it does.
    pub owner: Option<String>,
    /// Its virtual addresses.
    pub addresses: Vec<String>,
    /// Whether the packet programs act for them at this moment.
    pub lease_valid: bool,
    /// Adverts sent.
    pub adverts_sent: u64,
    /// Adverts received.
    pub adverts_received: u64,
    /// Adverts refused, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Protocol version, 2 or 3; 0 when the daemon could not be asked.
    #[serde(default)]
    pub version: u8,
    /// Time-outs, in milliseconds.
    #[serde(default)]
    pub timers: VrrpTimers,
    /// Adverts that the kernel would not send.
    #[serde(default)]
    pub send_errors: u64,
    /// Gratuitous ARP frames sent.
    #[serde(default)]
    pub announcements: u64,
    /// How often the thread woke after the end of its lease or claim.
    #[serde(default)]
    pub late_wakes: u64,
    /// The latest that the thread ever came to a deadline, ms.
    #[serde(default)]
    pub lateness_max_ms: f64,
    /// The same without stalls longer than a lease, ms.
    #[serde(default)]
    pub lateness_in_time_ms: f64,
    /// The shortest `advert_int` that this lateness allows, ms; none when it allows none or nothing was measured.
    #[serde(default)]
    pub shortest_advert_int_ms: Option<f64>,
    /// Probes between viplb peers; none with `probe = false`, or when the daemon could not be asked.
    #[serde(default)]
    pub probe: Option<VrrpProbe>,
    /// The priority that counts: what trackers make of the configured one; 0 when the daemon could not be asked.
    #[serde(default)]
    pub effective_priority: u8,
    /// What moves it.
    #[serde(default)]
    pub tracks: Vec<Track>,
    /// The sync group it is in.
    #[serde(default)]
    pub sync_group: Option<String>,
    /// `multicast`, or `unicast to` whom; empty when the daemon could not be asked.
    #[serde(default)]
    pub transport: String,
    /// The hardware address its addresses are at, if that is not the interface's.
    #[serde(default)]
    pub virtual_mac: Option<String>,
    /// Addresses that move along but are not in the advert.
    #[serde(default)]
    pub excluded: Vec<String>,
    /// Whether an interface gets the addresses.
    #[serde(default)]
    pub assigned: bool,
}

/// What a tracker says, and what that means to a router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Track {
    /// Its name.
    pub name: String,
    /// `interface`, `script`, `process`, `file`, `backends` or `peer`.
    pub kind: String,
    /// `good`, `bad`, a file's value, or `unknown` before its first word.
    pub state: String,
    /// Since when.
    pub since: u64,
    /// Why, in words; often empty.
    pub cause: String,
    /// Its weight for this router; 0: a fault.
    pub weight: i16,
    /// Whether good counts as bad.
    pub reverse: bool,
    /// What it does now: `none`, `fault`, or what it adds to the priority, with its sign.
    pub effect: String,
}

/// How the master is watched, and how this node's lease is when it is the master.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct VrrpProbe {
    /// Between two probes, ms.
    pub interval: f64,
    /// Lease of a watched master, ms.
    pub lease: f64,
    /// Whether a peer asks for this node's lease now.
    pub watched: bool,
    /// `alive`, `lost` (it answered before and does not now), `silent` (it never did: no viplb, or a filter in the way);
    /// empty when this node watches nobody.
    pub peer: String,
    /// Since its last answer, ms.
    pub answered: Option<f64>,
}

/// The time-outs of a virtual router, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Default)]
pub struct VrrpTimers {
    /// This node's advertisement interval.
    pub advert_int: f64,
    /// The interval that the time-outs count with: in version 3 the master's as last heard.
    pub master_int: f64,
    /// What its priority makes this node wait longer.
    pub skew: f64,
    /// Without an advert for this long, the master counts as gone.
    pub master_down: f64,
    /// How long one advert lets the packet programs act.
    pub lease: f64,
    /// What is left of the lease.
    pub lease_left: f64,
    /// Until the router's next deadline, if it has one: an advert, or the master-down time.
    pub next: Option<f64>,
}

/// An interface with programs on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// The hook in use.
    pub hook: String,
    /// Why that one.
    pub why: String,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Virtual address and port.
    pub listen: String,
    /// `tcp`.
    pub protocol: String,
    /// Scheduler.
    pub scheduler: String,
    /// Forwarding mode.
    pub mode: String,
    /// Backends that are up; in a service for the writer only one of them takes new connections.
    pub up: usize,
    /// Backends.
    pub backends: Vec<Backend>,
    /// New flows since the maps were made.
    pub flows: u64,
    /// Connections that are open, half-open ones too.
    #[serde(default)]
    pub active: u64,
    /// As many as there may be; 0: any number.
    #[serde(default)]
    pub limit: u64,
    /// Connections refused with RST.
    pub refused: u64,
    /// Half-open flows that gave way to newer ones.
    #[serde(default)]
    pub displaced: u64,
    /// Of `refused`: no source port was free towards the backend.
    #[serde(default)]
    pub ports_exhausted: u64,
    /// Of `refused`: the flow table was full.
    #[serde(default)]
    pub table_full: u64,
    /// New connections that `allow` and `deny` kept out, told (then in `refused` too) or not.
    #[serde(default)]
    pub denied: u64,
    /// Of `refused`: the client was faster than `client_limit`, or had as many as it may have.
    #[serde(default)]
    pub limited: u64,
    /// Packets of both directions.
    pub packets: u64,
    /// Bytes of both directions.
    pub bytes: u64,
    /// `writer`, `reader` or `any` with a `galera` check; else empty.
    #[serde(default)]
    pub role: String,
}

/// A backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Backend {
    /// Its name.
    pub name: String,
    /// Address and port.
    pub addr: String,
    /// `unchecked`, `up`, `full`, `drain`, `maint` or `down`; `unknown` when the daemon could not be asked.
    pub state: String,
    /// Since when.
    pub since: u64,
    /// Why it is down, or what the last check complained about.
    pub cause: String,
    /// Duration of the last passed check, ms.
    pub check_ms: Option<f64>,
    /// Weight in use: the configured one, unless an operator or the backend's agent gave another.
    pub weight: u16,
    /// New flows.
    pub flows: u64,
    /// Of them: the client repeated its SYN before the backend answered.
    #[serde(default)]
    pub unanswered: u64,
    /// Of them: the backend refused the connection, or somebody on the way to it, by RST or by an ICMP error.
    #[serde(default)]
    pub refused: u64,
    /// Connections that it had accepted and not greeted, and that were moved to others, since the daemon's start.
    #[serde(default)]
    pub moved: u64,
    /// Connections that are open, half-open ones too.
    pub active: u64,
    /// As many as there may be; 0: any number.
    #[serde(default)]
    pub limit: u64,
    /// Packets of both directions.
    pub packets: u64,
    /// Bytes of both directions.
    pub bytes: u64,
    /// `writer` or `standby` in a Galera service for the writer; else empty.
    #[serde(default)]
    pub part: String,
    /// What an operator ordered: `ready`, `drain`, `maint`.
    #[serde(default)]
    pub ordered: String,
    /// Share of its weight in percent while it starts slowly.
    #[serde(default)]
    pub slow_start: Option<u8>,
    /// It is not in the file: its cluster has it as a member.
    #[serde(default)]
    pub discovered: bool,
    /// What the last check had to say: the last line of a script.
    #[serde(default)]
    pub output: String,
    /// What a `galera` check last saw.
    #[serde(default)]
    pub galera: Option<GaleraNode>,
    /// From a SYN to the backend's SYN-ACK; none before the first.
    #[serde(default)]
    pub connect: Option<Times>,
    /// From a flow's first request byte to its first response byte.
    #[serde(default)]
    pub response: Option<Times>,
}

/// Times measured by the packet programs since the maps were made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Times {
    /// Half of them were shorter, ms.
    pub p50_ms: f64,
    /// 99 of 100 were shorter, ms.
    pub p99_ms: f64,
    /// How many.
    pub count: u64,
    /// All together, ms.
    pub sum_ms: f64,
    /// The end of each bucket, ms, and the times in it.
    pub buckets: Vec<(f64, u64)>,
}

/// A Galera node as its last check saw it; names as in SHOW STATUS, without `wsrep_`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct GaleraNode {
    /// `Primary`, `non-Primary`, `Disconnected`.
    pub cluster_status: String,
    /// Which cluster.
    pub cluster_uuid: String,
    /// Its view's number.
    pub conf_id: u64,
    /// Nodes in its component.
    pub cluster_size: u32,
    /// 4 is Synced.
    pub state: u8,
    /// The same in words.
    pub state_comment: String,
    /// Whether it takes queries, as far as the provider goes.
    pub ready: bool,
    /// Its place in the view.
    pub local_index: u32,
    /// Configured priority.
    pub priority: u8,
    /// Number of its last transaction.
    pub last_committed: i64,
    /// Write sets that wait to be applied.
    pub recv_queue: u32,
    /// How long it was paused by flow control since its start, ns.
    pub flow_control_paused_ns: u64,
    /// How often it asked for a pause.
    pub flow_control_sent: u64,
    /// It takes no writes.
    pub read_only: bool,
    /// `wsrep_desync`.
    pub desync: bool,
    /// Connections it has.
    pub threads_connected: u32,
    /// And may have.
    pub max_connections: u32,
}

/// The flow table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Flows {
    /// Flows in it, as the collector's last pass found them.
    pub used: u64,
    /// Room.
    pub capacity: u64,
}

/// Packets that ended in one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Packets {
    /// The reason's word.
    pub reason: String,
    /// `passed`, `forwarded`, `answered`, `refused` or `dropped`.
    pub kind: String,
    /// How many.
    pub count: u64,
}

/// What an exit code says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Everything is as configured.
    Healthy,
    /// Something is not.
    Degraded,
}

impl Snapshot {
    /// Healthy: the daemon runs, every virtual router takes part in the election, every backend is up, no alarm.
    pub fn health(&self) -> Health {
        let daemon = self.node.daemon == RUNNING;
        let vrrp = self.vrrp.iter().all(|v| v.state == "Master" || v.state == "Backup");
        let backends = self.services.iter().flat_map(|s| &s.backends).all(|b| b.state == "up");
        if daemon && vrrp && backends && self.alarms.is_empty() { Health::Healthy } else { Health::Degraded }
    }
}

/// [`Node::daemon`] of a daemon that answers.
pub const RUNNING: &str = "running";
