//! Which check tasks run: one for each backend, known by the backend's number. A new configuration stops and starts those alone
//! that it changes.
//!
//! The control loop owns it. What a task says that was stopped meanwhile is nobody's word any more.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use tokio::sync::{Notify, mpsc::UnboundedSender};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Event, State, task};
use crate::config::model::{Backend, Service};

/// A check task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    /// The number of its backend.
    pub number: u32,
    /// Never the same of two tasks.
    pub serial: u64,
}

struct Running {
    task: Task,
    cancel: CancellationToken,
    nudge: Arc<Notify>,
}

/// The running checks.
pub struct Checks {
    events: UnboundedSender<(Task, Event)>,
    /// Told of checks whose answers are overdue.
    silences: UnboundedSender<Task>,
    cancel: CancellationToken,
    tasks: TaskTracker,
    seeds: RandomState,
    serials: u64,
    running: BTreeMap<u32, Running>,
}

impl Checks {
    /// None yet. They end with `cancel`.
    ///
    /// The channels are unbounded because a check interval bounds the rate: at most ten events a second and backend.
    pub fn new(
        (events, silences): (UnboundedSender<(Task, Event)>, UnboundedSender<Task>),
        cancel: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        Self {
            events,
            silences,
            cancel: cancel.clone(),
            tasks: tasks.clone(),
            seeds: RandomState::new(),
            serials: 0,
            running: BTreeMap::new(),
        }
    }

    /// Checks the backend with this number from `after` on, as one that is in `state`; whatever checked it before ends. Must be
    /// called within a tokio runtime.
    pub fn start(
        &mut self,
        number: u32,
        (service, backend): (&Service, &Backend),
        state: State,
        after: Duration,
    ) {
        self.stop(number);
        self.serials += 1;
        let (task, cancel) = (Task { number, serial: self.serials }, self.cancel.child_token());
        let nudge = Arc::new(Notify::new());
        self.running.insert(number, Running { task, cancel: cancel.clone(), nudge: nudge.clone() });
        let events = self.events.clone();
        let seed = self.seeds.hash_one(task.serial);
        let report = move |e| events.send((task, e)).is_ok();
        let silences = self.silences.clone();
        let overdue = move || {
            // Nobody listens any more once the daemon ends.
            let _ = silences.send(task);
        };
        let checking = task::check((service, backend), seed, state, (after, nudge), (report, overdue));
        self.tasks.spawn(async move { cancel.run_until_cancelled_owned(checking).await });
    }

    /// Checks that backend no more.
    pub fn stop(&mut self, number: u32) {
        if let Some(running) = self.running.remove(&number) {
            running.cancel.cancel();
        }
    }

    /// Has the next check of that backend made now, and those after it soon.
    pub fn ask(&self, number: u32) {
        if let Some(running) = self.running.get(&number) {
            running.nudge.notify_one();
        }
    }

    /// The number of the backend that a task speaks for, if it is still the one that does.
    pub fn speaks_for(&self, task: Task) -> Option<u32> {
        self.running.get(&task.number).filter(|running| running.task == task).map(|_| task.number)
    }
}
