//! The programs that others go on in by a tail call, and the array through which they find them.
//!
//! Each load has an array of its own, entered and pinned before anything is attached: at no moment does an attached program
//! lack its tails, or go on in those of another build. The kernel empties an array that neither a descriptor nor a pin holds
//! (`prog_array_map_clear`), so it is the pin that keeps the programs whole when the daemon dies.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use aya::{Ebpf, maps::ProgramArray};
use lb_common::maps::{TAILS, Tail};

use super::{load::classifier, pins::Pins};

/// The programs by their places.
pub(super) const PROGRAMS: [(Tail, &str); 9] = [
    (Tail::Rest, "viplb_rest"),
    (Tail::Errors, "viplb_errors"),
    (Tail::Fragments, "viplb_fragments"),
    (Tail::OpeningFragments, "viplb_opening"),
    (Tail::Detour, "viplb_detour"),
    (Tail::Report, "viplb_report"),
    (Tail::ForeignErrors, "viplb_foreign"),
    (Tail::Moved, "viplb_moved"),
    (Tail::Renumber, "viplb_renumber"),
];

/// Enters the loaded programs and pins the array; gives its pin.
pub(super) fn enter(ebpf: &mut Ebpf, pins: &Pins) -> Result<PathBuf> {
    let path = free_path(pins)?;
    for (tail, name) in PROGRAMS {
        let program = classifier(ebpf, name)?.fd()?.try_clone().context("a program's descriptor")?;
        let mut tails = ProgramArray::try_from(ebpf.map_mut(TAILS).context("the object lacks map TAILS")?)?;
        tails.set(tail as u32, &program, 0).context("map TAILS")?;
    }
    let tails = ProgramArray::try_from(ebpf.map_mut(TAILS).context("the object lacks map TAILS")?)?;
    tails.pin(&path).with_context(|| format!("cannot pin {}", path.display()))?;
    Ok(path)
}

/// Removes the arrays of former loads. Their programs are no longer attached.
pub(super) fn remove_others(pins: &Pins, ours: &PathBuf) -> Result<()> {
    for path in all(pins)? {
        if path != *ours {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

fn free_path(pins: &Pins) -> Result<PathBuf> {
    let taken = all(pins)?;
    let path =
        (0..=taken.len()).map(|n| pins.map(&format!("{TAILS}-{n}"))).find(|path| !taken.contains(path));
    path.context("one more name than there are arrays")
}

fn all(pins: &Pins) -> Result<Vec<PathBuf>> {
    let prefix = format!("{TAILS}-");
    let entries =
        fs::read_dir(pins.maps()).with_context(|| format!("cannot read {}", pins.maps().display()))?;
    let names = entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(&prefix));
    Ok(names.map(|e| e.path()).collect())
}
