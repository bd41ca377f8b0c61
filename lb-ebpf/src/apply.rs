//! Writes a plan into the packet: here what is sent on, in `answer` what is turned into an answer. Layer-4 checksum first:
//! on TC that is a kernel helper which looks at the packet as it still is, and after which every pointer into it has to be
//! taken anew.

use lb_common::{
    addr::{Addr, PROTO_UDP, Port},
    checksum::{delta, fold, sum_addr, update},
    flow::{FORWARD, Flow},
    mode::Mode,
    reason::Reason,
};

use crate::{
    answer,
    packet::{Checksum, Packet},
    parse::{L3, L4, L4_V6},
    plan::{Action, Plan, Step, Verdict},
    tables::Tables,
};

/// Offset of the checksum in a TCP header.
pub(crate) const TCP_CHECK: usize = 16;
/// Offset of the checksum in a UDP header.
pub(crate) const UDP_CHECK: usize = 6;

/// Rewrites the packet as planned.
#[inline(always)]
pub fn apply<P: Packet, T: Tables>(p: &mut P, t: &T, plan: &Plan, ifindex: u32) -> Verdict {
    match plan.step {
        Step::Undecided | Step::Pass | Step::Drop | Step::Nat | Step::Direct | Step::Relay => {
            apply_known(p, t, plan, ifindex, None)
        }
        _ => {
            let action = if plan.routed { Action::Route(ifindex) } else { Action::Send(ifindex) };
            verdict(plan, answer::write(p, plan).map(|()| action))
        }
    }
}

/// Likewise, of a plan that answers nothing: all that there is for packets of known flows. Given the length of the packet without its
/// network header, it is done in less time and with more stack.
#[inline(always)]
pub fn apply_known<P: Packet, T: Tables>(
    p: &mut P,
    t: &T,
    plan: &Plan,
    ifindex: u32,
    segment: Option<u16>,
) -> Verdict {
    let action = match plan.step {
        Step::Drop => Some(Action::Drop),
        Step::Nat => nat(p, t, plan, segment).map(Action::Route),
        Step::Direct => direct(p, t, plan),
        Step::Relay => relay(p, plan).map(|()| Action::Send(ifindex)),
        _ => Some(Action::Pass),
    };
    verdict(plan, action)
}

#[inline(always)]
pub(crate) fn verdict(plan: &Plan, action: Option<Action>) -> Verdict {
    match action {
        Some(action) => Verdict { reason: plan.reason, action },
        None => Verdict { reason: Reason::RewriteFailed, action: Action::Drop },
    }
}

/// New addresses and ports of a packet.
pub(crate) struct Rewrite<'a> {
    pub(crate) src: &'a Addr,
    pub(crate) dst: &'a Addr,
    pub(crate) sport: Port,
    pub(crate) dport: Port,
    pub(crate) addr_delta: u16,
    pub(crate) port_delta: u16,
    pub(crate) ifindex: u32,
}

/// The rewrite of a packet of `f` in one direction.
#[inline(always)]
pub(crate) fn rewrite(f: &Flow, direction: u8) -> Rewrite<'_> {
    if direction == FORWARD {
        Rewrite {
            src: &f.snat,
            dst: &f.backend,
            sport: f.snat_port,
            dport: f.backend_port,
            addr_delta: f.addr_delta,
            port_delta: f.port_delta,
            ifindex: f.backend_if,
        }
    } else {
        Rewrite {
            src: &f.vip,
            dst: &f.client,
            sport: f.vip_port,
            dport: f.client_port,
            addr_delta: !f.addr_delta,
            port_delta: !f.port_delta,
            ifindex: f.client_if,
        }
    }
}

/// What a layer-4 checksum field holds while the checksum is still to be completed (CHECKSUM_PARTIAL): the folded sum of the
/// pseudo-header. Of finished checksums one in 65,536 looks the same.
#[inline(always)]
pub(crate) fn unfinished_sum(src: &Addr, dst: &Addr, proto: u8, length: u16) -> u16 {
    // The words 0xffff in mapped IPv4 addresses are zero in ones' complement.
    fold(sum_addr(src) + sum_addr(dst) + u32::from(proto) + u32::from(length))
}

/// Gives the packet its new addresses and ports; gives the interface that it leaves by.
#[inline(always)]
fn nat<P: Packet, T: Tables>(p: &mut P, t: &T, plan: &Plan, segment: Option<u16>) -> Option<u32> {
    let f = t.flow(plan.slot)?;
    let udp = f.proto == PROTO_UDP;
    let new = rewrite(f, plan.direction);
    let old = if plan.direction == FORWARD { (&f.client, &f.vip) } else { (&f.backend, &f.snat) };
    let check = if udp { UDP_CHECK } else { TCP_CHECK };
    let l4 = if plan.v6 { L4_V6 } else { L4 };
    let field = Checksum { offset: l4 + check, optional: udp };
    if let Some(segment) = segment {
        let unfinished = unfinished_sum(old.0, old.1, f.proto, segment);
        p.update_known_l4_checksum(field, unfinished, new.addr_delta, new.port_delta)?;
    } else {
        p.update_l4_checksum(field, new.addr_delta, new.port_delta)?;
    }
    if plan.v6 {
        p.write(L4_V6, &[new.sport.0, new.dport.0])?;
        addresses_v6(p, new.src, new.dst, new.addr_delta)?;
    } else {
        p.write(L4, &[new.sport.0, new.dport.0])?;
        addresses_v4(p, new.src, new.dst, new.addr_delta)?;
    }
    Some(new.ifindex)
}

/// Gives an IPv4 packet new addresses, which change the sum of its words by `addr_delta`, and takes a hop off.
#[inline(always)]
pub(crate) fn addresses_v4<P: Packet>(p: &mut P, src: &Addr, dst: &Addr, addr_delta: u16) -> Option<()> {
    let word = u32::from_be_bytes(p.read(L3 + 8)?);
    // The TTL is the high byte of its word: one less is a delta of −0x0100.
    let changed = fold(u32::from(addr_delta) + u32::from(delta(0x0100, 0)));
    let check = update(word as u16, changed);
    let word = (word & 0xffff_0000).wrapping_sub(0x0100_0000) | u32::from(check);
    p.write(L3 + 8, &word.to_be_bytes())?;
    p.write(L3 + 12, &src.v4_word().to_ne_bytes())?;
    p.write(L3 + 16, &dst.v4_word().to_ne_bytes())
}

/// Likewise of an IPv6 packet.
#[inline(never)]
pub(crate) fn addresses_v6<P: Packet>(p: &mut P, src: &Addr, dst: &Addr, addr_delta: u16) -> Option<()> {
    const HOPS: usize = L3 + 7;
    // The hop limit is the low byte of its word.
    p.amend_frame_sum(fold(u32::from(addr_delta) + u32::from(delta(1, 0))));
    let [hops] = p.read::<[u8; 1]>(HOPS)?;
    p.write(HOPS, &[hops.wrapping_sub(1)])?;
    p.store(L3 + 8, &[*src, *dst])
}

/// Leaves the packet to its flow's backend as it is. That the backend is this node's own stack is asked only here: a step of its
/// own would be a state more for the verifier to follow from each place that plans.
#[inline(always)]
fn direct<P: Packet, T: Tables>(p: &mut P, t: &T, plan: &Plan) -> Option<Action> {
    if t.flow(plan.slot)?.mode() == Mode::Local {
        return Some(Action::Pass);
    }
    one_hop_less(p, plan.v6).map(|()| Action::Backend(plan.slot))
}

/// Sends the frame on to another node of this link, one hop later.
#[inline(never)]
fn relay<P: Packet>(p: &mut P, plan: &Plan) -> Option<()> {
    one_hop_less(p, plan.v6)?;
    p.store(0, &[plan.mac.0, plan.from.0])
}

/// Takes one off the TTL. Where nothing is translated, this is what ends a ring of nodes that forward to each other.
#[inline(never)]
pub(crate) fn one_hop_less<P: Packet>(p: &mut P, v6: bool) -> Option<()> {
    if v6 {
        p.amend_frame_sum(delta(1, 0));
        let [hops] = p.read::<[u8; 1]>(L3 + 7)?;
        p.write(L3 + 7, &[hops.wrapping_sub(1)])
    } else {
        let [ttl, proto, high, low] = p.read::<[u8; 4]>(L3 + 8)?;
        let [high, low] = update(u16::from_be_bytes([high, low]), delta(0x0100, 0)).to_be_bytes();
        p.write(L3 + 8, &[ttl.wrapping_sub(1), proto, high, low])
    }
}
