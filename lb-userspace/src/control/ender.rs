//! Ends flows: those of a backend that is lost, and those that an operator wants gone. Both ends of each TCP connection are
//! told by a RST.
//!
//! A part of the table at a time, so that neither checks nor new connections wait: a hundred thousand flows take two
//! seconds by these numbers. The control loop calls [`Ender::step`] while there is something to do.

use std::{
    collections::VecDeque,
    io,
    time::{Duration, Instant},
};

use anyhow::Result;
use ipnet::IpNet;
use lb_common::{flow::Flow, reach::NO_ROUTER};
use tokio::sync::oneshot;

use crate::{
    datapath::{load::Datapath, maps::Maps, reset::Resets},
    vrrp::BootTime,
};

/// How often a part is done.
pub(super) const STEP: Duration = Duration::from_millis(10);
/// Records looked at in a step.
const LOOKED_AT: u32 = 1 << 16;
/// Flows ended in a step.
const ENDED: usize = 512;
/// A program that has read the old ring may still open a flow: the table is gone through again after this.
const AGAIN: Duration = Duration::from_millis(100);

/// Which flows are meant; all of it must hold.
#[derive(Debug, Clone, Default)]
pub struct Which {
    /// Of this service.
    pub service: Option<u32>,
    /// Of this backend.
    pub backend: Option<u32>,
    /// Of clients in this network.
    pub client: Option<IpNet>,
    /// Silent for so long.
    pub idle: Duration,
}

impl Which {
    /// Whether a flow is one of them.
    pub fn means(&self, flow: &Flow, now: BootTime) -> bool {
        self.service.is_none_or(|service| service == flow.service)
            && self.backend.is_none_or(|backend| backend == flow.backend_id)
            && self.client.is_none_or(|net| net.contains(&std::net::IpAddr::from(flow.client)))
            && now.since(BootTime(flow.seen)) >= self.idle
    }
}

/// Who waits to hear how many there were.
pub type Answer = oneshot::Sender<Result<u64, String>>;

#[derive(Debug)]
struct Job {
    which: Which,
    /// For the log; none: an operator's order, which is answered.
    why: Option<String>,
    answer: Option<Answer>,
    /// The next record.
    next: u32,
    /// When it may go on.
    from: Instant,
    passes: u32,
    ended: u64,
    untold: Option<(u64, io::Error)>,
}

/// What is to be ended.
#[derive(Debug)]
pub(super) struct Ender {
    resets: Resets,
    jobs: VecDeque<Job>,
}

impl Ender {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { resets: Resets::open()?, jobs: VecDeque::new() })
    }

    /// Whether there is something to do.
    pub(super) fn is_busy(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// All flows of a backend are to end.
    pub(super) fn end_backend(&mut self, backend: u32, why: String, now: Instant) {
        let which = Which { backend: Some(backend), ..Which::default() };
        self.jobs.push_back(Job::new(which, Some(why), None, now));
    }

    /// Gives up what is still to be done for backends that are not `lost` any more: their flows are new ones.
    pub(super) fn spare(&mut self, lost: impl Fn(u32) -> bool) {
        self.jobs.retain(|job| job.answer.is_some() || job.which.backend.is_none_or(&lost));
    }

    /// These flows are to end, and their number is to be told.
    pub(super) fn end(&mut self, which: Which, answer: Answer, now: Instant) {
        self.jobs.push_back(Job::new(which, None, Some(answer), now));
    }

    /// Does a part of what is to be done; the flows that it has ended, with the slots that they had.
    pub(super) fn step(&mut self, datapath: &mut Datapath, now: Instant) -> Result<Vec<(u32, Flow)>> {
        let mut looked_at = 0;
        let mut ended = Vec::new();
        while looked_at < LOOKED_AT && ended.len() < ENDED {
            let Some(job) = self.jobs.iter_mut().find(|job| job.from <= now) else { break };
            let Datapath { tables, collector, .. } = datapath;
            looked_at += 1;
            if let Some(flow) = collector.flow(job.next)
                && job.which.means(&flow, BootTime::now())
                && is_ours(tables.maps(), &flow)?
                && collector.end(tables.maps(), job.next, &flow)?
            {
                ended.push((job.next, flow));
                job.ended += 1;
                // Of a half-open one the client tries again, and meets another backend.
                if flow.place == 0
                    && let Err(e) = self.resets.send(&flow)
                {
                    job.untold = Some((job.untold.take().map_or(1, |(n, _)| n + 1), e));
                }
            }
            job.next += 1;
            if job.next >= collector.records() {
                self.finish_pass(now);
            }
        }
        Ok(ended)
    }

    /// The first job that may go on has come to the end of the table.
    fn finish_pass(&mut self, now: Instant) {
        let Some(i) = self.jobs.iter().position(|job| job.from <= now) else { return };
        let job = &mut self.jobs[i];
        (job.next, job.passes) = (0, job.passes - 1);
        if job.passes > 0 {
            job.from = now + AGAIN;
        } else if let Some(job) = self.jobs.remove(i) {
            job.tell();
        }
    }
}

impl Job {
    fn new(which: Which, why: Option<String>, answer: Option<Answer>, from: Instant) -> Self {
        let passes = if answer.is_some() { 1 } else { 2 };
        Self { which, why, answer, next: 0, from, passes, ended: 0, untold: None }
    }

    fn tell(self) {
        let why = self.why.as_deref().unwrap_or("by order");
        if self.ended > 0 {
            tracing::info!("{why}: {} of its connections ended, both ends told", self.ended);
        }
        if let Some((n, e)) = self.untold {
            tracing::warn!("{why}: {n} connections ended without a word to one end or both: {e}");
        }
        if let Some(answer) = self.answer {
            let _ = answer.send(Ok(self.ended));
        }
    }
}

/// Whether this node may speak for the flow: who owns no addresses ends nobody's connections.
fn is_ours(maps: &Maps, flow: &Flow) -> Result<bool> {
    if flow.router == NO_ROUTER {
        return Ok(true);
    }
    Ok(maps.leases.get(&flow.router, 0).is_ok_and(|lease| lease.is_valid(BootTime::now().0)))
}
