//! The election: which node owns the virtual addresses, and for how long the packet programs may believe it.
//!
//! `packet` (wire form) and `timers` (arithmetic) serve `router`, the state machine of one virtual router, which
//! does no I/O and reads no clock. `io` is the one thread that drives all of a node's routers through `socket` and
//! `announce`; the control loop sees only [`Driver`], [`Lease`] and [`Event`].
//!
//! `realtime` keeps that thread punctual, `group` keeps routers together that own together.
//!
//! RFC map: 3768 §5.3, 2338 §5.3.6 (PASS) and 9568 §5 → `packet`; §6.1 → `timers`; §6.4 → `router`; §7.1 → `packet`;
//! §8.2 (gratuitous ARP) → `announce`. What differs, and why, is in `docs/vrrp.md`.

pub mod announce;
mod counters;
pub mod group;
mod io;
pub mod packet;
mod realtime;
pub mod router;
mod socket;
mod time;
pub mod timers;

pub use counters::Counters;
pub(crate) use io::check;
pub use io::{Driver, Event, Lease, Noted, Opened, RouterSetup, Setup, Spent};
pub use realtime::Scheduling;
pub use router::{PeerState, Reason, State, TAKE_IN, Tracked};
pub use socket::StartError;
pub use time::BootTime;
