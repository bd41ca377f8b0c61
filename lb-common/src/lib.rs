//! Types and pure functions that the packet programs and the daemon must agree on.
//!
//! Everything here is `no_std` and free of I/O. Map keys and values are plain `repr(C)` bytes without hidden
//! padding (`layout!` asserts it); addresses and ports are kept in network order behind typed constructors, so that
//! byte order cannot be mixed up. A change to any map type is a change of [`maps::SCHEMA`];
//! what maps of another number hold is found by the description beside them.

#![cfg_attr(not(any(test, feature = "user")), no_std)]

#[macro_use]
pub mod layout;

pub mod access;
pub mod addr;
pub mod bench;
pub mod build;
pub mod checksum;
pub mod clock;
#[cfg(any(test, feature = "user"))]
pub mod describe;
pub mod fast;
pub mod flow;
pub mod flow_event;
pub mod fragment;
pub mod half_open;
pub mod hash;
pub mod held;
pub mod latency;
pub mod lease;
pub mod maps;
pub mod mode;
pub mod occupancy;
pub mod opening;
pub mod persistence;
pub mod ports;
pub mod probe;
pub mod reach;
pub mod reason;
pub mod sample;
pub mod schedule;
pub mod service;
pub mod settings;
pub mod stats;
pub mod text;
