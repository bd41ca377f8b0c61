//! Resets: what both ends of a connection are told when it is ended here, and one of them when it is moved to another server.
//!
//! Each end gets a RST with the sequence number that the flow's record says it waits for. An end that waits for another one
//! (something was on its way) asks back by a challenge ACK (RFC 5961 section 3.2); the flow is gone by then, so the packet
//! programs refuse that with a RST of exactly the number asked for. The packets go through the node's own stack, which finds
//! the way, and past `viplb_egress`, which fences them if the lease has gone.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use etherparse::PacketBuilder;
use lb_common::{
    addr::{Addr, PROTO_TCP, Port},
    flow::Flow,
    mode::Mode,
    opening::Opening,
};

use super::{raw::RawSockets, syn};

/// Hops that a reset may take.
pub(super) const TTL: u8 = 64;
/// Sends resets.
#[derive(Debug)]
pub struct Resets(RawSockets);

impl Resets {
    /// Opens its sockets.
    pub fn open() -> io::Result<Self> {
        RawSockets::open().map(Self)
    }

    /// Tells both ends of a TCP connection that it has ended. An error of one end does not keep the other from being told.
    pub fn send(&self, flow: &Flow) -> io::Result<()> {
        let both = resets(flow).map(|(to, packet)| self.0.send(to, &packet));
        both.into_iter().find(Result::is_err).unwrap_or(Ok(()))
    }

    /// Tells the backend alone, which another one takes the place of.
    pub fn send_to_backend(&self, flow: &Flow) -> io::Result<()> {
        let of_backend = |(to, _): &(IpAddr, _)| *to == IpAddr::from(flow.backend);
        resets(flow).filter(of_backend).try_for_each(|(to, packet)| self.0.send(to, &packet))
    }

    /// Asks the backend to take the flow's connection, as its client asked the first one.
    pub fn ask(&self, flow: &Flow, opening: &Opening) -> io::Result<()> {
        let (to, packet) = syn::syn(flow, opening);
        self.0.send(to, &packet)
    }

    /// Acknowledges that it does.
    pub fn confirm(&self, flow: &Flow, opening: &Opening) -> io::Result<()> {
        let (to, packet) = syn::ack(flow, opening);
        self.0.send(to, &packet)
    }
}

/// The packets for client and backend, and whom they go to. A backend that has the virtual address itself (`dsr`, `tunnel`)
/// cannot be sent a packet by its address: it hears of the end when it next speaks to its client.
fn resets(flow: &Flow) -> impl Iterator<Item = (IpAddr, Vec<u8>)> {
    let (client, vip) = (socket(flow.client, flow.client_port), socket(flow.vip, flow.vip_port));
    let backend = match flow.mode() {
        Mode::Nat | Mode::Dnat => {
            Some((socket(flow.snat, flow.snat_port), socket(flow.backend, flow.backend_port)))
        }
        Mode::Local => Some((client, vip)),
        Mode::Dsr | Mode::Tunnel => None,
    };
    let (c, b) = (flow.client_next, flow.backend_next);
    let to_client = (vip, client, b, c);
    let to_backend = backend.map(|(from, to)| (from, to, c, b));
    let tcp = flow.proto == PROTO_TCP;
    [Some(to_client), to_backend]
        .into_iter()
        .flatten()
        .filter(move |_| tcp)
        .map(|(from, to, seq, ack)| (to.ip(), packet(from, to, seq, ack)))
}

pub(super) fn socket(addr: Addr, port: Port) -> SocketAddr {
    SocketAddr::new(addr.into(), port.number())
}

/// A RST of this number, which acknowledges `ack`.
fn packet(from: SocketAddr, to: SocketAddr, seq: u32, ack: u32) -> Vec<u8> {
    let ip = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), TTL),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), TTL),
        _ => unreachable!("both ends of one side of a flow are of one family"),
    };
    let tcp = ip.tcp(from.port(), to.port(), seq, 0).rst().ack(ack);
    let mut packet = Vec::with_capacity(tcp.size(0));
    tcp.write(&mut packet, &[]).expect("a vector takes everything");
    packet
}

#[cfg(test)]
mod tests {
    use etherparse::{NetHeaders, PacketHeaders, TransportHeader};
    use lb_common::addr::PROTO_UDP;

    use super::*;

    fn flow(mode: Mode) -> Flow {
        Flow {
            client: Addr::v4([192, 0, 2, 1]),
            vip: Addr::v4([172, 18, 0, 201]),
            snat: Addr::v4([172, 18, 0, 201]),
            backend: Addr::v4([172, 18, 0, 2]),
            client_port: Port::new(1234),
            vip_port: Port::new(3306),
            snat_port: Port::new(50_000),
            backend_port: Port::new(3307),
            client_next: 100,
            backend_next: 200,
            proto: PROTO_TCP,
            mode: mode as u8,
            ..Flow::default()
        }
    }

    /// `from > to seq ack` of each packet, whose checksums are right.
    fn said(flow: &Flow) -> Vec<String> {
        let words = |(to, packet): (IpAddr, Vec<u8>)| {
            let headers = PacketHeaders::from_ip_slice(&packet).unwrap();
            let Some(TransportHeader::Tcp(tcp)) = headers.transport else { panic!("no TCP") };
            assert!(tcp.rst && tcp.ack && !tcp.syn && !tcp.fin);
            let (from, there) = match headers.net {
                Some(NetHeaders::Ipv4(ip, _)) => {
                    assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                    assert_eq!(tcp.checksum, tcp.calc_checksum_ipv4(&ip, &[]).unwrap());
                    (IpAddr::from(ip.source), IpAddr::from(ip.destination))
                }
                Some(NetHeaders::Ipv6(ip, _)) => {
                    assert_eq!(tcp.checksum, tcp.calc_checksum_ipv6(&ip, &[]).unwrap());
                    (IpAddr::from(ip.source), IpAddr::from(ip.destination))
                }
                _ => panic!("no IP"),
            };
            assert_eq!(to, there);
            let (from, to) =
                (SocketAddr::new(from, tcp.source_port), SocketAddr::new(to, tcp.destination_port));
            format!("{from} > {to} seq {} ack {}", tcp.sequence_number, tcp.acknowledgment_number)
        };
        resets(flow).map(words).collect()
    }

    #[test]
    fn each_end_is_reset_with_the_number_that_it_waits_for() {
        let to_client = "172.18.0.201:3306 > 192.0.2.1:1234 seq 200 ack 100";
        let to_backend = "172.18.0.201:50000 > 172.18.0.2:3307 seq 100 ack 200";
        assert_eq!(said(&flow(Mode::Nat)), [to_client, to_backend]);
        assert_eq!(said(&flow(Mode::Dsr)), [to_client]);
        assert_eq!(said(&flow(Mode::Local))[1], "192.0.2.1:1234 > 172.18.0.201:3306 seq 100 ack 200");
        assert_eq!(said(&Flow { proto: PROTO_UDP, ..flow(Mode::Nat) }), [""; 0]);
    }

    #[test]
    fn where_families_meet_each_end_is_spoken_to_in_its_own() {
        let v6 = |last| Addr::new(std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last).octets());
        let flow = Flow { snat: v6(7), backend: v6(2), ..flow(Mode::Nat) };
        let to_client = "172.18.0.201:3306 > 192.0.2.1:1234 seq 200 ack 100";
        assert_eq!(said(&flow), [to_client, "[fd00::7]:50000 > [fd00::2]:3307 seq 100 ack 200"]);
    }
}
