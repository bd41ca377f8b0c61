//! What the end of a flow undoes: its keys, and what was counted or taken for it.
//!
//! Everybody in the packet path who ends a flow comes to [`ended`] by `Tables::end_flow` (`half_open`: thrown out, abandoned; `conntrack`: retired); the
//! daemon's collector (`lb-userspace/src/datapath/flows.rs`) does the same by other means. Two may end a flow at once. The
//! kernel removes a key once, and whoever it was that removed it undoes what goes with it.

use lb_common::flow::{Flow, FlowRef};

use crate::{ports, tables::Tables};

/// Takes out the keys that lead to this flow, and gives back what it had. The client's port may have a newer flow by now, and
/// so its keys may lead elsewhere.
#[inline(always)]
pub fn ended<T: Tables>(f: &mut Flow, slot: u32, t: &T) {
    let generation = f.generation;
    let ours = |r: &FlowRef| r.slot == slot && r.generation == generation;
    let forward = f.forward_key();
    if t.flow_ref(&forward).is_some_and(ours) {
        t.remove_key(&forward);
    }
    let reverse = f.reverse_key();
    if t.flow_ref(&reverse).is_some_and(ours) && t.remove_key(&reverse) {
        ports::leave(f, t);
    }
    t.release(slot);
}
