//! The lab: a small network in namespaces with two balancers, a database cluster and a client.
//!
//! `viplb-lab` (driven by `cargo xtask run` and `cargo xtask lab`) and the integration tests are its callers.
//! Everything a lab makes is named after its prefix, so that several labs can live side by side and
//! [`down::down`] can remove one without any record of it. Nothing here may touch the host's own network,
//! and no process may be signalled that does not live in one of the lab's namespaces.

pub mod bench;
pub mod books;
pub mod console;
pub mod daemon;
pub mod decapsulator;
pub mod down;
pub mod expect;
pub mod foreign;
pub mod galera;
pub mod hosts;
pub mod keepalived;
pub mod lab;
pub mod netns;
pub mod node;
pub mod packets;
pub mod pair;
pub mod proc;
pub mod screen;
pub mod sql;
pub mod standin;
pub mod status;
pub mod steady;
pub mod test_run;
pub mod tryout;
pub mod vip;
pub mod vrrp_net;
pub mod watch;
pub mod wire;
pub mod writer;
