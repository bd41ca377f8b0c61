//! The `script` check: a program that exits with 0.
//!
//! `task` calls [`check`]. The program is started without a shell, in a process group of its own, as the configured
//! user; service, backend, address and port are in its environment. When its time is over, or the daemon stops, the
//! whole group is killed. What it writes is read up to a limit, and its last line shown.

use std::{net::SocketAddr, os::unix::process::ExitStatusExt, process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::AsyncReadExt,
    process::{Child, ChildStdout, Command},
    time::{Instant, timeout, timeout_at},
};

use super::{Failure, Outcome, Step, failure::printable};
use crate::config::model::ScriptCheck;

/// Whom a script is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Name of the service.
    pub service: String,
    /// Name of the backend.
    pub backend: String,
    /// Its address, or that of the check.
    pub addr: SocketAddr,
}

/// Runs the program within `limit`.
pub async fn check(subject: &Subject, check: &ScriptCheck, limit: Duration) -> Outcome {
    let start = Instant::now();
    let (child, stdout) = match start_program(subject, check) {
        Ok(started) => started,
        Err(e) => {
            let why = printable(crate::config::os_reason(&e).as_str());
            return Err(Failure::NotStarted(why)).into();
        }
    };
    let mut group = Group(child);
    let mut said = Tail::default();
    let ended = timeout_at(start + limit, watch(&mut group.0, stdout, &mut said)).await;
    let output = said.last_line();
    let result = match ended {
        Err(_) => Err(Failure::Timeout { step: Step::End, limit }),
        Ok(Err(e)) => Err(Failure::NotStarted(printable(&e.to_string()))),
        Ok(Ok(status)) if status.success() => Ok(start.elapsed()),
        Ok(Ok(status)) => {
            let how = match (status.code(), status.signal()) {
                (Some(code), _) => format!("exit code {code}"),
                (None, signal) => format!("ended by signal {}", signal.unwrap_or_default()),
            };
            Err(Failure::Exit { how, output: output.clone() })
        }
    };
    Outcome { output, ..result.into() }
}

fn start_program(subject: &Subject, check: &ScriptCheck) -> std::io::Result<(Child, ChildStdout)> {
    let mut words = check.command.iter();
    let mut command = Command::new(words.next().map_or("", String::as_str));
    command
        .args(words)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("VIPLB_SERVICE", &subject.service)
        .env("VIPLB_BACKEND", &subject.backend)
        .env("VIPLB_ADDRESS", subject.addr.ip().to_string())
        .env("VIPLB_PORT", subject.addr.port().to_string())
        .current_dir("/")
        .process_group(0)
        .kill_on_drop(true)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if let Some((_, uid, gid)) = &check.user {
        // Supplementary groups are dropped with it.
        command.uid(*uid).gid(*gid);
    }
    let mut child = command.spawn()?;
    let stdout = child.stdout.take().ok_or_else(|| std::io::Error::other("no pipe"))?;
    Ok((child, stdout))
}

/// Reads what the program writes until it ends, also when a child that it left behind holds its output open.
async fn watch(
    child: &mut Child,
    mut stdout: ChildStdout,
    said: &mut Tail,
) -> std::io::Result<std::process::ExitStatus> {
    let mut chunk = [0; 1024];
    let mut open = true;
    let status = loop {
        tokio::select! {
            biased;
            status = child.wait() => break status?,
            read = stdout.read(&mut chunk), if open => match read {
                Ok(0) | Err(_) => open = false,
                Ok(n) => said.take(&chunk[..n]),
            },
        }
    };
    // What it wrote last is in the pipe already.
    while open && let Ok(Ok(n)) = timeout(DRAIN, stdout.read(&mut chunk)).await {
        said.take(&chunk[..n]);
        open = n > 0;
    }
    Ok(status)
}

/// A program with all that it started; killed when dropped.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // Gone and reaped: its number may be another's by now, and what it left behind is its own affair.
        let Some(pid) = self.0.id().and_then(|id| i32::try_from(id).ok()) else { return };
        // It fails when the group has ended by itself.
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// The end of what was written.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    fn take(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        let surplus = self.0.len().saturating_sub(MOST_BYTES);
        self.0.drain(..surplus);
    }

    fn last_line(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        printable(text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default())
    }
}

/// Enough for a line.
const MOST_BYTES: usize = 4096;
/// Waiting for what is in the pipe.
const DRAIN: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(script: &str, limit_ms: u64) -> Outcome {
        let subject =
            Subject { service: "db".into(), backend: "db1".into(), addr: "172.18.0.2:3306".parse().unwrap() };
        let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        check(&subject, &ScriptCheck { command, user: None }, Duration::from_millis(limit_ms)).await
    }

    const LONG_MS: u64 = 20_000;

    #[tokio::test]
    async fn the_exit_code_decides_and_the_last_line_is_shown() {
        let good =
            run("echo first; echo \"$VIPLB_SERVICE $VIPLB_BACKEND $VIPLB_ADDRESS $VIPLB_PORT\"", LONG_MS)
                .await;
        assert!(good.result.is_ok());
        assert_eq!(good.output, "db db1 172.18.0.2 3306");
        let bad = run("printf 'lag is 17 s\\n\\n'; exit 3", LONG_MS).await.result.unwrap_err();
        assert_eq!(bad.to_string(), "exit code 3: lag is 17 s");
        assert_eq!(run("kill -9 $$", LONG_MS).await.result.unwrap_err().to_string(), "ended by signal 9");
    }

    #[tokio::test]
    async fn it_runs_as_the_configured_user_without_the_daemons_groups_and_environment() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("not run: needs root");
            return;
        }
        let nobody = nix::unistd::User::from_name("nobody").unwrap().expect("every Linux has it");
        let (uid, gid) = (nobody.uid.as_raw(), nobody.gid.as_raw());
        let words = "echo \"$(id -u) $(id -G) ${CARGO_PKG_NAME:-none}\"";
        let command = ["/bin/sh", "-c", words].map(str::to_owned).to_vec();
        let subject =
            Subject { service: String::new(), backend: String::new(), addr: ([127, 0, 0, 1], 1).into() };
        let script = ScriptCheck { command, user: Some(("nobody".into(), uid, gid)) };
        let outcome = check(&subject, &script, Duration::from_millis(LONG_MS)).await;
        assert_eq!(outcome.output, format!("{uid} {gid} none"));
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_says_so() {
        let subject =
            Subject { service: String::new(), backend: String::new(), addr: ([127, 0, 0, 1], 1).into() };
        let check = ScriptCheck { command: vec!["/nonexistent/check".into()], user: None };
        let failed = super::check(&subject, &check, Duration::from_secs(1)).await.result.unwrap_err();
        assert_eq!(failed.to_string(), "cannot be run: No such file or directory");
    }

    #[tokio::test]
    async fn when_its_time_is_over_the_whole_group_is_killed() {
        let dir = std::env::temp_dir().join(format!("viplb-script-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
        let failed = run(&script, 300).await.result.unwrap_err();
        assert!(matches!(failed, Failure::Timeout { step: Step::End, .. }), "{failed:?}");
        let pid: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        // A killed orphan may stay a zombie until whoever adopts it looks.
        let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let alive = || state().rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'));
        while alive() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[tokio::test]
    async fn a_child_left_behind_with_the_output_open_delays_nothing_and_endless_output_is_cut() {
        let left = run("sleep 2 & echo done", 1_500).await;
        assert!(left.result.is_ok(), "{left:?}");
        assert_eq!(left.output, "done");
        let endless = run("yes endless | head -c 1000000; echo; echo end", LONG_MS).await;
        assert_eq!(endless.output, "end");
    }
}
