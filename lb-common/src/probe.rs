//! Messages between viplb nodes about a virtual router, one UDP datagram each, of one fixed length.
//!
//! A *probe* is answered by the asked node's packet programs, so that the answer tells the state of its data plane and of
//! its lease even while its daemon is frozen: it is rewritten in place, which is why all messages have one length (and why
//! nothing is amplified). The other kinds go from daemon to daemon and hand the lease over. Like adverts, messages count
//! only with TTL (hop limit) 255: they never crossed a router.
//!
//! ```text
//!  0  "vlbp"      4  version 1    5  kind        6  virtual router id    7  sender's priority
//!  8  nonce (8), repeated in the answer
//! 16  a virtual address of the router (16, IPv4 mapped)
//! 32  answer: state of the lease (State)    33  zero    34  answer, request: sender's hardware address (6)
//! 40  answer: rest of the lease, ns (8, big-endian)
//! 48  offer, request, grant: authentication data of the virtual router (8)
//! 56  zero (8)
//! ```

use crate::addr::{Addr, Mac};

/// UDP port, source and destination. Not in any system's range of ephemeral ports.
pub const PORT: u16 = 29_112;
/// Length of the UDP payload.
pub const LEN: usize = 64;
/// TTL or hop limit, sent and demanded.
pub const TTL: u8 = 255;
/// First four bytes.
pub const MAGIC: [u8; 4] = *b"vlbp";
/// Fifth byte.
pub const VERSION: u8 = 1;

/// Sixth byte: what the message is.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// "What is your lease for this address?"
    Probe = 1,
    /// A packet program's answer to it.
    Answer = 2,
    /// "I am leaving: who takes over?"
    Offer = 3,
    /// "I take over: give up your lease."
    Request = 4,
    /// "I have given it up: it is yours."
    Grant = 5,
}

/// What a packet program says of its node's lease.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The address is not a virtual one there.
    Unknown = 0,
    /// Valid, for the rest given.
    Valid = 1,
    /// It ran out, and its term is fenced: it will not be valid again.
    Expired = 2,
    /// It was given up, or never taken.
    Released = 3,
}

/// A message, as it lies in the datagram.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// [`MAGIC`].
    pub magic: [u8; 4],
    /// [`VERSION`].
    pub version: u8,
    /// A [`Kind`].
    pub kind: u8,
    /// Virtual router id.
    pub vrid: u8,
    /// The sender's priority.
    pub priority: u8,
    /// Chosen by who asks, repeated in the answer.
    pub nonce: [u8; 8],
    /// A virtual address of the router, network order, IPv4 mapped.
    pub address: [u8; 16],
    /// A [`State`].
    pub state: u8,
    /// Zero.
    pub pad: u8,
    /// The sender's hardware address.
    pub mac: [u8; 6],
    /// Rest of the lease in ns, big-endian.
    pub rest: [u8; 8],
    /// Authentication data of the virtual router.
    pub auth: [u8; 8],
    /// Zero.
    pub reserved: [u8; 8],
}
const _: () = assert!(size_of::<Message>() == LEN);

impl Message {
    /// A message without particulars.
    pub const fn new(kind: Kind, vrid: u8, priority: u8, nonce: u64, address: Addr) -> Self {
        Self {
            magic: MAGIC,
            version: VERSION,
            kind: kind as u8,
            vrid,
            priority,
            nonce: nonce.to_be_bytes(),
            address: address.bytes(),
            state: State::Unknown as u8,
            pad: 0,
            mac: [0; 6],
            rest: [0; 8],
            auth: [0; 8],
            reserved: [0; 8],
        }
    }

    /// With the sender's hardware address.
    pub const fn from_mac(self, mac: Mac) -> Self {
        Self { mac: mac.0, ..self }
    }

    /// Whether it is one of ours, in a version that is spoken here.
    #[inline(always)]
    pub const fn is_known(&self) -> bool {
        let m = self.magic;
        m[0] == MAGIC[0]
            && m[1] == MAGIC[1]
            && m[2] == MAGIC[2]
            && m[3] == MAGIC[3]
            && self.version == VERSION
    }

    /// What it is; `None` for numbers that mean nothing.
    pub const fn kind(&self) -> Option<Kind> {
        Some(match self.kind {
            1 => Kind::Probe,
            2 => Kind::Answer,
            3 => Kind::Offer,
            4 => Kind::Request,
            5 => Kind::Grant,
            _ => return None,
        })
    }

    /// The datagram; `None` if it is not one of ours.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let b: &[u8; LEN] = bytes.first_chunk()?;
        let part = |at: usize| -> [u8; 8] { core::array::from_fn(|i| b[at + i]) };
        let message = Self {
            magic: [b[0], b[1], b[2], b[3]],
            version: b[4],
            kind: b[5],
            vrid: b[6],
            priority: b[7],
            nonce: part(8),
            address: core::array::from_fn(|i| b[16 + i]),
            state: b[32],
            pad: b[33],
            mac: core::array::from_fn(|i| b[34 + i]),
            rest: part(40),
            auth: part(48),
            reserved: part(56),
        };
        (bytes.len() == LEN && message.is_known()).then_some(message)
    }

    /// The datagram's bytes.
    pub fn bytes(&self) -> [u8; LEN] {
        let mut b = [0; LEN];
        b[..4].copy_from_slice(&self.magic);
        b[4..8].copy_from_slice(&[self.version, self.kind, self.vrid, self.priority]);
        b[8..16].copy_from_slice(&self.nonce);
        b[16..32].copy_from_slice(&self.address);
        b[32..34].copy_from_slice(&[self.state, self.pad]);
        b[34..40].copy_from_slice(&self.mac);
        b[40..48].copy_from_slice(&self.rest);
        b[48..56].copy_from_slice(&self.auth);
        b[56..].copy_from_slice(&self.reserved);
        b
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_back_as_it_was_sent_and_others_are_refused() {
        let address = Addr::v4([172, 18, 0, 201]);
        let mut sent = Message::new(Kind::Request, 51, 101, 0x0102_0304_0506_0708, address);
        (sent.mac, sent.rest, sent.auth) = ([1; 6], [2; 8], [3; 8]);
        let bytes = sent.bytes();
        assert_eq!(Message::parse(&bytes), Some(sent));
        assert_eq!(sent.kind(), Some(Kind::Request));
        assert_eq!(Message::parse(&bytes[..63]), None, "too short");
        assert_eq!(Message::parse(&[&bytes[..], &[0]].concat()), None, "too long");
        for at in 0..5 {
            let mut other = bytes;
            other[at] ^= 1;
            assert_eq!(Message::parse(&other), None, "byte {at}");
        }
    }
}
