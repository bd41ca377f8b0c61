//! The backends of one service together: what checks found, what Galera's policy and operators say, and from all of
//! it who gets new connections.
//!
//! Pure: events, orders and time go in, standings and a ring come out. The control loop's model owns one [`Pool`] per
//! service. [`Pool::ring`] holds backends in state `up` only; in a service with `role = "writer"` at most one.

mod standing;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    Event, Failure, State,
    damping::Damping,
    passive::{Counts, Watch},
    ramp,
};
use crate::{
    config::model::{Galera, Passive, Role, Scheduler, Service},
    galera::{
        Seen,
        policy::{self, Verdict},
        writer,
    },
    track::state::Quorum,
};

pub use standing::{Admin, Cause, Change, Order, Part, Restored, Standing};

/// The backends of a service.
#[derive(Debug, Clone)]
pub struct Pool {
    members: Vec<Member>,
    scheduler: Scheduler,
    slow_start: Duration,
    galera: Option<Galera>,
    passive: Option<Passive>,
    /// Checks in a row that an ejected backend has to pass.
    rise: u32,
    /// Backends whose checks are to be made at once.
    suspects: Vec<usize>,
    writer: Option<usize>,
    /// Whether enough ordinary backends are up; with a hysteresis once all of them have been checked.
    quorum: Quorum,
    enough: bool,
}

#[derive(Debug, Clone)]
struct Member {
    addr: SocketAddr,
    sorry: bool,
    priority: u8,
    configured_weight: u16,
    health: State,
    failure: Option<Failure>,
    seen: Option<Seen>,
    admin: Admin,
    configured_admin: Admin,
    ordered_weight: Option<u16>,
    share: Option<u8>,
    flows: u64,
    damping: Damping,
    watch: Watch,
    up_since: Option<Instant>,
    /// Its service has come to be of a Galera cluster, and it was not asked for that yet.
    unasked: bool,
    standing: Standing,
}

impl Member {
    /// Who has not been checked yet may pass; who failed its last check may be out of reach from here only. An order hides
    /// neither that nor what Galera says, since the checks go on.
    fn serves(&self) -> bool {
        let reached = match self.health {
            State::Unchecked | State::Full | State::Drain => true,
            State::Up => self.failure.is_none(),
            State::Down | State::Maint => false,
        };
        reached && !self.standing.outside
    }
}

impl Pool {
    /// Nothing checked, nothing ordered.
    pub fn new(service: &Service) -> Self {
        let member = |b: &crate::config::model::Backend| Member {
            addr: b.addr,
            sorry: b.sorry,
            priority: b.priority,
            configured_weight: b.weight,
            health: State::Unchecked,
            failure: None,
            seen: None,
            admin: b.admin,
            configured_admin: b.admin,
            ordered_weight: None,
            share: None,
            flows: 0,
            damping: Damping::default(),
            watch: Watch::default(),
            up_since: None,
            unasked: false,
            standing: Standing {
                state: State::Unchecked,
                cause: None,
                part: Part::Plain,
                weight: b.weight,
                percent: 100,
                outside: false,
            },
        };
        Self {
            members: service.backends.iter().map(member).collect(),
            scheduler: service.scheduler,
            slow_start: service.slow_start,
            galera: service.galera,
            passive: service.passive,
            rise: service.check.rise,
            suspects: Vec::new(),
            writer: None,
            quorum: Quorum::new(service.quorum, service.hysteresis),
            enough: true,
        }
    }

    /// The pool of a service that was configured anew, going on from this one. `from` gives the place that a backend had before;
    /// those without one were not checked yet.
    pub fn follow(&self, service: &Service, from: impl Fn(usize) -> Option<usize>) -> Self {
        let mut next = Self::new(service);
        for (b, m) in next.members.iter_mut().enumerate() {
            let Some(old) = from(b).map(|b| &self.members[b]) else { continue };
            *m = Member {
                addr: m.addr,
                sorry: m.sorry,
                priority: m.priority,
                configured_weight: m.configured_weight,
                // The file's newer word goes before an older order.
                ordered_weight: old.ordered_weight.filter(|_| old.configured_weight == m.configured_weight),
                admin: if old.configured_admin == m.configured_admin { old.admin } else { m.admin },
                configured_admin: m.configured_admin,
                unasked: old.unasked || old.seen.is_none() && next.galera.is_some(),
                ..old.clone()
            };
        }
        next.writer = self.writer.and_then(|w| (0..next.members.len()).find(|b| from(*b) == Some(w)));
        next.enough = self.enough;
        if next.quorum.is_like(&self.quorum) {
            next.quorum = self.quorum;
        }
        next
    }

    /// What is left of a backend to the next daemon.
    pub fn restorable(&self, backend: usize) -> Restored {
        let m = &self.members[backend];
        Restored {
            health: m.health,
            admin: m.admin,
            configured_admin: m.configured_admin,
            ordered_weight: m.ordered_weight,
            writer: self.writer == Some(backend),
        }
    }

    /// A backend stood so when the former daemon ended; of the cluster it is asked again.
    pub fn restore(&mut self, backend: usize, restored: Restored) {
        let m = &mut self.members[backend];
        (m.health, m.ordered_weight) = (restored.health, restored.ordered_weight);
        // Another word in the file is newer than what was ordered before.
        if restored.configured_admin == m.configured_admin {
            m.admin = restored.admin;
        }
        m.unasked = restored.health == State::Up;
        if restored.writer {
            self.writer = Some(backend);
        }
    }

    /// Takes in the result of a check.
    pub fn on_event(&mut self, event: &Event) -> Vec<Change> {
        let m = &mut self.members[event.backend];
        let first = m.health == State::Unchecked;
        (m.health, m.unasked) = (event.state, false);
        m.failure = event.cause.clone();
        m.watch.checked(event.passed());
        // A check that failed says nothing of the weight; what it last was stays.
        m.share = if event.passed() { event.share } else { m.share };
        if let (Some(now), Some(rules)) = (&event.galera, &self.galera) {
            let mut seen = Seen::next(m.seen.as_ref(), (**now).clone(), event.at, rules);
            if first {
                // Whatever is found at the start has been so for long; nobody is on the way to it.
                seen.view_since = event.at.checked_sub(policy::GRACE).unwrap_or(event.at);
            }
            m.seen = Some(seen);
        } else if event.state == State::Down {
            m.seen = None;
        }
        self.decide(event.at)
    }

    /// Takes in an order.
    pub fn order(&mut self, backend: usize, order: Order, now: Instant) -> Vec<Change> {
        let m = &mut self.members[backend];
        match order {
            Order::Admin(admin) => m.admin = admin,
            Order::Weight(weight) => m.ordered_weight = weight,
        }
        self.decide(now)
    }

    /// Lets time pass. `flows` are the connections of each backend.
    pub fn tick(&mut self, now: Instant, flows: impl Fn(usize) -> u64) -> Vec<Change> {
        for (i, m) in self.members.iter_mut().enumerate() {
            m.flows = flows(i);
        }
        self.decide(now)
    }

    /// Takes in what the packet programs have counted of each backend. Who does not take connections is suspect, and ejected if
    /// there are enough others. The writer is not: a checked one that is too slow is a better writer than a second one.
    pub fn watch(&mut self, now: Instant, counts: impl Fn(usize) -> Counts) -> Vec<Change> {
        let Some(rules) = self.passive else { return Vec::new() };
        let ejects = self.role() != Some(Role::Writer);
        for i in 0..self.members.len() {
            let Some(tally) = self.members[i].watch.count(counts(i), now, &rules) else { continue };
            if self.members[i].watch.is_ejected() {
                continue;
            }
            self.suspects.push(i);
            if ejects && self.can_spare(i, rules.most) {
                self.members[i].watch.eject(tally, now, &rules);
            }
        }
        self.decide(now)
    }

    /// Backends whose checks are to be made at once, since this was last asked.
    pub fn take_suspects(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.suspects)
    }

    /// Whether a backend may be ejected: it is up, one of the others stays that takes connections, and no more than so many of a
    /// hundred are out.
    fn can_spare(&self, backend: usize, most: u8) -> bool {
        let is_in = |m: &Member| m.standing.state == State::Up && !m.watch.is_ejected();
        let ordinary = || self.members.iter().enumerate().filter(|(_, m)| !m.sorry);
        let another = ordinary().any(|(i, m)| i != backend && is_in(m) && m.standing.weight > 0);
        let out = ordinary().filter(|(_, m)| m.watch.is_ejected()).count();
        let m = &self.members[backend];
        is_in(m) && !m.sorry && another && out < (ordinary().count() * usize::from(most) / 100).max(1)
    }

    /// Has everything follow from a new configuration.
    pub fn settle(&mut self, now: Instant) -> Vec<Change> {
        self.decide(now)
    }

    /// Whether this node can do something for clients of the service: it reaches a backend that is of use to anybody. What
    /// holds for every viplb alike (an order, a policy, a full server) is no reason to leave the addresses to a peer.
    pub fn serves(&self) -> bool {
        self.members.iter().any(|m| !m.sorry && m.serves())
    }

    /// How a backend stands.
    pub fn standing(&self, backend: usize) -> &Standing {
        &self.members[backend].standing
    }

    /// What its own checks have found.
    pub fn health(&self, backend: usize) -> State {
        self.members[backend].health
    }

    /// What an operator wants of it.
    pub fn admin(&self, backend: usize) -> Admin {
        self.members[backend].admin
    }

    /// Which nodes of a Galera cluster the service is for.
    pub fn role(&self) -> Option<Role> {
        self.galera.map(|g| g.role)
    }

    /// What a Galera node last said.
    pub fn seen(&self, backend: usize) -> Option<&Seen> {
        self.members[backend].seen.as_ref()
    }

    /// Client addresses of the Galera cluster's members; none while nobody knows.
    pub fn members(&self) -> Option<&[String]> {
        let nodes: Vec<_> = self.members.iter().map(|m| m.for_policy(false)).collect();
        policy::members(&nodes).filter(|members| !members.is_empty())
    }

    /// Backends and weights that new connections go to, and the scheduler that does justice to them.
    pub fn ring(&self) -> (Scheduler, Vec<(usize, u16)>) {
        let last_resort = !self.enough;
        let up = |s: &Standing| {
            let asked = s.part != Part::Standby && (s.part == Part::Sorry) == last_resort;
            s.state == State::Up && asked && s.weight > 0
        };
        let takers = self.members.iter().map(|m| &m.standing).enumerate().filter(|(_, s)| up(s));
        if takers.clone().all(|(_, s)| s.percent == 100) {
            return (self.scheduler, takers.map(|(i, s)| (i, s.weight)).collect());
        }
        // Tenths of weights; where weights do not count, backends have one each. The first available has no share.
        let (scheduler, equal) = match self.scheduler {
            Scheduler::Rr => (Scheduler::Wrr, true),
            Scheduler::Lc => (Scheduler::Wlc, true),
            Scheduler::Fo => return (self.scheduler, takers.map(|(i, s)| (i, s.weight)).collect()),
            other => (other, false),
        };
        let tenths = |s: &Standing| if equal { 1 } else { s.weight } * u16::from(s.percent / 10);
        (scheduler, takers.map(|(i, s)| (i, tenths(s))).collect())
    }

    /// Makes the standings follow from everything known.
    fn decide(&mut self, now: Instant) -> Vec<Change> {
        let mut standings = self.states(now);
        let writer = self.choose_writer(&mut standings);
        let mut changes = Vec::new();
        changes.extend(self.count(&standings));
        for (backend, (m, s)) in self.members.iter_mut().zip(standings).enumerate() {
            changes.extend(m.take(backend, s, now, self.slow_start));
        }
        if writer != self.writer {
            changes.push(Change::Writer { from: self.writer, to: writer });
            self.writer = writer;
        }
        changes
    }

    /// Whether enough of the ordinary ones are up.
    fn count(&mut self, standings: &[Standing]) -> Option<Change> {
        let states = || self.members.iter().zip(standings).filter(|(m, _)| !m.sorry).map(|(_, s)| s.state);
        let up = states().filter(|s| *s == State::Up).count() as u32;
        // Until all have been heard a few are no reason to send anybody away for longer than that.
        let heard = states().all(|s| s != State::Unchecked);
        let enough = if heard { self.quorum.take(up) } else { self.quorum.is_met_by(up) };
        let was = std::mem::replace(&mut self.enough, enough);
        (heard && was != enough).then_some(Change::Quorum { enough, up })
    }

    /// State and cause of each. Those that flap or are ejected are held back, but not when nobody else is left.
    fn states(&mut self, now: Instant) -> Vec<Standing> {
        let rise = self.rise;
        let cause = |m: &mut Member| {
            let ejected = m.watch.ejected(now, rise).map(Cause::Passive);
            m.damping.held(now).map(Cause::Flapping).or(ejected)
        };
        let held: Vec<_> = self.members.iter_mut().map(cause).collect();
        let standings = self.states_with(&held);
        if standings.iter().any(|s| s.state == State::Up) {
            return standings;
        }
        self.states_with(&vec![None; held.len()])
    }

    /// Checks, then the policy, then flapping and ejections, then operators.
    fn states_with(&self, held: &[Option<Cause>]) -> Vec<Standing> {
        let verdicts = self.verdicts(held);
        let of = |(i, m): (usize, &Member)| {
            let (mut state, mut cause) = (m.health, m.failure.clone().map(Cause::Check));
            match verdicts.as_ref().map(|v| &v[i]).filter(|_| m.can_be_judged()) {
                Some(Verdict::Out(why)) => (state, cause) = (State::Down, Some(Cause::Galera(why.clone()))),
                Some(Verdict::Drain(why)) if matches!(state, State::Up | State::Full) => {
                    (state, cause) = (State::Drain, Some(Cause::Galera(why.clone())));
                }
                _ => {}
            }
            let outside = matches!(&cause, Some(Cause::Galera(why)) if why.is_of_component());
            if let (State::Up, Some(why)) = (state, &held[i]) {
                (state, cause) = (State::Down, Some(why.clone()));
            }
            match (m.admin, state) {
                (Admin::Maint, _) => (state, cause) = (State::Maint, Some(Cause::Operator)),
                (Admin::Drain, State::Up | State::Full) => {
                    (state, cause) = (State::Drain, Some(Cause::Operator));
                }
                _ => {}
            }
            let part = if m.sorry { Part::Sorry } else { Part::Plain };
            Standing { state, cause, part, weight: m.weight(), percent: 100, outside }
        };
        self.members.iter().enumerate().map(of).collect()
    }

    fn verdicts(&self, held: &[Option<Cause>]) -> Option<Vec<Verdict>> {
        let nodes: Vec<_> =
            self.members.iter().zip(held).map(|(m, held)| m.for_policy(held.is_some())).collect();
        Some(policy::judge(&nodes, self.galera.as_ref()?))
    }

    /// Gives everybody a part; the writer.
    fn choose_writer(&self, standings: &mut [Standing]) -> Option<usize> {
        let rules = self.galera.filter(|g| g.role == Role::Writer)?;
        let candidate = |(m, s): (&Member, &Standing)| {
            let fit = s.state == State::Up && s.weight > 0 && !m.sorry;
            writer::Candidate {
                fit,
                may_stay: fit || s.state == State::Full && !m.sorry,
                idle: m.flows == 0,
                priority: m.priority,
                local_index: m.seen.as_ref().map_or(u32::MAX, |s| s.now.local_index),
                addr: m.addr,
            }
        };
        let candidates: Vec<_> = self.members.iter().zip(&*standings).map(candidate).collect();
        // Whoever answers first after the start is nobody in particular: all are heard before the choice.
        let all_heard = standings.iter().all(|s| s.state != State::Unchecked);
        let chosen = match self.writer {
            None if !all_heard => None,
            so_far => writer::choose(&candidates, so_far, rules.failback),
        };
        for (i, s) in standings.iter_mut().enumerate().filter(|(_, s)| s.part != Part::Sorry) {
            s.part = if chosen == Some(i) { Part::Writer } else { Part::Standby };
        }
        chosen
    }
}

impl Member {
    fn weight(&self) -> u16 {
        let weight = self.ordered_weight.unwrap_or(self.configured_weight);
        let share = u32::from(self.share.unwrap_or(100));
        // Rounded up: a small share of a small weight is not none.
        (u32::from(weight) * share).div_ceil(100) as u16
    }

    /// Whether it takes connections if the policy lets it.
    fn is_wanted(&self) -> bool {
        self.health == State::Up && self.admin == Admin::Ready && self.weight() > 0
    }

    fn answers(&self) -> bool {
        !matches!(self.health, State::Unchecked | State::Down)
    }

    /// A node that was full from the start lets nobody in who could ask it.
    fn can_be_judged(&self) -> bool {
        self.answers() && (self.seen.is_some() || self.health == State::Up && !self.unasked)
    }

    fn for_policy(&self, held: bool) -> policy::Node<'_> {
        policy::Node {
            seen: self.seen.as_ref().filter(|_| self.answers()),
            wanted: self.is_wanted() && !held,
        }
    }

    fn take(
        &mut self,
        backend: usize,
        mut to: Standing,
        now: Instant,
        slow_start: Duration,
    ) -> Option<Change> {
        let from = self.standing.state;
        if to.state == State::Up && from != State::Up {
            self.up_since = (from != State::Unchecked).then_some(now);
        }
        let held = matches!(to.cause, Some(Cause::Flapping(_) | Cause::Passive(_)));
        if (from, to.state) == (State::Up, State::Down) && !held {
            self.damping.went_down(now);
        }
        // A writer is alone in its ring.
        to.percent = if matches!(to.part, Part::Plain | Part::Sorry) {
            ramp::percent(self.up_since, now, slow_start)
        } else {
            100
        };
        self.standing = to;
        let (to, cause) = (self.standing.state, self.standing.cause.clone());
        (from != to).then_some(Change::State { backend, from, to, cause })
    }
}

#[cfg(test)]
mod tests;
