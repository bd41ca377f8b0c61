//! Ownership of the virtual address, sampled all the time while a test does something to the nodes.
//!
//! Two truths are watched, each by a thread of its own: what the network sees (who answers an ARP request), and what
//! the packet programs go by (the leases in the nodes' pinned maps). Callers: the failover and interop tests. A
//! sample never claims more than it has seen: two leases count as held at once only if that is proven.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::MetadataExt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use lb_common::maps::LEASES;
use lb_userspace::{
    datapath::{maps::Maps, pins::Pins},
    vrrp::BootTime,
};

use crate::{
    lab::{Balancer, Lab, Role},
    vip,
};

/// Between two looks at the leases.
const LEASE_PERIOD: Duration = Duration::from_millis(1);
/// How long nobody may answer when ownership passes from one node to another that is there to take it: viplb contends
/// for 10 ms, and waits 50 ms for a keepalived that says nothing; the rest is for a busy machine.
const HAND_OVER: Duration = Duration::from_millis(500);

/// Who answered, or who held a lease: one question, or several one after the other with the same answer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sample {
    /// When the first question was asked.
    asked: Instant,
    /// When the last one was.
    asked_last: Instant,
    /// When the last answer was complete.
    done: Instant,
    /// Names of nodes, one an answer.
    nodes: Vec<String>,
}

/// The watch: runs from [`Watch::start`] until it is dropped.
#[derive(Debug)]
pub struct Watch {
    arp: Arc<Mutex<Vec<Sample>>>,
    leases: Arc<Mutex<Vec<Sample>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    /// Watches the balancers of a lab.
    pub fn start(lab: &Lab) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut watch = Watch { arp: Arc::default(), leases: Arc::default(), stop, threads: Vec::new() };
        let lab_asked = lab.clone();
        watch.sample(Duration::ZERO, Arc::clone(&watch.arp), move || vip::answers(&lab_asked).ok());
        let mut nodes: Vec<LeaseOf> = lab
            .nodes()
            .into_iter()
            .filter(|node| node.role == Role::Balancer(Balancer::Viplb))
            .map(|node| LeaseOf::new(&node.name, &lab.viplb_name(&node)))
            .collect();
        watch.sample(LEASE_PERIOD, Arc::clone(&watch.leases), move || Some(holders(&mut nodes)));
        watch
    }

    /// Starts a thread that asks again and again. Neighbouring equal samples become one, so that a long watch stays
    /// small; a question that failed (the lab is being taken down) is no sample.
    fn sample(
        &mut self,
        period: Duration,
        into: Arc<Mutex<Vec<Sample>>>,
        mut ask: impl FnMut() -> Option<Vec<String>> + Send + 'static,
    ) {
        let stop = Arc::clone(&self.stop);
        self.threads.push(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let asked = Instant::now();
                match ask() {
                    Some(nodes) => push(
                        &mut into.lock().unwrap_or_else(PoisonError::into_inner),
                        Sample { asked, asked_last: asked, done: Instant::now(), nodes },
                    ),
                    None => thread::sleep(LEASE_PERIOD),
                }
                thread::sleep(period);
            }
        }));
    }

    /// Waits until exactly these nodes answer an ARP request that is asked from now on; when they began to.
    pub fn until_answers(&self, nodes: &[&str], limit: Duration) -> Result<Instant> {
        self.until("answered ARP for", &self.arp, nodes, limit)
    }

    /// Waits until exactly these nodes hold a lease; when they began to.
    pub fn until_leased(&self, nodes: &[&str], limit: Duration) -> Result<Instant> {
        self.until("leased", &self.leases, nodes, limit)
    }

    fn until(
        &self,
        what: &str,
        samples: &Mutex<Vec<Sample>>,
        nodes: &[&str],
        limit: Duration,
    ) -> Result<Instant> {
        let began = Instant::now();
        loop {
            let last = samples.lock().unwrap_or_else(PoisonError::into_inner).last().cloned();
            if let Some(last) = last.filter(|s| s.asked_last >= began && s.nodes == nodes) {
                return Ok(last.asked);
            }
            if began.elapsed() > limit {
                bail!("not {what} by {nodes:?} within {limit:?}:\n{}", self.story(began));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Fails if two nodes answered for the address or held a lease at any moment since `from`.
    pub fn never_two_since(&self, from: Instant) -> Result<()> {
        for (what, samples) in [("answered ARP", &self.arp), ("held a lease", &self.leases)] {
            if let Some(two) = since(samples, from).iter().find(|sample| sample.nodes.len() > 1) {
                bail!("{:?} {what} at once:\n{}", two.nodes, self.story(from));
            }
        }
        Ok(())
    }

    /// Fails unless every ARP request since `from` got exactly one answer, but for the moment in which ownership
    /// passes from one node to another; nor may two leases have been valid at once.
    pub fn exactly_one_since(&self, from: Instant) -> Result<()> {
        self.never_two_since(from)?;
        match gap(&since(&self.arp, from)) {
            None => Ok(()),
            Some(gap) => bail!("nobody answered ARP for {gap:?}:\n{}", self.story(from)),
        }
    }

    /// What was seen since `from`, for messages: times in seconds from then.
    pub fn story(&self, from: Instant) -> String {
        let mut text = String::new();
        for (what, samples) in [("ARP", &self.arp), ("lease", &self.leases)] {
            let _ = write!(text, "  {what}:");
            for sample in since(samples, from) {
                let at = sample.asked.saturating_duration_since(from).as_secs_f64();
                let _ = write!(text, " {at:.3} {:?}", sample.nodes);
            }
            text.push('\n');
        }
        text
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A sampler that panicked has said so.
            let _ = thread.join();
        }
    }
}

fn push(samples: &mut Vec<Sample>, next: Sample) {
    match samples.last_mut() {
        Some(last) if last.nodes == next.nodes => {
            (last.asked_last, last.done) = (next.asked_last, next.done);
        }
        _ => samples.push(next),
    }
}

/// Samples whose last question may have been asked after `from`.
fn since(samples: &Mutex<Vec<Sample>>, from: Instant) -> Vec<Sample> {
    let all = samples.lock().unwrap_or_else(PoisonError::into_inner);
    all.iter().filter(|sample| sample.done >= from).cloned().collect()
}

/// The first time that nobody answered and that was no hand-over: it is neither short nor between two owners.
fn gap(samples: &[Sample]) -> Option<Duration> {
    for (i, sample) in samples.iter().enumerate().filter(|(_, sample)| sample.nodes.is_empty()) {
        let length = sample.done - sample.asked;
        let before = i.checked_sub(1).and_then(|i| samples.get(i));
        let passed_on = match (before, samples.get(i + 1)) {
            (Some(before), Some(after)) => before.nodes != after.nodes,
            _ => false,
        };
        if !passed_on || length > HAND_OVER {
            return Some(length);
        }
    }
    None
}

/// The lease of one node, read from its pinned map.
struct LeaseOf {
    node: String,
    pins: Pins,
    /// The open maps and the inode of the pin they came from: a daemon that is started anew makes new ones.
    maps: Option<(u64, Maps)>,
}

impl LeaseOf {
    fn new(node: &str, viplb_name: &str) -> Self {
        LeaseOf { node: node.to_owned(), pins: Pins::of(viplb_name), maps: None }
    }

    fn reopen(&mut self) {
        let inode = fs::metadata(self.pins.map(LEASES)).map(|pin| pin.ino()).ok();
        if self.maps.as_ref().map(|(inode, _)| *inode) != inode {
            self.maps = inode.and_then(|inode| Some((inode, Maps::open(&self.pins).ok()?)));
        }
    }

    /// Whether the programs act for the lab's virtual router at this moment.
    fn is_valid(&self) -> bool {
        let lease = self.maps.as_ref().and_then(|(_, maps)| maps.leases.get(&0, 0).ok());
        lease.is_some_and(|lease| lease.is_valid(BootTime::now().0))
    }
}

/// Nodes whose lease was valid in two looks. With the looks in the order a b a b, a lease seen twice was valid all the
/// time between, and so at the moment of the look at the other: two names prove two leases at once.
fn holders(nodes: &mut [LeaseOf]) -> Vec<String> {
    nodes.iter_mut().for_each(LeaseOf::reopen);
    let first: Vec<bool> = nodes.iter().map(LeaseOf::is_valid).collect();
    let again: Vec<bool> = nodes.iter().map(LeaseOf::is_valid).collect();
    let valid = first.into_iter().zip(again).map(|(first, again)| first && again);
    nodes.iter().zip(valid).filter(|(_, valid)| *valid).map(|(node, _)| node.node.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs of samples: who answered, for how many milliseconds.
    fn runs(of: &[(&[&str], u64)]) -> Vec<Sample> {
        let mut at = Instant::now();
        let mut samples = Vec::new();
        for (nodes, ms) in of {
            let done = at + Duration::from_millis(*ms);
            push(
                &mut samples,
                Sample {
                    asked: at,
                    asked_last: at,
                    done,
                    nodes: nodes.iter().map(|n| (*n).to_owned()).collect(),
                },
            );
            at = done;
        }
        samples
    }

    #[test]
    fn a_moment_without_an_answer_is_excused_only_while_ownership_passes_on() {
        let (h1, h2, none): (&[&str], &[&str], &[&str]) = (&["h1"], &["h2"], &[]);
        assert_eq!(gap(&runs(&[(h2, 1000), (none, 100), (none, 100), (h1, 1000)])), None);
        assert!(gap(&runs(&[(h2, 1000), (none, 600), (h1, 1000)])).is_some(), "too long");
        assert!(gap(&runs(&[(h2, 1000), (none, 100), (h2, 1000)])).is_some(), "the same owner");
        assert!(gap(&runs(&[(none, 100), (h1, 1000)])).is_some(), "no owner before");
        assert!(gap(&runs(&[(h1, 1000), (none, 100)])).is_some(), "no owner after");
    }

    #[test]
    fn equal_neighbours_become_one_sample_that_lasts() {
        let samples = runs(&[(&["h1"], 100), (&["h1"], 100), (&["h2"], 100)]);
        assert_eq!(samples.len(), 2);
        assert_eq!(samples[0].done - samples[0].asked, Duration::from_millis(200));
    }
}
