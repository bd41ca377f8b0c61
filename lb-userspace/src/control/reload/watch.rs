//! Whether the file has changed since it was last taken in: `watch_config`.
//!
//! By what the file system tells of it, once a second. A change counts once it has stayed for one look: who writes a file in place
//! may not have come to its end.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

/// What tells one content from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    changed: (i64, i64),
    length: u64,
}

/// The file as it was last taken in, and as it was last seen.
#[derive(Debug, Default)]
pub struct Watch {
    taken: Option<Stamp>,
    seen: Option<Stamp>,
}

fn stamp(file: &Path) -> Option<Stamp> {
    let m = fs::metadata(file).ok()?;
    Some(Stamp { file: (m.dev(), m.ino()), changed: (m.mtime(), m.mtime_nsec()), length: m.len() })
}

impl Watch {
    /// It is being read now.
    pub fn note(&mut self, file: &Path) {
        self.taken = stamp(file);
        self.seen = self.taken;
    }

    /// Whether it is another one than was last taken in. One that is not there is none.
    pub fn look(&mut self, file: &Path) -> bool {
        let now = stamp(file);
        let stays = std::mem::replace(&mut self.seen, now) == now;
        now.is_some() && now != self.taken && stays
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_once_it_stays_and_only_once() {
        let file = std::env::temp_dir().join(format!("viplb-watch-{}", std::process::id()));
        fs::write(&file, "a").unwrap();
        let mut watch = Watch::default();
        watch.note(&file);
        assert!(!watch.look(&file));
        fs::write(&file, "ab").unwrap();
        assert!(!watch.look(&file), "it may still be being written");
        assert!(watch.look(&file));
        watch.note(&file);
        assert!(!watch.look(&file));
        fs::remove_file(&file).unwrap();
        assert!(!watch.look(&file) && !watch.look(&file));
    }
}
