//! The checked configuration of what becomes of connections that a backend does not take, and of such a backend.

use std::time::Duration;

/// When a backend is ejected for connections that it does not take (`passive`): SYNs that it leaves unanswered or refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passive {
    /// So many at least within the window. Default 3.
    pub after: u32,
    /// And so many of a hundred of its new connections. Default 50.
    pub share: u8,
    /// The window. Default 1 s.
    pub window: Duration,
    /// For how long at least the first time; each further time within a few minutes so much longer. Default 10 s.
    pub ejection: Duration,
    /// So many of a hundred ordinary backends may be ejected at once; one may always be, and the last one never is. Default 50.
    pub most: u8,
}

impl Default for Passive {
    fn default() -> Self {
        Self {
            after: 3,
            share: 50,
            window: Duration::from_secs(1),
            ejection: Duration::from_secs(10),
            most: 50,
        }
    }
}
