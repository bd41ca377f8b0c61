//! SYN-ACKs that are kept back until a peer has the flow (`sync = "strict"`), from the packet programs to the daemon.
//!
//! The frame is what would have gone to the client: new addresses, one hop less. Its TCP checksum may still be to be completed (a
//! backend on this machine leaves that to whoever sends it on), so the daemon makes it anew. One that is longer than [`HEAD`] goes on at
//! once; with IPv4 none is, and with IPv6 none of those that the common systems send.

use crate::sample::HEAD;

/// A SYN-ACK that waits.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// When it came, boottime ns.
    pub at: u64,
    /// The record of its flow.
    pub slot: u32,
    /// That one's generation.
    pub generation: u16,
    /// Bytes of `frame` that are the frame's.
    pub length: u16,
    /// The frame from its Ethernet header on.
    pub frame: [u8; HEAD],
}
layout!(Held = 112: at, slot, generation, length, frame);

impl Held {
    /// The IP packet.
    pub fn packet(&self) -> &[u8] {
        const ETHERNET: usize = 14;
        self.frame.get(ETHERNET..usize::from(self.length)).unwrap_or_default()
    }
}
