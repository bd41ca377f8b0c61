//! A virtual router's own hardware address (RFC 9568 section 7.3), which no interface has: frames to it look to the kernel
//! like frames for another host. Those for a virtual address at it are taken in all the same.

use lb_common::{
    addr::{Addr, Mac},
    service::Vip,
};

use crate::{
    packet::{Arrival, Packet},
    parse::{Frame, L3},
    tables::Tables,
};

/// Whether a frame for "another host" is for a virtual address at its virtual hardware address.
#[inline(never)]
pub fn is_for<P: Packet, T: Tables>(p: &P, t: &T, frame: Frame, destination: &Addr) -> bool {
    let Some(to) = p.load::<[u8; 6]>(0) else { return false };
    if !Mac(to).is_virtual_router() {
        return false;
    }
    let target = match frame {
        Frame::Arp => p.load::<[u8; 4]>(L3 + 24).map_or(Addr::default(), Addr::v4),
        Frame::Ip => *destination,
        Frame::Other => return false,
    };
    t.virtual_address(&target).is_some_and(|vip| vip.mac.0 == to)
}

/// Where a virtual address is said to be: at its virtual hardware address, else at the interface's.
#[inline(always)]
pub fn of<T: Tables>(vip: &Vip, t: &T, at: &Arrival) -> Option<Mac> {
    if vip.mac == Mac::default() { t.interface(at.ifindex).map(|i| i.mac) } else { Some(vip.mac) }
}
