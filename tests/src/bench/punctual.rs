//! Real-time priority for the threads that measure, below the VRRP thread's own.
//!
//! A prober or an echo server that waits for a processor would be taken for a balancer that does not answer.

use std::{io, ptr};

/// Well below viplb's VRRP thread (50), above every ordinary one.
const PRIORITY: i32 = 20;

/// SCHED_FIFO for the calling thread; not for what it starts later.
pub fn keep_time() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: PRIORITY };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: thread id 0 is the caller; `parameters` outlives the call, which only reads it.
    let done = unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, ptr::from_ref(&parameters)) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
