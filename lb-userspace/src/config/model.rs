//! The checked configuration: what the rest of the daemon works with.
//!
//! Everything here is resolved and valid: defaults are filled in, names are unique, a service's address belongs
//! to a virtual router. `config::file` holds the form users write; nothing outside `config` sees that one.

mod access;
mod admin;
mod check;
mod discovery;
mod limits;
mod missed;
mod path;
mod sync;
mod track;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

pub use super::address::Listen;
pub use access::{Access, ClientLimit, DenyAction, Prefix, Rate};
pub use admin::Admin;
pub use check::{
    AgentCheck, Check, CheckKind, DnsCheck, Donor, Failback, Galera, GaleraCheck, HttpCheck, MysqlLogin,
    Role, ScriptCheck, Tls, UdpCheck,
};
pub use discovery::Discovery;
pub use lb_common::{mode::Mode, schedule::Scheduler};
pub use limits::Timeouts;
pub use missed::Passive;
pub use path::{Mss, PathOptions};
pub use sync::{SYNC_PORT, Sync, SyncKey};
pub use track::{
    Backends, FileValue, Notify, Peer, Process, Program, RunAs, Script, SyncGroup, Track, TrackKind, TrackUse,
};

/// A whole checked configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// This node.
    pub node: Node,
    /// `[vrrp.NAME]`, in the order of the file.
    pub vrrp: Vec<VirtualRouter>,
    /// `[service.NAME]`, in the order of the file.
    pub services: Vec<Service>,
    /// `[track.NAME]`, in the order of the file.
    pub tracks: Vec<Track>,
    /// `[sync_group.NAME]`, in the order of the file.
    pub groups: Vec<SyncGroup>,
    /// `[http]`: where metrics are served; default nowhere.
    pub http: Option<SocketAddr>,
    /// `[sync]`: how flows are replicated; default not at all.
    pub sync: Option<Sync>,
}

/// `[node]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Name of this node; also names its pins (`/sys/fs/bpf/viplb/NAME`), lock and control socket
    /// (`/run/viplb/NAME.{lock,sock}`). Letters, digits, `-`, `_`, `.`; 1–32 characters. Default: the host name.
    pub name: String,
    /// How many flows the table holds; memory is taken at start. Default 262,144.
    pub flows: u32,
    /// The file is looked at every second, and taken in anew when it has changed. Default `false`.
    pub watch_config: bool,
    /// Diagnostic events of the packet programs go into the log (slow paths only). Default `false`.
    pub datapath_log: bool,
    /// Where the packet programs are attached. Default [`Hook::Auto`].
    pub hooks: Hooks,
    /// Clients on this node itself reach the services: programs are on the loopback interface too. Default `true`.
    pub local_clients: bool,
    /// The VRRP thread asks for real-time priority, and for the memory to be locked. Default `true`.
    pub realtime: bool,
    /// First and last source port of translated connections. Default: all from 1024 on that `ip_local_port_range` leaves.
    pub snat_ports: Option<(u16, u16)>,
}

/// `hook = "auto" | "xdp" | "xdp-generic" | "tcx" | "clsact"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hook {
    /// tcx where the kernel has it, else clsact; XDP in front of it on devices with hardware below.
    #[default]
    Auto,
    /// As `Auto`, with the driver's XDP on any device.
    Xdp,
    /// Likewise with the kernel's generic XDP.
    XdpGeneric,
    /// Link-based TC hook, kernel 6.6 and later.
    Tcx,
    /// Classic TC filter of the clsact qdisc.
    Clsact,
}

/// The hook of each interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hooks {
    /// Of interfaces that are not named.
    pub node: Hook,
    /// Of the others, by name.
    pub named: BTreeMap<String, Hook>,
}

impl Hooks {
    /// The hook of an interface.
    pub fn of(&self, interface: &str) -> Hook {
        self.named.get(interface).copied().unwrap_or(self.node)
    }
}

impl From<Hook> for Hooks {
    fn from(node: Hook) -> Self {
        Self { node, named: BTreeMap::new() }
    }
}

/// `[vrrp.NAME]`: one virtual router (RFC 3768, RFC 9568).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualRouter {
    /// The `NAME` of `[vrrp.NAME]`.
    pub name: String,
    /// Interface on which adverts are exchanged and the addresses live.
    pub interface: String,
    /// `virtual_router_id`, 1–255.
    pub vrid: u8,
    /// 1–255; 255 is the owner of the addresses (RFC 9568 §1.6): it claims them at its start, and nobody pre-empts it.
    pub priority: u8,
    /// Protocol version. Default [`Version::V2`], as keepalived's.
    pub version: Version,
    /// Advertisement interval; whole seconds in version 2, 10 ms steps in version 3.
    pub advert_int: Duration,
    /// What the checksum of sent version 3 adverts covers; received ones may have either.
    pub v3_checksum: V3Checksum,
    /// Simple text password of RFC 2338, cut and zero padded to 8 bytes.
    pub auth_pass: Option<AuthPass>,
    /// How adverts travel.
    pub transport: Transport,
    /// Source address of adverts (`mcast_src_ip`, `unicast_src_ip`); default the interface's first own one of the family.
    pub source: Option<IpAddr>,
    /// The virtual addresses, in the order of the advert; at least one, all of one family.
    pub addresses: Vec<VirtualAddress>,
    /// Addresses that move along but are not in the advert (`virtual_ipaddress_excluded`); of either family.
    pub excluded: Vec<VirtualAddress>,
    /// Whether the addresses are also put on an interface; the packet programs answer for them either way.
    pub assign: bool,
    /// The addresses are at the router's virtual hardware address (00:00:5e:00:01:VRID, IPv6 00:00:5e:00:02:VRID).
    pub virtual_mac: bool,
    /// Whether a node that reaches no backend must not own the addresses without a sign of a peer. Default: where a service has a
    /// `galera` check.
    pub witness: bool,
    /// Whether a lower-priority owner is pre-empted, and when.
    pub preempt: Preempt,
    /// How long the packet programs go on for this router after the daemon's last renewal, while no peer probes it.
    /// Default 2.5 × `advert_int`: less than a peer's master-down interval (3 × plus skew).
    pub lease: Duration,
    /// Probes between viplb peers; `None`: `probe = false`, this node neither probes nor shortens its lease.
    pub probe: Option<Probe>,
    /// Announcements by gratuitous ARP and unsolicited neighbour advertisements.
    pub garp: Garp,
    /// What moves its priority, or keeps it from taking part.
    pub track: Vec<TrackUse>,
    /// What is run when its state changes.
    pub notify: Notify,
}

/// How adverts travel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Transport {
    /// To 224.0.0.18 or ff02::12.
    #[default]
    Multicast,
    /// To each of these peers (`unicast_peer`), and adverts of nobody else are believed.
    Unicast(Vec<UnicastPeer>),
}

/// A peer of `unicast_peer`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnicastPeer {
    /// Its address.
    pub addr: IpAddr,
    /// Adverts with a lower TTL (hop limit) are refused. Default 255: it is on the same link.
    pub min_ttl: u8,
    /// Adverts with a higher TTL are refused. Default 255.
    pub max_ttl: u8,
}

/// How a Backup watches its master, and what lease a master keeps while it is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Between two probes. Default a tenth of `lease`, and as often the lease is renewed.
    pub interval: Duration,
    /// Lease while a peer probes it. Default 0.4 × `advert_int`.
    pub lease: Duration,
}

/// `version = 2 | 3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Version {
    /// RFC 3768 (and RFC 2338 for its authentication): whole seconds, IPv4.
    #[default]
    V2,
    /// RFC 9568: intervals of 10 ms to 40.95 s that backups learn from the master, no authentication.
    V3,
}

/// `v3_checksum = "pseudo-header" | "plain"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum V3Checksum {
    /// With IPv4's pseudo-header, as keepalived and FRR send and wireshark expects.
    #[default]
    PseudoHeader,
    /// The message alone, as RFC 9568 §5.2.8 has it for IPv4.
    Plain,
}

/// One virtual address and where it is put: `"172.18.0.201"`, `"172.18.0.201/16"`, `"172.18.0.201/16 dev eth1"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualAddress {
    /// The address.
    pub addr: IpAddr,
    /// Prefix length (32/128 unless given).
    pub prefix_len: u8,
    /// Interface that gets it; default that of the adverts.
    pub dev: Option<String>,
}

/// The eight authentication bytes of VRRPv2; never printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AuthPass(pub [u8; 8]);

impl fmt::Debug for AuthPass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthPass(…)")
    }
}

/// `preempt = "now" | "never" | "30s"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preempt {
    /// A higher priority takes the addresses from a lower one once it has heard it for so long; zero is the RFC's default.
    After(Duration),
    /// The owner keeps them until it fails.
    Never,
}

impl Preempt {
    /// The RFC's default.
    pub const NOW: Self = Self::After(Duration::ZERO);
}

/// `garp_*` of keepalived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Garp {
    /// Announcements per address in one burst. Default 5.
    pub repeat: u8,
    /// Delay of the second burst. Default 5 s; zero for none.
    pub delay: Duration,
    /// Interval of announcements while owner. Default none.
    pub refresh: Option<Duration>,
    /// Announcements per address at each refresh. Default 1.
    pub refresh_repeat: u8,
    /// Announcements per address after an advert of lower priority was heard. Default that of `repeat`.
    pub lower_prio_repeat: u8,
    /// Delay of the second burst after such an advert. Default that of `delay`.
    pub lower_prio_delay: Duration,
    /// Between two gratuitous ARPs on an interface (`garp_interval`). Default zero.
    pub interval: Duration,
    /// Between two unsolicited neighbour advertisements on an interface (`gna_interval`). Default zero.
    pub gna_interval: Duration,
}

impl Default for Garp {
    fn default() -> Self {
        Self {
            repeat: 5,
            delay: Duration::from_secs(5),
            refresh: None,
            refresh_repeat: 1,
            lower_prio_repeat: 5,
            lower_prio_delay: Duration::from_secs(5),
            interval: Duration::ZERO,
            gna_interval: Duration::ZERO,
        }
    }
}

/// `[service.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The `NAME` of `[service.NAME]`.
    pub name: String,
    /// Address and port, or ports.
    pub listen: Listen,
    /// Index into [`Config::vrrp`] of the router that `listen` belongs to; `None`: it is one of the node's own addresses, under
    /// no lease.
    pub router: Option<usize>,
    /// Layer-4 protocol.
    pub protocol: Protocol,
    /// How packets reach a backend that says nothing else.
    pub mode: Mode,
    /// The ways to its backends.
    pub path: PathOptions,
    /// How a backend is chosen for a new connection.
    pub scheduler: Scheduler,
    /// Slots of the table that schedulers by hash use; a prime. Default [`HASH_TABLE_SIZE`].
    pub hash_table_size: u32,
    /// Whether clients keep to their backend. Default not.
    pub persistence: Option<Persistence>,
    /// Connections that the service may have at a time; 0, the default: any number.
    pub max_connections: u32,
    /// Backends, in the order of the file; at least one.
    pub backends: Vec<Backend>,
    /// How backends are checked.
    pub check: Check,
    /// How long a backend that came back takes to reach its full share of new connections. Default zero.
    pub slow_start: Duration,
    /// Who may connect, and how fast.
    pub access: Access,
    /// Sources that backends of mode `nat` see, those of each backend's own family. Default: the address of `listen`.
    pub snat: Vec<IpAddr>,
    /// How long its flows may be silent.
    pub timeouts: Timeouts,
    /// How many ordinary backends must be up for the service to be served by them; at least 1. Default 1.
    pub quorum: u32,
    /// So many fewer end that, and so many more are needed to begin it again. Less than `quorum`; default 0.
    pub hysteresis: u32,
    /// What becomes of connections of backends that are lost or taken out.
    pub sessions: Sessions,
    /// A connection that a backend does not take goes to another when the client repeats its SYN. Default yes, where this node
    /// sees the backends' answers: TCP, with a backend in mode `nat` or `dnat`.
    pub redispatch: bool,
    /// A connection that its backend has accepted, and on which neither side has said anything, goes to another when its backend is
    /// lost or silent. Default where the server speaks first: with a check of kind [`CheckKind::Galera`] or [`CheckKind::Mysql`], in the
    /// same services.
    pub move_ungreeted: bool,
    /// When a backend that does not take connections is ejected. Default by [`Passive::default`], in the same services.
    pub passive: Option<Passive>,
    /// What becomes of connections that a new owner does not know. Default: reset.
    pub unknown: Unknown,
    /// A client hears of the backend's answer once the peers have the flow, or `strict_wait` is over (`sync = "strict"`). Default no.
    pub strict: bool,
    /// What is made of the cluster's state; with a check of kind [`CheckKind::Galera`] only.
    pub galera: Option<Galera>,
    /// How further backends are discovered; default not at all.
    pub discovery: Option<Discovery>,
}

impl Service {
    /// Backends that it may come to have at a time: those of the file, and those that may be discovered.
    pub fn most_backends(&self) -> usize {
        let named = self.backends.iter().filter(|b| !b.discovered).count();
        named + self.discovery.as_ref().map_or(0, |d| d.most as usize)
    }
}

/// What becomes of connections that a node which has just taken their address does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unknown {
    /// They are refused with RST.
    #[default]
    Reset,
    /// They are given to the backend that the scheduler gives them to.
    Adopt,
}

/// What becomes of a backend's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// They go on until they end by themselves.
    Keep,
    /// Both ends are told by a RST, so long after.
    Reset(Duration),
}

/// What becomes of the connections of a backend whose standing changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sessions {
    /// It answers nobody any more, or is outside of its Galera cluster's primary component. Default: reset at once.
    pub lost: Then,
    /// It answers, but its checks fail. Default: keep.
    pub failed: Then,
    /// It is drained. Default: keep.
    pub drain: Then,
    /// It is in maintenance. Default: keep.
    pub maint: Then,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { lost: Then::Reset(Duration::ZERO), failed: Then::Keep, drain: Then::Keep, maint: Then::Keep }
    }
}

/// Slots of a table of backends that is entered by a hash: more than a hundred for each of a hundred backends, as Maglev's authors
/// advise; two of 128 KiB.
pub const HASH_TABLE_SIZE: u32 = 16_381;

/// Layer-4 protocols a service can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Clients that keep to their backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Persistence {
    /// For how long after their last new connection; whole seconds.
    pub timeout: Duration,
    /// Bits of their address that they are known by, of 128: a prefix of IPv4 is 96 longer here.
    pub bits: u8,
}

/// `[[service.NAME.backend]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// `name`, default the address as text; unique within the service.
    pub name: String,
    /// Address and port; unique within the service. In mode `local` it is where the check goes.
    pub addr: SocketAddr,
    /// Connections go to the port that the client spoke to, whatever `addr` says; that is where the check goes.
    pub keeps_port: bool,
    /// 0–256; 0 takes no new connections. Default 1.
    pub weight: u16,
    /// Connections that it may have at a time; 0, the default: any number.
    pub max_connections: u32,
    /// The highest is the first of `scheduler = "fo"`, and of a `role = "writer"` service becomes its writer; 0–255. Default 0.
    pub priority: u8,
    /// A server of last resort: new connections go to it only while too few others are up (`quorum`). Default no.
    pub sorry: bool,
    /// How packets reach it. Default the service's.
    pub mode: Mode,
    /// It is not in the file: the others' cluster has it as a member.
    pub discovered: bool,
    /// What is wanted of it, unless an order is another. Default nothing in particular.
    pub admin: Admin,
}

impl VirtualRouter {
    /// The IPv4 addresses in the order of the advert.
    pub fn ipv4(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.addresses.iter().filter_map(|a| match a.addr {
            IpAddr::V4(v4) => Some(v4),
            IpAddr::V6(_) => None,
        })
    }
}
