//! Access to one frame, as each front end can give it.
//!
//! A front end differs in more than memory: XDP edits a checksum in place, TC has to go through the kernel's helper or
//! frames whose checksum is still to be completed (CHECKSUM_PARTIAL) break. So the checksum is an operation here.

use lb_common::{addr::Addr, flow::FlowKey, sample::HEAD};
use network_types::{arp::ArpHdr, eth::EthHdr, icmp::Icmpv4Hdr, ip::Ipv4Hdr, tcp::TcpHdr, udp::UdpHdr};

/// A frame starting at its Ethernet header.
pub trait Packet {
    /// Length of the frame in bytes.
    fn length(&self) -> u32;

    /// To whom the frame was addressed on its link.
    fn delivery(&self) -> Delivery;

    /// Whether it belongs to a VLAN. (The kernel takes the tag out of the frame before programs see it; a priority tag, of VLAN
    /// 0, does not count.)
    fn tagged(&self) -> bool;

    /// Copies a header out; `None` beyond the end.
    fn read<T: Plain>(&self, offset: usize) -> Option<T>;

    /// Copies a header in; `None` beyond the end. The caller keeps checksums right.
    fn write<T: Plain>(&mut self, offset: usize, value: &T) -> Option<()>;

    /// As [`read`](Self::read), for pieces of 16 bytes and more: cheaper there, and free of the frame's linear part.
    fn load<T: Plain>(&self, offset: usize) -> Option<T>;

    /// As [`write`](Self::write), likewise.
    fn store<T: Plain>(&mut self, offset: usize, value: &T) -> Option<()>;

    /// Copies the frame's start out, as much as there is; gives how much that was.
    fn head(&self, to: &mut [u8; HEAD]) -> u16;

    /// Updates a layer-4 checksum after words changed: `pseudo` is the delta of addresses (part of the pseudo-header),
    /// `body` the delta of everything else. Call it before writing the changed words.
    fn update_l4_checksum(&mut self, field: Checksum, pseudo: u16, body: u16) -> Option<()>;

    /// Likewise, of a frame in which the field would be `unfinished` if its checksum were still to be completed. Few finished ones
    /// look like that, so that hardly any frame with a finished one has to take the dearer way.
    fn update_known_l4_checksum(
        &mut self,
        field: Checksum,
        unfinished: u16,
        pseudo: u16,
        body: u16,
    ) -> Option<()> {
        let _ = unfinished;
        self.update_l4_checksum(field, pseudo, body)
    }

    /// Sets the layer-4 checksum field at `offset` of a header written from scratch: `pseudo` is the folded sum of the
    /// pseudo-header, `body` that of header and data with the field zero.
    fn set_l4_checksum(&mut self, offset: usize, pseudo: u16, body: u16) -> Option<()>;

    /// Says that words of an IPv6 header changed by `delta`: no header checksum makes up for them in a sum that the
    /// hardware has formed of the whole frame.
    fn amend_frame_sum(&mut self, delta: u16);

    /// Makes the node's own stack take the frame in, though it was addressed to another host.
    fn take_in(&mut self);

    /// Cuts the frame to `length` bytes, or lengthens it with zeros.
    fn resize(&mut self, length: u32) -> Option<()>;

    /// Data in each segment that the frame is to be cut into before it leaves (GSO); 0: it leaves as it is.
    fn segment_size(&self) -> u32;

    /// Inserts zeros between the Ethernet header and what follows.
    fn make_room(&mut self, room: Room) -> Option<()>;

    /// Makes an IPv6 packet of an IPv4 packet, or the other way round: the network header becomes as long as the other family's,
    /// its content undefined.
    fn change_family(&mut self, to_v6: bool) -> Option<()>;

    /// Whether a checksum in the frame is completed only when it leaves. The two bytes at `scratch` are undefined afterwards.
    fn is_unfinished(&mut self, scratch: usize) -> bool;

    /// Whether this node's own stack has a TCP socket for a frame with these ends.
    fn has_socket(&self, ends: &FlowKey) -> bool;

    /// Leaves the frame to the program in this slot of `TAILS` (`maps::FORMER`, `maps::FORMER_OPENS`): does not come back if there is
    /// one, and that decides all about the frame, which nothing may have been done to or counted. There is one only while flows are
    /// brought over from another layout of the maps.
    fn leave_to(&self, slot: u32);

    /// Tells the program that the frame is left to.
    fn hand_on(&mut self, words: [u32; 2]);

    /// What the program before has told.
    fn handed(&self) -> [u32; 2];

    /// Tells it, beside that, what has been found out about the frame.
    fn note(&mut self, words: [u32; 2]);

    /// What the program before has found out, if it is one that says so.
    fn noted(&self) -> [u32; 2];
}

/// What room is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// The outer IPv4 header of a tunnel, 20 bytes.
    Tunnel4,
    /// The outer IPv6 header of a tunnel, 40 bytes.
    Tunnel6,
    /// The headers of an ICMP error, 28 bytes.
    Error4,
    /// The headers of an ICMPv6 error, 48 bytes.
    Error6,
}

/// A layer-4 checksum field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checksum {
    /// Where it is in the frame.
    pub offset: usize,
    /// UDP's: zero means that there is none, so that none stays none, and a sum of zero is sent as 0xffff (RFC 768).
    pub optional: bool,
}

/// When and where a frame came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Boottime, ns; up to [`BEHIND`](lb_common::clock::BEHIND) ago.
    pub now: u64,
    /// Index of the interface.
    pub ifindex: u32,
}

/// Link-layer destination of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// This host.
    Host,
    /// All hosts, or a group of them.
    Group,
    /// Another host.
    Other,
}

/// Headers that may be read from and written to any bytes.
///
/// # Safety
///
/// No padding, every bit pattern valid. (Alignment does not matter: accesses are unaligned.)
pub unsafe trait Plain: Copy {}

// SAFETY: arrays of bytes.
unsafe impl<const N: usize> Plain for [u8; N] {}
// SAFETY: arrays of bytes.
unsafe impl<const N: usize, const M: usize> Plain for [[u8; N]; M] {}
// SAFETY: repr(C) of byte arrays.
unsafe impl Plain for Ipv4Hdr {}
// SAFETY: repr(C) of byte arrays.
unsafe impl Plain for TcpHdr {}
// SAFETY: repr(C) of byte arrays.
unsafe impl Plain for ArpHdr {}
// SAFETY: repr(C) of byte arrays.
unsafe impl Plain for Icmpv4Hdr {}
// SAFETY: repr(C) of byte arrays.
unsafe impl Plain for UdpHdr {}
// SAFETY: sixteen bytes, each.
unsafe impl Plain for [Addr; 2] {}
// SAFETY: likewise.
unsafe impl Plain for [Addr; 4] {}
// SAFETY: sixteen bytes.
unsafe impl Plain for Addr {}
// SAFETY: repr(C) of byte arrays and a u16 at an even offset.
unsafe impl Plain for EthHdr {}

const _: () = assert!(size_of::<EthHdr>() == 14 && size_of::<Ipv4Hdr>() == 20 && size_of::<TcpHdr>() == 20);
const _: () = assert!(size_of::<ArpHdr>() == 28 && size_of::<Icmpv4Hdr>() == 8 && size_of::<UdpHdr>() == 8);
