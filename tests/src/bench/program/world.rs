//! The cases of `bench program`: tables, frames and what each must come to. No I/O.

use std::net::Ipv4Addr;

use lb_common::{
    addr::{Addr, PROTO_TCP, PROTO_UDP, Port},
    bench::{FRAME, Tuple},
    maps::DEFAULT_FLOWS,
    reason::Reason,
    service::{Backend, Interface, Vip},
    settings::{Settings, SnatPorts},
};
use lb_ebpf::parse::flag;
use lb_userspace::datapath::{
    load::Sizes,
    tables::{Desired, DesiredService},
};

use crate::packets::{LO, PORT, REPLY_MAC};

/// Backends of a service, as many as its ring has places.
const RING: u32 = 256;
/// New flows of a batch: fewer than there are places for half-open ones, so that none throws another out.
const NEW: u32 = 16_384;
const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const CLIENT_PORT: u16 = 40_000;

/// What a program ends in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// TC_ACT_REDIRECT.
    Redirect,
    /// TC_ACT_SHOT.
    Drop,
    /// TCX_NEXT.
    Pass,
}

impl Verdict {
    /// In words.
    pub fn word(self) -> &'static str {
        match self {
            Self::Redirect => "redirect",
            Self::Drop => "drop",
            Self::Pass => "pass",
        }
    }

    /// What the kernel returns from it.
    pub fn number(self) -> i32 {
        match self {
            Self::Redirect => 7,
            Self::Drop => 2,
            Self::Pass => -1,
        }
    }
}

/// Packets of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Of established flows, from the client.
    Forward,
    /// Of established flows, from the backend.
    Reverse,
    /// SYNs that open flows.
    New,
    /// SYNs for a service without a backend: a reset is the answer.
    Refused,
    /// SYNs for a virtual address that this node does not own.
    NotOwner,
    /// For an address that is not virtual.
    Elsewhere,
}

/// A case.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// What comes.
    pub kind: Kind,
    /// UDP instead of TCP.
    pub udp: bool,
    /// Flows, or clients.
    pub flows: u32,
    /// Services in the tables; the clients are spread over them.
    pub services: u32,
    /// Backends in the tables, spread over the services.
    pub backends: u32,
    /// What it ends in.
    pub verdict: Verdict,
}

/// All of them.
pub fn cases() -> Vec<Case> {
    use Kind::{Elsewhere, Forward, New, NotOwner, Refused, Reverse};
    let case = |kind, udp, flows, services, backends| {
        let verdict = match kind {
            Forward | Reverse | New => Verdict::Redirect,
            // The answer is sent.
            Refused => Verdict::Redirect,
            NotOwner => Verdict::Drop,
            Elsewhere => Verdict::Pass,
        };
        Case { kind, udp, flows, services, backends, verdict }
    };
    let mut cases = Vec::new();
    for flows in [1, 1024, 65_536] {
        cases.extend([Forward, Reverse].map(|kind| case(kind, false, flows, 1, 8)));
        cases.extend([Forward, Reverse].map(|kind| case(kind, true, flows, 1, 8)));
    }
    cases.push(case(New, false, NEW, 1, 8));
    cases.push(case(New, true, NEW, 1, 8));
    cases.extend([Refused, NotOwner, Elsewhere].map(|kind| case(kind, false, 1024, 1, 8)));
    for (services, backends) in [(1, 1), (256, 1), (1, RING), (256, 1000)] {
        cases.push(case(Forward, false, 1024, services, backends));
        cases.push(case(New, false, NEW, services, backends));
    }
    cases
}

/// The case whose flow table is the default's size.
pub fn largest() -> Case {
    Case { kind: Kind::Forward, udp: false, flows: 1, services: 1, backends: 1, verdict: Verdict::Redirect }
}

impl Case {
    /// In words.
    pub fn name(&self) -> String {
        let protocol = if self.udp { "UDP" } else { "TCP" };
        let kind = match self.kind {
            Kind::Forward => "established, from the client",
            Kind::Reverse => "established, from the backend",
            Kind::New => "new flow",
            Kind::Refused => "refused with a reset",
            Kind::NotOwner => "dropped, not the owner",
            Kind::Elsewhere => "passed, not virtual",
        };
        let Self { flows, services, backends, .. } = self;
        format!("{protocol} {kind}, {flows} flows, services {services}, backends {backends}")
    }

    /// What it is compared with: a refusal, although its answer is sent, with a drop.
    pub fn bare(&self) -> Verdict {
        if self.kind == Kind::Refused { Verdict::Drop } else { self.verdict }
    }

    /// TCP flags of the packets.
    pub fn flags(&self) -> u8 {
        if self.is_established() { flag::ACK } else { flag::SYN }
    }

    /// Times the bare program at most, where one is set.
    pub fn target(&self) -> Option<f64> {
        match self.kind {
            Kind::Forward | Kind::Reverse => Some(4.0),
            Kind::New => Some(12.0),
            Kind::Refused | Kind::NotOwner => Some(1.5),
            Kind::Elsewhere => None,
        }
    }

    /// What the programs must have counted each packet as.
    pub fn reason(&self) -> Reason {
        match self.kind {
            Kind::Forward => Reason::Forwarded,
            Kind::Reverse => Reason::Returned,
            Kind::New => Reason::NewFlow,
            Kind::Refused => Reason::NoBackend,
            Kind::NotOwner => Reason::NotOwner,
            Kind::Elsewhere => Reason::NotVirtual,
        }
    }

    /// Whether flows have to be there before.
    pub fn is_established(&self) -> bool {
        matches!(self.kind, Kind::Forward | Kind::Reverse)
    }

    /// Whether each packet opens a flow.
    pub fn is_new(&self) -> bool {
        self.kind == Kind::New
    }

    /// Room for flows, and for each backend's ports.
    pub fn sizes(&self) -> Sizes {
        Sizes { pools: self.backends, ..Sizes::from(DEFAULT_FLOWS as u32) }
    }

    /// The tables.
    pub fn desired(&self) -> Desired {
        let proto = if self.udp { PROTO_UDP } else { PROTO_TCP };
        let ring = |service: u32| -> Vec<u32> {
            if self.kind == Kind::Refused {
                return Vec::new();
            }
            let own = (0..self.backends).filter(|id| id % self.services == service % self.backends);
            own.take(RING as usize).collect()
        };
        let service = |id: u32| DesiredService {
            addr: VIP.into(),
            port: Port::new(PORT + id as u16),
            proto,
            snat: vec![VIP.into()],
            ring: ring(id),
            ..DesiredService::default()
        };
        let backend = |id: u32| Backend {
            addr: Ipv4Addr::from_bits(0x0a02_0000 + id).into(),
            ifindex: LO,
            port: Port::new(PORT),
            ..Backend::default()
        };
        Desired {
            access: Vec::new(),
            settings: Settings {
                schema: lb_common::maps::SCHEMA,
                snat_ports: SnatPorts::around(32768, 60999),
                ..Settings::default()
            },
            vips: vec![(Addr::from(VIP), Vip::default())],
            interfaces: vec![(LO, Interface { mac: REPLY_MAC, ..Interface::default() })],
            backends: (0..self.backends).map(backend).collect(),
            paths: Vec::new(),
            limits: Vec::new(),
            services: (0..self.services).map(service).collect(),
        }
    }

    /// The clients' side of each flow.
    pub fn clients(&self) -> Vec<Tuple> {
        let client = |i: u32| {
            let source = Ipv4Addr::from_bits(0x0a01_0000 + i).octets();
            tuple(source, CLIENT_PORT, PORT + (i % self.services) as u16)
        };
        (0..self.flows).map(client).collect()
    }

    /// A frame with these TCP flags; addresses and ports that differ by flow are filled in later.
    pub fn frame(&self, flags: u8) -> [u16; FRAME / 2] {
        let vip = if self.kind == Kind::Elsewhere { ELSEWHERE } else { VIP };
        let mut f = [0u8; FRAME];
        f[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 0x64]);
        f[12..14].copy_from_slice(&[8, 0]);
        f[14] = 0x45;
        f[16..18].copy_from_slice(&(FRAME as u16 - 14).to_be_bytes());
        f[22] = 64;
        f[23] = if self.udp { PROTO_UDP } else { PROTO_TCP };
        f[30..34].copy_from_slice(&vip.octets());
        if self.udp {
            f[38..40].copy_from_slice(&(FRAME as u16 - 34).to_be_bytes());
            f[40] = 1;
        } else {
            // A handshake from number 0 on both sides, and what follows it.
            f[41] = u8::from(flags == flag::ACK);
            f[45] = u8::from(flags & flag::ACK != 0);
            f[46] = 5 << 4;
            f[47] = flags;
        }
        let mut words = [0; FRAME / 2];
        for (word, bytes) in words.iter_mut().zip(f.chunks_exact(2)) {
            *word = u16::from_ne_bytes([bytes[0], bytes[1]]);
        }
        words
    }
}

/// Source address and ports of a frame.
pub fn tuple(source: [u8; 4], sport: u16, dport: u16) -> Tuple {
    let [a, b, c, d] = source;
    Tuple {
        source: [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])],
        ports: [sport.to_be(), dport.to_be()],
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{NetHeaders, PacketHeaders, TransportHeader};

    use super::*;

    #[test]
    fn every_frame_is_a_whole_packet_of_its_case() {
        for case in cases() {
            let frame: Vec<u8> =
                case.frame(case.flags()).iter().flat_map(|word| word.to_ne_bytes()).collect();
            let packet = PacketHeaders::from_ethernet_slice(&frame).expect("a packet");
            let Some(NetHeaders::Ipv4(ip, _)) = packet.net else { panic!("{}", case.name()) };
            assert_eq!(usize::from(ip.total_len), FRAME - 14);
            assert_eq!(ip.destination == VIP.octets(), case.kind != Kind::Elsewhere);
            match packet.transport {
                Some(TransportHeader::Udp(udp)) if case.udp => {
                    assert_eq!(usize::from(udp.length), FRAME - 34);
                }
                Some(TransportHeader::Tcp(tcp)) if !case.udp => {
                    assert_eq!((tcp.syn, tcp.ack), (!case.is_established(), case.is_established()));
                }
                other => panic!("{}: {other:?}", case.name()),
            }
        }
    }

    #[test]
    fn every_service_that_takes_flows_has_a_backend_and_fits_its_ring() {
        for case in cases().into_iter().filter(|case| case.kind != Kind::Refused) {
            let rings: Vec<usize> = case.desired().services.iter().map(|s| s.ring.len()).collect();
            assert!(rings.iter().all(|len| (1..=RING as usize).contains(len)), "{}: {rings:?}", case.name());
        }
    }
}
