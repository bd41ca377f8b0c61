//! Taking a lab down, and the mounts it may have needed (bpffs, /run/netns).
//!
//! Works from the prefix alone, because the process that raised the lab may have been killed at any point.
//! Callers: `lab down`, the end of `run`, and tests. It must never end a process outside the lab's namespaces,
//! nor unmount what somebody else mounted or still uses.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::{
        signal::Signal,
        statfs::{BPF_FS_MAGIC, statfs},
    },
    unistd::Pid,
};

use crate::{
    books,
    console::Console,
    lab::{self, DB_MAX, Lab},
    netns::{self, Netns},
    proc,
};

const BPFFS: &str = "/sys/fs/bpf";
const PINS: &str = "/sys/fs/bpf/viplb";
const RUN: &str = "/run/viplb";
/// Files that remember which mounts are a lab's own.
const BPFFS_MARK: &str = "bpffs-mounted";
const NETNS_MARK: &str = "netns-mounted";
/// How long processes get to end by themselves: a database writes its state on SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

/// Removes all that a lab of this prefix may have left; returns what was removed, a phrase each.
pub fn down(prefix: &str, console: &Console) -> Result<Vec<String>> {
    let mut gone = Vec::new();
    let namespaces: Vec<Netns> = namespaces(prefix).into_iter().filter(Netns::exists).collect();
    let ended = end_processes(&namespaces, console);
    if ended > 0 {
        gone.push(format!("{ended} processes"));
    }
    let mut removed = Vec::new();
    for ns in &namespaces {
        if ns.delete()? {
            removed.push(ns.name().to_owned());
        }
    }
    if !removed.is_empty() {
        gone.push(format!("namespaces {}", removed.join(" ")));
    }
    for path in leftovers(prefix) {
        if remove(&path).with_context(|| format!("cannot remove {}", path.display()))? {
            gone.push(path.display().to_string());
        }
    }
    gone.extend(release_mounts()?);
    for dir in [PINS, RUN, &lab::data_root().to_string_lossy()] {
        let _ = fs::remove_dir(dir); // goes only when empty
    }
    Ok(gone)
}

/// For tests: takes down the lab of this prefix, and panics, unless the test has, if packets came to a node of viplb without
/// getting a reason.
///
/// # Panics
///
/// If so.
pub fn end(prefix: &str) {
    let failed = thread::panicking();
    let closed = Lab::open(prefix).and_then(|lab| books::close_all(&lab));
    if let Err(e) = down(prefix, &Console::quiet()) {
        eprintln!("the lab is not down: {e:#}");
    }
    match closed {
        Err(e) if !failed => panic!("{e:#}"),
        _ => {}
    }
}

fn namespaces(prefix: &str) -> Vec<Netns> {
    let databases = (1..=DB_MAX).map(|i| format!("db{i}"));
    let fixed = ["client", "h1", "h2"].map(str::to_owned);
    let nodes = fixed.into_iter().chain(databases).map(|node| Netns::named(format!("{prefix}-{node}")));
    nodes.chain([lab::bridge(prefix)]).collect()
}

fn leftovers(prefix: &str) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for node in ["h1", "h2"] {
        let name = lab::viplb_name(prefix, node);
        paths.push(Path::new(PINS).join(&name));
        paths.extend(["lock", "kept", "members"].map(|kind| Path::new(RUN).join(format!("{name}.{kind}"))));
        paths.push(Path::new(RUN).join(format!("{name}.sock")));
    }
    paths.push(lab::data_dir(prefix));
    paths.push(lab::state_dir(prefix));
    paths
}

/// Ends every process of the namespaces: SIGTERM (frozen ones are woken for it), then SIGKILL. How many there were.
fn end_processes(namespaces: &[Netns], console: &Console) -> usize {
    let living = || namespaces.iter().flat_map(Netns::pids).collect::<Vec<Pid>>();
    let first = living();
    if first.is_empty() {
        return 0;
    }
    console.say(format!("ending {} processes", first.len()));
    proc::signal(&first, Signal::SIGTERM);
    proc::signal(&first, Signal::SIGCONT);
    let start = Instant::now();
    while start.elapsed() < GRACE && !living().is_empty() {
        thread::sleep(Duration::from_millis(50));
    }
    let start = Instant::now();
    while start.elapsed() < GRACE {
        let rest = living();
        if rest.is_empty() {
            break;
        }
        proc::signal(&rest, Signal::SIGKILL);
        thread::sleep(Duration::from_millis(50));
    }
    first.len()
}

/// Removes a file or a whole directory; `false` if there is none.
fn remove(path: &Path) -> io::Result<bool> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Mounts a bpffs where there is none and remembers that, and makes the lab's state directory under the same
/// lock: a lab that ends at this moment sees either no mount yet or somebody who needs it.
pub(crate) fn claim_mounts(prefix: &str) -> Result<()> {
    let _lock = lock()?;
    fs::create_dir_all(lab::state_dir(prefix))?;
    if !netns::directory_is_mounted() {
        fs::write(marker(NETNS_MARK), "mounted by the lab\n")?;
    }
    if is_bpffs() {
        return Ok(());
    }
    if !Path::new(BPFFS).is_dir() {
        anyhow::bail!("{BPFFS} does not exist: this kernel has no BPF file system, or /sys is not mounted");
    }
    fs::write(marker(BPFFS_MARK), "mounted by the lab\n")?;
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .with_context(|| format!("cannot mount a bpffs on {BPFFS}"))
}

/// A bpffs for a test that has no lab; what was mounted for it goes with the last user.
pub struct Bpffs {
    prefix: String,
}

impl Bpffs {
    /// Mounts a bpffs where there is none. `prefix` is a name of the caller's own.
    pub fn claim(prefix: &str) -> Result<Self> {
        claim_mounts(prefix)?;
        Ok(Self { prefix: prefix.to_owned() })
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let _ = fs::remove_dir(lab::state_dir(&self.prefix));
        let _ = release_mounts();
    }
}

/// Takes back the mounts that labs made, if no lab is left and nobody else uses them; then the state root.
fn release_mounts() -> Result<Vec<String>> {
    let _lock = lock()?;
    let mut gone = Vec::new();
    let other_labs = fs::read_dir(lab::state_root())?.flatten().any(|e| e.path().is_dir());
    let ours = |mark: &str| !other_labs && marker(mark).exists();
    if ours(NETNS_MARK) {
        if netns::release_directory()? {
            gone.push("the mount on /run/netns".to_owned());
        }
        // With somebody else's namespaces in it, it is theirs from now on.
        fs::remove_file(marker(NETNS_MARK))?;
    }
    if ours(BPFFS_MARK) {
        let _ = fs::remove_dir(PINS);
        if !is_bpffs() || nothing_pinned()? {
            if is_bpffs() && umount2(BPFFS, MntFlags::empty()).is_ok() {
                gone.push(format!("the bpffs mount on {BPFFS}"));
            }
            fs::remove_file(marker(BPFFS_MARK))?;
        }
    }
    let _ = fs::remove_dir(lab::state_root()); // goes only when empty
    Ok(gone)
}

/// The kernel itself puts two iterators into the first bpffs of a boot; nobody needs them pinned.
fn nothing_pinned() -> io::Result<bool> {
    let own = ["maps.debug", "progs.debug"];
    Ok(fs::read_dir(BPFFS)?.flatten().all(|entry| own.iter().any(|name| entry.file_name() == *name)))
}

fn marker(name: &str) -> PathBuf {
    lab::state_root().join(name)
}

fn is_bpffs() -> bool {
    statfs(BPFFS).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}

/// A lock on the state root itself, so that no lock file stays behind. The directory may be removed between
/// opening and locking it: then the lock is on a nameless directory and is taken anew.
fn lock() -> Result<File> {
    let root = lab::state_root();
    loop {
        fs::create_dir_all(root).with_context(|| format!("cannot make {} (needs root)", root.display()))?;
        let Ok(dir) = File::open(root) else { continue };
        dir.lock()?;
        if fs::metadata(root).is_ok_and(|m| dir.metadata().is_ok_and(|d| d.ino() == m.ino())) {
            return Ok(dir);
        }
    }
}
