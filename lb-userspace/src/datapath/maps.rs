//! Typed handles of the pinned maps.

use std::path::PathBuf;

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, Queue},
};
use lb_common::{
    access::Limits,
    addr::Addr,
    flow::{Flow, FlowKey, FlowRef},
    latency::Latency,
    lease::Lease,
    maps as names,
    occupancy::Occupancy,
    ports::{PoolKey, PortBits, Sources},
    service::{Backend, Interface, Path, Service, ServiceKey, Vip},
    settings::Settings,
    stats::{BackendStats, ServiceStats},
};

use super::{access::Rules, layouts, pins::Pins, ranges::Ranges};

/// Why a pinned map could not be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not there, or no permission.
    #[error("cannot open the pinned map {path}")]
    Open {
        /// The pin.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: MapError,
    },
    /// Of another release.
    #[error(
        "the maps pinned in {path} have layout {found}, this viplb has layout {}: stop the other version first (it removes \
         its pins), or remove the directory once nothing uses it",
        names::SCHEMA
    )]
    Schema {
        /// The directory.
        path: PathBuf,
        /// Their schema number.
        found: u32,
    },
}

/// All maps of a node.
pub struct Maps {
    /// Virtual addresses.
    pub vips: HashMap<MapData, Addr, Vip>,
    /// Leases.
    pub leases: Array<MapData, Lease>,
    /// Services.
    pub services: HashMap<MapData, ServiceKey, Service>,
    /// Ports that belong to ranges.
    pub(super) ranges: Ranges,
    /// Until when the daemon counts as alive.
    pub alive: Array<MapData, u64>,
    /// Ring slots.
    pub rings: Array<MapData, u64>,
    /// Connections of backends and services.
    pub occupancy: Array<MapData, Occupancy>,
    /// Backends.
    pub backends: Array<MapData, Backend>,
    /// Ways to backends.
    pub paths: Array<MapData, Path>,
    /// What holds for services' new flows.
    pub limits: Array<MapData, Limits>,
    /// Rules about clients.
    pub access: Rules,
    /// Pools of backends' new flows.
    pub sources: Array<MapData, Sources>,
    /// Whose ports pools hold.
    pub port_pools: Array<MapData, PoolKey>,
    /// Their ports.
    pub ports: Array<MapData, PortBits>,
    /// Keys of flows.
    pub flow_keys: HashMap<MapData, FlowKey, FlowRef>,
    /// Records of flows.
    pub flows: Array<MapData, Flow>,
    /// Free slots.
    pub free_slots: Queue<MapData, u32>,
    /// Places of half-open flows.
    pub half_open: Array<MapData, u64>,
    /// Interfaces.
    pub interfaces: HashMap<MapData, u32, Interface>,
    /// Settings.
    pub settings: Array<MapData, Settings>,
    /// Counters of services.
    pub service_stats: PerCpuArray<MapData, ServiceStats>,
    /// Counters of backends.
    pub backend_stats: PerCpuArray<MapData, BackendStats>,
    /// How fast backends answer.
    pub latency: PerCpuArray<MapData, Latency>,
    /// Counters of reasons.
    pub reasons: PerCpuArray<MapData, u64>,
    /// Counters of the XDP fast path.
    pub fast: PerCpuArray<MapData, u64>,
}

/// Wraps a pinned map in aya's typed handle.
trait Open: TryFrom<Map, Error = MapError> {
    fn open(pins: &Pins, name: &str, wrap: fn(MapData) -> Map) -> Result<Self, OpenError> {
        let path = pins.map(name);
        MapData::from_pin(&path)
            .and_then(|data| Self::try_from(wrap(data)))
            .map_err(|source| OpenError::Open { path, source })
    }
}

impl<T: TryFrom<Map, Error = MapError>> Open for T {}

impl Maps {
    /// Opens the maps of a node and checks their schema.
    pub fn open(pins: &Pins) -> Result<Self, OpenError> {
        // Before anything is taken for what it is not.
        let found = layouts::schema(pins).unwrap_or(0);
        // 0: just created, the daemon writes its number next.
        if found != 0 && found != names::SCHEMA {
            return Err(OpenError::Schema { path: pins.maps(), found });
        }
        let settings: Array<MapData, Settings> = array(pins, names::SETTINGS)?;
        Ok(Self {
            vips: hash(pins, names::VIPS)?,
            leases: array(pins, names::LEASES)?,
            services: hash(pins, names::SERVICES)?,
            ranges: Open::open(pins, names::RANGES, Map::LpmTrie)?,
            alive: array(pins, names::ALIVE)?,
            rings: array(pins, names::RINGS)?,
            occupancy: array(pins, names::OCCUPANCY)?,
            backends: array(pins, names::BACKENDS)?,
            paths: array(pins, names::PATHS)?,
            limits: array(pins, names::LIMITS)?,
            access: Open::open(pins, names::ACCESS, Map::LpmTrie)?,
            sources: array(pins, names::SOURCES)?,
            port_pools: array(pins, names::PORT_POOLS)?,
            ports: array(pins, names::PORTS)?,
            flow_keys: hash(pins, names::FLOW_KEYS)?,
            flows: array(pins, names::FLOWS)?,
            free_slots: Queue::open(pins, names::FREE_SLOTS, Map::Queue)?,
            half_open: array(pins, names::HALF_OPEN)?,
            interfaces: hash(pins, names::INTERFACES)?,
            settings,
            service_stats: PerCpuArray::open(pins, names::SERVICE_STATS, Map::PerCpuArray)?,
            backend_stats: PerCpuArray::open(pins, names::BACKEND_STATS, Map::PerCpuArray)?,
            latency: PerCpuArray::open(pins, names::LATENCY, Map::PerCpuArray)?,
            reasons: PerCpuArray::open(pins, names::REASONS, Map::PerCpuArray)?,
            fast: PerCpuArray::open(pins, names::FAST, Map::PerCpuArray)?,
        })
    }
}

fn hash<K: Pod, V: Pod>(pins: &Pins, name: &str) -> Result<HashMap<MapData, K, V>, OpenError> {
    HashMap::open(pins, name, Map::HashMap)
}

fn array<V: Pod>(pins: &Pins, name: &str) -> Result<Array<MapData, V>, OpenError> {
    Array::open(pins, name, Map::Array)
}
