//! The handshake with the server that a connection is moved to: SYN and ACK as its client would send them, with what the client and
//! the first server agreed on (`lb_common::opening`).
//!
//! The answer is noted by the packet programs, which drop it. Like resets the packets go through the node's own stack, which finds the
//! way.

use std::net::{IpAddr, SocketAddr};

use etherparse::{PacketBuilder, TcpHeader, TcpOptionElement};
use lb_common::{
    flow::Flow,
    opening::{ECN, Opening, SACK, SCALE, TIMES},
};

use super::reset::{TTL, socket};

/// The client's SYN to the flow's backend, and whom it goes to.
pub(super) fn syn(flow: &Flow, opening: &Opening) -> (IpAddr, Vec<u8>) {
    let has = |option| opening.agreed & option != 0;
    let mut options = Vec::new();
    if opening.client_mss != 0 {
        options.push(TcpOptionElement::MaximumSegmentSize(opening.client_mss));
    }
    if has(SACK) {
        options.push(TcpOptionElement::SelectiveAcknowledgementPermitted);
    }
    if has(TIMES) {
        options.push(TcpOptionElement::Timestamp(opening.client_ts, 0));
    }
    if has(SCALE) {
        options.push(TcpOptionElement::WindowScale(opening.client_scale));
    }
    let header = TcpHeader {
        sequence_number: opening.client_isn,
        syn: true,
        ece: has(ECN),
        cwr: has(ECN),
        window_size: opening.client_window,
        ..TcpHeader::default()
    };
    packet(flow, header, &options)
}

/// The client's acknowledgement of the backend's SYN.
pub(super) fn ack(flow: &Flow, opening: &Opening) -> (IpAddr, Vec<u8>) {
    let mut options = Vec::new();
    if opening.agreed & TIMES != 0 {
        let of_server = opening.server_ts.wrapping_sub(opening.ts_delta);
        options.extend([
            TcpOptionElement::Noop,
            TcpOptionElement::Noop,
            TcpOptionElement::Timestamp(opening.client_ts, of_server),
        ]);
    }
    let scale = if opening.agreed & SCALE != 0 { opening.client_scale.min(14) } else { 0 };
    let header = TcpHeader {
        sequence_number: opening.client_isn.wrapping_add(1),
        acknowledgment_number: opening.server_isn.wrapping_sub(opening.seq_delta).wrapping_add(1),
        ack: true,
        // As large as the client said at first; what it has now its next segment tells.
        window_size: (opening.client_window >> scale).max(1),
        ..TcpHeader::default()
    };
    packet(flow, header, &options)
}

fn packet(flow: &Flow, header: TcpHeader, options: &[TcpOptionElement]) -> (IpAddr, Vec<u8>) {
    let (from, to): (SocketAddr, SocketAddr) =
        (socket(flow.snat, flow.snat_port), socket(flow.backend, flow.backend_port));
    let mut header = TcpHeader { source_port: from.port(), destination_port: to.port(), ..header };
    header.set_options(options).expect("they are twenty bytes at most");
    let ip = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), TTL),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), TTL),
        _ => unreachable!("both ends of one side of a flow are of one family"),
    };
    let packet = ip.tcp_header(header);
    let mut bytes = Vec::with_capacity(packet.size(0));
    packet.write(&mut bytes, &[]).expect("a vector takes everything");
    (to.ip(), bytes)
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketHeaders, TransportHeader};
    use lb_common::addr::{Addr, Port};

    use super::*;

    fn tcp((_, packet): (IpAddr, Vec<u8>)) -> TcpHeader {
        let headers = PacketHeaders::from_ip_slice(&packet).unwrap();
        let Some(TransportHeader::Tcp(tcp)) = headers.transport else { panic!("no TCP") };
        tcp
    }

    #[test]
    fn the_other_server_is_asked_for_what_the_first_has_agreed_to_and_acknowledged_by_its_own_numbers() {
        let flow = Flow {
            snat: Addr::v4([172, 18, 0, 201]),
            backend: Addr::v4([172, 18, 0, 3]),
            snat_port: Port::new(50_000),
            backend_port: Port::new(3306),
            ..Flow::default()
        };
        let opening = Opening {
            agreed: SCALE | SACK | TIMES,
            client_mss: 1460,
            client_scale: 7,
            client_window: 64_240,
            client_isn: 1000,
            server_isn: 5000,
            client_ts: 70,
            server_ts: 900,
            // Its number is 7000, its time 20.
            seq_delta: 5000u32.wrapping_sub(7000),
            ts_delta: 880,
            ..Opening::default()
        };
        let asked = tcp(syn(&flow, &opening));
        assert!(asked.syn && !asked.ack && !asked.ece);
        assert_eq!((asked.sequence_number, asked.window_size), (1000, 64_240));
        let options: Vec<_> = asked.options_iterator().map(Result::unwrap).collect();
        assert_eq!(
            options,
            [
                TcpOptionElement::MaximumSegmentSize(1460),
                TcpOptionElement::SelectiveAcknowledgementPermitted,
                TcpOptionElement::Timestamp(70, 0),
                TcpOptionElement::WindowScale(7),
            ]
        );
        let confirmed = tcp(ack(&flow, &opening));
        assert_eq!(
            (confirmed.sequence_number, confirmed.acknowledgment_number, confirmed.window_size),
            (1001, 7001, 501)
        );
        assert!(confirmed.options_iterator().any(|o| o == Ok(TcpOptionElement::Timestamp(70, 20))));
        let plain = tcp(syn(&flow, &Opening { agreed: 0, client_mss: 0, ..opening }));
        assert_eq!(plain.options_iterator().count(), 0);
    }
}
