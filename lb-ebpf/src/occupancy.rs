//! Counts of connections: one more when a flow is opened, one less when it has ended, and each exactly once.
//!
//! `schedule` holds a place at a backend before the flow is recorded, so that of two processors that come for the last one only
//! one gets it. Whoever ends a flow calls [`Tables::release`], and may do so again: the mark in the record, which is cleared in
//! one step, says whether the flow still counts. Enders are `conntrack` (FIN, RST, a new SYN), `half_open` (thrown out, abandoned),
//! `balance` (not entered after all), and the daemon's collector.

use lb_common::{
    access::{COUNT_ROWS, PaceKey},
    flow::Flow,
    occupancy::{of_client, of_service},
};

use crate::tables::Tables;

/// Holds a place for the client of a flow, if its service limits how many connections a client may have; whether there was one.
#[inline(always)]
pub fn hold_client<T: Tables>(f: &Flow, t: &T) -> bool {
    let Some((client, most)) = limited(f, t) else { return true };
    let mut least = i64::MAX;
    let mut row = 0;
    while row < COUNT_ROWS as usize {
        least = least.min(t.join(client[row]) as i64);
        row += 1;
    }
    let held = least < i64::from(most);
    if !held {
        leave(&client, t);
    }
    held
}

/// Gives it back.
#[inline(always)]
pub fn leave_client<T: Tables>(f: &Flow, t: &T) {
    if let Some((client, _)) = limited(f, t) {
        leave(&client, t);
    }
}

#[inline(always)]
fn leave<T: Tables>(client: &[u32; COUNT_ROWS as usize], t: &T) {
    let mut row = 0;
    while row < COUNT_ROWS as usize {
        t.leave(client[row]);
        row += 1;
    }
}

/// The counts of a flow's client, and what they may come to.
#[inline(always)]
fn limited<T: Tables>(f: &Flow, t: &T) -> Option<([u32; COUNT_ROWS as usize], u32)> {
    let limits = t.limits(f.service).filter(|limits| limits.connections != 0)?;
    Some((of_client(&PaceKey::new(f.service, &f.client, limits)), limits.connections))
}

/// Takes the flow in a slot off the counts, if it is on them. To be called as [`Tables::release`].
#[inline(always)]
pub fn release<T: Tables>(slot: u32, t: &T) {
    let Some(f) = t.flow(slot) else { return };
    let (backend, service) = (f.backend_id, f.service);
    if t.unmark(f) {
        t.leave(backend);
        t.leave(of_service(service));
        leave_client(f, t);
    }
}
