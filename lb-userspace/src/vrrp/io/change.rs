//! A router that is set to do something else while it runs: it keeps its state, what it has heard, and its sockets.

use std::net::IpAddr;

use super::{Event, RouterSetup, thread::Thread, unit::Unit};
use crate::vrrp::{router::State, time::BootTime};

impl Thread {
    pub(super) fn change(&mut self, now: BootTime, index: usize, setup: RouterSetup) {
        // What waits to be announced is laid out anew.
        self.fall_silent(index);
        let before = self.units[index].addresses().to_vec();
        let mut unit = Unit::new(self.units[index].number, setup, &self.ports, now);
        std::mem::swap(&mut unit, &mut self.units[index]);
        let (port, addresses) = (unit.port, self.units[index].addresses().to_vec());
        let others = before != addresses;
        self.units[index].go_on_from(unit, now, others);
        if others {
            self.watch(index, port, addresses.into_iter().filter(|a| !before.contains(a)).collect());
        }
        self.flush(index);
        if others && self.units[index].core.state() == State::Master {
            self.probe(index);
        }
    }

    fn watch(&mut self, index: usize, port: usize, new: Vec<IpAddr>) {
        let addresses = |units: &[Unit]| units.iter().flat_map(|unit| unit.addresses().to_vec()).collect();
        let foreign: Vec<IpAddr> = addresses(&self.units);
        let here = self.units.iter().filter(|unit| unit.port == port);
        let watched: Vec<_> = here.flat_map(|unit| unit.addresses().to_vec()).collect();
        if let Err(error) = self.ports[port].watch(&watched, &new, foreign) {
            let router = self.units[index].number;
            self.tell(Event::NotWatched { router, error: error.to_string() });
        }
        self.list_descriptors();
    }
}
