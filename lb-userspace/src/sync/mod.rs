//! Flow replication: the owner of a virtual address tells its peers of every established flow, so that whoever takes the
//! address over goes on with them.
//!
//! ```text
//!   FLOW_EVENTS ─┐                                            ┌─▶ FLOWS, FLOW_KEYS (datapath::replica)
//!   the sweep ───┴▶ node ─▶ table ─▶ peer ─▶ auth ─▶ UDP ─▶ … ┘
//!                    └ gate ─▶ election: a node that comes back pre-empts once it has what the owner has
//! ```
//! `wire` is what messages look like, `auth` what seals them, `index` the sums that two nodes compare, `table` whose word
//! counts, `hold` what waits for peers' confirmation, `pull` and `peer` the talk with one peer, `node` all of it together, `io` the socket. All but `io` do no I/O
//! and read no clock. The control loop drives `io` and owns the flow table.

pub mod auth;
pub mod directory;
pub mod gate;
pub mod hold;
mod index;
pub mod io;
pub mod node;
pub mod peer;
pub mod pull;
mod shown;
pub mod table;
#[cfg(test)]
mod testing;
pub mod wire;

pub use io::Driver;
pub use node::Setup;
