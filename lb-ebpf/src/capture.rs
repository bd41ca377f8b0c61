//! Shows packets to somebody who listens (`viplb capture`): their first bytes as they came, and why they went no further.
//!
//! Packets that a flow forwards are never asked about, so that they cost the same whether anybody listens or not; the others
//! cost one array read when nobody does.

use lb_common::{reason::Reason, sample::Sample};

use crate::{
    packet::{Arrival, Packet},
    tables::Tables,
};

/// Shows the packet if somebody wants to see those that end in `reason`. Call it before the packet is rewritten.
#[inline(always)]
pub fn offer<P: Packet, T: Tables>(p: &P, t: &T, reason: Reason, at: &Arrival, egress: bool) {
    if t.capture().is_some_and(|c| c.wants(reason, at.now)) {
        take(p, t, reason, at, egress);
    }
}

#[inline(never)]
fn take<P: Packet, T: Tables>(p: &P, t: &T, reason: Reason, at: &Arrival, egress: bool) {
    let mut sample = Sample::new(at.now, at.ifindex, reason, egress);
    sample.length = p.length();
    sample.captured = p.head(&mut sample.head);
    t.sample(&sample);
}
