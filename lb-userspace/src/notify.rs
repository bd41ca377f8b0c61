//! Programs that are told of changes: one queue and one task for each router and group that has some.
//!
//! The control loop puts a [`Notice`] into a queue and never waits; runs of one router follow each other in the order of
//! its changes. A program that hangs holds up its own router's later ones only, and is killed in the end with all it
//! started. The queue is bounded: of too many changes the oldest are left out, for the last one is what counts.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::model::{Config, Notify, Program},
    program::Job,
};

/// How long one program may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Changes that wait while a program runs.
const WAITING: usize = 16;

/// Whose change it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A virtual router, by its index in the configuration.
    Router(usize),
    /// A sync group, by its index in the configuration.
    Group(usize),
}

/// States as keepalived's programs know them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not started yet; only ever the state before.
    Init,
    /// Owns the addresses.
    Master,
    /// Ready to take over.
    Backup,
    /// Can take no part.
    Fault,
    /// The daemon stops.
    Stop,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Init => "INIT",
            Self::Master => "MASTER",
            Self::Backup => "BACKUP",
            Self::Fault => "FAULT",
            Self::Stop => "STOP",
        }
    }
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Whose.
    pub subject: Subject,
    /// Its name.
    pub name: String,
    /// The state before.
    pub old: State,
    /// The state now.
    pub state: State,
    /// Effective priority.
    pub priority: u8,
    /// Why, in words.
    pub reason: String,
    /// Virtual addresses, with blanks between them.
    pub addresses: String,
}

/// The queues.
pub struct Notifier {
    queues: BTreeMap<Subject, Arc<Queue>>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: sync::Notify,
}

#[derive(Default)]
struct Waiting {
    notices: VecDeque<Notice>,
    closed: bool,
}

impl Notifier {
    /// Starts a task for each router and group that has programs. Must be called within a tokio runtime.
    pub fn spawn(config: &Config) -> Self {
        let routers = config.vrrp.iter().enumerate().map(|(i, r)| (Subject::Router(i), &r.notify));
        let groups = config.groups.iter().enumerate().map(|(i, g)| (Subject::Group(i), &g.notify));
        let all = routers.chain(groups).filter(|(_, notify)| !notify.is_empty());
        Self::start(&config.node.name, all.map(|(s, n)| (s, n.clone())), LIMIT)
    }

    fn start(node: &str, subjects: impl Iterator<Item = (Subject, Notify)>, limit: Duration) -> Self {
        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        let mut queues = BTreeMap::new();
        for (subject, notify) in subjects {
            let queue = Arc::new(Queue::default());
            queues.insert(subject, Arc::clone(&queue));
            let task = serve(queue, node.to_owned(), notify, limit);
            let cancel = cancel.clone();
            tasks.spawn(async move { cancel.run_until_cancelled_owned(task).await });
        }
        Self { queues, cancel, tasks }
    }

    /// Has the subject's programs run, later.
    pub fn tell(&self, notice: Notice) {
        let Some(queue) = self.queues.get(&notice.subject) else { return };
        let mut waiting = queue.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.notices.len() == WAITING
            && let Some(oldest) = waiting.notices.pop_front()
        {
            tracing::warn!(
                "notify {}: too many changes wait; {} is not told",
                oldest.name,
                oldest.state.word()
            );
        }
        waiting.notices.push_back(notice);
        drop(waiting);
        queue.changed.notify_one();
    }

    /// Lets what waits be run for at most `patience`, then kills what still runs.
    pub async fn finish(self, patience: Duration) {
        for queue in self.queues.values() {
            queue.waiting.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
            queue.changed.notify_one();
        }
        self.tasks.close();
        if timeout(patience, self.tasks.wait()).await.is_err() {
            tracing::warn!("notify: programs that still run after {patience:?} are killed");
            self.cancel.cancel();
            self.tasks.wait().await;
        }
    }
}

impl Queue {
    /// The next notice; `None` when there will be no more.
    async fn next(&self) -> Option<Notice> {
        loop {
            {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(notice) = waiting.notices.pop_front() {
                    return Some(notice);
                }
                if waiting.closed {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }
}

async fn serve(queue: Arc<Queue>, node: String, notify: Notify, limit: Duration) {
    while let Some(notice) = queue.next().await {
        let own = match notice.state {
            State::Master => &notify.master,
            State::Backup => &notify.backup,
            State::Fault => &notify.fault,
            State::Stop => &notify.stop,
            State::Init => &None,
        };
        if let Some(program) = own {
            run(program, &[], &node, &notice, limit).await;
        }
        if let Some(program) = &notify.any {
            let kind = match notice.subject {
                Subject::Router(_) => "INSTANCE",
                Subject::Group(_) => "GROUP",
            };
            let priority = notice.priority.to_string();
            let words = [kind, &notice.name, notice.state.word(), &priority];
            run(program, &words, &node, &notice, limit).await;
        }
    }
}

async fn run(program: &Program, words: &[&str], node: &str, notice: &Notice, limit: Duration) {
    let environment = [
        ("VIPLB_NODE", node.to_owned()),
        ("VIPLB_ROUTER", notice.name.clone()),
        ("VIPLB_STATE", notice.state.word().to_owned()),
        ("VIPLB_OLD_STATE", notice.old.word().to_owned()),
        ("VIPLB_PRIORITY", notice.priority.to_string()),
        ("VIPLB_REASON", notice.reason.clone()),
        ("VIPLB_ADDRESSES", notice.addresses.clone()),
    ];
    let failed = match Job::start(program, words.iter().copied(), &environment) {
        Err(failure) => Some(failure.to_string()),
        Ok(mut job) => tokio::select! {
            ended = job.wait() => ended.err().map(|failure| failure.to_string()),
            () = sleep(limit) => {
                job.kill();
                Some(format!("killed after {limit:?}"))
            }
        },
    };
    if let Some(why) = failed {
        let state = notice.state.word();
        tracing::warn!("notify {}: {} for {state}: {why}", notice.name, program.path.display());
    }
}

#[cfg(test)]
mod tests;
