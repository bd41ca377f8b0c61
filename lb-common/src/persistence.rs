//! Which backend a client was last given, so that it is given the same again (`persistence_timeout`).

use crate::addr::Addr;

/// Key of the `PERSISTENCE` map.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ClientKey {
    /// The client's address, or the first address of its network.
    pub client: Addr,
    /// The service.
    pub service: u32,
    /// Zero.
    pub pad: u32,
}
layout!(ClientKey = 24: client, service, pad);

/// What it leads to.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Remembered {
    /// Boottime of the last connection that was opened, ns.
    pub seen: u64,
    /// The backend.
    pub backend: u32,
    /// Zero.
    pub pad: u32,
}
layout!(Remembered = 16: seen, backend, pad);

impl Addr {
    /// The first address of the network that this one is in; `bits` are counted of all 128, also in IPv4.
    #[inline(always)]
    pub const fn network(&self, bits: u8) -> Self {
        let [high, low] = self.words();
        if bits >= 128 {
            *self
        } else if bits >= 64 {
            Self::from_halves(high, low & first_bits(bits - 64))
        } else {
            Self::from_halves(high & first_bits(bits), 0)
        }
    }
}

/// A word, as it lies in memory, whose first `n` bits in network order are set, `n` < 64.
#[inline(always)]
const fn first_bits(n: u8) -> u64 {
    (!(u64::MAX >> (n & 63))).to_be()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_the_first_bits_of_an_address() {
        let v4 = Addr::v4([172, 18, 201, 7]);
        assert_eq!(v4.network(96 + 24), Addr::v4([172, 18, 201, 0]));
        assert_eq!(v4.network(96 + 20), Addr::v4([172, 18, 192, 0]));
        assert_eq!(v4.network(128), v4);
        let mut bytes = [0xff; 16];
        let v6 = Addr::new(bytes);
        bytes[6..].fill(0);
        assert_eq!(v6.network(48), Addr::new(bytes));
        assert_eq!(v6.network(0), Addr::default());
        assert_eq!(v6.network(64).words(), [u64::MAX, 0]);
    }
}
