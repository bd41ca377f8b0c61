//! Measurements: what `viplb-bench` (driven by `cargo xtask bench`) times and counts, one module for each bench.
//!
//! Every bench ends in [`row::Row`]s, which are printed as the table and written as JSON, and nothing is printed that is
//! not in a row. The pieces (prober, echo servers, ARP watch, scene) also serve the tests that show the same behaviour
//! once. Nothing here may touch the host's own network: all traffic is between namespaces of the bench's own labs.

pub mod arp;
pub mod blackout;
pub mod change;
pub mod echo;
pub mod election;
pub mod event;
pub mod failover;
pub mod faults;
pub mod flood;
pub mod forward;
pub mod hogs;
pub mod prober;
pub mod program;
pub mod punctual;
pub mod report;
pub mod row;
pub mod scene;
pub mod strict;
pub mod survive;
