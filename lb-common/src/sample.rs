//! Samples of packets: what somebody who listens is shown of those that were dropped, refused, answered or left alone.

use crate::reason::Reason;

/// Bytes of a frame that a sample holds at most: room for Ethernet, IPv6 and TCP with options.
pub const HEAD: usize = 96;

/// The start of one frame as it came, and what became of it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Boottime, ns.
    pub at: u64,
    /// Interface that it came in or would have left by.
    pub ifindex: u32,
    /// Length of the frame in bytes.
    pub length: u32,
    /// Bytes of `head` that are the frame's.
    pub captured: u16,
    /// A [`Reason`].
    pub reason: u8,
    /// 1: sent by this node's own stack; 0: received.
    pub egress: u8,
    /// Zero.
    pub pad: [u8; 4],
    /// The frame from its Ethernet header on.
    pub head: [u8; HEAD],
}
layout!(Sample = 120: at, ifindex, length, captured, reason, egress, pad, head);

impl Sample {
    /// A sample without a frame.
    #[inline(always)]
    pub const fn new(at: u64, ifindex: u32, reason: Reason, egress: bool) -> Self {
        let reason = reason as u8;
        Self {
            at,
            ifindex,
            length: 0,
            captured: 0,
            reason,
            egress: egress as u8,
            pad: [0; 4],
            head: [0; HEAD],
        }
    }

    /// The part of the frame that was captured.
    pub fn bytes(&self) -> &[u8] {
        &self.head[..usize::from(self.captured).min(HEAD)]
    }
}

/// Who listens: the one element of the `CAPTURE` map. A listener renews the deadline, so that nothing is sampled any more soon
/// after it has died.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capture {
    /// Boottime until which samples are wanted, ns.
    pub until: u64,
    /// Bit n: those of reason n.
    pub reasons: u64,
    /// Samples for which the ring had no room.
    pub lost: u64,
}
layout!(Capture = 24: until, reasons, lost);

impl Capture {
    /// Whether a packet that ended in `reason` is to be sampled.
    #[inline(always)]
    pub const fn wants(&self, reason: Reason, now: u64) -> bool {
        now < self.until && self.reasons >> (reason as u32) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_wanted_of_the_chosen_reasons_and_only_until_the_deadline() {
        let capture = Capture { until: 100, reasons: 1 << Reason::NotOwner as u32, lost: 0 };
        assert!(capture.wants(Reason::NotOwner, 99));
        assert!(!capture.wants(Reason::NotOwner, 100), "nobody listens any more");
        assert!(!capture.wants(Reason::NotVirtual, 99));
    }
}
