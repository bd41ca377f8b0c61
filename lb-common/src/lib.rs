//! Types and pure functions shared by the packet programs and the daemon.
#![no_std]
