//! What goes into a virtual router's state machine and what comes out of it.
//!
//! The vocabulary shared by `router`, its driver and the status display; values only.

use std::{fmt, net::IpAddr, time::Duration};

use lb_common::lease::Standing;

use crate::{
    config::model::{Garp, Preempt, Probe},
    vrrp::{announce::Mac, packet::Version, time::BootTime},
};

/// What a router is set to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Params {
    /// Protocol version.
    pub version: Version,
    /// Source address of this node's adverts; decides between equal priorities.
    pub local: IpAddr,
    /// 1–255; tracking changes it ([`LocalEvent::Tracked`]). 255 is the addresses' owner, whom nothing keeps from
    /// pre-empting.
    pub priority: u8,
    /// This node's advertisement interval: as master, and as long as no other master is heard.
    pub advert_int: Duration,
    /// Whether a living lower-priority master is pre-empted.
    pub preempt: Preempt,
    /// What one advert buys while no peer watches: less than a peer's master-down time.
    pub lease: Duration,
    /// How a master is watched, and what lease a watched one keeps; `None`: by adverts alone.
    pub probe: Option<Probe>,
    /// Where nonces start; unpredictable, so that nobody off the path can answer.
    pub seed: u64,
    /// Announcements.
    pub garp: Garp,
}

/// State as operators know it from keepalived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Stopped (RFC: Initialize).
    Init,
    /// Ready to take over.
    Backup,
    /// Owns the addresses.
    Master,
    /// Cannot take part: the link is down.
    Fault,
}

/// Why a state was entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The router has just been started.
    Started,
    /// No master was heard for the master-down time.
    Silence,
    /// The master left with an advert of priority 0.
    MasterLeft,
    /// A master of lower priority was pre-empted.
    Preempted,
    /// Another router of higher priority advertises.
    HigherPriority,
    /// The daemon slept past the end of its own lease (paused, stalled).
    LateWake,
    /// No advert could be sent, so the lease was not renewed.
    SendFailed,
    /// The lease could not be written.
    LeaseFailed,
    /// The interface lost its carrier.
    LinkDown,
    /// The interface has a carrier again.
    LinkUp,
    /// The daemon stops.
    Stopped,
    /// The master's lease ran out although its data plane answers: its daemon is frozen or dead.
    MasterFrozen,
    /// The master answers no probe, and its lease is over.
    MasterGone,
    /// The lease went to another router that asked for it.
    HandedOver,
    /// A peer was told that this node's lease had run out, and takes over.
    Fenced,
    /// A tracker with fault failed.
    TrackerFailed,
    /// All trackers pass again.
    TrackersPass,
    /// Another member of the sync group cannot own its addresses.
    Group,
    /// This node reaches neither a peer nor the witness.
    CutOff,
    /// The daemon before this one has left its lease.
    Resumed,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Started => "started",
            Self::Silence => "no master was heard",
            Self::MasterLeft => "the master left",
            Self::Preempted => "pre-empted a lower priority",
            Self::HigherPriority => "a higher priority advertises",
            Self::LateWake => "woke up after the end of its lease",
            Self::SendFailed => "no advert could be sent",
            Self::LeaseFailed => "the lease could not be written",
            Self::LinkDown => "the interface has no carrier",
            Self::LinkUp => "the interface has a carrier again",
            Self::Stopped => "stopped",
            Self::MasterFrozen => "the master's lease ran out",
            Self::MasterGone => "the master answers no probe",
            Self::HandedOver => "handed over",
            Self::Fenced => "a peer takes over the lease that ran out",
            Self::TrackerFailed => "a tracker failed",
            Self::TrackersPass => "all trackers pass again",
            Self::Group => "the sync group goes together",
            Self::CutOff => "reaches neither a peer nor the cluster",
            Self::Resumed => "goes on after a restart",
        })
    }
}

/// What happens at this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LocalEvent {
    /// The interface lost its carrier.
    LinkDown,
    /// The interface has a carrier again.
    LinkUp,
    /// The driver woke up and [`Router::overslept`](super::Router::overslept) holds.
    LateWake,
    /// The advert of the last [`Action::Send`] did not leave.
    SendFailed,
    /// The lease of the last [`Action::TakeLease`] or [`Action::RenewLease`] could not be written.
    LeaseFailed,
    /// What the trackers make of this node, from now on.
    Tracked(Tracked),
    /// Whether a member of the sync group can take no part, so that this one may not either.
    GroupFault(bool),
    /// Whether the sync group cannot own for the moment: nothing is claimed meanwhile.
    Hold(bool),
    /// Whether this node lacks flows that a living owner has: that one is not pre-empted meanwhile. One that dies or leaves is
    /// replaced all the same.
    CatchingUp(bool),
    /// What peers had told of their flows when [`Action::TakeIn`] asked is in this node's table.
    TakenIn,
    /// The sync group cannot own: this router gives its addresses up.
    StepDown,
    /// The daemon stops.
    Stop,
}

/// What the trackers of a virtual router come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tracked {
    /// The configured priority with the weights of the trackers; 1–255.
    pub priority: u8,
    /// A tracker without a weight fails, or another member of the sync group: the router takes no part.
    pub fault: bool,
    /// The node reaches no member of its Galera cluster's primary component, which is the witness in a partition: without a
    /// sign of a peer that was there before it must not own the addresses.
    pub blind: bool,
}

/// What a viplb peer says outside of adverts (`lb_common::probe`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// Its packet program's answer to a probe.
    Answer {
        /// That of the probe.
        nonce: u64,
        /// What its lease is worth.
        standing: Standing,
        /// Its hardware address.
        mac: Mac,
    },
    /// It leaves and looks for a successor.
    Offer {
        /// Its hardware address.
        mac: Mac,
    },
    /// It asks for the lease.
    Request {
        /// To be repeated in the grant.
        nonce: u64,
        /// Its priority.
        priority: u8,
        /// Its hardware address.
        mac: Mac,
    },
    /// It has given the lease up in favour of this node.
    Grant {
        /// That of the request.
        nonce: u64,
    },
}

/// What the driver is to do, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send an advert of this priority.
    Send {
        /// Own priority, or 0: "I hold no lease".
        priority: u8,
    },
    /// The packet programs own the addresses until this instant.
    TakeLease {
        /// End of the lease.
        until: BootTime,
    },
    /// As `TakeLease`, by a router that has one already.
    RenewLease {
        /// End of the lease.
        until: BootTime,
    },
    /// The packet programs own nothing any more, from now on.
    DropLease,
    /// Ask a peer's packet program for its lease.
    Probe {
        /// The peer.
        to: IpAddr,
        /// To be repeated in the answer.
        nonce: u64,
    },
    /// Ask all peers who takes over.
    Offer {
        /// Of this offer.
        nonce: u64,
    },
    /// Ask the owner for its lease.
    Request {
        /// The owner.
        to: IpAddr,
        /// To be repeated in the grant.
        nonce: u64,
    },
    /// Tell a peer that the lease is its own now.
    Grant {
        /// The peer.
        to: IpAddr,
        /// That of its request.
        nonce: u64,
    },
    /// Without a lease, what still comes for the addresses goes on to `to`.
    Relay {
        /// The new owner's hardware address.
        to: Mac,
        /// Until then.
        until: BootTime,
    },
    /// What `from` relays is taken before the lease is there.
    Delegate {
        /// The old owner's hardware address.
        from: Mac,
        /// Until then.
        until: BootTime,
    },
    /// The lease is about to be taken, or asked for: have what peers have told of their flows taken in first, and say so by
    /// [`LocalEvent::TakenIn`].
    TakeIn,
    /// Announce every address this many times (gratuitous ARP).
    Announce {
        /// Announcements per address.
        repeat: u8,
    },
    /// Another router advertises although this one is master.
    Rival {
        /// Its address.
        from: IpAddr,
        /// Its priority.
        priority: u8,
    },
    /// The state changed.
    Entered {
        /// The new state.
        state: State,
        /// Why.
        reason: Reason,
    },
}

/// The last router heard with a priority above 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// Its address.
    pub from: IpAddr,
    /// Its priority.
    pub priority: u8,
    /// Its advertisement interval.
    pub interval: Duration,
    /// When.
    pub at: BootTime,
}
