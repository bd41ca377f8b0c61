//! Announcements in their turn: each router's wait in a [`Lane`], and each interface sends them in the set rhythm.
//!
//! With `garp_interval` or `gna_interval` one frame of that kind leaves an interface per interval; routers that share it
//! take turns. Nobody sleeps for that: [`Turns::deadline`] is one of the thread's. A burst costs no memory, however
//! often it is asked for, and no frame of it is lost but by stepping down.

use std::time::Duration;

use super::thread::Thread;
use crate::vrrp::{packet::Family, time::BootTime};

/// Frames sent by one interface in one round: the thread has other deadlines.
const BATCH: usize = 64;

/// What a router says about its addresses of one family.
#[derive(Debug, Default)]
pub(super) struct Lane {
    frames: Vec<Vec<u8>>,
    next: usize,
    left: usize,
    gap: Duration,
}

impl Lane {
    /// A frame for each address, `gap` apart.
    pub(super) fn new(frames: Vec<Vec<u8>>, gap: Duration) -> Self {
        Self { frames, next: 0, left: 0, gap }
    }

    /// Asks for `repeat` more rounds of all frames; how many frames that are.
    fn ask(&mut self, repeat: u8) -> usize {
        let more = usize::from(repeat) * self.frames.len();
        self.left += more;
        more
    }

    /// Forgets what waits; how many frames that were.
    fn clear(&mut self) -> usize {
        self.next = 0;
        std::mem::take(&mut self.left)
    }

    /// The next frame that waits.
    fn take(&mut self) -> Option<&[u8]> {
        self.left = self.left.checked_sub(1)?;
        let frame = self.frames.get(self.next)?;
        self.next = (self.next + 1) % self.frames.len();
        Some(frame)
    }
}

/// When an interface may send the next frame of one family, and whose turn it is.
#[derive(Debug, Default)]
struct Turn {
    at: BootTime,
    unit: usize,
    /// Frames that wait in the lanes of all routers here.
    waiting: usize,
}

/// Both families' turns of an interface.
#[derive(Debug, Default)]
pub(super) struct Turns([Turn; 2]);

impl Turns {
    /// When [`Thread::announce_due`] has something to do.
    pub(super) fn deadline(&self) -> Option<BootTime> {
        self.0.iter().filter(|turn| turn.waiting > 0).map(|turn| turn.at).min()
    }

    fn of(&mut self, family: Family) -> &mut Turn {
        &mut self.0[family as usize]
    }
}

impl Thread {
    /// A burst for all addresses of a router. Failures are not reported: the second burst follows, and without a link
    /// there is a LinkDown.
    pub(super) fn announce(&mut self, now: BootTime, index: usize, repeat: u8) {
        let unit = &mut self.units[index];
        for family in [Family::V4, Family::V6] {
            let more = unit.lanes[family as usize].ask(repeat);
            self.ports[unit.port].turns.of(family).waiting += more;
        }
        let port = unit.port;
        self.announce_due(now, port);
    }

    /// Whoever no longer owns the addresses says nothing more about them.
    pub(super) fn fall_silent(&mut self, index: usize) {
        let unit = &mut self.units[index];
        for family in [Family::V4, Family::V6] {
            let dropped = unit.lanes[family as usize].clear();
            self.ports[unit.port].turns.of(family).waiting -= dropped;
        }
    }

    /// Sends what an interface may send by now.
    pub(super) fn announce_due(&mut self, now: BootTime, port: usize) {
        for family in [Family::V4, Family::V6] {
            for _ in 0..BATCH {
                let turn = self.ports[port].turns.of(family);
                if turn.waiting == 0 || now < turn.at {
                    break;
                }
                self.announce_next(now, port, family);
            }
        }
    }

    fn announce_next(&mut self, now: BootTime, port: usize, family: Family) {
        let port_ref = &mut self.ports[port];
        let turn = port_ref.turns.of(family);
        let count = self.units.len();
        for step in 0..count {
            let index = (turn.unit + step) % count;
            let unit = &mut self.units[index];
            if unit.port != port {
                continue;
            }
            let lane = &mut unit.lanes[family as usize];
            let gap = lane.gap;
            let Some(frame) = lane.take() else { continue };
            turn.waiting -= 1;
            turn.unit = index + 1;
            turn.at = now + gap;
            if port_ref.frames.send(frame).is_ok() {
                self.counters[unit.number].count_announcement();
            }
            return;
        }
        turn.waiting = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(frames: u8) -> Lane {
        Lane::new((0..frames).map(|n| vec![n]).collect(), Duration::ZERO)
    }

    fn all_of(lane: &mut Lane) -> Vec<u8> {
        std::iter::from_fn(|| lane.take().map(|frame| frame[0])).collect()
    }

    #[test]
    fn a_burst_goes_through_the_addresses_as_often_as_asked_for() {
        let mut lane = lane(3);
        assert_eq!(lane.ask(2), 6);
        assert_eq!(all_of(&mut lane), [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_second_burst_during_the_first_one_adds_to_it_and_nothing_is_lost() {
        let mut lane = lane(3);
        lane.ask(1);
        assert_eq!(lane.take(), Some(&[0][..]));
        lane.ask(2);
        assert_eq!(all_of(&mut lane), [1, 2, 0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn what_waits_is_forgotten_at_once_and_the_next_burst_starts_with_the_first_address() {
        let mut lane = lane(2);
        lane.ask(2);
        lane.take();
        assert_eq!((lane.clear(), lane.take()), (3, None));
        lane.ask(1);
        assert_eq!(all_of(&mut lane), [0, 1]);
    }

    #[test]
    fn a_router_without_addresses_of_a_family_never_waits_in_its_lane() {
        assert_eq!((lane(0).ask(5), lane(0).take()), (0, None));
    }
}
