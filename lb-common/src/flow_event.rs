//! Word of flows that have become what a peer should know of, from the packet programs to the daemon.
//!
//! An event only names the record: the daemon reads it where it lies, so that several events of one flow cost one message,
//! and the newest state is the one that is sent. What the ring has no room for is counted; the collector's next pass finds
//! it.

/// A flow was established, has moved on towards its end, or has lost its keys.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowEvent {
    /// Which record.
    pub slot: u32,
    /// Its generation then.
    pub generation: u16,
    /// Zero.
    pub pad: [u8; 2],
}
layout!(FlowEvent = 8: slot, generation, pad);
