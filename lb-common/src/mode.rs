//! How packets reach a backend: the number that configuration, maps and packet path share.
//!
//! A flow's record keeps the mode it was opened with, so that a reload changes new connections only.

/// A forwarding mode.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Both addresses are translated; the source becomes the virtual address.
    #[default]
    Nat = 0,
    /// The destination alone is translated: this node is the backends' gateway, and replies come back through it.
    Dnat = 1,
    /// Nothing is translated: the packet goes to the backend's hardware address, which has the virtual address itself and
    /// answers the client directly.
    Dsr = 2,
    /// Nothing is translated: the packet goes to the backend as the payload of another IP packet, of either family. The backend
    /// unpacks it, has the virtual address itself and answers the client directly.
    Tunnel = 3,
    /// Nothing is translated: the packet goes up to this node's own stack, which answers.
    Local = 7,
}

impl Mode {
    /// From a map; unknown numbers, which the daemon does not write, count as [`Mode::Nat`].
    #[inline(always)]
    pub const fn from_u8(v: u8) -> Self {
        match v {
            1 => Self::Dnat,
            2 => Self::Dsr,
            3 => Self::Tunnel,
            7 => Self::Local,
            _ => Self::Nat,
        }
    }

    /// Whether the backend answers the client directly, so that the ingress programs see the client's packets only.
    #[inline(always)]
    pub const fn is_one_way(self) -> bool {
        matches!(self, Self::Dsr | Self::Tunnel | Self::Local)
    }

    /// The word of configuration and status.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Dnat => "dnat",
            Self::Dsr => "dsr",
            Self::Tunnel => "tunnel",
            Self::Local => "local",
        }
    }
}
