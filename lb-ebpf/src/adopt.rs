//! Connections that a new owner does not know: the one before it had them established in its last moment, and told nobody.
//!
//! `service` calls: where a service says so, a segment in the middle of such a connection opens a flow, for a short while after the
//! address has come here. That is of use where the backend that is picked is the one that has the connection, and where it is
//! reached under the client's own address and port; the configuration is refused elsewhere. A wrong backend answers by RST, as this
//! node would have.
//!
//! Anybody can make such a segment up. So the flow waits among the half-open ones, whose number is bounded, until its backend has
//! answered it by something else than RST.

use lb_common::{
    flow::{ADOPTED, TIMED},
    service::Service,
};

use crate::{
    parse::{Ip, flag},
    tables::Tables,
};

/// Whether a segment of no known flow may open one at `now`: not one that begins or ends a connection.
#[inline(always)]
pub fn may<T: Tables>(ip: &Ip, service: &Service, t: &T, now: u64) -> bool {
    let flags = ip.tcp.flags & (flag::ACK | flag::SYN | flag::RST | flag::FIN);
    service.adopts != 0
        && flags == flag::ACK
        && t.lease(service.router).is_some_and(|lease| now < lease.adopt_until)
}

/// Makes a flow that was opened as if by a SYN what it is. Its numbers are the segment's; how fast its backend answers is not to be
/// learned from it.
#[inline(always)]
pub fn mark<T: Tables>(slot: u32, ip: &Ip, t: &T) {
    if let Some(f) = t.flow(slot) {
        f.backend_next = ip.tcp.ack;
        f.flags |= ADOPTED | TIMED;
    }
}
