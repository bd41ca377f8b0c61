//! The client that asks all the time: every 10 ms an ICMP echo, a UDP datagram and a TCP connection to the virtual address.
//!
//! One dedicated thread in the client's namespace, with absolute deadlines and real-time priority; nothing in it waits
//! for an answer. Every probe is numbered and kept with its times, and [`super::blackout`] makes figures of them.
//! Callers: the benches and the ownership tests.

mod sockets;

use std::{
    io,
    net::SocketAddrV4,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};

use self::sockets::Sockets;
use super::{
    blackout::{self, ANSWER_LIMIT, PERIOD, Probe},
    punctual,
};
use crate::netns::Netns;

/// What a probe is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// An echo request.
    Icmp,
    /// A datagram through a UDP service.
    Udp,
    /// A connection through a TCP service, one request and its answer.
    Tcp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Protocol; 3] = [Protocol::Icmp, Protocol::Udp, Protocol::Tcp];

    /// `icmp`, `udp`, `tcp`.
    pub fn word(self) -> &'static str {
        ["icmp", "udp", "tcp"][self as usize]
    }
}

/// All probes of a prober's life, by protocol; a protocol that was not probed has none.
#[derive(Debug, Clone, Default)]
pub struct Record {
    probes: [Vec<Probe>; 3],
    /// How long the prober itself came too late, at worst.
    pub own_lateness: Duration,
}

impl Record {
    /// The probes of one protocol, in the order of their sending.
    pub fn of(&self, protocol: Protocol) -> &[Probe] {
        &self.probes[protocol as usize]
    }

    /// Whether every probed protocol is answered, and was for so long.
    fn is_served(&self, now: Duration, length: Duration) -> bool {
        let probed = self.probes.iter().filter(|probes| !probes.is_empty());
        probed.clone().count() > 0 && probed.clone().all(|probes| blackout::is_served(probes, now, length))
    }

    fn sent(&mut self, protocol: Protocol, sent: Duration) {
        self.probes[protocol as usize].push(Probe { sent, answered: None });
    }

    /// The first answer counts; a duplicate (two owners answer) changes nothing.
    fn answered(&mut self, protocol: Protocol, number: u64, at: Duration) {
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        if let Some(probe) = self.probes[protocol as usize].get_mut(number) {
            probe.answered.get_or_insert(at);
        }
    }
}

/// A prober that runs.
#[derive(Debug)]
pub struct Prober {
    began: Instant,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    record: Mutex<Record>,
    stop: AtomicBool,
}

impl Shared {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Prober {
    /// Probes address and port of `target` from `client`.
    pub fn start(client: Netns, target: SocketAddrV4) -> Self {
        let (began, shared) = (Instant::now(), Arc::<Shared>::default());
        let of_thread = Arc::clone(&shared);
        let body = move || -> Result<()> {
            let probed = client.run(|| probe(target, began, &of_thread))?;
            probed.context("the prober failed")
        };
        Prober { began, shared, thread: Some(thread::spawn(body)) }
    }

    /// The prober's time.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Whether every probe of the last `length` was answered.
    pub fn is_served(&self, length: Duration) -> bool {
        self.shared.record().is_served(self.now(), length)
    }

    /// Fails if the prober cannot go on.
    pub fn check(&mut self) -> Result<()> {
        match self.thread.take_if(|thread| thread.is_finished()) {
            Some(thread) => Err(ended(thread).err().unwrap_or_else(|| anyhow!("the prober ended by itself"))),
            None => Ok(()),
        }
    }

    /// Ends it once its last probes had their time; all it has recorded, and its time at the end.
    pub fn stop(mut self) -> Result<(Record, Duration)> {
        thread::sleep(ANSWER_LIMIT + PERIOD);
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.take().map_or(Ok(()), ended)?;
        let record = std::mem::take(&mut *self.shared.record());
        Ok((record, self.now()))
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Whoever asked for its record has had its error from `stop`.
        drop(self.thread.take().map(ended));
    }
}

fn ended(thread: JoinHandle<Result<()>>) -> Result<()> {
    thread.join().unwrap_or_else(|_| Err(anyhow!("the prober panicked")))
}

/// The thread: send at each tick, take answers in between.
fn probe(target: SocketAddrV4, began: Instant, shared: &Shared) -> io::Result<()> {
    // Without the permission the figures are those of an ordinary client on this machine.
    let _ = punctual::keep_time();
    let mut sockets = Sockets::open(target)?;
    let mut next = Instant::now();
    let mut number = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        if now >= next {
            for protocol in Protocol::ALL {
                shared.record().sent(protocol, began.elapsed());
                sockets.send(protocol, number);
            }
            number += 1;
            let mut record = shared.record();
            record.own_lateness = record.own_lateness.max(now - next);
            // Ticks that were slept through are gone: a burst would only show the same moment several times.
            while next <= now {
                next += PERIOD;
            }
        }
        sockets.wait(next)?;
        sockets.collect(|protocol, number| shared.record().answered(protocol, number, began.elapsed()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_belongs_to_the_probe_of_its_number_and_the_first_one_counts() {
        let ms = Duration::from_millis;
        let mut record = Record::default();
        record.sent(Protocol::Udp, ms(0));
        record.sent(Protocol::Udp, ms(10));
        record.answered(Protocol::Udp, 1, ms(11));
        record.answered(Protocol::Udp, 1, ms(99));
        record.answered(Protocol::Udp, 7, ms(12));
        record.answered(Protocol::Icmp, 0, ms(12));
        assert_eq!(
            record.of(Protocol::Udp).iter().map(|p| p.answered).collect::<Vec<_>>(),
            [None, Some(ms(11))]
        );
        assert!(record.of(Protocol::Icmp).is_empty());
    }

    #[test]
    fn service_needs_every_probed_protocol() {
        let ms = Duration::from_millis;
        let mut record = Record::default();
        assert!(!record.is_served(ms(30), ms(20)), "nothing was probed");
        for i in 0..4 {
            record.sent(Protocol::Icmp, ms(i * 10));
            record.answered(Protocol::Icmp, i, ms(i * 10 + 1));
        }
        assert!(record.is_served(ms(31), ms(20)), "a protocol that is not probed is not asked for");
        record.sent(Protocol::Tcp, ms(15));
        assert!(!record.is_served(ms(31), ms(20)));
    }
}
