//! Network namespaces by name, as iproute2 keeps them under /run/netns.
//!
//! Entered with setns(CLONE_NEWNET) alone: `ip netns exec` also mounts a fresh /sys, which hides the bpffs below
//! it. Sockets keep the namespace they were made in, so a closure run inside may hand its sockets out.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::fs::MetadataExt, unix::process::CommandExt},
    path::PathBuf,
    process::{Child, Command},
    thread,
};

use anyhow::{Context, Result, anyhow};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    unistd::{Pid, setsid},
};

use crate::proc;

const DIR: &str = "/run/netns";

/// A namespace by its name; it need not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// The namespace of that name.
    pub fn named(name: impl Into<String>) -> Self {
        Netns { name: name.into() }
    }

    /// Makes the namespace, with its loopback up.
    pub fn create(name: impl Into<String>) -> Result<Self> {
        let ns = Netns::named(name);
        share_directory().with_context(|| format!("cannot prepare {DIR} (needs root)"))?;
        File::create_new(ns.path()).with_context(|| format!("cannot make namespace {}", ns.name))?;
        let path = ns.path();
        let made = thread::spawn(move || -> Result<()> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let own = "/proc/thread-self/ns/net";
            mount(Some(own), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            Ok(())
        });
        let made = made.join().map_err(|_| anyhow!("the thread that makes a namespace panicked"))?;
        if let Err(e) = made {
            let _ = fs::remove_file(ns.path());
            return Err(e.context(format!("cannot make namespace {} (needs root)", ns.name)));
        }
        ns.ip("link set lo up")?;
        Ok(ns)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(DIR).join(&self.name)
    }

    /// Whether a namespace (or a half-made one) of that name exists.
    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    /// Removes the name; `false` if there was none. The kernel frees the namespace with its last process.
    pub fn delete(&self) -> Result<bool> {
        if !self.exists() {
            return Ok(false);
        }
        // A half-made namespace is a plain file: not mounted, but to be removed all the same.
        while umount2(&self.path(), MntFlags::MNT_DETACH).is_ok() {}
        fs::remove_file(self.path()).with_context(|| format!("cannot remove namespace {}", self.name))?;
        Ok(true)
    }

    fn open(&self) -> io::Result<File> {
        File::open(self.path())
    }

    /// Runs `f` on a thread inside the namespace and hands back what it returns.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        let file = self.open().with_context(|| format!("no namespace {}", self.name))?;
        thread::scope(|scope| {
            let inside = scope.spawn(|| -> Result<T> {
                setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?;
                Ok(f())
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Makes `command` start inside the namespace.
    pub fn place(&self, command: &mut Command) -> Result<()> {
        let file = self.open().with_context(|| format!("no namespace {}", self.name))?;
        // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
        unsafe {
            command.pre_exec(move || Ok(setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?));
        }
        Ok(())
    }

    /// Starts `command` inside the namespace and in a session of its own: it outlives its caller, and a Ctrl-C
    /// at the caller's terminal is not meant for it.
    pub fn spawn(&self, mut command: Command) -> Result<Child> {
        self.place(&mut command)?;
        // SAFETY: setsid is async-signal-safe and allocates nothing.
        unsafe {
            command.pre_exec(|| {
                setsid()?;
                Ok(())
            });
        }
        let name = command.get_program().to_string_lossy().into_owned();
        command.spawn().with_context(|| format!("cannot start {name} in {}", self.name))
    }

    /// One `ip` command inside the namespace.
    pub fn ip(&self, line: &str) -> Result<()> {
        self.ip_batch(line)
    }

    /// Several `ip` commands, a line each, inside the namespace.
    pub fn ip_batch(&self, lines: &str) -> Result<()> {
        let mut ip = Command::new("ip");
        ip.args(["-n", &self.name, "-batch", "-"]);
        proc::finish_with(&mut ip, lines).map(drop)
    }

    /// Writes a sysctl (`net/ipv4/…`) inside the namespace.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.run(|| fs::write(format!("/proc/sys/{key}"), value))?
            .with_context(|| format!("cannot set {key} in {}", self.name))
    }

    /// The processes that live in it (by the namespace of their main thread).
    pub fn pids(&self) -> Vec<Pid> {
        let Ok(own) = fs::metadata(self.path()) else { return Vec::new() };
        let own = (own.dev(), own.ino());
        let lives_here = |pid: &Pid| {
            fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|other| (other.dev(), other.ino()) == own)
        };
        proc::all().into_iter().filter(lives_here).collect()
    }
}

/// Makes the directory a shared mount, as `ip netns add` does. Without this, the next `ip netns add` of anybody
/// would mount the directory over itself and leave our namespaces busy underneath.
fn share_directory() -> Result<()> {
    fs::create_dir_all(DIR)?;
    let share = || mount(None::<&str>, DIR, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    match share() {
        Err(Errno::EINVAL) => {}
        done => return Ok(done?),
    }
    mount(Some(DIR), DIR, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
    Ok(share()?)
}

/// Whether the directory is a mount of its own already.
pub(crate) fn directory_is_mounted() -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(DIR))
}

/// Undoes what [`Netns::create`] did to the directory, if no namespace is left in it.
pub(crate) fn release_directory() -> Result<bool> {
    let empty = fs::read_dir(DIR).is_ok_and(|mut entries| entries.next().is_none());
    Ok(empty && umount2(DIR, MntFlags::empty()).is_ok())
}
