//! Processes: running one to its end, and reading /proc.
//!
//! Callers are all modules that start or look for a process. Processes are told apart by network namespace and,
//! for the daemons of a node, by the mark [`MARK`] in their environment; never by name.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, SysconfVar, sysconf},
};

/// Environment variable that marks a node's own daemon (and what it forks), as opposed to commands run by hand.
pub const MARK: &str = "VIPLB_LAB_DAEMON";

/// Finds a program on PATH and in the directories that hold daemons.
pub fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/libexec"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// Runs a command to its end; an error carries what it wrote to standard error.
pub fn finish(command: &mut Command) -> Result<String> {
    finish_with(command, "")
}

/// [`finish`] with `input` on its standard input.
pub fn finish_with(command: &mut Command, input: &str) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends without reading its input reports why itself.
        let _ = stdin.write_all(input.as_bytes());
    }
    let out = child.wait_with_output()?;
    if !out.status.success() {
        let why = String::from_utf8_lossy(&out.stderr);
        bail!("{name} failed ({}): {}", out.status, why.trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Waits for a child on a thread of its own, so that it does not stay behind as a zombie.
pub fn reap(mut child: Child) {
    std::thread::spawn(move || {
        let _ = child.wait();
    });
}

/// All process ids; zombies included.
pub fn all() -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).map(Pid::from_raw).collect()
}

/// Whether the process carries [`MARK`].
pub fn is_marked(pid: Pid) -> bool {
    let mark = format!("{MARK}=");
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|env| env.split(|b| *b == 0).any(|var| var.starts_with(mark.as_bytes())))
}

/// Fields of `/proc/PID/stat` after the name: state, parent, …
fn stat(pid: Pid) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// Processor time that a process and all its threads have had, in the kernel too.
pub fn processor_time(pid: Pid) -> Option<Duration> {
    let fields = stat(pid)?;
    let ticks: u64 = fields.get(11..13)?.iter().map(|ticks| ticks.parse::<u64>().ok()).sum::<Option<_>>()?;
    let per_second = sysconf(SysconfVar::CLK_TCK).ok()??.max(1);
    Some(Duration::from_millis(ticks * 1000 / per_second as u64))
}

/// Whether the process is stopped (SIGSTOP).
pub fn is_stopped(pid: Pid) -> bool {
    stat(pid).is_some_and(|fields| fields[0] == "T")
}

/// Whether the process has ended and given back what it held. Its environment is gone earlier than its files and
/// locks; a zombie holds none any more once it is the last of its threads.
pub fn has_ended(pid: Pid) -> bool {
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    stat(pid).is_none_or(|fields| fields[0] == "Z" && threads() <= 1)
}

/// Those of `pids` whose parent is not among them: the ones to ask to end.
pub fn leaders(pids: &[Pid]) -> Vec<Pid> {
    let set: BTreeSet<i32> = pids.iter().map(|p| p.as_raw()).collect();
    let has_parent = |pid: Pid| {
        stat(pid).and_then(|f| f[1].parse::<i32>().ok()).is_some_and(|parent| set.contains(&parent))
    };
    pids.iter().copied().filter(|pid| !has_parent(*pid)).collect()
}

/// Signals each process; one that has ended meanwhile is fine.
pub fn signal(pids: &[Pid], signal: Signal) {
    for pid in pids {
        let _ = kill(*pid, signal);
    }
}

/// The last `n` lines of a file, for error messages.
pub fn tail(file: &Path, n: usize) -> String {
    let text = fs::read(file).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(n)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_ended_once_it_is_a_zombie_whether_somebody_waits_for_it_or_not() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        assert!(!has_ended(pid));
        signal(&[pid], Signal::SIGKILL);
        while !has_ended(pid) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(has_ended(pid));
    }
}
