//! The keys of `[service.NAME]` about clients, as written: who may connect, and how fast.

use std::{net::IpAddr, ops::RangeInclusive};

use toml::{Spanned, de::DeTable};

use super::choice::MOST_CONNECTIONS;
use crate::config::{
    diagnostic::Report,
    model::{DenyAction, Prefix},
    reader::{Field, Reader, Refusal},
};

/// `allow`, `deny`, `deny_action`.
pub struct Access {
    /// `allow`.
    pub allow: Field<Vec<Spanned<Prefix>>>,
    /// `deny`.
    pub deny: Field<Vec<Spanned<Prefix>>>,
    /// `deny_action`.
    pub deny_action: Field<DenyAction>,
}

/// `client_limit`.
#[derive(Default)]
pub struct ClientLimit {
    /// `rate`: connections in a number of seconds.
    pub rate: Field<(u32, u32)>,
    /// `burst`.
    pub burst: Field<u32>,
    /// `connections`.
    pub connections: Field<u32>,
    /// `prefix_v4`.
    pub prefix_v4: Field<u8>,
    /// `prefix_v6`.
    pub prefix_v6: Field<u8>,
}

/// Reads the lists of a service.
pub fn read(r: &mut Reader<'_, '_>) -> Access {
    Access {
        allow: r.list("allow", parse_prefix),
        deny: r.list("deny", parse_prefix),
        deny_action: r.choice("deny_action", &[("drop", DenyAction::Drop), ("reset", DenyAction::Reset)]),
    }
}

/// Reads a service's `client_limit`.
pub fn read_limit(service: &str, table: &Spanned<&DeTable<'_>>, report: &mut Report) -> ClientLimit {
    let title = format!("[service.{service}.client_limit]");
    let mut r = Reader::new(table.get_ref(), title, table.span(), report);
    let limit = ClientLimit {
        rate: r.parsed("rate", parse_rate),
        burst: r.integer("burst", 1..=1_000_000),
        connections: r.integer("connections", 1..=MOST_CONNECTIONS),
        prefix_v4: r.integer("prefix_v4", 0..=32),
        prefix_v6: r.integer("prefix_v6", 0..=128),
    };
    if limit.connections.is_absent() {
        r.require("rate", &limit.rate, "rate = \"100/s\"");
    }
    r.finish();
    limit
}

/// `"10.0.0.0/8"`, `"fd00::/8"`, `"10.1.2.3"`.
pub(super) fn parse_prefix(text: &str) -> Result<Prefix, Refusal> {
    let shown = text.escape_debug();
    let no_prefix = || {
        let help = "an address and a length, as \"10.0.0.0/8\" or \"fd00::/8\", or an address alone";
        (format!("`{shown}` is no prefix"), Some(help.to_owned()))
    };
    let (addr, len) = text.split_once('/').map_or((text, None), |(addr, len)| (addr, Some(len)));
    let addr: IpAddr = addr.trim().parse().map_err(|_| no_prefix())?;
    let most = if addr.is_ipv4() { 32 } else { 128 };
    let len = match len {
        None => most,
        Some(len) => len.trim().parse().ok().filter(|len| *len <= most).ok_or_else(no_prefix)?,
    };
    let prefix = Prefix { addr, len };
    let whole = prefix.network();
    if whole != addr {
        let help = format!("write \"{whole}/{len}\", or \"{addr}\" for this address alone");
        return Err((format!("`{shown}` has bits behind its {len}"), Some(help)));
    }
    Ok(prefix)
}

/// `"100/s"`, `"30/m"`.
fn parse_rate(text: &str) -> Result<(u32, u32), Refusal> {
    const COUNT: RangeInclusive<u32> = 1..=1_000_000;
    let read = text.split_once('/').and_then(|(count, unit)| {
        let seconds = match unit.trim() {
            "s" => 1,
            "m" => 60,
            _ => return None,
        };
        Some((count.trim().parse().ok().filter(|n| COUNT.contains(n))?, seconds))
    });
    read.ok_or_else(|| {
        let help = "connections by second or minute, as \"100/s\" or \"30/m\", 1 to 1000000";
        (format!("`{}` is no rate", text.escape_debug()), Some(help.into()))
    })
}
