//! Listening to samples of packets. The maps are pinned, so it works while the daemon is dead or frozen.

use std::{fs::File, os::fd::AsFd, time::Duration};

use anyhow::{Context, Result, bail};
use aya::maps::{Map, MapData, RingBuf};
use lb_common::{
    maps as names,
    sample::{Capture, Sample},
};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{mapped::Mapped, maps::Maps, pins::Pins};
use crate::vrrp::BootTime;

/// How long samples are wanted without being asked for again, so that a listener that dies is soon forgotten.
const PATIENCE: Duration = Duration::from_secs(3);

/// The one listener of a node.
pub struct Listener {
    ring: RingBuf<MapData>,
    control: Mapped<Capture>,
    lost_before: u64,
    // A ring has one reader.
    _lock: Flock<File>,
}

impl Listener {
    /// Listens to packets of `node` that end in one of `reasons` (bit n: reason n).
    pub fn open(node: &str, reasons: u64) -> Result<Self> {
        let pins = Pins::of(node);
        // Refuses another schema.
        drop(Maps::open(&pins)?);
        // The directory itself, so that no file is left behind.
        let path = pins.maps();
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EAGAIN)) => {
                bail!("another `viplb capture` listens to node {node}: end that one first")
            }
            Err((_, e)) => return Err(e).with_context(|| format!("cannot lock {}", path.display())),
        };
        let data = MapData::from_pin(pins.map(names::SAMPLES)).context("map SAMPLES")?;
        let mut ring = RingBuf::try_from(Map::RingBuf(data)).context("map SAMPLES")?;
        // What a former listener left.
        while ring.next().is_some() {}
        let control = Mapped::open(&pins, names::CAPTURE, 1)?;
        let mut listener = Self { ring, control, lost_before: 0, _lock: lock };
        listener.lost_before = listener.read().lost;
        listener.write(BootTime::now().0 + PATIENCE.as_nanos() as u64, reasons);
        Ok(listener)
    }

    /// Gives the next sample, or nothing if none comes within `limit`. Call it more often than every three seconds.
    pub fn next(&mut self, limit: Duration) -> Result<Option<Sample>> {
        self.write(BootTime::now().0 + PATIENCE.as_nanos() as u64, self.read().reasons);
        if let Some(sample) = self.take() {
            return Ok(Some(sample));
        }
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.ring.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, limit) {
            Ok(_) | Err(Errno::EINTR) => Ok(self.take()),
            Err(e) => Err(e).context("cannot wait for samples"),
        }
    }

    /// Samples since the start for which there was no room.
    pub fn lost(&self) -> u64 {
        self.read().lost - self.lost_before
    }

    fn take(&mut self) -> Option<Sample> {
        let item = self.ring.next()?;
        // SAFETY: the programs write whole samples, plain data of any bit pattern; the ring aligns by eight bytes at least.
        (item.len() == size_of::<Sample>())
            .then(|| unsafe { item.as_ptr().cast::<Sample>().read_unaligned() })
    }

    fn at(&self) -> *mut Capture {
        self.control.element(0).expect("the map has one element")
    }

    fn read(&self) -> Capture {
        // SAFETY: a live element; volatile because programs count in it.
        unsafe { self.at().read_volatile() }
    }

    fn write(&self, until: u64, reasons: u64) {
        // SAFETY: a live element, of which only this process writes these words.
        unsafe {
            (&raw mut (*self.at()).reasons).write_volatile(reasons);
            (&raw mut (*self.at()).until).write_volatile(until);
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.write(0, 0);
    }
}
