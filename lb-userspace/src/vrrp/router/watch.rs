//! How a Backup watches its master: probes that the master's packet programs answer with the state of its lease.
//!
//! The answer comes from the kernel, so it tells a frozen daemon (`Expired`, which is also a promise: that term is
//! fenced) from a node that is gone (no answer). Whoever is gone had a lease that lasted no longer than its last answer
//! said. A peer that never answers is no viplb, or a filter is in the way: then adverts alone count, as in the RFC.
//! Pure; called by `backup`.

use std::{net::IpAddr, time::Duration};

use lb_common::lease::Standing;

use crate::vrrp::{announce::Mac, time::BootTime};

/// Probes in a row without an answer that make a peer gone: with two of three lost in each direction, one of nine is
/// answered.
pub(super) const ENOUGH: u8 = 9;
/// A peer that never answered is asked again after this.
const RETRY: Duration = Duration::from_secs(10);

/// What is known of the watched master.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watch {
    pub(super) peer: IpAddr,
    /// When the next probe is due.
    pub(super) next: BootTime,
    /// Of the last probes, the latest first; an answer may take longer than the next probe.
    asked: [u64; 4],
    unanswered: u8,
    /// The last answer; `None` as long as the peer counts as one that does not answer.
    contact: Option<Contact>,
}

#[derive(Debug, Clone, Copy)]
struct Contact {
    at: BootTime,
    /// No lease that it had then lasts longer.
    lease_end: BootTime,
    holds: bool,
    mac: Mac,
}

/// What a due probe comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tick {
    /// Ask with this nonce.
    Ask,
    /// It answers no more, and its lease is over.
    Gone,
    /// It has never answered: left alone for a while.
    Deaf,
}

/// What operators see of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerState {
    /// It has not answered a probe: keepalived, or a filter in the way.
    Silent,
    /// It answers, and holds a lease or has given it up.
    Alive,
    /// It answered before and does not now.
    Lost,
}

impl Watch {
    pub(super) fn new(peer: IpAddr, now: BootTime) -> Self {
        Self { peer, next: now, asked: [0; 4], unanswered: 0, contact: None }
    }

    /// A probe is due. One that comes late by an interval or more is not held against the peer: the answer to the last
    /// one may wait in the queue of this very thread.
    pub(super) fn tick(&mut self, now: BootTime, every: Duration, nonce: u64) -> Tick {
        let late = now >= self.next + every;
        let waits = self.asked[0] != 0;
        self.unanswered = if late || !waits { 0 } else { self.unanswered.saturating_add(1) };
        self.next = now + every;
        if self.unanswered >= ENOUGH {
            match self.contact {
                Some(contact) if now >= contact.lease_end => return Tick::Gone,
                Some(contact) => self.next = self.next.min(contact.lease_end),
                None => {
                    (self.next, self.asked) = (now + RETRY, [0; 4]);
                    return Tick::Deaf;
                }
            }
        }
        self.asked.rotate_right(1);
        self.asked[0] = nonce;
        Tick::Ask
    }

    /// An answer; `false` if it is none to a recent probe.
    pub(super) fn answered(&mut self, now: BootTime, nonce: u64, standing: Standing, mac: Mac) -> bool {
        let Some(which) = self.asked.iter().position(|asked| *asked == nonce && nonce != 0) else {
            return false;
        };
        self.asked[which..].fill(0);
        self.unanswered = 0;
        let (rest, holds) = match standing {
            Standing::Valid(rest) => (Duration::from_nanos(rest), true),
            Standing::Expired | Standing::Released => (Duration::ZERO, false),
        };
        self.contact = Some(Contact { at: now, lease_end: now + rest, holds, mac });
        true
    }

    /// Adverts that come while probes stay unanswered: it lives, and something swallows the answers. Its silence says
    /// nothing then.
    pub(super) fn advertised(&mut self) {
        if self.unanswered > 0 {
            self.contact = None;
        }
    }

    /// Its hardware address, if it lives and holds a lease as far as is known.
    pub(super) fn holder(&self) -> Option<Mac> {
        self.contact.filter(|contact| contact.holds && self.unanswered == 0).map(|contact| contact.mac)
    }

    /// Whether it is a viplb: its adverts of priority 0 then say that it has no lease.
    pub(super) fn answers(&self) -> bool {
        self.contact.is_some()
    }

    /// Whether it answers, or has not yet had the time to show whether it does.
    pub(super) fn may_answer(&self) -> bool {
        self.contact.is_some() || self.asked[0] != 0
    }

    pub(super) fn state(&self) -> PeerState {
        match (self.contact, self.unanswered) {
            (None, _) => PeerState::Silent,
            (Some(_), 0) => PeerState::Alive,
            (Some(_), _) => PeerState::Lost,
        }
    }

    /// When it answered last.
    pub(super) fn contact(&self) -> Option<BootTime> {
        self.contact.map(|contact| contact.at)
    }
}
