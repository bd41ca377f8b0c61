//! The description of all maps that a later daemon adopts, as text that every later release reads: it lies beside them, in the map
//! `LAYOUT`, written by whoever made them.
//!
//! One line a map: its name, its elements (0: as many as the configuration takes), its key and its value. Of both the size in bytes,
//! and the fields with place and size. So a release reads another one's records without having known it: [`Reading`] takes the
//! fields that have the same name, leaves zero in those that it alone has, and drops those that only the other has. What a field
//! with the same name must mean is said in `layout`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    mem::size_of,
};

use crate::{
    access::{AccessKey, Limits, PaceKey},
    addr::{Addr, Port},
    build::Build,
    fast::FAST_SLOTS,
    flow::{Flow, FlowKey, FlowRef},
    flow_event::FlowEvent,
    fragment::{FragmentKey, FragmentRef},
    held::Held,
    latency::Latency,
    layout::{Field, Layout},
    lease::Lease,
    maps as names,
    maps::{
        FLOW_EVENT_BYTES, HELD_BYTES, MAX_BACKENDS, MAX_CLIENTS, MAX_FRAGMENTS, MAX_INTERFACES,
        MAX_PERSISTENT, MAX_RANGES, MAX_ROUTERS, MAX_RULES, MAX_SERVICES, MAX_VIPS, SAMPLE_BYTES,
    },
    occupancy::{ELEMENTS, Occupancy},
    opening::Opening,
    persistence::{ClientKey, Remembered},
    ports::{PoolKey, PortBits, Sources},
    reach::RangeKey,
    reason::REASON_SLOTS,
    sample::{Capture, Sample},
    service::{Backend, Interface, Path, Service, ServiceKey, Vip},
    settings::Settings,
    stats::{BackendStats, ServiceStats},
    text::LayoutText,
};

/// The first line, up to the number of the layout.
const HEAD: &str = "viplb layout 1 schema ";

/// A field as a description has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedField {
    /// Its name.
    pub name: String,
    /// Where it is, bytes.
    pub offset: usize,
    /// How long it is, bytes.
    pub size: usize,
}

/// A key or a value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Type {
    /// Bytes.
    pub size: usize,
    /// None of a plain value.
    pub fields: Vec<NamedField>,
}

impl Type {
    fn of<T: Layout>() -> Self {
        let size = if std::any::type_name::<T>() == "()" { 0 } else { size_of::<T>() };
        let named = |f: &Field| NamedField { name: f.name.into(), offset: f.offset, size: f.size };
        Self { size, fields: T::FIELDS.iter().map(named).collect() }
    }

    /// Where a field is.
    pub fn field(&self, name: &str) -> Option<&NamedField> {
        self.fields.iter().find(|f| f.name == name)
    }

    fn write(&self, to: &mut String) {
        let _ = write!(to, " {}", self.size);
        for f in &self.fields {
            let _ = write!(to, ":{}@{}+{}", f.name, f.offset, f.size);
        }
    }

    fn parse(word: &str) -> Option<Self> {
        let mut parts = word.split(':');
        let size = parts.next()?.parse().ok()?;
        let mut fields = Vec::new();
        for part in parts {
            let (name, place) = part.split_once('@')?;
            let (offset, length) = place.split_once('+')?;
            let field =
                NamedField { name: name.into(), offset: offset.parse().ok()?, size: length.parse().ok()? };
            // What it says is used to read memory by.
            if field.offset.checked_add(field.size)? > size {
                return None;
            }
            fields.push(field);
        }
        Some(Self { size, fields })
    }
}

/// A map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Elements that it has in every configuration; 0: the configuration says how many.
    pub elements: usize,
    /// Its keys. Of a map with longest prefixes without the prefix' length, which is in front.
    pub key: Type,
    /// Its values.
    pub value: Type,
}

/// All maps of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// [`names::SCHEMA`] of the release.
    pub schema: u32,
    /// By their names.
    pub maps: BTreeMap<String, Described>,
}

impl Description {
    /// That of this release.
    pub fn own() -> Self {
        let mut maps = BTreeMap::new();
        let mut add = |name: &str, elements: usize, key: Type, value: Type| {
            maps.insert(name.to_owned(), Described { elements, key, value });
        };
        macro_rules! maps {
            ($($name:ident: $elements:expr, $key:ty => $value:ty;)*) => {
                $(add(names::$name, $elements, Type::of::<$key>(), Type::of::<$value>());)*
            };
        }
        maps! {
            VIPS: MAX_VIPS, Addr => Vip;
            LEASES: MAX_ROUTERS, u32 => Lease;
            SERVICES: MAX_SERVICES, ServiceKey => Service;
            RINGS: 0, u32 => u64;
            CURSORS: MAX_SERVICES, u32 => u64;
            OCCUPANCY: ELEMENTS, u32 => Occupancy;
            PERSISTENCE: MAX_PERSISTENT, ClientKey => Remembered;
            BACKENDS: MAX_BACKENDS, u32 => Backend;
            PATHS: MAX_BACKENDS, u32 => Path;
            REPORTED: 1, u32 => u64;
            SOURCES: MAX_BACKENDS, u32 => Sources;
            PORT_POOLS: 0, u32 => PoolKey;
            PORTS: 0, u32 => PortBits;
            LIMITS: MAX_SERVICES, u32 => Limits;
            ACCESS: MAX_RULES, AccessKey => u32;
            CLIENTS: MAX_CLIENTS, PaceKey => u64;
            FLOW_KEYS: 0, FlowKey => FlowRef;
            FLOWS: 0, u32 => Flow;
            OPENINGS: 0, u32 => Opening;
            FREE_SLOTS: 0, () => u32;
            FRAGMENTS: MAX_FRAGMENTS, FragmentKey => FragmentRef;
            HALF_OPEN: 0, u32 => u64;
            INTERFACES: MAX_INTERFACES, u32 => Interface;
            SETTINGS: 1, u32 => Settings;
            BUILD: 1, u32 => Build;
            LAYOUT: 1, u32 => LayoutText;
            SERVICE_STATS: MAX_SERVICES, u32 => ServiceStats;
            BACKEND_STATS: MAX_BACKENDS, u32 => BackendStats;
            LATENCY: MAX_BACKENDS, u32 => Latency;
            REASONS: REASON_SLOTS, u32 => u64;
            CAPTURE: 1, u32 => Capture;
            SAMPLES: SAMPLE_BYTES, () => Sample;
            FAST: FAST_SLOTS, u32 => u64;
            RANGES: MAX_RANGES, RangeKey => Port;
            ALIVE: 1, u32 => u64;
            FLOW_EVENTS: FLOW_EVENT_BYTES, () => FlowEvent;
            FLOW_EVENTS_LOST: 1, u32 => u64;
            HELD: HELD_BYTES, () => Held;
        }
        Self { schema: names::SCHEMA, maps }
    }

    /// As text.
    pub fn text(&self) -> String {
        let mut text = format!("{HEAD}{}\n", self.schema);
        for (name, map) in &self.maps {
            let _ = write!(text, "{name} {}", map.elements);
            map.key.write(&mut text);
            map.value.write(&mut text);
            text.push('\n');
        }
        text
    }

    /// Reads it; none if it is no description. What later releases may write behind a line's fourth word is passed over.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let schema = lines.next()?.strip_prefix(HEAD)?.parse().ok()?;
        let mut maps = BTreeMap::new();
        for line in lines {
            let mut words = line.split(' ');
            let name = words.next()?.to_owned();
            let elements = words.next()?.parse().ok()?;
            let (key, value) = (Type::parse(words.next()?)?, Type::parse(words.next()?)?);
            maps.insert(name, Described { elements, key, value });
        }
        Some(Self { schema, maps })
    }

    /// The maps of this one that do not look the same in the other, or are not there.
    pub fn differences(&self, other: &Self) -> BTreeSet<&str> {
        let differs = |(name, map): &(&String, &Described)| other.maps.get(*name) != Some(map);
        self.maps.iter().filter(differs).map(|(name, _)| name.as_str()).collect()
    }
}

/// How records of one layout are read into another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// From, to, and how many bytes.
    pieces: Vec<(usize, usize, usize)>,
    from: usize,
    to: usize,
}

impl Reading {
    /// By names of fields. The error names a field that cannot be read: it has another size there, against the rule.
    pub fn new(from: &Type, to: &Type) -> Result<Self, String> {
        let mut pieces = Vec::new();
        if to.fields.is_empty() || from.fields.is_empty() {
            if from != to {
                return Err("the whole".into());
            }
            pieces.push((0, 0, to.size));
        }
        // Padding is zero.
        for field in to.fields.iter().filter(|f| f.name != "pad") {
            match from.field(&field.name) {
                Some(old) if old.size == field.size => pieces.push((old.offset, field.offset, field.size)),
                Some(_) => return Err(field.name.clone()),
                None => {}
            }
        }
        Ok(Self { pieces, from: from.size, to: to.size })
    }

    /// Bytes of the records that are read.
    pub fn from(&self) -> usize {
        self.from
    }

    /// A record in the other layout.
    ///
    /// # Panics
    ///
    /// If the record is shorter than the layout that was described.
    pub fn read(&self, record: &[u8]) -> Vec<u8> {
        assert!(record.len() >= self.from, "a record of {} bytes of {}", record.len(), self.from);
        let mut read = vec![0; self.to];
        for (from, to, length) in &self.pieces {
            read[*to..to + length].copy_from_slice(&record[*from..from + length]);
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look random enough, the same in every run.
    struct Dice(u64);

    impl Dice {
        fn next(&mut self, below: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % below
        }
    }

    fn record(dice: &mut Dice, size: usize) -> Vec<u8> {
        (0..size).map(|_| dice.next(256) as u8).collect()
    }

    fn without_padding(of: &Type, mut record: Vec<u8>) -> Vec<u8> {
        if let Some(pad) = of.field("pad") {
            record[pad.offset..][..pad.size].fill(0);
        }
        record
    }

    #[test]
    fn the_own_description_is_complete_fits_its_map_and_reads_back() {
        let own = Description::own();
        let described: Vec<_> = own.maps.keys().map(String::as_str).collect();
        let mut all = names::ALL;
        all.sort_unstable();
        assert_eq!(described, all);
        let text = own.text();
        assert!(text.len() < size_of::<LayoutText>() * 3 / 4, "{} bytes", text.len());
        assert_eq!(Description::parse(&text).as_ref(), Some(&own));
        assert!(own.differences(&own).is_empty());
    }

    #[test]
    fn what_later_releases_add_to_a_line_is_passed_over_and_what_cannot_be_is_no_description() {
        let head = format!("{HEAD}9\n");
        let map = "FLOWS 0 4 8:a@0+4:b@4+4";
        let plain = Description::parse(&format!("{head}{map}\n")).unwrap();
        assert_eq!(plain.schema, 9);
        assert_eq!(Description::parse(&format!("{head}{map} more words\n")), Some(plain));
        for other in ["", "viplb layout 2 schema 9\n", "something else"] {
            assert_eq!(Description::parse(other), None, "{other}");
        }
        for map in ["FLOWS 0 4", "FLOWS 0 4 8:a@6+4", "FLOWS 0 4 8:a", "FLOWS x 4 8", "FLOWS 0 4 -8"] {
            assert_eq!(Description::parse(&format!("{head}{map}\n")), None, "{map}");
        }
        let beyond = format!("{head}FLOWS 0 4 8:a@{}+1\n", usize::MAX);
        assert_eq!(Description::parse(&beyond), None);
    }

    #[test]
    fn reading_by_the_own_description_changes_nothing() {
        let mut dice = Dice(1);
        for (name, map) in Description::own().maps {
            for of in [map.key, map.value] {
                let reading = Reading::new(&of, &of).unwrap();
                let record = without_padding(&of, record(&mut dice, of.size));
                assert_eq!(reading.read(&record), record, "{name}");
            }
        }
    }

    /// The same fields in any order, with others and with gaps between them.
    fn shuffled(of: &Type, dice: &mut Dice) -> Type {
        let mut fields = of.fields.clone();
        for i in (1..fields.len()).rev() {
            fields.swap(i, dice.next(i + 1));
        }
        let mut size = 0;
        for (i, field) in fields.iter_mut().enumerate() {
            size += dice.next(9);
            field.offset = size;
            size += field.size;
            if dice.next(4) == 0 {
                size += 3 + i;
            }
        }
        fields.insert(dice.next(fields.len()), NamedField { name: "novel".into(), offset: size, size: 5 });
        Type { size: size + 5 + dice.next(9), fields }
    }

    #[test]
    fn fields_keep_their_values_in_any_layout_and_come_back_the_same() {
        let mut dice = Dice(2);
        let types = Description::own().maps.into_values().flat_map(|map| [map.key, map.value]);
        for of in types.filter(|of| !of.fields.is_empty()) {
            for _ in 0..50 {
                let other = shuffled(&of, &mut dice);
                let (there, back) = (Reading::new(&of, &other).unwrap(), Reading::new(&other, &of).unwrap());
                let record = without_padding(&of, record(&mut dice, of.size));
                let read = there.read(&record);
                for field in &of.fields {
                    let new = other.field(&field.name).unwrap();
                    assert_eq!(
                        read[new.offset..][..new.size],
                        record[field.offset..][..field.size],
                        "{}",
                        field.name
                    );
                }
                let novel = other.field("novel").unwrap();
                assert_eq!(read[novel.offset..][..5], [0; 5], "nothing is known of it");
                assert_eq!(back.read(&read), record);
            }
        }
    }

    #[test]
    fn a_field_of_another_size_is_not_taken_for_the_same() {
        let field = |size| NamedField { name: "stage".into(), offset: 0, size };
        let of = |size| Type { size, fields: vec![field(size)] };
        assert_eq!(Reading::new(&of(1), &of(2)), Err("stage".into()));
        assert!(Reading::new(&Type { size: 4, fields: vec![] }, &Type { size: 8, fields: vec![] }).is_err());
    }

    #[test]
    fn differing_maps_are_those_whose_keys_values_or_elements_differ() {
        let own = Description::own();
        let mut other = own.clone();
        other.maps.get_mut(names::FLOWS).unwrap().value.fields[0].offset += 8;
        other.maps.get_mut(names::VIPS).unwrap().elements += 1;
        other.maps.remove(names::ALIVE);
        assert_eq!(own.differences(&other).into_iter().collect::<Vec<_>>(), ["ALIVE", "FLOWS", "VIPS"]);
    }
}
