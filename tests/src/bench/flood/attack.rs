//! The flood of `bench flood`, and the clients who come meanwhile.

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

use super::sockets;
use crate::{
    netns::Netns,
    packets::{Family, PORT},
    vip,
};

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

/// Sends `requests` connection requests to the service, evenly over `hold`, while a client opens one connection after the
/// other; gives how many were sent.
pub fn run(
    attacker: &Netns,
    client: &Netns,
    node: Mac,
    requests: u64,
    hold: Duration,
) -> Result<(u64, Clients)> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients = scope.spawn(|| client.run(|| come(&over))?);
        let sent = attacker.run(|| flood(node, requests, hold))?;
        over.store(true, Ordering::Relaxed);
        let clients = clients.join().map_err(|_| anyhow!("the client panicked"))??;
        Ok((sent?, clients))
    })
}

fn come(over: &AtomicBool) -> Result<Clients> {
    let runtime = sockets::runtime()?;
    let mut clients = Clients::default();
    while !over.load(Ordering::Relaxed) {
        let started = Instant::now();
        match runtime.block_on(sockets::open(super::client_address(0))) {
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

fn flood(node: Mac, requests: u64, hold: Duration) -> Result<u64> {
    let socket = vip::open("eth0", ETH_P_IP).context("the flood's socket")?;
    let mut frame = request(node)?;
    let started = Instant::now();
    let mut sent = 0;
    while sent < requests {
        for _ in 0..BURST.min(requests - sent) {
            made_up(&mut frame, sent as u32);
            // Full queues lose frames: those that are sent count.
            sent += u64::from(vip::send(&socket, &frame).is_ok());
        }
        let due = hold.mul_f64(sent as f64 / requests as f64);
        thread::sleep(due.saturating_sub(started.elapsed()));
    }
    thread::sleep(hold.saturating_sub(started.elapsed()));
    Ok(sent)
}

fn request(node: Mac) -> Result<Vec<u8>> {
    let std::net::IpAddr::V4(vip) = Family::V4.vip() else { unreachable!("the family says so") };
    let packet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 8], node.0)
        .ipv4(Ipv4Addr::from(FIRST).octets(), vip.octets(), 64)
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
        let mut frame = request(Mac([2; 6])).unwrap();
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
