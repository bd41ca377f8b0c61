//! Places for flows that are not established yet: a ring, so that a flood of requests from made-up addresses throws out
//! nothing but other requests.
//!
//! Each place owns one slot of the flow array, and a new flow is recorded in the slot of the next place. Once it is
//! established it keeps its slot, and the place gets another one from the queue of free slots. So a slot belongs to a place,
//! to the queue, or to an established flow, and to nobody else.

/// Whoever writes this in a place's stead has the place, its slot, and the keys of the flow in it to itself, until it writes
/// a slot there again. Nobody waits for it.
pub const TAKEN: u64 = u64::MAX;

/// What a place holds: a slot, and the generation of the flow in it.
#[inline(always)]
pub const fn place(slot: u32, generation: u16) -> u64 {
    slot as u64 | (generation as u64) << 32
}

/// The slot that a place holds.
#[inline(always)]
pub const fn slot(place: u64) -> u32 {
    place as u32
}

/// How many places go with a table of `flows`: a quarter, at least 64 and at most 16,384; a power of two.
pub const fn places(flows: u32) -> u32 {
    let quarter = flows / 4;
    if quarter < 64 {
        64
    } else if quarter >= 16_384 {
        16_384
    } else {
        1 << quarter.ilog2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_a_power_of_two_within_their_bounds() {
        assert_eq!([1, 1024, 5000, 262_144, 16_777_216].map(places), [64, 256, 1024, 16_384, 16_384]);
    }

    #[test]
    fn a_place_tells_its_slot() {
        assert_eq!(slot(place(77, 9)), 77);
        assert_ne!(place(u32::MAX, u16::MAX), TAKEN);
    }
}
