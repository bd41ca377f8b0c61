//! Whether a virtual router may pre-empt: a node that has just come back must not, before it has the flows of the owner.
//!
//! A closed gate makes the election treat a living owner as one that is not to be pre-empted; an owner that dies or leaves is
//! replaced all the same. The wait has a bound, for a node must not stay behind for ever because its peer says nothing.

use std::time::Duration;

use super::pull::Standing;
use crate::vrrp::BootTime;

/// The gate of one virtual router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Closed since then.
    Closed(BootTime),
    /// Open: this node owns the addresses, or has what the owner has.
    Open,
    /// Open because the wait was over: this node may lack flows.
    WaitedOut,
}

impl Gate {
    /// Whether this node has to wait.
    pub fn is_closed(self) -> bool {
        matches!(self, Self::Closed(_))
    }

    /// What is left of the wait.
    pub fn left(self, now: BootTime, wait: Duration) -> Duration {
        match self {
            Self::Closed(since) => (since + wait).since(now),
            Self::Open | Self::WaitedOut => Duration::ZERO,
        }
    }

    /// Looks again: `best` is how far this node has come with any peer that owns the addresses.
    #[must_use]
    pub fn look(self, now: BootTime, best: Option<Standing>, wait: Duration) -> Self {
        match (self, best) {
            (Self::Closed(_) | Self::WaitedOut, Some(Standing::InSync | Standing::Repairing)) => Self::Open,
            (Self::Closed(since), _) if now >= since + wait => Self::WaitedOut,
            (gate, _) => gate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_when_the_flows_are_here_or_the_wait_is_over() {
        let (start, wait) = (BootTime(1_000_000_000), Duration::from_secs(30));
        let closed = Gate::Closed(start);
        let later = start + Duration::from_secs(10);
        for best in [None, Some(Standing::Comparing), Some(Standing::Fetching { done: 9, of: 10 })] {
            assert_eq!(closed.look(later, best, wait), closed, "{best:?}");
            assert_eq!(closed.look(start + wait, best, wait), Gate::WaitedOut, "{best:?}");
        }
        assert_eq!(closed.look(later, Some(Standing::InSync), wait), Gate::Open);
        assert_eq!(closed.left(later, wait), Duration::from_secs(20));
        assert_eq!(Gate::Open.look(later, None, wait), Gate::Open, "a peer that is gone closes nothing");
    }
}
