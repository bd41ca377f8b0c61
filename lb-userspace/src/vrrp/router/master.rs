//! Master: adverts, the lease that goes with them, answers to rivals, announcements.

use std::{net::IpAddr, time::Duration};

use super::{
    Router,
    phase::{Burst, Master, Phase},
    types::{Action, Reason, State},
};
use crate::{config::model::Garp, vrrp::time::BootTime};

/// Unplanned announcements are not closer than this; one that falls into the gap is made at its end.
const ANNOUNCE_GAP: Duration = Duration::from_millis(100);
/// A peer that has asked for the lease counts as watching for so long.
pub(super) const WATCH_HOLD: Duration = Duration::from_secs(2);

impl Master {
    pub(super) fn deadline(&self) -> BootTime {
        let leaving = self.leaving.filter(|_| self.giving.is_none()).map(|leaving| match leaving.best {
            Some((_, at)) => at,
            None => leaving.until.min(leaving.resend_at),
        });
        let giving = self.giving.map(|(_, at)| at);
        let announce = self.next_announce.map(|(at, _)| at);
        [self.renew_at, announce, leaving, giving].into_iter().flatten().fold(self.advert_at, BootTime::min)
    }
}

impl Router {
    /// Lower adverts are answered at once, so that a deaf or returning owner steps down. The addresses are
    /// announced again, because neighbours may have learnt the other's hardware address.
    pub(super) fn master_hears_lower(&mut self, now: BootTime, master: Master, from: IpAddr, priority: u8) {
        self.actions.push_back(Action::Rival { from, priority });
        self.answer(now, master);
    }

    pub(super) fn answer(&mut self, now: BootTime, mut master: Master) {
        let gap_over = now >= master.answered + self.answer_gap();
        if gap_over {
            master.answered = now;
        }
        let burst_at = now.max(master.announced + ANNOUNCE_GAP);
        master.next_announce = Some((burst_at, Burst::LowerPriority));
        self.phase = Phase::Master(master);
        if gap_over {
            self.advertise(now);
        }
        self.announce_if_due(now);
    }

    pub(super) fn master_timeout(&mut self, now: BootTime, mut master: Master) {
        // No witness, and a peer that would watch if it heard this node: it may own.
        let alone = self.probing_peer && !self.is_watched(now) && now >= master.since + WATCH_HOLD;
        if self.lacks_a_witness() && alone && master.leaving.is_none() {
            return self.leave(now, State::Backup, Reason::CutOff);
        }
        if let Some((asker, _)) = master.giving.filter(|(_, at)| now >= *at) {
            return self.hand_over(now, asker);
        }
        if let Some(leaving) = master.leaving.filter(|_| master.giving.is_none())
            && self.leaving_timeout(now, leaving)
        {
            return;
        }
        // The first renewal after a peer's first probe, and the one after its last, fall out of the row.
        let renewal = master.renew_at.map_or(self.is_watched(now), |at| now >= at);
        if now >= master.advert_at {
            master.advert_at = now + self.params.advert_int;
            self.set_master(master);
            self.advertise(now);
        } else if renewal && !master.mute {
            self.renew(now);
        }
        self.announce_if_due(now);
    }

    /// All of it but the search for a successor, which may have gone on meanwhile.
    fn set_master(&mut self, master: Master) {
        if let Phase::Master(current) = &mut self.phase {
            *current = Master { leaving: current.leaving, giving: current.giving, ..master };
        }
    }

    pub(super) fn announce_if_due(&mut self, now: BootTime) {
        let Garp { repeat, delay, refresh, refresh_repeat, lower_prio_repeat, lower_prio_delay, .. } =
            self.params.garp;
        let Phase::Master(master) = &mut self.phase else { return };
        let Some((_, burst)) = master.next_announce.filter(|(at, _)| now >= *at) else { return };
        let refresh = refresh.map(|every| (now + every, Burst::Refresh));
        let second = |delay: Duration, repeat| {
            if delay.is_zero() { refresh } else { Some((now + delay, Burst::Second { repeat })) }
        };
        let (repeat, next) = match burst {
            Burst::Again => (repeat, second(delay, repeat)),
            Burst::LowerPriority => (lower_prio_repeat, second(lower_prio_delay, lower_prio_repeat)),
            Burst::Once => (repeat, refresh),
            Burst::Second { repeat } => (repeat, refresh),
            Burst::Refresh => (refresh_repeat, refresh),
        };
        (master.announced, master.next_announce) = (now, next);
        self.actions.push_back(Action::Announce { repeat });
    }

    /// As if it had been master all the time, with a lease that it was left.
    pub(super) fn go_on_as_master(&mut self, now: BootTime, lease: BootTime) {
        self.phase = Phase::Master(Master {
            since: now,
            advert_at: now + self.params.advert_int,
            renew_at: None,
            lease: Some(lease),
            mute: false,
            answered: now,
            announced: now,
            next_announce: Some((now, Burst::Once)),
            leaving: None,
            giving: None,
        });
        (self.watch, self.granted) = (None, None);
    }

    /// By a grant the old owner lives, and relays what still comes to it.
    pub(super) fn enter_master(&mut self, now: BootTime, reason: Reason) {
        let granted = matches!(self.phase, Phase::Requesting(_));
        let master = Master {
            since: now,
            advert_at: now + self.params.advert_int,
            renew_at: None,
            lease: None,
            mute: false,
            answered: now,
            announced: now,
            next_announce: Some((now, if granted { Burst::Once } else { Burst::Again })),
            leaving: None,
            giving: None,
        };
        self.phase = Phase::Master(master);
        (self.watch, self.granted) = (None, None);
        self.send(self.params.priority);
        let until = now + self.lease_and_schedule(now);
        self.actions.push_back(Action::TakeLease { until });
        self.announce_if_due(now);
        self.actions.push_back(Action::Entered { state: State::Master, reason });
    }

    /// An advert of our priority, and the lease that goes with it: never the one without the other.
    pub(super) fn advertise(&mut self, now: BootTime) {
        if let Phase::Master(master) = &mut self.phase {
            master.mute = false;
        }
        self.send(self.params.priority);
        self.renew(now);
    }

    fn renew(&mut self, now: BootTime) {
        let until = now + self.lease_and_schedule(now);
        self.actions.push_back(Action::RenewLease { until });
    }

    /// How long a lease that begins now lasts: short while a peer watches, since that takes over as soon as it is over.
    fn lease_and_schedule(&mut self, now: BootTime) -> Duration {
        let every = self.params.probe.filter(|_| self.is_watched(now)).map(|probe| probe.interval);
        if let Phase::Master(master) = &mut self.phase {
            master.renew_at = every.map(|every| now + every);
        }
        self.lease(now)
    }

    /// How long a lease lasts that is taken or renewed at `now`.
    pub fn lease(&self, now: BootTime) -> Duration {
        let short = self.params.probe.filter(|_| self.is_watched(now));
        short.map_or(self.params.lease, |probe| probe.lease)
    }

    /// Without the advert there is no renewal. One lost advert is survived; a lease that was never taken is not.
    pub(super) fn send_failed(&mut self, now: BootTime, mut master: Master) {
        if master.lease.is_some() {
            (master.mute, master.renew_at) = (true, None);
            if let (Some(probe), true) = (self.params.probe, self.is_watched(now)) {
                // A short lease does not wait for the next regular advert.
                master.advert_at = now + probe.interval;
            }
            self.phase = Phase::Master(master);
            self.actions.retain(|action| !matches!(action, Action::RenewLease { .. }));
        } else {
            self.actions.clear();
            self.phase = Phase::Backup(self.wait_for_silence(now));
        }
    }
}
