//! Test runs of a loaded program (`BPF_PROG_TEST_RUN`) from several threads at once, which the daemon's handle of it is not made
//! for.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

/// `bpf_attr` for `BPF_PROG_TEST_RUN`, as far as it is needed; the kernel takes what follows for zero.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    program: u32,
    returned: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

/// Runs a frame through the program; gives what it returned.
///
/// # Errors
///
/// What the kernel says of the call.
pub fn test_run(program: BorrowedFd<'_>, frame: &[u8]) -> io::Result<i32> {
    const BPF_PROG_TEST_RUN: libc::c_int = 10;
    let mut attributes = Attributes {
        program: program.as_raw_fd() as u32,
        size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat: 1,
        ..Attributes::default()
    };
    let size = size_of::<Attributes>();
    // SAFETY: the structure and the frame that it points to live until the call returns.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, ptr::from_mut(&mut attributes), size) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(attributes.returned as i32) }
}
