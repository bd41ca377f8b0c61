//! Pinned arrays mapped into memory: single words are read and written without a system call.
//!
//! `flows` sweeps the flow records through it, `lease` writes deadlines on the election's timing path. The packet programs
//! use the same memory at the same time, so all access goes through volatile or atomic operations on `element`'s pointer;
//! nobody may make a reference of it.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd},
    ptr::NonNull,
};

use anyhow::{Context, Result};
use aya::{Pod, maps::MapData};

use super::pins::Pins;

/// An array map of `T` in this process's memory.
pub(super) struct Mapped<T> {
    base: NonNull<T>,
    len: u32,
    element: PhantomData<T>,
}

// SAFETY: the mapping belongs to this value alone; its elements are plain data that any thread may access.
unsafe impl<T: Pod> Send for Mapped<T> {}

impl<T: Pod> Mapped<T> {
    /// Maps the array pinned as `name`, which was made with `BPF_F_MMAPABLE` and holds `len` elements.
    pub(super) fn open(pins: &Pins, name: &str, len: u32) -> Result<Self> {
        let data = MapData::from_pin(pins.map(name)).with_context(|| format!("map {name}"))?;
        Self::of(&data, name, len)
    }

    /// Likewise an opened map.
    pub(super) fn of(data: &MapData, name: &str, len: u32) -> Result<Self> {
        // The kernel spaces elements by eight bytes.
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        // SAFETY: a new shared mapping of a map's descriptor, which the kernel refuses beyond the map's size.
        let p = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len as usize * size_of::<T>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                data.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        let base = if p == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(p.cast()) };
        let base = base.with_context(|| format!("cannot map {name} into memory"))?;
        let base = NonNull::new(base).with_context(|| format!("cannot map {name} into memory"))?;
        Ok(Self { base, len, element: PhantomData })
    }

    /// Number of elements.
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// Where an element is; valid for as long as the mapping.
    pub(super) fn element(&self, index: u32) -> Option<*mut T> {
        // SAFETY: in bounds of the mapping.
        (index < self.len).then(|| unsafe { self.base.add(index as usize).as_ptr() })
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `open`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len as usize * size_of::<T>()) };
    }
}
