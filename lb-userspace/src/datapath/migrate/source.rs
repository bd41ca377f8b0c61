//! The maps of another layout that flows are brought over from, read by their description.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use anyhow::{Context, Result};
use lb_common::{
    describe::{Description, Reading, Type},
    flow::{COUNTED, Flow, FlowKey, FlowRef, Stage},
    maps as names,
    opening::Opening,
};

use super::super::{bytes::Bytes, mapped::Mapped, pins::Pins};

/// An array in memory, as words.
pub(super) struct Words {
    words: Mapped<u64>,
    stride: u32,
}

impl Words {
    pub(super) fn open(map: &Bytes, name: &str) -> Result<Self> {
        let stride = map.info.value_size().div_ceil(8);
        Ok(Self { words: Mapped::of(map.data(), name, map.info.max_entries() * stride)?, stride })
    }

    pub(super) fn len(&self) -> u32 {
        self.words.len() / self.stride
    }

    pub(super) fn word(&self, element: u32, word: u32) -> &AtomicU64 {
        let at = self.words.element(element * self.stride + word).expect("an element of the array");
        // SAFETY: a live, aligned word, which lives as long as the mapping.
        unsafe { AtomicU64::from_ptr(at) }
    }

    pub(super) fn byte(&self, element: u32, offset: usize) -> &AtomicU8 {
        let at = self.words.element(element * self.stride).expect("an element of the array");
        debug_assert!(offset < self.stride as usize * 8);
        // SAFETY: a byte of a live element, likewise; whoever else writes it writes it as a whole.
        unsafe { AtomicU8::from_ptr(at.cast::<u8>().add(offset)) }
    }

    pub(super) fn read(&self, element: u32) -> Vec<u8> {
        let word = |word| self.word(element, word).load(Ordering::Acquire).to_ne_bytes();
        (0..self.stride).flat_map(word).collect()
    }
}

/// The maps of the other layout.
pub(super) struct Source {
    pub(super) flows: Words,
    openings: Option<Words>,
    pub(super) places: Words,
    keys: Bytes,
    flow: Reading,
    key: Reading,
    reference: Reading,
    opening: Option<Reading>,
    pub(super) stage: usize,
    mode: usize,
}

impl Source {
    pub(super) fn open(pins: &Pins, description: &Description) -> Result<Self> {
        let own = Description::own();
        let empty = Type::default();
        let value = |d: &Description, name: &str| d.maps.get(name).map_or(empty.clone(), |m| m.value.clone());
        let reading = |name: &str| Reading::new(&value(description, name), &value(&own, name));
        let flow = value(description, names::FLOWS);
        let offset = |name: &str| flow.field(name).map(|f| f.offset).context("a field of flows");
        let open = |name: &str| Bytes::open(&pins.map(name));
        let opening = description.maps.contains_key(names::OPENINGS).then(|| reading(names::OPENINGS));
        let key = |d: &Description| d.maps[names::FLOW_KEYS].key.clone();
        Ok(Self {
            flows: Words::open(&open(names::FLOWS)?, names::FLOWS)?,
            openings: match &opening {
                Some(_) => Some(Words::open(&open(names::OPENINGS)?, names::OPENINGS)?),
                None => None,
            },
            places: Words::open(&open(names::HALF_OPEN)?, names::HALF_OPEN)?,
            keys: open(names::FLOW_KEYS)?,
            flow: reading(names::FLOWS).map_err(anyhow::Error::msg)?,
            key: Reading::new(&key(&own), &key(description)).map_err(anyhow::Error::msg)?,
            reference: reading(names::FLOW_KEYS).map_err(anyhow::Error::msg)?,
            opening: opening.transpose().map_err(anyhow::Error::msg)?,
            stage: offset("stage")?,
            mode: offset("mode")?,
        })
    }

    pub(super) fn is_free(&self, slot: u32) -> bool {
        self.flows.byte(slot, self.stage).load(Ordering::Acquire) == Stage::Free as u8
    }

    pub(super) fn flow(&self, slot: u32) -> Flow {
        let bytes = self.flow.read(&self.flows.read(slot));
        // SAFETY: as many bytes as a record has, of which any pattern is one.
        unsafe { bytes.as_ptr().cast::<Flow>().read_unaligned() }
    }

    pub(super) fn opening(&self, slot: u32) -> Option<Opening> {
        let (openings, reading) = (self.openings.as_ref()?, self.opening.as_ref()?);
        let bytes = reading.read(&openings.read(slot));
        // SAFETY: likewise.
        Some(unsafe { bytes.as_ptr().cast::<Opening>().read_unaligned() })
    }

    /// Takes a flow's mark off without taking it off the counts: it is counted elsewhere from now on. Whether it was there.
    pub(super) fn unmark(&self, slot: u32) -> bool {
        let mut bytes = [0xff; 8];
        bytes[self.mode % 8] = !COUNTED;
        let kept = u64::from_ne_bytes(bytes);
        self.flows.word(slot, (self.mode / 8) as u32).fetch_and(kept, Ordering::AcqRel) & !kept != 0
    }

    pub(super) fn key(&self, key: &FlowKey) -> Vec<u8> {
        // SAFETY: plain bytes without padding, as `layout!` asserts.
        let bytes =
            unsafe { std::slice::from_raw_parts((&raw const *key).cast::<u8>(), size_of::<FlowKey>()) };
        self.key.read(bytes)
    }

    /// Whether a key leads to this flow.
    pub(super) fn leads(&self, key: &FlowKey, slot: u32, generation: u16) -> Result<bool> {
        let Some(value) = self.keys.get(&self.key(key)).context("map FLOW_KEYS")? else { return Ok(false) };
        let bytes = self.reference.read(&value);
        // SAFETY: as many bytes as it has, of which any pattern is one.
        let to = unsafe { bytes.as_ptr().cast::<FlowRef>().read_unaligned() };
        Ok(to.slot == slot && to.generation == generation)
    }

    /// Removes a key that leads to this flow; whether it was there.
    pub(super) fn remove(&self, key: &FlowKey, slot: u32, generation: u16) -> Result<bool> {
        Ok(self.leads(key, slot, generation)? && self.keys.remove(&self.key(key)).context("map FLOW_KEYS")?)
    }
}
