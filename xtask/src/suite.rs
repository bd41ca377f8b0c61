//! Runs one `cargo test` call: streams and keeps its output, ends it when it hangs, and ends what it leaves.
//!
//! The call gets a process group of its own and no standard input. Called by [`crate::test`] for one suite
//! after the other; it never ends a process that it did not start.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::libtest::{Reader, Tally};
use crate::process;

/// How often the end of a suite and Ctrl-C are looked for.
const POLL_MS: u64 = 50;
/// How long a suite has to clean up after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// One `cargo test` call.
#[derive(Debug)]
pub struct Suite {
    /// Its name in the summary and of its log.
    pub name: String,
    /// The call.
    pub command: Command,
    /// Where its output is kept.
    pub log: PathBuf,
    /// When it is taken for hanging.
    pub limit: Duration,
    /// Whether its output is shown as it comes.
    pub echo: bool,
}

/// How a suite went.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What its tests said.
    pub tally: Tally,
    /// How long it took.
    pub took: Duration,
    /// Processes it left behind, which were ended.
    pub leftovers: Vec<String>,
    /// It was ended from outside, so it could not clean up.
    pub ended: bool,
}

/// Where the output goes; both pipes of the child write here, line by line.
struct Sink {
    log: File,
    reader: Reader,
}

impl Suite {
    /// Runs it to its end, or to its limit, or to Ctrl-C.
    pub fn run(mut self) -> Result<Outcome> {
        let log = File::create(&self.log).with_context(|| format!("cannot write {}", self.log.display()))?;
        let sink = Arc::new(Mutex::new(Sink { log, reader: Reader::default() }));
        let before = process::children()?;
        let started = Instant::now();
        let mut child = self
            .command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{}`", process::describe(&self.command)))?;
        let readers = [
            child.stdout.take().map(|pipe| follow(pipe, self.echo.then(io::stdout), Arc::clone(&sink))),
            child.stderr.take().map(|pipe| follow(pipe, self.echo.then(io::stderr), Arc::clone(&sink))),
        ];
        let verdict = wait(&mut child, started, self.limit)?;
        // Whoever still lives holds our pipes open, so they go first.
        let leftovers = process::end_new_children(&before)?;
        readers.into_iter().flatten().for_each(|reader| drop(reader.join()));

        let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reader = std::mem::take(&mut sink.reader);
        if let Some(reason) = verdict.reason(self.limit, reader.tally()) {
            reader.fail(reason);
        }
        Ok(Outcome {
            tally: reader.finish(verdict == Verdict::Passed),
            took: started.elapsed(),
            leftovers: leftovers.into_iter().map(|child| format!("{} ({})", child.name, child.pid)).collect(),
            ended: matches!(verdict, Verdict::TimedOut | Verdict::Interrupted),
        })
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
    TimedOut,
    Interrupted,
}

impl Verdict {
    fn reason(&self, limit: Duration, tally: &Tally) -> Option<String> {
        match self {
            Self::Passed | Self::Failed => None,
            Self::Interrupted => Some("interrupted".to_owned()),
            Self::TimedOut if tally.slow.is_empty() => Some(format!("no end after {} s", limit.as_secs())),
            Self::TimedOut => {
                Some(format!("no end after {} s; slow: {}", limit.as_secs(), tally.slow.join(", ")))
            }
        }
    }
}

fn wait(child: &mut Child, started: Instant, limit: Duration) -> io::Result<Verdict> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(if status.success() { Verdict::Passed } else { Verdict::Failed });
        }
        let timed_out = started.elapsed() > limit;
        if timed_out || process::interrupted() {
            end_group(child)?;
            return Ok(if timed_out { Verdict::TimedOut } else { Verdict::Interrupted });
        }
        thread::sleep(Duration::from_millis(POLL_MS));
    }
}

/// Asks the whole group to end, then makes it.
fn end_group(child: &mut Child) -> io::Result<()> {
    process::signal_group(child.id(), libc::SIGTERM);
    let asked = Instant::now();
    while child.try_wait()?.is_none() {
        if asked.elapsed() > GRACE {
            process::signal_group(child.id(), libc::SIGKILL);
            child.wait()?;
            break;
        }
        thread::sleep(Duration::from_millis(POLL_MS));
    }
    Ok(())
}

fn follow(
    pipe: impl Read + Send + 'static,
    mut terminal: Option<impl Write + Send + 'static>,
    sink: Arc<Mutex<Sink>>,
) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
            // A full disk or a closed terminal must not fail the tests.
            if let Some(terminal) = &mut terminal {
                let _ = terminal.write_all(&line).and_then(|()| terminal.flush());
            }
            let _ = sink.log.write_all(&line);
            sink.reader.line(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']));
            line.clear();
        }
    })
}

/// An empty folder for the logs of one run.
pub fn fresh_log_dir(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("cannot empty {}", dir.display()))?;
    }
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A suite ends all of this process's children that it does not know: one at a time, then.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    fn shell(name: &str, script: &str, limit: Duration) -> Outcome {
        let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        process::adopt_orphans();
        let log = std::env::temp_dir().join(format!("viplb-suite-{name}-{}", std::process::id()));
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        // Not shown: whoever reads the output of these tests would count its lines as theirs.
        let suite = Suite { name: name.to_owned(), command, log: log.clone(), limit, echo: false };
        let outcome = suite.run().unwrap();
        fs::remove_file(log).unwrap();
        outcome
    }

    const RESULT: &str = "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";

    #[test]
    fn a_suite_is_counted_from_what_it_prints() {
        let outcome =
            shell("ok", &format!("echo 'running 1 test'; echo '{RESULT}'"), Duration::from_secs(60));
        assert_eq!((outcome.tally.passed, outcome.tally.failed, outcome.ended), (1, 0, false));
    }

    #[test]
    fn a_suite_without_end_is_ended_at_its_limit_and_fails() {
        let outcome = shell("hang", "echo 'running 1 test'; sleep 1000", Duration::from_millis(300));
        assert_eq!((outcome.tally.failed, outcome.ended), (1, true));
        assert_eq!(outcome.tally.failures, ["no end after 0 s"]);
        assert!(outcome.took < Duration::from_secs(60));
    }

    #[test]
    fn an_exit_code_without_a_failed_test_is_a_failure() {
        assert_eq!(
            shell("exit", &format!("echo '{RESULT}'; exit 101"), Duration::from_secs(60)).tally.failed,
            1
        );
    }

    #[test]
    fn a_process_left_behind_is_ended_and_named() {
        let outcome =
            shell("orphan", &format!("setsid sleep 1000 & echo '{RESULT}'"), Duration::from_secs(60));
        assert_eq!(outcome.tally.passed, 1);
        assert_eq!(outcome.leftovers.len(), 1);
        let pid = outcome.leftovers[0].rsplit(['(', ')']).nth(1).unwrap();
        assert!(!Path::new("/proc").join(pid).exists(), "{pid} still runs");
    }
}
