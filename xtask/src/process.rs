//! Child processes: cargo with the right directory, exec, signals, and ending what a child leaves behind.
//!
//! The only place in xtask with `unsafe`: three libc calls the standard library does not offer. Processes
//! are ended by pid or by a process group that was made here, never by name.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{env, fs, io};

use anyhow::{Context, Result, bail};

use crate::paths::Paths;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// The cargo that started us, run in the workspace and writing to the same target directory.
pub fn cargo(paths: &Paths) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(&paths.root).env("CARGO_TARGET_DIR", &paths.target);
    // What the outer cargo says of xtask itself. Build scripts that ask for it (ring's) would run anew, and all that depends on them
    // be compiled anew, whenever `cargo xtask` and plain cargo take turns.
    for (name, _) in env::vars_os().filter(|(name, _)| is_of_a_package(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command
}

fn is_of_a_package(name: &str) -> bool {
    const KINDS: [&str; 5] =
        ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
    KINDS.iter().any(|kind| name.starts_with(kind))
}

/// Runs a command to its end and turns a failure into an error that names it.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = describe(command);
    let status = command.status().with_context(|| format!("cannot start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

/// What a command prints on its standard output, or `None` when it cannot be run or fails.
pub fn output_of(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Becomes the given program; returns only if that fails.
pub fn exec(program: &Path, args: &[OsString]) -> Result<()> {
    let error = Command::new(program).args(args).exec();
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}

/// The command line as a user would type it.
pub fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    std::iter::once(name).chain(command.get_args()).map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Looks a program up on `PATH`, then where administrators' tools are when `PATH` leaves those out.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Whether this process may do what root may.
pub fn is_root() -> bool {
    // SAFETY: geteuid takes no argument, cannot fail and touches no memory of ours.
    unsafe { libc::geteuid() == 0 }
}

/// From now on Ctrl-C and SIGTERM only set a flag, so that the caller can clean up.
/// Children get the default action back on exec and end as usual.
pub fn catch_interrupts() {
    extern "C" fn note(_signal: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { libc::signal(signal, note as extern "C" fn(libc::c_int) as libc::sighandler_t) };
    }
}

/// Whether a signal arrived since [`catch_interrupts`].
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Makes orphaned descendants ours instead of init's, so that [`children`] sees what a test leaves behind.
pub fn adopt_orphans() {
    // SAFETY: PR_SET_CHILD_SUBREAPER takes plain integers and changes an attribute of this process only.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
}

/// Sends a signal to every process of a group made with `process_group(0)`.
pub fn signal_group(leader: u32, signal: libc::c_int) {
    if let Ok(group) = libc::pid_t::try_from(leader) {
        // SAFETY: killpg takes plain integers; the group was made for our child and is named by its pid.
        unsafe { libc::killpg(group, signal) };
    }
}

/// A process that is our child: its pid and command name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// Its process id.
    pub pid: u32,
    /// The kernel's name for it (15 characters at most).
    pub name: String,
}

/// The living children of this process, adopted ones included; zombies are reaped on the way.
pub fn children() -> io::Result<Vec<Child>> {
    let me = std::process::id();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        match parse_stat(&stat) {
            Some((_, 'Z', parent)) if parent == me => reap(pid),
            Some((name, _, parent)) if parent == me => found.push(Child { pid, name: name.to_owned() }),
            _ => {}
        }
    }
    Ok(found)
}

/// Name, state and parent out of a line of `/proc/PID/stat`; the name may itself hold brackets and spaces.
fn parse_stat(line: &str) -> Option<(&str, char, u32)> {
    let name = line.get(line.find('(')? + 1..line.rfind(')')?)?;
    let mut rest = line.get(line.rfind(')')? + 1..)?.split_whitespace();
    Some((name, rest.next()?.chars().next()?, rest.next()?.parse().ok()?))
}

/// Ends and reaps every child that `before` does not list; whoever they leave behind in turn follows.
/// Gives back the first ones found, to tell the user.
pub fn end_new_children(before: &[Child]) -> io::Result<Vec<Child>> {
    let mut ended: Vec<Child> = Vec::new();
    loop {
        let new: Vec<Child> =
            children()?.into_iter().filter(|child| before.iter().all(|old| old.pid != child.pid)).collect();
        if new.is_empty() {
            return Ok(ended);
        }
        for child in new {
            if let Ok(pid) = libc::pid_t::try_from(child.pid) {
                // SAFETY: plain integers; the pid is an unreaped child of ours, so it cannot have been reused.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
            reap(child.pid);
            ended.push(child);
        }
    }
}

fn reap(pid: u32) {
    if let Ok(pid) = libc::pid_t::try_from(pid) {
        // SAFETY: a null status pointer is allowed; waits for our own child only.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_brackets_does_not_shift_the_fields() {
        assert_eq!(parse_stat("42 (tmux: (x) y) S 7 42 42 0"), Some(("tmux: (x) y", 'S', 7)));
        assert_eq!(parse_stat("42 (cut off"), None);
    }

    #[test]
    fn commands_are_shown_as_a_user_types_them() {
        let mut command = Command::new("/usr/bin/apt-get");
        command.args(["install", "-y", "rsync"]);
        assert_eq!(describe(&command), "apt-get install -y rsync");
    }
}
