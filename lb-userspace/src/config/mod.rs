//! `viplb.toml`: read the file, report every mistake in it, hand out a checked [`model::Config`].
//!
//! Three layers: `reader` and `file` (the form users write, value by value), `resolve` (defaults and everything that
//! compares two values), [`model`] (what the rest of the daemon works with). `viplb check`, the start and every
//! reload go through [`load`]. A file with one error yields no configuration at all.

pub mod diagnostic;
pub mod model;

mod address;
mod file;
pub(crate) mod reader;
mod resolve;
mod secret;
mod spelling;
#[cfg(test)]
mod tests;

use std::{fs, io, path::Path};

pub use diagnostic::{Diagnostic, Report, Severity};
pub use secret::{SecretError, os_reason};

use crate::program::{self, Unfit};
use model::{Config, RunAs};

/// A good file.
#[derive(Debug)]
pub struct Loaded {
    /// The checked configuration.
    pub config: Config,
    /// Warnings; often empty.
    pub warnings: Report,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read; one sentence.
    #[error("cannot read the configuration `{path}`: {reason}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// The file has mistakes; `Display` shows all of them.
    #[error("{0}")]
    Invalid(Report),
}

/// What a configuration takes from outside of its text.
pub struct Surroundings<'a> {
    /// Default of `[node] name`.
    pub host_name: String,
    /// Relative paths start here.
    pub directory: &'a Path,
    /// Reads a password file.
    pub read_secret: &'a dyn Fn(&Path) -> Result<String, SecretError>,
    /// Reads a file of keys.
    pub read_keys: &'a dyn Fn(&Path) -> Result<String, SecretError>,
    /// Whether a program may be run.
    pub check_program: &'a dyn Fn(&Path) -> Result<(), Unfit>,
    /// Looks a user up.
    pub find_user: &'a dyn Fn(&str) -> Option<RunAs>,
    /// Whether every user may read the configuration itself.
    pub world_readable: bool,
}

/// Reads and checks the configuration at `path`, and the password files it names.
pub fn load(path: &Path) -> Result<Loaded, LoadError> {
    check(path, &read(path)?)
}

/// The text of the configuration at `path`.
pub fn read(path: &Path) -> Result<String, LoadError> {
    let unreadable = |reason: String| LoadError::Unreadable { path: path.display().to_string(), reason };
    let metadata = fs::metadata(path).map_err(|e| unreadable(os_reason(&e)))?;
    if !metadata.is_file() {
        return Err(unreadable("it is not a regular file".into()));
    }
    if metadata.len() > LIMIT_BYTES {
        return Err(unreadable("it is longer than 1 MiB".into()));
    }
    fs::read_to_string(path).map_err(|e| match e.kind() {
        io::ErrorKind::InvalidData => unreadable("it is not UTF-8 text".into()),
        _ => unreadable(os_reason(&e)),
    })
}

/// Checks `text`, which stands in the file at `path`, or is to stand there.
pub fn check(path: &Path, text: &str) -> Result<Loaded, LoadError> {
    let around = Surroundings {
        host_name: host_name(),
        directory: path.parent().unwrap_or(Path::new("")),
        read_secret: &secret::read_file,
        read_keys: &secret::read_text,
        check_program: &program::check,
        find_user: &program::find_user,
        // Whoever could see what it is could have read it.
        world_readable: fs::metadata(path).is_ok_and(|metadata| secret::world_readable(&metadata)),
    };
    parse(text, &path.display().to_string(), &around).map_err(LoadError::Invalid)
}

/// Checks `text`, which messages call `path`. Reads nothing but what `around` offers, the host's users and `ca_file`s.
pub fn parse(text: &str, path: &str, around: &Surroundings<'_>) -> Result<Loaded, Report> {
    let mut report = Report::new(path, text);
    let file = file::read(text, &mut report);
    if report.errors() > 0 && file.vrrp.is_empty() && file.services.is_empty() {
        return Err(report);
    }
    match resolve::resolve(&file, &mut report, around) {
        Some(config) => Ok(Loaded { config, warnings: report }),
        None => Err(report),
    }
}

fn host_name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim_end().to_owned()
}

const LIMIT_BYTES: u64 = 1 << 20;
