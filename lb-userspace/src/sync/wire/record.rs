//! One flow in a message: who speaks to whom through what, and how far it has come.
//!
//! Its sum is part of the format: nodes compare sums of whole buckets, so both must hash the same bytes in the same way.

use lb_common::{
    addr::{Addr, PROTO_TCP, PROTO_UDP, Port},
    flow::{FIN_BACKEND, FIN_CLIENT, Flow, Stage},
    mode::Mode,
};

use super::{BUCKETS, Input, Malformed};

/// What is to be done with a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// It exists, and is as it is said to be.
    Is,
    /// It is gone.
    Gone,
}

/// By what a flow is known: one that has the same is the same, or takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowId {
    /// The service's address.
    pub vip: Addr,
    /// The service's port.
    pub vip_port: Port,
    /// The client.
    pub client: Addr,
    /// Its port.
    pub client_port: Port,
    /// IP protocol.
    pub proto: u8,
}

/// A flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// What is to be done with it.
    pub op: Op,
    /// Which it is.
    pub id: FlowId,
    /// Its backend.
    pub backend: Addr,
    /// The backend's port.
    pub backend_port: Port,
    /// The source that the backend sees.
    pub snat: Addr,
    /// Its port.
    pub snat_port: Port,
    /// How packets reach the backend.
    pub mode: Mode,
    /// How far it has come; half-open in what is held or handed over alone ([`Message::Hold`](super::Message)).
    pub stage: Stage,
    /// [`FIN_CLIENT`] and [`FIN_BACKEND`].
    pub fins: u8,
    /// Since its last packet, ms.
    pub idle_ms: u32,
    /// Since its first packet, s.
    pub life_s: u32,
    /// Next sequence number expected from the client.
    pub client_next: u32,
    /// Next sequence number expected from the backend.
    pub backend_next: u32,
}

/// Bytes of a record without its addresses.
const FIXED: usize = 32;
const SNAT: u8 = 3;
const SNAT_IS_VIP: u8 = 0;
const SNAT_IS_CLIENT: u8 = 1;
const SNAT_FOLLOWS: u8 = 2;
/// The client's side is IPv6.
const CLIENT_V6: u8 = 1 << 2;
/// The backend's side is IPv6.
const BACKEND_V6: u8 = 1 << 3;

impl Record {
    /// What is said of a flow at boottime `now`, ns.
    pub fn of(flow: &Flow, now: u64) -> Self {
        let idle = now.saturating_sub(flow.seen) / 1_000_000;
        let life = (now / 1_000_000_000).saturating_sub(flow.born.into());
        Self {
            op: Op::Is,
            id: FlowId {
                vip: flow.vip,
                vip_port: flow.vip_port,
                client: flow.client,
                client_port: flow.client_port,
                proto: flow.proto,
            },
            backend: flow.backend,
            backend_port: flow.backend_port,
            // Of a tunnel each node has its own, and the backend sees the client.
            snat: if flow.mode() == Mode::Tunnel { flow.client } else { flow.snat },
            snat_port: flow.snat_port,
            mode: flow.mode(),
            stage: flow.stage(),
            fins: flow.flags & (FIN_CLIENT | FIN_BACKEND),
            idle_ms: u32::try_from(idle).unwrap_or(u32::MAX),
            life_s: u32::try_from(life).unwrap_or(u32::MAX),
            client_next: flow.client_next,
            backend_next: flow.backend_next,
        }
    }

    /// Whether it is not established yet.
    pub fn is_half_open(&self) -> bool {
        is_half_open(self.stage)
    }

    /// Whether it is the same connection, whatever has become of it.
    pub fn is_same(&self, other: &Self) -> bool {
        let whose = |r: &Self| (r.id, r.backend, r.backend_port, r.snat, r.snat_port, r.mode);
        whose(self) == whose(other)
    }

    /// The bucket it is in.
    pub fn bucket(&self) -> u16 {
        (self.identity() % BUCKETS as u64) as u16
    }

    /// What it adds to its bucket's sum: different if anything is but times and sequence numbers.
    pub fn sum(&self) -> u64 {
        let mut hash = Fnv(self.identity());
        hash.add(&self.backend.bytes());
        hash.add(&self.backend_port.0);
        hash.add(&self.snat.bytes());
        hash.add(&self.snat_port.0);
        hash.add(&[self.mode as u8, self.stage as u8, self.fins]);
        hash.end()
    }

    fn identity(&self) -> u64 {
        let mut hash = Fnv(Fnv::BASIS);
        hash.add(&self.id.vip.bytes());
        hash.add(&self.id.vip_port.0);
        hash.add(&self.id.client.bytes());
        hash.add(&self.id.client_port.0);
        hash.add(&[self.id.proto]);
        hash.end()
    }

    /// Bytes it takes.
    pub fn length(&self) -> usize {
        let size = |a: Addr| if a.is_v4() { 4 } else { 16 };
        let snat = if self.snat_word() == SNAT_FOLLOWS { size(self.snat) } else { 0 };
        FIXED + size(self.id.vip) + size(self.id.client) + size(self.backend) + snat
    }

    fn snat_word(&self) -> u8 {
        match self.snat {
            snat if snat == self.id.vip => SNAT_IS_VIP,
            snat if snat == self.id.client => SNAT_IS_CLIENT,
            _ => SNAT_FOLLOWS,
        }
    }

    /// Appends it.
    pub fn encode(&self, to: &mut Vec<u8>) {
        let client_v6 = if self.id.vip.is_v4() && self.id.client.is_v4() { 0 } else { CLIENT_V6 };
        let backend_v6 = if self.backend.is_v4() { 0 } else { BACKEND_V6 };
        let op = match self.op {
            Op::Is => 1,
            Op::Gone => 2,
        };
        let shape = self.snat_word() | client_v6 | backend_v6;
        to.extend([self.length() as u8, op, shape, self.id.proto]);
        to.extend([self.stage as u8, self.fins, self.mode as u8, 0]);
        for port in [self.id.vip_port, self.id.client_port, self.backend_port, self.snat_port] {
            to.extend(port.0);
        }
        for number in [self.idle_ms, self.life_s, self.client_next, self.backend_next] {
            to.extend(number.to_be_bytes());
        }
        for addr in [self.id.vip, self.id.client] {
            encode_addr(addr, client_v6 != 0, to);
        }
        encode_addr(self.backend, backend_v6 != 0, to);
        if self.snat_word() == SNAT_FOLLOWS {
            encode_addr(self.snat, backend_v6 != 0, to);
        }
    }

    /// `half_open`: whether such ones may be among them.
    pub(super) fn decode(from: &mut Input<'_>, half_open: bool) -> Result<Self, Malformed> {
        let mut item = from.item(FIXED as u8)?;
        let [op, shape, proto, stage, fins, mode, _] = item.array()?;
        let op = match op {
            1 => Op::Is,
            2 => Op::Gone,
            _ => return Err(Malformed::Value),
        };
        let stage = match (proto, Stage::from_u8(stage)) {
            (PROTO_TCP, stage @ (Stage::Established | Stage::Closing | Stage::Closed)) => stage,
            (PROTO_UDP, stage @ Stage::TwoWay) => stage,
            (PROTO_TCP, stage @ (Stage::SynSent | Stage::SynReceived)) if half_open => stage,
            (PROTO_UDP, stage @ Stage::OneWay) if half_open => stage,
            _ => return Err(Malformed::Value),
        };
        let known_mode = Mode::from_u8(mode);
        if known_mode as u8 != mode || fins & !(FIN_CLIENT | FIN_BACKEND) != 0 {
            return Err(Malformed::Value);
        }
        let [vip_port, client_port, backend_port, snat_port] =
            [Port(item.array()?), Port(item.array()?), Port(item.array()?), Port(item.array()?)];
        let [idle_ms, life_s, client_next, backend_next] =
            [item.u32()?, item.u32()?, item.u32()?, item.u32()?];
        let (client_v6, backend_v6) = (shape & CLIENT_V6 != 0, shape & BACKEND_V6 != 0);
        let (vip, client) = (decode_addr(&mut item, client_v6)?, decode_addr(&mut item, client_v6)?);
        let backend = decode_addr(&mut item, backend_v6)?;
        let snat = match shape & SNAT {
            SNAT_IS_VIP => vip,
            SNAT_IS_CLIENT => client,
            SNAT_FOLLOWS => decode_addr(&mut item, backend_v6)?,
            _ => return Err(Malformed::Value),
        };
        let id = FlowId { vip, vip_port, client, client_port, proto };
        Ok(Self {
            op,
            id,
            backend,
            backend_port,
            snat,
            snat_port,
            mode: known_mode,
            stage,
            fins,
            idle_ms,
            life_s,
            client_next,
            backend_next,
        })
    }
}

/// Whether a flow in this stage has a place among half-open ones.
pub fn is_half_open(stage: Stage) -> bool {
    matches!(stage, Stage::SynSent | Stage::SynReceived | Stage::OneWay)
}

fn encode_addr(addr: Addr, v6: bool, to: &mut Vec<u8>) {
    let bytes = addr.bytes();
    to.extend(if v6 { &bytes[..] } else { &bytes[12..] });
}

fn decode_addr(from: &mut Input<'_>, v6: bool) -> Result<Addr, Malformed> {
    if v6 { from.addr() } else { Ok(Addr::v4(from.array()?)) }
}

/// FNV-1a, 64 bits, with a last mixing step: neighbouring ports must not end in neighbouring buckets' sums.
struct Fnv(u64);

impl Fnv {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// splitmix64's last steps.
    fn end(self) -> u64 {
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
