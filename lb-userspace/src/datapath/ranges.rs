//! The map of port ranges: written after the service that a range leads to, and cleared before that goes.
//!
//! `tables` calls. Ranges of one address and protocol do not overlap (`config` refuses that), so each prefix has one owner.

use anyhow::{Context, Result};
use aya::maps::{
    MapData,
    lpm_trie::{Key, LpmTrie},
};
use lb_common::{
    addr::Port,
    reach::{RangeKey, prefixes},
};

use super::tables::DesiredService;

/// The `RANGES` map.
pub(super) type Ranges = LpmTrie<MapData, RangeKey, Port>;

/// The keys of a service on a range.
fn keys(s: &DesiredService) -> impl Iterator<Item = Key<RangeKey>> + '_ {
    let all = s.last.into_iter().flat_map(|last| prefixes(s.port.number(), last.number()));
    all.map(|(port, bits)| Key::new(bits, RangeKey::new(&s.addr, s.proto, port)))
}

/// Leads the service's ports to it.
pub(super) fn publish(ranges: &mut Ranges, s: &DesiredService) -> Result<()> {
    keys(s).try_for_each(|key| ranges.insert(&key, s.port, 0)).context("map RANGES")
}

/// Removes what leads to none of `services`.
pub(super) fn remove_others(ranges: &mut Ranges, services: &[DesiredService]) -> Result<()> {
    let name = |key: &Key<RangeKey>| (key.prefix_len(), key.data());
    let wanted: Vec<_> = services.iter().flat_map(keys).map(|key| name(&key)).collect();
    let there: Vec<_> = ranges.keys().collect::<Result<_, _>>().context("map RANGES")?;
    for key in there.iter().filter(|key| !wanted.contains(&name(key))) {
        ranges.remove(key).context("map RANGES")?;
    }
    Ok(())
}
