//! The checked configuration: what the rest of the daemon works with.
//!
//! Everything here is resolved and valid: defaults are filled in, names are unique, a service's address belongs
//! to a virtual router. `config::file` holds the form users write; nothing outside `config` sees that one.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
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
}

/// `[node]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Name of this node; also names its pins (`/sys/fs/bpf/viplb/NAME`), lock and control socket
    /// (`/run/viplb/NAME.{lock,sock}`). Letters, digits, `-`, `_`, `.`; 1–32 characters. Default: the host name.
    pub name: String,
    /// How many flows the table holds; memory is taken at start. Default 262,144.
    pub flows: u32,
    /// Diagnostic events of the packet programs go into the log (slow paths only). Default `false`.
    pub datapath_log: bool,
    /// Where the packet programs are attached. Default [`Hook::Auto`].
    pub hook: Hook,
    /// The VRRP thread asks for real-time priority, and for the memory to be locked. Default `true`.
    pub realtime: bool,
}

/// `hook = "auto" | "tcx" | "clsact"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hook {
    /// tcx where the kernel has it, else clsact.
    #[default]
    Auto,
    /// Link-based TC hook, kernel 6.6 and later.
    Tcx,
    /// Classic TC filter of the clsact qdisc.
    Clsact,
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
    /// 1–254 (255, the address owner, is not offered: the addresses are never this node's own).
    pub priority: u8,
    /// Protocol version. Default [`Version::V2`], as keepalived's.
    pub version: Version,
    /// Advertisement interval; whole seconds in version 2, 10 ms steps in version 3.
    pub advert_int: Duration,
    /// What the checksum of sent version 3 adverts covers; received ones may have either.
    pub v3_checksum: V3Checksum,
    /// Simple text password of RFC 2338, cut and zero padded to 8 bytes.
    pub auth_pass: Option<AuthPass>,
    /// The virtual addresses, in the order of the advert; at least one.
    pub addresses: Vec<VirtualAddress>,
    /// Whether a lower-priority owner is pre-empted.
    pub preempt: Preempt,
    /// How long the packet programs go on for this router after the daemon's last renewal. Default 2.5 × `advert_int`:
    /// less than a peer's master-down interval (3 × plus skew).
    pub lease: Duration,
    /// Gratuitous ARP bursts.
    pub garp: Garp,
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

/// One virtual address and the prefix it gets on the interface (32/128 unless given).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VirtualAddress {
    /// The address.
    pub addr: IpAddr,
    /// Prefix length.
    pub prefix_len: u8,
}

/// The eight authentication bytes of VRRPv2; never printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AuthPass(pub [u8; 8]);

impl fmt::Debug for AuthPass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthPass(…)")
    }
}

/// `preempt = "now" | "never"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preempt {
    /// A higher priority takes the addresses from a lower one (RFC default).
    Now,
    /// The owner keeps them until it fails.
    Never,
}

/// `garp_master_*` of keepalived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Garp {
    /// Announcements per address in one burst. Default 5.
    pub repeat: u8,
    /// Delay of the second burst. Default 5 s; zero for none.
    pub delay: Duration,
    /// Interval of single announcements while owner. Default none.
    pub refresh: Option<Duration>,
}

/// `[service.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The `NAME` of `[service.NAME]`.
    pub name: String,
    /// Virtual address and port.
    pub listen: SocketAddr,
    /// Index into [`Config::vrrp`] of the router that `listen` belongs to.
    pub router: usize,
    /// Layer-4 protocol.
    pub protocol: Protocol,
    /// How packets reach a backend.
    pub mode: Mode,
    /// How a backend is chosen for a new connection.
    pub scheduler: Scheduler,
    /// Backends, in the order of the file; at least one.
    pub backends: Vec<Backend>,
    /// How backends are checked.
    pub check: Check,
}

/// Layer-4 protocols a service can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
}

/// Forwarding modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Full NAT; the source becomes the virtual address, so that it moves with it.
    Nat,
}

/// Schedulers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheduler {
    /// Round robin; weights are ignored except 0 (no new connections).
    Rr,
    /// Smooth weighted round robin.
    Wrr,
}

/// `[[service.NAME.backend]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// `name`, default the address as text; unique within the service.
    pub name: String,
    /// Address and port; unique within the service; same family as the service.
    pub addr: SocketAddr,
    /// 0–256; 0 takes no new connections. Default 1.
    pub weight: u16,
}

/// `[service.NAME.check]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What is asked.
    pub kind: CheckKind,
    /// Time between two checks of one backend. Default 2 s.
    pub interval: Duration,
    /// Limit for a whole check. Default: the smaller of `interval` and 1 s.
    pub timeout: Duration,
    /// Passes in a row that make a backend up after it was down. Default 2. (The first check after start needs one pass.)
    pub rise: u32,
    /// Failures in a row that make a backend down. Default 3.
    pub fall: u32,
}

/// Kinds of check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    /// Connect with a full MySQL login and `COM_PING`: anything less raises the server's
    /// `max_connect_errors` count until it blocks this host (error 1129).
    Mysql(MysqlLogin),
    /// Connect and close. Right for anything but a MySQL server.
    Tcp,
}

/// Account of a MySQL check.
#[derive(Clone, PartialEq, Eq)]
pub struct MysqlLogin {
    /// User; needs no privilege but to connect.
    pub user: String,
    /// Password in clear text, from `password` or read from `password_file` when the file was loaded.
    pub password: String,
    /// Where it came from, for reloads.
    pub password_file: Option<PathBuf>,
}

impl fmt::Debug for MysqlLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MysqlLogin {{ user: {:?}, password: … }}", self.user)
    }
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
