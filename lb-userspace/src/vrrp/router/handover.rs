//! New owner first: the lease goes from hand to hand between two living viplb routers, without a moment of nobody's.
//!
//! ```text
//!   successor                                  owner
//!                    ◀──── offer ────────────  leaves (stop, tracker); still owner
//!   takes what is relayed
//!       request ───────────────────────────▶   beaten, or leaving: relays what begins
//!                                              some ms later: relays all that comes, drops the lease
//!                    ◀──── grant ────────────  Backup (or Init, Fault)
//!   takes the lease, announces
//! ```
//! The owner gives to one, so nobody has to contend. A lost grant is given again to who asks again. Nobody who gets none
//! in [`GRANT_LIMIT`] believes a later one. The old owner probes the new one, and if it has no lease by [`TAKE_BACK`], claims
//! it back.

use std::{net::IpAddr, time::Duration};

use super::{
    Router,
    phase::{Asker, Backup, Granted, Leaving, Master, Phase, Request},
    types::{Action, Reason, State},
    watch::Watch,
};
use crate::vrrp::{announce::Mac, time::BootTime};

/// A grant counts for so long after the request.
pub const GRANT_LIMIT: Duration = Duration::from_millis(30);
/// The old owner waits for the new one's first advert for so long; more than [`GRANT_LIMIT`].
pub const TAKE_BACK: Duration = Duration::from_millis(50);
/// Requests and offers are repeated this often.
const RESEND: Duration = Duration::from_millis(5);
/// An owner that leaves waits for so long for a better successor than the first that asks.
const CHOOSE: Duration = Duration::from_millis(3);
/// Between the end of new connections here and that of the lease: several times what a handshake in a local network takes. What takes longer
/// is told to the successor as it is (`sync`).
pub(super) const SETTLE: Duration = Duration::from_millis(5);
/// Nobody asked for so long: there is no viplb to hand over to.
const OFFER_LIMIT: Duration = Duration::from_millis(30);
/// The old owner relays for so long: neighbours learn from the new one's announcements within milliseconds.
const RELAY: Duration = Duration::from_secs(1);

impl Router {
    /// Asks the living owner for its lease, and takes from now on what it relays.
    pub(super) fn request(&mut self, now: BootTime, holder: IpAddr, mac: Mac, reason: Reason) {
        let nonce = self.nonce();
        let until = now + self.scaled(GRANT_LIMIT);
        let resend_at = now + self.scaled(RESEND);
        let since = if let Phase::Backup(backup) = self.phase { backup.since } else { now };
        self.phase = Phase::Requesting(Request { reason, since, holder, nonce, until, resend_at });
        self.actions.push_back(Action::Delegate { from: mac, until: until + RELAY });
        self.actions.push_back(Action::Request { to: holder, nonce });
    }

    pub(super) fn request_timeout(&mut self, now: BootTime, mut request: Request) {
        if now >= request.until {
            self.phase = Phase::Backup(self.wait_for_silence(now));
        } else if now >= request.resend_at {
            request.resend_at = now + self.scaled(RESEND);
            self.phase = Phase::Requesting(request);
            self.actions.push_back(Action::Request { to: request.holder, nonce: request.nonce });
        }
    }

    /// The owner's own adverts go on until it has given the lease away; somebody else's end the request.
    pub(super) fn requester_hears(&mut self, now: BootTime, request: Request, heard: super::Heard) {
        let lower = heard.priority < self.params.priority;
        if heard.from != request.holder || !lower && request.reason != Reason::MasterLeft {
            let since = request.since;
            self.phase = Phase::Backup(Backup { since, ..self.wait_for_silence(now) });
        }
    }

    pub(super) fn hear_offer(&mut self, now: BootTime, from: IpAddr, mac: Mac) {
        let of_master = !self.held && self.living(now).is_some_and(|heard| heard.from == from);
        if matches!(self.phase, Phase::Backup(_)) && of_master {
            self.request(now, from, mac, Reason::MasterLeft);
        }
    }

    pub(super) fn hear_grant(&mut self, now: BootTime, from: IpAddr, nonce: u64) {
        let Phase::Requesting(request) = self.phase else { return };
        if request.holder == from && request.nonce == nonce && now < request.until {
            self.enter_master(now, request.reason);
        }
    }

    pub(super) fn hear_request(&mut self, now: BootTime, asker: Asker) {
        let again = |granted: &Granted| {
            (granted.to, granted.nonce) == (asker.from, asker.nonce) && now < granted.until
        };
        match self.phase {
            Phase::Master(Master { giving: Some(_), .. }) => {}
            Phase::Master(mut master) => match &mut master.leaving {
                Some(leaving) => {
                    let decide_at =
                        leaving.best.map_or(now + CHOOSE.min(self.params.advert_int / 20), |(_, at)| at);
                    let better = |best: Asker| (asker.priority, asker.from) > (best.priority, best.from);
                    if leaving.best.is_none_or(|(best, _)| better(best)) {
                        leaving.best = Some((asker, decide_at));
                    }
                    self.phase = Phase::Master(master);
                }
                None if master.lease.is_some() && self.beaten_by(asker.from, asker.priority) => {
                    self.give(now, master, asker);
                }
                None => {}
            },
            _ if self.granted.as_ref().is_some_and(again) => {
                self.actions.push_back(Action::Grant { to: asker.from, nonce: asker.nonce });
            }
            _ => {}
        }
    }

    /// From now on new connections are the successor's: those whose handshake is under way here are completed, or told of, until the lease
    /// goes. A packet of a connection that neither node knows would be refused by RST.
    fn give(&mut self, now: BootTime, mut master: Master, asker: Asker) {
        let at = now + SETTLE.min(self.params.advert_int / 20);
        self.actions.push_back(Action::Relay { to: asker.mac, until: at + RELAY });
        master.giving = Some((asker, at));
        self.phase = Phase::Master(master);
    }

    /// Relays first, so that no frame is lost between the two leases; and the lease is gone before the other hears of it.
    pub(super) fn hand_over(&mut self, now: BootTime, asker: Asker) {
        let (mut to, mut reason) = (State::Backup, Reason::HandedOver);
        if let Phase::Master(master) = &mut self.phase {
            master.giving = None;
            (to, reason) = master.leaving.map_or((to, reason), |leaving| (leaving.to, leaving.reason));
        }
        let take_back = now + self.scaled(TAKE_BACK);
        self.actions.push_back(Action::Relay { to: asker.mac, until: now + RELAY });
        self.drop_lease();
        self.actions.push_back(Action::Grant { to: asker.from, nonce: asker.nonce });
        self.granted = Some(Granted { to: asker.from, nonce: asker.nonce, until: take_back });
        self.settle(now, to, reason);
        if let Phase::Backup(backup) = &mut self.phase {
            backup.deadline = take_back;
            // Until its first sign of life nothing is known of the new owner, and that is waited for.
            self.watch = Some(Watch::new(asker.from, now + self.grant_probe_interval()));
        }
    }

    /// Leaves for `Init` or `Fault`: an owner that is watched looks for a successor first.
    pub(super) fn leave(&mut self, now: BootTime, to: State, reason: Reason) {
        match self.phase {
            Phase::Init => {}
            Phase::Fault | Phase::Backup(_) | Phase::Requesting(_) | Phase::Claiming(_)
                if to == State::Backup => {}
            Phase::Master(mut master) if master.lease.is_some() && self.is_watched(now) => {
                match &mut master.leaving {
                    Some(leaving) if leaving.to == State::Init => {}
                    Some(leaving) => {
                        (leaving.to, leaving.reason) = (to, reason);
                        self.phase = Phase::Master(master);
                    }
                    None => self.offer(now, master, to, reason),
                }
            }
            Phase::Claiming(_) | Phase::Master(_) => {
                self.step_down();
                self.settle(now, to, reason);
            }
            Phase::Fault | Phase::Backup(_) | Phase::Requesting(_) => self.settle(now, to, reason),
        }
    }

    fn settle(&mut self, now: BootTime, to: State, reason: Reason) {
        (self.heard, self.watch) = (None, None);
        match to {
            State::Init => self.enter(Phase::Init, reason),
            State::Fault => self.enter(Phase::Fault, reason),
            State::Backup | State::Master => self.enter_backup(now, reason),
        }
    }

    fn offer(&mut self, now: BootTime, mut master: Master, to: State, reason: Reason) {
        let nonce = self.nonce();
        let (until, resend_at) = (now + self.scaled(OFFER_LIMIT), now + self.scaled(RESEND));
        master.leaving = Some(Leaving { to, reason, nonce, until, resend_at, best: None });
        self.phase = Phase::Master(master);
        if master.giving.is_none() {
            self.actions.push_back(Action::Offer { nonce });
        }
    }

    /// `true` when the router is owner no longer.
    pub(super) fn leaving_timeout(&mut self, now: BootTime, mut leaving: Leaving) -> bool {
        if let Some((asker, _)) = leaving.best.filter(|(_, at)| now >= *at)
            && let Phase::Master(master) = self.phase
        {
            self.give(now, master, asker);
            return false;
        }
        if leaving.best.is_none() && now >= leaving.until {
            self.step_down();
            self.settle(now, leaving.to, leaving.reason);
            return true;
        }
        if leaving.best.is_none() && now >= leaving.resend_at {
            leaving.resend_at = now + self.scaled(RESEND);
            self.actions.push_back(Action::Offer { nonce: leaving.nonce });
            if let Phase::Master(master) = &mut self.phase {
                master.leaving = Some(leaving);
            }
        }
        false
    }

    /// How long an answer may take.
    pub(super) fn last_word(&self) -> Duration {
        2 * self.scaled(RESEND)
    }

    /// Whether a grant has arrived is asked more often than how a master is.
    pub(super) fn grant_probe_interval(&self) -> Duration {
        self.scaled(RESEND)
    }

    /// Short intervals shorten every wait of a hand-over, by the same part: a third router waits three intervals.
    fn scaled(&self, wait: Duration) -> Duration {
        wait.min(self.params.advert_int * u32::try_from(wait.as_millis()).unwrap_or(u32::MAX) / 100)
    }
}
