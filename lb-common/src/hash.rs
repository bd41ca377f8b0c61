//! Hashing of flow keys, the same in the kernel and in userspace.

use crate::{
    addr::{Addr, Port},
    flow::FlowKey,
};

/// A 32-bit hash of a flow key: multiply-xorshift over its words. Spreads ports well, which is what the walk over
/// SNAT ports needs; not keyed, so nothing that an attacker may choose depends on its quality.
#[inline(always)]
pub fn flow(key: &FlowKey) -> u32 {
    let mut h = 0x9e37_79b9_7f4a_7c15u64;
    h = mix(h ^ words(&key.src));
    h = mix(h ^ words(&key.dst));
    let p = [key.sport.0[0], key.sport.0[1], key.dport.0[0], key.dport.0[1], key.proto, 0, 0, 0];
    h = mix(h ^ u64::from_le_bytes(p));
    (h >> 32) as u32
}

/// A 32-bit hash of an address and a port, likewise.
#[inline(always)]
pub const fn end(addr: &Addr, port: Port) -> u32 {
    let mut h = mix(0x9e37_79b9_7f4a_7c15 ^ words(addr));
    h = mix(h ^ u16::from_le_bytes(port.0) as u64);
    (h >> 32) as u32
}

/// A 64-bit hash of an address and a number, whose bits are independent of each other (the finalizer of MurmurHash3 twice).
#[inline(always)]
pub const fn client(addr: &Addr, of: u32) -> u64 {
    let [high, low] = addr.words();
    finish(finish(high ^ of as u64) ^ low)
}

#[inline(always)]
const fn finish(h: u64) -> u64 {
    let h = mix(h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

/// Another number for each step from a hash.
#[inline(always)]
pub const fn step(hash: u32, step: u32) -> u32 {
    (mix((hash as u64) << 32 | (step as u64 ^ 0x9e37_79b9)) >> 32) as u32
}

#[inline(always)]
const fn mix(mut h: u64) -> u64 {
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^ (h >> 33)
}

/// Both halves of an address, folded into one.
#[inline(always)]
const fn words(a: &Addr) -> u64 {
    let [high, low] = a.words();
    high ^ low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consecutive_client_ports_spread_over_the_whole_range() {
        let mut buckets = [0u32; 16];
        for p in 0..16_000u16 {
            let key = FlowKey {
                src: Addr::v4([172, 18, 0, 100]),
                dst: Addr::v4([172, 18, 0, 201]),
                sport: Port::new(30_000 + p),
                dport: Port::new(3306),
                proto: 6,
                pad: [0; 3],
            };
            buckets[(flow(&key) >> 28) as usize] += 1;
        }
        for b in buckets {
            assert!((850..1150).contains(&b), "uneven: {buckets:?}");
        }
    }
}
