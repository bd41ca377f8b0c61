//! What this node may do with a packet for a virtual address: by the lease, or without it while one hands over to another.
//!
//! After giving up the lease the old owner *relays* what still comes to it, and a moment before already what belongs to no flow that it
//! knows; the new one takes what the old one relays even
//! before it has the lease itself, as a *delegate*. Both end by deadlines that the VRRP thread writes. ARP and neighbour
//! discovery know no such exception: they ask [`Tables::owns`].

use lb_common::{addr::Mac, clock::BEHIND, lease::Lease, reach::NO_ROUTER, reason::Reason};

use crate::{
    packet::{Arrival, Packet},
    parse::Ip,
    plan::{Plan, Step},
    tables::Tables,
};

/// What this node may do with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Anything.
    Owner,
    /// Forward it and answer it, but by the route to its sender: its link-layer source is the node that relayed it.
    Delegate,
    /// Send it on to the peer that the address was handed to.
    Relay,
    /// Nothing.
    Nothing,
}

/// What this node may do with a packet for an address of `router`. Without a router the address is its own, and nobody else
/// answers for it. (The number is out of the array's bounds, so that packets under a lease are not asked twice.)
#[inline(always)]
pub fn right<P: Packet, T: Tables>(p: &P, t: &T, router: u32, now: u64) -> Right {
    let Some(lease) = t.lease(router) else {
        return if router == NO_ROUTER { Right::Owner } else { Right::Nothing };
    };
    if is_valid(lease, t, now) { Right::Owner } else { without_lease(p, lease, t.precise(now)) }
}

/// Likewise with a packet of no known flow: an owner that is handing over leaves what begins to its successor, some milliseconds before the
/// rest. The lease's own end is precise; this deadline need not be.
#[inline(always)]
pub fn right_to_begin<P: Packet, T: Tables>(p: &P, t: &T, router: u32, now: u64) -> Right {
    let right = right(p, t, router, now);
    if right == Right::Owner
        && t.lease(router).is_some_and(|lease| lease.relay_until > now && hands_over(p, lease))
    {
        return Right::Relay;
    }
    right
}

#[inline(never)]
fn hands_over<P: Packet>(p: &P, lease: &Lease) -> bool {
    p.load::<[[u8; 6]; 2]>(0).is_some_and(|[_, from]| from != lease.relay.0)
}

/// As [`Lease::is_valid`], of a time that may be a little behind: near the lease's end the precise one is asked for.
#[inline(always)]
fn is_valid<T: Tables>(lease: &Lease, t: &T, now: u64) -> bool {
    if lease.until > now && lease.until - now < BEHIND {
        return lease.is_valid(t.precise(now));
    }
    lease.is_valid(now)
}

#[inline(never)]
fn without_lease<P: Packet>(p: &P, lease: &Lease, now: u64) -> Right {
    let (delegate, relay) = (lease.delegate_until > now, lease.relay_until > now);
    if !delegate && !relay {
        return Right::Nothing;
    }
    let Some([_, from]) = p.load::<[[u8; 6]; 2]>(0) else { return Right::Nothing };
    if delegate && from == lease.delegate.0 {
        Right::Delegate
    } else if relay && from != lease.relay.0 {
        // Never back to where it came from: two nodes that each take the other for the owner would play it to and fro.
        Right::Relay
    } else {
        Right::Nothing
    }
}

/// The plan for a packet that this node may at best relay.
#[inline(always)]
pub fn instead<T: Tables>(right: Right, ip: &Ip, router: u32, t: &T, at: &Arrival) -> Plan {
    if right != Right::Relay {
        return Plan::drop(Reason::NotOwner);
    }
    // Each relay takes one off, so that no ring of nodes keeps a packet for ever.
    if ip.ttl <= 1 {
        return Plan::drop(Reason::TtlExpired);
    }
    let to = t.lease(router).map_or(Mac::default(), |lease| lease.relay);
    match t.interface(at.ifindex) {
        Some(interface) => Plan::relay(to, interface.mac),
        None => Plan::drop(Reason::NotOwner),
    }
}

/// The plan for a packet that this node takes as a delegate: answers go by the route, and nothing goes to the node's own
/// stack, which may not have the address.
#[inline(always)]
pub fn delegated(plan: Plan) -> Plan {
    if plan.step == Step::Pass { Plan::drop(Reason::NotOwner) } else { Plan { routed: true, ..plan } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Buffer, Memory};

    #[test]
    fn a_lease_that_ran_out_since_the_last_tick_is_over_for_packets_and_for_arp() {
        let mut tables = Memory::new(1);
        let packet = Buffer::new(vec![0; 60]);
        let until = 1_000 * BEHIND;
        tables.set_lease(0, Lease { until, term: 1, ..Lease::default() });
        for (now, behind, expected) in [
            (until - BEHIND, BEHIND - 1, Right::Owner),
            (until - BEHIND + 1, BEHIND - 2, Right::Owner),
            (until - BEHIND + 1, BEHIND - 1, Right::Nothing),
            (until - 1, 0, Right::Owner),
            (until - 1, 1, Right::Nothing),
            (until, 0, Right::Nothing),
        ] {
            tables.behind = behind;
            assert_eq!(right(&packet, &tables, 0, now), expected, "{} before the end", until - now);
            assert_eq!(tables.owns(0, now), expected == Right::Owner, "{} before the end", until - now);
        }
    }

    #[test]
    fn an_owner_that_hands_over_leaves_to_the_other_what_begins_but_not_what_comes_from_there() {
        let mut tables = Memory::new(1);
        let from = |mac: [u8; 6]| Buffer::new([&[0; 6][..], &mac, &[0; 48]].concat());
        let (now, peer) = (1_000 * BEHIND, [2, 0, 0, 0, 0, 8]);
        for (until, relay_until, source, known, begins) in [
            (now + 1, 0, [9; 6], Right::Owner, Right::Owner),
            (now + 1, now + 1, [9; 6], Right::Owner, Right::Relay),
            (now + 1, now + 1, peer, Right::Owner, Right::Owner),
            (now, now + 1, [9; 6], Right::Relay, Right::Relay),
            (now, 0, [9; 6], Right::Nothing, Right::Nothing),
        ] {
            tables.set_lease(0, Lease { until, relay_until, relay: Mac(peer), term: 1, ..Lease::default() });
            assert_eq!(right(&from(source), &tables, 0, now), known);
            assert_eq!(right_to_begin(&from(source), &tables, 0, now), begins, "from {source:?}");
        }
    }
}
