//! The XDP fast path: packets of known flows that can leave at once, in front of the TC programs of the same interface.
//!
//! Whatever it cannot do it leaves exactly as it came, uncounted, and the TC programs do it: they resolve neighbours, carry
//! offloaded frames and answer. So nothing may be changed, in the frame or in the flow, before everything is known that the
//! packet needs.

use lb_common::{
    addr::{Addr, Mac, PROTO_UDP},
    fast::Left,
    flow::{FORWARD, Flow},
};

use crate::{
    Packet, Tables,
    apply::{TCP_CHECK, UDP_CHECK, apply_known, unfinished_sum},
    conntrack,
    packet::{Arrival, Delivery},
    parse::{self, Frame, Ip},
    plan::{Action, Step},
    virtual_mac,
};

/// Where a packet would go.
#[derive(Debug, Clone, Copy)]
pub struct Way<'a> {
    /// Its source once it is rewritten.
    pub src: &'a Addr,
    /// Its destination, likewise.
    pub dst: &'a Addr,
    /// IPv6.
    pub v6: bool,
    /// Length of the IP packet.
    pub length: u32,
    /// The interface it leaves by.
    pub ifindex: u32,
}

/// Hardware addresses of the frame that leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hop {
    /// The next hop's.
    pub to: Mac,
    /// The interface's.
    pub from: Mac,
}

/// The kernel's routes and neighbours.
pub trait Hops {
    /// The next hop, if it is known and takes a packet of this length.
    fn next(&self, way: &Way<'_>) -> Result<Hop, Left>;
}

/// Forwards a packet of a known flow and counts it; gives what the front end does. Or why the frame goes on to TC as it is.
#[inline(always)]
pub fn forward<P: Packet, T: Tables, H: Hops>(
    p: &mut P,
    t: &T,
    at: &Arrival,
    hops: &H,
) -> Result<Action, Left> {
    let mut ip = Ip::default();
    let frame = parse::parse(p, &mut ip);
    if p.delivery() == Delivery::Other && virtual_mac::is_for(p, t, frame, &ip.key.dst) {
        p.take_in();
    }
    // A SYN may open a flow, or open one anew: TC has more to say to it than to send it on.
    if frame != Frame::Ip || p.delivery() != Delivery::Host || ip.tcp.opens() {
        return Err(Left::NotKnown);
    }
    let mut hop = Err(Left::NotKnown);
    let mut plan = conntrack::known_if(&ip, p, t, at, |f, direction| {
        hop = next(p, t, at, hops, &ip, f, direction);
        hop.is_ok()
    });
    if plan.step != Step::Nat {
        return Err(hop.err().unwrap_or(Left::NotKnown));
    }
    plan.v6 = ip.v6;
    let verdict = apply_known(p, t, &plan, at.ifindex, Some(ip.segment()));
    t.count(verdict.reason);
    match (verdict.action, hop) {
        (Action::Route(ifindex), Ok(hop)) if p.store(0, &[hop.to.0, hop.from.0]).is_some() => {
            Ok(Action::Send(ifindex))
        }
        _ => Ok(Action::Drop),
    }
}

#[inline(always)]
fn next<P: Packet, T: Tables, H: Hops>(
    p: &P,
    t: &T,
    at: &Arrival,
    hops: &H,
    ip: &Ip,
    f: &Flow,
    direction: u8,
) -> Result<Hop, Left> {
    // Half-open flows take more than sending on, and direct return another next hop.
    if f.place != 0 || f.mode().is_one_way() {
        return Err(Left::NotKnown);
    }
    if !f.takes(ip.length) {
        return Err(Left::TooLong);
    }
    if is_due_for_tc(f, at.now) {
        return Err(Left::Due);
    }
    if is_unfinished(p, ip) {
        return Err(Left::Unfinished);
    }
    let (src, dst, ifindex) = if direction == FORWARD {
        (&f.snat, &f.backend, f.backend_if)
    } else {
        (&f.vip, &f.client, f.client_if)
    };
    if !t.interface(at.ifindex).is_some_and(|i| i.leads_to(ifindex)) {
        return Err(Left::NoWay);
    }
    hops.next(&Way { src, dst, v6: ip.v6, length: ip.length, ifindex })
}

/// The first packet of a flow in each 4.3 s goes by TC: only there does the kernel notice that a neighbour is in use, and
/// asks whether it is still where it was. By XDP alone a stale entry would be believed for ever.
#[inline(always)]
const fn is_due_for_tc(f: &Flow, now: u64) -> bool {
    (f.seen ^ now) >> 32 != 0
}

/// Whether the layer-4 checksum is still to be completed (CHECKSUM_PARTIAL): the field holds the folded sum of the
/// pseudo-header then. XDP is not told. Of finished checksums one in 65,536 looks the same, and takes the way by TC.
#[inline(always)]
fn is_unfinished<P: Packet>(p: &P, ip: &Ip) -> bool {
    let check = if ip.key.proto == PROTO_UDP { UDP_CHECK } else { TCP_CHECK };
    let unfinished = unfinished_sum(&ip.key.src, &ip.key.dst, ip.key.proto, ip.segment());
    p.read::<[u8; 2]>(ip.l4() + check).is_none_or(|field| u16::from_be_bytes(field) == unfinished)
}
