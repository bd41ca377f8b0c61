//! The client: inserts rows through the virtual address, one by one, and keeps count.
//!
//! Each row has a sequence number of its own. A row whose acknowledgement is lost is retried with the same number
//! until it is acknowledged, and a duplicate key on such a retry means that it had been written: so the number of
//! rows in the table equals the number acknowledged, unless an acknowledged row was lost. Callers: `run` and tests.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use mysql_async::{Conn, Error, Opts, prelude::Queryable};

use crate::{
    lab::unix_time,
    netns::Netns,
    sql::{APP, tcp_options},
};

/// Statement that makes the table of the rows.
pub const TABLE_SQL: &str =
    "CREATE TABLE IF NOT EXISTS app.lab_rows (seq BIGINT UNSIGNED PRIMARY KEY, at TIMESTAMP(6) NOT NULL)";

const DUPLICATE_KEY: u16 = 1062;

/// How a writer works.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it connects to.
    pub target: SocketAddr,
    /// Limit of a connect or an insert; then it reconnects.
    pub timeout: Duration,
    /// Pause between two rows.
    pub pause: Duration,
    /// Number of its first row. Give each writer of one table its own range.
    pub first: u64,
}

impl Options {
    /// A writer to `target` that leaves most of a small machine to others, with a range of its own.
    pub fn to(target: SocketAddr) -> Self {
        let timeout = Duration::from_secs(1);
        Options { target, timeout, pause: Duration::from_millis(1), first: (unix_time() & 0x7fff_ffff) << 32 }
    }
}

/// What a writer has seen.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Number of the first row.
    pub first: u64,
    /// Rows acknowledged: those numbered from `first`, without gaps.
    pub acknowledged: u64,
    /// Whether the next row was sent and its fate is not known.
    pub unknown: bool,
    /// Failed connects and inserts.
    pub errors: u64,
    /// The last of them.
    pub last_error: Option<String>,
    /// Successful connects.
    pub connects: u64,
    /// Rows refused as duplicates though never sent before: a row of somebody else, or a broken server.
    pub strange_duplicates: u64,
    /// Longest time between two acknowledged rows, not counting one that still lasts.
    pub longest_closed_gap: Duration,
    /// When the last row was acknowledged (or the writer began).
    pub last_ack: Instant,
}

impl Tally {
    fn new(first: u64) -> Self {
        Tally {
            first,
            acknowledged: 0,
            unknown: false,
            errors: 0,
            last_error: None,
            connects: 0,
            strange_duplicates: 0,
            longest_closed_gap: Duration::ZERO,
            last_ack: Instant::now(),
        }
    }

    /// Longest time without an acknowledged row up to `now`.
    pub fn longest_gap(&self, now: Instant) -> Duration {
        self.longest_closed_gap.max(now.saturating_duration_since(self.last_ack))
    }

    /// Statement that counts the acknowledged rows: its answer must be [`Tally::acknowledged`].
    pub fn count_sql(&self) -> String {
        let last = match self.acknowledged {
            0 => return "SELECT COUNT(*) FROM app.lab_rows WHERE seq BETWEEN 1 AND 0".to_owned(),
            rows => self.first + rows - 1,
        };
        format!("SELECT COUNT(*) FROM app.lab_rows WHERE seq BETWEEN {} AND {last}", self.first)
    }

    fn acknowledge(&mut self, now: Instant) {
        // The first row has no row before it: waiting for it is no gap.
        if self.acknowledged > 0 {
            let gap = now.saturating_duration_since(self.last_ack);
            self.longest_closed_gap = self.longest_closed_gap.max(gap);
        }
        self.acknowledged += 1;
        self.unknown = false;
        self.last_ack = now;
    }

    fn fail(&mut self, why: &Failure) {
        self.errors += 1;
        self.last_error = Some(why.to_string());
    }
}

/// A writer at work on a thread inside a namespace.
#[derive(Debug)]
pub struct Writer {
    tally: Arc<Mutex<Tally>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Writer {
    /// Starts writing from inside `ns`.
    pub fn start(ns: Netns, options: Options) -> Self {
        let tally = Arc::new(Mutex::new(Tally::new(options.first)));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, flag) = (Arc::clone(&tally), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let work = Work { options, tally: Arc::clone(&shared), stop: flag };
            if let Err(e) = ns.run(|| work.run()).and_then(|done| done) {
                shared.lock().unwrap_or_else(PoisonError::into_inner).last_error = Some(format!("{e:#}"));
            }
        });
        Writer { tally, stop, thread }
    }

    /// What it has seen so far.
    pub fn tally(&self) -> Tally {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets it finish the row in hand (within its time-out) and hands back the whole tally.
    pub fn stop(self) -> Result<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the writer panicked"))?;
        let tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(tally)
    }
}

#[derive(Debug)]
enum Failure {
    TimedOut(&'static str),
    Sql(Error),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::TimedOut(what) => write!(f, "{what} timed out"),
            Failure::Sql(error) => error.fmt(f),
        }
    }
}

struct Work {
    options: Options,
    tally: Arc<Mutex<Tally>>,
    stop: Arc<AtomicBool>,
}

impl Work {
    fn run(&self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.write());
        runtime.shutdown_background();
        Ok(())
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    async fn write(&self) {
        let opts = tcp_options(self.options.target, APP);
        while !self.stopping() {
            let why = match self.session(opts.clone()).await {
                Ok(()) => return,
                Err(why) => why,
            };
            self.tally().fail(&why);
            // A refused connect returns at once; do not spin on it.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Writes over one connection until it fails or the writer is stopped.
    async fn session(&self, opts: Opts) -> Result<(), Failure> {
        let mut conn = self.within("connect", Conn::new(opts)).await?;
        self.tally().connects += 1;
        if self.tally().acknowledged == 0 {
            self.within("create table", conn.query_drop(TABLE_SQL)).await?;
        }
        while !self.stopping() {
            self.insert(&mut conn).await?;
            if !self.options.pause.is_zero() {
                tokio::time::sleep(self.options.pause).await;
            }
        }
        // The rows are counted; how the connection ends does not matter any more.
        let _ = self.within("disconnect", conn.disconnect()).await;
        Ok(())
    }

    async fn insert(&self, conn: &mut Conn) -> Result<(), Failure> {
        let (seq, retried) = {
            let mut tally = self.tally();
            let retried = std::mem::replace(&mut tally.unknown, true);
            (tally.first + tally.acknowledged, retried)
        };
        let sql = format!("INSERT INTO app.lab_rows (seq, at) VALUES ({seq}, NOW(6))");
        match self.within("insert", conn.query_drop(sql)).await {
            Err(Failure::Sql(Error::Server(e))) if e.code == DUPLICATE_KEY => {
                self.tally().strange_duplicates += u64::from(!retried);
            }
            other => other?,
        }
        self.tally().acknowledge(Instant::now());
        Ok(())
    }

    async fn within<T>(
        &self,
        what: &'static str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(self.options.timeout, work).await {
            Ok(done) => done.map_err(Failure::Sql),
            Err(_) => Err(Failure::TimedOut(what)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_for_the_first_row_is_no_gap_and_every_later_one_is() {
        let mut tally = Tally::new(100);
        let start = tally.last_ack;
        let at = |ms| start + Duration::from_millis(ms);
        tally.acknowledge(at(500));
        tally.acknowledge(at(510));
        tally.acknowledge(at(540));
        assert_eq!(tally.longest_closed_gap, Duration::from_millis(30));
        assert_eq!(tally.longest_gap(at(640)), Duration::from_millis(100), "a gap that lasts counts");
    }

    #[test]
    fn the_count_covers_exactly_the_acknowledged_rows() {
        let mut tally = Tally::new(100);
        assert!(tally.count_sql().ends_with("BETWEEN 1 AND 0"));
        tally.acknowledge(Instant::now());
        tally.acknowledge(Instant::now());
        assert!(tally.count_sql().ends_with("BETWEEN 100 AND 101"));
    }
}
