//! What is heard: adverts of other routers, and hosts that claim a virtual address.
//!
//! The receiving half of the driver's thread. Every read is bounded, whatever comes.

use std::net::IpAddr;

use super::{
    Event,
    thread::{ALARM_GAP, Thread},
    unit::Unit,
};
use crate::vrrp::{
    announce::{self, CLAIM_LEN, Mac},
    packet::{Advert, Datagram},
    router::State,
    socket::Received,
    time::BootTime,
};

/// Datagrams read from one socket in a round: only what was queued, even if more keeps coming.
const BATCH: usize = 64;
/// As much as a socket's queue can hold, for a thread that overslept and believes none of it.
pub(super) const WHOLE_QUEUE: usize = 8192;

impl Thread {
    pub(super) fn read_adverts(&mut self, now: BootTime, port: usize) {
        let deaf = self.units.iter().any(|unit| unit.port == port && unit.deaf);
        let mut buffer = std::mem::take(&mut self.buffer);
        for socket in 0..self.ports[port].adverts.len() {
            for _ in 0..if deaf { WHOLE_QUEUE } else { BATCH } {
                match self.ports[port].adverts[socket].1.receive(&mut buffer) {
                    Received::Datagram(datagram) => self.hear(now, port, &datagram),
                    Received::Malformed => {}
                    Received::Nothing => break,
                }
            }
        }
        self.buffer = buffer;
    }

    fn hear(&mut self, now: BootTime, port: usize, datagram: &Datagram<'_>) {
        let (family, vrid) = (datagram.family(), datagram.vrid());
        let ours = |unit: &Unit| {
            unit.port == port && Some(unit.identity.vrid) == vrid && unit.identity.family() == family
        };
        let Some(index) = self.units.iter().position(ours) else { return };
        let (unit, from) = (&mut self.units[index], datagram.source);
        let (router, counters) = (unit.number, &self.counters[unit.number]);
        if unit.deaf || !unit.takes_part() {
            return;
        }
        match unit.identity.parse(&unit.path, datagram) {
            Ok(advert) => {
                counters.count_received();
                unit.core.handle_advert(now, from, &advert);
                self.note_heard(now, index, from, advert);
                self.flush(index);
            }
            Err(reason) => {
                let count = counters.count_refused(reason);
                if count.is_power_of_two() {
                    self.tell(Event::Refused { router, from, reason, count });
                }
            }
        }
    }

    fn note_heard(
        &mut self,
        now: BootTime,
        index: usize,
        from: IpAddr,
        Advert { priority, interval }: Advert,
    ) {
        let unit = &mut self.units[index];
        let router = unit.number;
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

    pub(super) fn read_neighbours(&mut self, now: BootTime, port: usize) {
        let mut frame = [0; CLAIM_LEN];
        for socket in 0..self.ports[port].neighbours.len() {
            for _ in 0..BATCH {
                let Some(length) = self.ports[port].neighbours[socket].receive(&mut frame) else { break };
                if let Some((mac, address)) = announce::claimed(&frame[..length])
                    && mac != self.ports[port].interface.mac
                {
                    self.suspect(now, port, mac, address);
                }
            }
        }
    }

    /// Somebody else has one of our addresses. Normal for a Backup; and a node whose adverts are heard is dealt with by
    /// the election.
    fn suspect(&mut self, now: BootTime, port: usize, mac: Mac, addr: IpAddr) {
        for index in 0..self.units.len() {
            let unit = &mut self.units[index];
            let router = unit.number;
            let ours = unit.port == port && unit.owns(addr) && unit.core.state() == State::Master;
            if ours && unit.core.living(now).is_none() && now >= unit.next_foreign_alarm {
                unit.next_foreign_alarm = now + ALARM_GAP;
                self.tell(Event::ForeignOwner { router, addr, mac });
            }
        }
    }
}
