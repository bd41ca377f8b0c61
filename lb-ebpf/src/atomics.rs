//! Operations on words that several processors write, each one instruction of the kernel's.

use core::arch::asm;

/// Rust offers no compare-and-exchange for this target, though its instruction set has one (version 3; Linux 5.12). In the
/// kernel it is fully ordered.
#[inline(always)]
pub fn compare_exchange(p: *mut u64, from: u64, to: u64) -> bool {
    let found: u64;
    // SAFETY: an aligned word of a live array element.
    unsafe {
        asm!("r0 = cmpxchg_64({p} + 0, r0, {to})", p = in(reg) p, to = in(reg) to, inout("r0") from => found);
    }
    found == from
}

/// Likewise of an addition: gives the former value.
#[inline(always)]
pub fn fetch_add(p: *mut u64, more: u64) -> u64 {
    let mut value = more;
    // SAFETY: an aligned word of a live array element.
    unsafe {
        asm!("{value} = atomic_fetch_add((u64 *)({p} + 0), {value})", p = in(reg) p, value = inout(reg) value);
    }
    value
}

/// Likewise of setting bits.
#[inline(always)]
pub fn fetch_or(p: *mut u64, bits: u64) -> u64 {
    let mut value = bits;
    // SAFETY: an aligned word of a live array element.
    unsafe {
        asm!("{value} = atomic_fetch_or((u64 *)({p} + 0), {value})", p = in(reg) p, value = inout(reg) value);
    }
    value
}

/// Likewise of clearing bits.
#[inline(always)]
pub fn fetch_and(p: *mut u64, keep: u64) -> u64 {
    let mut value = keep;
    // SAFETY: an aligned word of a live array element.
    unsafe {
        asm!("{value} = atomic_fetch_and((u64 *)({p} + 0), {value})", p = in(reg) p, value = inout(reg) value);
    }
    value
}

/// The low 31 bits of a number, of which the compiler does not know where they come from, so that it leaves out no comparison. (With
/// no instruction at all two lines would begin at the next one, which the kernel refuses.)
#[inline(always)]
pub fn opaque(mut i: u64) -> u64 {
    // SAFETY: reads and writes a register.
    unsafe { asm!("{i} &= 0x7fffffff", i = inout(reg) i) };
    i
}
