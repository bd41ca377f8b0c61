//! Names and capacities of the maps: the schema that programs, daemon and a status command after a crash share.

/// Number of the map layout. What maps of another number hold is brought over by their description (`describe`).
pub const SCHEMA: u32 = if cfg!(feature = "other-layout") { 1006 } else { 6 };

/// `Addr → Vip`: virtual addresses.
pub const VIPS: &str = "VIPS";
/// `u32 → Lease`: the lease of each virtual router; the daemon maps the array into its memory.
pub const LEASES: &str = "LEASES";
/// `ServiceKey → Service`.
pub const SERVICES: &str = "SERVICES";
/// `u32 → u64`: slots of all services' rings (`schedule`); the daemon maps the array into its memory.
pub const RINGS: &str = "RINGS";
/// `u32 → u64`: next ring position of each service.
pub const CURSORS: &str = "CURSORS";
/// `u32 → Occupancy`: connections of each backend, behind those of each service, and of clients; mapped into the daemon's memory.
pub const OCCUPANCY: &str = "OCCUPANCY";
/// `ClientKey → Remembered`: backends of clients that keep to them; the longest unused one gives way.
pub const PERSISTENCE: &str = "PERSISTENCE";
/// `u32 → Backend`.
pub const BACKENDS: &str = "BACKENDS";
/// `u32 backend → Path`.
pub const PATHS: &str = "PATHS";
/// `0 → u64`, per CPU: what has been said of late by ICMP errors of this node's own (`report`).
pub const REPORTED: &str = "REPORTED";
/// `u32 backend → Sources`: the pools that its new flows take source ports from.
pub const SOURCES: &str = "SOURCES";
/// `u32 pool → PoolKey`, from 1 on: whose ports a pool holds.
pub const PORT_POOLS: &str = "PORT_POOLS";
/// `u32 pool → PortBits`: its free ports; the daemon maps the array into its memory.
pub const PORTS: &str = "PORTS";
/// `u32 service → Limits`; mapped into the daemon's memory.
pub const LIMITS: &str = "LIMITS";
/// `AccessKey → u32`, longest prefix: what a service's rules say about a client.
pub const ACCESS: &str = "ACCESS";
/// `PaceKey → u64`: when a client's next flow is due, boottime ns; the longest unused one gives way.
pub const CLIENTS: &str = "CLIENTS";
/// `FlowKey → FlowRef`.
pub const FLOW_KEYS: &str = "FLOW_KEYS";
/// `u32 → Flow`.
pub const FLOWS: &str = "FLOWS";
/// `u32 slot → Opening`: how flows of services whose servers speak first began; the daemon maps the array into its memory.
pub const OPENINGS: &str = "OPENINGS";
/// Queue of free slots of `FLOWS`.
pub const FREE_SLOTS: &str = "FREE_SLOTS";
/// `FragmentKey → FragmentRef`: fragmented datagrams under way; the longest unused one gives way.
pub const FRAGMENTS: &str = "FRAGMENTS";
/// `u32 → u64`: places of half-open flows (`half_open`) from 1 on; 0 counts the places taken. The daemon maps the array into
/// its memory.
pub const HALF_OPEN: &str = "HALF_OPEN";
/// `0 → Build`: whose programs run.
pub const BUILD: &str = "BUILD";
/// `0 → Text`: what the maps beside it look like, for later releases (`describe`).
pub const LAYOUT: &str = "LAYOUT";
/// `u32 ifindex → Interface`.
pub const INTERFACES: &str = "INTERFACES";
/// `0 → Settings`.
pub const SETTINGS: &str = "SETTINGS";
/// `u32 service → ServiceStats`, per CPU.
pub const SERVICE_STATS: &str = "SERVICE_STATS";
/// `u32 backend → BackendStats`, per CPU.
pub const BACKEND_STATS: &str = "BACKEND_STATS";
/// `u32 backend → Latency`, per CPU.
pub const LATENCY: &str = "LATENCY";
/// `u32 Reason → u64`, per CPU.
pub const REASONS: &str = "REASONS";
/// `0 → u64`, per CPU: packets that XDP sent on; `u32 Left → u64`: those that it left to TC.
pub const FAST: &str = "FAST";
/// `0 → Clock`, per CPU: the time of the last tick. Not pinned: of this load.
pub const CLOCK: &str = "CLOCK";
/// `u32 ifindex → SelfTest`. Not pinned: of this load.
pub const SELF_TESTS: &str = "SELF_TESTS";

/// Ring buffer of `FlowEvent`: flows that peers are to be told of.
pub const FLOW_EVENTS: &str = "FLOW_EVENTS";
/// `0 → u64`, per CPU: events for which that ring had no room.
pub const FLOW_EVENTS_LOST: &str = "FLOW_EVENTS_LOST";
/// Ring of [`Held`](crate::held::Held): SYN-ACKs that wait for a peer.
pub const HELD: &str = "HELD";

/// `0 → Capture`: who listens to samples; mapped into the listener's memory.
pub const CAPTURE: &str = "CAPTURE";
/// Ring buffer of `Sample`.
pub const SAMPLES: &str = "SAMPLES";
/// `u32 Tail → program`: the programs that `viplb_ingress` goes on in. Pinned under a name of its own for each load, since
/// the programs of another load must not go on in this one's; without a pin the kernel empties it when the daemon ends.
pub const TAILS: &str = "TAILS";

/// `RangeKey → Port`, longest prefix: first port of the range of ports that a port belongs to.
pub const RANGES: &str = "RANGES";
/// `0 → u64`: until when the daemon counts as alive, boottime ns (`reach::ALIVE_NS`); it maps the array into its memory.
pub const ALIVE: &str = "ALIVE";

/// A program that is reached by a tail call.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// Packets of no known flow.
    Rest = 0,
    /// ICMP errors.
    Errors = 1,
    /// Fragments, and packets with IPv6 extension headers.
    Fragments = 2,
    /// Those of them that belong to no known flow and may open one.
    OpeningFragments = 3,
    /// Packets of flows that need more than new addresses.
    Detour = 4,
    /// Packets that go no further, and whose senders are told.
    Report = 5,
    /// ICMP errors about packets of flows between families.
    ForeignErrors = 6,
    /// Packets of flows that are another server's than their handshake was with.
    Moved = 7,
    /// Those of them that go on, with the other side's numbers.
    Renumber = 8,
}

/// Slots of [`TAILS`].
pub const TAIL_SLOTS: usize = 16;
/// The slot of the program that was attached before, while flows are brought over from its maps: it is asked about packets of flows
/// that are not known here. Empty at all other times.
pub const FORMER: u32 = 14;
/// Likewise, for as long as it opens the new flows, too.
pub const FORMER_OPENS: u32 = 15;

/// All maps that a later daemon adopts.
pub const ALL: [&str; 38] = [
    VIPS,
    LEASES,
    SERVICES,
    RINGS,
    CURSORS,
    OCCUPANCY,
    PERSISTENCE,
    BACKENDS,
    PATHS,
    REPORTED,
    SOURCES,
    PORT_POOLS,
    PORTS,
    LIMITS,
    ACCESS,
    CLIENTS,
    FLOW_KEYS,
    FLOWS,
    OPENINGS,
    FREE_SLOTS,
    FRAGMENTS,
    HALF_OPEN,
    INTERFACES,
    SETTINGS,
    BUILD,
    LAYOUT,
    SERVICE_STATS,
    BACKEND_STATS,
    LATENCY,
    REASONS,
    CAPTURE,
    SAMPLES,
    FAST,
    RANGES,
    ALIVE,
    FLOW_EVENTS,
    FLOW_EVENTS_LOST,
    HELD,
];

/// Virtual addresses.
pub const MAX_VIPS: usize = if cfg!(feature = "other-layout") { 1000 } else { 1024 };
/// Virtual routers.
pub const MAX_ROUTERS: usize = 256;
/// Services.
pub const MAX_SERVICES: usize = 256;
/// Prefixes of port numbers of all ranges together; one range has thirty at most.
pub const MAX_RANGES: usize = MAX_SERVICES * 30;
/// Backends of all services together.
pub const MAX_BACKENDS: usize = 1024;
/// Slots of one ring of weights at most.
pub const MAX_RING: usize = 16_384;
/// Slots of all rings unless the configuration takes more: two halves, so that all new ones are whole before a service turns to its
/// own.
pub const DEFAULT_RING_SLOTS: usize = 131_072;
/// Clients whose backends are remembered.
pub const MAX_PERSISTENT: usize = 32_768;
/// Rules about clients of all services together; memory is taken by rule.
pub const MAX_RULES: usize = 65_536;
/// Clients whose pace is known.
pub const MAX_CLIENTS: usize = 65_536;
/// Pools of source ports that an object brings along; the daemon asks for as many as its configuration needs.
pub const DEFAULT_POOLS: usize = 64;
/// Fragmented datagrams under way.
pub const MAX_FRAGMENTS: usize = 8192;
/// Interfaces.
pub const MAX_INTERFACES: usize = 64;
/// Bytes of the ring of samples: some two thousand.
pub const SAMPLE_BYTES: usize = 256 * 1024;
/// Bytes of the ring of flow events: 32,768 of them, what a second of very many connections leaves behind.
pub const FLOW_EVENT_BYTES: usize = 512 * 1024;
/// Bytes of the ring of held SYN-ACKs: some 1,900, what a quarter of a second of many connections leaves behind.
pub const HELD_BYTES: usize = 256 * 1024;
/// Flows unless configured otherwise.
pub const DEFAULT_FLOWS: usize = 262_144;
/// `BPF_F_MMAPABLE`: the daemon reads and writes single words of the array without a system call per element.
pub const MMAPABLE: usize = 1 << 10;
