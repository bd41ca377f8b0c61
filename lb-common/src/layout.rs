//! `layout!`: what a type must satisfy to be a map key or value.
//!
//! The kernel compares keys and copies values as bytes: hidden padding would make equal keys differ and leak stack
//! bytes, so a type lists its fields here and the sum of their sizes must be the size of the type.

/// Asserts size and absence of padding, and declares the type plain data for userspace maps.
macro_rules! layout {
    ($t:ty = $size:literal: $($field:ident),+ $(,)?) => {
        const _: () = {
            assert!(core::mem::size_of::<$t>() == $size, concat!(stringify!($t), " changed its size: bump maps::SCHEMA"));
            const fn size_of_field<T, F>(_: fn(&T) -> &F) -> usize {
                core::mem::size_of::<F>()
            }
            assert!(
                0 $(+ size_of_field::<$t, _>(|v| &v.$field))+ == $size,
                concat!(stringify!($t), " has hidden padding")
            );
        };
        // SAFETY: repr(C), Copy, made of integers and byte arrays only, and without padding as asserted above.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $t {}
    };
}
