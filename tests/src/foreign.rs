//! Somebody else's programs on a hook: they let every packet pass, and are attached by a link that ends with its descriptor.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// A hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// XDP, by the driver.
    Xdp,
    /// The end of the list at TC ingress.
    TcxLast,
    /// Its beginning.
    TcxFirst,
}

/// A program on a hook.
#[derive(Debug)]
pub struct Foreign {
    program: OwnedFd,
    _link: OwnedFd,
}

const PROG_LOAD: u64 = 5;
const LINK_CREATE: u64 = 28;
const XDP: (u32, u32) = (6, 37);
const TCX_INGRESS: (u32, u32) = (3, 46);

impl Foreign {
    /// Attaches a program to an interface of the calling thread's namespace.
    pub fn attach(ifindex: u32, hook: Hook) -> io::Result<Self> {
        let verdict: i32 = if hook == Hook::Xdp { 2 } else { -1 };
        // r0 = verdict; exit
        Self::with_code(ifindex, hook, &[0xb7 | (u64::from(verdict as u32) << 32), 0x95])
    }

    /// Likewise a program of these instructions.
    pub(crate) fn with_code(ifindex: u32, hook: Hook, code: &[u64]) -> io::Result<Self> {
        /// `BPF_F_BEFORE` and `BPF_F_AFTER` alone: first and last; `XDP_FLAGS_DRV_MODE`.
        const FLAGS: [u32; 3] = [1 << 2, 1 << 4, 1 << 3];
        let ((kind, attach_type), flags) = match hook {
            Hook::Xdp => (XDP, FLAGS[0]),
            Hook::TcxLast => (TCX_INGRESS, FLAGS[1]),
            Hook::TcxFirst => (TCX_INGRESS, FLAGS[2]),
        };
        let license = c"GPL";
        let mut load = [0; 18];
        let length = u32::try_from(code.len()).map_err(io::Error::other)?;
        (load[0], load[1], load[17]) = (kind, length, attach_type);
        put(&mut load, 2, code.as_ptr() as u64);
        put(&mut load, 4, license.as_ptr() as u64);
        load[12] = u32::from_ne_bytes(*b"fore");
        load[13] = u32::from_ne_bytes(*b"ign\0");
        let program = bpf(PROG_LOAD, &load)?;
        let number = u32::try_from(program.as_raw_fd()).map_err(io::Error::other)?;
        let link = bpf(LINK_CREATE, &[number, ifindex, attach_type, flags])?;
        Ok(Self { program, _link: link })
    }

    /// Its number in the kernel.
    ///
    /// # Panics
    ///
    /// If /proc does not tell.
    pub fn id(&self) -> u32 {
        let path = format!("/proc/self/fdinfo/{}", self.program.as_raw_fd());
        let info = std::fs::read_to_string(path).expect("fdinfo");
        let line = info.lines().find_map(|l| l.strip_prefix("prog_id:")).expect("prog_id");
        line.trim().parse().expect("a number")
    }
}

fn put(words: &mut [u32; 18], at: usize, value: u64) {
    words[at] = value as u32;
    words[at + 1] = (value >> 32) as u32;
}

fn bpf(command: u64, attributes: &[u32]) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `attributes`, and what they point to lives in the caller.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(attributes)) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).map_err(io::Error::other)?) })
}
