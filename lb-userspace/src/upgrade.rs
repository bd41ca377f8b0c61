//! Another build of viplb goes on in this process: it is tried first, and comes after this one by exec, so that the process stays the
//! same for whoever watches over it (in a container it is the first one).
//!
//! Maps, pins and leases are left as by `stop --keep`. A build that does not start gives the process back to the one that was there
//! before it, whose file is held open meanwhile, wherever it is by then.

use std::{
    env, fs,
    os::{
        fd::{AsRawFd, IntoRawFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{self, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use tokio::{process::Command, time::timeout};

/// Names the descriptor of the program that was there before.
const FALLBACK: &str = "VIPLB_FALLBACK_FD";
/// For each trial: the kernel looks at all that the packet programs may do.
const LIMIT: Duration = Duration::from_secs(60);

/// Whether a program is a viplb that would go on with this configuration here: it says its version, takes the file, and its packet
/// programs pass their own test in this kernel.
pub async fn check(program: &Path, file: &Path) -> Result<()> {
    ensure!(program.is_absolute(), "{} is no absolute path", program.display());
    let version = run(program, &["--version".as_ref()]).await?;
    ensure!(version.starts_with("viplb "), "{} is no viplb: it says {version:?}", program.display());
    run(program, &["check".as_ref(), "-c".as_ref(), file.as_os_str()]).await?;
    run(program, &["prog".as_ref(), "test".as_ref()]).await?;
    tracing::info!(
        "{}: {}, takes the configuration, its packet programs pass their test",
        program.display(),
        version.trim()
    );
    Ok(())
}

async fn run(program: &Path, arguments: &[&std::ffi::OsStr]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let shown =
        || format!("{} {}", program.display(), arguments.first().map_or("".into(), |a| a.to_string_lossy()));
    let out =
        timeout(LIMIT, command.output()).await.with_context(|| format!("`{}` does not end", shown()))?;
    let out = out.with_context(|| format!("cannot run {}", program.display()))?;
    if !out.status.success() {
        let words = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
        bail!("`{}` failed ({}): {}", shown(), out.status, words.trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Goes on as `program`, with the arguments of this one. Returns only if that cannot be.
pub fn exec(program: &Path) -> anyhow::Error {
    let held = fs::File::open("/proc/self/exe").context("cannot open this program").and_then(|exe| {
        // It stays open in the next program.
        fcntl(&exe, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(exe)
    });
    let mut next = process::Command::new(program);
    next.args(env::args_os().skip(1));
    match &held {
        Ok(exe) => next.env(FALLBACK, exe.as_raw_fd().to_string()),
        Err(e) => {
            tracing::warn!("{e:#}: there is no way back");
            next.env_remove(FALLBACK)
        }
    };
    anyhow::Error::from(next.exec()).context(format!("cannot go on as {}", program.display()))
}

static TRIED: AtomicBool = AtomicBool::new(false);

/// Whether the program before this one has tried it.
pub fn has_been_tried() -> bool {
    TRIED.load(Ordering::Relaxed)
}

/// The program that this one came after, which is not to be asked a second time. Called once, before there are threads.
pub fn predecessor() -> Option<fs::File> {
    let fd: i32 = env::var(FALLBACK).ok()?.parse().ok()?;
    TRIED.store(true, Ordering::Relaxed);
    // SAFETY: no other thread reads or writes the environment yet.
    unsafe { env::remove_var(FALLBACK) };
    let exe = fs::File::open(format!("/proc/self/fd/{fd}")).ok();
    // SAFETY: the descriptor was left open for this alone; it is closed with the file made of it.
    drop(unsafe { <fs::File as std::os::fd::FromRawFd>::from_raw_fd(fd) });
    exe
}

/// Goes back to the program that was there before. Returns only if that cannot be.
pub fn go_back(to: fs::File) -> anyhow::Error {
    if let Err(e) = fcntl(&to, FcntlArg::F_SETFD(FdFlag::empty())) {
        return e.into();
    }
    let mut before = process::Command::new(format!("/proc/self/fd/{}", to.into_raw_fd()));
    anyhow::Error::from(before.args(env::args_os().skip(1)).exec())
        .context("cannot go back to the former program")
}
