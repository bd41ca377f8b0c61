//! The thread that drives the routers: one loop around `ppoll`.
//!
//! Each round goes in this order: have I overslept → stop asked for → masters' due adverts → link changes → adverts →
//! claims of neighbours → other deadlines → announcements that waited for their turn. Lateness comes first, so that a thread that was frozen says nothing it believed before;
//! received adverts come before the master-down time-out, so that a slow thread does not mistake its own sleep for
//! the master's silence. No log and, in the steady state, no allocation. Every round is bounded, and a
//! thread that never gets to sleep loses its real-time priority (`realtime::Guard`).

use std::{
    io::{self, PipeReader, Read},
    net::IpAddr,
    sync::{Arc, mpsc},
    time::Duration,
};

use lb_common::probe::Kind;
use nix::sys::signal::SigSet;
use tokio::sync::mpsc::UnboundedSender;

use super::{Command, Event, Lease, Setup, port::Port, unit::Unit};
use crate::vrrp::{
    counters::Counters,
    group::Group,
    realtime::{self, Guard, Scheduling},
    router::{Action, LocalEvent, Router, State},
    socket::{self, LinkSocket, StartError, readable},
    time::BootTime,
};

/// Alarms of one router and kind are not closer than this.
pub(super) const ALARM_GAP: Duration = Duration::from_secs(10);
/// No hand-over keeps a daemon from stopping for longer.
pub(super) const LEAVE_LIMIT: Duration = Duration::from_millis(200);
/// The thread looks round this often where something may happen without an event.
const TICK: Duration = Duration::from_millis(20);

/// Everything that the thread owns.
pub(super) struct Thread {
    pub(super) ports: Vec<Port>,
    pub(super) units: Vec<Unit>,
    links: LinkSocket,
    pub(super) groups: Vec<Group>,
    /// A byte for each command.
    woken: PipeReader,
    commands: mpsc::Receiver<Command>,
    /// Since when it has been told to stop.
    stopping: Option<BootTime>,
    pub(super) lease: Box<dyn Lease>,
    /// Whose leases are left to the next daemon, by number, once it is decided.
    kept: Option<Vec<bool>>,
    events: UnboundedSender<Event>,
    /// By number.
    pub(super) counters: Arc<[Counters]>,
    pub(super) buffer: Vec<u8>,
    /// With real-time priority: what was obtained, and what watches over its use.
    realtime: Option<(Scheduling, Guard)>,
    /// `woken`, `links`, then the sockets of all ports.
    fds: Vec<libc::pollfd>,
}

/// Which descriptors were found ready; the sockets are read in any case.
struct Ready {
    commands: bool,
    links: bool,
}

impl Thread {
    pub(super) fn open(
        setup: Setup,
        lease: Box<dyn Lease>,
        events: UnboundedSender<Event>,
        counters: Arc<[Counters]>,
        (woken, commands): (PipeReader, mpsc::Receiver<Command>),
    ) -> Result<Self, StartError> {
        // Subscribed before any interface is asked for its state, so that no change falls in between.
        let links = LinkSocket::open().map_err(StartError::Thread)?;
        let Setup { routers, groups } = setup;
        let setups: Vec<_> = routers.iter().map(|(_, router)| router).collect();
        let ports = Port::open_all(&setups)?;
        let names: Vec<String> = setups.iter().map(|router| router.name.clone()).collect();
        let now = BootTime::now();
        let unit = |(number, router)| Unit::new(number, router, &ports, now);
        let units = routers.into_iter().map(unit).collect();
        let buffer = vec![0; 16 * 1024];
        let mut thread = Self {
            ports,
            units,
            links,
            groups: groups.into_iter().map(Group::new).collect(),
            woken,
            commands,
            stopping: None,
            lease,
            kept: None,
            events,
            counters,
            buffer,
            realtime: None,
            fds: Vec::new(),
        };
        thread.list_descriptors();
        for (index, router) in names.into_iter().enumerate() {
            let unit = &mut thread.units[index];
            unit.left = thread.lease.take_kept(unit.number, unit.mark, now);
            if unit.left.is_some() {
                continue;
            }
            let cleared = thread.lease.set(unit.number, BootTime(0));
            cleared.map_err(|source| StartError::Lease { router, source })?;
        }
        for port in 0..thread.ports.len() {
            thread.look_at(now, port);
        }
        Ok(thread)
    }

    /// Notes what is to be waited for.
    pub(super) fn list_descriptors(&mut self) {
        let sockets = self.ports.iter().flat_map(Port::descriptors).map(|fd| readable(&fd));
        let own = [readable(&self.woken), readable(&self.links)];
        self.fds = own.into_iter().chain(sockets).collect();
    }

    /// Whose leases it has kept, by number.
    pub(super) fn run(mut self, realtime: bool) -> Vec<bool> {
        // Signals are for the runtime's threads; here they would only cost wake-ups.
        let _ = SigSet::all().thread_block();
        let scheduling = if realtime { realtime::obtain() } else { Scheduling::default() };
        self.tell(Event::Scheduling(scheduling.clone()));
        if scheduling.realtime {
            self.realtime = Some((scheduling, Guard::new(BootTime::now())));
        }
        if let Err(error) = self.rounds() {
            let _ = self.events.send(Event::ThreadFailed { error: error.to_string() });
        }
        self.kept.clone().unwrap_or_default()
    }

    /// Goes on with a lease that was left. Not before the rounds begin: it is long, and the ones that follow are short.
    fn resume(&mut self, index: usize) {
        let unit = &mut self.units[index];
        let Some(until) = unit.left.take() else { return };
        let now = BootTime::now();
        if unit.core.state() == State::Backup && now < until {
            unit.core.resume(now, until);
        } else {
            let _ = self.lease.set(unit.number, BootTime(0));
        }
    }

    fn rounds(&mut self) -> io::Result<()> {
        for index in 0..self.units.len() {
            self.resume(index);
            self.flush(index);
        }
        loop {
            let ready = self.wait()?;
            let now = BootTime::now();
            self.find_oversleepers(now);
            self.read_notes(now);
            self.watch_itself(now);
            if ready.commands {
                self.obey(now);
            }
            if self.has_left(now) {
                return Ok(());
            }
            self.each(|core| {
                if core.state() == State::Master {
                    core.handle_timeout(now);
                }
            });
            if ready.links {
                self.read_links(now);
            }
            for port in 0..self.ports.len() {
                self.read_adverts(now, port);
                self.read_peers(now, port);
                self.read_neighbours(now, port);
            }
            let now = BootTime::now();
            self.each(|core| core.handle_timeout(now));
            for port in 0..self.ports.len() {
                self.announce_due(now, port);
            }
            self.keep_groups_together(now);
            self.let_go(now);
        }
    }

    /// What the packet programs have noted comes before everything that is believed on account of a lease.
    fn read_notes(&mut self, now: BootTime) {
        for index in 0..self.units.len() {
            if self.units[index].core.state() == State::Master {
                let noted = self.lease.noted(self.units[index].number);
                self.units[index].core.handle_noted(now, noted);
                self.flush(index);
            }
        }
    }

    fn obey(&mut self, now: BootTime) {
        // A wake-up says that there are commands, not how many.
        let driver_is_gone = matches!(self.woken.read(&mut [0; 64]), Ok(0) | Err(_));
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Tracked(router, tracked) => {
                    self.happen(now, router, LocalEvent::Tracked(tracked));
                }
                Command::CatchingUp(router, catching_up) => {
                    self.happen(now, router, LocalEvent::CatchingUp(catching_up));
                }
                Command::TakenIn(router) => self.happen(now, router, LocalEvent::TakenIn),
                Command::Change(router, setup) => {
                    if let Some(index) = self.index_of(router) {
                        self.change(now, index, *setup);
                    }
                }
                Command::Add(routers, ports, spent) => self.add(now, routers, ports, &spent),
                Command::Remove(routers, spent) => self.dismiss(now, &routers, &spent),
                Command::Tidy(spent) => self.tidy(&spent),
                Command::Groups(groups) => self.regroup(now, groups),
                Command::Keep(until) => self.keep(now, until),
                Command::Stop => self.leave(now),
            }
        }
        if driver_is_gone {
            self.leave(now);
        }
    }

    /// Where the router with this number is among the units.
    pub(super) fn index_of(&self, number: usize) -> Option<usize> {
        self.units.iter().position(|unit| unit.number == number)
    }

    fn happen(&mut self, now: BootTime, router: usize, event: LocalEvent) {
        if let Some(index) = self.index_of(router) {
            self.units[index].core.handle_local(now, event);
            self.flush(index);
        }
    }

    /// Leases that nobody waits for are kept, all or none: members of a group belong together.
    fn keep(&mut self, now: BootTime, until: BootTime) {
        let is_master = |unit: &Unit| unit.core.state() == State::Master;
        if self.units.iter().any(|unit| is_master(unit) && !unit.core.is_alone()) {
            return self.leave(now);
        }
        let mut kept = vec![false; self.counters.len()];
        for index in 0..self.units.len() {
            let unit = &self.units[index];
            let keeps = is_master(unit) && self.lease.keep(unit.number, until, unit.mark).is_ok();
            kept[unit.number] = keeps;
            if !keeps {
                self.units[index].core.handle_local(now, LocalEvent::Stop);
                self.flush(index);
            }
        }
        self.kept = Some(kept);
    }

    fn leave(&mut self, now: BootTime) {
        if self.stopping.is_none() {
            self.stopping = Some(now);
            self.each(|core| core.handle_local(now, LocalEvent::Stop));
        }
    }

    /// Told to stop, and nobody looks for a successor any more.
    fn has_left(&self, now: BootTime) -> bool {
        if self.kept.is_some() {
            return true;
        }
        let leaving = |unit: &Unit| unit.core.is_leaving(now);
        self.stopping.is_some_and(|since| now >= since + LEAVE_LIMIT || !self.units.iter().any(leaving))
    }

    /// Sleeps until a descriptor is readable or the next deadline.
    fn wait(&mut self) -> io::Result<Ready> {
        let now = BootTime::now();
        let mut deadline = self.ports.iter().filter_map(|port| port.turns.deadline()).min();
        for unit in &self.units {
            let counters = &self.counters[unit.number];
            let own = unit.core.poll_deadline();
            counters.note_timers(own, unit.core.master_int());
            let peer = unit.core.watched().map(|(_, state, contact)| (state, contact));
            counters.note_probes(peer, unit.core.is_watched(now));
            deadline = deadline.into_iter().chain(own).min();
        }
        let mut wait = deadline.map(|deadline| deadline.since(now));
        if self.stopping.is_some() || !self.groups.is_empty() || self.units.iter().any(Unit::leaves) {
            // The end of a grant and a rival's silence are nobody's deadlines.
            wait = Some(wait.map_or(TICK, |wait| wait.min(TICK)));
        }
        socket::wait(&mut self.fds, wait)?;
        Ok(Ready { commands: self.fds[0].revents != 0, links: self.fds[1].revents != 0 })
    }

    /// The priority is for waking in time, not for keeping a processor.
    fn watch_itself(&mut self, now: BootTime) {
        let Some((scheduling, guard)) = &mut self.realtime else { return };
        if let Some(changed) = guard.watch(now, scheduling) {
            scheduling.clone_from(&changed);
            self.tell(Event::Scheduling(changed));
        }
    }

    fn find_oversleepers(&mut self, now: BootTime) {
        for index in 0..self.units.len() {
            let unit = &mut self.units[index];
            let counters = &self.counters[unit.number];
            if let Some(deadline) = unit.core.poll_deadline() {
                counters.note_lateness(now.since(deadline), unit.core.lease(now));
            }
            unit.deaf = unit.core.overslept(now);
            if unit.deaf {
                counters.count_late_wake();
                unit.core.handle_local(now, LocalEvent::LateWake);
                self.flush(index);
            }
        }
    }

    fn each(&mut self, mut act: impl FnMut(&mut Router)) {
        for index in 0..self.units.len() {
            act(&mut self.units[index].core);
            self.flush(index);
        }
    }

    fn read_links(&mut self, now: BootTime) {
        let ports = &mut self.ports;
        self.links.drain(&mut self.buffer, |news| ports.iter_mut().for_each(|port| port.note(news)));
        for port in 0..self.ports.len() {
            if self.ports[port].take_news() {
                self.look_at(now, port);
            }
        }
    }

    /// Tells the routers on an interface whether they can take part.
    pub(super) fn look_at(&mut self, now: BootTime, port: usize) {
        for index in 0..self.units.len() {
            if self.units[index].port != port {
                continue;
            }
            let change = self.units[index].look(&self.ports[port]);
            if change.waits {
                self.tell(Event::NoSource { router: self.units[index].number });
            }
            if let Some(event) = change.link {
                self.units[index].core.handle_local(now, event);
                self.flush(index);
            }
        }
    }

    /// Does what the router wants done.
    pub(super) fn flush(&mut self, index: usize) {
        let router = self.units[index].number;
        while let Some(action) = self.units[index].core.poll_action() {
            match action {
                Action::Send { priority } => self.send(index, priority),
                Action::TakeLease { until } => self.lease_written(index, |lease| lease.take(router, until)),
                Action::RenewLease { until } => self.lease_written(index, |lease| lease.set(router, until)),
                Action::DropLease => {
                    self.fall_silent(index);
                    self.lease_written(index, |lease| lease.set(router, BootTime(0)));
                }
                Action::TakeIn => self.tell(Event::TakeIn { router }),
                Action::Announce { repeat } => self.announce(BootTime::now(), index, repeat),
                Action::Probe { to, nonce } => self.say(index, Kind::Probe, nonce, to),
                Action::Offer { nonce } => self.say_to_all(index, Kind::Offer, nonce),
                Action::Request { to, nonce } => self.say(index, Kind::Request, nonce, to),
                Action::Grant { to, nonce } => self.say(index, Kind::Grant, nonce, to),
                Action::Relay { to, until } => {
                    self.lease.relay(router, to, until);
                    if until > BootTime::now() {
                        self.tell(Event::HandsOver { router });
                    }
                }
                Action::Delegate { from, until } => self.lease.delegate(router, from, until),
                Action::Rival { from, priority } => self.rival(index, from, priority),
                Action::Entered { state, reason } => {
                    if state == State::Master {
                        self.probe(index);
                    }
                    self.tell(Event::Entered { router, state, reason, at: BootTime::now() });
                }
            }
        }
    }

    fn send(&mut self, index: usize, priority: u8) {
        let unit = &mut self.units[index];
        let counters = &self.counters[unit.number];
        if unit.send(priority, &self.ports[unit.port]) {
            counters.count_sent();
        } else {
            counters.count_send_error();
            unit.core.handle_local(BootTime::now(), LocalEvent::SendFailed);
        }
    }

    fn lease_written(&mut self, index: usize, write: impl FnOnce(&mut dyn Lease) -> io::Result<()>) {
        let Err(error) = write(&mut *self.lease) else { return };
        self.tell(Event::LeaseFailed { router: self.units[index].number, error: error.to_string() });
        self.units[index].core.handle_local(BootTime::now(), LocalEvent::LeaseFailed);
    }

    /// Asks for foreign owners; their answers come to `read_neighbours`.
    pub(super) fn probe(&mut self, index: usize) {
        let unit = &self.units[index];
        for frame in &unit.probes {
            let _ = self.ports[unit.port].frames.send(frame);
        }
    }

    fn rival(&mut self, index: usize, from: IpAddr, priority: u8) {
        let (now, unit) = (BootTime::now(), &mut self.units[index]);
        if now >= unit.next_rival_alarm {
            unit.next_rival_alarm = now + ALARM_GAP;
            let router = unit.number;
            self.tell(Event::TwoOwners { router, from, priority });
        }
    }

    /// Whoever no longer listens does not stop the election.
    pub(super) fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }
}

impl Drop for Thread {
    /// However the thread ends, a panic included.
    fn drop(&mut self) {
        for Unit { number, .. } in &self.units {
            if !self.kept.as_ref().is_some_and(|kept| kept[*number]) {
                let _ = self.lease.set(*number, BootTime(0));
            }
        }
    }
}
