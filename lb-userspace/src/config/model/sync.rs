//! The part of the model that is about flow replication.

use std::{fmt, net::SocketAddr, time::Duration};

/// `[sync]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sync {
    /// The other nodes. Default the `unicast_peer` of all routers, on [`SYNC_PORT`].
    pub peers: Vec<SocketAddr>,
    /// Where they are heard, and from where they are spoken to. Default every address, on [`SYNC_PORT`].
    pub listen: SocketAddr,
    /// The shared keys; the first seals, all of them are believed.
    pub keys: Vec<SyncKey>,
    /// How long a node that has come back waits for the owner's flows before it pre-empts without them. Default 30 s.
    pub failback_wait: Duration,
    /// How long the SYN-ACK of a strict service's connection waits for peers at most. Default 10 ms.
    pub strict_wait: Duration,
}

/// The UDP port of flow replication unless configured otherwise.
pub const SYNC_PORT: u16 = 29_113;

/// A key and its id; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct SyncKey {
    /// 0–255; the same key has the same id on all nodes.
    pub id: u8,
    /// The secret, as its bytes stand in the file.
    pub secret: Vec<u8>,
}

impl fmt::Debug for SyncKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SyncKey({}, …)", self.id)
    }
}
