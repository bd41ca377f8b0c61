//! Packet memory and checksums for the TC front end.
//!
//! Every access derives its pointer anew from `skb->data`: helpers that change the packet invalidate all older ones,
//! and the verifier holds us to it.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{
        bpf_csum_update, bpf_l4_csum_replace, bpf_sk_release, bpf_skb_adjust_room, bpf_skb_change_proto,
        bpf_skb_change_tail, bpf_skb_change_type, bpf_skb_load_bytes, bpf_skb_pull_data, bpf_skb_store_bytes,
        bpf_skc_lookup_tcp,
    },
    programs::TcContext,
};
use core::{arch::asm, mem::MaybeUninit};

use lb_common::{
    checksum::{fold, update},
    flow::FlowKey,
    sample::HEAD,
};
use lb_ebpf::{
    packet::{Checksum, Delivery, Packet, Plain, Room},
    parse::{L4, L4_V6},
};
use network_types::{eth::EtherType, tcp::TcpHdr};

use crate::maps;

/// `BPF_F_PSEUDO_HDR`: the changed words are part of the pseudo-header, so that frames whose checksum is completed
/// later (CHECKSUM_PARTIAL) need them too.
const PSEUDO_HEADER: u64 = 1 << 4;
/// `BPF_F_MARK_MANGLED_0`: a field of zero is left alone, and a sum of zero becomes 0xffff.
const ZERO_IS_NONE: u64 = 1 << 5;
/// `BPF_ADJ_ROOM_MAC`: behind the Ethernet header.
const BEHIND_ETHERNET: u32 = 1;
/// `BPF_F_ADJ_ROOM_FIXED_GSO`: an offloaded frame is cut into segments of the same size as before.
const SAME_SEGMENTS: u64 = 1 << 0;
/// `BPF_F_ADJ_ROOM_ENCAP_L3_IPV4`, `_IPV6`: the room is for a tunnel's header; an offloaded frame is cut behind it.
const IN_IPV4: u64 = 1 << 1;
const IN_IPV6: u64 = 1 << 2;
/// All that the core reads directly.
const HEADERS: u32 = (L4 + TcpHdr::LEN) as u32;
/// Likewise in IPv6.
const HEADERS_V6: u32 = (L4_V6 + TcpHdr::LEN) as u32;
const PACKET_HOST: u32 = 0;
const PACKET_BROADCAST: u32 = 1;
const PACKET_MULTICAST: u32 = 2;

/// A socket buffer.
pub struct Frame<'a> {
    ctx: &'a TcContext,
}

impl<'a> Frame<'a> {
    /// Makes the headers linear where a driver left them in fragments.
    #[inline(always)]
    pub fn new(ctx: &'a TcContext) -> Self {
        let linear = ctx.data_end() - ctx.data();
        // SAFETY: a context field.
        let v6 = unsafe { (*ctx.skb.skb).protocol } == EtherType::Ipv6 as u32;
        let headers = if v6 { HEADERS_V6 } else { HEADERS };
        if (linear as u32) < headers && ctx.len() > linear as u32 {
            let want = if ctx.len() < headers { ctx.len() } else { headers };
            // SAFETY: the context is the one the program was called with. On failure the reads below find too little.
            unsafe { bpf_skb_pull_data(ctx.skb.skb, want) };
        }
        Self { ctx }
    }

    /// Interface the program runs on.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: a context field.
        unsafe { (*self.ctx.skb.skb).ifindex }
    }

    /// Interface the packet came in by, 0 for this node's own.
    #[inline(always)]
    pub fn ingress_ifindex(&self) -> u32 {
        // SAFETY: a context field.
        unsafe { (*self.ctx.skb.skb).ingress_ifindex }
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
    fn replace(&mut self, offset: usize, delta: u16, flags: u64) -> Option<()> {
        // The kernel sums words as they lie in memory: swap the bytes of our big-endian value.
        // SAFETY: the context is the one the program was called with.
        let r = unsafe {
            bpf_l4_csum_replace(self.ctx.skb.skb, offset as u32, 0, u64::from(delta.to_be()), flags)
        };
        (r == 0).then_some(())
    }
}

/// A function of its own: what it needs of the stack its caller need not have.
#[inline(never)]
fn has_socket(skb: *mut __sk_buff, ends: &FlowKey) -> bool {
    /// `BPF_F_CURRENT_NETNS`: the network namespace of the interface.
    const HERE: u64 = u64::MAX;
    /// Bytes of `struct bpf_sock_tuple` in IPv4 and in IPv6.
    const V4: u32 = 12;
    const V6: u32 = 36;
    let ports = u32::from_ne_bytes([ends.sport.0[0], ends.sport.0[1], ends.dport.0[0], ends.dport.0[1]]);
    let mut words = [0u32; 9];
    let size = if ends.dst.is_v4() {
        (words[0], words[1], words[2]) = (ends.src.v4_word(), ends.dst.v4_word(), ports);
        V4
    } else {
        let ([a, b], [c, d]) = (ends.src.words(), ends.dst.words());
        for (i, half) in [a, b, c, d].into_iter().enumerate() {
            (words[2 * i], words[2 * i + 1]) = (half as u32, (half >> 32) as u32);
        }
        words[8] = ports;
        V6
    };
    // SAFETY: the context is the one the program was called with; the helper reads `size` bytes of the words, and what it finds is
    // given back at once.
    unsafe {
        let found = bpf_skc_lookup_tcp(skb.cast(), words.as_mut_ptr().cast(), size, HERE, 0);
        !found.is_null() && {
            bpf_sk_release(found.cast());
            true
        }
    }
}

impl Packet for Frame<'_> {
    #[inline(always)]
    fn length(&self) -> u32 {
        self.ctx.len()
    }

    #[inline(always)]
    fn delivery(&self) -> Delivery {
        // SAFETY: a context field.
        match unsafe { (*self.ctx.skb.skb).pkt_type } {
            PACKET_HOST => Delivery::Host,
            PACKET_BROADCAST | PACKET_MULTICAST => Delivery::Group,
            _ => Delivery::Other,
        }
    }

    #[inline(always)]
    fn tagged(&self) -> bool {
        const VID: u32 = 0x0fff;
        // SAFETY: a context field.
        unsafe { (*self.ctx.skb.skb).vlan_tci & VID != 0 }
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
            let done = bpf_skb_load_bytes(self.ctx.skb.skb.cast(), offset as u32, to, length);
            (done == 0).then(|| value.assume_init())
        }
    }

    #[inline(always)]
    fn store<T: Plain>(&mut self, offset: usize, value: &T) -> Option<()> {
        let (from, length) = ((&raw const *value).cast(), size_of::<T>() as u32);
        // SAFETY: the context is the one the program was called with; `Plain` has no padding.
        let done = unsafe { bpf_skb_store_bytes(self.ctx.skb.skb, offset as u32, from, length, 0) };
        (done == 0).then_some(())
    }

    #[inline(always)]
    fn head(&self, to: &mut [u8; HEAD]) -> u16 {
        // Never zero, in a way that verifiers follow (6.1's learns nothing from a comparison with zero); there are no frames
        // without a byte, and of such one the helper would read nothing.
        let length = self.ctx.len().wrapping_sub(1).min(HEAD as u32 - 1) + 1;
        let to = to.as_mut_ptr().cast();
        // SAFETY: the context is the one the program was called with; `length` is no more than there is room for.
        let done = unsafe { bpf_skb_load_bytes(self.ctx.skb.skb.cast(), 0, to, length) };
        if done == 0 { length as u16 } else { 0 }
    }

    #[inline(always)]
    fn update_l4_checksum(&mut self, field: Checksum, pseudo: u16, body: u16) -> Option<()> {
        let zero = if field.optional { ZERO_IS_NONE } else { 0 };
        self.replace(field.offset, pseudo, PSEUDO_HEADER | zero)?;
        self.replace(field.offset, body, zero)
    }

    /// Without the helper where the checksum is finished. It would do the same, and tell the kernel too that a sum which the hardware
    /// has formed of the whole frame changes by what the pseudo-header changes: IPv4's header checksum makes up for its addresses,
    /// and this field for both its ports and, once more, for the addresses.
    #[inline(always)]
    fn update_known_l4_checksum(
        &mut self,
        field: Checksum,
        unfinished: u16,
        pseudo: u16,
        body: u16,
    ) -> Option<()> {
        let old = u16::from_be_bytes(self.read(field.offset)?);
        if old == unfinished || field.optional && old == 0 {
            return self.update_l4_checksum(field, pseudo, body);
        }
        let new = match update(old, fold(u32::from(pseudo) + u32::from(body))) {
            0 if field.optional => 0xffff,
            new => new,
        };
        self.write(field.offset, &new.to_be_bytes())?;
        self.amend_frame_sum(!pseudo);
        Some(())
    }

    /// One sequence for both kinds of frame. The field is first given the pseudo-header's sum P: what a frame that is
    /// completed later must have, and such a frame is left alone by the helper. In any other frame the helper turns P
    /// into `!(d + !P)`; with `d = 2P + body` that is `!(P + body)`.
    #[inline(always)]
    fn set_l4_checksum(&mut self, offset: usize, pseudo: u16, body: u16) -> Option<()> {
        self.write(offset, &pseudo.to_be_bytes())?;
        self.replace(offset, fold(2 * u32::from(pseudo) + u32::from(body)), 0)
    }

    /// The kernel takes every change of a pseudo-header's addresses for one that IPv4's header checksum makes up for.
    #[inline(always)]
    fn amend_frame_sum(&mut self, delta: u16) {
        // SAFETY: the context is the one the program was called with. It fails where there is no such sum: fine.
        unsafe { bpf_csum_update(self.ctx.skb.skb, u32::from(delta.to_be())) };
    }

    #[inline(always)]
    fn take_in(&mut self) {
        // SAFETY: the context is the one the program was called with. The helper fails for no type of received frames.
        unsafe { bpf_skb_change_type(self.ctx.skb.skb, PACKET_HOST) };
    }

    #[inline(always)]
    fn resize(&mut self, length: u32) -> Option<()> {
        // SAFETY: the context is the one the program was called with.
        (unsafe { bpf_skb_change_tail(self.ctx.skb.skb, length, 0) } == 0).then_some(())
    }

    #[inline(always)]
    fn segment_size(&self) -> u32 {
        // SAFETY: a context field.
        unsafe { (*self.ctx.skb.skb).gso_size }
    }

    #[inline(always)]
    fn make_room(&mut self, room: Room) -> Option<()> {
        let (length, flags) = match room {
            Room::Tunnel4 => (20, SAME_SEGMENTS | IN_IPV4),
            Room::Tunnel6 => (40, SAME_SEGMENTS | IN_IPV6),
            Room::Error4 => (28, 0),
            Room::Error6 => (48, 0),
        };
        // SAFETY: the context is the one the program was called with.
        let done = unsafe { bpf_skb_adjust_room(self.ctx.skb.skb, length, BEHIND_ETHERNET, flags) };
        (done == 0).then_some(())
    }

    #[inline(always)]
    fn change_family(&mut self, to_v6: bool) -> Option<()> {
        let proto = if to_v6 { EtherType::Ipv6 } else { EtherType::Ipv4 } as u16;
        // SAFETY: the context is the one the program was called with. (The protocol is wanted in network order, as it is here.)
        (unsafe { bpf_skb_change_proto(self.ctx.skb.skb, proto, 0) } == 0).then_some(())
    }

    /// The helper that updates a checksum leaves the field of such a frame alone.
    #[inline(always)]
    fn is_unfinished(&mut self, scratch: usize) -> bool {
        let tried = self.store(scratch, &[0u8; 2]).and_then(|()| self.replace(scratch, 1, 0));
        tried.is_some() && self.load::<[u8; 2]>(scratch) == Some([0; 2])
    }

    #[inline(always)]
    fn has_socket(&self, ends: &FlowKey) -> bool {
        has_socket(self.ctx.skb.skb, ends)
    }

    #[inline(always)]
    fn leave_to(&self, slot: u32) {
        maps::leave_to(self.ctx, slot);
    }

    #[inline(always)]
    fn hand_on(&mut self, words: [u32; 2]) {
        // SAFETY: context fields, ours on this hook, which a tail call leaves as they are.
        unsafe {
            (&raw mut (*self.ctx.skb.skb).cb[0]).write_volatile(words[0]);
            (&raw mut (*self.ctx.skb.skb).cb[1]).write_volatile(words[1]);
        }
    }

    #[inline(always)]
    fn handed(&self) -> [u32; 2] {
        // SAFETY: likewise.
        unsafe {
            [
                (&raw const (*self.ctx.skb.skb).cb[0]).read_volatile(),
                (&raw const (*self.ctx.skb.skb).cb[1]).read_volatile(),
            ]
        }
    }

    /// By name of the instructions: the compiler would make a pointer to two of these fields, through which the kernel lets nobody
    /// write.
    #[inline(always)]
    fn note(&mut self, words: [u32; 2]) {
        let (skb, [a, b]) = (self.ctx.skb.skb, words.map(u64::from));
        // SAFETY: as above; the third and fourth word of the control block.
        unsafe {
            asm!("*(u32 *)({skb} + 56) = {a}", "*(u32 *)({skb} + 60) = {b}", skb = in(reg) skb, a = in(reg) a, b = in(reg) b);
        }
    }

    #[inline(always)]
    fn noted(&self) -> [u32; 2] {
        // SAFETY: likewise.
        unsafe {
            [
                (&raw const (*self.ctx.skb.skb).cb[2]).read_volatile(),
                (&raw const (*self.ctx.skb.skb).cb[3]).read_volatile(),
            ]
        }
    }
}

const _: () = assert!(core::mem::offset_of!(__sk_buff, cb) == 48);
