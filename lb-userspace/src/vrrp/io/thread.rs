//! The thread that drives the routers: one loop around `ppoll`.
//!
//! Each round goes in this order: have I overslept → stop asked for → masters' due adverts → link changes → adverts →
//! ARP → other deadlines. Lateness comes first, so that a thread that was frozen says nothing it believed before;
//! received adverts come before the master-down time-out, so that a slow thread does not mistake its own sleep for
//! the master's silence. No log and, in the steady state, no allocation. Every round is bounded (`BATCH`), and a
//! thread that never gets to sleep loses its real-time priority (`realtime::Guard`).

use std::{
    io::{self, PipeReader},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use nix::sys::signal::SigSet;
use tokio::sync::mpsc::UnboundedSender;

use super::{Event, Lease, RouterSetup};
use crate::vrrp::{
    announce::{self, FRAME_LEN, Mac},
    counters::Counters,
    packet::{Advert, Datagram, Identity},
    realtime::{self, Guard, Scheduling},
    router::{Action, LocalEvent, Params, Router, State},
    socket::{self, AdvertSocket, ArpSocket, Interface, LinkNews, LinkSocket, StartError, readable},
    time::BootTime,
};

/// Datagrams read from one socket in a round: only what was queued, even if more keeps coming.
const BATCH: usize = 64;
/// As much as a socket's queue can hold, for a thread that overslept and believes none of it.
const WHOLE_QUEUE: usize = 8192;
/// Alarms of one router and kind are not closer than this.
const ALARM_GAP: Duration = Duration::from_secs(10);

/// An interface with its sockets.
struct Port {
    interface: Interface,
    adverts: AdvertSocket,
    arp: ArpSocket,
}

/// A router with what it needs to act.
struct Unit {
    port: usize,
    identity: Identity,
    core: Router,
    message: Vec<u8>,
    announcements: Vec<[u8; FRAME_LEN]>,
    probes: Vec<[u8; FRAME_LEN]>,
    heard: Option<(IpAddr, u8)>,
    /// Whose other interval was told last.
    learnt: Option<(IpAddr, Duration)>,
    /// Overslept: what is queued now was sent to somebody it no longer is.
    deaf: bool,
    lease: Duration,
    next_rival_alarm: BootTime,
    next_foreign_alarm: BootTime,
    next_interval_news: BootTime,
}

pub(super) struct Thread {
    ports: Vec<Port>,
    units: Vec<Unit>,
    links: LinkSocket,
    /// Kept open; watched through `fds`.
    _stop: PipeReader,
    lease: Box<dyn Lease>,
    events: UnboundedSender<Event>,
    counters: Arc<[Counters]>,
    buffer: Vec<u8>,
    /// With real-time priority: what was obtained, and what watches over its use.
    realtime: Option<(Scheduling, Guard)>,
    /// `stop`, `links`, then the sockets of all ports.
    fds: Vec<libc::pollfd>,
}

/// Which descriptors were found ready; the sockets are read in any case.
struct Ready {
    stop: bool,
    links: bool,
}

impl Thread {
    pub(super) fn open(
        setup: Vec<RouterSetup>,
        lease: Box<dyn Lease>,
        events: UnboundedSender<Event>,
        counters: Arc<[Counters]>,
        stop: PipeReader,
    ) -> Result<Self, StartError> {
        // Subscribed before any interface is asked for its state, so that no change falls in between.
        let links = LinkSocket::open().map_err(StartError::Thread)?;
        let ports = open_ports(&setup)?;
        let names: Vec<String> = setup.iter().map(|router| router.name.clone()).collect();
        let now = BootTime::now();
        let units = setup.into_iter().map(|router| Unit::new(router, &ports, now)).collect();
        let sockets = ports.iter().flat_map(|port| [readable(&port.adverts), readable(&port.arp)]);
        let fds = [readable(&stop), readable(&links)].into_iter().chain(sockets).collect();
        let buffer = vec![0; 16 * 1024];
        let mut thread =
            Self { ports, units, links, _stop: stop, lease, events, counters, buffer, realtime: None, fds };
        for (index, router) in names.into_iter().enumerate() {
            let cleared = thread.lease.set(index, BootTime(0));
            cleared.map_err(|source| StartError::Lease { router, source })?;
        }
        for index in 0..thread.units.len() {
            let running = thread.ports[thread.units[index].port].interface.is_running();
            if !running {
                thread.units[index].core.handle_local(now, LocalEvent::LinkDown);
            }
        }
        Ok(thread)
    }

    pub(super) fn run(mut self, realtime: bool) {
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
    }

    fn rounds(&mut self) -> io::Result<()> {
        for index in 0..self.units.len() {
            self.flush(index);
        }
        loop {
            let ready = self.wait()?;
            let now = BootTime::now();
            self.find_oversleepers(now);
            self.watch_itself(now);
            if ready.stop {
                self.each(|core| core.handle_local(now, LocalEvent::Stop));
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
                self.read_arp(now, port);
            }
            let now = BootTime::now();
            self.each(|core| core.handle_timeout(now));
        }
    }

    /// Sleeps until a descriptor is readable or the next deadline.
    fn wait(&mut self) -> io::Result<Ready> {
        let mut deadline: Option<BootTime> = None;
        for (unit, counters) in self.units.iter().zip(&*self.counters) {
            let own = unit.core.poll_deadline();
            counters.note_timers(own, unit.core.master_int());
            deadline = deadline.into_iter().chain(own).min();
        }
        socket::wait(&mut self.fds, deadline.map(|deadline| deadline.since(BootTime::now())))?;
        Ok(Ready { stop: self.fds[0].revents != 0, links: self.fds[1].revents != 0 })
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
            let (unit, counters) = (&mut self.units[index], &self.counters[index]);
            if let Some(deadline) = unit.core.poll_deadline() {
                counters.note_lateness(now.since(deadline), unit.lease);
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
        let mut changes = Vec::new();
        self.links.drain(&mut self.buffer, |news| changes.push(news));
        for port in 0..self.ports.len() {
            let interface = &self.ports[port].interface;
            let last = changes.iter().rev().find_map(|news| match *news {
                LinkNews::Changed { index, running } if index == interface.index => Some(running),
                LinkNews::Changed { .. } => None,
                LinkNews::Overrun => Some(interface.is_running()),
            });
            let Some(running) = last else { continue };
            let event = if running { LocalEvent::LinkUp } else { LocalEvent::LinkDown };
            for index in 0..self.units.len() {
                if self.units[index].port == port {
                    self.units[index].core.handle_local(now, event);
                    self.flush(index);
                }
            }
        }
    }

    fn read_adverts(&mut self, now: BootTime, port: usize) {
        let deaf = self.units.iter().any(|unit| unit.port == port && unit.deaf);
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..if deaf { WHOLE_QUEUE } else { BATCH } {
            let Some(length) = self.ports[port].adverts.receive(&mut buffer) else { break };
            if let Some(datagram) = Datagram::from_ipv4(&buffer[..length]) {
                self.hear(now, port, &datagram);
            }
        }
        self.buffer = buffer;
    }

    fn hear(&mut self, now: BootTime, port: usize, datagram: &Datagram<'_>) {
        let vrid = datagram.vrid();
        let ours = |unit: &Unit| unit.port == port && Some(unit.identity.vrid) == vrid;
        let Some(index) = self.units.iter().position(ours) else { return };
        let (unit, counters, from) = (&mut self.units[index], &self.counters[index], datagram.source.into());
        if unit.deaf {
            return;
        }
        match unit.identity.parse(datagram) {
            Ok(advert) => {
                counters.count_received();
                unit.core.handle_advert(now, from, &advert);
                self.note_heard(now, index, from, advert);
                self.flush(index);
            }
            Err(reason) => {
                let count = counters.count_refused(reason);
                if count.is_power_of_two() {
                    self.tell(Event::Refused { router: index, from, reason, count });
                }
            }
        }
    }

    fn note_heard(
        &mut self,
        now: BootTime,
        router: usize,
        from: IpAddr,
        Advert { priority, interval }: Advert,
    ) {
        let unit = &mut self.units[router];
        if priority == 0 {
            return;
        }
        let new_peer = unit.heard.replace((from, priority)) != Some((from, priority));
        let other_interval = interval != unit.identity.advert_int;
        let new_interval =
            other_interval && unit.learnt != Some((from, interval)) && now >= unit.next_interval_news;
        if new_interval {
            unit.next_interval_news = now + ALARM_GAP;
        }
        if new_interval || !other_interval {
            unit.learnt = other_interval.then_some((from, interval));
        }
        if new_peer {
            self.tell(Event::Heard { router, from, priority });
        }
        if new_interval {
            self.tell(Event::IntervalLearnt { router, from, interval });
        }
    }

    fn read_arp(&mut self, now: BootTime, port: usize) {
        let mut frame = [0; FRAME_LEN];
        for _ in 0..BATCH {
            let Some(length) = self.ports[port].arp.receive(&mut frame) else { break };
            if let Some((mac, address)) = announce::claimed(&frame[..length])
                && mac != self.ports[port].interface.mac
            {
                self.suspect(now, port, mac, address.into());
            }
        }
    }

    /// Somebody else has one of our addresses. Normal for a Backup; and a node whose adverts are heard is dealt with by
    /// the election.
    fn suspect(&mut self, now: BootTime, port: usize, mac: Mac, addr: IpAddr) {
        for router in 0..self.units.len() {
            let unit = &mut self.units[router];
            let ours = unit.port == port && unit.identity.owns(addr) && unit.core.state() == State::Master;
            if ours && unit.core.living(now).is_none() && now >= unit.next_foreign_alarm {
                unit.next_foreign_alarm = now + ALARM_GAP;
                self.tell(Event::ForeignOwner { router, addr, mac });
            }
        }
    }

    /// Does what the router wants done.
    fn flush(&mut self, index: usize) {
        while let Some(action) = self.units[index].core.poll_action() {
            match action {
                Action::Send { priority } => self.send(index, priority),
                Action::TakeLease { until } => self.lease_written(index, |lease| lease.take(index, until)),
                Action::RenewLease { until } => self.lease_written(index, |lease| lease.set(index, until)),
                Action::DropLease => self.lease_written(index, |lease| lease.set(index, BootTime(0))),
                Action::Announce { repeat } => self.announce(index, repeat),
                Action::Rival { from, priority } => self.rival(index, from, priority),
                Action::Entered { state, reason } => {
                    if state == State::Master {
                        self.probe(index);
                    }
                    self.tell(Event::Entered { router: index, state, reason, at: BootTime::now() });
                }
            }
        }
    }

    fn send(&mut self, index: usize, priority: u8) {
        let (unit, counters) = (&mut self.units[index], &self.counters[index]);
        let port = &self.ports[unit.port];
        unit.identity.emit(priority, port.interface.address, &mut unit.message);
        match port.adverts.send(&unit.message) {
            Ok(()) => counters.count_sent(),
            Err(_) => {
                counters.count_send_error();
                unit.core.handle_local(BootTime::now(), LocalEvent::SendFailed);
            }
        }
    }

    fn lease_written(&mut self, index: usize, write: impl FnOnce(&mut dyn Lease) -> io::Result<()>) {
        let Err(error) = write(&mut *self.lease) else { return };
        self.tell(Event::LeaseFailed { router: index, error: error.to_string() });
        self.units[index].core.handle_local(BootTime::now(), LocalEvent::LeaseFailed);
    }

    /// Failures are not reported: the second burst follows, and without a link there is a LinkDown.
    fn announce(&mut self, index: usize, repeat: u8) {
        let unit = &self.units[index];
        for _ in 0..repeat {
            for frame in &unit.announcements {
                if self.ports[unit.port].arp.send(frame).is_ok() {
                    self.counters[index].count_announcement();
                }
            }
        }
    }

    /// Asks for foreign owners; their answers come to `read_arp`.
    fn probe(&mut self, index: usize) {
        let unit = &self.units[index];
        for frame in &unit.probes {
            let _ = self.ports[unit.port].arp.send(frame);
        }
    }

    fn rival(&mut self, router: usize, from: IpAddr, priority: u8) {
        let now = BootTime::now();
        if now >= self.units[router].next_rival_alarm {
            self.units[router].next_rival_alarm = now + ALARM_GAP;
            self.tell(Event::TwoOwners { router, from, priority });
        }
    }

    /// Whoever no longer listens does not stop the election.
    fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }
}

impl Drop for Thread {
    /// However the thread ends, a panic included.
    fn drop(&mut self) {
        for index in 0..self.units.len() {
            let _ = self.lease.set(index, BootTime(0));
        }
    }
}

impl Unit {
    fn new(setup: RouterSetup, ports: &[Port], now: BootTime) -> Self {
        let port = ports.iter().position(|port| port.interface.name == setup.interface).unwrap_or_default();
        let Interface { mac, address, .. } = ports[port].interface;
        let params = Params {
            version: setup.identity.version,
            local: address.into(),
            priority: setup.priority,
            advert_int: setup.identity.advert_int,
            preempt: setup.preempt,
            lease: setup.lease,
            garp: setup.garp,
        };
        let addresses = &setup.identity.addresses;
        Self {
            port,
            core: Router::new(params, now),
            message: vec![0; setup.identity.buffer_len()],
            announcements: addresses.iter().map(|vip| announce::gratuitous(mac, *vip)).collect(),
            probes: addresses.iter().map(|vip| announce::probe(mac, *vip)).collect(),
            identity: setup.identity,
            heard: None,
            learnt: None,
            deaf: false,
            lease: params.lease,
            next_rival_alarm: now,
            next_foreign_alarm: now,
            next_interval_news: now,
        }
    }
}

fn open_ports(setup: &[RouterSetup]) -> Result<Vec<Port>, StartError> {
    let mut ports: Vec<Port> = Vec::new();
    for router in setup {
        if !(1..=255).contains(&router.identity.addresses.len()) {
            return Err(StartError::Addresses { router: router.name.clone() });
        }
        if ports.iter().any(|port| port.interface.name == router.interface) {
            continue;
        }
        let same_port = setup.iter().filter(|other| other.interface == router.interface);
        let vips: Vec<Ipv4Addr> = same_port.flat_map(|other| other.identity.addresses.clone()).collect();
        let interface = Interface::find(&router.interface, &vips)?;
        let adverts = AdvertSocket::open(&interface)?;
        let arp = ArpSocket::open(&interface, &vips)?;
        ports.push(Port { interface, adverts, arp });
    }
    Ok(ports)
}
