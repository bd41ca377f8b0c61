//! VRRP adverts over IPv4 on the wire: version 2 with no authentication or PASS (RFC 3768 §5, RFC 2338 §5.3.6), and
//! version 3 (RFC 9568 §5).
//!
//! An [`Identity`] is what both sides of a virtual router must agree on; it parses received adverts against itself
//! and emits its own. Each reason to refuse one has its own [`Refusal`], because operators tell a wrong password
//! from a wrong interval by these counters. Called by `io`; nothing here allocates on the receive path, and no
//! input makes it panic.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use crate::config::model::{AuthPass, VirtualRouter};
pub use crate::config::model::{V3Checksum, Version};

/// IP protocol number of VRRP.
pub const PROTOCOL: u8 = 112;
/// Where IPv4 adverts go.
pub const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// The only TTL an advert may arrive with: it never crossed a router.
pub const TTL: u8 = 255;
/// The priority of a router that gives up or does not hold the addresses.
pub const PRIORITY_LEAVING: u8 = 0;
/// The priority of the addresses' real owner, whose address list is not questioned.
pub const PRIORITY_OWNER: u8 = 255;

const TYPE_ADVERTISEMENT: u8 = 1;
const HEADER_LEN: usize = 8;
const AUTH_LEN: usize = 8;
/// What version 3's interval has 12 bits for, which are also their mask.
const MAX_CENTISECONDS: u16 = 0x0fff;

mod checksum;

mod field {
    use std::ops::Range;
    pub const VERSION_TYPE: usize = 0;
    pub const VRID: usize = 1;
    pub const PRIORITY: usize = 2;
    pub const COUNT: usize = 3;
    pub const AUTH_TYPE: usize = 4;
    pub const ADVER_INT: usize = 5;
    /// Version 3: four reserved bits and 12 bits of centiseconds.
    pub const MAX_ADVER_INT: Range<usize> = 4..6;
    pub const CHECKSUM: Range<usize> = 6..8;
}

/// How version 2 adverts are authenticated (RFC 2338 §5.3.6); version 3 has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// Type 0; the eight bytes are there and zero, and ignored on receipt.
    None,
    /// Type 1, simple text password.
    Pass(AuthPass),
}

impl Auth {
    fn type_code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Pass(_) => 1,
        }
    }
}

/// Why a received advert was not believed. Each is counted on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Not sent to the VRRP group.
    Destination,
    /// TTL other than 255.
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
    pub const ALL: [Self; 13] = [
        Self::Destination,
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
            Self::Destination => "not sent to the VRRP group",
            Self::Ttl => "TTL is not 255",
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

/// A received IPv4 datagram, as much of it as the checks need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Sender.
    pub source: Ipv4Addr,
    /// Where it was sent.
    pub destination: Ipv4Addr,
    /// TTL on arrival.
    pub ttl: u8,
    /// What follows the IP header.
    pub payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Splits what a raw IPv4 socket hands out; `None` if it is not a whole IPv4 datagram.
    pub fn from_ipv4(bytes: &'a [u8]) -> Option<Self> {
        let header: &[u8; 20] = bytes.first_chunk()?;
        let header_len = usize::from(header[0] & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header[0] >> 4 != 4 || header_len < 20 {
            return None;
        }
        Some(Self {
            source: Ipv4Addr::new(header[12], header[13], header[14], header[15]),
            destination: Ipv4Addr::new(header[16], header[17], header[18], header[19]),
            ttl: header[8],
            payload: bytes.get(header_len..total)?,
        })
    }

    /// The virtual router id, for finding the router this is for.
    pub fn vrid(&self) -> Option<u8> {
        self.payload.get(field::VRID).copied()
    }
}

/// An advert that passed every check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advert {
    /// 0 gives up the addresses, 255 is their real owner.
    pub priority: u8,
    /// The sender's advertisement interval (in version 2 always ours too; in version 3 its word on it counts).
    pub interval: Duration,
}

/// What all routers of one virtual router must have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Protocol version.
    pub version: Version,
    /// Virtual router id.
    pub vrid: u8,
    /// Advertisement interval.
    pub advert_int: Duration,
    /// Authentication; none in version 3.
    pub auth: Auth,
    /// What the checksum of sent version 3 adverts covers.
    pub v3_checksum: V3Checksum,
    /// Virtual addresses, in the order they are advertised.
    pub addresses: Vec<Ipv4Addr>,
}

impl From<&VirtualRouter> for Identity {
    fn from(router: &VirtualRouter) -> Self {
        Self {
            version: router.version,
            vrid: router.vrid,
            advert_int: router.advert_int,
            auth: router.auth_pass.map_or(Auth::None, Auth::Pass),
            v3_checksum: router.v3_checksum,
            addresses: router.ipv4().collect(),
        }
    }
}

impl Identity {
    /// Checks a datagram by RFC 3768 §7.1 or RFC 9568 §7.1, in their order, and more strictly where keepalived is:
    /// the address list must match, and in version 2 the interval.
    pub fn parse(&self, datagram: &Datagram<'_>) -> Result<Advert, Refusal> {
        let bytes = datagram.payload;
        if datagram.destination != GROUP {
            return Err(Refusal::Destination);
        }
        if datagram.ttl != TTL {
            return Err(Refusal::Ttl);
        }
        let header: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(Refusal::Length)?;
        if header[field::VERSION_TYPE] >> 4 != self.version_code() {
            return Err(Refusal::Version);
        }
        if header[field::VERSION_TYPE] & 0x0f != TYPE_ADVERTISEMENT {
            return Err(Refusal::Type);
        }
        let count = usize::from(header[field::COUNT]);
        if bytes.len() != self.message_len(count) {
            return Err(Refusal::Length);
        }
        if !self.is_undamaged(datagram) {
            return Err(Refusal::Checksum);
        }
        if header[field::VRID] != self.vrid {
            return Err(Refusal::Vrid);
        }
        if count == 0 {
            return Err(Refusal::NoAddress);
        }
        let (addresses, auth) = bytes[HEADER_LEN..].split_at(4 * count);
        let interval = self.check_interval(header, auth)?;
        let priority = header[field::PRIORITY];
        if priority != PRIORITY_OWNER && !self.same_addresses(addresses) {
            return Err(Refusal::Addresses);
        }
        Ok(Advert { priority, interval })
    }

    /// Bytes that [`emit`](Self::emit) writes.
    pub fn buffer_len(&self) -> usize {
        self.message_len(self.addresses.len())
    }

    /// Writes an advert of the given priority, to be sent from `source` to the group, over `buffer`, which is exactly
    /// [`buffer_len`](Self::buffer_len) long.
    pub fn emit(&self, priority: u8, source: Ipv4Addr, buffer: &mut [u8]) {
        buffer[field::VERSION_TYPE] = self.version_code() << 4 | TYPE_ADVERTISEMENT;
        buffer[field::VRID] = self.vrid;
        buffer[field::PRIORITY] = priority;
        buffer[field::COUNT] = u8::try_from(self.addresses.len()).unwrap_or(u8::MAX);
        match self.version {
            Version::V2 => {
                buffer[field::AUTH_TYPE] = self.auth.type_code();
                buffer[field::ADVER_INT] = u8::try_from(self.advert_int.as_secs()).unwrap_or(u8::MAX);
            }
            Version::V3 => {
                let centiseconds = u16::try_from(self.advert_int.as_millis() / 10).unwrap_or(u16::MAX);
                let code = centiseconds.min(MAX_CENTISECONDS);
                buffer[field::MAX_ADVER_INT].copy_from_slice(&code.to_be_bytes());
            }
        }
        buffer[field::CHECKSUM].fill(0);
        let (addresses, auth) = buffer[HEADER_LEN..].split_at_mut(4 * self.addresses.len());
        for (slot, address) in addresses.chunks_exact_mut(4).zip(&self.addresses) {
            slot.copy_from_slice(&address.octets());
        }
        match self.auth {
            Auth::Pass(password) if self.version == Version::V2 => auth.copy_from_slice(&password.0),
            Auth::Pass(_) | Auth::None => auth.fill(0),
        }
        let sum = match (self.version, self.v3_checksum) {
            (Version::V2, _) | (Version::V3, V3Checksum::Plain) => checksum::plain(buffer),
            (Version::V3, V3Checksum::PseudoHeader) => checksum::with_pseudo_header(source, GROUP, buffer),
        };
        buffer[field::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
    }

    /// Whether `address` is one of the virtual ones.
    pub fn owns(&self, address: IpAddr) -> bool {
        matches!(address, IpAddr::V4(v4) if self.addresses.contains(&v4))
    }

    /// Version 3 over IPv4 is sent in two ways: RFC 9568 §5.2.8 leaves the pseudo-header out, keepalived and FRR do
    /// not. Both are taken, at the price of one of the checksum's sixteen bits.
    fn is_undamaged(&self, datagram: &Datagram<'_>) -> bool {
        let Datagram { source, destination, payload, .. } = *datagram;
        checksum::plain(payload) == 0
            || self.version == Version::V3 && checksum::with_pseudo_header(source, destination, payload) == 0
    }

    /// The sender's interval. In version 2 it has to be ours (and so has the authentication), in version 3 it is
    /// learnt.
    fn check_interval(&self, header: &[u8; HEADER_LEN], auth: &[u8]) -> Result<Duration, Refusal> {
        match self.version {
            Version::V2 => {
                self.check_auth(header[field::AUTH_TYPE], auth)?;
                match u64::from(header[field::ADVER_INT]) {
                    0 => Err(Refusal::ZeroInterval),
                    seconds if seconds != self.advert_int.as_secs() => Err(Refusal::Interval),
                    _ => Ok(self.advert_int),
                }
            }
            Version::V3 => {
                let code = u16::from_be_bytes([header[4], header[5]]) & MAX_CENTISECONDS;
                let interval = Duration::from_millis(10) * u32::from(code);
                if interval.is_zero() { Err(Refusal::ZeroInterval) } else { Ok(interval) }
            }
        }
    }

    fn check_auth(&self, type_code: u8, data: &[u8]) -> Result<(), Refusal> {
        if type_code != self.auth.type_code() {
            return Err(Refusal::AuthType);
        }
        match self.auth {
            Auth::Pass(password) if data != password.0 => Err(Refusal::Password),
            _ => Ok(()),
        }
    }

    /// Order does not matter: two configurations that list the same addresses mean the same router.
    fn same_addresses(&self, wire: &[u8]) -> bool {
        let on_wire = |ours: &Ipv4Addr| wire.chunks_exact(4).any(|theirs| theirs == ours.octets());
        wire.len() == self.addresses.len() * 4 && self.addresses.iter().all(on_wire)
    }

    fn version_code(&self) -> u8 {
        match self.version {
            Version::V2 => 2,
            Version::V3 => 3,
        }
    }

    fn message_len(&self, addresses: usize) -> usize {
        let auth_len = match self.version {
            Version::V2 => AUTH_LEN,
            Version::V3 => 0,
        };
        HEADER_LEN + 4 * addresses + auth_len
    }
}

#[cfg(test)]
mod tests;
