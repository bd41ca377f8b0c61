//! What viplb nodes say to each other besides adverts: probes and their answers, and the hand-over of a lease.
//!
//! The half of the driver's thread that speaks `lb_common::probe`. Who may say what is checked here, what it means in
//! `router`. A message that cannot be sent is one that was lost.

use std::net::IpAddr;

use lb_common::{
    addr::{Addr, Mac},
    lease::Standing,
    probe::{self, Kind},
};

use super::{Event, thread::Thread, unit::Unit};
use crate::{
    config::model::Transport,
    vrrp::{
        packet::{Auth, Refusal, peer},
        router::Message,
        socket::Told,
        time::BootTime,
    },
};

/// Messages read from one socket in a round.
const BATCH: usize = 64;

impl Thread {
    pub(super) fn read_peers(&mut self, now: BootTime, port: usize) {
        for socket in 0..self.ports[port].peers.len() {
            for _ in 0..BATCH {
                match self.ports[port].peers[socket].receive() {
                    Told::Message(from, message) => self.hear_peer(now, port, from, &message),
                    Told::Malformed => {}
                    Told::Nothing => break,
                }
            }
        }
    }

    fn hear_peer(&mut self, now: BootTime, port: usize, from: IpAddr, message: &probe::Message) {
        let address = IpAddr::from(Addr::new(message.address));
        let ours = |unit: &Unit| unit.port == port && unit.speaks_for(message.vrid, address);
        let Some(index) = self.units.iter().position(ours) else { return };
        let unit = &mut self.units[index];
        if unit.deaf {
            return;
        }
        match unit.understand(from, message) {
            Ok(Some(said)) => {
                unit.core.handle_message(now, from, said);
                self.flush(index);
            }
            Ok(None) => {}
            Err(reason) => {
                let router = unit.number;
                let count = self.counters[router].count_refused(reason);
                if count.is_power_of_two() {
                    self.tell(Event::Refused { router, from, reason, count });
                }
            }
        }
    }

    pub(super) fn say(&self, index: usize, kind: Kind, nonce: u64, to: IpAddr) {
        let unit = &self.units[index];
        let port = &self.ports[unit.port];
        let message = unit.message(kind, nonce, Mac(port.interface.mac));
        let Some(socket) = port.adverts_of(unit.identity.family()) else { return };
        let _ = socket.send(peer::datagram(unit.path.local, to, &message, &mut [0; peer::ROOM]), to);
    }

    /// To the group, or to each peer of a router that has peers.
    pub(super) fn say_to_all(&self, index: usize, kind: Kind, nonce: u64) {
        for to in self.units[index].path.destinations() {
            self.say(index, kind, nonce, to);
        }
    }
}

impl Unit {
    fn speaks_for(&self, vrid: u8, address: IpAddr) -> bool {
        self.identity.vrid == vrid && self.identity.addresses.first() == Some(&address)
    }

    fn message(&self, kind: Kind, nonce: u64, mac: Mac) -> probe::Message {
        let address = self.identity.addresses.first().copied().map_or(Addr::default(), Addr::from);
        let message = probe::Message::new(kind, self.identity.vrid, self.core.priority(), nonce, address);
        // A packet program asks for no password, so it is told none.
        let auth = if kind == Kind::Probe { [0; 8] } else { self.authentication() };
        probe::Message { auth, ..message.from_mac(mac) }
    }

    fn authentication(&self) -> [u8; 8] {
        match self.identity.auth {
            Auth::Pass(password) => password.0,
            Auth::None => [0; 8],
        }
    }

    /// What a message means; `None` if it means nothing to a daemon. An answer comes from a packet program, which has no
    /// password; its nonce stands for it.
    fn understand(&self, from: IpAddr, message: &probe::Message) -> Result<Option<Message>, Refusal> {
        let kind = message.kind();
        if let Transport::Unicast(peers) = &self.path.transport
            && peers.iter().all(|peer| peer.addr != from)
        {
            return Err(Refusal::Source);
        }
        if kind != Some(Kind::Answer) && message.auth != self.authentication() {
            return Err(Refusal::Password);
        }
        let (nonce, mac) = (u64::from_be_bytes(message.nonce), message.mac);
        Ok(match kind {
            Some(Kind::Answer) => standing(message).map(|standing| Message::Answer { nonce, standing, mac }),
            Some(Kind::Offer) => Some(Message::Offer { mac }),
            Some(Kind::Request) => Some(Message::Request { nonce, priority: message.priority, mac }),
            Some(Kind::Grant) => Some(Message::Grant { nonce }),
            // Ours to answer by the packet programs, which have let it pass: they are not there.
            Some(Kind::Probe) | None => None,
        })
    }
}

fn standing(answer: &probe::Message) -> Option<Standing> {
    match answer.state {
        state if state == probe::State::Valid as u8 => Some(Standing::Valid(u64::from_be_bytes(answer.rest))),
        state if state == probe::State::Expired as u8 => Some(Standing::Expired),
        state if state == probe::State::Released as u8 => Some(Standing::Released),
        _ => None,
    }
}
