//! Writes a plan into the packet. Layer-4 checksum first: on TC that is a kernel helper which looks at the packet as it
//! still is, and after which every pointer into it has to be taken anew.

use lb_common::{
    addr::{Mac, PROTO_TCP},
    checksum::{delta, fold, sum2, sum4, update},
    reason::Reason,
};
use network_types::{arp::ArpHdr, eth::EthHdr, icmp::Icmpv4Hdr, ip::Ipv4Hdr, tcp::TcpHdr};

use crate::{
    packet::Packet,
    parse::{L3, L4},
    plan::{Action, Nat, Plan, Reset, Step, Verdict},
};

/// Offset of the TCP checksum in the frame.
const TCP_CHECK: usize = L4 + 16;
/// A frame that carries IPv4 and TCP headers and nothing else.
const BARE_TCP: u32 = (L4 + TcpHdr::LEN) as u32;
const TTL: u8 = 64;

/// Rewrites the packet as planned.
#[inline(always)]
pub fn apply<P: Packet>(p: &mut P, plan: &Plan, ifindex: u32) -> Verdict {
    let (done, action) = match plan.step {
        Step::Undecided | Step::Pass => (Some(()), Action::Pass),
        Step::Drop => (Some(()), Action::Drop),
        Step::Nat => (nat(p, &plan.nat), Action::Route(plan.nat.ifindex)),
        Step::Reset => (reset(p, &plan.reset), Action::Send(ifindex)),
        Step::Echo => (echo(p), Action::Send(ifindex)),
        Step::ArpReply => (arp_reply(p, plan.mac), Action::Send(ifindex)),
    };
    match done {
        Some(()) => Verdict { reason: plan.reason, action },
        None => Verdict { reason: Reason::RewriteFailed, action: Action::Drop },
    }
}

#[inline(always)]
fn nat<P: Packet>(p: &mut P, n: &Nat) -> Option<()> {
    p.update_l4_checksum(TCP_CHECK, n.addr_delta, n.port_delta)?;
    let mut ports = [0; 4];
    ports[..2].copy_from_slice(&n.sport.0);
    ports[2..].copy_from_slice(&n.dport.0);
    p.write(L4, &ports)?;
    let mut ip: Ipv4Hdr = p.read(L3)?;
    // The TTL is the high byte of its word: one less is a delta of −0x0100.
    let ttl = delta(0x0100, 0);
    let changed = fold(u32::from(n.addr_delta) + u32::from(ttl));
    ip.check = update(u16::from_be_bytes(ip.check), changed).to_be_bytes();
    ip.ttl = ip.ttl.wrapping_sub(1);
    ip.src_addr = n.src.to_ne_bytes();
    ip.dst_addr = n.dst.to_ne_bytes();
    p.write(L3, &ip)
}

/// Sends the frame back where it came from.
#[inline(always)]
fn turn_round<P: Packet>(p: &mut P) -> Option<()> {
    let mut eth: EthHdr = p.read(0)?;
    (eth.src_addr, eth.dst_addr) = (eth.dst_addr, eth.src_addr);
    p.write(0, &eth)
}

#[inline(always)]
fn reset<P: Packet>(p: &mut P, r: &Reset) -> Option<()> {
    p.truncate(BARE_TCP)?;
    turn_round(p)?;
    let old: Ipv4Hdr = p.read(L3)?;
    let was: TcpHdr = p.read(L4)?;
    let length = (Ipv4Hdr::LEN + TcpHdr::LEN) as u16;
    let addrs = sum4(old.src_addr) + sum4(old.dst_addr);
    let sum = 0x4500 + u32::from(length) + 0x4000 + sum2([TTL, PROTO_TCP]) + addrs;
    p.write(
        L3,
        &Ipv4Hdr {
            vihl: 0x45,
            tos: 0,
            tot_len: length.to_be_bytes(),
            id: [0; 2],
            frags: [0x40, 0], // don't fragment
            ttl: TTL,
            proto: PROTO_TCP,
            check: (!fold(sum)).to_be_bytes(),
            src_addr: old.dst_addr,
            dst_addr: old.src_addr,
        },
    )?;
    let mut tcp = [0u8; TcpHdr::LEN];
    tcp[..2].copy_from_slice(&was.dest);
    tcp[2..4].copy_from_slice(&was.source);
    tcp[4..8].copy_from_slice(&r.seq.to_be_bytes());
    tcp[8..12].copy_from_slice(&r.ack.to_be_bytes());
    tcp[12] = 5 << 4;
    tcp[13] = r.flags;
    p.write(L4, &tcp)?;
    let pseudo = addrs + u32::from(PROTO_TCP) + TcpHdr::LEN as u32;
    let body = sum2(was.dest)
        + sum2(was.source)
        + sum4(r.seq.to_be_bytes())
        + sum4(r.ack.to_be_bytes())
        + sum2([5 << 4, r.flags]);
    p.set_l4_checksum(TCP_CHECK, fold(pseudo), fold(body))
}

#[inline(always)]
fn echo<P: Packet>(p: &mut P) -> Option<()> {
    turn_round(p)?;
    let mut ip: Ipv4Hdr = p.read(L3)?;
    (ip.src_addr, ip.dst_addr) = (ip.dst_addr, ip.src_addr);
    let ttl = delta(sum2([ip.ttl, 0]), sum2([TTL, 0]));
    ip.check = update(u16::from_be_bytes(ip.check), ttl).to_be_bytes();
    ip.ttl = TTL;
    p.write(L3, &ip)?;
    let mut icmp: Icmpv4Hdr = p.read(L4)?;
    icmp.check = update(u16::from_be_bytes(icmp.check), delta(0x0800, 0)).to_be_bytes();
    icmp.type_ = 0;
    p.write(L4, &icmp)
}

#[inline(always)]
fn arp_reply<P: Packet>(p: &mut P, mac: Mac) -> Option<()> {
    let mut eth: EthHdr = p.read(0)?;
    let mut arp: ArpHdr = p.read(L3)?;
    eth.dst_addr = arp.sha;
    eth.src_addr = mac.0;
    p.write(0, &eth)?;
    arp.oper = [0, 2];
    arp.tha = arp.sha;
    arp.sha = mac.0;
    (arp.spa, arp.tpa) = (arp.tpa, arp.spa);
    p.write(L3, &arp)
}
