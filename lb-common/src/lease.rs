//! The lease: a node's right to act for the addresses of a virtual router, and the fence around it.
//!
//! One element of `LEASES` per virtual router, a cache line each, mapped into the daemon's memory. Each word has one
//! writer: the VRRP thread or the packet programs, never both, so that no write needs more than a store. The programs
//! judge the deadline with boottime. A program that has told a peer that the lease is over marks its term as fenced: that
//! answer is a promise which a late renewal by the daemon cannot break.

use crate::addr::Mac;

/// Element of the `LEASES` map.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lease {
    /// End of the lease, boottime ns; 0: given up. Written by the daemon.
    pub until: u64,
    /// Until then frames for the addresses go on to `relay` while the lease is not valid: the peer that it was handed to. While it is
    /// valid, those of no known flow: it is about to be. Boottime ns, written by the daemon; 0 from when the lease is taken.
    pub relay_until: u64,
    /// Until then frames that `delegate` passes on are treated as if the lease were valid: the owner hands over.
    /// Boottime ns, written by the daemon.
    pub delegate_until: u64,
    /// When a peer's probe last asked for this lease, boottime ns. Written by the programs.
    pub probed: u64,
    /// Counts the times that the lease was taken. Written by the daemon before `until`.
    pub term: u32,
    /// The term that a program told a peer to be over: it is never valid again. Written by the programs.
    pub fenced: u32,
    /// Where frames are relayed to.
    pub relay: Mac,
    /// Whose frames are taken.
    pub delegate: Mac,
    /// Zero.
    pub pad: [u8; 4],
    /// Until then services that adopt unknown connections do: the lease was taken a short while ago. Boottime ns, written by the
    /// daemon before `until`.
    pub adopt_until: u64,
    /// `until` and a mark of the virtual router, by exclusive or: the daemon that extended the lease to there has ended in good order,
    /// and the next one may go on with it. Anything else, zero above all: nobody left it. Only daemons read and write it.
    pub kept: u64,
}
layout!(Lease = 72: until, relay_until, delegate_until, probed, term, fenced, relay, delegate, pad, adopt_until, kept);

/// What a lease is worth at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The node acts for the addresses, for so many more nanoseconds.
    Valid(u64),
    /// It ran out: its owner is frozen, dead or stalled.
    Expired,
    /// It was given up, or never taken.
    Released,
}

impl Lease {
    /// Whether the programs may act for the addresses at `now` (boottime ns).
    #[inline(always)]
    pub const fn is_valid(&self, now: u64) -> bool {
        self.until > now && self.term != self.fenced
    }

    /// Whether a daemon that ended in good order has left this lease, valid at `now`, to the next one that runs the virtual router
    /// with this mark.
    pub const fn is_kept(&self, mark: u64, now: u64) -> bool {
        self.is_valid(now) && self.kept == self.until ^ mark
    }

    /// What it is worth at `now`.
    #[inline(always)]
    pub const fn standing(&self, now: u64) -> Standing {
        if self.is_valid(now) {
            Standing::Valid(self.until - now)
        } else if self.until == 0 {
            Standing::Released
        } else {
            Standing::Expired
        }
    }
}

impl Lease {
    /// What a peer that asks at `now` (boottime ns) is told, with all that follows from telling it: the time is noted, and
    /// a term that has run out is fenced first. For the packet programs.
    #[inline(always)]
    pub fn tell(&mut self, now: u64) -> Standing {
        self.probed = now;
        let standing = self.standing(now);
        if standing != Standing::Expired {
            return standing;
        }
        let (term, fenced) = (&raw const self.term, &raw mut self.fenced);
        // SAFETY: fields of a live element; volatile because the daemon may take the lease at this moment.
        unsafe { fenced.write_volatile(term.read_volatile()) };
        // If it has, the answer is about the new term.
        self.standing(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fenced_term_is_never_valid_again_however_late_the_renewal() {
        let lease = Lease { until: 100, term: 7, ..Lease::default() };
        assert_eq!(lease.standing(40), Standing::Valid(60));
        assert_eq!(lease.standing(100), Standing::Expired);
        let renewed_too_late = Lease { until: 300, fenced: 7, ..lease };
        assert_eq!(renewed_too_late.standing(200), Standing::Expired);
        let taken_anew = Lease { term: 8, ..renewed_too_late };
        assert_eq!(taken_anew.standing(200), Standing::Valid(100));
    }

    #[test]
    fn telling_a_peer_that_the_lease_ran_out_is_a_promise() {
        let mut lease = Lease { until: 100, term: 7, ..Lease::default() };
        assert_eq!((lease.tell(40), lease.probed, lease.fenced), (Standing::Valid(60), 40, 0));
        assert_eq!((lease.tell(100), lease.probed, lease.fenced), (Standing::Expired, 100, 7));
        lease.until = 300;
        assert_eq!(lease.tell(200), Standing::Expired, "renewed too late");
        lease.term = 8;
        assert_eq!((lease.tell(200), lease.fenced), (Standing::Valid(100), 7));
        lease.until = 0;
        assert_eq!((lease.tell(300), lease.fenced), (Standing::Released, 7), "nothing to fence");
    }

    #[test]
    fn a_lease_is_kept_for_one_router_and_not_once_it_ran_out_or_was_renewed_or_fenced() {
        let kept = Lease { until: 100, term: 7, kept: 100 ^ 51, ..Lease::default() };
        assert!(kept.is_kept(51, 40));
        assert!(!kept.is_kept(52, 40), "another router");
        assert!(!kept.is_kept(51, 100), "over");
        assert!(!Lease { until: 120, ..kept }.is_kept(51, 40), "renewed since");
        assert!(!Lease { fenced: 7, ..kept }.is_kept(51, 40));
        assert!(!Lease { kept: 0, ..kept }.is_kept(51, 40), "left by a daemon that was killed");
    }

    #[test]
    fn a_lease_that_was_given_up_is_told_from_one_that_ran_out() {
        let lease = Lease { until: 0, term: 7, ..Lease::default() };
        assert_eq!(lease.standing(40), Standing::Released);
    }
}
