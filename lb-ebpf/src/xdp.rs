//! The XDP entry point: `lb_ebpf::fast` for packets of known flows, the self-test's reply, and all else up to TC.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
    helpers::bpf_redirect,
    macros::xdp,
    programs::XdpContext,
};
use lb_common::fast::{Left, SENT};
use lb_ebpf::{Action, Arrival, Packet, fast, parse::L3};

use crate::{
    access::xdp::{Frame, XdpHops},
    maps,
};

/// Packets that arrive, before the kernel has made anything of them.
#[xdp]
pub fn viplb_xdp(ctx: XdpContext) -> u32 {
    let left = match Frame::new(&ctx) {
        Some(mut frame) => {
            let at = Arrival { now: maps::now(), ifindex: frame.ifindex() };
            match fast::forward(&mut frame, &maps::Kernel, &at, &XdpHops(&ctx)) {
                Ok(action) => {
                    maps::count_fast(SENT);
                    return finish(action, at.ifindex);
                }
                Err(Left::NotKnown) => return test_or_pass(&mut frame),
                Err(left) => left,
            }
        }
        None => Left::NotKnown,
    };
    maps::count_fast(left as u32);
    XDP_PASS
}

#[inline(always)]
fn finish(action: Action, came_by: u32) -> u32 {
    match action {
        // Every driver with XDP can send back; to others it hands over.
        Action::Send(ifindex) if ifindex == came_by => XDP_TX,
        // SAFETY: the helper has no precondition.
        Action::Send(ifindex) => unsafe { bpf_redirect(ifindex, 0) as u32 },
        _ => XDP_DROP,
    }
}

/// An ARP reply to this node, while a self-test waits for one, becomes the test's question.
#[inline(never)]
fn test_or_pass(frame: &mut Frame<'_>) -> u32 {
    const ARP_REPLY: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 2];
    let ifindex = frame.ifindex();
    if frame.read::<[u8; 2]>(L3 - 2) == Some([8, 6])
        && frame.read::<[u8; 8]>(L3) == Some(ARP_REPLY)
        && let Some(test) = maps::take_self_test(ifindex)
        && frame.store(0, &test.frame).is_some()
    {
        return finish(Action::Send(test.out), ifindex);
    }
    maps::count_fast(Left::NotKnown as u32);
    XDP_PASS
}
