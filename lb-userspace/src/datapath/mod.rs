//! The packet programs and their maps: the only module that knows aya.
//!
//! `load` brings programs and maps into the kernel and attaches them; `tables` writes what the control loop wants;
//! `lease` is what the VRRP thread renews; `counters` and `flows` read back. Everything is reached through
//! `Maps`, opened from pins, so that a status command after a crash uses the same code as the daemon.

pub mod access;
mod alive;
mod attach;
pub mod build;
mod bytes;
pub mod capture;
pub mod counters;
pub mod flows;
pub mod held;
mod layouts;
pub mod lease;
pub mod load;
mod mapped;
pub mod maps;
mod migrate;
pub mod observe;
mod occupancy;
pub mod pins;
pub mod ports;
pub mod preflight;
pub mod programs;
mod ranges;
mod raw;
mod renumber;
pub mod replica;
pub mod reset;
pub mod ring;
mod self_test;
mod syn;
pub mod tables;
mod tails;
pub mod xdp;
