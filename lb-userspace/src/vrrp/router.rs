//! The state machine of one virtual router (RFC 3768 §6.4, RFC 9568 §6.4), with the lease that fences it.
//!
//! Sans-IO: the driver (`io`, or a test's simulation) hands in adverts, messages of viplb peers, time-outs and local
//! events with the time, and after each of them drains [`Router::poll_action`] and asks [`Router::poll_deadline`].
//! Nothing here reads a clock, opens a socket or logs.
//!
//! ```text
//!              silence; the watched master frozen or gone; a lower master that answers no probe
//!   Backup ───────────────────────────────────────────▶ Claiming ── wait over, or the old ──▶ Master
//!    │ ▲ ▲ ◀── heard a higher claim: say nothing ───────────┘       master's 0              │ │ ▲
//!    │ │ └──── heard a higher advert: drop lease, advert of priority 0 ─────────────────────┘ │ │
//!    │ │ └──── woke after the lease's end: drop lease, say nothing ───────────────────────────┤ │
//!    │ └────── handed over: relay, drop lease, grant ─────────────────────────────────────────┘ │
//!    └──▶ Requesting (a living lower master, or one that leaves and offers) ── its grant ───────┘
//!   Fault ◀── link down, tracker (any)   Init ◀── stop (any; a Master looks for a successor first)
//! ```
//! To the outside a claimer and a requester are Backups: they hold no lease and announce nothing. Each arrow out of a
//! state is in the file of that state: `backup`, `claim`, `handover`, `master`.

use std::{collections::VecDeque, net::IpAddr, time::Duration};

use self::phase::{Backup, Granted, Phase};
use self::watch::Watch;
pub use self::{
    claim::{TAKE_IN, claim_wait, contend_wait},
    types::{Action, Heard, LocalEvent, Message, Params, Reason, State, Tracked},
    watch::PeerState,
};
use super::{
    packet::{Advert, PRIORITY_LEAVING, PRIORITY_OWNER},
    time::BootTime,
    timers,
};
use crate::config::model::Preempt;

mod backup;
mod claim;
mod handover;
mod master;
mod phase;
mod types;
mod watch;

#[cfg(test)]
use self::claim::{CLAIM_COPIES, CLAIM_WAIT, CONTEND_WAIT};

/// One virtual router.
#[derive(Debug)]
pub struct Router {
    params: Params,
    phase: Phase,
    heard: Option<Heard>,
    watch: Option<Watch>,
    granted: Option<Granted>,
    /// When a peer last asked the packet programs for this lease.
    probed: BootTime,
    link_down: bool,
    tracked_fault: bool,
    group_fault: bool,
    held: bool,
    /// [`Tracked::blind`].
    blind: bool,
    /// A peer was heard, or asked for this lease, since the start. A node that is alone has nobody to leave the addresses to.
    peered: bool,
    /// Such a peer is a viplb, which as a Backup would ask for this lease.
    probing_peer: bool,
    catching_up: bool,
    /// Flows are replicated.
    replicates: bool,
    /// When those that peers had told of were last known to be in the table.
    taken_in: BootTime,
    nonces: u64,
    actions: VecDeque<Action>,
}

impl Router {
    /// Starts as Backup: whoever owns the addresses already is heard within the master-down time.
    pub fn new(params: Params, now: BootTime) -> Self {
        let mut router = Self {
            params,
            phase: Phase::Init,
            heard: None,
            watch: None,
            granted: None,
            probed: BootTime(0),
            link_down: false,
            tracked_fault: false,
            group_fault: false,
            held: false,
            blind: false,
            peered: false,
            probing_peer: false,
            catching_up: false,
            replicates: false,
            taken_in: BootTime(0),
            nonces: params.seed,
            actions: VecDeque::with_capacity(16),
        };
        router.enter_backup(now, Reason::Started);
        router
    }

    /// Goes on as the owner that the node was until a moment ago: another daemon has left its lease, until `lease`, in good order.
    pub fn resume(&mut self, now: BootTime, lease: BootTime) {
        self.actions.clear();
        self.go_on_as_master(now, lease);
        self.advertise(now);
        self.actions.push_back(Action::Entered { state: State::Master, reason: Reason::Resumed });
        self.announce_if_due(now);
    }

    /// Whether no other router was heard, nor has asked for this lease, since the start: nobody waits to take over.
    pub fn is_alone(&self) -> bool {
        !self.peered
    }

    /// The state as the outside sees it.
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Init => State::Init,
            Phase::Fault => State::Fault,
            Phase::Backup(_) | Phase::Requesting(_) | Phase::Claiming(_) => State::Backup,
            Phase::Master(_) => State::Master,
        }
    }

    /// Whether a claim is being made.
    pub fn is_claiming(&self) -> bool {
        matches!(self.phase, Phase::Claiming(_))
    }

    /// Whether it was told to stop and still looks for a successor, or has just found one that may need to be told
    /// again.
    pub fn is_leaving(&self, now: BootTime) -> bool {
        match self.phase {
            Phase::Master(master) => master.leaving.is_some_and(|leaving| leaving.to == State::Init),
            Phase::Init => self.granted.is_some_and(|granted| now < granted.until),
            _ => false,
        }
    }

    /// Whether it can take no part for a reason of its own: carrier, tracker.
    pub fn is_faulty(&self) -> bool {
        self.link_down || self.tracked_fault
    }

    /// Whether another router lives to which this one leaves its addresses.
    pub fn has_rival(&self, now: BootTime) -> bool {
        let rival = |heard: Heard| self.beaten_by(heard.from, heard.priority) || !self.preempts();
        self.state() == State::Backup && self.living(now).is_some_and(rival)
    }

    /// Its priority with the weights of the trackers.
    pub fn priority(&self) -> u8 {
        self.params.priority
    }

    /// The other router that was heard last, if that was within the master-down time.
    pub fn living(&self, now: BootTime) -> Option<Heard> {
        self.heard.filter(|heard| now < self.dead_at(heard))
    }

    /// Whom it watches by probes, what it knows of it, and when that answered last.
    pub fn watched(&self) -> Option<(IpAddr, PeerState, Option<BootTime>)> {
        self.watch.map(|watch| (watch.peer, watch.state(), watch.contact()))
    }

    /// Whether a peer watches this node's lease, so that it is kept short.
    pub fn is_watched(&self, now: BootTime) -> bool {
        self.params.probe.is_some() && self.probed != BootTime(0) && now < self.probed + master::WATCH_HOLD
    }

    /// Whether the thread slept so long that what it believed is void: a master past its lease, a claimer or requester
    /// past its wait by an interval. The driver then hands in [`LocalEvent::LateWake`] and discards what was queued.
    pub fn overslept(&self, now: BootTime) -> bool {
        match self.phase {
            Phase::Master(master) => master.lease.is_some_and(|end| now >= end),
            Phase::Claiming(claim) => now >= claim.end() + self.params.advert_int,
            Phase::Requesting(request) => now >= request.until + self.params.advert_int,
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
        self.peered = true;
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
        if self.state() == State::Backup {
            self.watch_whom(now, from);
        }
        match self.phase {
            Phase::Init | Phase::Fault => {}
            Phase::Backup(backup) => self.backup_hears(now, backup, before, heard),
            Phase::Requesting(request) => self.requester_hears(now, request, heard),
            Phase::Claiming(_) | Phase::Master(_) if self.beaten_by(from, advert.priority) => {
                self.give_way(now);
            }
            Phase::Claiming(claim) => self.claimer_hears_lower(now, claim, from),
            Phase::Master(master) => self.master_hears_lower(now, master, from, advert.priority),
        }
    }

    /// A message of a viplb peer, for this router and with its authentication.
    pub fn handle_message(&mut self, now: BootTime, from: IpAddr, message: Message) {
        if from == self.params.local || self.params.probe.is_none() {
            return;
        }
        if self.overslept(now) {
            return self.late_wake(now);
        }
        match message {
            Message::Answer { nonce, standing, mac } => self.hear_answer(now, from, (nonce, standing, mac)),
            Message::Offer { mac } => self.hear_offer(now, from, mac),
            Message::Request { nonce, priority, mac } => {
                self.hear_request(now, phase::Asker { from, priority, mac, nonce });
            }
            Message::Grant { nonce } => self.hear_grant(now, from, nonce),
        }
    }

    /// What the packet programs have noted about this node's lease: whether a peer asks for it, and whether one was told
    /// that it is over. To be handed in before anything else of a round.
    pub fn handle_noted(&mut self, now: BootTime, noted: super::Noted) {
        self.probed = noted.probed;
        self.probing_peer |= noted.probed != BootTime(0);
        self.peered |= self.probing_peer;
        if let (Phase::Master(master), true) = (self.phase, noted.fenced)
            && master.lease.is_some()
        {
            self.actions.clear();
            self.drop_lease();
            self.enter_backup(now, Reason::Fenced);
        }
    }

    /// The deadline of [`poll_deadline`](Self::poll_deadline) may have been reached.
    pub fn handle_timeout(&mut self, now: BootTime) {
        if self.overslept(now) {
            return self.late_wake(now);
        }
        match self.phase {
            Phase::Init | Phase::Fault => {}
            Phase::Backup(_) => self.backup_timeout(now),
            Phase::Requesting(request) => self.request_timeout(now, request),
            Phase::Claiming(claim) => self.claim_timeout(now, claim),
            Phase::Master(master) => self.master_timeout(now, master),
        }
    }

    /// Is set to do what `set` is set to do, and goes on in its state. Its address, and its priority, which trackers make, stay. A
    /// Master whose addresses are others is to `announce` them.
    pub fn change(&mut self, now: BootTime, set: &Self, announce: bool) {
        let Params { local, priority, seed, .. } = self.params;
        self.params = Params { local, priority, seed, ..set.params };
        if let Phase::Master(master) = &mut self.phase {
            if announce {
                master.next_announce = Some((now, phase::Burst::Again));
            }
            master.advert_at = now + self.params.advert_int;
            self.advertise(now);
            self.announce_if_due(now);
        }
    }

    /// Something happened at this node.
    pub fn handle_local(&mut self, now: BootTime, event: LocalEvent) {
        match event {
            LocalEvent::LinkDown => self.link_lost(),
            LocalEvent::LinkUp => {
                self.link_down = false;
                self.leave_fault(now, Reason::LinkUp);
            }
            LocalEvent::Tracked(tracked) => self.tracked(now, tracked),
            LocalEvent::GroupFault(fault) => self.group_faulted(now, fault),
            LocalEvent::Hold(held) => self.held = held,
            LocalEvent::CatchingUp(catching_up) => (self.catching_up, self.replicates) = (catching_up, true),
            LocalEvent::TakenIn => self.taken_in(now),
            LocalEvent::StepDown => self.leave(now, State::Backup, Reason::Group),
            LocalEvent::LateWake => {
                if matches!(self.phase, Phase::Requesting(_) | Phase::Claiming(_) | Phase::Master(_)) {
                    self.late_wake(now);
                }
            }
            LocalEvent::SendFailed => {
                if let Phase::Master(master) = self.phase {
                    self.send_failed(now, master);
                }
            }
            LocalEvent::LeaseFailed => {
                if let Phase::Master(_) = self.phase {
                    self.actions.clear();
                    self.step_down();
                    self.enter_backup(now, Reason::LeaseFailed);
                }
            }
            LocalEvent::Stop => self.leave(now, State::Init, Reason::Stopped),
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called next.
    pub fn poll_deadline(&self) -> Option<BootTime> {
        match self.phase {
            Phase::Init | Phase::Fault => None,
            Phase::Backup(backup) => {
                Some(self.watch.map_or(backup.deadline, |watch| watch.next.min(backup.deadline)))
            }
            Phase::Requesting(request) => Some(request.resend_at.min(request.until)),
            Phase::Claiming(claim) if claim.copies_left > 0 => Some(claim.resend_at.min(claim.end())),
            Phase::Claiming(claim) => Some(claim.end()),
            Phase::Master(master) => Some(master.deadline()),
        }
    }

    /// The next thing to do; to be drained after every `handle_*`. A lease counts as held once it is handed out.
    pub fn poll_action(&mut self) -> Option<Action> {
        let action = self.actions.pop_front()?;
        if let (Action::TakeLease { until } | Action::RenewLease { until }, Phase::Master(master)) =
            (action, &mut self.phase)
        {
            master.lease = Some(until);
        }
        Some(action)
    }

    fn link_lost(&mut self) {
        self.link_down = true;
        if !matches!(self.phase, Phase::Init | Phase::Fault) {
            self.drop_lease();
            (self.heard, self.watch) = (None, None);
            self.enter(Phase::Fault, Reason::LinkDown);
        }
    }

    fn tracked(&mut self, now: BootTime, tracked: Tracked) {
        let other_priority = self.params.priority != tracked.priority;
        self.params.priority = tracked.priority;
        self.blind = tracked.blind;
        let was = std::mem::replace(&mut self.tracked_fault, tracked.fault);
        match (self.phase, tracked.fault) {
            (Phase::Init, _) | (Phase::Fault, true) => {}
            (Phase::Fault, false) => self.leave_fault(now, Reason::TrackersPass),
            (_, true) if !was => self.leave(now, State::Fault, Reason::TrackerFailed),
            (Phase::Master(mut master), false) if master.leaving.is_some_and(|l| l.to == State::Fault) => {
                master.leaving = None;
                self.phase = Phase::Master(master);
            }
            // Said at once: whoever has a higher priority now need not wait for the next advert.
            (Phase::Master(_), _) if other_priority => self.advertise(now),
            _ => {}
        }
    }

    fn group_faulted(&mut self, now: BootTime, fault: bool) {
        self.group_fault = fault;
        if !fault {
            self.leave_fault(now, Reason::Group);
        } else if !matches!(self.phase, Phase::Init | Phase::Fault) {
            self.leave(now, State::Fault, Reason::Group);
        }
    }

    fn leave_fault(&mut self, now: BootTime, reason: Reason) {
        if matches!(self.phase, Phase::Fault) && !self.is_faulty() && !self.group_fault {
            self.enter_backup(now, reason);
        }
    }

    /// A claimer goes without a word: a farewell would make third routers believe that the winner has left.
    fn give_way(&mut self, now: BootTime) {
        if self.state() == State::Master {
            self.step_down();
            self.enter_backup(now, Reason::HigherPriority);
        } else {
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

    fn enter_backup(&mut self, now: BootTime, reason: Reason) {
        let phase = Phase::Backup(self.wait_for_silence(now));
        self.enter(phase, reason);
    }

    fn enter(&mut self, phase: Phase, reason: Reason) {
        self.phase = phase;
        self.actions.push_back(Action::Entered { state: self.state(), reason });
    }

    /// The addresses' owner does not wait for silence, only for the end of a lease it has not heard of.
    fn wait_for_silence(&self, now: BootTime) -> Backup {
        let unheard_owner = self.params.priority == PRIORITY_OWNER && self.heard.is_none();
        let wait = if unheard_owner { self.params.lease } else { self.master_down() };
        Backup {
            since: now,
            deadline: now + wait,
            not_before: BootTime(0),
            lower_since: None,
            armed: false,
            asked: false,
            reason: Reason::Silence,
        }
    }

    fn send(&mut self, priority: u8) {
        self.actions.push_back(Action::Send { priority });
    }

    /// The lease goes before anything is said: by the time a peer hears of it, it is true.
    fn step_down(&mut self) {
        self.drop_lease();
        self.send(PRIORITY_LEAVING);
    }

    fn drop_lease(&mut self) {
        let Phase::Master(master) = self.phase else { return };
        // Whoever was to have it has not been told that it has.
        if let Some((asker, _)) = master.giving {
            self.actions.push_back(Action::Relay { to: asker.mac, until: BootTime(0) });
        }
        self.actions.push_back(Action::DropLease);
    }

    /// Whether the witness says that this node is the one that is cut off, if anybody is.
    fn lacks_a_witness(&self) -> bool {
        self.blind && self.peered
    }

    fn beaten_by(&self, from: IpAddr, priority: u8) -> bool {
        (priority, from) > (self.params.priority, self.params.local)
    }

    fn preempts(&self) -> bool {
        !self.catching_up && (self.params.preempt != Preempt::Never || self.params.priority == PRIORITY_OWNER)
    }

    /// splitmix64 of a counter: different each time, and not to be guessed without the seed.
    fn nonce(&mut self) -> u64 {
        self.nonces = self.nonces.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.nonces ^ (self.nonces >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
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
}

#[cfg(test)]
mod probing_tests;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
