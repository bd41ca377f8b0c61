//! Packet memory and checksums for the XDP front end.
//!
//! A frame is plain memory here, checksums are edited in place, and nobody says whom it was addressed to: its destination is
//! compared with the interface's hardware address. Frames with an unfinished checksum are not for this front end (`fast`).

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS,
        BPF_FIB_LOOKUP_OUTPUT, bpf_fib_lookup as Lookup,
    },
    helpers::{bpf_fib_lookup, bpf_xdp_adjust_tail, bpf_xdp_load_bytes, bpf_xdp_store_bytes},
    programs::XdpContext,
};
use core::mem::{MaybeUninit, zeroed};

use lb_common::{
    addr::{Addr, Mac},
    checksum::{fold, update},
    fast::Left,
    flow::FlowKey,
    sample::HEAD,
};
use lb_ebpf::{
    Tables,
    fast::{Hop, Hops, Way},
    packet::{Checksum, Delivery, Packet, Plain, Room},
};

use crate::maps::Kernel;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// A frame as a driver hands it over.
pub struct Frame<'a> {
    ctx: &'a XdpContext,
    delivery: Delivery,
    handed: [u32; 2],
}

impl<'a> Frame<'a> {
    /// The frame, unless its interface is unknown.
    #[inline(always)]
    pub fn new(ctx: &'a XdpContext) -> Option<Self> {
        let mut frame = Self { ctx, delivery: Delivery::Other, handed: [0; 2] };
        let to = frame.read::<[u8; 6]>(0)?;
        if Kernel.interface(frame.ifindex())?.mac.0 == to {
            frame.delivery = Delivery::Host;
        } else if to[0] & 1 == 1 {
            frame.delivery = Delivery::Group;
        }
        Some(frame)
    }

    /// Interface the frame came in by.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        self.ctx.ingress_ifindex() as u32
    }

    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        let start = self.ctx.data();
        if start + offset + size_of::<T>() > self.ctx.data_end() {
            return None;
        }
        Some((start + offset) as *mut T)
    }

    #[inline(always)]
    fn edit(&mut self, offset: usize, f: impl FnOnce(u16) -> u16) -> Option<()> {
        let field = self.read::<[u8; 2]>(offset)?;
        self.write(offset, &f(u16::from_be_bytes(field)).to_be_bytes())
    }
}

impl Packet for Frame<'_> {
    #[inline(always)]
    fn length(&self) -> u32 {
        (self.ctx.data_end() - self.ctx.data()) as u32
    }

    #[inline(always)]
    fn delivery(&self) -> Delivery {
        self.delivery
    }

    #[inline(always)]
    fn read<T: Plain>(&self, offset: usize) -> Option<T> {
        // SAFETY: `at` has checked the bounds; `Plain` allows any alignment and bit pattern.
        self.at::<T>(offset).map(|p| unsafe { super::read(p) })
    }

    #[inline(always)]
    fn write<T: Plain>(&mut self, offset: usize, value: &T) -> Option<()> {
        // SAFETY: `at` has checked the bounds; `Plain` allows any alignment.
        self.at::<T>(offset).map(|p| unsafe { super::write(p, value) })
    }

    #[inline(always)]
    fn load<T: Plain>(&self, offset: usize) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        let (to, length) = (value.as_mut_ptr().cast(), size_of::<T>() as u32);
        // SAFETY: the context is the one the program was called with; the helper fills the value or fails, and `Plain`
        // allows any bit pattern.
        unsafe {
            let done = bpf_xdp_load_bytes(self.ctx.ctx, offset as u32, to, length);
            (done == 0).then(|| value.assume_init())
        }
    }

    #[inline(always)]
    fn store<T: Plain>(&mut self, offset: usize, value: &T) -> Option<()> {
        let (from, length) = ((&raw const *value).cast::<T>().cast_mut().cast(), size_of::<T>() as u32);
        // SAFETY: the context is the one the program was called with; `Plain` has no padding, and the helper only reads.
        let done = unsafe { bpf_xdp_store_bytes(self.ctx.ctx, offset as u32, from, length) };
        (done == 0).then_some(())
    }

    /// XDP is not told of a tag that hardware has taken out (docs/operations.md); one in the frame is another protocol.
    #[inline(always)]
    fn tagged(&self) -> bool {
        false
    }

    #[inline(always)]
    fn head(&self, to: &mut [u8; HEAD]) -> u16 {
        // Never zero, as on TC.
        let length = self.length().wrapping_sub(1).min(HEAD as u32 - 1) + 1;
        // SAFETY: the context is the one the program was called with; `length` is no more than there is room for.
        let done = unsafe { bpf_xdp_load_bytes(self.ctx.ctx, 0, to.as_mut_ptr().cast(), length) };
        if done == 0 { length as u16 } else { 0 }
    }

    #[inline(always)]
    fn update_l4_checksum(&mut self, field: Checksum, pseudo: u16, body: u16) -> Option<()> {
        self.edit(field.offset, |c| match update(update(c, pseudo), body) {
            _ if field.optional && c == 0 => 0,
            0 if field.optional => 0xffff,
            sum => sum,
        })
    }

    #[inline(always)]
    fn set_l4_checksum(&mut self, offset: usize, pseudo: u16, body: u16) -> Option<()> {
        self.edit(offset, |_| !fold(u32::from(pseudo) + u32::from(body)))
    }

    /// There is none at hand.
    #[inline(always)]
    fn amend_frame_sum(&mut self, _: u16) {}

    #[inline(always)]
    fn take_in(&mut self) {
        self.delivery = Delivery::Host;
    }

    #[inline(always)]
    fn resize(&mut self, length: u32) -> Option<()> {
        let more = length as i32 - self.length() as i32;
        // SAFETY: the context is the one the program was called with.
        (unsafe { bpf_xdp_adjust_tail(self.ctx.ctx, more) } == 0).then_some(())
    }

    /// A frame here leaves as it is.
    #[inline(always)]
    fn segment_size(&self) -> u32 {
        0
    }

    /// Refused: `fast` leaves packets that need room to TC.
    #[inline(always)]
    fn make_room(&mut self, _: Room) -> Option<()> {
        None
    }

    /// Refused, likewise.
    #[inline(always)]
    fn change_family(&mut self, _: bool) -> Option<()> {
        None
    }

    /// Such frames `fast` has left to TC.
    #[inline(always)]
    fn is_unfinished(&mut self, _: usize) -> bool {
        false
    }

    /// Asked of what belongs to no flow only, which `fast` has left to TC.
    #[inline(always)]
    fn has_socket(&self, _: &FlowKey) -> bool {
        true
    }

    #[inline(always)]
    fn leave_to(&self, _: u32) {}

    #[inline(always)]
    fn hand_on(&mut self, words: [u32; 2]) {
        self.handed = words;
    }

    #[inline(always)]
    fn handed(&self) -> [u32; 2] {
        self.handed
    }

    /// Nothing that has anything to say is left to another program here.
    #[inline(always)]
    fn note(&mut self, _: [u32; 2]) {}

    #[inline(always)]
    fn noted(&self) -> [u32; 2] {
        [0; 2]
    }
}

impl Hops for XdpHops<'_> {
    /// As the kernel would send the packet out by the interface. It answers only where forwarding is switched on.
    #[inline(always)]
    fn next(&self, way: &Way<'_>) -> Result<Hop, Left> {
        // SAFETY: integers and byte arrays, for which zero is a value.
        let mut ask: Lookup = unsafe { zeroed() };
        ask.ifindex = way.ifindex;
        ask.__bindgen_anon_1.tot_len = way.length as u16;
        if way.v6 {
            ask.family = AF_INET6;
            ask.__bindgen_anon_3.ipv6_src = halves(way.src);
            ask.__bindgen_anon_4.ipv6_dst = halves(way.dst);
        } else {
            ask.family = AF_INET;
            ask.__bindgen_anon_3.ipv4_src = way.src.v4_word();
            ask.__bindgen_anon_4.ipv4_dst = way.dst.v4_word();
        }
        let size = size_of::<Lookup>() as i32;
        // SAFETY: the context is the one the program was called with, and the structure has the size given.
        let answer =
            unsafe { bpf_fib_lookup(self.0.ctx.cast(), &raw mut ask, size, BPF_FIB_LOOKUP_OUTPUT) } as u32;
        match answer {
            BPF_FIB_LKUP_RET_SUCCESS => Ok(Hop { to: Mac(ask.dmac), from: Mac(ask.smac) }),
            BPF_FIB_LKUP_RET_NO_NEIGH => Err(Left::NoNeighbour),
            BPF_FIB_LKUP_RET_FRAG_NEEDED => Err(Left::TooLong),
            _ => Err(Left::NoRoute),
        }
    }
}

/// Routes and neighbours of the namespace of the frame's interface.
pub struct XdpHops<'a>(pub &'a XdpContext);

/// The bytes as they lie in memory.
#[inline(always)]
const fn halves(a: &Addr) -> [u32; 4] {
    // SAFETY: integers of the same size altogether.
    unsafe { core::mem::transmute(a.words()) }
}
