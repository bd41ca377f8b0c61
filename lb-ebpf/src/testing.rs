//! The host's front end: a frame in a `Vec` and tables in memory, for tests of this and other crates.
//!
//! `Buffer` does to a checksum what the kernel does to a frame without offload, so that a packet rewritten here equals
//! byte for byte what `BPF_PROG_TEST_RUN` returns.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::{BTreeMap, HashMap, VecDeque};

use lb_common::{
    access::{ACCESS_BITS, AccessKey, Limits, PaceKey},
    addr::{Addr, PROTO_TCP, Port},
    checksum::{fold, update},
    flow::{COUNTED, Flow, FlowKey, FlowRef},
    flow_event::FlowEvent,
    fragment::{FragmentKey, FragmentRef},
    half_open,
    held::Held,
    latency::Latency,
    lease::Lease,
    occupancy::{ELEMENTS, Occupancy},
    opening::Opening,
    persistence::{ClientKey, Remembered},
    ports::{PoolKey, Sources, WORDS, Words, free, renew},
    reach::RangeKey,
    reason::{REASON_SLOTS, Reason},
    sample::{Capture, HEAD, Sample},
    service::{Backend, Interface, Path, Service, ServiceKey, Vip},
    settings::Settings,
    stats::{BackendStats, ServiceStats},
};

use crate::access_list;
use crate::balance;
use crate::ending;
use crate::packet::{Checksum, Delivery, Packet, Plain, Room};
use crate::parse::L3;
use crate::ports;
use crate::tables::{InsertError, Tables};

/// A frame in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buffer {
    /// The frame from its Ethernet header on.
    pub bytes: Vec<u8>,
    /// To whom it was addressed.
    pub delivery: Delivery,
    /// Whether it belongs to a VLAN.
    pub tagged: bool,
    /// Data in each segment that it is to be cut into; 0: it is not.
    pub segment: u32,
    /// What the program that decided last has told the next.
    pub handed: [u32; 2],
    /// What it has found out about the frame.
    pub noted: [u32; 2],
    /// Whether the node's own stack has a socket for it.
    pub socket: bool,
    /// The slots of programs that it would have been left to, had they been there.
    pub offered: RefCell<Vec<u32>>,
}

impl Buffer {
    /// A frame addressed to this host.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            bytes: bytes.into(),
            delivery: Delivery::Host,
            tagged: false,
            segment: 0,
            handed: [0; 2],
            noted: [0; 2],
            socket: false,
            offered: RefCell::default(),
        }
    }

    fn checksum(&mut self, offset: usize, f: impl FnOnce(u16) -> u16) -> Option<()> {
        let field = self.bytes.get_mut(offset..offset + 2)?;
        let new = f(u16::from_be_bytes([field[0], field[1]]));
        field.copy_from_slice(&new.to_be_bytes());
        Some(())
    }
}

impl Packet for Buffer {
    fn length(&self) -> u32 {
        self.bytes.len() as u32
    }

    fn delivery(&self) -> Delivery {
        self.delivery
    }

    fn tagged(&self) -> bool {
        self.tagged
    }

    fn read<T: Plain>(&self, offset: usize) -> Option<T> {
        let b = self.bytes.get(offset..offset.checked_add(size_of::<T>())?)?;
        // SAFETY: the slice has the size of T; `Plain` allows any alignment and bit pattern.
        Some(unsafe { b.as_ptr().cast::<T>().read_unaligned() })
    }

    fn write<T: Plain>(&mut self, offset: usize, value: &T) -> Option<()> {
        let b = self.bytes.get_mut(offset..offset.checked_add(size_of::<T>())?)?;
        // SAFETY: the slice has the size of T; `Plain` allows any alignment.
        unsafe { b.as_mut_ptr().cast::<T>().write_unaligned(*value) };
        Some(())
    }

    fn load<T: Plain>(&self, offset: usize) -> Option<T> {
        self.read(offset)
    }

    fn store<T: Plain>(&mut self, offset: usize, value: &T) -> Option<()> {
        self.write(offset, value)
    }

    fn head(&self, to: &mut [u8; HEAD]) -> u16 {
        let length = self.bytes.len().min(HEAD);
        to[..length].copy_from_slice(&self.bytes[..length]);
        length as u16
    }

    fn update_l4_checksum(&mut self, field: Checksum, pseudo: u16, body: u16) -> Option<()> {
        self.checksum(field.offset, |c| match update(update(c, pseudo), body) {
            _ if field.optional && c == 0 => 0,
            0 if field.optional => 0xffff,
            sum => sum,
        })
    }

    fn set_l4_checksum(&mut self, offset: usize, pseudo: u16, body: u16) -> Option<()> {
        self.checksum(offset, |_| !fold(u32::from(pseudo) + u32::from(body)))
    }

    fn amend_frame_sum(&mut self, _: u16) {}

    fn take_in(&mut self) {
        self.delivery = Delivery::Host;
    }

    fn resize(&mut self, length: u32) -> Option<()> {
        self.bytes.resize(length as usize, 0);
        Some(())
    }

    fn segment_size(&self) -> u32 {
        self.segment
    }

    fn make_room(&mut self, room: Room) -> Option<()> {
        let length = match room {
            Room::Tunnel4 => 20,
            Room::Tunnel6 => 40,
            Room::Error4 => 28,
            Room::Error6 => 48,
        };
        (self.bytes.len() >= L3).then(|| drop(self.bytes.splice(L3..L3, std::iter::repeat_n(0, length))))
    }

    fn change_family(&mut self, to_v6: bool) -> Option<()> {
        if to_v6 {
            self.bytes.splice(L3..L3, [0; 20]);
        } else {
            self.bytes.get(..L3 + 20)?;
            self.bytes.drain(L3..L3 + 20);
        }
        Some(())
    }

    fn is_unfinished(&mut self, _: usize) -> bool {
        false
    }

    fn has_socket(&self, _: &FlowKey) -> bool {
        self.socket
    }

    fn leave_to(&self, slot: u32) {
        self.offered.borrow_mut().push(slot);
    }

    fn hand_on(&mut self, words: [u32; 2]) {
        self.handed = words;
    }

    fn handed(&self) -> [u32; 2] {
        self.handed
    }

    fn note(&mut self, words: [u32; 2]) {
        self.noted = words;
    }

    fn noted(&self) -> [u32; 2] {
        self.noted
    }
}

/// Tables in memory. Fields are public so that a test can set up and look at anything.
pub struct Memory {
    /// Settings.
    pub settings: Settings,
    /// Virtual addresses.
    pub vips: HashMap<Addr, Vip>,
    leases: HashMap<u32, UnsafeCell<Lease>>,
    /// Services.
    pub services: HashMap<ServiceKey, Service>,
    /// First port of each port that belongs to a range.
    pub ranges: HashMap<RangeKey, Port>,
    /// Until when the daemon counts as alive.
    pub alive_until: u64,
    /// Words in ring slots.
    pub rings: HashMap<u32, u64>,
    /// Cursors by service.
    pub cursors: RefCell<HashMap<u32, u32>>,
    /// Backends of clients that keep to them.
    pub remembered: RefCell<HashMap<ClientKey, Remembered>>,
    /// Backends.
    pub backends: HashMap<u32, Backend>,
    /// What holds for services' new flows.
    pub limits: HashMap<u32, Limits>,
    /// Rules about clients: key, bits of it that count, what it says.
    pub rules: Vec<(AccessKey, u32, u32)>,
    /// When clients' next flows are due.
    pub clients: RefCell<HashMap<PaceKey, u64>>,
    /// Ways to backends.
    pub paths: HashMap<u32, Path>,
    /// The pools that backends' new flows take source ports from.
    pub sources: HashMap<u32, Sources>,
    /// Whose ports each pool holds, from 1 on.
    pub pools: Vec<PoolKey>,
    ports: Vec<Pool>,
    /// Interfaces.
    pub interfaces: HashMap<u32, Interface>,
    /// Keys of both directions.
    pub keys: RefCell<HashMap<FlowKey, FlowRef>>,
    /// Fragmented datagrams under way.
    pub fragments: RefCell<HashMap<FragmentKey, FragmentRef>>,
    /// Most keys there may be.
    pub key_capacity: usize,
    /// Free slots.
    pub free: RefCell<VecDeque<u32>>,
    /// How far the time that programs are given is behind, ns.
    pub behind: u64,
    /// What became of packets, by number of the reason.
    pub reasons: RefCell<[u64; REASON_SLOTS]>,
    /// Who listens.
    pub capture: Capture,
    /// What a listener was shown.
    pub samples: RefCell<Vec<Sample>>,
    /// What the daemon was told.
    pub flow_events: RefCell<Vec<FlowEvent>>,
    /// SYN-ACKs left to the daemon.
    pub held: RefCell<Vec<Held>>,
    /// Whether there is no room for more of them.
    pub held_full: bool,
    reported: UnsafeCell<u64>,
    /// Those that are not zero: most of very many are.
    occupancy: RefCell<HashMap<u32, Occupancy>>,
    places: Vec<Cell<u64>>,
    flows: Vec<UnsafeCell<Flow>>,
    openings: Vec<UnsafeCell<Opening>>,
    service_stats: UnsafeCell<Box<[ServiceStats; 8]>>,
    backend_stats: UnsafeCell<Box<[BackendStats; 32]>>,
    latency: UnsafeCell<Box<[Latency; 32]>>,
}

impl Memory {
    /// Empty tables with room for `flows` flows, and the half-open ones that go with them.
    pub fn new(flows: u32) -> Self {
        Self::with_places(flows, half_open::places(flows))
    }

    /// Likewise with so many places for half-open flows.
    pub fn with_places(flows: u32, places: u32) -> Self {
        let records = flows + places;
        let owned = (flows..records).map(|slot| Cell::new(half_open::place(slot, 0)));
        Self {
            settings: Settings { places, ..Settings::default() },
            vips: HashMap::new(),
            leases: HashMap::new(),
            services: HashMap::new(),
            ranges: HashMap::new(),
            alive_until: u64::MAX,
            rings: HashMap::new(),
            cursors: RefCell::default(),
            remembered: RefCell::default(),
            occupancy: RefCell::default(),
            backends: HashMap::new(),
            limits: HashMap::new(),
            rules: Vec::new(),
            clients: RefCell::default(),
            paths: HashMap::new(),
            sources: HashMap::new(),
            pools: vec![PoolKey::default()],
            ports: vec![Pool::empty()],
            reported: UnsafeCell::default(),
            interfaces: HashMap::new(),
            keys: RefCell::default(),
            fragments: RefCell::default(),
            behind: 0,
            capture: Capture::default(),
            samples: RefCell::default(),
            flow_events: RefCell::default(),
            held: RefCell::default(),
            held_full: false,
            key_capacity: 2 * records as usize,
            free: RefCell::new((0..flows).collect()),
            reasons: RefCell::new([0; REASON_SLOTS]),
            places: std::iter::once(Cell::new(0)).chain(owned).collect(),
            flows: (0..records).map(|_| UnsafeCell::default()).collect(),
            openings: (0..records).map(|_| UnsafeCell::default()).collect(),
            service_stats: UnsafeCell::default(),
            backend_stats: UnsafeCell::default(),
            latency: UnsafeCell::default(),
        }
    }

    /// Adds a pool of source ports, of the ports that the settings have; gives its number.
    pub fn add_pool(&mut self, key: PoolKey) -> u16 {
        let pool = Pool::empty();
        renew(&pool, &self.settings.snat_ports, &[0; 1024]);
        self.pools.push(key);
        self.ports.push(pool);
        (self.pools.len() - 1) as u16
    }

    /// Gives each backend one source, and a pool of its own.
    pub fn make_pools(&mut self, source: impl Fn(&Backend) -> Addr) {
        let backends: BTreeMap<_, _> = self.backends.iter().map(|(id, b)| (*id, *b)).collect();
        for (id, b) in backends {
            let (backend, port) = (b.addr, b.port);
            let key = PoolKey { source: source(&b), backend, port, proto: PROTO_TCP, pad: [0; 5] };
            let mut sources = Sources { count: 1, ..Sources::default() };
            sources.pools[0] = self.add_pool(key);
            self.sources.insert(id, sources);
        }
    }

    /// How many ports of a pool are free.
    pub fn free_ports(&self, pool: u16) -> u32 {
        free(&self.ports[usize::from(pool)])
    }

    /// How many records there are.
    pub fn records(&self) -> u32 {
        self.flows.len() as u32
    }

    /// Sets the lease of a router.
    pub fn set_lease(&mut self, router: u32, lease: Lease) {
        self.leases.insert(router, UnsafeCell::new(lease));
    }

    /// A copy of the lease of a router.
    pub fn lease_of(&self, router: u32) -> Lease {
        self.lease(router).copied().unwrap_or_default()
    }

    /// How many connections a backend or service may have; 0: any number.
    pub fn set_limit(&mut self, element: u32, limit: u64) {
        assert!((element as usize) < ELEMENTS, "an element");
        self.occupancy.get_mut().entry(element).or_default().limit = limit;
    }

    /// Times a packet ended in `reason`.
    pub fn counted(&self, reason: Reason) -> u64 {
        self.reasons.borrow()[reason as usize]
    }

    /// A copy of the record in a slot.
    pub fn record(&self, slot: u32) -> Flow {
        // SAFETY: single thread, and no reference is held across calls.
        unsafe { *self.flows[slot as usize].get() }
    }

    /// A copy of what was noted of how the flow in a slot began.
    pub fn opening_of(&self, slot: u32) -> Opening {
        // SAFETY: as above.
        unsafe { *self.openings[slot as usize].get() }
    }

    /// A copy of a service's counters.
    pub fn service_counters(&self, service: u32) -> ServiceStats {
        // SAFETY: as above.
        unsafe { (&*self.service_stats.get())[service as usize] }
    }

    /// A copy of a backend's times.
    pub fn latency_of(&self, backend: u32) -> Latency {
        // SAFETY: as above.
        unsafe { (&*self.latency.get())[backend as usize] }
    }

    /// A copy of a backend's counters.
    pub fn backend_counters(&self, backend: u32) -> BackendStats {
        // SAFETY: as above.
        unsafe { (&*self.backend_stats.get())[backend as usize] }
    }
}

/// The words of a pool.
struct Pool(Box<[Cell<u64>; WORDS]>);

impl Pool {
    fn empty() -> Self {
        Self(Box::new(std::array::from_fn(|_| Cell::new(0))))
    }
}

impl Words for Pool {
    fn load(&self, i: u32) -> u64 {
        self.0[i as usize].get()
    }

    fn set(&self, i: u32, bits: u64) -> u64 {
        self.0[i as usize].replace(self.load(i) | bits)
    }

    fn clear(&self, i: u32, bits: u64) -> u64 {
        self.0[i as usize].replace(self.load(i) & !bits)
    }
}

impl Tables for Memory {
    fn precise(&self, now: u64) -> u64 {
        now + self.behind
    }

    fn settings(&self) -> Option<&Settings> {
        Some(&self.settings)
    }

    fn vip(&self, addr: &Addr) -> Option<&Vip> {
        self.vips.get(addr)
    }

    fn lease(&self, router: u32) -> Option<&mut Lease> {
        // SAFETY: single thread; the core holds one at a time.
        self.leases.get(&router).map(|l| unsafe { &mut *l.get() })
    }

    fn service(&self, key: &ServiceKey) -> Option<&Service> {
        self.services.get(key)
    }

    fn range(&self, key: &RangeKey) -> Option<Port> {
        self.ranges.get(key).copied()
    }

    fn alive_until(&self) -> u64 {
        self.alive_until
    }

    fn ring(&self, slot: u32) -> Option<u64> {
        self.rings.get(&slot).copied()
    }

    fn next(&self, service: u32) -> u32 {
        let mut cursors = self.cursors.borrow_mut();
        let c = cursors.entry(service).or_default();
        *c = c.wrapping_add(1);
        c.wrapping_sub(1)
    }

    fn backend(&self, id: u32) -> Option<&Backend> {
        self.backends.get(&id)
    }

    fn occupancy(&self, element: u32) -> Option<Occupancy> {
        let held = || self.occupancy.borrow().get(&element).copied().unwrap_or_default();
        ((element as usize) < ELEMENTS).then(held)
    }

    fn occupy(&self, element: u32) -> bool {
        let Some(o) = self.occupancy(element) else { return false };
        if !o.is_full() {
            self.join(element);
        }
        !o.is_full()
    }

    fn join(&self, element: u32) -> u64 {
        let Some(o) = self.occupancy(element) else { return 0 };
        let connections = o.connections.wrapping_add(1);
        self.occupancy.borrow_mut().insert(element, Occupancy { connections, ..o });
        o.connections
    }

    fn leave(&self, element: u32) {
        if let Some(o) = self.occupancy(element) {
            let connections = o.connections.wrapping_sub(1);
            self.occupancy.borrow_mut().insert(element, Occupancy { connections, ..o });
        }
    }

    fn unmark(&self, flow: &mut Flow) -> bool {
        let was = flow.is_counted();
        flow.mode &= !COUNTED;
        was
    }

    fn remembered(&self, key: &ClientKey) -> Option<&mut Remembered> {
        // SAFETY: single thread; the core holds one at a time, and adds none meanwhile.
        unsafe { &mut *self.remembered.as_ptr() }.get_mut(key)
    }

    fn remember(&self, key: &ClientKey, to: &Remembered) {
        self.remembered.borrow_mut().insert(*key, *to);
    }

    fn path(&self, backend: u32) -> Option<&Path> {
        self.paths.get(&backend)
    }

    fn reported(&self) -> Option<&mut u64> {
        // SAFETY: single thread; the core holds one at a time.
        Some(unsafe { &mut *self.reported.get() })
    }

    fn interface(&self, ifindex: u32) -> Option<&Interface> {
        self.interfaces.get(&ifindex)
    }

    fn flow_ref(&self, key: &FlowKey) -> Option<&FlowRef> {
        // A leaked copy: the core holds it for one packet, and tests are short.
        self.keys.borrow().get(key).map(|r| &*Box::leak(Box::new(*r)))
    }

    fn flow(&self, slot: u32) -> Option<&mut Flow> {
        // SAFETY: single thread; the core holds one record at a time.
        self.flows.get(slot as usize).map(|f| unsafe { &mut *f.get() })
    }

    fn opening(&self, slot: u32) -> Option<&mut Opening> {
        // SAFETY: single thread; the core holds one at a time.
        self.openings.get(slot as usize).map(|o| unsafe { &mut *o.get() })
    }

    fn take_slot(&self) -> Option<u32> {
        self.free.borrow_mut().pop_front()
    }

    fn has_free_slot(&self) -> bool {
        !self.free.borrow().is_empty()
    }

    fn next_place(&self) -> u32 {
        self.places[0].replace(self.places[0].get() + 1) as u32
    }

    fn place(&self, i: u32) -> Option<u64> {
        self.places.get(i as usize).map(Cell::get)
    }

    fn set_place(&self, i: u32, to: u64) {
        self.places[i as usize].set(to);
    }

    fn exchange_place(&self, i: u32, from: u64, to: u64) -> bool {
        let holds = self.place(i) == Some(from);
        if holds {
            self.set_place(i, to);
        }
        holds
    }

    fn free_slot(&self, slot: u32) {
        self.free.borrow_mut().push_back(slot);
    }

    fn insert_key(&self, key: &FlowKey, to: &FlowRef) -> Result<(), InsertError> {
        let mut keys = self.keys.borrow_mut();
        if keys.contains_key(key) {
            return Err(InsertError::Exists);
        }
        if keys.len() >= self.key_capacity {
            return Err(InsertError::Full);
        }
        keys.insert(*key, *to);
        Ok(())
    }

    fn remove_key(&self, key: &FlowKey) -> bool {
        self.keys.borrow_mut().remove(key).is_some()
    }

    fn limits(&self, service: u32) -> Option<&Limits> {
        self.limits.get(&service)
    }

    fn access(&self, key: &AccessKey) -> Option<u32> {
        let bits = |k: &AccessKey| {
            k.words.iter().fold(Vec::new(), |all, w| [all, w.to_ne_bytes().to_vec()].concat())
        };
        let whole = bits(key);
        let covers = |rule: &&(AccessKey, u32, u32)| {
            assert!(rule.1 <= ACCESS_BITS);
            let bit = |bytes: &[u8], i: u32| bytes[(i / 8) as usize] >> (7 - i % 8) & 1;
            let own = bits(&rule.0);
            (0..rule.1).all(|i| bit(&own, i) == bit(&whole, i))
        };
        self.rules.iter().filter(covers).max_by_key(|rule| rule.1).map(|rule| rule.2)
    }

    fn client_due(&self, key: &PaceKey) -> Option<u64> {
        self.clients.borrow().get(key).copied()
    }

    fn add_client(&self, key: &PaceKey, due: u64) {
        self.clients.borrow_mut().insert(*key, due);
    }

    fn exchange_client_due(&self, key: &PaceKey, from: u64, to: u64) -> bool {
        let holds = self.client_due(key) == Some(from);
        if holds {
            self.add_client(key, to);
        }
        holds
    }

    fn admit(&self, service: u32, client: &Addr, now: u64) -> Result<(), Reason> {
        access_list::admit(service, client, now, self)
    }

    fn sources(&self, backend: u32) -> Option<&Sources> {
        self.sources.get(&backend)
    }

    fn pool(&self, pool: u32) -> Option<&PoolKey> {
        self.pools.get(pool as usize)
    }

    fn enter_reverse(&self, f: &mut Flow, slot: u32) -> Result<(), Reason> {
        balance::enter_reverse(f, slot, self)
    }

    fn enter_forward(&self, f: &mut Flow, slot: u32) -> Result<(), Reason> {
        balance::enter_forward(f, slot, self)
    }

    fn end_flow(&self, f: &mut Flow, slot: u32) {
        ending::ended(f, slot, self);
    }

    fn claim_port(&self, pool: u32, hash: u32) -> Option<u16> {
        ports::take(&self.settings, self.ports.get(pool as usize)?, hash)
    }

    fn release_port(&self, pool: u32, port: u16) {
        ports::give_back(&self.settings, &self.ports[pool as usize], port);
    }

    fn flow_event(&self, event: &FlowEvent) {
        self.flow_events.borrow_mut().push(*event);
    }

    fn hold(&self, held: &Held) -> bool {
        if !self.held_full {
            self.held.borrow_mut().push(*held);
        }
        !self.held_full
    }

    fn fragment(&self, key: &FragmentKey) -> Option<&FragmentRef> {
        self.fragments.borrow().get(key).map(|r| &*Box::leak(Box::new(*r)))
    }

    fn record_fragment(&self, key: &FragmentKey, to: &FragmentRef) {
        self.fragments.borrow_mut().insert(*key, *to);
    }

    fn service_stats(&self, service: u32) -> Option<&mut ServiceStats> {
        // SAFETY: single thread; the core holds one at a time.
        unsafe { (&mut *self.service_stats.get()).get_mut(service as usize) }
    }

    fn backend_stats(&self, backend: u32) -> Option<&mut BackendStats> {
        // SAFETY: single thread; the core holds one at a time.
        unsafe { (&mut *self.backend_stats.get()).get_mut(backend as usize) }
    }

    fn latency(&self, backend: u32) -> Option<&mut Latency> {
        // SAFETY: as above.
        unsafe { (&mut *self.latency.get()).get_mut(backend as usize) }
    }

    fn count(&self, reason: Reason) {
        self.reasons.borrow_mut()[reason as usize] += 1;
    }

    fn capture(&self) -> Option<&Capture> {
        Some(&self.capture)
    }

    fn sample(&self, sample: &Sample) {
        self.samples.borrow_mut().push(*sample);
    }
}
