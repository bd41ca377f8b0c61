//! What moves a priority or takes a node out of the election, which routers own together, and what is run when a state
//! changes.

use std::{net::IpAddr, path::PathBuf, time::Duration};

/// `[track.NAME]`: one thing that is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Track {
    /// The `NAME` of `[track.NAME]`.
    pub name: String,
    /// What is watched.
    pub kind: TrackKind,
}

/// Kinds of trackers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrackKind {
    /// Good while this interface is up and has a carrier.
    Interface(String),
    /// Good while a program exits with 0.
    Script(Script),
    /// Good while enough processes run.
    Process(Process),
    /// The integer in a file, times the weight.
    File(FileValue),
    /// Good while enough backends of a service are up.
    Backends(Backends),
    /// Good while another viplb node's packet programs answer.
    Peer(Peer),
}

/// `type = "script"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// What is run, without a shell.
    pub program: Program,
    /// From the start of one run to that of the next. Default 1 s.
    pub interval: Duration,
    /// A run that lasts longer is killed with its process group and has failed. Default `interval`.
    pub timeout: Duration,
    /// Passes in a row that make it good. Default 1.
    pub rise: u32,
    /// Failures in a row that make it bad. Default 1.
    pub fall: u32,
    /// Whether it counts as good before its first run has ended; that first run decides at once. Default `true`.
    pub init: bool,
}

/// `type = "process"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Name of the program, without its directory.
    pub name: String,
    /// What its arguments begin with.
    pub arguments: Vec<String>,
    /// How many must run. Default 1.
    pub quorum: u32,
    /// A change counts once it has lasted so long. Default zero.
    pub delay: Duration,
}

/// `type = "file"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileValue {
    /// The file.
    pub path: PathBuf,
    /// How often it is read. Default 1 s.
    pub interval: Duration,
}

/// `type = "backends"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backends {
    /// Index into [`Config::services`](super::Config::services).
    pub service: usize,
    /// How many must be up. Default 1.
    pub quorum: u32,
    /// It becomes good at `quorum` + `hysteresis` and bad below `quorum` − `hysteresis`. Default 0.
    pub hysteresis: u32,
}

/// `type = "peer"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The other node.
    pub addr: IpAddr,
    /// Between two probes. Default 300 ms.
    pub interval: Duration,
    /// So many unanswered probes in a row make it bad, so many answered ones good again. Default 3.
    pub multiplier: u32,
}

/// An element of a router's `track`: what a tracker means to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrackUse {
    /// Index into [`Config::tracks`](super::Config::tracks).
    pub track: usize,
    /// −253–253. 0: while it is bad, the router is in Fault. Above 0: added to the priority while it is good. Below 0:
    /// added while it is bad. Of a file: what its value is multiplied by.
    pub weight: i16,
    /// Good counts as bad, and bad as good; of a file: the other sign.
    pub reverse: bool,
}

/// `[sync_group.NAME]`: routers that own their addresses together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncGroup {
    /// The `NAME` of `[sync_group.NAME]`.
    pub name: String,
    /// Indices into [`Config::vrrp`](super::Config::vrrp); at least two.
    pub members: Vec<usize>,
    /// What is run when the group's state changes.
    pub notify: Notify,
}

/// What is run when a state changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Notify {
    /// `notify`: at every change, with what, name, state and priority as arguments.
    pub any: Option<Program>,
    /// `notify_master`.
    pub master: Option<Program>,
    /// `notify_backup`.
    pub backup: Option<Program>,
    /// `notify_fault`.
    pub fault: Option<Program>,
    /// `notify_stop`.
    pub stop: Option<Program>,
}

impl Notify {
    /// Whether anything is to be run.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A program and its arguments; never given to a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Absolute path.
    pub path: PathBuf,
    /// Arguments.
    pub args: Vec<String>,
    /// Who runs it; default who runs the daemon.
    pub user: Option<RunAs>,
}

/// A user of this system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunAs {
    /// Its name.
    pub name: String,
    /// Its id.
    pub uid: u32,
    /// Its first group; it gets no other.
    pub gid: u32,
}
