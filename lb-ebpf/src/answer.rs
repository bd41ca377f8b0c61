//! Frames turned into their answers, in place: resets, echo and ARP replies, neighbour advertisements, answers to
//! probes. `apply` calls.

use lb_common::{
    addr::{Addr, Mac, PROTO_ICMPV6, PROTO_TCP},
    checksum::{delta, fold, sum_addr, sum2, sum4, update},
    probe::{Kind, VERSION},
};
use network_types::{arp::ArpHdr, eth::EthHdr, icmp::Icmpv4Hdr, ip::Ipv4Hdr, tcp::TcpHdr, udp::UdpHdr};

use crate::{
    apply::{TCP_CHECK, UDP_CHECK},
    packet::{Checksum, Packet},
    parse::{L3, L4, L4_V6},
    plan::{Plan, Reset, Step},
};

/// TTL and hop limit of what is made here.
pub(crate) const TTL: u8 = 64;

/// Turns the frame into the answer that is planned.
///
/// The kinds of answers are functions of their own in the kernel as well: what they need of the stack, the way of forwarded
/// packets need not have.
#[inline(always)]
pub fn write<P: Packet>(p: &mut P, plan: &Plan) -> Option<()> {
    match plan.step {
        Step::Reset => reset(p, plan),
        Step::Echo => echo(p, plan.v6),
        Step::ArpReply => arp(p, plan.mac),
        Step::Advertisement => solicitation(p, plan.mac),
        Step::ProbeAnswer => probe(p, plan),
        Step::Undecided | Step::Pass | Step::Drop | Step::Nat | Step::Direct | Step::Relay => None,
        // Left to programs that plan anew.
        Step::Detour | Step::Foreign => None,
    }
}

/// Sends the frame back where it came from.
#[inline(always)]
pub(crate) fn turn_round<P: Packet>(p: &mut P) -> Option<()> {
    let mut eth: EthHdr = p.read(0)?;
    (eth.src_addr, eth.dst_addr) = (eth.dst_addr, eth.src_addr);
    p.write(0, &eth)
}

/// Swaps the IP addresses, which changes no checksum; gives their sum, unfolded, as a pseudo-header has it.
#[inline(always)]
fn swap_addresses<P: Packet>(p: &mut P, v6: bool) -> Option<u32> {
    if v6 {
        let [src, dst] = p.load::<[Addr; 2]>(L3 + 8)?;
        p.store(L3 + 8, &[dst, src])?;
        Some(sum_addr(&src) + sum_addr(&dst))
    } else {
        let [src, dst] = p.read::<[[u8; 4]; 2]>(L3 + 12)?;
        p.write(L3 + 12, &[dst, src])?;
        Some(sum4(src) + sum4(dst))
    }
}

/// Turns a segment into the reset that refuses it.
#[inline(never)]
fn reset<P: Packet>(p: &mut P, plan: &Plan) -> Option<()> {
    let l4 = if plan.v6 { L4_V6 } else { L4 };
    p.resize((l4 + TcpHdr::LEN) as u32)?;
    turn_round(p)?;
    let addrs = swap_addresses(p, plan.v6)?;
    if plan.v6 {
        p.write(L3, &[0x60, 0, 0, 0, 0, TcpHdr::LEN as u8, PROTO_TCP, TTL])?;
    } else {
        bare_ipv4(p, addrs)?;
    }
    reset_segment(p, l4, addrs, &plan.reset)
}

/// Rewrites an IPv4 header, addresses apart, for a bare TCP header.
#[inline(always)]
fn bare_ipv4<P: Packet>(p: &mut P, addrs: u32) -> Option<()> {
    const LENGTH: u8 = (Ipv4Hdr::LEN + TcpHdr::LEN) as u8;
    const DONT_FRAGMENT: u8 = 0x40;
    let sum = 0x4500 + u32::from(LENGTH) + sum2([DONT_FRAGMENT, 0]) + sum2([TTL, PROTO_TCP]) + addrs;
    let [high, low] = (!fold(sum)).to_be_bytes();
    p.write(L3, &[0x45, 0, 0, LENGTH, 0, 0, DONT_FRAGMENT, 0, TTL, PROTO_TCP, high, low])
}

#[inline(always)]
fn reset_segment<P: Packet>(p: &mut P, l4: usize, addrs: u32, r: &Reset) -> Option<()> {
    let [source, dest] = p.read::<[[u8; 2]; 2]>(l4)?;
    let numbers = [r.seq.to_be_bytes(), r.ack.to_be_bytes()];
    p.write(l4, &[dest, source])?;
    p.write(l4 + 4, &numbers)?;
    p.write(l4 + 12, &[5 << 4, r.flags, 0, 0, 0, 0, 0, 0])?;
    let pseudo = addrs + u32::from(PROTO_TCP) + TcpHdr::LEN as u32;
    let body = sum2(dest) + sum2(source) + sum4(numbers[0]) + sum4(numbers[1]) + sum2([5 << 4, r.flags]);
    p.set_l4_checksum(l4 + TCP_CHECK, fold(pseudo), fold(body))
}

/// Turns an echo request into its reply.
#[inline(never)]
fn echo<P: Packet>(p: &mut P, v6: bool) -> Option<()> {
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
#[inline(never)]
fn arp<P: Packet>(p: &mut P, mac: Mac) -> Option<()> {
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

/// Turns a neighbour solicitation into the advertisement that its target is at `mac` (RFC 4861 sections 4.4 and 7.2.4):
/// solicited and overriding, without the router flag, for a virtual address routes nothing. Who asks from the unspecified
/// address wants to take the target for itself; all nodes are told then.
#[inline(never)]
fn solicitation<P: Packet>(p: &mut P, mac: Mac) -> Option<()> {
    const ALL_NODES: Addr = Addr::new([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
    const ADVERTISEMENT: u8 = 136;
    const SOLICITED: u8 = 0x40;
    const OVERRIDE: u8 = 0x20;
    /// Header, target, and the option with the target's link-layer address.
    const LEN: u8 = 32;
    p.resize((L4_V6 + LEN as usize) as u32)?;
    let asked: EthHdr = p.read(0)?;
    let [sender, _] = p.load::<[Addr; 2]>(L3 + 8)?;
    let target: Addr = p.load(L4_V6 + 8)?;
    let (to, to_mac, flags) = if sender == Addr::default() {
        (ALL_NODES, ALL_NODES_MAC, OVERRIDE)
    } else {
        (sender, asked.src_addr, SOLICITED | OVERRIDE)
    };
    p.write(0, &EthHdr { src_addr: mac.0, dst_addr: to_mac, ..asked })?;
    p.write(L3, &[0x60, 0, 0, 0, 0, LEN, PROTO_ICMPV6, 255])?;
    p.store(L3 + 8, &[target, to])?;
    p.write(L4_V6, &[ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0])?;
    let [a, b, c, d, e, f] = mac.0;
    // By helper: what the frame grew by may lie outside of its linear part.
    p.store(L4_V6 + 24, &[2, 1, a, b, c, d, e, f])?;
    let pseudo = sum_addr(&target) + sum_addr(&to) + u32::from(LEN) + u32::from(PROTO_ICMPV6);
    let option = sum4([2, 1, a, b]) + sum4([c, d, e, f]);
    let body = sum2([ADVERTISEMENT, 0]) + sum2([flags, 0]) + sum_addr(&target) + option;
    p.set_l4_checksum(L4_V6 + 2, fold(pseudo), fold(body))
}

/// Turns a probe into its answer (`lb_common::probe` has the layout). What is swapped changes no checksum.
#[inline(never)]
fn probe<P: Packet>(p: &mut P, plan: &Plan) -> Option<()> {
    let l4 = if plan.v6 { L4_V6 } else { L4 };
    turn_round(p)?;
    swap_addresses(p, plan.v6)?;
    let [source, dest] = p.read::<[[u8; 2]; 2]>(l4)?;
    p.write(l4, &[dest, source])?;
    let message = l4 + UdpHdr::LEN;
    let kind = [VERSION, Kind::Answer as u8];
    let [a, b, c, d, e, f] = plan.mac.0;
    let rest = plan.rest.to_be_bytes();
    // Sixteen bytes, taken as an address is.
    let told = [plan.state as u8, 0, a, b, c, d, e, f];
    let told = Addr::from_halves(u64::from_ne_bytes(told), u64::from_ne_bytes(rest));
    let asked: Addr = p.load(message + 32)?;
    let changed = delta(sum2(p.read(message + 4)?) + sum_addr(&asked), sum2(kind) + sum_addr(&told));
    p.update_l4_checksum(Checksum { offset: l4 + UDP_CHECK, optional: true }, 0, changed)?;
    p.write(message + 4, &kind)?;
    p.store(message + 32, &told)
}
