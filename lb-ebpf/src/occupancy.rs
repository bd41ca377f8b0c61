//! Counts of connections: one more when a flow is opened, one less when it has ended, and each exactly once.
//!
//! `schedule` holds a place at a backend before the flow is recorded, so that of two processors that come for the last one only
//! one gets it. Whoever ends a flow calls [`Tables::release`], and may do so again: the mark in the record, which is cleared in
//! one step, says whether the flow still counts. Enders are `conntrack` (FIN, RST, a new SYN), `half_open` (thrown out, abandoned),
//! `balance` (not entered after all), and the daemon's collector.

use lb_common::occupancy::of_service;

use crate::tables::Tables;

/// Takes the flow in a slot off the counts, if it is on them. To be called as [`Tables::release`].
#[inline(always)]
pub fn release<T: Tables>(slot: u32, t: &T) {
    let Some(f) = t.flow(slot) else { return };
    let (backend, service) = (f.backend_id, f.service);
    if t.unmark(f) {
        t.leave(backend);
        t.leave(of_service(service));
    }
}
