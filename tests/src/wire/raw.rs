//! Frames as they are, sent and received on a host's interface beside its stack: for traffic that no socket makes, and to see
//! what really came.

use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use lb_common::addr::Mac;

use super::Wire;
use crate::vip;

const ETH_P_ALL: u16 = 3;
const GROUP: u8 = 1;

/// A packet socket on a host's interface.
#[derive(Debug)]
pub struct Raw {
    socket: OwnedFd,
    mac: Mac,
}

impl Wire {
    /// Opens one on a host, whose own stack sees no TCP, UDP and ICMP from now on and answers none.
    ///
    /// # Panics
    ///
    /// If nftables or the kernel refuses.
    pub fn raw(&self, host: char) -> Raw {
        let rules = "table inet quiet {\n chain in {\n  type filter hook prerouting priority raw\n\
                     meta l4proto { tcp, udp, icmp } drop\n }\n}\n";
        let mut nft = std::process::Command::new("nft");
        nft.args(["-f", "-"]);
        self.host(host).place(&mut nft).expect("the namespace");
        crate::proc::finish_with(&mut nft, rules).expect("rules");
        let socket = self.host(host).run(|| vip::open("eth0", ETH_P_ALL)).unwrap().expect("a packet socket");
        Raw { socket, mac: self.mac(host) }
    }
}

impl Raw {
    /// Sends a frame from this host.
    ///
    /// # Panics
    ///
    /// If the kernel refuses it.
    pub fn send(&self, frame: &[u8]) {
        let mut frame = frame.to_vec();
        frame[6..12].copy_from_slice(&self.mac.0);
        vip::send(&self.socket, &frame).expect("a frame is sent");
    }

    /// The next frame to this host that `wanted` makes something of; none within `limit`.
    ///
    /// # Panics
    ///
    /// If the kernel refuses to show frames.
    pub fn receive<T>(&self, limit: Duration, wanted: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        let until = Instant::now() + limit;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            let frame = vip::receive(&self.socket, left).expect("frames");
            // The socket shows what this host sends as well, and what all hosts get.
            let Some(frame) = frame.filter(|f| f[..6] == self.mac.0 && f[0] & GROUP == 0) else { continue };
            if let Some(found) = wanted(&frame) {
                return Some(found);
            }
        }
        None
    }
}
