//! `[service.NAME.discover]`, as written. `service` calls.

use std::time::Duration;

use toml::{Spanned, de::DeTable};

use super::{DAY, Hints, access};
use crate::config::{
    diagnostic::Report,
    model::Prefix,
    reader::{Bare, Field, Reader},
};

/// `discover`.
#[derive(Default)]
pub struct Discovery {
    /// `networks`.
    pub networks: Field<Vec<Spanned<Prefix>>>,
    /// `most`.
    pub most: Field<u32>,
    /// `forget`.
    pub forget: Field<Duration>,
}

/// Reads it.
pub fn read(service: &str, table: &Spanned<&DeTable<'_>>, report: &mut Report) -> Discovery {
    let title = format!("[service.{service}.discover]");
    let mut r = Reader::new(table.get_ref(), title, table.span(), report).hints(HINTS);
    let discovery = Discovery {
        networks: r.list("networks", access::parse_prefix),
        most: r.integer("most", 1..=MOST_MEMBERS),
        forget: r.duration("forget", Bare::Refused, Duration::from_secs(1)..=DAY),
    };
    r.require("networks", &discovery.networks, "networks = [\"172.18.0.0/16\"]");
    r.finish();
    discovery
}

/// No cluster has more members.
const MOST_MEMBERS: u32 = 64;

const HINTS: Hints = &[("network", "write `networks`"), ("limit", "write `most`"), ("max", "write `most`")];
