//! Claiming: said aloud before a lease is taken that nobody granted, so that others can object.

use std::{net::IpAddr, time::Duration};

use super::{
    Router,
    phase::{Backup, Claim, Phase},
    types::{Action, Reason},
};
use crate::vrrp::time::BootTime;

/// How long a claimer waits for the old master's acknowledgement (its advert of priority 0). A viplb peer answers
/// within a network round trip; this leaves its thread 50 ms to be scheduled. keepalived steps down at once but
/// says nothing, so with it each failback costs the whole wait. Short intervals allow half of one: the third routers'
/// master-down time is 3.
pub(super) const CLAIM_WAIT: Duration = Duration::from_millis(50);
/// How long every claim is open to objection. Two backups' time-outs can be 3.9 ms apart (priorities 101 and 100):
/// whoever claims must have had the time to hear the other. Ten times the delay of a bad LAN. Short intervals allow an
/// eighth of one, and so ask for a network and threads that are quicker than that (`docs/vrrp.md`).
pub(super) const CONTEND_WAIT: Duration = Duration::from_millis(10);
/// A claim is said this often within the first half of `CONTEND_WAIT`: with two of three lost in each direction three
/// arrive, and one is answered.
pub(super) const CLAIM_COPIES: u8 = 9;
/// Answers to losing adverts are not closer than this: two routers that both think they win must not storm. But each
/// copy of a claim has to get one, so short intervals shorten it too.
const ANSWER_GAP: Duration = Duration::from_micros(250);
/// What peers have told of their flows, and this node has not read yet, is waited for no longer than this: a daemon whose control loop hangs
/// owns all the same. Short intervals allow a half of one.
pub const TAKE_IN: Duration = Duration::from_millis(200);
/// What was taken in so long ago is as good as now.
const FRESH: Duration = Duration::from_millis(10);
/// While its sync group cannot own, or the witness is missing, a router looks again this often.
const HELD: Duration = Duration::from_millis(50);

/// [`CLAIM_WAIT`] with a claimer's advertisement interval of `advert_int`.
pub fn claim_wait(advert_int: Duration) -> Duration {
    CLAIM_WAIT.min(advert_int / 2)
}

/// [`CONTEND_WAIT`] with a claimer's advertisement interval of `advert_int`.
pub fn contend_wait(advert_int: Duration) -> Duration {
    CONTEND_WAIT.min(advert_int / 8)
}

impl Router {
    pub(super) fn claim(&mut self, now: BootTime, holder: Option<IpAddr>, reason: Reason) {
        if self.held || self.lacks_a_witness() {
            self.phase = Phase::Backup(Backup { deadline: now + HELD, ..self.wait_for_silence(now) });
            return;
        }
        let contend_until = now + self.contend_wait();
        self.phase = Phase::Claiming(Claim {
            reason,
            contend_until,
            until: holder.map_or(contend_until, |_| now + self.claim_wait()),
            holder,
            several: false,
            takes_in: self.replicates.then_some(now + TAKE_IN.min(self.params.advert_int / 2)),
            resend_at: now + self.resend_gap(),
            copies_left: CLAIM_COPIES - 1,
        });
        self.send(self.params.priority);
        if self.replicates {
            self.actions.push_back(Action::TakeIn);
        }
    }

    /// Flows that peers have told of are in the table.
    pub(super) fn taken_in(&mut self, now: BootTime) {
        self.taken_in = now;
        match self.phase {
            Phase::Claiming(claim) => {
                self.phase = Phase::Claiming(Claim { takes_in: None, ..claim });
                self.handle_timeout(now);
            }
            Phase::Backup(backup) => _ = self.ask_for_the_lease(now, backup),
            _ => {}
        }
    }

    /// Whether a living owner may be asked for its lease now, as far as its flows matter; else they are taken in first.
    pub(super) fn has_taken_in(&mut self, now: BootTime) -> bool {
        let has = !self.replicates || self.taken_in != BootTime(0) && now < self.taken_in + FRESH;
        if !has {
            self.actions.push_back(Action::TakeIn);
        }
        has
    }

    /// Another claimer, which gives way in silence; or a master not heard before, which acknowledges.
    /// While it claims, a router that never pre-empts is no exception: two of them would wait for each other.
    pub(super) fn claimer_hears_lower(&mut self, now: BootTime, mut claim: Claim, from: IpAddr) {
        claim.several |= claim.holder.is_some_and(|holder| holder != from);
        claim.holder = Some(from);
        claim.until = now + self.claim_wait();
        self.phase = Phase::Claiming(claim);
        self.send(self.params.priority);
    }

    pub(super) fn claimer_hears_farewell(&mut self, now: BootTime, mut claim: Claim, from: IpAddr) {
        if claim.holder == Some(from) && !claim.several {
            claim.holder = None;
            claim.until = claim.contend_until.max(now);
            self.phase = Phase::Claiming(claim);
        }
    }

    pub(super) fn claim_timeout(&mut self, now: BootTime, mut claim: Claim) {
        if now >= claim.end() {
            return self.enter_master(now, claim.reason);
        }
        if claim.copies_left > 0 && now >= claim.resend_at {
            claim.copies_left -= 1;
            claim.resend_at = now + self.resend_gap();
            self.phase = Phase::Claiming(claim);
            self.send(self.params.priority);
        }
    }

    /// Of the own interval, which third routers have learnt from the claim: they wait three of it before they claim
    /// too, so the wait must be shorter, whatever interval the old master has.
    pub(super) fn claim_wait(&self) -> Duration {
        claim_wait(self.params.advert_int)
    }

    pub(super) fn contend_wait(&self) -> Duration {
        contend_wait(self.params.advert_int)
    }

    pub(super) fn resend_gap(&self) -> Duration {
        self.contend_wait() / 2 / u32::from(CLAIM_COPIES - 1)
    }

    pub(super) fn answer_gap(&self) -> Duration {
        ANSWER_GAP.min(self.resend_gap() / 2)
    }
}
