//! Packet memory and checksums for the TC front end: the only file that dereferences packet pointers.
//!
//! Every access derives its pointer anew from `skb->data`: helpers that change the packet invalidate all older ones,
//! and the verifier holds us to it.

use aya_ebpf::{
    helpers::{bpf_l4_csum_replace, bpf_skb_change_tail, bpf_skb_pull_data},
    programs::TcContext,
};
use lb_common::checksum::fold;
use lb_ebpf::{
    packet::{Delivery, Packet, Plain},
    parse::L4,
};
use network_types::tcp::TcpHdr;

/// `BPF_F_PSEUDO_HDR`: the changed words are part of the pseudo-header, so that frames whose checksum is completed
/// later (CHECKSUM_PARTIAL) need them too.
const PSEUDO_HEADER: u64 = 1 << 4;
/// Everything the core reads.
const HEADERS: u32 = (L4 + TcpHdr::LEN) as u32;
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
        if (linear as u32) < HEADERS && ctx.len() > linear as u32 {
            let want = if ctx.len() < HEADERS { ctx.len() } else { HEADERS };
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
    fn read<T: Plain>(&self, offset: usize) -> Option<T> {
        // SAFETY: `at` has checked the bounds; `Plain` allows any alignment and bit pattern.
        self.at::<T>(offset).map(|p| unsafe { p.read_unaligned() })
    }

    #[inline(always)]
    fn write<T: Plain>(&mut self, offset: usize, value: &T) -> Option<()> {
        // SAFETY: `at` has checked the bounds; `Plain` allows any alignment.
        self.at::<T>(offset).map(|p| unsafe { p.write_unaligned(*value) })
    }

    #[inline(always)]
    fn update_l4_checksum(&mut self, offset: usize, pseudo: u16, body: u16) -> Option<()> {
        self.replace(offset, pseudo, PSEUDO_HEADER)?;
        self.replace(offset, body, 0)
    }

    /// One sequence for both kinds of frame. The field is first given the pseudo-header's sum P: what a frame that is
    /// completed later must have, and such a frame is left alone by the helper. In any other frame the helper turns P
    /// into `!(d + !P)`; with `d = 2P + body` that is `!(P + body)`.
    #[inline(always)]
    fn set_l4_checksum(&mut self, offset: usize, pseudo: u16, body: u16) -> Option<()> {
        self.write(offset, &pseudo.to_be_bytes())?;
        self.replace(offset, fold(2 * u32::from(pseudo) + u32::from(body)), 0)
    }

    #[inline(always)]
    fn truncate(&mut self, length: u32) -> Option<()> {
        // SAFETY: the context is the one the program was called with.
        (unsafe { bpf_skb_change_tail(self.ctx.skb.skb, length, 0) } == 0).then_some(())
    }
}
