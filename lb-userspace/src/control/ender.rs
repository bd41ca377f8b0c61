//! Ends flows: those of a backend that is lost, and those that an operator wants gone. Both ends of each TCP connection are
//! told by a RST. Those on which nobody has spoken go to another server, if there is one (`mover`), and of a backend that is only
//! silent those alone.
//!
//! A part of the table at a time, so that neither checks nor new connections wait: a hundred thousand flows take two
//! seconds by these numbers. The control loop calls [`Ender::step`] while there is something to do.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    time::{Duration, Instant},
};

use anyhow::Result;
use ipnet::IpNet;
use lb_common::{flow::Flow, reach::NO_ROUTER};
use tokio::sync::oneshot;

use super::mover::{Mover, Takers};
use crate::{
    datapath::{flows::moving::is_under_way, load::Datapath, maps::Maps, reset::Resets},
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
/// Clients of a silent backend that have waited for so long for a greeting are moved. A server that greets takes a hundredth of it.
const UNGREETED: Duration = Duration::from_millis(300);
/// How often those are looked for.
const LOOK: Duration = Duration::from_millis(50);

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

/// What becomes of the flows that a job finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// They end, but for those that another server can take.
    Lost,
    /// Those go to another server, and others stay.
    Silent,
    /// They end.
    Ordered,
    /// Those that a former daemon was moving end.
    Orphans,
}

#[derive(Debug)]
struct Job {
    which: Which,
    fate: Fate,
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
    mover: Mover,
    /// Backends that are up and do not answer their checks, why, and when their clients are looked at next.
    silent: BTreeMap<u32, (String, Instant)>,
}

impl Ender {
    /// With `adopted` maps, what a former daemon has begun is ended.
    pub(super) fn open(adopted: bool) -> io::Result<Self> {
        let mut jobs = VecDeque::new();
        if adopted {
            let why = "a daemon has died while it moved connections".to_owned();
            jobs.push_back(Job::new(Which::default(), Fate::Orphans, Some(why), None, Instant::now()));
        }
        Ok(Self { resets: Resets::open()?, jobs, mover: Mover::default(), silent: BTreeMap::new() })
    }

    /// Whether there is something to do.
    pub(super) fn is_busy(&self) -> bool {
        !self.jobs.is_empty() || !self.silent.is_empty() || self.mover.is_busy()
    }

    /// A backend is silent: who waits for its greeting goes to another.
    pub(super) fn leave_silent(&mut self, backend: u32, why: String) {
        self.silent.entry(backend).or_insert((why, Instant::now()));
    }

    /// It has answered, or is known to be lost.
    pub(super) fn hears_of(&mut self, backend: u32) {
        self.silent.remove(&backend);
        self.jobs.retain(|job| job.fate != Fate::Silent || job.which.backend != Some(backend));
    }

    /// Who is silent.
    pub(super) fn silent(&self) -> BTreeSet<u32> {
        self.silent.keys().copied().collect()
    }

    /// Connections that were moved away from a backend.
    pub(super) fn moved_from(&self, backend: u32) -> u64 {
        self.mover.moved_from(backend)
    }

    /// All flows of a backend are to end.
    pub(super) fn end_backend(&mut self, backend: u32, why: String, now: Instant) {
        let which = Which { backend: Some(backend), ..Which::default() };
        self.jobs.push_back(Job::new(which, Fate::Lost, Some(why), None, now));
    }

    /// Gives up what is still to be done for backends that are not `lost` any more: their flows are new ones.
    pub(super) fn spare(&mut self, lost: impl Fn(u32) -> bool) {
        self.jobs.retain(|job| job.fate != Fate::Lost || job.which.backend.is_none_or(&lost));
    }

    /// These flows are to end, and their number is to be told.
    pub(super) fn end(&mut self, which: Which, answer: Answer, now: Instant) {
        self.jobs.push_back(Job::new(which, Fate::Ordered, None, Some(answer), now));
    }

    /// Does a part of what is to be done; the flows that it has ended or taken from their backend, with their slots.
    pub(super) fn step(
        &mut self,
        datapath: &mut Datapath,
        takers: &Takers,
        now: Instant,
    ) -> Result<Vec<(u32, Flow)>> {
        let mut looked_at = 0;
        let mut ended = Vec::new();
        self.mover.step(datapath, (&self.resets, takers), now)?;
        self.look_for_silent(now);
        while looked_at < LOOKED_AT && ended.len() < ENDED {
            let Some(job) = self.jobs.iter_mut().find(|job| job.from <= now) else { break };
            looked_at += 1;
            if let Some(flow) = datapath.collector.flow(job.next)
                && job.which.means(&flow, BootTime::now())
                && is_ours(datapath.tables.maps(), &flow)?
                && !self.mover.takes(job, &flow, (datapath, takers), now)
                && job.ends(&flow, datapath)
                && datapath.collector.end(datapath.tables.maps(), job.next, &flow)?
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
            if job.next >= datapath.collector.records() {
                self.finish_pass(now);
            }
        }
        ended.extend(self.mover.take_gone());
        Ok(ended)
    }

    /// Has the table gone through for clients of silent backends, if it is time.
    fn look_for_silent(&mut self, now: Instant) {
        for (backend, (why, next)) in &mut self.silent {
            let looks = |job: &Job| job.fate == Fate::Silent && job.which.backend == Some(*backend);
            if *next <= now && !self.jobs.iter().any(looks) {
                *next = now + LOOK;
                let which = Which { backend: Some(*backend), idle: UNGREETED, ..Which::default() };
                self.jobs.push_back(Job::new(which, Fate::Silent, Some(why.clone()), None, now));
            }
        }
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
    fn new(which: Which, fate: Fate, why: Option<String>, answer: Option<Answer>, from: Instant) -> Self {
        let passes = if fate == Fate::Lost { 2 } else { 1 };
        Self { which, fate, why, answer, next: 0, from, passes, ended: 0, untold: None }
    }

    /// Whether a flow that is meant, and that no other server takes, ends.
    fn ends(&self, flow: &Flow, datapath: &Datapath) -> bool {
        match self.fate {
            Fate::Lost | Fate::Ordered => true,
            Fate::Silent => false,
            Fate::Orphans => is_under_way(flow, &datapath.collector.opening(self.next)),
        }
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

impl Mover {
    /// Whether the flow that a job has come to is moved, or is being moved already.
    fn takes(
        &mut self,
        job: &Job,
        flow: &Flow,
        (datapath, takers): (&mut Datapath, &Takers),
        now: Instant,
    ) -> bool {
        match job.fate {
            Fate::Ordered => false,
            Fate::Orphans => self.has(job.next),
            Fate::Lost | Fate::Silent => {
                let why = (job.why.as_deref().unwrap_or_default(), job.fate == Fate::Silent);
                self.has(job.next) || self.begin((job.next, flow), (datapath, takers), why, now)
            }
        }
    }
}

/// Whether this node may speak for the flow: who owns no addresses ends nobody's connections.
pub(super) fn is_ours(maps: &Maps, flow: &Flow) -> Result<bool> {
    if flow.router == NO_ROUTER {
        return Ok(true);
    }
    Ok(maps.leases.get(&flow.router, 0).is_ok_and(|lease| lease.is_valid(BootTime::now().0)))
}
