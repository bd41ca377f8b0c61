//! SYN-ACKs that wait until peers have their flows (`sync = "strict"`): in batches, one for each message that is to be confirmed. No I/O,
//! no clock.
//!
//! Nothing waits longer than the bound: a peer that is slow, or has just died, delays a connection and does not prevent it. What was let
//! go without a confirmation is counted.

use std::{collections::VecDeque, time::Duration};

use crate::vrrp::BootTime;

/// Packets that wait at a time. More, which only a flood of requests brings together, go on at once: who makes up addresses must not
/// fill this node's memory and its peers' tables.
const MOST: usize = 1024;

/// What became of SYN-ACKs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Sent on once every peer that lives had the flow.
    pub confirmed: u64,
    /// Sent on because the bound was over.
    pub late: u64,
    /// Sent on at once because no peer lives that could confirm, or the flow is one that no peer could go on with.
    pub alone: u64,
    /// Sent on at once because too many waited.
    pub crowded: u64,
    /// Thrown away: the daemon was away for so long that the backend has sent it again.
    pub stale: u64,
}

#[derive(Debug)]
struct Batch {
    nonce: u32,
    packets: Vec<Vec<u8>>,
    /// Peers, by their place, that have not confirmed.
    missing: Vec<usize>,
    until: BootTime,
}

/// Those that wait.
#[derive(Debug, Default)]
pub struct Waiting {
    batches: VecDeque<Batch>,
    free: Vec<Vec<u8>>,
    nonce: u32,
    /// How many there are.
    count: usize,
    /// What became of the others.
    pub counts: Counts,
}

impl Waiting {
    /// Whether one more may wait.
    pub fn has_room(&self) -> bool {
        self.count < MOST
    }

    /// A number for the next message.
    pub fn nonce(&mut self) -> u32 {
        self.nonce = self.nonce.wrapping_add(1);
        self.nonce
    }

    /// Packets whose flows these peers were told of in one message.
    pub fn wait(&mut self, nonce: u32, packets: Vec<Vec<u8>>, peers: Vec<usize>, until: BootTime) {
        if peers.is_empty() {
            self.counts.alone += packets.len() as u64;
            return self.free.extend(packets);
        }
        self.count += packets.len();
        self.batches.push_back(Batch { nonce, packets, missing: peers, until });
    }

    /// One that does not wait, because there are too many.
    pub fn crowded(&mut self, packet: Vec<u8>) {
        self.counts.crowded += 1;
        self.free.push(packet);
    }

    /// One that does not wait, because nobody could go on with its flow.
    pub fn alone(&mut self, packet: Vec<u8>) {
        self.counts.alone += 1;
        self.free.push(packet);
    }

    /// A peer has all flows of a message.
    pub fn confirmed(&mut self, peer: usize, nonce: u32) {
        let Some(i) = self.batches.iter().position(|batch| batch.nonce == nonce) else { return };
        self.batches[i].missing.retain(|missing| *missing != peer);
        if self.batches[i].missing.is_empty()
            && let Some(batch) = self.batches.remove(i)
        {
            self.counts.confirmed += batch.packets.len() as u64;
            self.let_go(batch);
        }
    }

    fn let_go(&mut self, batch: Batch) {
        self.count -= batch.packets.len();
        self.free.extend(batch.packets);
    }

    /// The packets that are to be sent now.
    pub fn take(&mut self, now: BootTime) -> Vec<Vec<u8>> {
        while let Some(batch) = self.batches.pop_front_if(|batch| batch.until <= now) {
            self.counts.late += batch.packets.len() as u64;
            self.let_go(batch);
        }
        std::mem::take(&mut self.free)
    }

    /// When the next one has waited for long enough; at once if some need wait no longer.
    pub fn deadline(&self) -> Option<BootTime> {
        if !self.free.is_empty() {
            return Some(BootTime(0));
        }
        self.batches.front().map(|batch| batch.until)
    }
}

/// A backend sends its SYN-ACK again after a second: one that is as old is not sent on any more, lest the client see it twice.
pub const STALE: Duration = Duration::from_millis(900);

#[cfg(test)]
mod tests {
    use super::*;

    const AT: BootTime = BootTime(1_000_000_000);

    fn packets(names: &[u8]) -> Vec<Vec<u8>> {
        names.iter().map(|name| vec![*name]).collect()
    }

    #[test]
    fn packets_go_once_every_peer_has_confirmed_their_message() {
        let mut w = Waiting::default();
        let (first, second) = (w.nonce(), w.nonce());
        w.wait(first, packets(&[1, 2]), vec![0, 1], AT);
        w.wait(second, packets(&[3]), vec![1], AT);
        w.confirmed(0, first);
        w.confirmed(0, first);
        assert!(w.take(BootTime(0)).is_empty());
        w.confirmed(1, second);
        assert_eq!(w.take(BootTime(0)), packets(&[3]), "whatever waits before it");
        w.confirmed(1, first);
        assert_eq!(w.deadline(), Some(BootTime(0)));
        assert_eq!(w.take(BootTime(0)), packets(&[1, 2]));
        assert_eq!(w.counts, Counts { confirmed: 3, ..Counts::default() });
    }

    #[test]
    fn nothing_waits_longer_than_the_bound_and_a_late_confirmation_does_nothing() {
        let mut w = Waiting::default();
        let nonce = w.nonce();
        w.wait(nonce, packets(&[1]), vec![0], AT);
        assert_eq!(w.deadline(), Some(AT));
        assert!(w.take(BootTime(AT.0 - 1)).is_empty());
        assert_eq!(w.take(AT), packets(&[1]));
        w.confirmed(0, nonce);
        assert!(w.take(AT).is_empty());
        assert_eq!(w.counts, Counts { late: 1, ..Counts::default() });
    }

    #[test]
    fn without_a_peer_or_room_nothing_waits() {
        let mut w = Waiting::default();
        let nonce = w.nonce();
        w.wait(nonce, packets(&[1]), vec![], AT);
        w.alone(vec![2]);
        w.wait(nonce, vec![vec![0]; MOST], vec![0], AT);
        assert!(!w.has_room());
        w.crowded(vec![3]);
        assert_eq!(w.take(BootTime(0)), packets(&[1, 2, 3]));
        assert_eq!(w.counts, Counts { alone: 2, crowded: 1, ..Counts::default() });
    }
}
