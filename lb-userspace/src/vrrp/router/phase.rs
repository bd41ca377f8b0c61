//! What a router remembers in each state.
//!
//! Private to `router`: one value holds everything that ends with the state, so that no timer or promise outlives it.

use std::net::IpAddr;

use super::types::Reason;
use crate::vrrp::time::BootTime;

#[derive(Debug, Clone, Copy)]
pub(super) enum Phase {
    Init,
    Fault,
    Backup(Backup),
    Claiming(Claim),
    Master(Master),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Backup {
    /// Master-down timer, or the skew after a master's farewell.
    pub(super) deadline: BootTime,
    /// No advert shortens the wait to before this: until then a router heard before the last one may hold a lease.
    pub(super) not_before: BootTime,
    /// The hold-down is over and a lower master lives: its next advert is answered with a claim. Claiming only
    /// then makes sure that it was awake a moment ago, and so can drop its lease.
    pub(super) armed: bool,
    /// Why the deadline's claim would be made.
    pub(super) reason: Reason,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Claim {
    pub(super) reason: Reason,
    /// Open to objections until here, whatever is acknowledged.
    pub(super) contend_until: BootTime,
    /// The lease is taken here at the latest.
    pub(super) until: BootTime,
    /// Who must acknowledge for `until` to be cut short.
    pub(super) holder: Option<IpAddr>,
    /// More than one must, so nothing cuts `until` short.
    pub(super) several: bool,
    pub(super) resend_at: BootTime,
    pub(super) copies_left: u8,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Master {
    pub(super) advert_at: BootTime,
    /// End of the lease as the driver was told; `None` before `TakeLease` was polled.
    pub(super) lease: Option<BootTime>,
    /// The last advert did not leave.
    pub(super) mute: bool,
    pub(super) answered: BootTime,
    pub(super) announced: BootTime,
    pub(super) next_announce: Option<(BootTime, Burst)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Burst {
    /// Another owner may have been seen: a burst, and a second one after the delay.
    Again,
    Second,
    Refresh,
}
