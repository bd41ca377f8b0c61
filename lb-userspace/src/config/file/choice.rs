//! The keys of `[service.NAME]` about how a backend is chosen, as written: scheduler, persistence, limits.

use std::time::Duration;

use super::DAY;
use crate::config::{
    model::Scheduler,
    reader::{Bare, Field, Reader, Refusal},
};

/// As many connections as anything may be limited to: more than any table holds.
pub const MOST_CONNECTIONS: u32 = 1_000_000_000;

/// Keys about how a backend is chosen.
pub struct ChoiceKeys {
    /// `scheduler`.
    pub scheduler: Field<Scheduler>,
    /// `hash_table_size`.
    pub hash_table_size: Field<u32>,
    /// `persistence_timeout`.
    pub persistence_timeout: Field<Duration>,
    /// `persistence_prefix`.
    pub persistence_prefix: Field<u8>,
    /// `max_connections`.
    pub max_connections: Field<u32>,
}

/// Reads them from a service's section.
pub fn read(r: &mut Reader<'_, '_>) -> ChoiceKeys {
    ChoiceKeys {
        scheduler: r.parsed("scheduler", parse_scheduler),
        hash_table_size: r.integer("hash_table_size", 251..=131_071),
        persistence_timeout: r.duration("persistence_timeout", Bare::Seconds, Duration::from_secs(1)..=DAY),
        persistence_prefix: r.integer("persistence_prefix", 1..=128),
        max_connections: r.integer("max_connections", 1..=MOST_CONNECTIONS),
    }
}

/// IPVS's names, and HAProxy's for what is the same. HAProxy's round robin and its fewest connections go by weights.
fn parse_scheduler(text: &str) -> Result<Scheduler, Refusal> {
    if let Some(s) = Scheduler::ALL.into_iter().find(|s| s.word() == text) {
        return Ok(s);
    }
    match text {
        "roundrobin" | "static-rr" => Ok(Scheduler::Wrr),
        "leastconn" => Ok(Scheduler::Wlc),
        "source" => Ok(Scheduler::Sh),
        "maglev" => Ok(Scheduler::Mh),
        "first" => Ok(Scheduler::Fo),
        "random" => Ok(Scheduler::Twos),
        _ => {
            let help = match text {
                "sed" | "nq" => "write \"wlc\": it counts the new connection too".to_owned(),
                "ovf" => "write \"fo\", and `max_connections` of the backends".to_owned(),
                "lblc" | "lblcr" => "write \"dh\", and `max_connections` of the backends".to_owned(),
                _ => {
                    let offered: Vec<_> =
                        Scheduler::ALL.iter().map(|s| format!("\"{}\"", s.word())).collect();
                    format!("offered: {}", offered.join(", "))
                }
            };
            Err((format!("`scheduler` cannot be \"{}\"", text.escape_debug()), Some(help)))
        }
    }
}
