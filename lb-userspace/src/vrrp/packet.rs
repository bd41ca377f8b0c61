//! VRRP adverts on the wire: version 2 over IPv4 with no authentication or PASS (RFC 3768 §5, RFC 2338 §5.3.6), and
//! version 3 over both families (RFC 9568 §5).
//!
//! An [`Identity`] is what both sides of a virtual router must agree on; it parses received adverts against itself and
//! the [`Path`] they came by, and emits its own. Each reason to refuse one has its own [`Refusal`], because operators
//! tell a wrong password from a wrong interval by these counters. Called by `io`; nothing here allocates but
//! [`Identity::from`], and no input makes it panic.

use std::{net::IpAddr, time::Duration};

use crate::config::model::{AuthPass, VirtualRouter};
pub use crate::config::model::{V3Checksum, Version};

/// IP protocol number of VRRP.
pub const PROTOCOL: u8 = 112;
/// The TTL (hop limit) of all adverts, and the only one of multicast adverts that arrive: they never crossed a router.
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
/// Most addresses that an IPv6 advert may have: more do not fit into the smallest MTU that a link may have (RFC 8200
/// §5), and an advert in fragments is none.
pub const MAX_IPV6_ADDRESSES: usize = (1280 - 40 - HEADER_LEN) / 16;

mod anything;
pub(super) mod checksum;
mod datagram;
pub(super) mod peer;
mod refusal;

pub(super) use self::datagram::write_ipv6_header;
pub use self::{
    anything::any_bytes,
    datagram::{Datagram, Family, GROUP_V4, GROUP_V6, Path},
    refusal::Refusal,
};

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
    /// Virtual addresses, in the order they are advertised; all of one family, IPv6 only in version 3.
    pub addresses: Vec<IpAddr>,
}

impl From<&VirtualRouter> for Identity {
    /// A link-local address comes first, wherever it stands in the file: RFC 9568 §5.2.9 wants it there.
    fn from(router: &VirtualRouter) -> Self {
        let mut addresses: Vec<IpAddr> = router.addresses.iter().map(|address| address.addr).collect();
        addresses.sort_by_key(|address| !is_link_local(*address));
        Self {
            version: router.version,
            vrid: router.vrid,
            advert_int: router.advert_int,
            auth: router.auth_pass.map_or(Auth::None, Auth::Pass),
            v3_checksum: router.v3_checksum,
            addresses,
        }
    }
}

impl Identity {
    /// Checks a datagram by RFC 3768 §7.1 or RFC 9568 §7.1, in their order, and more strictly where keepalived is:
    /// the address list must match, and in version 2 the interval.
    pub fn parse(&self, path: &Path, datagram: &Datagram<'_>) -> Result<Advert, Refusal> {
        path.check(datagram)?;
        let bytes = datagram.payload;
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
        let (addresses, auth) = bytes[HEADER_LEN..].split_at(self.family().address_len() * count);
        let interval = self.check_interval(header, auth)?;
        let priority = header[field::PRIORITY];
        if priority != PRIORITY_OWNER && !self.same_addresses(addresses) {
            return Err(Refusal::Addresses);
        }
        Ok(Advert { priority, interval })
    }

    /// The family of the addresses, and so of the adverts.
    pub fn family(&self) -> Family {
        self.addresses.first().map_or(Family::V4, |first| Family::of(*first))
    }

    /// Bytes that [`emit`](Self::emit) writes.
    pub fn datagram_len(&self) -> usize {
        self.family().header_len() + self.message_len(self.addresses.len())
    }

    /// Writes an advert of the given priority with its IP header over `datagram`, which is exactly
    /// [`datagram_len`](Self::datagram_len) long. Both addresses are of the router's family.
    pub fn emit(&self, priority: u8, source: IpAddr, destination: IpAddr, datagram: &mut [u8]) {
        datagram::write_header(PROTOCOL, source, destination, datagram);
        let message = &mut datagram[self.family().header_len()..];
        self.write_message(priority, message);
        let sum = match (self.version, self.v3_checksum, self.family()) {
            (Version::V2, ..) | (Version::V3, V3Checksum::Plain, Family::V4) => checksum::plain(message),
            (Version::V3, V3Checksum::PseudoHeader, Family::V4) | (Version::V3, _, Family::V6) => {
                checksum::with_pseudo_header(source, destination, PROTOCOL, message)
            }
        };
        message[field::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
    }

    /// Everything but the checksum, which is left 0.
    fn write_message(&self, priority: u8, buffer: &mut [u8]) {
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
        let size = self.family().address_len();
        let (addresses, auth) = buffer[HEADER_LEN..].split_at_mut(size * self.addresses.len());
        for (slot, address) in addresses.chunks_exact_mut(size).zip(&self.addresses) {
            match address {
                IpAddr::V4(v4) => slot.copy_from_slice(&v4.octets()),
                IpAddr::V6(v6) => slot.copy_from_slice(&v6.octets()),
            }
        }
        match self.auth {
            Auth::Pass(password) if self.version == Version::V2 => auth.copy_from_slice(&password.0),
            Auth::Pass(_) | Auth::None => auth.fill(0),
        }
    }

    /// Version 3 over IPv4 is sent in two ways: RFC 9568 §5.2.8 leaves the pseudo-header out, keepalived and FRR do
    /// not. Both are taken, at the price of one of the checksum's sixteen bits. Over IPv6 it is always there.
    fn is_undamaged(&self, datagram: &Datagram<'_>) -> bool {
        let Datagram { source, destination, payload, .. } = *datagram;
        let plain = || checksum::plain(payload) == 0;
        let pseudo = || checksum::with_pseudo_header(source, destination, PROTOCOL, payload) == 0;
        match (self.version, self.family()) {
            (Version::V2, _) => plain(),
            (Version::V3, Family::V4) => plain() || pseudo(),
            (Version::V3, Family::V6) => pseudo(),
        }
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
        let size = self.family().address_len();
        let on_wire = |ours: &IpAddr| {
            wire.chunks_exact(size).any(|theirs| match ours {
                IpAddr::V4(v4) => theirs == v4.octets(),
                IpAddr::V6(v6) => theirs == v6.octets(),
            })
        };
        wire.len() == self.addresses.len() * size && self.addresses.iter().all(on_wire)
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
        HEADER_LEN + self.family().address_len() * addresses + auth_len
    }
}

/// Whether it is an IPv6 address of one link only.
pub fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

#[cfg(test)]
mod tests;
