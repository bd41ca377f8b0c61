//! The state machine of one virtual router (RFC 3768 §6.4, RFC 9568 §6.4), with the lease that fences it.
//!
//! Sans-IO: the driver (`io`, or a test's simulation) hands in adverts, time-outs and local events with the time,
//! and after each of them drains [`Router::poll_action`] and asks [`Router::poll_deadline`]. Nothing here reads a
//! clock, opens a socket or logs.
//!
//! ```text
//!             master-down, silence or a lower master
//!   Backup ────────────────────────────────────────▶ Claiming ──── wait over, or the ────▶ Master
//!     ▲  ▲ ◀── heard a higher claim: say nothing ───────────┘      old master's 0             │
//!     │  └──── heard a higher advert: drop lease, advert of priority 0 ──────────────────────┤
//!     │  └──── woke after the lease's end: drop lease, say nothing ──────────────────────────┘
//!   Fault ◀── link down (any)           Init ◀── stop (any; Master and Claiming send priority 0)
//! ```
//! To the outside a claimer is a Backup: it advertises its priority but holds no lease and announces nothing.

use std::{collections::VecDeque, net::IpAddr, time::Duration};

use self::phase::{Backup, Burst, Claim, Master, Phase};
pub use self::types::{Action, Heard, LocalEvent, Params, Reason, State};
use super::{
    packet::{Advert, PRIORITY_LEAVING},
    time::BootTime,
    timers,
};
use crate::config::model::{Garp, Preempt};

mod phase;
mod types;

/// How long a claimer waits for the old master's acknowledgement (its advert of priority 0). A viplb peer answers
/// within a network round trip; this leaves its thread 50 ms to be scheduled. keepalived steps down at once but
/// says nothing, so with it each failback costs the whole wait. Short intervals allow half of one: the third routers'
/// master-down time is 3.
pub const CLAIM_WAIT: Duration = Duration::from_millis(50);
/// How long every claim is open to objection. Two backups' time-outs can be 3.9 ms apart (priorities 101 and 100):
/// whoever claims must have had the time to hear the other. Ten times the delay of a bad LAN. Short intervals allow an
/// eighth of one, and so ask for a network and threads that are quicker than that (`docs/vrrp.md`).
pub const CONTEND_WAIT: Duration = Duration::from_millis(10);
/// A claim is said this often within the first half of `CONTEND_WAIT`: two claims lost in a row and two answers lost
/// in a row still leave one pair.
const CLAIM_COPIES: u8 = 5;
/// Answers to losing adverts are not closer than this: two routers that both think they win must not storm. But each
/// copy of a claim has to get one, so short intervals shorten it too.
const ANSWER_GAP: Duration = Duration::from_micros(250);
/// Unplanned announcements are not closer than this; one that falls into the gap is made at its end.
const ANNOUNCE_GAP: Duration = Duration::from_millis(100);

/// One virtual router.
#[derive(Debug)]
pub struct Router {
    params: Params,
    phase: Phase,
    heard: Option<Heard>,
    actions: VecDeque<Action>,
}

impl Router {
    /// Starts as Backup: whoever owns the addresses already is heard within the master-down time.
    pub fn new(params: Params, now: BootTime) -> Self {
        let mut router =
            Self { params, phase: Phase::Init, heard: None, actions: VecDeque::with_capacity(16) };
        router.enter_backup(now, Reason::Started);
        router
    }

    /// The state as the outside sees it.
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Init => State::Init,
            Phase::Fault => State::Fault,
            Phase::Backup(_) | Phase::Claiming(_) => State::Backup,
            Phase::Master(_) => State::Master,
        }
    }

    /// Whether a claim is being made.
    pub fn is_claiming(&self) -> bool {
        matches!(self.phase, Phase::Claiming(_))
    }

    /// The other router that was heard last, if that was within the master-down time.
    pub fn living(&self, now: BootTime) -> Option<Heard> {
        self.heard.filter(|heard| now < self.dead_at(heard))
    }

    /// Whether the thread slept so long that what it believed is void: a master past its lease, a claimer past
    /// its claim by an interval. The driver then hands in [`LocalEvent::LateWake`] and discards what was queued.
    pub fn overslept(&self, now: BootTime) -> bool {
        match self.phase {
            Phase::Master(master) => master.lease.is_some_and(|end| now >= end),
            Phase::Claiming(claim) => now >= claim.until + self.params.advert_int,
            Phase::Init | Phase::Fault | Phase::Backup(_) => false,
        }
    }

    /// This node's adverts are sent from another address from now on.
    pub fn set_local(&mut self, local: IpAddr) {
        self.params.local = local;
    }

    /// An advert that passed [`Identity::parse`](super::packet::Identity::parse).
    pub fn handle_advert(&mut self, now: BootTime, from: IpAddr, advert: &Advert) {
        if from == self.params.local {
            return; // our own, reflected; or a duplicate address, which no election can cure
        }
        if self.overslept(now) {
            return self.late_wake(now);
        }
        if advert.priority == PRIORITY_LEAVING {
            return self.hear_farewell(now, from);
        }
        if matches!(self.phase, Phase::Init | Phase::Fault) {
            return;
        }
        let heard = Heard { from, priority: advert.priority, interval: advert.interval, at: now };
        let before = self.heard.replace(heard);
        match self.phase {
            Phase::Init | Phase::Fault => {}
            Phase::Backup(backup) => self.backup_hears(now, backup, before, heard),
            Phase::Claiming(_) | Phase::Master(_) if self.beaten_by(from, advert.priority) => {
                self.give_way(now);
            }
            Phase::Claiming(claim) => self.claimer_hears_lower(now, claim, from),
            Phase::Master(master) => self.master_hears_lower(now, master, from, advert.priority),
        }
    }

    /// The deadline of [`poll_deadline`](Self::poll_deadline) may have been reached.
    pub fn handle_timeout(&mut self, now: BootTime) {
        if self.overslept(now) {
            return self.late_wake(now);
        }
        match self.phase {
            Phase::Init | Phase::Fault => {}
            Phase::Backup(backup) => self.backup_timeout(now, backup),
            Phase::Claiming(claim) => self.claim_timeout(now, claim),
            Phase::Master(master) => self.master_timeout(now, master),
        }
    }

    /// Something happened at this node.
    pub fn handle_local(&mut self, now: BootTime, event: LocalEvent) {
        match (event, self.phase) {
            (LocalEvent::LinkDown, Phase::Backup(_) | Phase::Claiming(_) | Phase::Master(_)) => {
                self.drop_lease();
                self.heard = None;
                self.enter(Phase::Fault, Reason::LinkDown);
            }
            (LocalEvent::LinkUp, Phase::Fault) => self.enter_backup(now, Reason::LinkUp),
            (LocalEvent::LateWake, Phase::Claiming(_) | Phase::Master(_)) => self.late_wake(now),
            (LocalEvent::SendFailed, Phase::Master(master)) => self.send_failed(now, master),
            (LocalEvent::LeaseFailed, Phase::Master(_)) => {
                self.actions.clear();
                self.drop_lease();
                self.send(PRIORITY_LEAVING);
                self.enter_backup(now, Reason::LeaseFailed);
            }
            (LocalEvent::Stop, phase) => self.stop(phase),
            (LocalEvent::LinkDown, Phase::Init | Phase::Fault)
            | (LocalEvent::LinkUp, _)
            | (LocalEvent::LateWake | LocalEvent::SendFailed | LocalEvent::LeaseFailed, _) => {}
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called next.
    pub fn poll_deadline(&self) -> Option<BootTime> {
        match self.phase {
            Phase::Init | Phase::Fault => None,
            Phase::Backup(backup) => Some(backup.deadline),
            Phase::Claiming(claim) if claim.copies_left > 0 => Some(claim.resend_at.min(claim.until)),
            Phase::Claiming(claim) => Some(claim.until),
            Phase::Master(master) => {
                Some(master.next_announce.map_or(master.advert_at, |(at, _)| at.min(master.advert_at)))
            }
        }
    }

    /// The next thing to do; to be drained after every `handle_*`. A lease counts as held once it is handed out.
    pub fn poll_action(&mut self) -> Option<Action> {
        let action = self.actions.pop_front()?;
        if let (Action::TakeLease { until } | Action::RenewLease { until }, Phase::Master(master)) =
            (action, &mut self.phase)
        {
            master.lease = Some(until);
            master.mute = false;
        }
        Some(action)
    }

    /// Another router's shorter interval does not shorten the wait for the one heard before: that may be the owner, and
    /// this a claimer that it is about to answer.
    fn backup_hears(&mut self, now: BootTime, backup: Backup, before: Option<Heard>, heard: Heard) {
        if heard.priority >= self.params.priority || self.params.preempt == Preempt::Never {
            let mut wait = self.wait_for_silence(now);
            let other = before.filter(|before| before.from != heard.from);
            wait.not_before =
                other.map_or(backup.not_before, |other| backup.not_before.max(self.dead_at(&other)));
            wait.deadline = wait.deadline.max(wait.not_before);
            self.phase = Phase::Backup(wait);
        } else if backup.armed {
            self.claim(now, Some(heard.from), Reason::Preempted);
        }
    }

    fn hear_farewell(&mut self, now: BootTime, from: IpAddr) {
        let (living, master_int) = (self.living(now), self.master_int());
        match &mut self.phase {
            Phase::Init | Phase::Fault => {}
            Phase::Backup(backup) => {
                // A loser's farewell says nothing about the master that made it lose.
                let Params { version, priority, .. } = self.params;
                let deadline = now + timers::skew(version, priority, master_int);
                let master_left = living.is_none_or(|heard| heard.from == from);
                if master_left {
                    backup.deadline = backup.deadline.min(deadline);
                    backup.reason = Reason::MasterLeft;
                    self.heard = None;
                }
            }
            Phase::Claiming(claim) => {
                if claim.holder == Some(from) && !claim.several {
                    claim.holder = None;
                    claim.until = claim.contend_until.max(now);
                }
            }
            Phase::Master(master) => {
                let master = *master;
                self.answer(now, master);
            }
        }
    }

    /// Lower adverts are answered at once, so that a deaf or returning owner steps down. The addresses are
    /// announced again, because neighbours may have learnt the other's hardware address.
    fn master_hears_lower(&mut self, now: BootTime, master: Master, from: IpAddr, priority: u8) {
        self.actions.push_back(Action::Rival { from, priority });
        self.answer(now, master);
    }

    fn answer(&mut self, now: BootTime, mut master: Master) {
        let gap_over = now >= master.answered + self.answer_gap();
        if gap_over {
            master.answered = now;
        }
        let burst_at = now.max(master.announced + ANNOUNCE_GAP);
        master.next_announce = Some((burst_at, Burst::Again));
        self.phase = Phase::Master(master);
        if gap_over {
            self.advertise(now);
        }
        self.announce_if_due(now);
    }

    /// A claimer goes without a word: a farewell would make third routers believe that the winner has left.
    fn give_way(&mut self, now: BootTime) {
        if self.state() == State::Master {
            self.drop_lease();
            self.send(PRIORITY_LEAVING);
            self.enter_backup(now, Reason::HigherPriority);
        } else {
            self.phase = Phase::Backup(self.wait_for_silence(now));
        }
    }

    fn backup_timeout(&mut self, now: BootTime, backup: Backup) {
        if now < backup.deadline {
            return;
        }
        match self.living(now) {
            Some(lower) => {
                let deadline = self.dead_at(&lower);
                self.phase =
                    Phase::Backup(Backup { deadline, armed: true, reason: Reason::Silence, ..backup });
            }
            None => self.claim(now, None, backup.reason),
        }
    }

    fn claim(&mut self, now: BootTime, holder: Option<IpAddr>, reason: Reason) {
        let contend_until = now + self.contend_wait();
        self.phase = Phase::Claiming(Claim {
            reason,
            contend_until,
            until: holder.map_or(contend_until, |_| now + self.claim_wait()),
            holder,
            several: false,
            resend_at: now + self.resend_gap(),
            copies_left: CLAIM_COPIES - 1,
        });
        self.send(self.params.priority);
    }

    /// Another claimer, which gives way in silence; or a master not heard before, which acknowledges.
    /// While it claims, a router that never pre-empts is no exception: two of them would wait for each other.
    fn claimer_hears_lower(&mut self, now: BootTime, mut claim: Claim, from: IpAddr) {
        claim.several |= claim.holder.is_some_and(|holder| holder != from);
        claim.holder = Some(from);
        claim.until = now + self.claim_wait();
        self.phase = Phase::Claiming(claim);
        self.send(self.params.priority);
    }

    fn claim_timeout(&mut self, now: BootTime, mut claim: Claim) {
        if now >= claim.until {
            return self.enter_master(now, claim.reason);
        }
        if claim.copies_left > 0 && now >= claim.resend_at {
            claim.copies_left -= 1;
            claim.resend_at = now + self.resend_gap();
            self.phase = Phase::Claiming(claim);
            self.send(self.params.priority);
        }
    }

    fn master_timeout(&mut self, now: BootTime, mut master: Master) {
        if now >= master.advert_at {
            let next = master.advert_at + self.params.advert_int;
            master.advert_at = if next > now { next } else { now + self.params.advert_int };
            self.phase = Phase::Master(master);
            self.advertise(now);
        }
        self.announce_if_due(now);
    }

    fn announce_if_due(&mut self, now: BootTime) {
        let Phase::Master(master) = &mut self.phase else { return };
        let Some((at, burst)) = master.next_announce else { return };
        if now < at {
            return;
        }
        let Garp { repeat, delay, refresh, .. } = self.params.garp;
        let refresh = refresh.map(|every| (now + every, Burst::Refresh));
        master.announced = now;
        master.next_announce = match burst {
            Burst::Again if !delay.is_zero() => Some((now + delay, Burst::Second)),
            Burst::Again | Burst::Second | Burst::Refresh => refresh,
        };
        let repeat = if burst == Burst::Refresh { 1 } else { repeat };
        self.actions.push_back(Action::Announce { repeat });
    }

    fn enter_master(&mut self, now: BootTime, reason: Reason) {
        let master = Master {
            advert_at: now + self.params.advert_int,
            lease: None,
            mute: false,
            answered: now,
            announced: now,
            next_announce: Some((now, Burst::Again)),
        };
        self.phase = Phase::Master(master);
        self.send(self.params.priority);
        self.actions.push_back(Action::TakeLease { until: now + self.params.lease });
        self.announce_if_due(now);
        self.actions.push_back(Action::Entered { state: State::Master, reason });
    }

    /// An advert of our priority, and the lease that goes with it: never the one without the other.
    fn advertise(&mut self, now: BootTime) {
        self.send(self.params.priority);
        self.actions.push_back(Action::RenewLease { until: now + self.params.lease });
    }

    /// Without the advert there is no renewal. One lost advert is survived; a lease that was never taken is not.
    fn send_failed(&mut self, now: BootTime, mut master: Master) {
        if master.lease.is_some() {
            master.mute = true;
            self.phase = Phase::Master(master);
            self.actions.retain(|action| !matches!(action, Action::RenewLease { .. }));
        } else {
            self.actions.clear();
            self.phase = Phase::Backup(self.wait_for_silence(now));
        }
    }

    /// The peers have moved on long ago: whatever was still to be said would only confuse them.
    fn late_wake(&mut self, now: BootTime) {
        self.actions.clear();
        if let Phase::Master(master) = self.phase {
            self.drop_lease();
            self.enter_backup(now, if master.mute { Reason::SendFailed } else { Reason::LateWake });
        } else {
            self.phase = Phase::Backup(self.wait_for_silence(now));
        }
    }

    fn stop(&mut self, phase: Phase) {
        if matches!(phase, Phase::Claiming(_) | Phase::Master(_)) {
            self.drop_lease();
            self.send(PRIORITY_LEAVING);
        }
        if !matches!(phase, Phase::Init) {
            self.enter(Phase::Init, Reason::Stopped);
        }
    }

    fn enter_backup(&mut self, now: BootTime, reason: Reason) {
        let phase = Phase::Backup(self.wait_for_silence(now));
        self.enter(phase, reason);
    }

    fn enter(&mut self, phase: Phase, reason: Reason) {
        self.phase = phase;
        self.actions.push_back(Action::Entered { state: self.state(), reason });
    }

    fn wait_for_silence(&self, now: BootTime) -> Backup {
        let deadline = now + self.master_down();
        Backup { deadline, not_before: BootTime(0), armed: false, reason: Reason::Silence }
    }

    fn send(&mut self, priority: u8) {
        self.actions.push_back(Action::Send { priority });
    }

    /// Before anything is said: by the time a peer hears of it, it is true.
    fn drop_lease(&mut self) {
        if self.state() == State::Master {
            self.actions.push_back(Action::DropLease);
        }
    }

    fn beaten_by(&self, from: IpAddr, priority: u8) -> bool {
        (priority, from) > (self.params.priority, self.params.local)
    }

    /// The interval that the time-outs of a Backup count with: the master's as last heard, before that its own. A
    /// lease is always shorter than three intervals of whoever holds it, so this and not the own one is safe.
    pub fn master_int(&self) -> Duration {
        self.heard.map_or(self.params.advert_int, |heard| heard.interval)
    }

    /// How long a Backup waits for a sign of the master.
    pub fn master_down(&self) -> Duration {
        timers::master_down(self.params.version, self.params.priority, self.master_int())
    }

    /// When another router counts as gone, and its lease is over.
    fn dead_at(&self, heard: &Heard) -> BootTime {
        heard.at + timers::master_down(self.params.version, self.params.priority, heard.interval)
    }

    /// Of the own interval, which third routers have learnt from the claim: they wait three of it before they claim
    /// too, so the wait must be shorter, whatever interval the old master has.
    fn claim_wait(&self) -> Duration {
        claim_wait(self.params.advert_int)
    }

    fn contend_wait(&self) -> Duration {
        contend_wait(self.params.advert_int)
    }

    fn resend_gap(&self) -> Duration {
        self.contend_wait() / 2 / u32::from(CLAIM_COPIES - 1)
    }

    fn answer_gap(&self) -> Duration {
        ANSWER_GAP.min(self.resend_gap() / 2)
    }
}

/// [`CLAIM_WAIT`] with a claimer's advertisement interval of `advert_int`.
pub fn claim_wait(advert_int: Duration) -> Duration {
    CLAIM_WAIT.min(advert_int / 2)
}

/// [`CONTEND_WAIT`] with a claimer's advertisement interval of `advert_int`.
pub fn contend_wait(advert_int: Duration) -> Duration {
    CONTEND_WAIT.min(advert_int / 8)
}

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
