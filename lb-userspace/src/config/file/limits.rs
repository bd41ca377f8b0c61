//! The keys of `[service.NAME]` about its connections, as written: sources towards backends, and how long flows may be silent.

use std::{net::IpAddr, ops::RangeInclusive, time::Duration};

use toml::{Spanned, de::DeTable};

use super::DAY;
use crate::config::{
    address,
    diagnostic::Report,
    reader::{Bare, Field, Reader, Refusal},
};

/// `[service.NAME.timeouts]`.
#[derive(Default)]
pub struct Timeouts {
    /// `established`.
    pub established: Field<Duration>,
    /// `half_open`.
    pub half_open: Field<Duration>,
    /// `closing`.
    pub closing: Field<Duration>,
    /// `closed`.
    pub closed: Field<Duration>,
    /// `udp`.
    pub udp: Field<Duration>,
}

/// Reads a service's `snat`.
pub fn read_snat(r: &mut Reader<'_, '_>) -> Field<Vec<Spanned<IpAddr>>> {
    r.list("snat", address::host)
}

/// Reads a service's time-outs.
pub fn read_timeouts(service: &str, table: &Spanned<&DeTable<'_>>, report: &mut Report) -> Timeouts {
    let title = format!("[service.{service}.timeouts]");
    let mut r = Reader::new(table.get_ref(), title, table.span(), report).hints(TIMEOUT_HINTS);
    let timeouts = Timeouts {
        // Less would end connections that keepalives or polls of a minute keep up.
        established: r.duration("established", Bare::Refused, MINUTE..=30 * DAY),
        // A SYN is repeated after 1 and 3 s.
        half_open: r.duration("half_open", Bare::Refused, Duration::from_secs(4)..=10 * MINUTE),
        closing: r.duration("closing", Bare::Refused, SHORT),
        closed: r.duration("closed", Bare::Refused, SHORT),
        udp: r.duration("udp", Bare::Refused, Duration::from_secs(1)..=DAY),
    };
    r.finish();
    timeouts
}

/// Reads a range of ports, `"40000-40063"`.
pub fn parse_ports(text: &str) -> Result<(u16, u16), Refusal> {
    let ends = text.split_once('-').and_then(|(first, last)| {
        Some((first.trim().parse::<u16>().ok()?, last.trim().parse::<u16>().ok()?))
    });
    match ends {
        Some((first, last)) if 1024 <= first && first <= last => Ok((first, last)),
        Some((first, last)) if first > last => Err((
            format!("`{}` ends before it begins", text.escape_debug()),
            Some(format!("write \"{last}-{first}\"")),
        )),
        Some(_) => {
            let help = "ports below 1024 are those of the node's own services";
            Err((format!("`{}` begins below 1024", text.escape_debug()), Some(help.into())))
        }
        None => {
            let help = "the first and the last port, as \"20000-29999\"";
            Err((format!("`{}` is no range of ports", text.escape_debug()), Some(help.into())))
        }
    }
}

const MINUTE: Duration = Duration::from_secs(60);
const SHORT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);

const TIMEOUT_HINTS: super::Hints = &[
    ("client", "write `established`: the packet programs see both sides of a connection at once"),
    ("server", "write `established`: the packet programs see both sides of a connection at once"),
    ("tunnel", "write `established`"),
    ("connect", "write `half_open`"),
    ("tcp", "write `established`"),
    ("tcpfin", "write `closing`"),
];
