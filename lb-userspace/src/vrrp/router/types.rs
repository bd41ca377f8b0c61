//! What goes into a virtual router's state machine and what comes out of it.
//!
//! The vocabulary shared by `router`, its driver and the status display; values only.

use std::{fmt, net::IpAddr, time::Duration};

use crate::{
    config::model::{Garp, Preempt},
    vrrp::{packet::Version, time::BootTime},
};

/// What a router is set to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Params {
    /// Protocol version.
    pub version: Version,
    /// Source address of this node's adverts; decides between equal priorities.
    pub local: IpAddr,
    /// 1–254.
    pub priority: u8,
    /// This node's advertisement interval: as master, and as long as no other master is heard.
    pub advert_int: Duration,
    /// Whether a living lower-priority master is pre-empted.
    pub preempt: Preempt,
    /// What one advert buys: less than a peer's master-down time.
    pub lease: Duration,
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
    /// The daemon stops.
    Stop,
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
