//! Secrets of the configuration: which words of the file hold one, and how one is read from a file of its own.
//!
//! `diagnostic` asks this module what it must not show; `resolve` reads `password_file` and `auth_pass_file` with
//! it. Nothing here puts a secret into a message.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, Read},
    ops::Range,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use super::spelling;

/// Why a password file was refused.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be opened or read.
    #[error("cannot read `{path}`: {reason}")]
    Unreadable {
        /// The file.
        path: String,
        /// The system's words.
        reason: String,
    },
    /// Everybody on this host can read it.
    #[error("`{0}` can be read by every user of this host")]
    WorldReadable(String),
    /// It is something else than a file with one line.
    #[error("`{path}` {problem}")]
    Unfit {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl SecretError {
    /// What to do about it.
    pub fn help(&self) -> String {
        match self {
            Self::Unreadable { .. } => "the daemon reads it when it starts; give a path it may open".into(),
            Self::WorldReadable(path) => format!("run `chmod 600 {path}`"),
            Self::Unfit { .. } => "the file holds the password on one line and nothing else".into(),
        }
    }
}

/// Reads the one line of a password file, refusing one that every user may read.
pub fn read_file(path: &Path) -> Result<String, SecretError> {
    let name = || path.display().to_string();
    let unreadable = |e: io::Error| SecretError::Unreadable { path: name(), reason: os_reason(&e) };
    let unfit = |problem| SecretError::Unfit { path: name(), problem };

    // Without O_NONBLOCK, opening a FIFO would wait for its writer for ever.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(unfit("is not a regular file"));
    }
    if world_readable(&metadata) {
        return Err(SecretError::WorldReadable(name()));
    }
    let text = read_limited(file).map_err(unreadable)?.ok_or_else(|| unfit("is longer than 4 KiB"))?;
    let line = text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t));
    match line {
        "" => Err(unfit("is empty")),
        line if line.contains(['\n', '\0']) => Err(unfit("holds more than one line")),
        line => Ok(line.to_owned()),
    }
}

/// Whether users that are neither owner nor group may read a file.
pub fn world_readable(metadata: &Metadata) -> bool {
    metadata.mode() & 0o004 != 0
}

/// The system's words for an error, without Rust's `(os error 2)`.
pub fn os_reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// Whether the value of a key of this name must never be shown: a password key, also misspelt. `password_file`
/// holds a path, which may be shown.
pub fn is_secret_key(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let named = ["pass", "pwd", "secret"].iter().any(|part| key.contains(part));
    let misspelt = ["password", "auth_pass"].iter().any(|word| spelling::distance(&key, word) <= 2);
    (named || misspelt) && !key.ends_with("_file")
}

/// What looks like a secret in `source`, whatever its syntax: the rest of a line after a word like `password`, and
/// the lines after it when a multi-line string opens there. Sorted, not overlapping.
pub fn guess_spans(source: &str) -> Vec<Range<usize>> {
    let mut spans = Vec::new();
    let mut at = 0;
    while at < source.len() {
        let line_end = source[at..].find('\n').map_or(source.len(), |i| at + i);
        let Some(start) = value_after_secret_word(&source[at..line_end]).map(|i| at + i) else {
            at = line_end + 1;
            continue;
        };
        let end = end_of_value(source, start, line_end);
        spans.push(start..end);
        // Behind the secret word, so it gets on; what follows may be a character of several bytes.
        at = end;
    }
    spans
}

/// Where on `line` the value of a secret key begins, as far as one can tell without a parser.
fn value_after_secret_word(line: &str) -> Option<usize> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let mut at = 0;
    while let Some(start) = line[at..].find(is_word).map(|i| at + i) {
        let end = line[start..].find(|c| !is_word(c)).map_or(line.len(), |i| start + i);
        at = end;
        if !is_secret_key(&line[start..end]) {
            continue;
        }
        let rest = line[end..].trim_start_matches(['"', '\'']);
        let value = rest.trim_start_matches([' ', '\t', '=', ':']);
        if value.len() < rest.len() && !value.trim_end().is_empty() {
            return Some(line.len() - value.len());
        }
    }
    None
}

/// A value ends with its line, or where its multi-line string closes, or with the file.
fn end_of_value(source: &str, start: usize, line_end: usize) -> usize {
    for quotes in ["\"\"\"", "'''"] {
        if let Some(body) = source[start..].strip_prefix(quotes) {
            let close = body.find(quotes).map_or(source.len(), |i| start + 3 + i + 3);
            return close.max(line_end);
        }
    }
    start + source[start..line_end].trim_end().len()
}

/// At most 4 KiB of text; `None` if there is more.
fn read_limited(file: File) -> io::Result<Option<String>> {
    let mut text = String::new();
    file.take(LIMIT_BYTES + 1).read_to_string(&mut text)?;
    Ok((text.len() as u64 <= LIMIT_BYTES).then_some(text))
}

const LIMIT_BYTES: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_a_secret_at_once_may_be_any_character() {
        for text in ["password = \"\"\"a\"\"\"𝒥\nb = 1", "password = \"\"\"\n𝒥", "password ="] {
            assert_eq!(guess_spans(text).len(), usize::from(text.len() > 10), "{text}");
        }
    }
}
