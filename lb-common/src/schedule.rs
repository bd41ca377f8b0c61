//! How a backend is chosen for a new connection: the number that configuration, maps and packet path share, and the words of
//! which rings are made.
//!
//! A service's ring is a table of words that most schedulers read one of. Behind it are its *members*, each backend that takes
//! new connections once, for what compares backends or turns from a full one to another.

/// A scheduler, by its name of the field (IPVS).
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scheduler {
    /// Round robin.
    #[default]
    Rr = 0,
    /// Smooth weighted round robin.
    Wrr = 1,
    /// The one with the fewest connections.
    Lc = 2,
    /// The one with the fewest connections for its weight, the new one counted.
    Wlc = 3,
    /// By a hash of the client's address.
    Sh = 4,
    /// By a hash of the destination's address and port.
    Dh = 5,
    /// By a hash of both ends' addresses and ports.
    Mh = 6,
    /// The first in the order of priorities that has room.
    Fo = 7,
    /// Of two drawn at random the one with the fewer connections for its weight.
    Twos = 8,
}

impl Scheduler {
    /// All of them.
    pub const ALL: [Self; 9] =
        [Self::Rr, Self::Wrr, Self::Lc, Self::Wlc, Self::Sh, Self::Dh, Self::Mh, Self::Fo, Self::Twos];

    /// From a map; unknown numbers, which the daemon does not write, count as [`Scheduler::Rr`].
    #[inline(always)]
    pub const fn from_u8(v: u8) -> Self {
        match v {
            1 => Self::Wrr,
            2 => Self::Lc,
            3 => Self::Wlc,
            4 => Self::Sh,
            5 => Self::Dh,
            6 => Self::Mh,
            7 => Self::Fo,
            8 => Self::Twos,
            _ => Self::Rr,
        }
    }

    /// The word of configuration and status.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Rr => "rr",
            Self::Wrr => "wrr",
            Self::Lc => "lc",
            Self::Wlc => "wlc",
            Self::Sh => "sh",
            Self::Dh => "dh",
            Self::Mh => "mh",
            Self::Fo => "fo",
            Self::Twos => "twos",
        }
    }

    /// Whether its table is one of Maglev's, which is entered by a hash.
    #[inline(always)]
    pub const fn is_hash(self) -> bool {
        matches!(self, Self::Sh | Self::Dh | Self::Mh)
    }

    /// Whether it looks at each member, so that their number is bounded.
    #[inline(always)]
    pub const fn compares(self) -> bool {
        matches!(self, Self::Lc | Self::Wlc | Self::Fo | Self::Twos)
    }
}

/// Members that are compared for one connection at most: the verifier follows every step.
pub const MAX_MEMBERS: usize = 64;

/// The word of a backend in a ring.
#[inline(always)]
pub const fn word(backend: u32, weight: u16) -> u64 {
    backend as u64 | (weight as u64) << 32
}

/// The backend of a word.
#[inline(always)]
pub const fn backend(word: u64) -> u32 {
    word as u32
}

/// The weight of a word.
#[inline(always)]
pub const fn weight(word: u64) -> u64 {
    word >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_words_of_schedulers_are_their_own() {
        for s in Scheduler::ALL {
            assert_eq!(Scheduler::from_u8(s as u8), s);
        }
        let words: std::collections::HashSet<_> = Scheduler::ALL.iter().map(|s| s.word()).collect();
        assert_eq!(words.len(), Scheduler::ALL.len());
    }

    #[test]
    fn a_word_tells_backend_and_weight() {
        assert_eq!((backend(word(1023, 256)), weight(word(1023, 256))), (1023, 256));
    }
}
