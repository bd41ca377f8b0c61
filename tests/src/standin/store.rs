//! The rows: a set of 64-bit keys, shared between the stand-ins of a lab through an append-only file.
//!
//! A key is appended with one write, so writers need no lock; readers take in what was added since they last
//! looked. Two nodes that append the same key at the same moment both say yes, and the row counts once.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read, Write},
    ops::RangeInclusive,
    path::Path,
    sync::{Mutex, PoisonError},
};

/// Rows of `app.lab_rows`.
#[derive(Debug, Default)]
pub struct Store {
    file: Option<File>,
    keys: Mutex<(BTreeSet<u64>, Reader)>,
}

/// The reading end of the file, if there is one.
type Reader = Option<File>;

impl Store {
    /// Rows of this process alone.
    pub fn in_memory() -> Self {
        Store::default()
    }

    /// Rows shared with every process that opens the same file.
    pub fn shared(path: &Path) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        let reader = File::open(path)?;
        Ok(Store { file: Some(file), keys: Mutex::new((BTreeSet::new(), Some(reader))) })
    }

    /// Adds a row; `false` if there is one with that key.
    pub fn insert(&self, key: u64) -> io::Result<bool> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        catch_up(&mut keys)?;
        if !keys.0.insert(key) {
            return Ok(false);
        }
        if let Some(mut file) = self.file.as_ref() {
            file.write_all(&key.to_le_bytes())?;
        }
        Ok(true)
    }

    /// Counts the rows whose key is in the range.
    pub fn count(&self, range: RangeInclusive<u64>) -> io::Result<u64> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        catch_up(&mut keys)?;
        Ok(keys.0.range(range).count() as u64)
    }
}

fn catch_up((keys, reader): &mut (BTreeSet<u64>, Reader)) -> io::Result<()> {
    let Some(reader) = reader else { return Ok(()) };
    let mut added = Vec::new();
    reader.read_to_end(&mut added)?;
    keys.extend(
        added.chunks_exact(8).map(|c| u64::from_le_bytes([c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]])),
    );
    Ok(())
}
