//! What was decided about a packet, as data; and what the front end is to do with it afterwards.

use lb_common::addr::{Mac, Port};
use lb_common::reason::Reason;

/// A decision. One flat structure, every field always set: from an enum with payloads the compiler copies fields that the
/// chosen variant does not have, and the verifier refuses reads of what was never written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// What to do.
    pub step: Step,
    /// What to count.
    pub reason: Reason,
    /// For [`Step::Nat`].
    pub nat: Nat,
    /// For [`Step::Reset`].
    pub reset: Reset,
    /// For [`Step::ArpReply`].
    pub mac: Mac,
}

/// What to do with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing is decided yet: ask the next stage.
    Undecided,
    /// Leave it to the node's own stack.
    Pass,
    /// Drop it.
    Drop,
    /// Rewrite it and send it on.
    Nat,
    /// Answer with a TCP reset.
    Reset,
    /// Turn an echo request into its reply.
    Echo,
    /// Turn an ARP request into its reply.
    ArpReply,
}

impl Plan {
    #[inline(always)]
    const fn of(step: Step, reason: Reason) -> Self {
        const NAT: Nat = Nat {
            src: 0,
            dst: 0,
            sport: Port([0; 2]),
            dport: Port([0; 2]),
            addr_delta: 0,
            port_delta: 0,
            ifindex: 0,
        };
        Self { step, reason, nat: NAT, reset: Reset { seq: 0, ack: 0, flags: 0 }, mac: Mac([0; 6]) }
    }

    /// Not decided here.
    #[inline(always)]
    pub const fn undecided() -> Self {
        Self::of(Step::Undecided, Reason::NotVirtual)
    }

    /// Leaves it to the node's own stack.
    #[inline(always)]
    pub const fn pass(reason: Reason) -> Self {
        Self::of(Step::Pass, reason)
    }

    /// Drops it.
    #[inline(always)]
    pub const fn drop(reason: Reason) -> Self {
        Self::of(Step::Drop, reason)
    }

    /// Rewrites it and sends it on.
    #[inline(always)]
    pub const fn nat(reason: Reason, nat: Nat) -> Self {
        Self { nat, ..Self::of(Step::Nat, reason) }
    }

    /// Answers with a reset.
    #[inline(always)]
    pub const fn reset(reason: Reason, reset: Reset) -> Self {
        Self { reset, ..Self::of(Step::Reset, reason) }
    }

    /// Answers an echo request.
    #[inline(always)]
    pub const fn echo() -> Self {
        Self::of(Step::Echo, Reason::EchoAnswered)
    }

    /// Answers an ARP request with `mac`.
    #[inline(always)]
    pub const fn arp_reply(mac: Mac) -> Self {
        Self { mac, ..Self::of(Step::ArpReply, Reason::ArpAnswered) }
    }
}

/// New addresses and ports of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nat {
    /// New source address, its bytes as they lie in memory (a word, so that it travels in a register).
    pub src: u32,
    /// New destination address, likewise.
    pub dst: u32,
    /// New source port.
    pub sport: Port,
    /// New destination port.
    pub dport: Port,
    /// Checksum delta of the addresses.
    pub addr_delta: u16,
    /// Checksum delta of the ports.
    pub port_delta: u16,
    /// Interface to leave by.
    pub ifindex: u32,
}

/// Numbers of a reset (RFC 9293 section 3.10.7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reset {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number, 0 without ACK.
    pub ack: u32,
    /// Flags.
    pub flags: u8,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Why.
    pub reason: Reason,
    /// What the front end does.
    pub action: Action,
}

/// What the front end does with a packet once it is rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// On to the next program and the stack.
    Pass,
    /// Gone.
    Drop,
    /// Out by this interface, next hop by the kernel's routes and neighbours.
    Route(u32),
    /// Out by this interface as it is, link-layer addresses included.
    Send(u32),
}
