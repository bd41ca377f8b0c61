//! A flow table in memory and whole nodes on a virtual link, for this module's tests.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    time::Duration,
};

use lb_common::{
    addr::{Addr, PROTO_TCP, Port},
    flow::{Flow, Stage},
    service::Path,
};

use super::{
    auth::Keys,
    directory::{Place, fill, seen},
    node::{Node, Setup},
    table::{Flows, Unfit},
    wire::{FlowId, Record},
};
use crate::vrrp::BootTime;

/// The one virtual address of these tests.
pub const VIP: Addr = Addr::v4([172, 18, 0, 201]);

/// A flow table.
#[derive(Debug, Default)]
pub struct Memory {
    /// The records.
    pub slots: BTreeMap<u32, Flow>,
    keys: HashMap<FlowId, u32>,
    /// Who has a port towards a backend.
    ports: HashMap<(Addr, Port), u32>,
    /// Slots ever used: another slot for each node's flow, so that nothing depends on their being equal.
    next: u32,
    /// Which backend this node does not have.
    pub lacks: Option<Addr>,
    /// The time of the present turn.
    pub now: u64,
}

impl Memory {
    /// Enters a flow of this node's own, as the packet programs would, and gives its slot.
    pub fn establish(&mut self, record: &Record) -> u32 {
        self.insert(record, &mut Vec::new()).expect("room")
    }

    /// What two tables are compared by: flows that a key leads to.
    pub fn content(&self) -> Vec<u64> {
        let mut all: Vec<u64> =
            self.keys.values().map(|slot| Record::of(&self.slots[slot], 0).sum()).collect();
        all.sort_unstable();
        all
    }

    /// The first port towards a backend that nobody has.
    fn free_port(&self, backend: Addr) -> Port {
        let is_free = |port: &Port| !self.ports.contains_key(&(backend, *port));
        (1..=u16::MAX).map(Port::new).find(is_free).expect("a port")
    }

    /// Takes the keys from the flow in a slot, whose record stays.
    fn take_keys(&mut self, slot: u32) {
        let flow = Record::of(&self.read(slot), 0);
        if self.keys.get(&flow.id) == Some(&slot) {
            self.keys.remove(&flow.id);
        }
        if self.ports.get(&(flow.backend, flow.snat_port)) == Some(&slot) {
            self.ports.remove(&(flow.backend, flow.snat_port));
        }
    }
}

impl Flows for Memory {
    fn read(&self, slot: u32) -> Flow {
        self.slots.get(&slot).copied().unwrap_or_default()
    }

    fn find(&self, id: &FlowId) -> Option<u32> {
        self.keys.get(id).copied()
    }

    fn has_way(&self, record: &Record) -> bool {
        !self.keys.contains_key(&record.id) && !self.ports.contains_key(&(record.backend, record.snat_port))
    }

    fn insert(&mut self, record: &Record, displaced: &mut Vec<u32>) -> Result<u32, Unfit> {
        if Some(record.backend) == self.lacks {
            return Err(Unfit::Backend);
        }
        let in_its_way = [
            self.keys.get(&record.id).copied(),
            self.ports.get(&(record.backend, record.snat_port)).copied(),
        ];
        for slot in in_its_way.into_iter().flatten() {
            if self.slots.contains_key(&slot) {
                self.remove(slot);
                displaced.push(slot);
            }
        }
        self.next += 1;
        let at = Place { service: 0, router: 0, client_if: 2, backend: 0, backend_if: 2 };
        let place = u16::from(record.is_half_open());
        let flow = Flow { place, ..fill(record, &at, &Path::default(), 1, self.now) };
        self.slots.insert(self.next, flow);
        self.keys.insert(record.id, self.next);
        self.ports.insert((record.backend, record.snat_port), self.next);
        Ok(self.next)
    }

    fn insert_unknown(&mut self, record: &Record) -> Option<Result<u32, Unfit>> {
        self.has_way(record).then(|| self.insert(record, &mut Vec::new()))
    }

    fn update(&mut self, slot: u32, record: &Record) {
        let now = self.now;
        let flow = self.slots.get_mut(&slot).expect("a flow");
        (flow.seen, flow.stage, flow.flags) = (seen(record, now), record.stage as u8, record.fins);
        (flow.client_next, flow.backend_next) = (record.client_next, record.backend_next);
    }

    fn promote(&mut self, slot: u32) -> Result<(), Unfit> {
        self.slots.get_mut(&slot).expect("a flow").place = 0;
        Ok(())
    }

    fn remove(&mut self, slot: u32) {
        self.take_keys(slot);
        self.slots.remove(&slot);
    }
}

/// The flow of a client's port.
pub fn record(port: u16) -> Record {
    let backend = Addr::v4([172, 18, 0, 2 + (port % 5) as u8]);
    let f = Flow {
        vip: VIP,
        vip_port: Port::new(3306),
        client: Addr::v4([172, 18, 1, (port >> 8) as u8]),
        client_port: Port::new(port),
        backend,
        backend_port: Port::new(3306),
        snat: VIP,
        snat_port: Port::new(port ^ 0x5555),
        proto: PROTO_TCP,
        stage: Stage::Established as u8,
        ..Flow::default()
    };
    Record::of(&f, 0)
}

/// Keys: the first seals.
pub fn keys(ids: &[u8]) -> Keys {
    let secret = |id: &u8| (*id, vec![*id; 32]);
    Keys::new(&ids.iter().map(secret).collect::<Vec<_>>()).expect("a key")
}

/// A node with its flow table.
pub struct Host {
    /// The node.
    pub node: Node,
    /// Its flows.
    pub flows: Memory,
}

impl Host {
    /// The node that sees the others at these addresses.
    pub fn new(run: u64, peers: Vec<SocketAddr>, now: BootTime) -> Self {
        let setup = Setup {
            peers,
            routers: vec![vec![VIP]],
            keys: keys(&[1]),
            wait: Duration::from_secs(30),
            hold: Duration::from_millis(10),
            loopback: 1,
            run,
        };
        Self { node: Node::new(setup, now), flows: Memory::default() }
    }

    /// A flow begins here.
    pub fn establish(&mut self, record: &Record, now: BootTime) {
        if self.flows.find(&record.id).is_none() {
            let slot = self.flows.establish(record);
            self.node.note(slot, &self.flows, now);
        }
    }

    /// A client opens a connection from this port: after one that has ended it is another one, from the first port that is free towards
    /// another backend.
    pub fn open(&mut self, record: &Record, now: BootTime) {
        let mut backend = record.backend;
        if let Some(slot) = self.flows.find(&record.id) {
            let there = self.flows.read(slot);
            if !there.has_ended() {
                return;
            }
            backend = Addr::v4([172, 18, 0, 2 + u8::from(there.backend != Addr::v4([172, 18, 0, 3]))]);
            self.retire(slot, now);
        }
        let snat_port = self.flows.free_port(backend);
        self.establish(&Record { backend, snat_port, ..*record }, now);
    }

    /// The client's next connection takes the keys of one that has ended, and the programs say so.
    pub fn retire(&mut self, slot: u32, now: BootTime) {
        self.flows.take_keys(slot);
        self.flows.slots.get_mut(&slot).expect("a flow").stage = Stage::Closed as u8;
        self.node.note(slot, &self.flows, now);
    }

    /// A flow moves on.
    pub fn advance(&mut self, record: &Record, stage: Stage, now: BootTime) {
        if let Some(slot) = self.flows.find(&record.id) {
            self.flows.slots.get_mut(&slot).expect("a flow").stage = stage as u8;
            self.node.note(slot, &self.flows, now);
        }
    }

    /// A packet of a flow goes by here, and the collector comes by some time later.
    pub fn use_it(&mut self, record: &Record, client_next: u32, at: BootTime, looked_at: BootTime) {
        if let Some(slot) = self.flows.find(&record.id) {
            let flow = self.flows.slots.get_mut(&slot).expect("a flow");
            (flow.seen, flow.client_next) = (at.0, client_next);
            self.node.note(slot, &self.flows, looked_at);
        }
    }

    /// A flow ends here.
    pub fn end(&mut self, record: &Record, now: BootTime) {
        if let Some(slot) = self.flows.find(&record.id) {
            let flow = self.flows.read(slot);
            self.flows.remove(slot);
            self.node.freed(slot, &flow, now);
        }
    }
}

/// What happens to a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It arrives after so many milliseconds.
    Arrives(u64),
    /// It arrives twice.
    Twice(u64, u64),
    /// It does not.
    Lost,
}

/// Nodes and the datagrams between them.
pub struct Sim {
    /// Theirs.
    pub hosts: Vec<Host>,
    /// The clock.
    pub now: BootTime,
    under_way: Vec<UnderWay>,
    /// Datagrams sent so far.
    pub sent: u64,
}

struct UnderWay {
    at: BootTime,
    from: usize,
    to: usize,
    datagram: Vec<u8>,
}

/// A node's address.
pub fn address(host: usize) -> SocketAddr {
    SocketAddr::from(([172, 18, 0, 7 + host as u8], 29_113))
}

impl Sim {
    /// Two nodes that have not met.
    pub fn new() -> Self {
        Self::of(2)
    }

    /// So many.
    pub fn of(hosts: usize) -> Self {
        let now = BootTime(1_000_000_000_000);
        let host = |i: usize| Host::new(100 + i as u64, others(i, hosts), now);
        Self { hosts: (0..hosts).map(host).collect(), now, under_way: Vec::new(), sent: 0 }
    }

    /// Lets so much time pass; `fate` decides about the n-th datagram.
    pub fn run(&mut self, time: Duration, mut fate: impl FnMut(u64) -> Fate) {
        let end = self.now + time;
        while self.now < end {
            self.now = self.now + Duration::from_millis(1);
            self.step(&mut fate);
        }
    }

    fn step(&mut self, fate: &mut impl FnMut(u64) -> Fate) {
        let now = self.now;
        let (arrived, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.under_way).into_iter().partition(|d| d.at <= now);
        self.under_way = rest;
        for UnderWay { from, to, datagram, .. } in arrived {
            let Host { node, flows } = &mut self.hosts[to];
            flows.now = now.0;
            node.receive(now, address(from).ip(), &datagram, flows);
        }
        for from in 0..self.hosts.len() {
            let Host { node, flows } = &mut self.hosts[from];
            node.wake(now);
            node.flush(flows, now);
            for _ in 0..64 {
                let Some((to, datagram)) = node.poll_transmit(now, flows) else { break };
                self.sent += 1;
                let to = (0..).find(|host| address(*host) == to).expect("a node");
                let after = |ms| UnderWay {
                    at: now + Duration::from_millis(ms),
                    from,
                    to,
                    datagram: datagram.clone(),
                };
                match fate(self.sent) {
                    Fate::Arrives(ms) => self.under_way.push(after(ms)),
                    Fate::Twice(first, second) => self.under_way.extend([after(first), after(second)]),
                    Fate::Lost => {}
                }
            }
            node.gate_changes(now);
        }
    }

    /// A node's daemon starts anew and finds its flow table as it was, or empty.
    pub fn restart(&mut self, host: usize, empty: bool) {
        let flows = std::mem::take(&mut self.hosts[host].flows);
        let run = 1_000 + self.sent * 10 + host as u64;
        let mut fresh = Host::new(run, others(host, self.hosts.len()), self.now);
        if !empty {
            fresh.flows = flows;
        }
        let slots: Vec<u32> = fresh.flows.slots.keys().copied().collect();
        for slot in slots {
            fresh.node.found(slot, &fresh.flows, self.now);
        }
        self.hosts[host] = fresh;
    }
}

fn others(host: usize, of: usize) -> Vec<SocketAddr> {
    (0..of).filter(|other| *other != host).map(address).collect()
}
