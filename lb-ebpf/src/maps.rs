//! Every map, and the kernel's side of [`Tables`]: the only file that touches map memory.
//!
//! Names and capacities are those of `lb_common::maps`. Maps are pinned by name, so that flows outlive the daemon.

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_NOEXIST,
    btf_maps::{
        Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, Queue, RingBuf, lpm_trie::Key,
    },
    helpers::{bpf_jiffies64, bpf_ktime_get_boot_ns},
    macros::btf_map,
};
use lb_common::{
    access::{ACCESS_BITS, AccessKey, Limits, PaceKey},
    addr::{Addr, Port},
    build::Build,
    clock::Clock,
    fast::{FAST_SLOTS, SelfTest},
    flow::{Flow, FlowKey, FlowRef},
    flow_event::FlowEvent,
    fragment::{FragmentKey, FragmentRef},
    half_open,
    held::Held,
    latency::Latency,
    lease::Lease,
    maps::{
        DEFAULT_FLOWS, DEFAULT_POOLS, DEFAULT_RING_SLOTS, FLOW_EVENT_BYTES, HELD_BYTES, MAX_BACKENDS,
        MAX_CLIENTS, MAX_FRAGMENTS, MAX_INTERFACES, MAX_PERSISTENT, MAX_RANGES, MAX_ROUTERS, MAX_RULES,
        MAX_SERVICES, MAX_VIPS, MMAPABLE, SAMPLE_BYTES, TAIL_SLOTS, Tail,
    },
    occupancy::{self, Occupancy},
    opening::{Opening, Options},
    persistence::{ClientKey, Remembered},
    ports::{PoolKey, PortBits, Sources, WORDS, Words},
    reach::{RANGE_BITS, RangeKey},
    reason::{REASON_SLOTS, Reason},
    sample::{Capture, Sample},
    service::{Backend, Interface, Path, Service, ServiceKey, Vip},
    settings::Settings,
    stats::{BackendStats, ServiceStats},
    text::LayoutText,
};
use lb_ebpf::{
    handshake::Block,
    schedule::{By, Ring},
    tables::{InsertError, Tables},
};

use crate::{
    atomics::{compare_exchange, fetch_add, fetch_and, fetch_or, opaque},
    subprograms::{
        self, NO_PORT, admitted, entered, viplb_admit, viplb_claim_port, viplb_end_flow, viplb_enter_forward,
        viplb_enter_reverse, viplb_is_member, viplb_missed, viplb_options, viplb_release, viplb_release_port,
        viplb_shift_options,
    },
};

#[btf_map]
static VIPS: HashMap<Addr, Vip, MAX_VIPS> = HashMap::new();
#[btf_map]
static LEASES: Array<Lease, MAX_ROUTERS, MMAPABLE> = Array::new();
#[btf_map]
static SERVICES: HashMap<ServiceKey, Service, MAX_SERVICES> = HashMap::new();
#[btf_map]
static RANGES: LpmTrie<RangeKey, Port, MAX_RANGES> = LpmTrie::new();
#[btf_map]
static ALIVE: Array<u64, 1, MMAPABLE> = Array::new();
#[btf_map]
static RINGS: Array<u64, DEFAULT_RING_SLOTS, MMAPABLE> = Array::new();
#[btf_map]
static CURSORS: Array<u64, MAX_SERVICES> = Array::new();
#[btf_map]
static OCCUPANCY: Array<Occupancy, { occupancy::ELEMENTS }, MMAPABLE> = Array::new();
#[btf_map]
static PERSISTENCE: LruHashMap<ClientKey, Remembered, MAX_PERSISTENT> = LruHashMap::new();
#[btf_map]
static BACKENDS: Array<Backend, MAX_BACKENDS> = Array::new();
#[btf_map]
static PATHS: Array<Path, MAX_BACKENDS> = Array::new();
#[btf_map]
static REPORTED: PerCpuArray<u64, 1> = PerCpuArray::new();
#[btf_map]
static LIMITS: Array<Limits, MAX_SERVICES, MMAPABLE> = Array::new();
#[btf_map]
static ACCESS: LpmTrie<AccessKey, u32, MAX_RULES> = LpmTrie::new();
#[btf_map]
static CLIENTS: LruHashMap<PaceKey, u64, MAX_CLIENTS> = LruHashMap::new();
#[btf_map]
static SOURCES: Array<Sources, MAX_BACKENDS> = Array::new();
#[btf_map]
static PORT_POOLS: Array<PoolKey, DEFAULT_POOLS> = Array::new();
#[btf_map]
static PORTS: Array<PortBits, DEFAULT_POOLS, MMAPABLE> = Array::new();
#[btf_map]
static FLOW_KEYS: HashMap<FlowKey, FlowRef, { 2 * DEFAULT_FLOWS }> = HashMap::new();
#[btf_map]
static FLOWS: Array<Flow, DEFAULT_FLOWS, MMAPABLE> = Array::new();
#[btf_map]
static OPENINGS: Array<Opening, DEFAULT_FLOWS, MMAPABLE> = Array::new();
#[btf_map]
static FREE_SLOTS: Queue<u32, DEFAULT_FLOWS> = Queue::new();
#[btf_map]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentRef, MAX_FRAGMENTS> = LruHashMap::new();
#[btf_map]
static HALF_OPEN: Array<u64, { half_open::places(DEFAULT_FLOWS as u32) as usize + 1 }, MMAPABLE> =
    Array::new();
#[btf_map]
static INTERFACES: HashMap<u32, Interface, MAX_INTERFACES> = HashMap::new();
#[btf_map]
static SETTINGS: Array<Settings, 1> = Array::new();
#[btf_map]
static BUILD: Array<Build, 1> = Array::new();
#[btf_map]
static LAYOUT: Array<LayoutText, 1> = Array::new();
#[btf_map]
static SERVICE_STATS: PerCpuArray<ServiceStats, MAX_SERVICES> = PerCpuArray::new();
#[btf_map]
static BACKEND_STATS: PerCpuArray<BackendStats, MAX_BACKENDS> = PerCpuArray::new();
#[btf_map]
static LATENCY: PerCpuArray<Latency, MAX_BACKENDS> = PerCpuArray::new();
#[btf_map]
static REASONS: PerCpuArray<u64, REASON_SLOTS> = PerCpuArray::new();

#[btf_map]
static CAPTURE: Array<Capture, 1, MMAPABLE> = Array::new();
#[btf_map]
static SAMPLES: RingBuf<Sample, SAMPLE_BYTES> = RingBuf::new();
#[btf_map]
static FLOW_EVENTS: RingBuf<FlowEvent, FLOW_EVENT_BYTES> = RingBuf::new();
#[btf_map]
static FLOW_EVENTS_LOST: PerCpuArray<u64, 1> = PerCpuArray::new();
#[btf_map]
static HELD: RingBuf<Held, HELD_BYTES> = RingBuf::new();
#[btf_map]
static FAST: PerCpuArray<u64, FAST_SLOTS> = PerCpuArray::new();
#[btf_map]
static SELF_TESTS: HashMap<u32, SelfTest, MAX_INTERFACES> = HashMap::new();

#[btf_map]
static CLOCK: PerCpuArray<Clock, 1> = PerCpuArray::new();

/// Boottime as of the last timer tick, ns: at most [`lb_common::clock::BEHIND`] ago.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper, a load of one word once the kernel has compiled it, has no precondition.
    let ticks = unsafe { bpf_jiffies64() };
    match CLOCK.get_ptr_mut(0) {
        // SAFETY: this processor's copy of a live element.
        Some(clock) if unsafe { (*clock).ticks } == ticks => unsafe { (*clock).boottime },
        Some(clock) => read_clock(clock, ticks),
        None => boottime(),
    }
}

/// Of two programs that one processor runs at once (in a real-time kernel one may be put off by another) none may find the other's
/// ticks with an older time.
#[inline(never)]
fn read_clock(clock: *mut Clock, ticks: u64) -> u64 {
    let now = boottime();
    // SAFETY: this processor's copy of a live element.
    unsafe {
        (&raw mut (*clock).ticks).write_volatile(0);
        (&raw mut (*clock).boottime).write_volatile(now);
        (&raw mut (*clock).ticks).write_volatile(ticks);
    }
    now
}

#[inline(always)]
fn boottime() -> u64 {
    // SAFETY: the helper has no precondition.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// Counts what XDP did with a packet.
#[inline(always)]
pub fn count_fast(place: u32) {
    if let Some(p) = FAST.get_ptr_mut(place) {
        // SAFETY: this processor's copy of a live element.
        unsafe { *p += 1 }
    }
}

/// The self-test of an interface that is waiting for a reply, which is this one then.
#[inline(always)]
pub fn take_self_test(ifindex: u32) -> Option<&'static SelfTest> {
    let test = SELF_TESTS.get_ptr_mut(ifindex)?;
    // SAFETY: a live element, which only the daemon replaces; two processors may both take it, and both send then.
    unsafe {
        if (*test).armed == 0 {
            return None;
        }
        (*test).armed = 0;
        Some(&*test)
    }
}

#[btf_map]
static TAILS: ProgramArray<TAIL_SLOTS> = ProgramArray::new();

/// Goes on in another program, which does not come back; returns only if that program is missing.
#[inline(always)]
pub fn tail_call<C: EbpfContext>(ctx: &C, tail: Tail) {
    // SAFETY: the other program is of the same type, and nothing here waits to be dropped.
    unsafe { TAILS.tail_call(ctx, tail as u32) };
}

/// Likewise in the program in a slot that is mostly empty: [`FORMER`](lb_common::maps::FORMER).
#[inline(always)]
pub fn leave_to<C: EbpfContext>(ctx: &C, slot: u32) {
    // SAFETY: likewise.
    unsafe { TAILS.tail_call(ctx, slot) };
}

const EEXIST: i32 = 17;

/// The words of a pool of ports.
pub struct PoolWords(*mut u64);

/// The words of a pool, if there is one.
#[inline(always)]
pub fn pool_words(pool: u32) -> Option<PoolWords> {
    PORTS.get_ptr_mut(pool).map(|bits| PoolWords(bits.cast()))
}

impl PoolWords {
    #[inline(always)]
    fn word(&self, i: u32) -> *mut u64 {
        let i = seen_below::<{ WORDS as u64 }>(i.into());
        // SAFETY: within the pool's words.
        unsafe { self.0.add(i as usize) }
    }
}

/// An index as it is, in a way that every verifier sees to be below `N`. Callers bound theirs by masks, of which the compiler leaves
/// out those that it knows to change nothing; Linux 6.1's verifier does not follow what it knows that from.
#[inline(always)]
fn seen_below<const N: u64>(i: u64) -> u64 {
    let i: u64 = opaque(i);
    if i < N { i } else { 0 }
}

impl Words for PoolWords {
    #[inline(always)]
    fn load(&self, i: u32) -> u64 {
        // SAFETY: a word of a live array element.
        unsafe { self.word(i).read_volatile() }
    }

    #[inline(always)]
    fn set(&self, i: u32, bits: u64) -> u64 {
        fetch_or(self.word(i), bits)
    }

    #[inline(always)]
    fn clear(&self, i: u32, bits: u64) -> u64 {
        fetch_and(self.word(i), !bits)
    }
}

/// The kernel's maps.
pub struct Kernel;

impl Tables for Kernel {
    #[inline(always)]
    fn settings(&self) -> Option<&Settings> {
        SETTINGS.get(0)
    }

    #[inline(always)]
    fn vip(&self, addr: &Addr) -> Option<&Vip> {
        // SAFETY: valid until the program ends; an element deleted meanwhile may show another address' router.
        unsafe { VIPS.get(addr) }
    }

    #[inline(always)]
    fn lease(&self, router: u32) -> Option<&mut Lease> {
        // SAFETY: a live array element, of which the daemon writes other words than the core.
        LEASES.get_ptr_mut(router).map(|p| unsafe { &mut *p })
    }

    #[inline(always)]
    fn precise(&self, _: u64) -> u64 {
        boottime()
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<&Service> {
        // SAFETY: valid until the program ends; an update replaces the element as a whole.
        unsafe { SERVICES.get(key) }
    }

    #[inline(always)]
    fn range(&self, key: &RangeKey) -> Option<Port> {
        RANGES.get(&Key::new(RANGE_BITS, *key)).copied()
    }

    #[inline(always)]
    fn alive_until(&self) -> u64 {
        // SAFETY: a live array element, which the daemon writes.
        ALIVE.get_ptr(0).map_or(0, |p| unsafe { p.read_volatile() })
    }

    #[inline(always)]
    fn ring(&self, slot: u32) -> Option<u64> {
        // SAFETY: a live array element, which the daemon writes.
        RINGS.get_ptr(slot).map(|p| unsafe { p.read_volatile() })
    }

    #[inline(always)]
    fn next(&self, service: u32) -> u32 {
        // No two processors draw the same position, so that shares are exact.
        CURSORS.get_ptr_mut(service).map_or(0, |p| fetch_add(p, 1) as u32)
    }

    #[inline(always)]
    fn backend(&self, id: u32) -> Option<&Backend> {
        BACKENDS.get(id)
    }

    #[inline(always)]
    fn occupancy(&self, element: u32) -> Option<Occupancy> {
        let o = OCCUPANCY.get_ptr(element)?;
        // SAFETY: a live array element, which other processors and the daemon write word by word.
        unsafe {
            Some(Occupancy {
                connections: (&raw const (*o).connections).read_volatile(),
                limit: (&raw const (*o).limit).read_volatile(),
            })
        }
    }

    #[inline(always)]
    fn occupy(&self, element: u32) -> bool {
        let Some(o) = OCCUPANCY.get_ptr_mut(element) else { return false };
        // SAFETY: a live array element; the daemon writes the limit.
        let (connections, limit) =
            unsafe { (&raw mut (*o).connections, (&raw const (*o).limit).read_volatile()) };
        let before = fetch_add(connections, 1) as i64;
        if limit != 0 && before >= limit as i64 {
            // Others that come in this moment are refused although there may be room again: a limit is never exceeded.
            fetch_add(connections, u64::MAX);
            return false;
        }
        true
    }

    #[inline(always)]
    fn join(&self, element: u32) -> u64 {
        // SAFETY: a live array element.
        OCCUPANCY.get_ptr_mut(element).map_or(0, |o| fetch_add(unsafe { &raw mut (*o).connections }, 1))
    }

    #[inline(always)]
    fn leave(&self, element: u32) {
        if let Some(o) = OCCUPANCY.get_ptr_mut(element) {
            // SAFETY: a live array element.
            fetch_add(unsafe { &raw mut (*o).connections }, u64::MAX);
        }
    }

    #[inline(always)]
    fn unmark(&self, flow: &mut Flow) -> bool {
        // SAFETY: within the record, whose size and alignment make it an aligned word.
        let word = unsafe { (&raw mut *flow).byte_add(Flow::MARKED) }.cast();
        fetch_and(word, Flow::UNMARKED) & !Flow::UNMARKED != 0
    }

    #[inline(always)]
    fn remembered(&self, key: &ClientKey) -> Option<&mut Remembered> {
        // SAFETY: valid until the program ends; an element that gives way meanwhile may be another client's, which is then given
        // a backend that is not full either.
        PERSISTENCE.get_ptr_mut(key).map(|p| unsafe { &mut *p })
    }

    #[inline(always)]
    fn remember(&self, key: &ClientKey, to: &Remembered) {
        // Fails only while another processor gives way to this: the client is given any backend next time.
        let _ = PERSISTENCE.insert(key, to, 0);
    }

    #[inline(always)]
    fn pick(&self, slot: u32, ring: &Ring) -> Result<u32, Reason> {
        subprograms::pick(slot, ring)
    }

    #[inline(always)]
    fn least(&self, first: u32, members: u32, by: By, start: u32, avoid: u32) -> Option<u32> {
        subprograms::least(first, members, by, start, avoid)
    }

    #[inline(always)]
    fn is_member(&self, first: u32, members: u32, backend: u32) -> bool {
        viplb_is_member(first, members, backend) != 0
    }

    #[inline(always)]
    fn release(&self, slot: u32) {
        viplb_release(slot);
    }

    #[inline(always)]
    fn missed(&self, slot: u32, refused: bool) -> bool {
        viplb_missed(slot, refused.into()) != 0
    }

    #[inline(always)]
    fn options(&self, block: &Block) -> Options {
        Options(viplb_options(block))
    }

    #[inline(always)]
    fn shift_options(&self, block: &mut Block, seq: u32, ts: u32, forward: bool, timed: bool) -> u16 {
        viplb_shift_options(block, seq, ts, forward.into(), timed.into()) as u16
    }

    #[inline(always)]
    fn path(&self, backend: u32) -> Option<&Path> {
        PATHS.get(backend)
    }

    #[inline(always)]
    fn reported(&self) -> Option<&mut u64> {
        // SAFETY: this processor's copy of a live element.
        REPORTED.get_ptr_mut(0).map(|p| unsafe { &mut *p })
    }

    #[inline(always)]
    fn interface(&self, ifindex: u32) -> Option<&Interface> {
        // SAFETY: valid until the program ends.
        unsafe { INTERFACES.get(ifindex) }
    }

    #[inline(always)]
    fn flow_ref(&self, key: &FlowKey) -> Option<&FlowRef> {
        // SAFETY: valid until the program ends; a key deleted meanwhile is found out by the record's generation.
        unsafe { FLOW_KEYS.get(key) }
    }

    #[inline(always)]
    fn flow(&self, slot: u32) -> Option<&mut Flow> {
        // SAFETY: a live array element; the core holds one at a time.
        FLOWS.get_ptr_mut(slot).map(|p| unsafe { &mut *p })
    }

    #[inline(always)]
    fn opening(&self, slot: u32) -> Option<&mut Opening> {
        // SAFETY: a live array element, whose state the daemon writes as well.
        OPENINGS.get_ptr_mut(slot).map(|p| unsafe { &mut *p })
    }

    #[inline(always)]
    fn take_slot(&self) -> Option<u32> {
        FREE_SLOTS.pop().ok().flatten()
    }

    #[inline(always)]
    fn has_free_slot(&self) -> bool {
        FREE_SLOTS.peek().is_ok_and(|slot| slot.is_some())
    }

    #[inline(always)]
    fn next_place(&self) -> u32 {
        // Not atomic: of two processors that come to the same place, one goes on to the next.
        match HALF_OPEN.get_ptr_mut(0) {
            // SAFETY: a live array element.
            Some(p) => unsafe {
                let n = p.read_volatile();
                p.write_volatile(n.wrapping_add(1));
                n as u32
            },
            None => 0,
        }
    }

    #[inline(always)]
    fn place(&self, i: u32) -> Option<u64> {
        // SAFETY: a live array element.
        HALF_OPEN.get_ptr_mut(i).map(|p| unsafe { p.read_volatile() })
    }

    #[inline(always)]
    fn set_place(&self, i: u32, to: u64) {
        if let Some(p) = HALF_OPEN.get_ptr_mut(i) {
            // SAFETY: a live array element, which is the caller's.
            unsafe { p.write_volatile(to) }
        }
    }

    #[inline(always)]
    fn exchange_place(&self, i: u32, from: u64, to: u64) -> bool {
        HALF_OPEN.get_ptr_mut(i).is_some_and(|p| compare_exchange(p, from, to))
    }

    #[inline(always)]
    fn free_slot(&self, slot: u32) {
        // Cannot be full: there are as many places as slots.
        let _ = FREE_SLOTS.push(slot, 0);
    }

    #[inline(always)]
    fn insert_key(&self, key: &FlowKey, to: &FlowRef) -> Result<(), InsertError> {
        match FLOW_KEYS.insert(key, to, u64::from(BPF_NOEXIST)) {
            Ok(()) => Ok(()),
            Err(e) if e == -EEXIST => Err(InsertError::Exists),
            Err(_) => Err(InsertError::Full),
        }
    }

    #[inline(always)]
    fn remove_key(&self, key: &FlowKey) -> bool {
        FLOW_KEYS.remove(key).is_ok()
    }

    #[inline(always)]
    fn limits(&self, service: u32) -> Option<&Limits> {
        LIMITS.get(service)
    }

    #[inline(always)]
    fn access(&self, key: &AccessKey) -> Option<u32> {
        ACCESS.get(&Key::new(ACCESS_BITS, *key)).copied()
    }

    #[inline(always)]
    fn client_due(&self, key: &PaceKey) -> Option<u64> {
        // SAFETY: valid until the program ends; an element that gives way meanwhile may show another client's.
        CLIENTS.get_ptr(key).map(|p| unsafe { p.read_volatile() })
    }

    #[inline(always)]
    fn add_client(&self, key: &PaceKey, due: u64) {
        // Of two processors that add the same one either may be the last: the client has had one flow more.
        let _ = CLIENTS.insert(key, due, 0);
    }

    #[inline(always)]
    fn exchange_client_due(&self, key: &PaceKey, from: u64, to: u64) -> bool {
        CLIENTS.get_ptr_mut(key).is_some_and(|p| compare_exchange(p, from, to))
    }

    #[inline(always)]
    fn admit(&self, service: u32, client: &Addr, now: u64) -> Result<(), Reason> {
        let [high, low] = client.words();
        admitted(viplb_admit(service, high, low, now))
    }

    #[inline(always)]
    fn sources(&self, backend: u32) -> Option<&Sources> {
        SOURCES.get(backend)
    }

    #[inline(always)]
    fn pool(&self, pool: u32) -> Option<&PoolKey> {
        PORT_POOLS.get(pool)
    }

    #[inline(always)]
    fn enter_reverse(&self, f: &mut Flow, slot: u32) -> Result<(), Reason> {
        entered(viplb_enter_reverse(f, slot))
    }

    #[inline(always)]
    fn enter_forward(&self, f: &mut Flow, slot: u32) -> Result<(), Reason> {
        entered(viplb_enter_forward(f, slot))
    }

    #[inline(always)]
    fn end_flow(&self, f: &mut Flow, slot: u32) {
        viplb_end_flow(f, slot);
    }

    #[inline(always)]
    fn claim_port(&self, pool: u32, hash: u32) -> Option<u16> {
        let port = viplb_claim_port(pool, hash);
        if port < NO_PORT { Some(port as u16) } else { None }
    }

    #[inline(always)]
    fn release_port(&self, pool: u32, port: u16) {
        viplb_release_port(pool, port.into());
    }

    #[inline(always)]
    fn flow_event(&self, event: &FlowEvent) {
        if FLOW_EVENTS.output(event, 0).is_err()
            && let Some(lost) = FLOW_EVENTS_LOST.get_ptr_mut(0)
        {
            // SAFETY: this processor's copy of a live element.
            unsafe { *lost += 1 }
        }
    }

    #[inline(always)]
    fn hold(&self, held: &Held) -> bool {
        HELD.output(held, 0).is_ok()
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<&FragmentRef> {
        // SAFETY: valid until the program ends; an element that gives way meanwhile may show another datagram's flow, whose
        // fragments are then not put together.
        unsafe { FRAGMENTS.get(key) }
    }

    #[inline(always)]
    fn record_fragment(&self, key: &FragmentKey, to: &FragmentRef) {
        // Fails only while another processor gives way to this: the fragments that follow are counted as they are dropped.
        let _ = FRAGMENTS.insert(key, to, 0);
    }

    #[inline(always)]
    fn service_stats(&self, service: u32) -> Option<&mut ServiceStats> {
        // SAFETY: this processor's copy of a live element.
        SERVICE_STATS.get_ptr_mut(service).map(|p| unsafe { &mut *p })
    }

    #[inline(always)]
    fn backend_stats(&self, backend: u32) -> Option<&mut BackendStats> {
        // SAFETY: this processor's copy of a live element.
        BACKEND_STATS.get_ptr_mut(backend).map(|p| unsafe { &mut *p })
    }

    #[inline(always)]
    fn latency(&self, backend: u32) -> Option<&mut Latency> {
        // SAFETY: this processor's copy of a live element.
        LATENCY.get_ptr_mut(backend).map(|p| unsafe { &mut *p })
    }

    #[inline(always)]
    fn count(&self, reason: Reason) {
        if let Some(p) = REASONS.get_ptr_mut(reason as u32) {
            // SAFETY: this processor's copy of a live element.
            unsafe { *p += 1 }
        }
    }

    #[inline(always)]
    fn capture(&self) -> Option<&Capture> {
        CAPTURE.get(0)
    }

    #[inline(always)]
    fn sample(&self, sample: &Sample) {
        if SAMPLES.output(sample, 0).is_err()
            && let Some(p) = CAPTURE.get_ptr_mut(0)
        {
            // SAFETY: a live array element; one lost more or less, when two processors count at once, does not matter.
            unsafe {
                let lost = &raw mut (*p).lost;
                lost.write_volatile(lost.read_volatile() + 1);
            }
        }
    }
}
