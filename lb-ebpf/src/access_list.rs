//! Whether a client may open a flow: its address by the service's rules, its pace by the service's limit.
//!
//! `service` asks before a backend is chosen. In the kernel it is a function verified by itself.

use lb_common::{
    access::{ALLOW, AccessKey, PaceKey, REFUSE, paced},
    addr::Addr,
    reason::Reason,
};

use crate::tables::Tables;

/// Writes of a client's word that are tried: more fail only while as many other processors open flows of the same client, and one
/// too many then does no harm.
const TRIES: u32 = 3;

/// Why the client may not open a flow, if so.
#[inline(always)]
pub fn admit<T: Tables>(service: u32, client: &Addr, now: u64, t: &T) -> Result<(), Reason> {
    let Some(limits) = t.limits(service) else { return Ok(()) };
    if limits.rules != 0 {
        match t.access(&AccessKey::new(service, client)) {
            None | Some(ALLOW) => {}
            Some(REFUSE) => return Err(Reason::AccessRefused),
            Some(_) => return Err(Reason::AccessDenied),
        }
    }
    if limits.interval == 0 {
        return Ok(());
    }
    // Of two processors' readings one may be behind the other by more than a client is early. (The greater of both: an argument that
    // a global function has no use for is left undefined by its callers, which the verifier refuses.)
    let now = t.precise(now).max(now);
    let key = PaceKey::new(service, client, limits);
    let mut tries = 0;
    while tries < TRIES {
        let Some(due) = t.client_due(&key) else {
            t.add_client(&key, now.wrapping_add(limits.interval));
            return Ok(());
        };
        let Some(next) = paced(due, now, limits) else { return Err(Reason::ClientRate) };
        if t.exchange_client_due(&key, due, next) {
            return Ok(());
        }
        tries += 1;
    }
    Ok(())
}
