//! viplb's daemon and command line, as a library so that tests reach every part.
//!
//! Control is read in this order: `config → control → {vrrp, health, sync} → datapath → api → cli`.

pub mod api;
pub mod cli;
pub mod config;
pub mod control;
pub mod datapath;
pub mod galera;
pub mod health;
pub mod log;
pub mod netlink;
pub mod notify;
pub mod program;
mod sockets;
pub mod sync;
pub mod track;
pub mod units;
pub mod upgrade;
pub mod vrrp;
