//! How many processes of a name run on this host.
//!
//! One look at /proc a second for all trackers of the type: each process's `stat` is read once, and the command line
//! only of those whose name fits. The look is made on a thread that may block.

use std::{
    fs,
    time::{Duration, Instant},
};

use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};

use super::{
    Voice,
    state::{Lasting, Quorum},
};
use crate::config::model::Process;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// What the kernel keeps of a name (TASK_COMM_LEN without the NUL).
const COMM_LEN: usize = 15;

/// A tracker.
pub(super) struct Watched {
    process: Process,
    quorum: Quorum,
    lasting: Lasting,
    voice: Voice,
}

impl Watched {
    pub(super) fn new(process: Process, voice: Voice) -> Self {
        let (quorum, lasting) = (Quorum::new(process.quorum, 0), Lasting::new(process.delay));
        Self { process, quorum, lasting, voice }
    }

    fn judge(&mut self, now: Instant, count: u32) {
        let good = self.lasting.take(now, self.quorum.take(count));
        let enough = format!("{count} of {} run", self.process.quorum);
        self.voice.say(good, if good && count >= self.process.quorum { String::new() } else { enough });
    }
}

pub(super) async fn watch(mut trackers: Vec<Watched>) {
    let mut due = interval(LOOK);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let wanted: Vec<Process> = trackers.iter().map(|t| t.process.clone()).collect();
    loop {
        due.tick().await;
        let wanted = wanted.clone();
        let counted = spawn_blocking(move || count(&wanted)).await;
        let now = Instant::now();
        // A look that failed has seen nothing, which is not the same as seeing nobody.
        let Ok(Some(counts)) = counted else { continue };
        for (tracker, count) in trackers.iter_mut().zip(counts) {
            tracker.judge(now, count);
        }
    }
}

/// How many processes fit each of `wanted`; `None` when /proc cannot be listed.
fn count(wanted: &[Process]) -> Option<Vec<u32>> {
    let mut counts = vec![0; wanted.len()];
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|b| b.is_ascii_digit())) else {
            continue;
        };
        // It may have ended since it was listed.
        let Ok(stat) = fs::read(format!("/proc/{pid}/stat")) else { continue };
        let Some(comm) = living(&stat) else { continue };
        let mut words = None;
        for (process, count) in wanted.iter().zip(&mut counts) {
            let short = process.name.as_bytes();
            if &short[..short.len().min(COMM_LEN)] != comm {
                continue;
            }
            let words = words.get_or_insert_with(|| command_line(pid));
            *count += u32::from(fits(process, words));
        }
    }
    Some(counts)
}

/// The name in a `stat`, unless the process has ended and only waits to be reaped.
fn living(stat: &[u8]) -> Option<&[u8]> {
    let (open, close) = (stat.iter().position(|b| *b == b'(')?, stat.iter().rposition(|b| *b == b')')?);
    let state = stat.get(close + 2)?;
    if matches!(state, b'Z' | b'X') { None } else { stat.get(open + 1..close) }
}

fn command_line(pid: &str) -> Vec<String> {
    let text = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = text.strip_suffix(b"\0").unwrap_or(&text).split(|b| *b == 0);
    words.map(|w| String::from_utf8_lossy(w).into_owned()).collect()
}

/// Whether a process whose short name fits is the one that is meant.
fn fits(process: &Process, words: &[String]) -> bool {
    let program = words.first().map(String::as_str).unwrap_or_default();
    let long = process.name.len() > COMM_LEN;
    // A longer name is only in the command line; there a script's stands behind its interpreter's.
    let named = |word: &str| word.rsplit('/').next() == Some(&process.name);
    if long && !words.iter().take(2).any(|word| named(word)) {
        return false;
    }
    let script = !named(program) && words.get(1).is_some_and(|word| named(word));
    let arguments = words.get(1 + usize::from(script)..).unwrap_or_default();
    arguments.starts_with(&process.arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(name: &str, arguments: &[&str]) -> Process {
        Process {
            name: name.into(),
            arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
            quorum: 1,
            delay: Duration::ZERO,
        }
    }

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn names_are_taken_apart_as_the_kernel_writes_them() {
        assert_eq!(living(b"7 (mariadbd) S 1 7"), Some(&b"mariadbd"[..]));
        assert_eq!(living(b"7 (a) (b) R 1"), Some(&b"a) (b"[..]), "a name may hold anything");
        assert_eq!(living(b"7 (mariadbd) Z 1"), None, "a zombie does not run");
        assert_eq!(living(b"7 mariadbd"), None);
    }

    #[test]
    fn arguments_and_long_names_are_compared_with_the_command_line() {
        for (wanted, line, expected) in [
            (process("mariadbd", &[]), "/usr/sbin/mariadbd --a", true),
            (process("mariadbd", &["--a"]), "/usr/sbin/mariadbd --a --b", true),
            (process("mariadbd", &["--b"]), "/usr/sbin/mariadbd --a --b", false),
            (process("mariadbd", &["--a", "--b"]), "/usr/sbin/mariadbd --a", false),
            (process("check.sh", &["x"]), "/bin/sh /usr/bin/check.sh x", true),
            (process("a-name-longer-than-15", &[]), "/usr/bin/a-name-longer-than-15", true),
            (process("a-name-longer-than-15", &[]), "/bin/sh ./a-name-longer-than-15", true),
            (process("a-name-longer-than-15", &[]), "/usr/bin/a-name-longer-t", false),
        ] {
            assert_eq!(fits(&wanted, &words(line)), expected, "{line}");
        }
    }

    #[test]
    fn living_processes_of_this_host_are_counted() {
        let mut child = std::process::Command::new("sleep").arg("86399").spawn().unwrap();
        let wanted = [process("sleep", &["86399"]), process("sleep", &["86398"])];
        let deadline = Instant::now() + Duration::from_secs(30);
        // Between fork and exec it has another name.
        while count(&wanted).unwrap() != [1, 0] {
            assert!(Instant::now() < deadline, "{:?}", count(&wanted));
        }
        child.kill().unwrap();
        // Ended, not reaped: the zombie is not counted.
        while count(&wanted).unwrap() != [0, 0] {
            assert!(Instant::now() < deadline, "{:?}", count(&wanted));
        }
        child.wait().unwrap();
    }
}
