//! Packet memory and checksums for the two front ends: the only files that dereference packet pointers.

pub mod tc;
pub mod xdp;
