//! Progress lines and the wish to stop.
//!
//! Every long step of the lab takes a [`Console`]: it says what is going on and asks it between two waits
//! whether the user pressed Ctrl-C. Signals only set a flag; nothing is taken down inside a handler.

use std::{
    io::{self, Write},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_signal: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

/// Where progress goes.
#[derive(Debug, Clone, Copy)]
pub struct Console {
    quiet: bool,
}

impl Console {
    /// Progress on standard error, so that standard output stays for results.
    pub fn stderr() -> Self {
        Console { quiet: false }
    }

    /// No progress at all.
    pub fn quiet() -> Self {
        Console { quiet: true }
    }

    /// One line of progress. A reader that went away is no reason to stop half-way.
    pub fn say(&self, line: impl AsRef<str>) {
        if !self.quiet {
            let _ = writeln!(io::stderr().lock(), "{}", line.as_ref());
        }
    }

    /// Fails if the user asked to stop.
    pub fn go_on(&self) -> Result<()> {
        if stop_asked() {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Asks `done` again and again until it says yes; `false` if `limit` passes first.
    pub fn wait_for(&self, limit: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<bool> {
        let start = Instant::now();
        loop {
            self.go_on()?;
            if done()? {
                return Ok(true);
            }
            if start.elapsed() > limit {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// From now on SIGINT, SIGTERM and SIGHUP ask the lab to stop instead of ending the process.
pub fn catch_signals() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler does nothing but store to an atomic.
        unsafe { sigaction(signal, &action)? };
    }
    Ok(())
}

/// Whether a signal asked to stop.
pub fn stop_asked() -> bool {
    STOP.load(Ordering::Relaxed)
}
