//! What was decided about a packet, as data; and what the front end is to do with it afterwards.

use lb_common::addr::Mac;
use lb_common::mode::Mode;
use lb_common::probe::State;
use lb_common::reason::Reason;

/// A decision. One flat structure, every field always set: from an enum with payloads the compiler copies fields that the
/// chosen variant does not have, and the verifier refuses reads of what was never written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// What to do.
    pub step: Step,
    /// What to count.
    pub reason: Reason,
    /// The packet is IPv6.
    pub v6: bool,
    /// For [`Step::Nat`]: [`FORWARD`](lb_common::flow::FORWARD) or [`REVERSE`](lb_common::flow::REVERSE).
    pub direction: u8,
    /// For [`Step::Nat`], [`Step::Direct`], [`Step::Detour`] and [`Step::Foreign`]: the flow's record.
    pub slot: u32,
    /// For [`Step::Reset`].
    pub reset: Reset,
    /// An answer goes by the route to its destination, not back to the frame's link-layer source.
    pub routed: bool,
    /// For [`Step::ArpReply`], [`Step::Advertisement`] and [`Step::ProbeAnswer`]: where it says that something is. For
    /// [`Step::Relay`]: to whom.
    pub mac: Mac,
    /// For [`Step::Relay`]: this node's own address.
    pub from: Mac,
    /// For [`Step::ProbeAnswer`].
    pub state: State,
    /// For [`Step::ProbeAnswer`]: rest of the lease, ns.
    pub rest: u64,
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
    /// Rewrite it as its flow's record says and send it on.
    Nat,
    /// Send it on to its flow's backend with its addresses as they are; that may be the node's own stack.
    Direct,
    /// Send it on to another node of this link.
    Relay,
    /// Leave it to `detour`.
    Detour,
    /// Leave it to `foreign_error`.
    Foreign,
    /// Answer with a TCP reset.
    Reset,
    /// Turn an echo request into its reply.
    Echo,
    /// Turn an ARP request into its reply.
    ArpReply,
    /// Turn a neighbour solicitation into the advertisement that answers it.
    Advertisement,
    /// Turn a peer's probe into its answer.
    ProbeAnswer,
}

impl Plan {
    #[inline(always)]
    const fn of(step: Step, reason: Reason) -> Self {
        Self {
            step,
            reason,
            v6: false,
            direction: 0,
            slot: 0,
            reset: Reset { seq: 0, ack: 0, flags: 0 },
            routed: false,
            mac: Mac([0; 6]),
            from: Mac([0; 6]),
            state: State::Unknown,
            rest: 0,
        }
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

    /// Sends it on to the backend of the flow in `slot` as the mode says that the flow was opened with. A packet in the
    /// [`REVERSE`](lb_common::flow::REVERSE) direction is never of a one-way mode.
    #[inline(always)]
    pub const fn to_backend(reason: Reason, slot: u32, direction: u8, mode: Mode) -> Self {
        let step = if mode.is_one_way() { Step::Direct } else { Step::Nat };
        Self { slot, direction, ..Self::of(step, reason) }
    }

    /// Sends it on to the node at `mac`.
    #[inline(always)]
    pub const fn relay(mac: Mac, from: Mac) -> Self {
        Self { mac, from, ..Self::of(Step::Relay, Reason::Relayed) }
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

    /// Answers a neighbour solicitation with `mac`.
    #[inline(always)]
    pub const fn advertisement(mac: Mac) -> Self {
        Self { mac, ..Self::of(Step::Advertisement, Reason::NeighbourAnswered) }
    }

    /// Answers a peer's probe.
    #[inline(always)]
    pub const fn probe_answer(mac: Mac, state: State, rest: u64) -> Self {
        Self { mac, state, rest, ..Self::of(Step::ProbeAnswer, Reason::ProbeAnswered) }
    }
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
    /// To the backend of the flow in this slot, whatever the packet's destination is.
    Backend(u32),
    /// Out by this interface as it is, link-layer addresses included.
    Send(u32),
}
