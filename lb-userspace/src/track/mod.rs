//! Trackers: what besides adverts decides whether this node should own the addresses.
//!
//! [`state`] says what readings mean (pure); the tasks here watch: `link` the carriers, `script` a program, `process` the
//! processes of this host, `file` a value, `peer` another node's packet programs. The control loop starts them with
//! [`spawn`], adds what it knows itself (backends), and hands priorities to the election. Every task has a deadline on
//! whatever it waits for, and tells only what changed.

pub mod state;

mod file;
mod link;
mod peer;
mod process;
mod script;

use std::future::Future;

use anyhow::Result;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::config::model::{Track, TrackKind};
pub use state::Reading;

/// What a tracker says now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Index into [`Config::tracks`](crate::config::model::Config::tracks).
    pub track: usize,
    /// What it says.
    pub reading: Reading,
    /// Why, in words; empty where the reading says all.
    pub cause: String,
}

/// Tells what changed; the first word of each tracker in any case.
struct Voice {
    track: usize,
    events: UnboundedSender<Event>,
    said: Option<(Reading, String)>,
}

impl Voice {
    /// Whether anybody listens.
    fn say(&mut self, reading: impl Into<Reading>, cause: impl Into<String>) -> bool {
        let now = (reading.into(), cause.into());
        if self.said.as_ref() == Some(&now) {
            return !self.events.is_closed();
        }
        let (reading, cause) = now.clone();
        self.said = Some(now);
        self.events.send(Event { track: self.track, reading, cause }).is_ok()
    }
}

/// Starts all trackers that watch something themselves. Must be called within a tokio runtime, in the network namespace
/// of the interfaces. The channel is unbounded because the trackers' intervals bound its rate.
pub fn spawn(
    tracks: &[Track],
    events: &UnboundedSender<Event>,
    cancel: &CancellationToken,
    tasks: &TaskTracker,
) -> Result<()> {
    let (mut links, mut processes) = (Vec::new(), Vec::new());
    for (track, Track { kind, .. }) in tracks.iter().enumerate() {
        let voice = Voice { track, events: events.clone(), said: None };
        match kind.clone() {
            TrackKind::Interface(name) => links.push((name, voice)),
            TrackKind::Process(process) => processes.push(process::Watched::new(process, voice)),
            TrackKind::Script(script) => run(script::watch(script, voice), cancel, tasks),
            TrackKind::File(file) => run(file::watch(file, voice), cancel, tasks),
            TrackKind::Peer(peer) => run(peer::watch(peer::Socket::open(&peer)?, peer, voice), cancel, tasks),
            TrackKind::Backends(_) => {}
        }
    }
    if !links.is_empty() {
        run(link::watch(links), cancel, tasks);
    }
    if !processes.is_empty() {
        run(process::watch(processes), cancel, tasks);
    }
    Ok(())
}

/// A task that ends with `cancel`, wherever it is.
fn run(task: impl Future<Output = ()> + Send + 'static, cancel: &CancellationToken, tasks: &TaskTracker) {
    let cancel = cancel.clone();
    tasks.spawn(async move {
        cancel.run_until_cancelled_owned(task).await;
    });
}

/// Whether a tracker has its first word within moments of its start, so that the election can wait for it.
pub fn is_prompt(kind: &TrackKind) -> bool {
    matches!(kind, TrackKind::Interface(_) | TrackKind::Process(_) | TrackKind::File(_))
}

#[cfg(test)]
mod tests;
