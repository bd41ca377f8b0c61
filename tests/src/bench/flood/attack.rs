//! The flood of `bench flood`, and the clients who come meanwhile.
//!
//! The flood has a processor to itself, with all that comes of it: the queues between namespaces (`net.core.netdev_max_backlog`) are the
//! sending processor's. On a processor that is behind, the kernel looks after timers before it looks after its queue, which is full
//! then: what a client there sends again by its timer is refused by its own queue, ten times in 5 s, and its connection fails (ETIMEDOUT).
//! A real client's machine is not the flooded one.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use etherparse::PacketBuilder;
use lb_common::addr::Mac;
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use super::sockets;
use crate::{netns::Netns, packets::PORT, vip};

/// Requests between two looks at the clock.
const BURST: u64 = 256;
/// Made-up addresses are these and as many above as there are requests: nobody has them.
const FIRST: u32 = 0x5000_0000;
const ETH_P_IP: u16 = 0x0800;

/// What clients met.
#[derive(Debug, Default)]
pub struct Clients {
    /// How long it took to open a connection and to get an answer, in ms.
    pub times: Vec<f64>,
    /// Connections that did not open, or gave no answer.
    pub failed: u64,
    /// Why, each reason with its number.
    pub reasons: BTreeMap<String, u64>,
}

/// What is flooded.
#[derive(Debug)]
pub struct Target {
    /// Whose the addresses are.
    pub mac: Mac,
    /// In turn.
    pub addresses: Vec<Ipv4Addr>,
}

/// The processors of this machine as the bench uses them.
#[derive(Debug)]
pub struct Processors {
    flood: Option<CpuSet>,
}

impl Processors {
    /// Keeps one for the flood: this thread and what it starts from now on run on the others, if there are any.
    pub fn part() -> Result<Self> {
        let all = sched_getaffinity(Pid::from_raw(0))?;
        let mut usable = (0..CpuSet::count()).filter(|cpu| all.is_set(*cpu).unwrap_or(false));
        let (Some(first), Some(_)) = (usable.next(), usable.next()) else { return Ok(Self { flood: None }) };
        let (mut flood, mut others) = (CpuSet::new(), all);
        flood.set(first)?;
        others.unset(first)?;
        sched_setaffinity(Pid::from_raw(0), &others)?;
        Ok(Self { flood: Some(flood) })
    }

    fn be_flood(&self) -> Result<()> {
        self.flood.map_or(Ok(()), |flood| Ok(sched_setaffinity(Pid::from_raw(0), &flood)?))
    }
}

/// Sends `requests` connection requests to the target, evenly over `hold`, while a client opens one connection after the
/// other; gives how many were sent.
pub fn run(
    (attacker, client): (&Netns, &Netns),
    target: &Target,
    requests: u64,
    hold: Duration,
    processors: &Processors,
) -> Result<(u64, Clients)> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients = scope.spawn(|| client.run(|| come(target, &over))?);
        let sent = attacker.run(|| processors.be_flood().and_then(|()| flood(target, requests, hold)))?;
        over.store(true, Ordering::Relaxed);
        let clients = clients.join().map_err(|_| anyhow!("the client panicked"))??;
        Ok((sent?, clients))
    })
}

fn come(target: &Target, over: &AtomicBool) -> Result<Clients> {
    let runtime = sockets::runtime()?;
    let mut clients = Clients::default();
    for to in target.addresses.iter().cycle() {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let started = Instant::now();
        match runtime.block_on(sockets::open(super::client_address(0), (*to).into())) {
            Ok(_) => clients.times.push(started.elapsed().as_secs_f64() * 1e3),
            Err(e) => {
                clients.failed += 1;
                *clients
                    .reasons
                    .entry(format!("{} after {:.1} s", e.kind(), started.elapsed().as_secs_f64()))
                    .or_default() += 1;
            }
        }
    }
    Ok(clients)
}

fn flood(target: &Target, requests: u64, hold: Duration) -> Result<u64> {
    let socket = vip::open("eth0", ETH_P_IP).context("the flood's socket")?;
    let frames = target.addresses.iter().map(|to| request(target.mac, *to));
    let mut frames = frames.collect::<Result<Vec<_>>>()?;
    let started = Instant::now();
    let (mut sent, turns) = (0, frames.len() as u64);
    while sent < requests {
        for _ in 0..BURST.min(requests - sent) {
            let frame = &mut frames[(sent % turns) as usize];
            made_up(frame, sent as u32);
            // Full queues lose frames: those that are sent count.
            sent += u64::from(vip::send(&socket, frame).is_ok());
        }
        let due = hold.mul_f64(sent as f64 / requests as f64);
        thread::sleep(due.saturating_sub(started.elapsed()));
    }
    thread::sleep(hold.saturating_sub(started.elapsed()));
    Ok(sent)
}

fn request(mac: Mac, to: Ipv4Addr) -> Result<Vec<u8>> {
    let packet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 8], mac.0)
        .ipv4(Ipv4Addr::from(FIRST).octets(), to.octets(), 64)
        .tcp(40_000, PORT, 1, 64_000)
        .syn();
    let mut frame = Vec::with_capacity(packet.size(0));
    packet.write(&mut frame, &[])?;
    Ok(frame)
}

/// Gives the request the source number `n`, and both checksums what differs by it (RFC 1624).
fn made_up(frame: &mut [u8], n: u32) {
    const SOURCE: usize = 26;
    const SUMS: [usize; 2] = [24, 50];
    let new = (FIRST + n).to_be_bytes();
    for half in [0, 2] {
        let word = |b: &[u8]| u32::from(u16::from_be_bytes([b[0], b[1]]));
        let (old, to) = (word(&frame[SOURCE + half..]), word(&new[half..]));
        for sum in SUMS {
            let mut changed = (!word(&frame[sum..]) & 0xffff) + (!old & 0xffff) + to;
            while changed > 0xffff {
                changed = (changed & 0xffff) + (changed >> 16);
            }
            frame[sum..sum + 2].copy_from_slice(&(!changed as u16).to_be_bytes());
        }
        frame[SOURCE + half..SOURCE + half + 2].copy_from_slice(&new[half..half + 2]);
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{NetHeaders, PacketHeaders, TransportHeader};

    use super::*;

    #[test]
    fn requests_from_made_up_addresses_have_right_checksums() {
        let mut frame = request(Mac([2; 6]), Ipv4Addr::new(172, 18, 0, 201)).unwrap();
        for n in [0, 1, 65_535, 65_536, 4_999_999] {
            made_up(&mut frame, n);
            let headers = PacketHeaders::from_ethernet_slice(&frame).unwrap();
            let (Some(NetHeaders::Ipv4(ip, _)), Some(TransportHeader::Tcp(tcp))) =
                (headers.net, headers.transport)
            else {
                panic!("no TCP over IPv4");
            };
            assert_eq!(u32::from_be_bytes(ip.source), FIRST + n);
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            assert_eq!(tcp.checksum, tcp.calc_checksum_ipv4(&ip, &[]).unwrap());
        }
    }
}
