//! What the kernel and the machine must offer, checked before anything is touched: each failure is one sentence that
//! says what to do.

use std::{
    ffi::{CStr, CString},
    fs,
    net::IpAddr,
    os::fd::OwnedFd,
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::pins;

const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Checks capabilities, the bpf filesystem and kernel BTF.
pub fn check() -> Result<()> {
    capabilities()?;
    ensure!(
        Path::new("/sys/kernel/btf/vmlinux").exists(),
        "this kernel offers no BTF (/sys/kernel/btf/vmlinux is missing): viplb needs a kernel built with \
         CONFIG_DEBUG_INFO_BTF=y, as distributions' kernels since 5.10 are"
    );
    let bpffs = Path::new("/sys/fs/bpf");
    ensure!(
        statfs(bpffs).is_ok_and(|s| s.filesystem_type() == BPF_FS_MAGIC),
        "no bpf filesystem is mounted on /sys/fs/bpf: run `mount -t bpf bpf /sys/fs/bpf` (in a container: mount it on the \
         host and pass it in, or give the container CAP_SYS_ADMIN and mount it there)"
    );
    Ok(())
}

fn capabilities() -> Result<()> {
    let status = fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let effective = status
        .lines()
        .find_map(|l| l.strip_prefix("CapEff:"))
        .and_then(|v| u64::from_str_radix(v.trim(), 16).ok())
        .context("/proc/self/status has no CapEff line")?;
    let has = |cap: u32| effective & (1 << cap) != 0;
    let mut missing = Vec::new();
    if !has(CAP_NET_ADMIN) {
        missing.push("CAP_NET_ADMIN");
    }
    if !has(CAP_NET_RAW) {
        missing.push("CAP_NET_RAW");
    }
    if !has(CAP_BPF) && !has(CAP_SYS_ADMIN) {
        missing.push("CAP_BPF (or CAP_SYS_ADMIN)");
    }
    // Without it the verifier lets no program compute with packet pointers.
    if !has(CAP_PERFMON) && !has(CAP_SYS_ADMIN) {
        missing.push("CAP_PERFMON (or CAP_SYS_ADMIN)");
    }
    if !missing.is_empty() {
        bail!(
            "not permitted: {} missing; run as root, or with these capabilities (docker: --cap-add NET_ADMIN --cap-add \
             SYS_ADMIN)",
            missing.join(", ")
        );
    }
    Ok(())
}

/// Takes the lock of a node name: one daemon for one set of pins. The lock ends with the file descriptor.
pub fn lock(name: &str) -> Result<OwnedFd> {
    fs::create_dir_all(pins::RUN).with_context(|| format!("cannot make {}", pins::RUN))?;
    let path = pins::lock(name);
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => bail!(
            "another viplb runs as node {name:?} ({} is locked): stop it first, or give this one another name in [node]",
            path.display()
        ),
        Err(fs::TryLockError::Error(e)) => {
            return Err(e).with_context(|| format!("cannot lock {}", path.display()));
        }
    }
    Ok(file.into())
}

/// Index of an interface.
pub fn ifindex(name: &str) -> Result<u32> {
    let c = CString::new(name).context("an interface name has no NUL")?;
    // SAFETY: a NUL-terminated string.
    match unsafe { libc::if_nametoindex(c.as_ptr()) } {
        0 => bail!("there is no interface {name:?} here: `ip link` lists those there are"),
        i => Ok(i),
    }
}

/// Name of an interface.
pub fn ifname(ifindex: u32) -> Result<String> {
    let mut buffer = [0u8; libc::IF_NAMESIZE];
    // SAFETY: a buffer of the size that the call asks for.
    let named = unsafe { !libc::if_indextoname(ifindex, buffer.as_mut_ptr().cast()).is_null() };
    let name = CStr::from_bytes_until_nul(&buffer).ok().filter(|_| named).and_then(|n| n.to_str().ok());
    name.map(str::to_owned).with_context(|| format!("interface {ifindex} is gone"))
}

/// Name of the interface that an address of this node's is on; `None` if the node does not have it.
pub fn interface_of(addr: IpAddr) -> Result<Option<String>> {
    let has = |a: &nix::ifaddrs::InterfaceAddress| {
        let address = a.address.as_ref();
        let v4 = address.and_then(|s| s.as_sockaddr_in()).map(|s| IpAddr::V4(s.ip()));
        let v6 = address.and_then(|s| s.as_sockaddr_in6()).map(|s| IpAddr::V6(s.ip()));
        v4.or(v6) == Some(addr)
    };
    let mut list = nix::ifaddrs::getifaddrs().context("cannot list this node's addresses")?;
    Ok(list.find(has).map(|a| a.interface_name))
}

/// The ports that the node's own sockets take (`net.ipv4.ip_local_port_range`).
pub fn local_ports() -> (u16, u16) {
    const DEFAULT: (u16, u16) = (32768, 60999);
    let Ok(text) = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range") else { return DEFAULT };
    let mut numbers = text.split_whitespace().filter_map(|n| n.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(a), Some(b)) => (a, b),
        _ => DEFAULT,
    }
}
