//! Routers that come and go while the others run.
//!
//! Sockets are opened before the thread hears of a newcomer, and closed after it has let one go, by whoever may wait: the kernel
//! takes milliseconds for either, which no advert of the others may be late by.

use std::sync::mpsc;

use super::{
    Event, RouterSetup,
    port::{self, Port},
    thread::{LEAVE_LIMIT, Thread},
    unit::Unit,
};
use crate::vrrp::{
    packet::Family,
    router::LocalEvent,
    socket::{Interface, StartError},
    time::BootTime,
};

/// Sockets for routers that are to be added.
pub struct Opened(pub(super) Vec<Port>);

/// Sockets that the thread is done with, as it is done with them.
#[must_use = "they are closed by whoever has them"]
pub struct Spent(pub(super) mpsc::Receiver<Port>);

impl Spent {
    /// Closes them. Blocks until the thread has done what it was told.
    pub fn close(self) {
        self.0.into_iter().for_each(drop);
    }
}

/// Opens the sockets of all interfaces that have some of the `new` routers; `all` are those that shall run in the end, `before` those
/// that run now. Nothing that runs is touched; on an error nothing stays open.
pub(super) fn open(
    before: &[&RouterSetup],
    all: &[&RouterSetup],
    new: &[&RouterSetup],
) -> Result<Opened, StartError> {
    if new.is_empty() {
        return Ok(Opened(Vec::new()));
    }
    port::check(all)?;
    let foreign: Vec<_> = all.iter().flat_map(|router| router.addresses()).collect();
    let mut ports: Vec<Port> = Vec::new();
    for router in new {
        if ports.iter().any(|port| port.interface.name == router.interface) {
            continue;
        }
        let here: Vec<_> = all.iter().copied().filter(|r| r.interface == router.interface).collect();
        let there = || before.iter().filter(|r| r.interface == router.interface);
        // Datagrams come to one of two sockets of one port number, and to the thread only once it has the new one.
        let has = |family: Family| there().any(|r| r.probe.is_some() && r.identity.family() == family);
        ports.push(Port::open(Interface::find(&router.interface, &foreign)?, &here, has)?);
    }
    Ok(Opened(ports))
}

impl Thread {
    /// Takes routers in, each as at a start: Backup, without a lease.
    pub(super) fn add(
        &mut self,
        now: BootTime,
        routers: Vec<(usize, RouterSetup)>,
        ports: Vec<Port>,
        spent: &mpsc::Sender<Port>,
    ) {
        for port in ports {
            match self.ports.iter().position(|p| p.interface.name == port.interface.name) {
                Some(index) => {
                    // What the old sockets have got so far is theirs alone.
                    self.read_adverts(now, index);
                    self.read_neighbours(now, index);
                    let _ = spent.send(self.ports[index].renew(port));
                    self.ports[index].discard_adverts(&mut self.buffer);
                }
                None => self.ports.push(port.begin()),
            }
        }
        for (number, setup) in routers {
            self.counters[number].clear();
            let unit = Unit::new(number, setup, &self.ports, now);
            // Whoever had this number left nothing for this one.
            let _ = self.lease.take_kept(number, unit.mark, now);
            if let Err(error) = self.lease.set(number, BootTime(0)) {
                self.tell(Event::LeaseFailed { router: number, error: error.to_string() });
            }
            self.units.push(unit);
        }
        self.follow_addresses();
        self.list_descriptors();
        for port in 0..self.ports.len() {
            self.look_at(now, port);
        }
        for index in 0..self.units.len() {
            self.flush(index);
        }
    }

    /// Has routers leave their elections, as at a stop; [`let_go`](Self::let_go) takes them out once they have. Their sockets stay: others
    /// may come in their place.
    pub(super) fn dismiss(&mut self, now: BootTime, routers: &[usize], spent: &mpsc::Sender<Port>) {
        for number in routers {
            let Some(index) = self.index_of(*number) else { continue };
            self.units[index].dismissed = Some((now, spent.clone()));
            self.units[index].core.handle_local(now, LocalEvent::Stop);
            self.flush(index);
        }
    }

    /// Takes out those that have left.
    pub(super) fn let_go(&mut self, now: BootTime) {
        let mut gone = false;
        for index in (0..self.units.len()).rev() {
            let unit = &self.units[index];
            let stays = |since: BootTime| now < since + LEAVE_LIMIT && unit.core.is_leaving(now);
            if unit.dismissed.as_ref().is_none_or(|(since, _)| stays(*since)) {
                continue;
            }
            self.fall_silent(index);
            let unit = self.units.remove(index);
            // Whose hand-over took too long has one yet.
            let _ = self.lease.set(unit.number, BootTime(0));
            gone = true;
        }
        if gone {
            self.follow_addresses();
        }
    }

    /// An interface without routers is none of ours.
    pub(super) fn tidy(&mut self, spent: &mpsc::Sender<Port>) {
        for index in (0..self.ports.len()).rev() {
            if self.units.iter().any(|unit| unit.port == index) {
                continue;
            }
            let _ = spent.send(self.ports.remove(index));
            self.units.iter_mut().filter(|unit| unit.port > index).for_each(|unit| unit.port -= 1);
        }
        self.list_descriptors();
    }

    /// Any interface may carry any virtual address, and none is its own.
    fn follow_addresses(&mut self) {
        let all: Vec<_> = self.units.iter().flat_map(|unit| unit.addresses().to_vec()).collect();
        self.ports.iter_mut().for_each(|port| port.interface.set_foreign(all.clone()));
    }
}
