//! `layout!`: what a type must satisfy to be a map key or value, and what is told of it to later releases.
//!
//! The kernel compares keys and copies values as bytes: hidden padding would make equal keys differ and leak stack
//! bytes, so a type lists its fields here and the sum of their sizes must be the size of the type.
//!
//! A later release finds records of this one by the names of their fields (`describe`). So a field keeps its name only as long as its
//! meaning and its size stay; with another it gets another name. And zero in a new field must mean what was so before there was
//! such a field: that is what records of older releases have there.

/// A field of a map's key or value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Where it is, bytes.
    pub offset: usize,
    /// How long it is, bytes.
    pub size: usize,
}

/// What keys and values are made of.
pub trait Layout {
    /// The fields in the order of their names here; none of a plain value, which is a whole.
    const FIELDS: &'static [Field] = &[];
}

impl Layout for () {}
impl Layout for u32 {}
impl Layout for u64 {}
impl Layout for crate::addr::Addr {}
impl Layout for crate::addr::Port {}

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
        impl $crate::layout::Layout for $t {
            const FIELDS: &'static [$crate::layout::Field] = {
                const fn size_of_field<T, F>(_: fn(&T) -> &F) -> usize {
                    core::mem::size_of::<F>()
                }
                &[$($crate::layout::Field {
                    name: stringify!($field),
                    offset: core::mem::offset_of!($t, $field),
                    size: size_of_field::<$t, _>(|v| &v.$field),
                }),+]
            };
        }
        // SAFETY: repr(C), Copy, made of integers and byte arrays only, and without padding as asserted above.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $t {}
    };
}
