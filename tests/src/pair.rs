//! A packet case's two sides: the core on in-memory tables, and the loaded programs on live maps (`BPF_PROG_TEST_RUN`).
//!
//! A frame goes through both, and verdict, bytes, flow records, leases and counters must be equal; the caller judges what
//! came out. The XDP program gets each frame before, and leaves it: the tables of the cases name no way for it. The kernel's
//! clock is the real one and the host's stands still, so deadlines in cases are far away or over.

use std::sync::atomic::{AtomicU32, Ordering};

use lb_common::{
    addr::Port,
    flow::{Flow, Stage},
    latency::Latency,
    lease::Lease,
    maps::MAX_BACKENDS,
    occupancy::{Occupancy, of_service},
    probe,
    reach::RangeKey,
    reason::Reason,
    settings::Settings,
};
use lb_ebpf::{
    Action, Arrival, Delivery, Tables,
    testing::{Buffer, Memory},
};
use lb_userspace::{
    config::model::Hook,
    datapath::{
        access::Access,
        counters,
        load::Datapath,
        maps::Maps,
        pins::Pins,
        tables::{Desired, key, lay_out},
    },
};

use crate::{
    down::Bpffs,
    packets::{Datagram, Family, HOST_MAC, LO, Seen, Segment, seen},
};

/// The same tables in memory and in the kernel.
pub struct Pair {
    /// The host's tables.
    pub host: Memory,
    /// Where the kernel's maps are pinned.
    pub pins: Pins,
    /// Records of flows.
    pub flows: u32,
    kernel: Option<Datapath>,
    runtime: tokio::runtime::Runtime,
    _bpffs: Bpffs,
}

/// What became of a frame, on both sides.
pub struct Outcome {
    /// Why.
    pub reason: Reason,
    /// What the front end does with it.
    pub action: Action,
    /// The frame as it is now.
    pub frame: Vec<u8>,
}

/// A deadline that no case lives to see.
pub const FOREVER: u64 = u64::MAX;
/// A deadline that is over on both sides.
pub const OVER: u64 = 1;
const XDP_PASS: u32 = 2;
/// Test runs of XDP take no larger frame than fits into a page beside what the kernel needs there.
const XDP_LARGEST: usize = 3000;
/// The host's clock.
pub const NOW: u64 = 1_000_000_000_000;
/// When and where frames come in on the host's side.
const AT: Arrival = Arrival { now: NOW, ifindex: LO };

impl Pair {
    /// Tables that say `desired`, and a lease without end.
    ///
    /// # Panics
    ///
    /// As every method here: when the two sides differ, or the kernel's cannot be set up.
    pub fn new(desired: &Desired) -> Self {
        Self::with_room(desired, 64)
    }

    /// Likewise with room for `flows` flows.
    ///
    /// # Panics
    ///
    /// When the kernel's side cannot be set up.
    pub fn with_room(desired: &Desired, flows: u32) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("vt-packets-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let bpffs = Bpffs::claim(&name).expect("bpffs");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let pins = Pins::of(&name);
        let mut kernel = {
            let _inside = runtime.enter();
            Datapath::open(&pins, &[], Hook::Auto, flows).expect("programs load")
        };
        kernel.tables.publish(desired).expect("tables are written");
        let mut host = memory(desired, flows);
        take_over_pools(&mut host, kernel.tables.maps());
        let flows = host.records();
        let mut pair = Self { host, pins, flows, kernel: Some(kernel), runtime, _bpffs: bpffs };
        pair.lease(FOREVER);
        pair.alive(FOREVER);
        pair
    }

    /// The kernel's side.
    pub fn kernel(&mut self) -> &mut Datapath {
        self.kernel.as_mut().expect("open until dropped")
    }

    /// Writes services, the ways to backends, and who may connect, anew.
    pub fn publish(&mut self, desired: &Desired) {
        self.host.paths = (0..).zip(desired.paths.iter().copied()).collect();
        take_over_access(&mut self.host, desired);
        schedule(&mut self.host, desired);
        self.kernel().tables.publish(desired).expect("tables are written");
        let Self { host, kernel, .. } = self;
        take_over_pools(host, kernel.as_mut().expect("open until dropped").tables.maps());
    }

    /// Gives router 0 a lease until then.
    pub fn lease(&mut self, until: u64) {
        self.set_lease(Lease { until, term: 1, ..Lease::default() });
    }

    /// Has the daemon count as alive until then.
    pub fn alive(&mut self, until: u64) {
        self.host.alive_until = until;
        self.kernel().tables.maps().alive.set(0, until, 0).expect("alive");
    }

    /// Gives router 0 this lease.
    pub fn set_lease(&mut self, lease: Lease) {
        self.host.set_lease(0, lease);
        self.kernel().tables.maps().leases.set(0, lease, 0).expect("lease");
    }

    /// Sends a received frame through both.
    pub fn receive(&mut self, frame: &[u8]) -> Outcome {
        let mut buffer = Buffer::new(frame);
        buffer.delivery = match *frame.first_chunk().expect("a hardware address") {
            HOST_MAC => Delivery::Host,
            [first, ..] if first & 1 == 1 => Delivery::Group,
            _ => Delivery::Other,
        };
        let verdict = lb_ebpf::handle(&mut buffer, &self.host, &AT);
        self.compare(false, frame, verdict.reason, verdict.action, buffer.bytes)
    }

    /// Sends a frame of this node's own stack through both.
    pub fn send(&mut self, frame: &[u8]) -> Outcome {
        let verdict = lb_ebpf::egress::handle(&Buffer::new(frame), &self.host, &AT);
        self.compare(true, frame, verdict.reason, verdict.action, frame.to_vec())
    }

    fn compare(
        &mut self,
        egress: bool,
        frame: &[u8],
        reason: Reason,
        action: Action,
        out: Vec<u8>,
    ) -> Outcome {
        if !egress && frame.len() <= XDP_LARGEST {
            let left = self.kernel().test_run_xdp(frame).expect("test run");
            assert_eq!(left, (XDP_PASS, frame.to_vec()), "what XDP does not send on it leaves as it is");
        }
        let (returned, kernel_out) = self.kernel().test_run(egress, frame).expect("test run");
        let expected = match action {
            Action::Pass => -1,
            Action::Drop => 2,
            Action::Route(_) | Action::Backend(_) | Action::Send(_) => 7,
        };
        assert_eq!(returned, expected, "verdict of the kernel for {reason:?}");
        if !matches!(action, Action::Drop) {
            let (kernel_out, out) =
                (hex(&timeless_frame(&kernel_out, reason)), hex(&timeless_frame(&out, reason)));
            assert_eq!(kernel_out, out, "bytes for {reason:?}");
        }
        self.compare_state();
        Outcome { reason, action, frame: out }
    }

    fn compare_state(&mut self) {
        let flows = self.flows;
        let host: Vec<Flow> = (0..flows).map(|slot| timeless(self.host.record(slot))).collect();
        let host_service = self.host.service_counters(0);
        let host_backends: Vec<_> = (0..3).map(|i| self.host.backend_counters(i)).collect();
        let elements: Vec<u32> = (0..8).chain((0..4).map(of_service)).collect();
        let host_counts: Vec<Occupancy> =
            elements.iter().map(|e| self.host.occupancy(*e).expect("an element")).collect();
        let host_times: Vec<_> = (0..3).map(|i| times(&self.host.latency_of(i))).collect();
        let host_reasons: Vec<u64> = Reason::ALL.iter().map(|r| self.host.counted(*r)).collect();
        let host_lease = timeless_lease(self.host.lease_of(0));
        let maps = self.kernel().tables.maps();
        let kernel: Vec<Flow> =
            (0..flows).map(|slot| timeless(maps.flows.get(&slot, 0).expect("record"))).collect();
        assert_eq!(kernel, host, "flow records");
        let openings: Vec<_> = (0..flows).map(|slot| self.kernel().collector.opening(slot)).collect();
        assert_eq!(
            openings,
            (0..flows).map(|slot| self.host.opening_of(slot)).collect::<Vec<_>>(),
            "openings"
        );
        let maps = self.kernel().tables.maps();
        assert_eq!(counters::service(maps, 0).expect("counters"), host_service);
        let backends: Vec<_> = (0..3).map(|i| counters::backend(maps, i).expect("counters")).collect();
        assert_eq!(backends, host_backends);
        let counts: Vec<_> =
            elements.iter().map(|e| counters::occupancy(maps, *e).expect("counts")).collect();
        assert_eq!(counts, host_counts, "connections of backends, then of services");
        let latency = |i| times(&counters::latency(maps, i).expect("times"));
        assert_eq!((0..3).map(latency).collect::<Vec<_>>(), host_times, "times taken");
        let reasons: Vec<u64> =
            counters::reasons(maps).expect("counters").into_iter().map(|(_, n)| n).collect();
        assert_eq!(reasons, host_reasons, "reasons");
        let lease = maps.leases.get(&0, 0).expect("lease");
        assert_eq!(timeless_lease(lease), host_lease, "lease");
        let keys = maps.flow_keys.keys().count();
        assert_eq!(keys, self.host.keys.borrow().len(), "keys");
    }

    /// Has a second gone by since all flows were last seen.
    pub fn a_second_later(&mut self) {
        const SECOND: u64 = 1_000_000_000;
        for slot in 0..self.flows {
            if let Some(f) = self.host.flow(slot) {
                f.seen = f.seen.saturating_sub(SECOND);
            }
            let flows = &mut self.kernel().tables.maps().flows;
            let f = flows.get(&slot, 0).expect("record");
            flows.set(slot, Flow { seen: f.seen.saturating_sub(SECOND), ..f }, 0).expect("record");
        }
    }

    /// The record of the only flow that is not free.
    pub fn only_flow(&self) -> Flow {
        let used: Vec<_> =
            (0..self.flows).map(|s| self.host.record(s)).filter(|f| f.stage() != Stage::Free).collect();
        assert_eq!(used.len(), 1, "flows in use");
        used[0]
    }

    /// Opens a connection from the client's `port` up to the established stage; gives what the backend saw of the SYN.
    pub fn establish(&mut self, port: u16) -> Seen {
        self.establish_in(Family::V4, port)
    }

    /// Likewise in either family.
    pub fn establish_in(&mut self, family: Family, port: u16) -> Seen {
        let syn = Segment { syn: true, ..Segment::of(family, port) };
        let syn = seen(&self.receive(&syn.frame()).frame);
        let syn_ack = Segment { syn: true, ..Segment::answer(&syn) };
        assert_eq!(self.receive(&syn_ack.frame()).reason, Reason::Returned);
        let ack = Segment { seq: 1001, ack: Some(9001), ..Segment::of(family, port) };
        assert_eq!(self.receive(&ack.frame()).reason, Reason::Forwarded);
        syn
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _inside = self.runtime.enter();
        if let Some(d) = self.kernel.take() {
            let closed = d.close();
            if !std::thread::panicking() {
                closed.expect("pins removed");
            }
        }
    }
}

fn memory(desired: &Desired, flows: u32) -> Memory {
    let mut m = Memory::new(flows);
    m.settings = Settings { places: m.settings.places, ..desired.settings };
    m.vips = desired.vips.iter().copied().collect();
    m.interfaces = desired.interfaces.iter().copied().collect();
    m.backends = (0..).zip(desired.backends.iter().copied()).collect();
    m.paths = (0..).zip(desired.paths.iter().copied()).collect();
    take_over_access(&mut m, desired);
    for s in &desired.services {
        for port in s.last.into_iter().flat_map(|last| s.port.number()..=last.number()) {
            m.ranges.insert(RangeKey::new(&s.addr, s.proto, Port::new(port)), s.port);
        }
    }
    schedule(&mut m, desired);
    m
}

fn take_over_access(host: &mut Memory, desired: &Desired) {
    host.limits = (0..).zip(desired.access.iter().map(Access::limits)).collect();
    host.rules = (0..).zip(&desired.access).flat_map(|(id, access)| access.keys(id)).collect();
}

/// Gives the host's side the pools of source ports that the kernel's side has been given; those it knows it keeps.
fn take_over_pools(host: &mut Memory, maps: &mut Maps) {
    let keys: Vec<_> = maps.port_pools.iter().map(|key| key.expect("map PORT_POOLS")).collect();
    for key in keys[host.pools.len()..].iter().filter(|key| key.proto != 0) {
        host.add_pool(*key);
    }
    let of = |id: u32| (id, maps.sources.get(&id, 0).expect("map SOURCES"));
    host.sources = (0..MAX_BACKENDS as u32).map(of).filter(|(_, sources)| sources.count > 0).collect();
}

/// Rings, services and limits.
fn schedule(m: &mut Memory, desired: &Desired) {
    let (words, elements) = lay_out(&desired.services, 0);
    m.rings = (0..).zip(words).collect();
    m.services = desired.services.iter().map(key).zip(elements).collect();
    for (id, limit) in (0..8).zip(desired.limits.iter().copied().chain(std::iter::repeat(0))) {
        m.set_limit(id, limit.into());
    }
    for (id, s) in (0..).zip(&desired.services) {
        m.set_limit(of_service(id), s.choice.max_connections.into());
    }
}

fn timeless(f: Flow) -> Flow {
    Flow { seen: 0, born: 0, ..f }
}

/// How many times were taken: to connect, to answer.
fn times(latency: &Latency) -> [u64; 2] {
    [latency.connect.times(), latency.response.times()]
}

fn timeless_lease(lease: Lease) -> Lease {
    Lease { probed: u64::from(lease.probed != 0), ..lease }
}

/// Without the rest of a lease in an answer to a probe, and its checksum, which is verified.
fn timeless_frame(frame: &[u8], reason: Reason) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if reason == Reason::ProbeAnswered {
        Datagram::seen(&frame);
        let udp = frame.len() - probe::LEN - 8;
        frame[udp + 6..udp + 8].fill(0);
        frame[udp + 8 + 40..udp + 8 + 48].fill(0);
    }
    frame
}

fn hex(b: &[u8]) -> String {
    b.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
}
