//! What the bench's feeding program and `cargo xtask bench program` share. No part of viplb's own maps or schema.

/// Bytes of a bench's frame: Ethernet, IPv4 and TCP headers without options, or a datagram of 12 bytes.
pub const FRAME: usize = 54;
/// Most flows that frames are made for.
pub const MAX_FLOWS: usize = 65_536;

/// The frame, and whose turn it is.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Feed {
    /// Index of the next flow's [`Tuple`].
    pub next: u32,
    /// Number of flows.
    pub flows: u32,
    /// The frame as words in memory.
    pub frame: [u16; FRAME / 2],
    /// Zero.
    pub pad: [u8; 2],
}

/// What of the frame differs from flow to flow, as words in memory.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Tuple {
    /// IPv4 source address.
    pub source: [u16; 2],
    /// Source and destination port.
    pub ports: [u16; 2],
}

#[cfg(feature = "user")]
// SAFETY: plain integers without padding.
unsafe impl aya::Pod for Feed {}
#[cfg(feature = "user")]
// SAFETY: plain integers without padding.
unsafe impl aya::Pod for Tuple {}
