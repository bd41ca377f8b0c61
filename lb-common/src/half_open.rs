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

/// How many places go with a table of `flows`: a quarter, at least 64 and at most 65,535, the highest number that a record has
/// room for.
///
/// A flow that is thrown out leaves its source port free while its backend still waits for the client's acknowledgement, for
/// another second (Linux: until its first retransmission of the SYN-ACK, which the programs refuse by RST). Who gets the port by then
/// is answered by that old connection (a challenge ACK), resets it, and has to send its SYN again. So places last for a second, up to
/// 65,000 requests a second by default.
pub const fn places(flows: u32) -> u32 {
    let quarter = flows / 4;
    if quarter < 64 {
        64
    } else if quarter > MOST {
        MOST
    } else {
        quarter
    }
}

/// The most places.
const MOST: u32 = 65_535;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_table_is_half_open_within_bounds() {
        assert_eq!([1, 1024, 5000, 262_144, 16_777_216].map(places), [64, 256, 1250, 65_535, 65_535]);
    }

    #[test]
    fn a_place_tells_its_slot() {
        assert_eq!(slot(place(77, 9)), 77);
        assert_ne!(place(u32::MAX, u16::MAX), TAKEN);
    }
}
