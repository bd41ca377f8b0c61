//! Programs of the operator's that the daemon runs: which are safe to run, and one run of one.
//!
//! `config` asks [`check`] about every program that a file names, `track` and `notify` start [`Job`]s. A job has no shell,
//! a process group of its own that is killed as a whole, an environment of its own, and no input or output. Nothing here
//! waits without being asked to.

use std::{
    fmt, fs, io,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::ExitStatusExt,
    },
    path::Path,
    process::{ExitStatus, Stdio},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::{Pid, User},
};
use tokio::process::{Child, Command};

use crate::config::model::{Program, RunAs};

/// Why a program is not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It is not there, or cannot be looked at.
    #[error("cannot look at `{path}`: {reason}")]
    Unreadable {
        /// What.
        path: String,
        /// The system's words.
        reason: String,
    },
    /// It is something else than a program.
    #[error("`{0}` is not a file that can be executed")]
    NotExecutable(String),
    /// Anybody could put another program in its place.
    #[error("`{0}` can be changed by every user of this host")]
    WorldWritable(String),
}

impl Unfit {
    /// What to do about it.
    pub fn help(&self) -> String {
        match self {
            Self::Unreadable { .. } => "write the whole path of a program that is there".into(),
            Self::NotExecutable(path) => format!("run `chmod 755 {path}`, or name another"),
            Self::WorldWritable(path) => {
                format!("run `chmod o-w {path}`: the daemon would run anybody's program")
            }
        }
    }
}

/// Whether a program may be run: a file with an execute bit that not everybody can change, in directories that not
/// everybody can change (a sticky one, as /tmp, keeps strangers from replacing what is others').
pub fn check(path: &Path) -> Result<(), Unfit> {
    let name = |path: &Path| path.display().to_string();
    // Of links, what they lead to and every directory on the way there counts.
    let real =
        fs::canonicalize(path).map_err(|e| Unfit::Unreadable { path: name(path), reason: reason(&e) })?;
    let metadata = look(&real)?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return Err(Unfit::NotExecutable(name(path)));
    }
    if metadata.mode() & 0o002 != 0 {
        return Err(Unfit::WorldWritable(name(path)));
    }
    for directory in real.ancestors().skip(1) {
        if look(directory)?.mode() & 0o1002 == 0o002 {
            return Err(Unfit::WorldWritable(name(directory)));
        }
    }
    Ok(())
}

fn look(path: &Path) -> Result<fs::Metadata, Unfit> {
    fs::metadata(path).map_err(|e| Unfit::Unreadable { path: path.display().to_string(), reason: reason(&e) })
}

/// The system's words for an error, without Rust's `(os error 2)`.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// A user of this system by its name.
pub fn find_user(name: &str) -> Option<RunAs> {
    let user = User::from_name(name).ok()??;
    Some(RunAs { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() })
}

/// Why a run did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It was not started.
    NotStarted(String),
    /// It ended with this status.
    Status(i32),
    /// A signal ended it.
    Signal(i32),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStarted(why) => write!(f, "cannot be run: {why}"),
            Self::Status(status) => write!(f, "exit status {status}"),
            Self::Signal(signal) => write!(f, "ended by signal {signal}"),
        }
    }
}

/// A running program. When it is dropped, its process group is killed.
#[derive(Debug)]
pub struct Job {
    child: Child,
    /// Its process group, as long as the leader is not reaped: until then the number cannot be another's.
    group: Option<Pid>,
}

impl Job {
    /// Starts `program` with further arguments and these variables as its environment, besides PATH.
    pub fn start<'a>(
        program: &Program,
        more: impl IntoIterator<Item = &'a str>,
        environment: &[(&'static str, String)],
    ) -> Result<Self, Failure> {
        check(&program.path).map_err(|unfit| Failure::NotStarted(unfit.to_string()))?;
        let mut command = Command::new(&program.path);
        // With a group but no user, the child is started without a copy of the daemon's page tables: after a fork, the
        // VRRP thread would pay for each page that it writes to first.
        command.args(&program.args).args(more).process_group(0).kill_on_drop(true);
        command.env_clear().env("PATH", PATH).envs(environment.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(user) = &program.user {
            // As root, this also gives up all supplementary groups.
            command.uid(user.uid).gid(user.gid);
        }
        let child = command.spawn().map_err(|e| Failure::NotStarted(reason(&e)))?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        Ok(Self { child, group })
    }

    /// Waits for its end.
    pub async fn wait(&mut self) -> Result<(), Failure> {
        let status = self.child.wait().await;
        self.group = None;
        verdict(status)
    }

    /// Kills its process group.
    pub fn kill(&mut self) {
        if let Some(group) = self.group {
            // It may have ended meanwhile.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.kill();
    }
}

fn verdict(status: io::Result<ExitStatus>) -> Result<(), Failure> {
    let status = status.map_err(|e| Failure::NotStarted(reason(&e)))?;
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(Failure::Status(code)),
        (None, signal) => Err(Failure::Signal(signal.unwrap_or_default())),
    }
}

/// As keepalived's and cron's: no directory that an ordinary user may write to.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;
