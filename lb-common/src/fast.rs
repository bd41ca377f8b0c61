//! The XDP fast path: what it leaves to TC, and the self-test that proves that frames which it sends do leave.

use crate::addr::Mac;

/// Why a frame was left to the TC programs; also the places in the `FAST` map, per CPU.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Of no known flow, or for nobody here, or nothing that is simply sent on.
    NotKnown = 1,
    /// Goes by TC now and then, so that the kernel keeps the neighbour's address true.
    Due = 2,
    /// Its checksum is to be completed by hardware, so a local stack sent it.
    Unfinished = 3,
    /// No frame sent by XDP has been seen to leave by that interface.
    NoWay = 4,
    /// The neighbour's address is not known yet.
    NoNeighbour = 5,
    /// Longer than the route takes: an offloaded train of segments, or to be fragmented.
    TooLong = 6,
    /// No route, or forwarding is switched off (`net.ipv4.conf.INTERFACE.forwarding`).
    NoRoute = 7,
}

impl Left {
    /// All of them with the words for output.
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::NotKnown, "not-known"),
        (Self::Due, "due"),
        (Self::Unfinished, "unfinished-checksum"),
        (Self::NoWay, "no-way"),
        (Self::NoNeighbour, "no-neighbour"),
        (Self::TooLong, "too-long"),
        (Self::NoRoute, "no-route"),
    ];
}

/// Place in the `FAST` map of packets that XDP itself sent on.
pub const SENT: u32 = 0;
/// Places of the `FAST` map.
pub const FAST_SLOTS: usize = 16;

/// Length of an ARP frame without padding.
pub const ARP_FRAME: usize = 42;

/// A self-test of one interface: the next ARP reply that comes in there becomes [`frame`](Self::frame), sent by XDP.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SelfTest {
    /// The interface it is sent by.
    pub out: u32,
    /// Non-zero until a reply has come.
    pub armed: u32,
    /// The interface's hardware address, which the reply is to.
    pub mac: Mac,
    /// What is sent: the question that proves it all if it is answered.
    pub frame: [u8; ARP_FRAME],
}
layout!(SelfTest = 56: out, armed, mac, frame);
