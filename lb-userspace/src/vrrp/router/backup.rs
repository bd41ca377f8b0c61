//! Backup: waiting for the master's silence, watching it by probes, and deciding when a lower one is replaced.

use std::{net::IpAddr, time::Duration};

use lb_common::lease::Standing;

use super::{
    Router,
    phase::{Backup, Phase},
    types::{Action, Heard, Reason},
    watch::{Tick, Watch},
};
use crate::{
    config::model::Preempt,
    vrrp::{announce::Mac, packet::PRIORITY_OWNER, time::BootTime, timers},
};

/// After the farewell of a viplb, which says that it holds no lease, Backups wait for no more than this, the higher ones
/// for less: the claim sorts out the rest.
const KNOWN_FAREWELL: Duration = Duration::from_millis(20);

impl Router {
    /// Another router's shorter interval does not shorten the wait for the one heard before: that may be the owner, and
    /// this a claimer that it is about to answer.
    pub(super) fn backup_hears(
        &mut self,
        now: BootTime,
        mut backup: Backup,
        before: Option<Heard>,
        heard: Heard,
    ) {
        let other = before.filter(|before| before.from != heard.from);
        backup.not_before =
            other.map_or(backup.not_before, |other| backup.not_before.max(self.dead_at(&other)));
        if heard.priority >= self.params.priority || !self.preempts() {
            let mut wait = self.wait_for_silence(now);
            if heard.priority < self.params.priority && self.catching_up {
                // It has listened all the while, and need not do so again once it has the flows.
                wait.since = backup.since;
                wait.lower_since = backup.lower_since.or(Some(now));
            }
            // Else the hold-down begins anew: a master whose priority falls for a moment loses nothing.
            wait.not_before = backup.not_before;
            wait.deadline = wait.deadline.max(wait.not_before);
            self.phase = Phase::Backup(wait);
            return;
        }
        backup.lower_since.get_or_insert(now);
        self.phase = Phase::Backup(backup);
        // Only who answers no probe is claimed: a master that can be asked may have fallen asleep since its advert.
        let is_viplb = self.watch.is_some_and(|watch| watch.answers());
        if !self.ask_for_the_lease(now, backup) && backup.armed && !is_viplb {
            self.claim(now, Some(heard.from), Reason::Preempted);
        }
    }

    /// A lower master that answers probes is asked, since it can say yes and no; `false` if it is not to be asked.
    pub(super) fn ask_for_the_lease(&mut self, now: BootTime, backup: Backup) -> bool {
        // Asked at every answer, so what is cheap to know comes first.
        let (Some(heard), Some(watch)) = (self.heard, self.watch) else { return false };
        let lower = heard.from == watch.peer && heard.priority < self.params.priority;
        let Some(mac) = watch.holder().filter(|_| lower && self.preempts() && !self.held) else {
            return false;
        };
        let asks = self.living(now).is_some() && now >= self.preempts_from(backup);
        if asks && self.has_taken_in(now) {
            self.request(now, heard.from, mac, Reason::Preempted);
        }
        asks
    }

    /// The hold-down: time to hear adverts after a start, and the delay that was asked for.
    pub(super) fn preempts_from(&self, backup: Backup) -> BootTime {
        if self.params.priority == PRIORITY_OWNER {
            return backup.since;
        }
        let heard_out = backup.since + self.master_down();
        match (self.params.preempt, backup.lower_since) {
            (Preempt::After(delay), Some(since)) => heard_out.max(since + delay),
            (Preempt::Never | Preempt::After(_), _) => heard_out,
        }
    }

    /// Probes go to whoever was heard last.
    pub(super) fn watch_whom(&mut self, now: BootTime, master: IpAddr) {
        if self.params.probe.is_none() {
            return;
        }
        match &mut self.watch {
            Some(watch) if watch.peer == master => watch.advertised(),
            watch => *watch = Some(Watch::new(master, now)),
        }
    }

    pub(super) fn backup_timeout(&mut self, now: BootTime) {
        self.probe_if_due(now);
        let Phase::Backup(backup) = self.phase else { return };
        if now < backup.deadline {
            return;
        }
        // Far beyond it, this thread has slept or its clock has jumped: what it has not heard meanwhile says nothing.
        if now >= backup.deadline + self.params.advert_int {
            self.phase = Phase::Backup(Backup { since: backup.since, ..self.wait_for_silence(now) });
            return;
        }
        match self.living(now) {
            Some(lower) => {
                let ready = self.preempts_from(backup);
                let dead = self.dead_at(&lower);
                let deadline = if now < ready { ready.min(dead) } else { dead };
                let (armed, reason) = (now >= ready && self.preempts(), Reason::Silence);
                self.phase = Phase::Backup(Backup { deadline, armed, reason, ..backup });
                self.ask_for_the_lease(now, backup);
            }
            None if self.asks_once_more(now, backup) => {}
            None => self.claim(now, None, backup.reason),
        }
    }

    /// Silence is what a clock makes of adverts: the data plane of who was heard last is asked before it is believed.
    fn asks_once_more(&mut self, now: BootTime, backup: Backup) -> bool {
        let Some(watch) = self.watch.as_mut().filter(|watch| watch.may_answer() && !backup.asked) else {
            return false;
        };
        watch.next = now;
        let deadline = now + self.last_word();
        self.phase = Phase::Backup(Backup { asked: true, deadline, ..backup });
        self.probe_if_due(now);
        true
    }

    fn probe_if_due(&mut self, now: BootTime) {
        let (Some(probe), Some(mut watch)) = (self.params.probe, self.watch) else { return };
        if now < watch.next {
            return;
        }
        let nonce = self.nonce();
        let every = if self.granted.is_some() { self.grant_probe_interval() } else { probe.interval };
        let tick = watch.tick(now, every, nonce);
        self.watch = Some(watch);
        match tick {
            Tick::Ask => self.actions.push_back(Action::Probe { to: watch.peer, nonce }),
            Tick::Gone => self.replace(now, Reason::MasterGone),
            Tick::Deaf => {}
        }
    }

    pub(super) fn hear_answer(
        &mut self,
        now: BootTime,
        from: IpAddr,
        (nonce, standing, mac): (u64, Standing, Mac),
    ) {
        let Some(watch) = self.watch.as_mut().filter(|watch| watch.peer == from) else { return };
        if !watch.answered(now, nonce, standing, mac) {
            return;
        }
        self.probing_peer = true;
        match (standing, self.phase) {
            (Standing::Expired, Phase::Backup(_) | Phase::Requesting(_)) => {
                self.replace(now, Reason::MasterFrozen);
            }
            (Standing::Valid(_), Phase::Backup(backup)) => self.lease_is_valid(now, from, backup),
            // Its adverts did not come through, or have not yet: there is an owner all the same.
            (Standing::Valid(_), Phase::Claiming(_)) => self.give_way(now),
            _ => {}
        }
    }

    /// Only a daemon that lives and has sent its adverts renews a lease: as good as having heard one.
    fn lease_is_valid(&mut self, now: BootTime, from: IpAddr, mut backup: Backup) {
        if let Some(heard) = self.heard.as_mut().filter(|heard| heard.from == from) {
            heard.at = now;
        }
        // Answers come many times an interval; the deadline moves when it is less than two intervals away.
        if backup.reason == Reason::Silence && backup.deadline.since(now) < 2 * self.master_int() {
            backup.deadline = backup.deadline.max(now + self.master_down());
            backup.asked = false;
            self.phase = Phase::Backup(backup);
        }
        self.granted = None;
        self.ask_for_the_lease(now, backup);
    }

    /// The watched master holds no lease any more and says nothing. But one heard before it still may.
    fn replace(&mut self, now: BootTime, reason: Reason) {
        if matches!(self.phase, Phase::Backup(backup) if now < backup.not_before) {
            return;
        }
        (self.heard, self.watch) = (None, None);
        self.claim(now, None, reason);
    }

    pub(super) fn hear_farewell(&mut self, now: BootTime, from: IpAddr) {
        let living = self.living(now);
        match self.phase {
            Phase::Init | Phase::Fault => {}
            Phase::Backup(backup) => {
                // A loser's farewell says nothing about the master that made it lose.
                if living.is_none_or(|heard| heard.from == from) {
                    self.master_left(now, from, backup);
                }
            }
            Phase::Requesting(request) => {
                if request.holder == from {
                    self.claim(now, None, Reason::MasterLeft);
                }
            }
            Phase::Claiming(claim) => self.claimer_hears_farewell(now, claim, from),
            Phase::Master(master) => self.answer(now, master),
        }
    }

    fn master_left(&mut self, now: BootTime, from: IpAddr, mut backup: Backup) {
        let skew = timers::skew(self.params.version, self.params.priority, self.master_int());
        let is_viplb = self.watch.is_some_and(|watch| watch.peer == from && watch.answers());
        let short = KNOWN_FAREWELL * (256 - u32::from(self.params.priority)) / 256;
        let wait = if is_viplb { skew.min(short) } else { skew };
        backup.deadline = backup.deadline.min(now + wait);
        backup.reason = Reason::MasterLeft;
        self.phase = Phase::Backup(backup);
        (self.heard, self.watch) = (None, None);
    }
}
