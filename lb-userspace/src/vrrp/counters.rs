//! What one virtual router's sockets saw, as numbers that any thread may read at any time.
//!
//! Written by the driver's thread with relaxed stores only, so that counting never delays an advert.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::{packet::Refusal, router::PeerState, time::BootTime};

/// Counters of one virtual router since the driver was started.
#[derive(Debug, Default)]
pub struct Counters {
    sent: AtomicU64,
    send_errors: AtomicU64,
    received: AtomicU64,
    refused: [AtomicU64; Refusal::ALL.len()],
    announcements: AtomicU64,
    late_wakes: AtomicU64,
    lateness_max_ns: AtomicU64,
    lateness_in_time_ns: AtomicU64,
    deadline_ns: AtomicU64,
    master_int_ns: AtomicU64,
    peer_state: AtomicU64,
    peer_contact_ns: AtomicU64,
    watched: AtomicBool,
}

impl Counters {
    /// Adverts sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Adverts that the kernel would not send.
    pub fn send_errors(&self) -> u64 {
        self.send_errors.load(Relaxed)
    }

    /// Adverts received and believed.
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// Adverts received and refused for this reason.
    pub fn refused(&self, reason: Refusal) -> u64 {
        self.refused[reason as usize].load(Relaxed)
    }

    /// Gratuitous ARP frames and unsolicited neighbour advertisements sent.
    pub fn announcements(&self) -> u64 {
        self.announcements.load(Relaxed)
    }

    /// Times the thread woke after the end of its own lease or claim.
    pub fn late_wakes(&self) -> u64 {
        self.late_wakes.load(Relaxed)
    }

    /// The latest that the thread ever came to one of this router's deadlines.
    pub fn lateness_max(&self) -> Duration {
        Duration::from_nanos(self.lateness_max_ns.load(Relaxed))
    }

    /// The same without the wakes that a stall of the machine or the process made later than a lease: what the thread's
    /// punctuality is when it runs at all.
    pub fn lateness_in_time(&self) -> Duration {
        Duration::from_nanos(self.lateness_in_time_ns.load(Relaxed))
    }

    /// The router's next deadline; `None` when it waits for none.
    pub fn deadline(&self) -> Option<BootTime> {
        Some(BootTime(self.deadline_ns.load(Relaxed))).filter(|at| at.0 > 0)
    }

    /// The interval that the router's time-outs count with: the master's, as far as it is known.
    pub fn master_int(&self) -> Duration {
        Duration::from_nanos(self.master_int_ns.load(Relaxed))
    }

    /// What probes say of the watched master, and when it answered last; `None` when none is watched.
    pub fn peer(&self) -> Option<(PeerState, Option<BootTime>)> {
        let state = match self.peer_state.load(Relaxed) {
            1 => PeerState::Silent,
            2 => PeerState::Alive,
            3 => PeerState::Lost,
            _ => return None,
        };
        Some((state, Some(BootTime(self.peer_contact_ns.load(Relaxed))).filter(|at| at.0 > 0)))
    }

    /// Whether a peer asks for this node's lease, which is therefore kept short.
    pub fn is_watched(&self) -> bool {
        self.watched.load(Relaxed)
    }

    /// Begins anew, for another router.
    pub(super) fn clear(&self) {
        let Self { sent, send_errors, received, refused, announcements, late_wakes, .. } = self;
        let counts = [sent, send_errors, received, announcements, late_wakes].into_iter().chain(refused);
        let times =
            [&self.lateness_max_ns, &self.lateness_in_time_ns, &self.deadline_ns, &self.master_int_ns];
        counts.chain(times).for_each(|count| count.store(0, Relaxed));
        self.note_probes(None, false);
    }

    pub(super) fn note_probes(&self, peer: Option<(PeerState, Option<BootTime>)>, watched: bool) {
        let state = match peer {
            None => 0,
            Some((PeerState::Silent, _)) => 1,
            Some((PeerState::Alive, _)) => 2,
            Some((PeerState::Lost, _)) => 3,
        };
        let contact = peer.and_then(|(_, contact)| contact).map_or(0, |at| at.0);
        self.peer_contact_ns.store(contact, Relaxed);
        self.peer_state.store(state, Relaxed);
        self.watched.store(watched, Relaxed);
    }

    pub(super) fn note_timers(&self, deadline: Option<BootTime>, master_int: Duration) {
        self.deadline_ns.store(deadline.map_or(0, |at| at.0), Relaxed);
        self.master_int_ns.store(nanoseconds(master_int), Relaxed);
    }

    pub(super) fn count_sent(&self) {
        self.sent.fetch_add(1, Relaxed);
    }

    pub(super) fn count_send_error(&self) {
        self.send_errors.fetch_add(1, Relaxed);
    }

    pub(super) fn count_received(&self) {
        self.received.fetch_add(1, Relaxed);
    }

    /// Returns the new count.
    pub(super) fn count_refused(&self, reason: Refusal) -> u64 {
        self.refused[reason as usize].fetch_add(1, Relaxed) + 1
    }

    pub(super) fn count_announcement(&self) {
        self.announcements.fetch_add(1, Relaxed);
    }

    pub(super) fn count_late_wake(&self) {
        self.late_wakes.fetch_add(1, Relaxed);
    }

    pub(super) fn note_lateness(&self, late: Duration, lease: Duration) {
        self.lateness_max_ns.fetch_max(nanoseconds(late), Relaxed);
        if late < lease {
            self.lateness_in_time_ns.fetch_max(nanoseconds(late), Relaxed);
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_longer_than_the_lease_counts_as_the_latest_wake_but_not_as_the_threads_punctuality() {
        let (counters, ms) = (Counters::default(), Duration::from_millis);
        for late in [3, 2, 9000] {
            counters.note_lateness(ms(late), ms(2500));
        }
        assert_eq!((counters.lateness_max(), counters.lateness_in_time()), (ms(9000), ms(3)));
    }
}
