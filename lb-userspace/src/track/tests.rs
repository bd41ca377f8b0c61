use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::timeout,
};

use super::*;
use crate::config::model::{FileValue, Program, Script};
use crate::program::testing;

/// A directory of a test's own, which goes with it.
struct Dir(PathBuf);

impl Dir {
    fn new(test: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("viplb-track-{}-{test}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn script(&self, lines: &str) -> Script {
        let path = self.0.join("script");
        testing::script(&path, lines, 0o755);
        Script {
            program: Program { path, args: Vec::new(), user: None },
            interval: Duration::from_millis(100),
            timeout: Duration::from_secs(10),
            rise: 1,
            fall: 1,
            init: true,
        }
    }

    /// Renamed over, so that nobody ever reads half of it.
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let (new, path) = (self.0.join("new"), self.0.join(name));
        fs::write(&new, text).unwrap();
        fs::rename(new, &path).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// One tracker, running until the token's end.
fn start(kind: TrackKind) -> (UnboundedReceiver<Event>, tokio_util::sync::DropGuard) {
    let (sender, events) = unbounded_channel();
    let cancel = CancellationToken::new();
    let track = Track { name: "t".into(), kind };
    spawn(&[track], &sender, &cancel, &TaskTracker::new()).unwrap();
    (events, cancel.drop_guard())
}

async fn next(events: &mut UnboundedReceiver<Event>) -> (Reading, String) {
    let event = timeout(Duration::from_secs(30), events.recv()).await.expect("an event").expect("a task");
    (event.reading, event.cause)
}

fn words(reading: Reading, cause: &str) -> (Reading, String) {
    (reading, cause.to_owned())
}

#[tokio::test]
async fn a_script_is_as_good_as_its_exit_status() {
    let dir = Dir::new("status");
    let flag = dir.0.join("flag");
    let (mut events, _guard) =
        start(TrackKind::Script(dir.script(&format!("test -e {} || exit 7", flag.display()))));
    assert_eq!(next(&mut events).await, words(Reading::Bad, "exit status 7"));
    dir.write("flag", "");
    assert_eq!(next(&mut events).await, words(Reading::Good, ""));
    fs::remove_file(flag).unwrap();
    assert_eq!(next(&mut events).await, words(Reading::Bad, "exit status 7"));
}

#[tokio::test]
async fn a_script_that_fails_is_bad_only_after_as_many_failures_as_are_set() {
    let dir = Dir::new("fall");
    let script =
        Script { fall: 3, rise: 2, ..dir.script("echo x >> ${0%/*}/runs; test $(wc -l < ${0%/*}/runs) = 1") };
    let (mut events, _guard) = start(TrackKind::Script(script));
    assert_eq!(next(&mut events).await, words(Reading::Good, ""));
    assert_eq!(next(&mut events).await, words(Reading::Good, "exit status 1"));
    assert_eq!(next(&mut events).await, words(Reading::Bad, "exit status 1"));
    let runs = fs::read_to_string(dir.0.join("runs")).unwrap().lines().count();
    assert!(runs >= 4, "one pass and three failures, not {runs} runs");
}

#[tokio::test]
async fn a_script_that_hangs_has_failed_and_is_gone_with_its_children() {
    let dir = Dir::new("hang");
    let script = Script {
        timeout: Duration::from_millis(100),
        ..dir.script("sleep 1000 & echo $! >> ${0%/*}/pids; wait")
    };
    let (mut events, guard) = start(TrackKind::Script(script));
    assert_eq!(next(&mut events).await, words(Reading::Bad, "no end within 100ms"));
    drop(guard);
    let text = fs::read_to_string(dir.0.join("pids")).unwrap_or_default();
    for pid in text.lines() {
        let state = || fs::read_to_string(format!("/proc/{pid}/stat")).ok();
        let runs = || state().is_some_and(|s| s.rsplit_once(") ").is_some_and(|(_, s)| !s.starts_with('Z')));
        let ended = async {
            while runs() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(30), ended).await.expect("its child is ended");
    }
}

#[tokio::test]
async fn a_script_that_is_made_world_writable_is_not_run_again() {
    let dir = Dir::new("open");
    let script = dir.script("exit 0");
    let path = script.program.path.clone();
    let (mut events, _guard) = start(TrackKind::Script(script));
    assert_eq!(next(&mut events).await, words(Reading::Good, ""));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o757)).unwrap();
    let (reading, cause) = next(&mut events).await;
    assert_eq!(reading, Reading::Bad);
    assert!(cause.contains("can be changed by every user"), "{cause}");
}

#[tokio::test]
async fn the_value_of_a_file_is_followed_and_kept_while_it_is_no_integer() {
    let dir = Dir::new("value");
    let path: &Path = &dir.0.join("value");
    let (mut events, _guard) =
        start(TrackKind::File(FileValue { path: path.into(), interval: Duration::from_millis(100) }));
    assert_eq!(next(&mut events).await, words(Reading::Value(0), "there is no such file"));
    dir.write("value", "-20\n");
    assert_eq!(next(&mut events).await, words(Reading::Value(-20), ""));
    dir.write("value", "soon\n");
    assert_eq!(next(&mut events).await, words(Reading::Value(-20), "does not hold an integer"));
    fs::remove_file(path).unwrap();
    assert_eq!(next(&mut events).await, words(Reading::Value(0), "there is no such file"));
}

#[tokio::test]
async fn an_interface_that_does_not_exist_is_bad_and_a_process_that_runs_is_good() {
    let (mut events, _guard) = start(TrackKind::Interface("no-such-if".into()));
    assert_eq!(next(&mut events).await, words(Reading::Bad, "there is no interface no-such-if"));
    let own = fs::read_to_string("/proc/self/comm").unwrap().trim().to_owned();
    let process = crate::config::model::Process {
        name: own,
        arguments: Vec::new(),
        quorum: 10_000,
        delay: Duration::ZERO,
    };
    let (mut events, _guard) = start(TrackKind::Process(process));
    let (reading, cause) = next(&mut events).await;
    assert_eq!(reading, Reading::Bad);
    assert!(cause.ends_with(" of 10000 run"), "{cause}");
}
