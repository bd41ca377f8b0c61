//! Internet checksum arithmetic (RFC 1071, RFC 1624): sums and differences of 16-bit words in ones' complement.
//!
//! A *delta* is what must be added to a sum of words when some of them change: `sum(new) + sum(!old)`. The delta of the
//! opposite change is its complement.

use crate::addr::Addr;

/// Folds a sum into 16 bits with end-around carry.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let s = (sum & 0xffff) + (sum >> 16);
    ((s & 0xffff) + (s >> 16)) as u16
}

/// Folded sum of an address's words, taken in four 32-bit steps: a ones' complement sum may be formed in any byte order and
/// swapped at the end (RFC 1071 section 2). The six leading words of two v4-mapped addresses are equal, so that they cancel
/// out in a delta but would count in a pseudo-header: use [`sum4`] there.
#[inline(always)]
pub const fn sum_addr(a: &Addr) -> u32 {
    let [high, low] = a.words();
    const HALF: u64 = 0xffff_ffff;
    let s = (high & HALF) + (high >> 32) + (low & HALF) + (low >> 32);
    let s = (s & 0xffff) + ((s >> 16) & 0xffff) + (s >> 32);
    u16::from_be(fold(s as u32)) as u32
}

/// Unfolded sum of four bytes.
#[inline(always)]
pub const fn sum4(b: [u8; 4]) -> u32 {
    word(b[0], b[1]) + word(b[2], b[3])
}

/// Unfolded sum of two bytes.
#[inline(always)]
pub const fn sum2(b: [u8; 2]) -> u32 {
    word(b[0], b[1])
}

/// Delta from an old sum to a new one, both unfolded.
#[inline(always)]
pub const fn delta(old: u32, new: u32) -> u16 {
    fold(fold(new) as u32 + !fold(old) as u32)
}

/// RFC 1624 equation 3: the checksum field after the words it covers changed by `delta`.
#[inline(always)]
pub const fn update(check: u16, delta: u16) -> u16 {
    !fold(!check as u32 + delta as u32)
}

const fn word(a: u8, b: u8) -> u32 {
    u16::from_be_bytes([a, b]) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_gives_what_a_full_sum_gives() {
        let old = [10, 0, 0, 1, 0xff, 0xff, 0x12, 0x34];
        let new = [172, 18, 0, 201, 0, 0, 0xab, 0xcd];
        let sum = |b: &[u8; 8]| sum4([b[0], b[1], b[2], b[3]]) + sum4([b[4], b[5], b[6], b[7]]);
        let before = !fold(sum(&old));
        assert_eq!(update(before, delta(sum(&old), sum(&new))), !fold(sum(&new)));
    }

    #[test]
    fn an_address_sums_like_its_words() {
        for a in [[0u8; 16], [0xff; 16], core::array::from_fn(|i| (i * 37 + 11) as u8)] {
            let words: u32 = a.chunks(2).map(|w| sum2([w[0], w[1]])).sum();
            assert_eq!(sum_addr(&Addr::new(a)), u32::from(fold(words)));
        }
    }

    #[test]
    fn the_delta_of_the_way_back_is_the_complement() {
        let there = delta(0x1_2345, 0xfedc);
        let back = delta(0xfedc, 0x1_2345);
        assert_eq!(back, !there);
    }
}
