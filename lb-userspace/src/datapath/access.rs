//! The maps of who may open connections: a service's rules are there before the service says that it has some, and those of no
//! service go last.
//!
//! `tables` calls. A service with an `allow` list has a rule for everybody else as well, of the service's bits alone.

use anyhow::{Context, Result, ensure};
use aya::maps::{
    MapData,
    lpm_trie::{Key, LpmTrie},
};
use lb_common::{
    access::{AccessKey, Limits, SERVICE_BITS},
    addr::Addr,
    maps::{MAX_RULES, MAX_SERVICES},
};

use super::maps::Maps;

/// The `ACCESS` map.
pub(super) type Rules = LpmTrie<MapData, AccessKey, u32>;

/// Who may open connections to a service, and how fast.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    /// The limits; [`Limits::rules`] is made here.
    pub limits: Limits,
    /// Prefixes of clients (bits of 128) and what holds for them.
    pub rules: Vec<(Addr, u8, u32)>,
}

impl Access {
    /// The rules of service `id` as they are in the map: key, bits that count, what holds.
    pub fn keys(&self, id: u32) -> impl Iterator<Item = (AccessKey, u32, u32)> + '_ {
        self.rules
            .iter()
            .map(move |(a, bits, word)| (AccessKey::new(id, a), SERVICE_BITS + u32::from(*bits), *word))
    }

    /// What the programs are told besides.
    pub fn limits(&self) -> Limits {
        Limits { rules: u32::from(!self.rules.is_empty()), ..self.limits }
    }
}

/// Writes all services' rules; those without have none.
pub(super) fn publish(maps: &mut Maps, all: &[Access]) -> Result<()> {
    let wanted: usize = all.iter().map(|a| a.rules.len()).sum();
    ensure!(wanted <= MAX_RULES, "{wanted} rules about clients: there is room for {MAX_RULES}");
    let name = |key: &Key<AccessKey>| (key.prefix_len(), key.data());
    let entries: Vec<_> = (0..)
        .zip(all)
        .flat_map(|(id, access)| access.keys(id))
        .map(|(key, bits, word)| (Key::new(bits, key), word))
        .collect();
    for (key, word) in &entries {
        maps.access.insert(key, word, 0).context("map ACCESS")?;
    }
    for id in 0..MAX_SERVICES as u32 {
        let limits = all.get(id as usize).map(Access::limits).unwrap_or_default();
        maps.limits.set(id, limits, 0).context("map LIMITS")?;
    }
    let named: std::collections::HashSet<_> = entries.iter().map(|(key, _)| name(key)).collect();
    let there: Vec<_> = maps.access.keys().collect::<Result<_, _>>().context("map ACCESS")?;
    for key in there.iter().filter(|key| !named.contains(&name(key))) {
        maps.access.remove(key).context("map ACCESS")?;
    }
    Ok(())
}
