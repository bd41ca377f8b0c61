//! The time as the packet programs read it: boottime as of the last timer tick, which costs a few instructions instead of a
//! helper call that on a virtual machine takes as long as looking up a flow (40 ns of 180).

/// Element of the `CLOCK` map: a processor's last reading.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Clock {
    /// Timer ticks since start at the reading; 0: none, or one under way.
    pub ticks: u64,
    /// Boottime then, ns.
    pub boottime: u64,
}
layout!(Clock = 16: ticks, boottime);

/// How far a reading may be behind, ns. The kernel counts ticks on one processor; should that one be held up, another takes over
/// after five of its own (kernel commit a1ff03cd6fb9, Linux 6.0), and the longest tick is 10 ms (`CONFIG_HZ` = 100).
pub const BEHIND: u64 = 64_000_000;
