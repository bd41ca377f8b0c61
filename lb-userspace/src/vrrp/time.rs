//! Time as VRRP and the lease see it: nanoseconds of `CLOCK_BOOTTIME`.
//!
//! The packet programs judge the lease with `bpf_ktime_get_boot_ns`, which counts through suspend; the state
//! machine uses the same clock, so that a deadline means the same instant on both sides. Only `io` reads it.

use std::{
    ops::{Add, Sub},
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};

/// An instant of `CLOCK_BOOTTIME`, in nanoseconds since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BootTime(pub u64);

impl BootTime {
    /// The clock. Only drivers read it; cores are given instants.
    ///
    /// # Panics
    ///
    /// Never: the clock exists since Linux 2.6.39.
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("CLOCK_BOOTTIME exists since Linux 2.6.39");
        Self(u64::try_from(time.tv_sec() * 1_000_000_000 + time.tv_nsec()).unwrap_or(0))
    }

    /// Time from `earlier` to `self`, zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for BootTime {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for BootTime {
    type Output = Self;
    fn sub(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}
