//! `[track.NAME]` and the `track` of a router, as written.
//!
//! `file` calls [`read`] once per section; keys that belong to another type are unknown ones.

use std::{net::IpAddr, ops::RangeInclusive, time::Duration};

use toml::{Spanned, de::DeTable};

use super::{COUNT, HOUR, Hints, check_interface, check_name};
use crate::config::{
    address,
    diagnostic::Report,
    reader::{Bare, Entry, Field, Reader, Refusal},
};

/// `[track.NAME]`.
pub struct Track {
    /// The `NAME`, with its place.
    pub name: Spanned<String>,
    /// What its `type` asks for; `None` when that is missing or wrong.
    pub kind: Option<Kind>,
}

/// The keys of each type.
pub enum Kind {
    /// `type = "interface"`.
    Interface {
        /// `interface`.
        interface: Field<String>,
    },
    /// `type = "script"`.
    Script(Script),
    /// `type = "process"`.
    Process(Process),
    /// `type = "file"`.
    File {
        /// `file`.
        path: Field<String>,
        /// `interval`.
        interval: Field<Duration>,
    },
    /// `type = "backends"`.
    Backends {
        /// `service`.
        service: Field<String>,
        /// `quorum`.
        quorum: Field<u32>,
        /// `hysteresis`.
        hysteresis: Field<u32>,
    },
    /// `type = "peer"`.
    Peer {
        /// `address`.
        addr: Field<IpAddr>,
        /// `interval`.
        interval: Field<Duration>,
        /// `multiplier`.
        multiplier: Field<u32>,
    },
}

/// `type = "script"`.
pub struct Script {
    /// `command`.
    pub command: Field<Vec<Spanned<String>>>,
    /// `interval`.
    pub interval: Field<Duration>,
    /// `timeout`.
    pub timeout: Field<Duration>,
    /// `rise`.
    pub rise: Field<u32>,
    /// `fall`.
    pub fall: Field<u32>,
    /// `user`.
    pub user: Field<String>,
    /// `init`.
    pub init: Field<bool>,
}

/// `type = "process"`.
pub struct Process {
    /// `process`.
    pub name: Field<String>,
    /// `arguments`.
    pub arguments: Field<Vec<Spanned<String>>>,
    /// `quorum`.
    pub quorum: Field<u32>,
    /// `delay`.
    pub delay: Field<Duration>,
}

/// An element of a router's `track`.
pub struct Use {
    /// `name`, or the whole element.
    pub name: Field<String>,
    /// `weight`.
    pub weight: Field<i16>,
    /// `reverse`.
    pub reverse: Field<bool>,
}

#[derive(Clone, Copy)]
enum Type {
    Interface,
    Script,
    Process,
    File,
    Backends,
    Peer,
}

/// Reads one section.
pub fn read(name: Spanned<String>, table: &DeTable<'_>, report: &mut Report) -> Track {
    let title = format!("[track.{}]", name.get_ref());
    let mut r = Reader::new(table, title, name.span(), report).hints(TRACK_HINTS);
    let kind = r.choice("type", TYPES);
    r.require("type", &kind, "type = \"interface\"");
    let Some(kind) = kind.value().copied() else {
        // Which keys belong here cannot be told.
        return Track { name, kind: None };
    };
    let kind = match kind {
        Type::Interface => {
            let interface = r.parsed("interface", check_interface);
            r.require("interface", &interface, "interface = \"eth1\"");
            Kind::Interface { interface }
        }
        Type::Script => Kind::Script(read_script(&mut r)),
        Type::Process => Kind::Process(read_process(&mut r)),
        Type::File => {
            let path = r.string("file");
            r.require("file", &path, "file = \"/run/viplb/weight\"");
            Kind::File { path, interval: r.duration("interval", Bare::Seconds, INTERVAL) }
        }
        Type::Backends => {
            let service = r.parsed("service", check_name);
            r.require("service", &service, "service = \"mysql\"");
            let (quorum, hysteresis) = (r.integer("quorum", COUNT), r.integer("hysteresis", 0..=100));
            Kind::Backends { service, quorum, hysteresis }
        }
        Type::Peer => {
            let addr = r.parsed("address", address::host);
            r.require("address", &addr, "address = \"172.18.0.8\"");
            let interval = r.duration("interval", Bare::Refused, PROBE);
            Kind::Peer { addr, interval, multiplier: r.integer("multiplier", 1..=50) }
        }
    };
    r.finish();
    Track { name, kind: Some(kind) }
}

fn read_script(r: &mut Reader<'_, '_>) -> Script {
    let command = r.list("command", word);
    r.require("command", &command, "command = [\"/usr/local/bin/check\"]");
    Script {
        command,
        interval: r.duration("interval", Bare::Seconds, INTERVAL),
        timeout: r.duration("timeout", Bare::Seconds, TIMEOUT),
        rise: r.integer("rise", COUNT),
        fall: r.integer("fall", COUNT),
        user: r.string("user"),
        init: r.choice("init", &[("up", true), ("down", false)]),
    }
}

fn read_process(r: &mut Reader<'_, '_>) -> Process {
    let name = r.parsed("process", process_name);
    r.require("process", &name, "process = \"mariadbd\"");
    Process {
        name,
        arguments: r.list("arguments", word),
        quorum: r.integer("quorum", 1..=10_000),
        delay: r.duration("delay", Bare::Seconds, Duration::ZERO..=HOUR),
    }
}

/// `"NAME"` or `{ name = "NAME", weight = -20, reverse = true }`.
pub fn read_use(entry: Entry<'_>, report: &mut Report) -> Field<Use> {
    match entry {
        Entry::Text(text) => {
            let used =
                Use { name: Field::Given(text.clone()), weight: Field::Absent, reverse: Field::Absent };
            Field::Given(Spanned::new(text.span(), used))
        }
        Entry::Table(table) => {
            let mut r = Reader::new(table.get_ref(), "`track`", table.span(), report);
            let used = Use {
                name: r.string("name"),
                weight: r.integer("weight", -253..=253),
                reverse: r.boolean("reverse"),
            };
            r.require("name", &used.name, "name = \"uplink\"");
            r.finish();
            Field::Given(Spanned::new(table.span(), used))
        }
    }
}

/// A word of a command line.
pub fn word(text: &str) -> Result<String, Refusal> {
    if text.contains('\0') {
        return Err(("a word of a command line cannot hold a NUL".into(), None));
    }
    Ok(text.to_owned())
}

fn process_name(text: &str) -> Result<String, Refusal> {
    if text.is_empty() || text.contains(['/', '\0']) {
        let message = format!("`{}` cannot be the name of a process", text.escape_debug());
        return Err((message, Some("write the program's name without its directory".into())));
    }
    Ok(text.to_owned())
}

const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=HOUR;
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=HOUR;
const PROBE: RangeInclusive<Duration> = Duration::from_millis(10)..=HOUR;

const TYPES: &[(&str, Type)] = &[
    ("interface", Type::Interface),
    ("script", Type::Script),
    ("process", Type::Process),
    ("file", Type::File),
    ("backends", Type::Backends),
    ("peer", Type::Peer),
];

const TRACK_HINTS: Hints = &[
    ("script", "write `command = [\"/path/program\", \"argument\"]`"),
    ("weight", "write it where it is used: `track = [{ name = \"…\", weight = -20 }]` in `[vrrp.NAME]`"),
    ("reverse", "write it where it is used: `track = [{ name = \"…\", reverse = true }]` in `[vrrp.NAME]`"),
    ("init_fail", "write `init = \"down\"`"),
    ("neighbor_ip", "write `address`"),
    ("min_rx", "write `interval`"),
    ("min_tx", "write `interval`"),
    ("param_match", "write `arguments = [\"…\"]`: what the process's arguments begin with"),
    ("fork_delay", "write `delay`"),
    ("terminate_delay", "write `delay`"),
];
