//! eBPF entry points: they call the library, turn its verdict into the kernel's, and log slow paths when asked to.
//!
//! One object holds every program, so that all share the maps of `maps.rs`.

#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod access;
#[cfg(target_arch = "bpf")]
mod atomics;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod subprograms;
#[cfg(target_arch = "bpf")]
mod xdp;

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{
        helpers::{bpf_redirect, bpf_redirect_neigh},
        macros::classifier,
        programs::TcContext,
    };
    use aya_log_ebpf::info;
    use lb_common::{
        maps::Tail,
        reason::{Kind, Reason},
    };
    use lb_ebpf::{Action, Arrival, Packet, Tables, Verdict, parse::L3};

    use crate::{
        access::tc::Frame,
        maps::{self, Kernel},
    };

    /// TC: let the next program and then the stack have the packet (TCX_NEXT; TC_ACT_UNSPEC under clsact). Other users
    /// of the hook keep working.
    const NEXT: i32 = -1;
    /// TC_ACT_SHOT.
    const SHOT: i32 = 2;

    /// Packets that arrive: those of known flows, and by a tail call all others.
    #[classifier]
    pub fn viplb_ingress(ctx: TcContext) -> i32 {
        let (mut frame, at) = arrival(&ctx);
        let tail = match lb_ebpf::forward(&mut frame, &Kernel, &at) {
            Ok(verdict) => return finish(verdict.action),
            Err(tail) => tail,
        };
        maps::tail_call(&ctx, tail);
        // The daemon enters the program before it attaches this one. Should it be missing for all that, the host must not
        // lose its network: what its stack says for a virtual address, `viplb_egress` fences still.
        Kernel.count(Reason::TailMissing);
        NEXT
    }

    /// Packets that arrive and belong to no known flow.
    #[classifier]
    pub fn viplb_rest(ctx: TcContext) -> i32 {
        let (mut frame, at) = arrival(&ctx);
        let decided = lb_ebpf::rest(&mut frame, &Kernel, &at);
        conclude(&ctx, &frame, decided)
    }

    /// ICMP errors.
    #[classifier]
    pub fn viplb_errors(ctx: TcContext) -> i32 {
        let (mut frame, at) = arrival(&ctx);
        let decided = lb_ebpf::icmp_error::handle(&mut frame, &Kernel, &at);
        conclude(&ctx, &frame, decided)
    }

    /// Fragments, and packets with IPv6 extension headers.
    #[classifier]
    pub fn viplb_fragments(ctx: TcContext) -> i32 {
        let (mut frame, at) = arrival(&ctx);
        let decided = lb_ebpf::fragment::handle(&mut frame, &Kernel, &at);
        conclude(&ctx, &frame, decided)
    }

    /// Those of them that may open a flow.
    #[classifier]
    pub fn viplb_opening(ctx: TcContext) -> i32 {
        let (mut frame, at) = arrival(&ctx);
        let decided = lb_ebpf::fragment::open(&mut frame, &Kernel, &at);
        conclude(&ctx, &frame, decided)
    }

    /// Packets of flows that need more than new addresses.
    #[classifier]
    pub fn viplb_detour(ctx: TcContext) -> i32 {
        let (mut frame, at) = arrival(&ctx);
        let decided = lb_ebpf::detour::handle(&mut frame, &Kernel, &at);
        conclude(&ctx, &frame, decided)
    }

    /// Packets of flows that are another server's than their handshake was with.
    #[classifier]
    pub fn viplb_moved(ctx: TcContext) -> i32 {
        let (mut frame, at) = arrival(&ctx);
        let decided = lb_ebpf::moved::handle(&mut frame, &Kernel, &at);
        conclude(&ctx, &frame, decided)
    }

    /// Those of them that go on, with the other side's numbers.
    #[classifier]
    pub fn viplb_renumber(ctx: TcContext) -> i32 {
        let (mut frame, at) = arrival(&ctx);
        let verdict = lb_ebpf::moved::renumber(&mut frame, &Kernel, &at);
        finish(verdict.action)
    }

    /// Packets that go no further, and whose senders are told.
    #[classifier]
    pub fn viplb_report(ctx: TcContext) -> i32 {
        let (mut frame, at) = arrival(&ctx);
        let verdict = lb_ebpf::report::handle(&mut frame, &Kernel, &at);
        log(&ctx, &frame, &verdict);
        finish(verdict.action)
    }

    /// ICMP errors about packets of flows between families.
    #[classifier]
    pub fn viplb_foreign(ctx: TcContext) -> i32 {
        let (mut frame, at) = arrival(&ctx);
        let verdict = lb_ebpf::foreign_error::handle(&mut frame, &Kernel, &at);
        log(&ctx, &frame, &verdict);
        finish(verdict.action)
    }

    /// Ends with the verdict, or goes on in the program that the packet is left to.
    #[inline(always)]
    fn conclude(ctx: &TcContext, frame: &Frame<'_>, decided: Result<Verdict, Tail>) -> i32 {
        match decided {
            Ok(verdict) => {
                log(ctx, frame, &verdict);
                finish(verdict.action)
            }
            Err(tail) => {
                maps::tail_call(ctx, tail);
                Kernel.count(Reason::TailMissing);
                NEXT
            }
        }
    }

    #[inline(always)]
    fn arrival(ctx: &TcContext) -> (Frame<'_>, Arrival) {
        let frame = Frame::new(ctx);
        let at = Arrival { now: maps::now(), ifindex: frame.ifindex() };
        (frame, at)
    }

    /// Packets that this node's own stack sends.
    #[classifier]
    pub fn viplb_egress(ctx: TcContext) -> i32 {
        let frame = Frame::new(&ctx);
        if frame.ingress_ifindex() != 0 {
            return NEXT;
        }
        let at = Arrival { now: maps::now(), ifindex: frame.ifindex() };
        let verdict = lb_ebpf::egress::handle(&frame, &Kernel, &at);
        log(&ctx, &frame, &verdict);
        finish(verdict.action)
    }

    #[inline(always)]
    fn finish(action: Action) -> i32 {
        match action {
            Action::Pass => NEXT,
            Action::Drop => SHOT,
            // SAFETY: a null nexthop makes the helper look up the route of the rewritten packet.
            Action::Route(ifindex) => unsafe {
                bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32
            },
            Action::Backend(slot) => to_backend(slot),
            // SAFETY: the helper has no precondition.
            Action::Send(ifindex) => unsafe { bpf_redirect(ifindex, 0) as i32 },
        }
    }

    /// `struct bpf_redir_neigh`. The bindings' has a union, whose type information the kernel refuses.
    #[repr(C)]
    struct NextHop {
        family: u32,
        words: [u32; 4],
    }

    /// With the backend as next hop: the packet's destination stays the virtual address, to which the routes lead nowhere
    /// (or to this very node).
    #[inline(never)]
    fn to_backend(slot: u32) -> i32 {
        const AF_INET: u32 = 2;
        const AF_INET6: u32 = 10;
        let Some(flow) = Kernel.flow(slot) else { return SHOT };
        let [high, low] = flow.backend.words();
        let (family, words) = if flow.backend.is_v4() {
            (AF_INET, [flow.backend.v4_word(), 0, 0, 0])
        } else {
            (AF_INET6, [high as u32, (high >> 32) as u32, low as u32, (low >> 32) as u32])
        };
        let mut hop = NextHop { family, words };
        // SAFETY: the helper copies the structure before it returns.
        unsafe {
            bpf_redirect_neigh(flow.backend_if, (&raw mut hop).cast(), size_of::<NextHop>() as i32, 0) as i32
        }
    }

    /// Never for a packet of a known flow: a log on the hot path costs more than the rest of it. Addresses are those that
    /// the packet has by now. The daemon puts a word to the number.
    #[inline(never)]
    fn log(ctx: &TcContext, frame: &Frame<'_>, verdict: &Verdict) {
        let slow = matches!(verdict.reason.kind(), Kind::Answered | Kind::Refused | Kind::Dropped);
        if !(slow || matches!(verdict.reason, Reason::NewFlow | Reason::Redispatched))
            || Kernel.settings().is_none_or(|s| s.log == 0)
        {
            return;
        }
        let number = verdict.reason as u8;
        if let Some([src, dst]) = addresses_v6(frame) {
            info!(ctx, "{} if={} {:i} > {:i}", number, frame.ifindex(), src, dst);
            return;
        }
        // ARP has its sender's and target's addresses elsewhere, and not side by side.
        let [source, destination] = match frame.read::<[u8; 1]>(L3) {
            Some([b]) if b >> 4 == 4 => frame.read::<[[u8; 4]; 2]>(L3 + 12).unwrap_or_default(),
            _ => [frame.read(L3 + 14).unwrap_or_default(), frame.read(L3 + 24).unwrap_or_default()],
        };
        let (source, destination) = (u32::from_be_bytes(source), u32::from_be_bytes(destination));
        info!(ctx, "{} if={} {:i} > {:i}", number, frame.ifindex(), source, destination);
    }

    #[inline(always)]
    fn addresses_v6(frame: &Frame<'_>) -> Option<[[u8; 16]; 2]> {
        let [version] = frame.read::<[u8; 1]>(L3)?;
        if version >> 4 == 6 { frame.load(L3 + 8) } else { None }
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
