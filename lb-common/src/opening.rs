//! What two ends agreed on when their connection began, so that it can be moved to another server for as long as neither has
//! said anything: one element for each slot of the flow table, of services whose servers speak first (`move_ungreeted`).
//!
//! A moved connection keeps the client's sequence numbers, for the SYN to the new server has the number that the client's had.
//! The new server's own numbers, and its clock, are others than those that the client was told: what is added to them on the way
//! to the client stands here. Programs note both SYNs (`lb-ebpf/src/handshake.rs`), the daemon moves
//! (`lb-userspace/src/datapath/moving.rs`), programs translate (`lb-ebpf/src/moved.rs`).

/// What is known of how a flow began, and of how it is moved. An element is about the flow of its generation alone.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Opening {
    /// The flow's generation.
    pub generation: u16,
    /// A [`State`].
    pub state: u8,
    /// Options that the client has offered, and once the server has answered those that both have: [`SCALE`], [`SACK`], [`TIMES`],
    /// [`ECN`].
    pub agreed: u8,
    /// The largest segment that the client asked for, bytes; 0: it did not say.
    pub client_mss: u16,
    /// The window of its SYN, bytes.
    pub client_window: u16,
    /// The largest segment that the client was told to send, bytes; 0: it was not told.
    pub server_mss: u16,
    /// Likewise by the server that it is moved to.
    pub answer_mss: u16,
    /// Options that this server has answered with; [`OTHER`] too.
    pub answered: u8,
    /// The shift of that server's windows.
    pub answer_scale: u8,
    /// The shift of the client's windows.
    pub client_scale: u8,
    /// The shift that the client applies to the server's windows.
    pub server_scale: u8,
    /// The client's initial sequence number.
    pub client_isn: u32,
    /// The server's, as the client knows it.
    pub server_isn: u32,
    /// Timestamp of the client's SYN.
    pub client_ts: u32,
    /// Timestamp that the client was answered with.
    pub server_ts: u32,
    /// What is added to the present server's sequence numbers on the way to the client.
    pub seq_delta: u32,
    /// What is added to its timestamps.
    pub ts_delta: u32,
}
layout!(Opening = 40: generation, state, agreed, client_mss, client_window, server_mss, answer_mss, answered, answer_scale,
    client_scale, server_scale, client_isn, server_isn, client_ts, server_ts, seq_delta, ts_delta);

/// Windows are scaled.
pub const SCALE: u8 = 1;
/// Selective acknowledgements.
pub const SACK: u8 = 2;
/// Timestamps.
pub const TIMES: u8 = 4;
/// Congestion is notified (RFC 3168).
pub const ECN: u8 = 8;
/// Something that another server cannot be asked for.
pub const OTHER: u8 = 16;

/// How far it is.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// Nothing is known, or something that cannot be had of another server.
    #[default]
    Unknown = 0,
    /// The client's SYN is known.
    Offered = 1,
    /// So is the server's.
    Agreed = 2,
    /// Its packets are held while another server is asked.
    Held = 3,
    /// That server has answered the SYN.
    Answered = 4,
    /// It has refused it.
    Refused = 5,
    /// It is another server's; packets are translated.
    Moved = 6,
}

impl State {
    /// From an element; unknown numbers count as nothing known.
    #[inline(always)]
    pub const fn from_u8(v: u8) -> Self {
        match v {
            1 => Self::Offered,
            2 => Self::Agreed,
            3 => Self::Held,
            4 => Self::Answered,
            5 => Self::Refused,
            6 => Self::Moved,
            _ => Self::Unknown,
        }
    }
}

impl Opening {
    /// How far it is.
    #[inline(always)]
    pub const fn state(&self) -> State {
        State::from_u8(self.state)
    }

    /// Whether the server that was asked has answered in a way that the client cannot tell from what it was told before: the same
    /// options, the same scale, and no shorter segments. (Those that are longer than its way takes are refused by routers on it, and
    /// by this node, with an ICMP error, as in any connection.)
    pub const fn is_alike(&self) -> bool {
        self.answered == self.agreed
            && (self.agreed & SCALE == 0 || self.answer_scale == self.server_scale)
            && told(self.answer_mss) >= told(self.server_mss)
    }
}

/// Who says nothing takes 536 bytes (RFC 9293 section 3.7.1).
const fn told(mss: u16) -> u16 {
    if mss == 0 { 536 } else { mss }
}

/// Options of a SYN in one word, as `lb-ebpf/src/handshake.rs` hands them round: timestamp, segment size, scale, kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options(pub u64);

impl Options {
    /// [`SCALE`] and so on.
    #[inline(always)]
    pub const fn kinds(self) -> u8 {
        self.0 as u8
    }

    /// The shift of windows.
    #[inline(always)]
    pub const fn scale(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// The largest segment, bytes; 0: not said.
    #[inline(always)]
    pub const fn mss(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// The timestamp.
    #[inline(always)]
    pub const fn ts(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_alike_with_the_same_options_and_scale_and_no_shorter_segments() {
        let told = Opening {
            agreed: SCALE | SACK,
            server_mss: 1460,
            server_scale: 7,
            answered: SCALE | SACK,
            answer_mss: 1460,
            answer_scale: 7,
            ..Opening::default()
        };
        assert!(told.is_alike());
        assert!(Opening { answer_mss: 8960, ..told }.is_alike());
        for other in [
            Opening { answer_mss: 1400, ..told },
            Opening { answer_mss: 0, ..told },
            Opening { answer_scale: 8, ..told },
            Opening { answered: SCALE, ..told },
            Opening { answered: SCALE | SACK | OTHER, ..told },
        ] {
            assert!(!other.is_alike(), "{other:?}");
        }
        let unscaled = Opening { agreed: SACK, answered: SACK, answer_scale: 3, ..told };
        assert!(unscaled.is_alike(), "a shift that nobody applies");
    }
}
