//! Frames turned into their answers, in place: resets, echo and ARP replies, answers to probes. `apply` calls.

use lb_common::{
    addr::{Addr, Mac, PROTO_TCP},
    checksum::{delta, fold, sum_addr, sum2, sum4, update},
    probe::{Kind, VERSION},
};
use network_types::{arp::ArpHdr, eth::EthHdr, icmp::Icmpv4Hdr, ip::Ipv4Hdr, tcp::TcpHdr, udp::UdpHdr};

use crate::{
    apply::{TCP_CHECK, UDP_CHECK},
    packet::{Checksum, Packet},
    parse::{L3, L4, L4_V6},
    plan::{Plan, Reset},
};

/// TTL and hop limit of what is made here.
const TTL: u8 = 64;

/// Sends the frame back where it came from.
#[inline(always)]
fn turn_round<P: Packet>(p: &mut P) -> Option<()> {
    let mut eth: EthHdr = p.read(0)?;
    (eth.src_addr, eth.dst_addr) = (eth.dst_addr, eth.src_addr);
    p.write(0, &eth)
}

/// Swaps the IP addresses; no checksum changes.
#[inline(always)]
fn swap_addresses<P: Packet>(p: &mut P, v6: bool) -> Option<()> {
    if v6 {
        let [src, dst] = p.load::<[Addr; 2]>(L3 + 8)?;
        p.store(L3 + 8, &[dst, src])
    } else {
        let [src, dst] = p.read::<[[u8; 4]; 2]>(L3 + 12)?;
        p.write(L3 + 12, &[dst, src])
    }
}

/// Turns a segment into the reset that refuses it.
#[inline(always)]
pub fn reset<P: Packet>(p: &mut P, plan: &Plan) -> Option<()> {
    let l4 = if plan.v6 { L4_V6 } else { L4 };
    p.resize((l4 + TcpHdr::LEN) as u32)?;
    turn_round(p)?;
    swap_addresses(p, plan.v6)?;
    let pseudo = if plan.v6 { bare_ipv6(p) } else { bare_ipv4(p) }?;
    reset_segment(p, l4, pseudo, &plan.reset)
}

/// Rewrites an IPv4 header, addresses apart, for a bare TCP header; gives the pseudo-header's sum.
#[inline(always)]
fn bare_ipv4<P: Packet>(p: &mut P) -> Option<u32> {
    let old: Ipv4Hdr = p.read(L3)?;
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
            ..old
        },
    )?;
    Some(addrs + u32::from(PROTO_TCP) + TcpHdr::LEN as u32)
}

/// Likewise an IPv6 header.
#[inline(always)]
fn bare_ipv6<P: Packet>(p: &mut P) -> Option<u32> {
    p.write(L3, &[0x60, 0, 0, 0, 0, TcpHdr::LEN as u8, PROTO_TCP, TTL])?;
    let [src, dst] = p.load::<[Addr; 2]>(L3 + 8)?;
    Some(sum_addr(&src) + sum_addr(&dst) + u32::from(PROTO_TCP) + TcpHdr::LEN as u32)
}

#[inline(always)]
fn reset_segment<P: Packet>(p: &mut P, l4: usize, pseudo: u32, r: &Reset) -> Option<()> {
    let [source, dest] = p.read::<[[u8; 2]; 2]>(l4)?;
    let mut tcp = [0u8; TcpHdr::LEN];
    tcp[..2].copy_from_slice(&dest);
    tcp[2..4].copy_from_slice(&source);
    tcp[4..8].copy_from_slice(&r.seq.to_be_bytes());
    tcp[8..12].copy_from_slice(&r.ack.to_be_bytes());
    tcp[12] = 5 << 4;
    tcp[13] = r.flags;
    p.write(l4, &tcp)?;
    let body = sum2(dest)
        + sum2(source)
        + sum4(r.seq.to_be_bytes())
        + sum4(r.ack.to_be_bytes())
        + sum2([5 << 4, r.flags]);
    p.set_l4_checksum(l4 + TCP_CHECK, fold(pseudo), fold(body))
}

/// Turns an echo request into its reply.
#[inline(always)]
pub fn echo<P: Packet>(p: &mut P, v6: bool) -> Option<()> {
    turn_round(p)?;
    swap_addresses(p, v6)?;
    if v6 {
        const REQUEST: u32 = 128 << 8;
        const REPLY: u8 = 129;
        p.write(L3 + 7, &[TTL])?;
        let field = Checksum { offset: L4_V6 + 2, optional: false };
        p.update_l4_checksum(field, 0, delta(REQUEST, sum2([REPLY, 0])))?;
        p.write(L4_V6, &[REPLY])
    } else {
        let mut ip: Ipv4Hdr = p.read(L3)?;
        let ttl = delta(sum2([ip.ttl, 0]), sum2([TTL, 0]));
        ip.check = update(u16::from_be_bytes(ip.check), ttl).to_be_bytes();
        ip.ttl = TTL;
        p.write(L3, &ip)?;
        let mut icmp: Icmpv4Hdr = p.read(L4)?;
        icmp.check = update(u16::from_be_bytes(icmp.check), delta(0x0800, 0)).to_be_bytes();
        icmp.type_ = 0;
        p.write(L4, &icmp)
    }
}

/// Turns an ARP request into the reply that the address is at `mac`.
#[inline(always)]
pub fn arp<P: Packet>(p: &mut P, mac: Mac) -> Option<()> {
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

/// Turns a probe into its answer (`lb_common::probe` has the layout). What is swapped changes no checksum.
#[inline(always)]
pub fn probe<P: Packet>(p: &mut P, plan: &Plan) -> Option<()> {
    let l4 = if plan.v6 { L4_V6 } else { L4 };
    turn_round(p)?;
    swap_addresses(p, plan.v6)?;
    let [source, dest] = p.read::<[[u8; 2]; 2]>(l4)?;
    p.write(l4, &[dest, source])?;
    let message = l4 + UdpHdr::LEN;
    let kind = [VERSION, Kind::Answer as u8];
    let asked = sum2(p.read(message + 4)?) + sum_words(p.load(message + 32)?);
    let mut told = [0u8; 16];
    told[0] = plan.state as u8;
    told[2..8].copy_from_slice(&plan.mac.0);
    told[8..].copy_from_slice(&plan.rest.to_be_bytes());
    let answer = sum2(kind) + sum_words(told);
    let field = Checksum { offset: l4 + UDP_CHECK, optional: true };
    p.update_l4_checksum(field, 0, delta(asked, answer))?;
    p.write(message + 4, &kind)?;
    p.store(message + 32, &told)
}

/// Folded sum of sixteen bytes.
#[inline(always)]
fn sum_words(b: [u8; 16]) -> u32 {
    sum_addr(&Addr::new(b))
}
