//! What the maps in a directory look like, as whoever made them says (`lb_common::describe`).
//!
//! The text is in a map beside the others: whoever may write that may write the others, too.

use std::path::PathBuf;

use anyhow::{Context, Result};
use aya::maps::{Array, Map, MapData};
use lb_common::{describe::Description, maps as names, text::LayoutText};

use super::{bytes::Bytes, maps::OpenError, pins::Pins};

/// What is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Where.
    pub(super) path: PathBuf,
    /// Number of the layout; 0: the maps are new, nothing is in them yet.
    pub(super) schema: u32,
    /// None in maps of releases that did not say.
    pub(super) description: Option<Description>,
}

impl Found {
    /// Reads it.
    pub(super) fn read(pins: &Pins) -> Result<Self> {
        let description = text(pins).ok().and_then(|text| Description::parse(&text));
        Ok(Self { path: pins.maps(), schema: schema(pins)?, description })
    }

    /// Whether it is that of this release.
    pub(super) fn is_own(&self) -> bool {
        self.schema == names::SCHEMA
            && self.description.as_ref().is_none_or(|d| d.maps == Description::own().maps)
    }

    /// That it cannot be used.
    pub(super) fn refusal(&self) -> OpenError {
        OpenError::Schema { path: self.path.clone(), found: self.schema }
    }
}

/// The number of the layout, which is the first word of `SETTINGS` in every one of them.
pub(super) fn schema(pins: &Pins) -> Result<u32> {
    let settings = Bytes::open(&pins.map(names::SETTINGS))?;
    let value = settings.get(&0u32.to_ne_bytes()).context("map SETTINGS")?;
    let word = value.as_deref().and_then(|value| value.first_chunk().copied()).context("map SETTINGS")?;
    Ok(u32::from_ne_bytes(word))
}

/// Says that the maps are as this release makes them.
pub(super) fn tell(pins: &Pins) -> Result<()> {
    let text = Description::own().text();
    open(pins)?.set(0, LayoutText::of(&text), 0).context("map LAYOUT")
}

fn text(pins: &Pins) -> Result<String> {
    let text = open(pins)?.get(&0, 0).context("map LAYOUT")?;
    let end = text.bytes.iter().position(|byte| *byte == 0).unwrap_or(text.bytes.len());
    Ok(String::from_utf8_lossy(&text.bytes[..end]).into_owned())
}

fn open(pins: &Pins) -> Result<Array<MapData, LayoutText>> {
    let data = MapData::from_pin(pins.map(names::LAYOUT)).context("map LAYOUT")?;
    Array::try_from(Map::Array(data)).context("map LAYOUT")
}
