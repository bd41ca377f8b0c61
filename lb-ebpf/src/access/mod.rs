//! Packet memory and checksums for the two front ends: the only files that dereference packet pointers.

pub mod tc;
pub mod xdp;

use core::{arch::asm, mem::MaybeUninit};

use lb_ebpf::packet::Plain;

/// Copies a value out of a packet, in as few loads as its size allows. The kernel's verifier lets programs read packets at any
/// address where the processor does (x86-64, arm64), which the compiler does not know: it would take byte by byte.
///
/// # Safety
///
/// `from` points to a whole value, whose bounds were checked.
#[inline(always)]
pub unsafe fn read<T: Plain>(from: *const T) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    let (from, to) = (from.cast::<u8>(), value.as_mut_ptr().cast::<u8>());
    let mut at = 0;
    // SAFETY: of the caller; the pieces cover the value, and `Plain` allows any bit pattern.
    unsafe {
        while at + 4 <= size_of::<T>() {
            to.add(at).cast::<u32>().write_unaligned(load_u32(from.add(at)));
            at += 4;
        }
        if at + 2 <= size_of::<T>() {
            to.add(at).cast::<u16>().write_unaligned(load_u16(from.add(at)));
            at += 2;
        }
        if at < size_of::<T>() {
            to.add(at).write(from.add(at).read());
        }
        value.assume_init()
    }
}

/// Copies a value into a packet, likewise.
///
/// # Safety
///
/// `to` points to a whole value, whose bounds were checked.
#[inline(always)]
pub unsafe fn write<T: Plain>(to: *mut T, value: &T) {
    let (from, to) = ((&raw const *value).cast::<u8>(), to.cast::<u8>());
    let mut at = 0;
    // SAFETY: of the caller; the pieces cover the value, and `Plain` has no padding.
    unsafe {
        while at + 4 <= size_of::<T>() {
            store_u32(to.add(at), from.add(at).cast::<u32>().read_unaligned());
            at += 4;
        }
        if at + 2 <= size_of::<T>() {
            store_u16(to.add(at), from.add(at).cast::<u16>().read_unaligned());
            at += 2;
        }
        if at < size_of::<T>() {
            to.add(at).write(from.add(at).read());
        }
    }
}

#[inline(always)]
unsafe fn load_u32(from: *const u8) -> u32 {
    let word: u64;
    // SAFETY: of the caller.
    unsafe {
        asm!("{to} = *(u32 *)({from} + 0)", to = out(reg) word, from = in(reg) from, options(nostack, readonly, pure))
    };
    word as u32
}

#[inline(always)]
unsafe fn load_u16(from: *const u8) -> u16 {
    let word: u64;
    // SAFETY: of the caller.
    unsafe {
        asm!("{to} = *(u16 *)({from} + 0)", to = out(reg) word, from = in(reg) from, options(nostack, readonly, pure))
    };
    word as u16
}

#[inline(always)]
unsafe fn store_u32(to: *mut u8, word: u32) {
    // SAFETY: of the caller.
    unsafe {
        asm!("*(u32 *)({to} + 0) = {word}", to = in(reg) to, word = in(reg) u64::from(word), options(nostack))
    };
}

#[inline(always)]
unsafe fn store_u16(to: *mut u8, word: u16) {
    // SAFETY: of the caller.
    unsafe {
        asm!("*(u16 *)({to} + 0) = {word}", to = in(reg) to, word = in(reg) u64::from(word), options(nostack))
    };
}
