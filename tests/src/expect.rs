//! What several tests expect in the same way: something to become true, and the kernel's counters.
//!
//! For tests only: a condition that is not met in time panics.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

/// How often something is looked at that announces nothing itself.
const LOOK: Duration = Duration::from_millis(10);

/// Waits until `holds`; gives the time when it did.
///
/// # Panics
///
/// After `limit`, with the words of `what`.
pub fn wait_until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) -> Instant {
    let deadline = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        thread::sleep(LOOK);
    }
    Instant::now()
}

/// A counter of the calling thread's namespace from the `Tcp:` lines of /proc/net/snmp.
///
/// # Panics
///
/// If there is no such counter.
pub fn tcp_counter(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/snmp").expect("the kernel's counters");
    let mut lines = text.lines().filter(|l| l.starts_with("Tcp:")).map(str::split_whitespace);
    let names = lines.next().expect("names of the counters");
    let values = lines.next().expect("values of the counters");
    let found = names.zip(values).find(|(n, _)| *n == name);
    found.and_then(|(_, v)| v.parse().ok()).unwrap_or_else(|| panic!("no counter {name}"))
}
