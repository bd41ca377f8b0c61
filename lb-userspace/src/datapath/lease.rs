//! The leases: an element per virtual router that every program checks and only the VRRP thread renews.
//!
//! The array is mapped into memory, so that the election's timing path makes no system call here. Each word has one
//! writer (`lb_common::lease`); the order of stores is what the programs rely on: a term before its deadline, a hardware
//! address only while its deadline is zero. Pins of a former daemon are gone on with: terms only grow.

use std::{
    io,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use anyhow::Result;
use lb_common::{addr, lease, maps as names};

use super::{mapped::Mapped, pins::Pins};
use crate::vrrp::{BootTime, Lease, Noted, announce::Mac};

/// For how long after its start a lease makes services adopt that do: what waits for an answer has been sent again by then, seven
/// times.
const ADOPTS_FOR: Duration = Duration::from_secs(60);

/// The `LEASES` map of a node.
pub struct KernelLease {
    leases: Mapped<lease::Lease>,
}

/// One element, its words as the two sides share them.
struct Words<'a> {
    until: &'a AtomicU64,
    adopt_until: &'a AtomicU64,
    probed: &'a AtomicU64,
    term: &'a AtomicU32,
    fenced: &'a AtomicU32,
    kept: &'a AtomicU64,
    relay: Passage<'a>,
    delegate: Passage<'a>,
}

/// A deadline and the hardware address that it is for.
struct Passage<'a> {
    until: &'a AtomicU64,
    mac: *mut addr::Mac,
}

impl KernelLease {
    /// Maps the pinned map into memory.
    pub fn open(pins: &Pins) -> Result<Self> {
        Ok(Self { leases: Mapped::open(pins, names::LEASES, names::MAX_ROUTERS as u32)? })
    }

    /// Ends whatever leases a former daemon has left to routers but these, by number: nobody runs those.
    pub fn drop_others(&self, routers: &[u32]) {
        let others = (0..self.leases.len()).filter(|router| !routers.contains(router));
        for words in others.filter_map(|router| self.words(router as usize)) {
            words.kept.store(0, Ordering::SeqCst);
            words.until.store(0, Ordering::SeqCst);
        }
    }

    fn words(&self, router: usize) -> Option<Words<'_>> {
        let p = self.leases.element(u32::try_from(router).ok()?)?;
        // SAFETY: fields of a live element, aligned as in any `Lease`; every access to these words is atomic, or, for the
        // hardware addresses, volatile.
        unsafe {
            Some(Words {
                until: AtomicU64::from_ptr(&raw mut (*p).until),
                adopt_until: AtomicU64::from_ptr(&raw mut (*p).adopt_until),
                probed: AtomicU64::from_ptr(&raw mut (*p).probed),
                term: AtomicU32::from_ptr(&raw mut (*p).term),
                fenced: AtomicU32::from_ptr(&raw mut (*p).fenced),
                kept: AtomicU64::from_ptr(&raw mut (*p).kept),
                relay: Passage {
                    until: AtomicU64::from_ptr(&raw mut (*p).relay_until),
                    mac: &raw mut (*p).relay,
                },
                delegate: Passage {
                    until: AtomicU64::from_ptr(&raw mut (*p).delegate_until),
                    mac: &raw mut (*p).delegate,
                },
            })
        }
    }

    fn known(&self, router: usize) -> io::Result<Words<'_>> {
        self.words(router).ok_or_else(|| {
            io::Error::other(format!("no room: there are {} virtual routers", self.leases.len()))
        })
    }
}

impl Passage<'_> {
    fn open(&self, mac: Mac, until: BootTime) {
        // SAFETY: a live element; only this thread writes the address, and programs read it only before the deadline.
        unsafe {
            if self.mac.read_volatile().0 != mac {
                self.until.store(0, Ordering::SeqCst);
                self.mac.write_volatile(addr::Mac(mac));
            }
        }
        self.until.store(until.0, Ordering::SeqCst);
    }
}

impl Lease for KernelLease {
    fn take(&mut self, router: usize, until: BootTime) -> io::Result<()> {
        let words = self.known(router)?;
        let past = words.term.load(Ordering::SeqCst).max(words.fenced.load(Ordering::SeqCst));
        words.term.store(past.wrapping_add(1), Ordering::SeqCst);
        // What it had been handed over for is over too: with a lease it would mean that it is being handed over again.
        words.relay.until.store(0, Ordering::SeqCst);
        words.adopt_until.store((BootTime::now() + ADOPTS_FOR).0, Ordering::SeqCst);
        words.until.store(until.0, Ordering::SeqCst);
        Ok(())
    }

    fn set(&mut self, router: usize, until: BootTime) -> io::Result<()> {
        self.known(router)?.until.store(until.0, Ordering::SeqCst);
        Ok(())
    }

    /// The mark last: without it nobody goes on with the lease, which then runs out.
    fn keep(&mut self, router: usize, until: BootTime, mark: u64) -> io::Result<()> {
        let words = self.known(router)?;
        words.until.store(until.0, Ordering::SeqCst);
        words.kept.store(until.0 ^ mark, Ordering::SeqCst);
        Ok(())
    }

    fn take_kept(&mut self, router: usize, mark: u64, now: BootTime) -> Option<BootTime> {
        let words = self.words(router)?;
        let lease = lease::Lease {
            until: words.until.load(Ordering::SeqCst),
            term: words.term.load(Ordering::SeqCst),
            fenced: words.fenced.load(Ordering::SeqCst),
            kept: words.kept.swap(0, Ordering::SeqCst),
            ..lease::Lease::default()
        };
        lease.is_kept(mark, now.0).then_some(BootTime(lease.until))
    }

    fn noted(&self, router: usize) -> Noted {
        let Some(words) = self.words(router) else { return Noted::default() };
        let term = words.term.load(Ordering::SeqCst);
        Noted {
            probed: BootTime(words.probed.load(Ordering::SeqCst)),
            // Of a lease that was never taken nobody can have been told that it is over.
            fenced: term != 0 && words.fenced.load(Ordering::SeqCst) == term,
        }
    }

    fn relay(&mut self, router: usize, to: Mac, until: BootTime) {
        if let Some(words) = self.words(router) {
            words.relay.open(to, until);
        }
    }

    fn delegate(&mut self, router: usize, from: Mac, until: BootTime) {
        if let Some(words) = self.words(router) {
            words.delegate.open(from, until);
        }
    }
}
