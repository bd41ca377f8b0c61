//! Maps as bytes, by system call: what a release has to do with maps whose layout is not its own, for which aya's typed handles are
//! not made; and two things that aya cannot do with a program that somebody else has loaded.
//!
//! `migrate` and `layouts` use it. Sizes of keys and values are what the kernel says of the map.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use anyhow::{Context, Result};
use aya::{
    maps::{MapData, MapInfo, MapType},
    util::nr_cpus,
};

const LOOKUP: i32 = 1;
const UPDATE: i32 = 2;
const DELETE: i32 = 3;
const NEXT_KEY: i32 = 4;
const GET: i32 = 7;
const LINK_UPDATE: i32 = 29;

/// `BPF_NOEXIST`.
pub(super) const NOEXIST: u64 = 1;

/// The part of `union bpf_attr` that is about elements of maps.
#[repr(C)]
#[derive(Default)]
struct Element {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The part of it that is about a link's program.
#[repr(C)]
#[derive(Default)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    old: u32,
}

/// The part of it that is about pins.
#[repr(C)]
#[derive(Default)]
struct Pin {
    path: u64,
    fd: u32,
    flags: u32,
}

fn call<T>(command: i32, attributes: &mut T) -> io::Result<i64> {
    // SAFETY: `bpf` reads as many bytes as it is told there are; what they point to lives as long as the callers' borrows.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done) }
}

/// A pinned map.
pub(super) struct Bytes {
    data: MapData,
    /// What the kernel says of it.
    pub(super) info: MapInfo,
    /// Whether each processor has a value of its own.
    pub(super) per_cpu: bool,
    value: usize,
}

impl Bytes {
    /// Opens it.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let data = MapData::from_pin(path).with_context(|| format!("map {}", path.display()))?;
        let info = data.info().with_context(|| format!("map {}", path.display()))?;
        let size = info.value_size() as usize;
        let per_cpu = matches!(
            info.map_type(),
            Ok(MapType::PerCpuArray | MapType::PerCpuHash | MapType::LruPerCpuHash)
        );
        let cpus = nr_cpus().map_err(|(what, e)| anyhow::Error::from(e).context(what))?;
        let value = if per_cpu { size.next_multiple_of(8) * cpus } else { size };
        Ok(Self { data, info, per_cpu, value })
    }

    /// Its handle.
    pub(super) fn data(&self) -> &MapData {
        &self.data
    }

    /// Whether its elements are numbers from zero on.
    pub(super) fn is_array(&self) -> bool {
        matches!(self.info.map_type(), Ok(MapType::Array | MapType::PerCpuArray))
    }

    fn fd(&self) -> RawFd {
        self.data.fd().as_fd().as_raw_fd()
    }

    fn element(&self, key: &[u8], value: u64, flags: u64) -> Element {
        assert_eq!(key.len(), self.info.key_size() as usize);
        let key = if key.is_empty() { 0 } else { key.as_ptr() as u64 };
        Element { map: self.fd() as u32, pad: 0, key, value, flags }
    }

    /// The value of a key; of a map with one for each processor all of them, each a multiple of eight bytes long.
    pub(super) fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut value = vec![0; self.value];
        let mut element = self.element(key, value.as_mut_ptr() as u64, 0);
        match call(LOOKUP, &mut element) {
            Ok(_) => Ok(Some(value)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Sets it. A queue has no keys.
    pub(super) fn set(&self, key: &[u8], value: &[u8], flags: u64) -> io::Result<()> {
        assert_eq!(value.len(), self.value);
        call(UPDATE, &mut self.element(key, value.as_ptr() as u64, flags)).map(drop)
    }

    /// Removes it; whether it was there.
    pub(super) fn remove(&self, key: &[u8]) -> io::Result<bool> {
        match call(DELETE, &mut self.element(key, 0, 0)) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// All keys that it has.
    pub(super) fn keys(&self) -> io::Result<Vec<Vec<u8>>> {
        let length = self.info.key_size() as usize;
        let (mut keys, mut next) = (Vec::<Vec<u8>>::new(), vec![0; length]);
        loop {
            let before = keys.last().map_or(0, |key| key.as_ptr() as u64);
            let mut element = Element {
                map: self.fd() as u32,
                key: before,
                value: next.as_mut_ptr() as u64,
                ..Element::default()
            };
            match call(NEXT_KEY, &mut element) {
                Ok(_) => keys.push(std::mem::replace(&mut next, vec![0; length])),
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(keys),
                Err(e) => return Err(e),
            }
            // Who removes the key that was asked from has the kernel begin anew.
            if keys.len() > 2 * self.info.max_entries() as usize {
                return Ok(keys);
            }
        }
    }
}

/// Has a pinned link run another program, in one step.
pub(super) fn update_link(pin: &Path, program: &impl AsFd) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let link = call(GET, &mut Pin { path: path.as_ptr() as u64, ..Pin::default() })?;
    // SAFETY: a descriptor that the kernel has just opened for this alone.
    let link = unsafe { OwnedFd::from_raw_fd(link as RawFd) };
    let (link, program) = (link.as_raw_fd() as u32, program.as_fd().as_raw_fd() as u32);
    call(LINK_UPDATE, &mut LinkUpdate { link, program, ..LinkUpdate::default() }).map(drop)
}

/// Waits until every run of a program that has begun before this is over: programs run as readers of RCU, whose grace period
/// `membarrier` waits for.
pub(super) fn grace() {
    const GLOBAL: i32 = 1;
    // SAFETY: no memory is involved.
    if unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) } < 0 {
        // A kernel without it, or with processors that it may not wait for.
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}
