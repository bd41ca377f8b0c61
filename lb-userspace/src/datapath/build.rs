//! Which build the packet programs in the kernel are of, and which one this is: version, commit, and a hash of the programs' object.
//!
//! `load` writes it beside the maps once the programs are in place; `viplb prog show` and status read it, with and without a daemon.

use std::fmt;

use anyhow::{Context, Result};
use aya::maps::{Array, Map, MapData};
use lb_common::{build, maps as names};
use ring::digest;
use serde::{Deserialize, Serialize};

use super::{load::OBJECT, pins::Pins};

/// A build of viplb.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Build {
    /// Its version.
    pub version: String,
    /// The commit it was built from, with `-dirty` if there was more in the files; empty where that is not known.
    pub commit: String,
    /// First half of the SHA-256 of its packet programs' object, hexadecimal: two builds with the same have the same programs.
    pub object: String,
}

impl Build {
    /// This one.
    pub fn own() -> Self {
        Self::from(&own())
    }

    /// That of the programs that a node's kernel holds; none before any were loaded, or if whoever did had no word for it.
    pub fn loaded(pins: &Pins) -> Option<Self> {
        let build = open(pins).ok()?.get(&0, 0).ok()?;
        (build != build::Build::default()).then(|| Self::from(&build))
    }
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (", self.version)?;
        if !self.commit.is_empty() {
            write!(f, "commit {}, ", self.commit)?;
        }
        write!(f, "programs {})", self.object)
    }
}

impl From<&build::Build> for Build {
    fn from(b: &build::Build) -> Self {
        let text = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            text.trim_end_matches('\0').to_owned()
        };
        let object = b.object.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { version: text(&b.version), commit: text(&b.commit), object }
    }
}

/// Tells that the programs are of this build now.
pub(super) fn tell(pins: &Pins) -> Result<()> {
    open(pins)?.set(0, own(), 0).context("map BUILD")
}

fn open(pins: &Pins) -> Result<Array<MapData, build::Build>> {
    let data = MapData::from_pin(pins.map(names::BUILD)).context("map BUILD")?;
    Array::try_from(Map::Array(data)).context("map BUILD")
}

fn own() -> build::Build {
    let hash = digest::digest(&digest::SHA256, OBJECT);
    let mut build = build::Build::default();
    fill(&mut build.version, env!("CARGO_PKG_VERSION").as_bytes());
    fill(&mut build.commit, option_env!("VIPLB_COMMIT").unwrap_or_default().as_bytes());
    fill(&mut build.object, hash.as_ref());
    build
}

/// As much of it as there is room for.
fn fill(to: &mut [u8], from: &[u8]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_told_by_what_is_known_of_it() {
        let mut build = own();
        build.commit = [0; 24];
        build.object = [0, 1, 2, 3, 4, 5, 6, 255];
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(Build::from(&build).to_string(), format!("{version} (programs 00010203040506ff)"));
        fill(&mut build.commit, b"1a2b3c4d5e6f-dirty");
        assert_eq!(
            Build::from(&build).to_string(),
            format!("{version} (commit 1a2b3c4d5e6f-dirty, programs 00010203040506ff)")
        );
    }
}
