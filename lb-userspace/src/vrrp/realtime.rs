//! Real-time priority and locked memory for the VRRP thread, as far as this machine grants them.
//!
//! `io` calls [`obtain`] once from the thread itself; what was not granted is said in words and is never an error,
//! because an election that is a little late is better than none. [`Guard`] keeps the promise that comes with such a
//! priority: a thread that is kept busy (a flood of adverts) gives it up before it starves the machine. There is no
//! RLIMIT_RTTIME: its SIGXCPU would end the daemon, and with it the node's part in the election.

use std::{fs, io, ptr, time::Duration};

use nix::time::{ClockId, clock_gettime};

use super::time::BootTime;

/// Above every ordinary thread; that of the kernel's own interrupt threads, which come first by age.
pub const PRIORITY: i32 = 50;
/// How often the thread's share of a processor is looked at.
const WINDOW: Duration = Duration::from_millis(100);
/// Calm for this long, a demoted thread gets its priority back.
const CALM: Duration = Duration::from_secs(10);

/// Bits of `CapEff` (capabilities(7)).
const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_NICE: u32 = 23;

/// What the VRRP thread runs with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scheduling {
    /// SCHED_FIFO at [`PRIORITY`]; else the ordinary policy.
    pub realtime: bool,
    /// No page of the process that was ever used is paged out.
    pub memory_locked: bool,
    /// Why not, a sentence each; empty when both were granted or neither was asked for.
    pub missing: Vec<String>,
}

/// Tries to get both for the calling thread and its process.
pub fn obtain() -> Scheduling {
    let (priority, memory) = (raise(), lock_memory());
    Scheduling {
        realtime: priority.is_ok(),
        memory_locked: memory.is_ok(),
        missing: [priority, memory].into_iter().filter_map(Result::err).collect(),
    }
}

/// SCHED_FIFO for this thread; what it may start later begins as ordinary.
pub fn raise() -> Result<(), String> {
    schedule(libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, PRIORITY).map_err(|error| {
        let may = has_capability(CAP_SYS_NICE);
        match error.raw_os_error() {
            Some(libc::EPERM) if may => "no real-time priority: this control group has no real-time budget \
                                         (cpu.rt_runtime_us)"
                .to_owned(),
            Some(libc::EPERM) => format!(
                "no real-time priority: it takes CAP_SYS_NICE or RLIMIT_RTPRIO of {PRIORITY} (`ulimit -r`)"
            ),
            _ => format!("no real-time priority: {error}"),
        }
    })
}

/// Back to the ordinary policy, which needs no privilege.
fn lower() {
    let _ = schedule(libc::SCHED_OTHER, 0);
}

/// By system call: musl's functions refuse, and glibc's are the same call.
fn schedule(policy: i32, priority: i32) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: thread id 0 is the caller; `parameters` outlives the call, which only reads it.
    let done = unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, ptr::from_ref(&parameters)) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Everything mapped now is read in and stays; what is mapped later stays once it is used, so that a thread's stack
/// costs no more than it needs. Under a limit nothing is locked: allocations beyond it would fail afterwards.
fn lock_memory() -> Result<(), String> {
    if !has_capability(CAP_IPC_LOCK) && !unlimited_locking() {
        return Err(
            "memory not locked: it takes CAP_IPC_LOCK or an unlimited RLIMIT_MEMLOCK (`ulimit -l`)".into()
        );
    }
    for flags in [libc::MCL_CURRENT, libc::MCL_FUTURE | libc::MCL_ONFAULT] {
        // SAFETY: takes no pointer; it changes no content of memory.
        if unsafe { libc::mlockall(flags) } != 0 {
            return Err(format!("memory not locked: {}", io::Error::last_os_error()));
        }
    }
    Ok(())
}

fn unlimited_locking() -> bool {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for the write of the call.
    let asked = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    asked == 0 && limit.rlim_cur == libc::RLIM_INFINITY
}

fn has_capability(bit: u32) -> bool {
    fs::read_to_string("/proc/thread-self/status").is_ok_and(|status| effective(&status) >> bit & 1 == 1)
}

/// `CapEff` of a `/proc/…/status`; none if it is not there.
fn effective(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

/// Processor time of the calling thread.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Takes the real-time priority away from a thread that uses more than half of a processor, and gives it back after
/// [`CALM`].
#[derive(Debug)]
pub struct Guard {
    window: BootTime,
    used: Duration,
    /// Since when the priority is gone or the thread was busy again.
    demoted: Option<BootTime>,
}

/// What [`Guard::look`] decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Demote,
    Promote,
}

impl Guard {
    /// For a thread that has the priority.
    pub fn new(now: BootTime) -> Self {
        Self { window: now, used: processor_time(), demoted: None }
    }

    /// To be called in each round; the new scheduling when it changed.
    pub fn watch(&mut self, now: BootTime, scheduling: &Scheduling) -> Option<Scheduling> {
        if now < self.window + WINDOW {
            return None;
        }
        match self.look(now, processor_time())? {
            Change::Demote => {
                lower();
                let why = "real-time priority given up: the VRRP thread was busy for most of 100 ms (a flood of \
                           adverts?); it comes back after 10 s of calm";
                Some(Scheduling { realtime: false, missing: vec![why.into()], ..scheduling.clone() })
            }
            Change::Promote => {
                let missing: Vec<_> = raise().err().into_iter().collect();
                Some(Scheduling { realtime: missing.is_empty(), missing, ..scheduling.clone() })
            }
        }
    }

    fn look(&mut self, now: BootTime, used: Duration) -> Option<Change> {
        let busy = used.saturating_sub(self.used) * 2 > now.since(self.window);
        (self.window, self.used) = (now, used);
        match (busy, self.demoted) {
            (true, before) => {
                self.demoted = Some(now);
                before.is_none().then_some(Change::Demote)
            }
            (false, Some(since)) if now >= since + CALM => {
                self.demoted = None;
                Some(Change::Promote)
            }
            (false, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: BootTime = BootTime(1_000_000_000);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_thread_that_is_kept_busy_loses_its_priority_until_ten_seconds_of_calm() {
        let mut guard = Guard { window: START, used: ms(0), demoted: None };
        assert_eq!(guard.look(START + ms(100), ms(10)), None);
        assert_eq!(guard.look(START + ms(200), ms(100)), Some(Change::Demote));
        assert_eq!(guard.look(START + ms(300), ms(200)), None, "once is enough");
        assert_eq!(guard.look(START + ms(10_200), ms(210)), None);
        assert_eq!(guard.look(START + ms(10_400), ms(220)), Some(Change::Promote));
        assert_eq!(guard.look(START + ms(10_500), ms(310)), Some(Change::Demote), "and again");
    }

    #[test]
    fn a_long_sleep_does_not_hide_the_flood_after_it() {
        let mut guard = Guard { window: START, used: ms(0), demoted: None };
        assert_eq!(guard.look(START + ms(60_000), ms(1)), None);
        assert_eq!(guard.look(START + ms(60_100), ms(99)), Some(Change::Demote));
    }

    #[test]
    fn capabilities_are_read_from_the_line_of_the_effective_ones() {
        let status =
            "Name:\tx\nCapInh:\t0000000000000000\nCapPrm:\tffffffffffffffff\nCapEff:\t0000000000804000\n";
        assert_eq!(effective(status) >> CAP_SYS_NICE & 1, 1);
        assert_eq!(effective(status) >> CAP_IPC_LOCK & 1, 1);
        assert_eq!(effective(status) >> 21 & 1, 0);
        assert_eq!(effective("Name:\tx\n"), 0);
    }

    #[test]
    fn whatever_is_not_granted_is_said_in_words_that_name_the_permission() {
        // In a thread of its own: the tests' threads stay ordinary.
        let obtained = std::thread::spawn(|| {
            let raised = raise();
            lower();
            raised
        });
        if let Err(why) = obtained.join().unwrap() {
            assert!(why.contains("CAP_SYS_NICE") || why.contains("cpu.rt_runtime_us"), "{why}");
        }
    }
}
