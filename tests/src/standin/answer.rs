//! What the stand-in answers to a statement.
//!
//! Statements are recognised by their first words, never parsed. What is understood is valid MariaDB SQL, so that
//! a test can run the same statement against either: `INSERT … VALUES (KEY`, `SELECT COUNT(*) … [BETWEEN a AND b]`,
//! `SELECT REPEAT('c', n) [FROM seq_1_to_m]`, `SELECT LENGTH('…')`, `SELECT CRC32('…')`, `SELECT @@name`, `SHOW …`.

use super::{
    store::Store,
    wire::{Cell, Refusal, VERSION},
};

/// The outcome of a statement.
pub(super) enum Answer {
    /// Done; rows affected.
    Done(u8),
    /// Not done.
    Refused(Refusal),
    /// Names of the columns, and the rows.
    Rows(Vec<String>, Box<dyn Iterator<Item = Vec<Cell>> + Send>),
}

/// Words that need no more than a yes here.
const ACCEPTED: &[&str] =
    &["create", "drop", "set", "use", "begin", "start", "commit", "rollback", "truncate", "flush", "do"];

const STATUS: &[(&str, &str)] = &[
    ("wsrep_cluster_size", "1"),
    ("wsrep_cluster_status", "Primary"),
    ("wsrep_connected", "ON"),
    ("wsrep_local_state", "4"),
    ("wsrep_local_state_comment", "Synced"),
    ("wsrep_ready", "ON"),
];

const VARIABLES: &[(&str, &str)] = &[
    ("max_allowed_packet", "67108864"),
    ("read_only", "OFF"),
    ("version", VERSION),
    ("wait_timeout", "28800"),
    ("wsrep_desync", "OFF"),
    ("wsrep_reject_queries", "NONE"),
];

pub(super) fn answer(statement: &[u8], store: &Store) -> Answer {
    // A long statement is data: its head says what it is.
    let head = String::from_utf8_lossy(&statement[..statement.len().min(256)]).to_lowercase();
    let head = head.trim_start();
    let word = head.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    let found = match word {
        "insert" => return insert(head, store),
        "select" => select(head, statement, store),
        "show" => Some(show(head)),
        _ if ACCEPTED.contains(&word) => Some(Answer::Done(0)),
        _ => None,
    };
    found.unwrap_or_else(|| {
        let text = format!(
            "The stand-in does not know this statement: {}",
            head.chars().take(60).collect::<String>()
        );
        Answer::Refused(Refusal::new(1064, "42000", text))
    })
}

fn insert(head: &str, store: &Store) -> Answer {
    let Some(key) = after(head, "values (").and_then(number) else { return Answer::Done(1) };
    match store.insert(key) {
        Ok(true) => Answer::Done(1),
        Ok(false) => {
            let text = format!("Duplicate entry '{key}' for key 'PRIMARY'");
            Answer::Refused(Refusal::new(1062, "23000", text))
        }
        Err(e) => Answer::Refused(Refusal::new(1030, "HY000", e.to_string())),
    }
}

fn select(head: &str, statement: &[u8], store: &Store) -> Option<Answer> {
    let what = after(head, "select ")?.trim_start();
    if what.starts_with("count(*)") {
        return Some(count(head, store));
    }
    if what.starts_with("repeat(") {
        return repeat(head);
    }
    if what.starts_with("length(") {
        return quoted(statement).map(|text| one("length", text.len().to_string()));
    }
    if what.starts_with("crc32(") {
        return quoted(statement).map(|text| one("crc32", crc32(text).to_string()));
    }
    if what.starts_with("@@") {
        return Some(variables(what));
    }
    number(what).map(|n| one(&n.to_string(), n.to_string()))
}

fn count(head: &str, store: &Store) -> Answer {
    let bounds = after(head, " between ").and_then(|range| {
        let (low, high) = range.split_once(" and ")?;
        Some(number(low)?..=number(high)?)
    });
    match store.count(bounds.unwrap_or(0..=u64::MAX)) {
        Ok(n) => one("COUNT(*)", n.to_string()),
        Err(e) => Answer::Refused(Refusal::new(1030, "HY000", e.to_string())),
    }
}

/// `SELECT REPEAT('c', n)`, once or for each row of MariaDB's sequence `seq_1_to_m`.
fn repeat(head: &str) -> Option<Answer> {
    let (text, rest) = after(head, "repeat('")?.split_once('\'')?;
    let times = usize::try_from(number(rest.trim_start_matches([',', ' ']))?).ok()?;
    let rows = after(head, "seq_1_to_").and_then(number).unwrap_or(1);
    let cell = text.repeat(times).into_bytes();
    Some(Answer::Rows(vec!["repeat".to_owned()], Box::new((0..rows).map(move |_| vec![Some(cell.clone())]))))
}

fn variables(what: &str) -> Answer {
    let list = what.split(" limit ").next().unwrap_or_default();
    let names: Vec<String> =
        list.split(',').map(|name| name.trim().trim_start_matches("@@").to_owned()).collect();
    let value = |name: &String| {
        let known = VARIABLES.iter().find(|(known, _)| known == name);
        known.map(|(_, value)| value.as_bytes().to_vec())
    };
    let row: Vec<Cell> = names.iter().map(value).collect();
    Answer::Rows(names, Box::new(std::iter::once(row)))
}

/// `SHOW [GLOBAL] STATUS|VARIABLES [LIKE 'name%'|WHERE … IN ('name', …)]`: those whose name the statement holds.
fn show(head: &str) -> Answer {
    let table = if head.contains("status") { STATUS } else { VARIABLES };
    let wanted: Vec<String> = head.split('\'').skip(1).step_by(2).map(str::to_owned).collect();
    let matches = move |name: &str| {
        wanted.is_empty()
            || wanted.iter().any(|w| match w.strip_suffix('%') {
                Some(start) => name.starts_with(start),
                None => name == w,
            })
    };
    let rows = table.iter().filter(move |(name, _)| matches(name));
    let rows =
        rows.map(|(name, value)| vec![Some(name.as_bytes().to_vec()), Some(value.as_bytes().to_vec())]);
    Answer::Rows(vec!["Variable_name".to_owned(), "Value".to_owned()], Box::new(rows))
}

fn one(name: &str, value: String) -> Answer {
    Answer::Rows(vec![name.to_owned()], Box::new(std::iter::once(vec![Some(value.into_bytes())])))
}

fn after<'a>(text: &'a str, what: &str) -> Option<&'a str> {
    text.split_once(what).map(|(_, rest)| rest)
}

fn number(text: &str) -> Option<u64> {
    let text = text.trim_start();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

/// The text between the first and the last quote.
fn quoted(statement: &[u8]) -> Option<&[u8]> {
    let first = statement.iter().position(|b| *b == b'\'')?;
    let last = statement.iter().rposition(|b| *b == b'\'')?;
    statement.get(first + 1..last)
}

/// CRC-32 as SQL's `CRC32()` (polynomial 0xEDB88320).
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}
