//! Where things are pinned and kept: one directory per node name.
//!
//! `/sys/fs/bpf/viplb/NAME/maps/MAP`, `/sys/fs/bpf/viplb/NAME/links/INTERFACE-DIRECTION`; lock and control socket in
//! `/run/viplb`. While flows are brought over to maps of another layout (`migrate`) these are in `maps-next`, and at its end the
//! others for a moment in `maps-former`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Parent of all nodes' pins.
pub const ROOT: &str = "/sys/fs/bpf/viplb";
/// Locks and control sockets.
pub const RUN: &str = "/run/viplb";

/// Paths of one node.
#[derive(Debug, Clone)]
pub struct Pins {
    /// The directory that holds everything pinned for the node.
    pub root: PathBuf,
    /// Name of the directory of maps.
    maps: &'static str,
}

const MAPS: &str = "maps";
const NEXT: &str = "maps-next";
const FORMER: &str = "maps-former";

impl Pins {
    /// The pins of node `name`.
    pub fn of(name: &str) -> Self {
        Self::at(Path::new(ROOT).join(name))
    }

    /// Pins in this directory.
    pub fn at(root: PathBuf) -> Self {
        Self { root, maps: MAPS }
    }

    /// Likewise, with the maps that are to take the others' place.
    pub(super) fn next(&self) -> Self {
        Self { root: self.root.clone(), maps: NEXT }
    }

    /// Likewise, with those that have lost it.
    pub(super) fn former(&self) -> Self {
        Self { root: self.root.clone(), maps: FORMER }
    }

    /// Directory of the maps.
    pub fn maps(&self) -> PathBuf {
        self.root.join(self.maps)
    }

    /// Path of one map.
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// Directory of the links.
    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// Path of the link of one interface and direction.
    pub fn link(&self, interface: &str, direction: &str) -> PathBuf {
        self.links().join(format!("{interface}-{direction}"))
    }

    /// Removes everything. Unpinned links detach their programs, unpinned maps go with the last user.
    pub fn remove(&self) -> io::Result<()> {
        let maps = [MAPS, NEXT, FORMER].map(|name| self.root.join(name));
        for dir in [self.links()].into_iter().chain(maps).chain([self.root.clone()]) {
            remove_dir(&dir)?;
        }
        // Only if no other node is pinned here.
        let _ = fs::remove_dir(ROOT);
        Ok(())
    }
}

/// Removes a directory of pins, if there is one.
pub(super) fn remove_dir(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(e) => e,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries.flatten() {
        if entry.file_type()?.is_dir() {
            continue;
        }
        fs::remove_file(entry.path())?;
    }
    fs::remove_dir(dir)
}

/// Control socket of node `name`.
pub fn socket(name: &str) -> PathBuf {
    Path::new(RUN).join(format!("{name}.sock"))
}

/// Lock file of node `name`.
pub fn lock(name: &str) -> PathBuf {
    Path::new(RUN).join(format!("{name}.lock"))
}

/// Names of the nodes that have pins or a control socket on this machine.
pub fn nodes() -> Vec<String> {
    let pinned =
        fs::read_dir(ROOT).into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok());
    let running = fs::read_dir(RUN)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok()?.strip_suffix(".sock").map(str::to_owned));
    let mut names: Vec<_> = pinned.chain(running).collect();
    names.sort();
    names.dedup();
    names
}
