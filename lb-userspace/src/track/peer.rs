//! Whether another viplb node's packet programs answer, as BFD would ask a router's forwarding plane.
//!
//! The probe is about no virtual address, so that the peer's lease does not take it for a watching backup. It is answered
//! in the peer's kernel, its daemon frozen or not. An answer counts with the nonce of the last probe.

use std::{
    hash::{BuildHasher, RandomState},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context, Result};
use lb_common::probe::{self, Kind, Message};
use socket2::{Domain, Protocol, Socket as Raw, Type};
use tokio::{
    net::UdpSocket,
    time::{MissedTickBehavior, interval},
};

use super::{Voice, state::Streak};
use crate::config::model::Peer;

/// A socket to one peer. It is not connected: that would need a route, which may come later.
pub(super) struct Socket {
    socket: UdpSocket,
    peer: SocketAddr,
}

impl Socket {
    pub(super) fn open(peer: &Peer) -> Result<Self> {
        Self::to(SocketAddr::new(peer.addr, probe::PORT))
            .with_context(|| format!("cannot open a socket for probes to {}", peer.addr))
    }

    fn to(peer: SocketAddr) -> io::Result<Self> {
        let raw = Raw::new(Domain::for_address(peer), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        // Probes with less have crossed a router and are not answered.
        let any: IpAddr = match peer {
            SocketAddr::V4(_) => {
                raw.set_ttl_v4(u32::from(probe::TTL))?;
                Ipv4Addr::UNSPECIFIED.into()
            }
            SocketAddr::V6(_) => {
                raw.set_unicast_hops_v6(u32::from(probe::TTL))?;
                Ipv6Addr::UNSPECIFIED.into()
            }
        };
        raw.bind(&SocketAddr::new(any, 0).into())?;
        Ok(Self { socket: UdpSocket::from_std(raw.into())?, peer })
    }

    /// A probe that cannot be sent is one without an answer.
    async fn ask(&self, nonce: u64) {
        let message = Message::new(Kind::Probe, 0, 0, nonce, lb_common::addr::Addr::default());
        let _ = self.socket.send_to(&message.bytes(), self.peer).await;
    }

    /// Whether an answer to the probe of this nonce has come; answers to earlier ones are too late.
    fn is_answered(&self, nonce: u64) -> bool {
        let mut buffer = [0; probe::LEN + 1];
        let mut answered = false;
        // What a socket's buffer holds at most; more can only be a flood.
        for _ in 0..BATCH {
            let Ok((length, from)) = self.socket.try_recv_from(&mut buffer) else { break };
            let ours = |m: Message| m.kind() == Some(Kind::Answer) && m.nonce == nonce.to_be_bytes();
            answered |= from == self.peer && Message::parse(&buffer[..length]).is_some_and(ours);
        }
        answered
    }
}

/// Datagrams read for one judgement.
const BATCH: usize = 256;

pub(super) async fn watch(socket: Socket, peer: Peer, mut voice: Voice) {
    let mut streak = Streak::settled(peer.multiplier, peer.multiplier, true);
    let nonces = RandomState::new();
    let mut due = interval(peer.interval);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asked: Option<u64> = None;
    for count in 0_u64.. {
        due.tick().await;
        if let Some(nonce) = asked {
            // Before the next probe is judged by its time: an answer that waited for this task is one.
            let good = streak.take(socket.is_answered(nonce));
            voice.say(good, if good { "" } else { "its packet programs do not answer" });
        }
        let nonce = nonces.hash_one(count);
        socket.ask(nonce).await;
        asked = Some(nonce);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{net::UdpSocket, sync::mpsc, time::timeout};

    use super::*;
    use crate::track::{Event, Reading};

    async fn next(events: &mut mpsc::UnboundedReceiver<Event>) -> Reading {
        let event = timeout(Duration::from_secs(30), events.recv()).await;
        event.expect("an event").expect("the task runs").reading
    }

    #[tokio::test]
    async fn a_peer_that_goes_silent_is_bad_and_one_that_answers_again_good() {
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = peer.local_addr().unwrap();
        let (sender, mut events) = mpsc::unbounded_channel();
        let setup = Peer { addr: address.ip(), interval: Duration::from_millis(100), multiplier: 3 };
        let voice = Voice { track: 0, events: sender, said: None };
        let task = tokio::spawn(watch(Socket::to(address).unwrap(), setup, voice));
        let answer = async |how: fn(Message) -> Message| {
            let mut buffer = [0; 128];
            let (length, from) = peer.recv_from(&mut buffer).await.unwrap();
            let probe = Message::parse(&buffer[..length]).expect("a probe");
            assert_eq!(probe.kind(), Some(Kind::Probe));
            assert_eq!(probe.address, [0; 16], "it is about no virtual address");
            peer.send_to(&how(probe).bytes(), from).await.unwrap();
        };
        let good = |m: Message| Message { kind: Kind::Answer as u8, ..m };
        let forged = |m: Message| Message { kind: Kind::Answer as u8, nonce: [0; 8], ..m };
        answer(good).await;
        assert_eq!(next(&mut events).await, Reading::Good);
        for wrong in [forged as fn(Message) -> Message, |m| m] {
            let silent = async {
                loop {
                    answer(wrong).await;
                }
            };
            tokio::select! {
                reading = next(&mut events) => assert_eq!(reading, Reading::Bad),
                () = silent => {}
            }
            let back = async {
                loop {
                    answer(good).await;
                }
            };
            tokio::select! {
                reading = next(&mut events) => assert_eq!(reading, Reading::Good),
                () = back => {}
            }
        }
        task.abort();
    }
}
