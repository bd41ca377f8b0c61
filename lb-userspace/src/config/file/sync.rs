//! `[sync]` as written. `file` calls [`read`] for it.

use std::{net::SocketAddr, ops::RangeInclusive, time::Duration};

use toml::{Spanned, de::DeTable};

use super::{HOUR, Hints, address};
use crate::config::{
    diagnostic::Report,
    model::SYNC_PORT,
    reader::{Bare, Field, Reader},
};

/// `[sync]`.
pub struct Sync {
    /// The section, for what is missing in it.
    pub place: std::ops::Range<usize>,
    /// `peers`.
    pub peers: Field<Vec<Spanned<SocketAddr>>>,
    /// `listen`.
    pub listen: Field<SocketAddr>,
    /// `key_file`.
    pub key_file: Field<String>,
    /// `failback_wait`.
    pub failback_wait: Field<Duration>,
    /// `strict_wait`.
    pub strict_wait: Field<Duration>,
}

/// Reads the section.
pub fn read(table: &Spanned<&DeTable<'_>>, report: &mut Report) -> Sync {
    let mut r = Reader::new(table.get_ref(), "[sync]", table.span(), report).hints(SYNC_HINTS);
    let sync = Sync {
        place: table.span(),
        peers: r.list("peers", |text| address::endpoint(text).map(|e| e.with_port(SYNC_PORT))),
        listen: r.parsed("listen", address::local),
        key_file: r.string("key_file"),
        failback_wait: r.duration("failback_wait", Bare::Seconds, WAIT),
        strict_wait: r.duration("strict_wait", Bare::Refused, STRICT_WAIT),
    };
    r.require("key_file", &sync.key_file, "key_file = \"sync.key\"");
    r.finish();
    sync
}

const WAIT: RangeInclusive<Duration> = Duration::ZERO..=HOUR;
/// Less than what a client waits before it repeats its SYN.
const STRICT_WAIT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_millis(500);

/// Words of conntrackd and pfsync.
const SYNC_HINTS: Hints = &[
    ("syncpeer", "write `peers = [\"172.18.0.8\"]`"),
    ("interface", "write `listen = \"ADDRESS:PORT\"`"),
    ("key", "write the key into a file of its own, and `key_file = \"sync.key\"`"),
];
