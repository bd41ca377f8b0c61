//! What a router remembers in each state.
//!
//! Private to `router`: one value holds everything that ends with the state, so that no timer or promise outlives it.

use std::net::IpAddr;

use super::types::{Reason, State};
use crate::vrrp::{announce::Mac, time::BootTime};

#[derive(Debug, Clone, Copy)]
pub(super) enum Phase {
    Init,
    Fault,
    Backup(Backup),
    Requesting(Request),
    Claiming(Claim),
    Master(Master),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Backup {
    /// Since when it listens: a master that can be asked is asked from a hold-down after this.
    pub(super) since: BootTime,
    /// Master-down timer, or the skew after a master's farewell.
    pub(super) deadline: BootTime,
    /// No advert shortens the wait to before this: until then a router heard before the last one may hold a lease.
    pub(super) not_before: BootTime,
    /// Since when the master that is heard is a lower one.
    pub(super) lower_since: Option<BootTime>,
    /// The hold-down is over, this thread was awake then, and a lower master lives: its next advert is answered with a
    /// claim. Claiming only then makes sure that it was awake a moment ago, and so can drop its lease.
    pub(super) armed: bool,
    /// The deadline was reached, and a viplb that was heard last is asked once more before anything is claimed.
    pub(super) asked: bool,
    /// Why the deadline's claim would be made.
    pub(super) reason: Reason,
}

/// The living master was asked for its lease.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub(super) reason: Reason,
    /// Since when it listens, as a Backup: another one that is quicker does not begin that anew.
    pub(super) since: BootTime,
    pub(super) holder: IpAddr,
    pub(super) nonce: u64,
    /// A grant that comes later is void: by then the holder may have taken the lease back.
    pub(super) until: BootTime,
    pub(super) resend_at: BootTime,
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
    /// What peers have told of their flows is waited for until here; `None`: it is in the table, or there is no such thing.
    pub(super) takes_in: Option<BootTime>,
    pub(super) resend_at: BootTime,
    pub(super) copies_left: u8,
}

impl Claim {
    /// When the lease is taken.
    pub(super) fn end(&self) -> BootTime {
        self.takes_in.map_or(self.until, |limit| limit.max(self.until))
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Master {
    pub(super) since: BootTime,
    pub(super) advert_at: BootTime,
    /// While a peer watches: when the short lease is renewed.
    pub(super) renew_at: Option<BootTime>,
    /// End of the lease as the driver was told; `None` before `TakeLease` was polled.
    pub(super) lease: Option<BootTime>,
    /// The last advert did not leave.
    pub(super) mute: bool,
    pub(super) answered: BootTime,
    pub(super) announced: BootTime,
    pub(super) next_announce: Option<(BootTime, Burst)>,
    /// A successor is being looked for.
    pub(super) leaving: Option<Leaving>,
    /// It was found: it takes what belongs to no known connection already, and the lease then.
    pub(super) giving: Option<(Asker, BootTime)>,
}

/// Looking for a successor, still owner.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leaving {
    /// Where to afterwards: `Init` or `Fault`.
    pub(super) to: State,
    pub(super) reason: Reason,
    pub(super) nonce: u64,
    /// Nobody asked until here: it leaves by an advert of priority 0.
    pub(super) until: BootTime,
    pub(super) resend_at: BootTime,
    /// The best of those that asked, and when it gets the lease.
    pub(super) best: Option<(Asker, BootTime)>,
}

/// Who asked for the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asker {
    pub(super) from: IpAddr,
    pub(super) priority: u8,
    pub(super) mac: Mac,
    pub(super) nonce: u64,
}

/// The lease was given to somebody, who may ask again because the grant was lost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Granted {
    pub(super) to: IpAddr,
    pub(super) nonce: u64,
    pub(super) until: BootTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Burst {
    /// Another owner may have been seen: a burst, and a second one after the delay.
    Again,
    /// A lower priority was heard: likewise, with numbers of its own.
    LowerPriority,
    /// The old owner handed the addresses over and relays what still comes to it: one burst is enough.
    Once,
    Second {
        repeat: u8,
    },
    Refresh,
}
