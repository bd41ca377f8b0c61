//! What viplb knows about Galera: a node's state as two SHOW statements give it ([`Observation`]), what follows from
//! the states of all nodes of a service ([`policy`]), which node is the writer ([`writer`]), which nodes there are that
//! nobody has named ([`members`]), and how a stopped cluster is started again ([`plan`], from the files that [`files`] reads).
//!
//! All of it is pure. The `galera` check brings observations, `health::pool` applies the policy, `cli/galera` prints.

pub mod files;
pub mod members;
mod observation;
pub mod plan;
pub mod policy;
pub mod writer;

pub use observation::{Observation, STATUS_NAMES, Seen, VARIABLE_NAMES};
