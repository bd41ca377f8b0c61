//! Per-CPU counters, added up.

use anyhow::{Context, Result};
use aya::{
    Pod,
    maps::{MapData, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use lb_common::{
    fast::{Left, SENT},
    latency::{Histogram, Latency, bound},
    occupancy::{Occupancy, of_service},
    reason::{Kind, Reason},
    stats::{BackendStats, ServiceStats},
};

use super::maps::Maps;
use crate::{api::snapshot, health::passive::Counts};

/// Counters of a service.
pub fn service(maps: &Maps, id: u32) -> Result<ServiceStats> {
    let mut sum = ServiceStats::default();
    maps.service_stats.get(&id, 0).context("map SERVICE_STATS")?.iter().for_each(|c| sum.add(c));
    Ok(sum)
}

/// Counters of a backend.
pub fn backend(maps: &Maps, id: u32) -> Result<BackendStats> {
    let mut sum = BackendStats::default();
    maps.backend_stats.get(&id, 0).context("map BACKEND_STATS")?.iter().for_each(|c| sum.add(c));
    Ok(sum)
}

/// What became of new connections to the first `backends` backends.
pub fn taken(maps: &Maps, backends: u32) -> Result<Vec<Counts>> {
    let counts = |id| {
        let c = backend(maps, id)?;
        Ok(Counts { flows: c.flows, unanswered: c.unanswered, refused: c.refusing })
    };
    (0..backends).map(counts).collect()
}

/// Connections of a backend, or of a service by [`of_service`].
pub fn occupancy(maps: &Maps, element: u32) -> Result<Occupancy> {
    maps.occupancy.get(&element, 0).context("map OCCUPANCY")
}

/// How fast a backend answers.
pub fn latency(maps: &Maps, id: u32) -> Result<Latency> {
    let mut sum = Latency::default();
    maps.latency.get(&id, 0).context("map LATENCY")?.iter().for_each(|l| sum.add(l));
    Ok(sum)
}

/// Packets by reason, in the order of [`Reason::ALL`].
pub fn reasons(maps: &Maps) -> Result<Vec<(Reason, u64)>> {
    Reason::ALL
        .iter()
        .map(|r| {
            let per_cpu = maps.reasons.get(&(*r as u32), 0).context("map REASONS")?;
            Ok((*r, per_cpu.iter().sum()))
        })
        .collect()
}

/// Packets that XDP sent on, and those that it left to TC by the reason.
pub fn fast(maps: &Maps) -> Result<(u64, Vec<(Left, u64)>)> {
    let count =
        |place: u32| -> Result<u64> { Ok(maps.fast.get(&place, 0).context("map FAST")?.iter().sum()) };
    let left = Left::ALL.map(|(left, _)| Ok((left, count(left as u32)?)));
    Ok((count(SENT)?, left.into_iter().collect::<Result<_>>()?))
}

/// Has a service's counters begin anew.
pub fn clear_service(maps: &mut Maps, id: u32) -> Result<()> {
    clear(&mut maps.service_stats, id).context("map SERVICE_STATS")
}

/// Has a backend's counters begin anew.
pub fn clear_backend(maps: &mut Maps, id: u32) -> Result<()> {
    clear(&mut maps.backend_stats, id).context("map BACKEND_STATS")?;
    clear(&mut maps.latency, id).context("map LATENCY")
}

fn clear<V: Pod + Default>(map: &mut PerCpuArray<MapData, V>, id: u32) -> Result<()> {
    let cpus = nr_cpus().map_err(|(what, e)| anyhow::anyhow!("{what}: {e}"))?;
    map.set(id, PerCpuValues::try_from(vec![V::default(); cpus])?, 0)?;
    Ok(())
}

/// Fills in a service's counters.
pub fn fill_service(maps: &Maps, id: u32, s: &mut snapshot::Service) -> Result<()> {
    let c = service(maps, id)?;
    s.flows = c.flows;
    s.refused = c.refused;
    s.displaced = c.displaced;
    s.ports_exhausted = c.ports_exhausted;
    s.table_full = c.table_full;
    s.denied = c.denied;
    s.limited = c.limited;
    s.packets = c.forward.packets + c.reverse.packets;
    s.bytes = c.forward.bytes + c.reverse.bytes;
    let o = occupancy(maps, of_service(id))?;
    (s.active, s.limit) = (o.open(), o.limit);
    Ok(())
}

/// Fills in a backend's counters.
pub fn fill_backend(maps: &Maps, id: u32, b: &mut snapshot::Backend) -> Result<()> {
    let c = backend(maps, id)?;
    b.flows = c.flows;
    (b.unanswered, b.refused) = (c.unanswered, c.refusing);
    b.packets = c.forward.packets + c.reverse.packets;
    b.bytes = c.forward.bytes + c.reverse.bytes;
    let o = occupancy(maps, id)?;
    (b.active, b.limit) = (o.open(), o.limit);
    let l = latency(maps, id)?;
    (b.connect, b.response) = (times(&l.connect), times(&l.response));
    Ok(())
}

fn times(h: &Histogram) -> Option<snapshot::Times> {
    let ms = |us: u64| us as f64 / 1000.0;
    let used = h.buckets.iter().rposition(|n| *n > 0)? + 1;
    Some(snapshot::Times {
        p50_ms: ms(h.quantile(500)?),
        p99_ms: ms(h.quantile(990)?),
        count: h.times(),
        sum_ms: ms(h.sum),
        buckets: (0..).zip(&h.buckets[..used]).map(|(i, n)| (ms(bound(i)), u64::from(*n))).collect(),
    })
}

/// Fills in what became of packets.
pub fn fill_packets(maps: &Maps, s: &mut snapshot::Snapshot) -> Result<()> {
    for (reason, count) in reasons(maps)?.into_iter().filter(|(_, n)| *n > 0) {
        let kind = match reason.kind() {
            Kind::Passed => "passed",
            Kind::Forwarded => "forwarded",
            Kind::Answered => "answered",
            Kind::Refused => "refused",
            Kind::Dropped => "dropped",
        };
        if matches!(reason.kind(), Kind::Refused | Kind::Dropped) {
            s.drops.insert(reason.word().into(), count);
        }
        s.packets.push(snapshot::Packets { reason: reason.word().into(), kind: kind.into(), count });
    }
    Ok(())
}
