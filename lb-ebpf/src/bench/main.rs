//! Programs of `cargo xtask bench program`: the bare ones that viplb's are measured beside, and the one that feeds them.
//!
//! An object of its own, which no daemon embeds. `BPF_PROG_TEST_RUN` repeats a program on one frame and does not restore
//! what the program wrote, so a frame that was translated would be an unknown one the next time. `bench_feed` therefore
//! writes the frame anew, as that of the next flow, and goes on in the program to be measured by a tail call; its own cost
//! is measured with a bare program behind it and taken off (`tests/src/bench/program.rs`).

#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{
        btf_maps::{Array, ProgramArray},
        helpers::{bpf_redirect, bpf_skb_change_tail},
        macros::{btf_map, classifier, xdp},
        programs::{TcContext, XdpContext},
    };
    use lb_common::bench::{FRAME, Feed, MAX_FLOWS, Tuple};

    /// TC_ACT_SHOT.
    const SHOT: i32 = 2;
    /// TCX_NEXT.
    const NEXT: i32 = -1;
    /// XDP_TX.
    const TX: u32 = 3;
    /// Offset of the IPv4 source address.
    const SOURCE: usize = 26;
    /// Offset of both ports.
    const PORTS: usize = 34;

    #[btf_map]
    static FEED: Array<Feed, 1> = Array::new();
    #[btf_map]
    static TUPLES: Array<Tuple, MAX_FLOWS> = Array::new();
    #[btf_map]
    static MEASURED: ProgramArray<1> = ProgramArray::new();

    /// Sends a frame back as it is: what XDP costs at least.
    #[xdp]
    pub fn bench_tx(_: XdpContext) -> u32 {
        TX
    }

    /// Sends a frame out by the interface it came in by: what TC costs at least.
    #[classifier]
    pub fn bench_redirect(ctx: TcContext) -> i32 {
        // SAFETY: a context field; the helper has no precondition.
        unsafe { bpf_redirect((*ctx.skb.skb).ifindex, 0) as i32 }
    }

    /// Drops.
    #[classifier]
    pub fn bench_drop(_: TcContext) -> i32 {
        SHOT
    }

    /// Leaves the frame to the stack.
    #[classifier]
    pub fn bench_pass(_: TcContext) -> i32 {
        NEXT
    }

    /// Makes the frame that of the next flow and goes on in the program to be measured.
    #[classifier]
    pub fn bench_feed(ctx: TcContext) -> i32 {
        // 0: the bench takes it for an error.
        if feed(&ctx).is_some() {
            // SAFETY: a program of the same type; nothing here waits to be dropped.
            unsafe { MEASURED.tail_call(&ctx, 0) };
        }
        0
    }

    #[inline(always)]
    fn feed(ctx: &TcContext) -> Option<()> {
        // SAFETY: a live array element, used by one test run at a time.
        let feed = unsafe { &mut *FEED.get_ptr_mut(0)? };
        let next = feed.next;
        feed.next = if next + 1 < feed.flows { next + 1 } else { 0 };
        let tuple = *TUPLES.get(next)?;
        if ctx.len() != FRAME as u32 {
            // SAFETY: the context is the one the program was called with.
            unsafe { bpf_skb_change_tail(ctx.skb.skb, FRAME as u32, 0) };
        }
        let start = ctx.data();
        if start + FRAME > ctx.data_end() {
            return None;
        }
        let mut word = 0;
        while word < FRAME / 2 {
            // SAFETY: inside of the bounds checked above; frames begin at an even address.
            unsafe { *((start + 2 * word) as *mut u16) = feed.frame[word] };
            word += 1;
        }
        for (offset, value) in [(SOURCE, tuple.source), (PORTS, tuple.ports)] {
            for (half, word) in value.into_iter().enumerate() {
                // SAFETY: as above.
                unsafe { *((start + offset + 2 * half) as *mut u16) = word };
            }
        }
        Some(())
    }
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Declares what the helpers used here require: a GPL-compatible licence.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
