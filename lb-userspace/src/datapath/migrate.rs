//! Maps of another layout: what is in them is brought over to maps of this release's, while packets come and go.
//!
//! 1. [`Migration::find`] compares the description beside the maps with this release's. What looks the same stays and is pinned
//!    once more in the new maps' directory; only what differs is made anew, and its content is read by the names of fields.
//! 2. `load` loads the programs with these maps and enters the one that was attached before as `FORMER`: what the new programs find
//!    no flow for is decided by that one, from its own maps. Then they are attached. Until here a failure leaves all as it was.
//! 3. Flows are brought over one after the other (`flows`): into the new maps, out of the old ones. At no time are they in neither.
//! 4. The directories change names, and what only the old programs had goes.
//!
//! A daemon that dies on the way leaves both directories, and both sets of programs at work; the next start goes on from there, with
//! whichever of both layouts is its own. What both sets must find in the same place, the ports that are given out, cannot have
//! another layout, nor can a field of the same name have another size: that is refused before anything is touched.

mod flows;
mod source;
mod target;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use aya::{
    maps::MapData,
    programs::{
        ProgramFd,
        links::{FdLink, PinnedLink},
        loaded_programs,
    },
};
use lb_common::{
    describe::{Description, Reading},
    maps as names,
};

use super::{
    bytes::{self, Bytes},
    layouts::{self, Found},
    load::Sizes,
    pins::{Pins, remove_dir},
};

/// Flows, and all that names them by their slots: these are made anew together.
const FLOWS: [&str; 9] = [
    names::FLOW_KEYS,
    names::FLOWS,
    names::OPENINGS,
    names::FREE_SLOTS,
    names::HALF_OPEN,
    names::FRAGMENTS,
    names::FLOW_EVENTS,
    names::FLOW_EVENTS_LOST,
    names::HELD,
];
/// What is each directory's own.
const OWN: [&str; 3] = [names::SETTINGS, names::BUILD, names::LAYOUT];
/// What is not brought over: it is told, or counted anew, or of the moment.
const EMPTY: [&str; 2] = [names::SAMPLES, names::CAPTURE];
/// Which program is asked for what the new ones do not know.
const ENTRY: &str = "viplb_ingress";

/// From these maps to those.
pub(super) struct Migration {
    from: Pins,
    to: Pins,
    /// What the maps to read look like.
    description: Description,
    /// Those that are made anew.
    anew: BTreeSet<&'static str>,
    /// A daemon has begun it, and died.
    again: bool,
}

/// What was attached before.
pub(super) struct Former {
    /// The program that is asked.
    entry: Option<ProgramFd>,
    /// The pinned links, and the program of each.
    links: Vec<(PathBuf, ProgramFd)>,
}

impl Migration {
    /// Whether there is anything to bring over; nothing has changed yet but what a daemon had left half done that died while it
    /// did this.
    ///
    /// # Errors
    ///
    /// The maps have another layout, and cannot be brought over.
    pub(super) fn find(pins: &Pins) -> Result<Option<Self>> {
        let next = pins.next();
        settle(pins)?;
        if !pins.maps().exists() {
            return Ok(None);
        }
        let found = Found::read(pins)?;
        if next.maps().exists() && !is_complete(&next) {
            // Nothing was attached that uses them.
            remove_dir(&next.maps())?;
        }
        if !next.maps().exists() {
            // 0: a daemon died while it made them.
            if found.is_own() || found.schema == 0 {
                return Ok(None);
            }
            return Self::new(pins.clone(), next, found).map(Some);
        }
        let (other, maps) = (Found::read(&next)?, pins.clone());
        if other.is_own() {
            Self::new(maps, next, found).map(Some)
        } else if found.is_own() {
            Self::new(next, maps, other).map(Some)
        } else {
            Err(found.refusal()).context(
                "connections are half-way from maps of one layout to those of another, and this viplb has a third: start one \
                 that has either first",
            )
        }
    }

    fn new(from: Pins, to: Pins, found: Found) -> Result<Self> {
        let own = Description::own();
        let Some(description) = found.description.clone() else { return Err(found.refusal().into()) };
        // Another number for what looks the same: something has another meaning.
        let differing = own.differences(&description);
        if differing.is_empty() {
            return Err(found.refusal().into());
        }
        let differs = |name: &&str| differing.contains(name);
        let flows = FLOWS.iter().any(&differs);
        let anew = names::ALL
            .into_iter()
            .filter(|name| differs(name) || OWN.contains(name) || flows && FLOWS.contains(name))
            .collect();
        let again = to.maps().exists();
        let migration = Self { from, to, description, anew, again };
        migration.check(&own).map_err(|e| e.context(found.refusal()))?;
        Ok(migration)
    }

    /// Whether everything can be read.
    fn check(&self, own: &Description) -> Result<()> {
        ensure!(
            !self.anew.contains(names::PORTS),
            "the source ports that are taken cannot be brought over from that layout"
        );
        for name in &self.anew {
            let Some(old) = self.description.maps.get(*name) else { continue };
            let new = &own.maps[*name];
            for (old, new) in [(&old.key, &new.key), (&old.value, &new.value)] {
                let read = Reading::new(old, new);
                read.map_err(|field| anyhow::anyhow!("{name}: {field} cannot be read from that layout"))?;
            }
        }
        if self.moves_flows() { flows::check(&self.description) } else { Ok(()) }
    }

    /// The maps that the programs are loaded with.
    pub(super) fn to(&self) -> &Pins {
        &self.to
    }

    /// Whether flows have to be brought over one by one.
    fn moves_flows(&self) -> bool {
        self.anew.contains(names::FLOWS)
    }

    /// Sizes of the maps that are made anew: no flow and no pool may be lost for want of room.
    pub(super) fn sizes(&self, wanted: Sizes) -> Result<Sizes> {
        let elements = |name| Bytes::open(&self.from.map(name)).map(|map| map.info.max_entries());
        let rings = elements(names::RINGS)?;
        ensure!(
            self.anew.contains(names::RINGS) || rings >= wanted.ring_slots,
            "the adopted maps have {rings} slots for the schedulers' tables, and this configuration takes {}: stop viplb \
             properly (SIGTERM) and start it again",
            wanted.ring_slots
        );
        Ok(Sizes {
            flows: elements(names::FLOWS)?.saturating_sub(elements(names::HALF_OPEN)? - 1),
            ring_slots: rings.max(wanted.ring_slots),
            pools: elements(names::PORT_POOLS)? - 1,
        })
    }

    /// Pins what stays beside what is made anew.
    pub(super) fn share(&self) -> Result<()> {
        fs::create_dir_all(self.to.maps())?;
        for name in names::ALL.into_iter().filter(|name| !self.anew.contains(name)) {
            let path = self.to.map(name);
            if !path.exists() {
                let map = MapData::from_pin(self.from.map(name)).with_context(|| format!("map {name}"))?;
                map.pin(&path).with_context(|| format!("cannot pin {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// Brings over what is no flow, once. Nobody changes it meanwhile but the old programs, which count.
    pub(super) fn copy_tables(&self) -> Result<()> {
        if is_complete(&self.to) {
            return Ok(());
        }
        let own = Description::own();
        for name in self.anew.iter().filter(|name| !(FLOWS.contains(name) || OWN.contains(name))) {
            let Some(old) = self.description.maps.get(*name) else { continue };
            let new = &own.maps[*name];
            // Other elements are counted then; `recount` does it.
            let is_recounted = *name == names::OCCUPANCY && old.elements != new.elements;
            if EMPTY.contains(name) || is_recounted {
                continue;
            }
            let read = |from, to| Reading::new(from, to).map_err(anyhow::Error::msg);
            let readings = (read(&old.key, &new.key)?, read(&old.value, &new.value)?);
            copy(&self.from.map(name), &self.to.map(name), &readings)
                .with_context(|| format!("map {name}"))?;
        }
        self.copy_settings(&own)?;
        layouts::tell(&self.to)
    }

    /// Whether the maps are ready is the last thing that is said: by `load`, if there is a queue of free slots to be filled first.
    fn copy_settings(&self, own: &Description) -> Result<()> {
        let name = names::SETTINGS;
        let (old, new) = (&self.description.maps[name], &own.maps[name]);
        let (from, to) = (Bytes::open(&self.from.map(name))?, Bytes::open(&self.to.map(name))?);
        let key = 0u32.to_ne_bytes();
        let old_value = from.get(&key)?.context("map SETTINGS")?;
        let reading = Reading::new(&old.value, &new.value).map_err(anyhow::Error::msg)?;
        let mut value = reading.read(&old_value);
        let mut set = |field: &str, number: u32| -> Result<()> {
            let field = new.value.field(field).context("map SETTINGS")?;
            value[field.offset..][..4].copy_from_slice(&number.to_ne_bytes());
            Ok(())
        };
        set("schema", names::SCHEMA)?;
        if self.moves_flows() {
            set("slots_ready", 0)?;
        }
        to.set(&key, &value, 0).context("map SETTINGS")
    }

    /// What is attached now.
    pub(super) fn former(&self) -> Result<Former> {
        let flows = Bytes::open(&self.from.map(names::FLOWS))?.info.id();
        let mut ids = Vec::new();
        for entry in fs::read_dir(self.from.links()).into_iter().flatten().flatten() {
            let Ok(link) = PinnedLink::from_pin(entry.path()) else { continue };
            let id = FdLink::from(link).info().context("a pinned link tells nothing")?.program_id();
            ids.push((entry.path(), id));
        }
        let (mut links, mut entries) = (Vec::new(), Vec::new());
        for program in loaded_programs().flatten() {
            let attached: Vec<_> = ids.iter().filter(|(_, id)| *id == program.id()).collect();
            for (path, _) in &attached {
                links.push((path.clone(), program.fd().context("an attached program")?));
            }
            let works_on = |map| matches!(program.map_ids(), Ok(Some(maps)) if maps.contains(&map));
            if program.name_as_str() == Some(ENTRY) && works_on(flows) {
                // With clsact there are no links; of several loads the last one is attached.
                entries.push((!attached.is_empty(), program.id(), program.fd().context("a program")?));
            }
        }
        let entry = entries.into_iter().max_by_key(|(attached, id, _)| (*attached, *id));
        Ok(Former { entry: entry.map(|(.., fd)| fd).filter(|_| self.moves_flows()), links })
    }

    /// Has the loaded programs, whose tails are pinned there, ask the former one.
    pub(super) fn ask_former(&self, former: &Former, tails: &Path) -> Result<()> {
        let Some(entry) = &former.entry else { return Ok(()) };
        let tails = Bytes::open(tails)?;
        let fd = std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(entry)) as u32;
        for slot in [names::FORMER, names::FORMER_OPENS] {
            tails.set(&slot.to_ne_bytes(), &fd.to_ne_bytes(), 0).context(
                "the programs that are attached cannot be asked by these, so that connections cannot be brought over",
            )?;
        }
        Ok(())
    }

    /// Brings over all flows, and makes the new maps the node's. The programs are attached.
    pub(super) fn finish(self, pins: &Pins, former: &Former, tails: &Path) -> Result<PathBuf> {
        let began = Instant::now();
        if self.moves_flows() {
            let tails = Bytes::open(tails)?;
            let end = |slot: u32| -> Result<()> {
                tails.remove(&slot.to_ne_bytes()).context("map TAILS")?;
                bytes::grace();
                Ok(())
            };
            let mover = flows::Mover::open(&self.from, &self.to, &self.description)?;
            let moved = mover.run(former.entry.is_some(), self.again, end)?;
            tracing::info!(
                "{moved} flows are brought over from maps of layout {}, in {:?}",
                self.description.schema,
                began.elapsed()
            );
        } else {
            tracing::info!("tables are brought over from maps of layout {}", self.description.schema);
        }
        if self.to.maps() == pins.maps() {
            remove_dir(&self.from.maps())?;
        } else {
            fs::rename(pins.maps(), pins.former().maps())
                .context("cannot rename the former maps' directory")?;
            settle(pins)?;
        }
        let name = tails.file_name().context("the tails have a name")?;
        Ok(pins.maps().join(name))
    }

    /// Puts everything back as it was before the programs were attached.
    pub(super) fn take_back(&self, former: &Former) {
        for (path, program) in &former.links {
            if let Err(e) = bytes::update_link(path, program) {
                tracing::warn!("{}: the former program is not attached again: {e}", path.display());
            }
        }
        if self.to.maps() == self.to.next().maps()
            && let Err(e) = remove_dir(&self.to.maps())
        {
            tracing::warn!("cannot remove {}: {e}", self.to.maps().display());
        }
    }
}

/// Whether the maps in a directory are ready for programs.
fn is_complete(pins: &Pins) -> bool {
    let ready = || -> Result<bool> {
        let found = Found::read(pins)?;
        let description = found.description.context("no description")?;
        let settings = Bytes::open(&pins.map(names::SETTINGS))?.get(&0u32.to_ne_bytes())?;
        let field = description.maps.get(names::SETTINGS).and_then(|s| s.value.field("slots_ready"));
        let (settings, field) = (settings.context("map SETTINGS")?, field.context("map SETTINGS")?);
        Ok(settings.get(field.offset..field.offset + field.size).is_some_and(|ready| ready != [0; 4]))
    };
    ready().unwrap_or(false)
}

/// Ends what a daemon had left half done that died while directories changed names.
fn settle(pins: &Pins) -> Result<()> {
    let (next, former) = (pins.next(), pins.former());
    if !pins.maps().exists() && next.maps().exists() {
        fs::rename(next.maps(), pins.maps()).context("cannot rename the new maps' directory")?;
    }
    remove_dir(&former.maps()).context("cannot remove the former maps' pins")
}

/// All elements of a map.
fn copy(from: &Path, to: &Path, (key, value): &(Reading, Reading)) -> Result<()> {
    let (from, to) = (Bytes::open(from)?, Bytes::open(to)?);
    ensure!(from.is_array() == to.is_array() && from.per_cpu == to.per_cpu, "it is another kind of map");
    let (old, new) = (from.info.value_size() as usize, to.info.value_size() as usize);
    let value = |all: &[u8]| -> Vec<u8> {
        if !from.per_cpu {
            return value.read(all);
        }
        // One for each processor.
        let spaced = |one: &[u8]| {
            let mut read = value.read(one);
            read.resize(new.next_multiple_of(8), 0);
            read
        };
        all.chunks(old.next_multiple_of(8)).flat_map(spaced).collect()
    };
    if from.is_array() {
        for i in 0..from.info.max_entries().min(to.info.max_entries()) {
            let i = i.to_ne_bytes();
            let element = from.get(&i)?.context("an element of an array")?;
            to.set(&i, &value(&element), 0)?;
        }
        return Ok(());
    }
    for old_key in from.keys()? {
        let Some(element) = from.get(&old_key)? else { continue };
        // Of a map with longest prefixes the length is in front.
        let prefix = old_key.len() - key.from();
        let new_key = [&old_key[..prefix], &key.read(&old_key[prefix..])[..]].concat();
        if let Err(e) = to.set(&new_key, &value(&element), 0) {
            bail!("an element cannot be entered: {e}");
        }
    }
    Ok(())
}
