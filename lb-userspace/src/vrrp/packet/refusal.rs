//! Why an advert is not believed: one word for operators each.
//!
//! A wrong password and a wrong interval look alike from outside (two masters), so each reason has a counter. Named by
//! `packet` and `datagram`, counted by `io`, printed by the status display.

use std::fmt;

/// Why a received advert was not believed. Each is counted on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Not sent to the VRRP group; with unicast peers, not sent to this node's address.
    Destination,
    /// Sent by somebody who is none of the unicast peers.
    Source,
    /// TTL (hop limit) other than 255; from a unicast peer, outside of its limits.
    Ttl,
    /// Shorter than its header, or not as long as its address count says.
    Length,
    /// Another protocol version than configured.
    Version,
    /// Not an advertisement.
    Type,
    /// Damaged.
    Checksum,
    /// A virtual router id that is not this router's.
    Vrid,
    /// No virtual address in it (RFC erratum 8299).
    NoAddress,
    /// Another authentication type than configured.
    AuthType,
    /// Right type, wrong password.
    Password,
    /// An advertisement interval of 0 (RFC erratum 8301).
    ZeroInterval,
    /// Another advertisement interval than configured; version 2 only.
    Interval,
    /// Another set of virtual addresses than configured.
    Addresses,
}

impl Refusal {
    /// Every reason, in the order of the checks; the position is the index of its counter.
    pub const ALL: [Self; 14] = [
        Self::Destination,
        Self::Source,
        Self::Ttl,
        Self::Length,
        Self::Version,
        Self::Type,
        Self::Checksum,
        Self::Vrid,
        Self::NoAddress,
        Self::AuthType,
        Self::Password,
        Self::ZeroInterval,
        Self::Interval,
        Self::Addresses,
    ];

    /// The reason in words, as status and log print it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Destination => "not sent to this router",
            Self::Source => "not from a peer",
            Self::Ttl => "TTL out of its limits",
            Self::Length => "wrong length",
            Self::Version => "other VRRP version",
            Self::Type => "not an advertisement",
            Self::Checksum => "bad checksum",
            Self::Vrid => "other virtual router id",
            Self::NoAddress => "no virtual address",
            Self::AuthType => "other authentication type",
            Self::Password => "wrong password",
            Self::ZeroInterval => "advertisement interval of 0",
            Self::Interval => "other advertisement interval",
            Self::Addresses => "other virtual addresses",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
