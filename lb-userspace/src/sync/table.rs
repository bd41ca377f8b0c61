//! This node's flows as its peers see them: what is told of its own, and what is made of theirs.
//!
//! Whose word counts is a question of ownership alone: who owns a virtual router tells of its flows and takes nobody's word
//! for them; who does not own it has what the owner has. [`Flows`] is the flow table underneath: the kernel's maps
//! (`datapath::replica`), or a test's memory.

use std::collections::{BTreeMap, HashSet};

use lb_common::{
    addr::Addr,
    flow::{FIN_BACKEND, FIN_CLIENT, Flow, Stage},
    mode::Mode,
};

use super::{
    index::{Entry, Index, Stamp},
    wire::{FLOWS_ROOM, FlowId, Op, Record, Summary, is_half_open},
};
use crate::vrrp::BootTime;

/// A flow whose last packet peers have not heard of for so long, ns, is told again: on a new owner it would end so much too
/// early. A sixth of what the shortest-lived of them, UDP's, are given.
const REFRESH: u64 = 30_000_000_000;
/// A flow that has been used and then silent for so long, ns, is told again: its sequence numbers are final until it is used
/// anew, and who resets it needs them.
const QUIET: u64 = 2_000_000_000;
/// How long a new owner takes in flows that it does not know: the last words of the one before it, still on their way.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(2);

/// A flow that this node has opened on its owner's behalf is not removed for so long, s, because that lacks it.
const DELEGATED: u32 = 3;

/// Why a flow cannot be taken in, or not be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Unfit {
    /// This node has no such service.
    #[error("unknown-service")]
    Service,
    /// The service has no such backend here, or reaches it in another mode.
    #[error("unknown-backend")]
    Backend,
    /// The flow table is full.
    #[error("table-full")]
    Full,
    /// The kernel refused to enter it.
    #[error("failed")]
    Failed,
    /// Its backend sees this node's own address, so that no other node can go on with it.
    #[error("own-address")]
    OwnAddress,
    /// It ends on this node itself: at its own stack, or at a client here.
    #[error("local")]
    Local,
    /// It was moved to another server than its handshake was with, or is being moved: the numbers that are translated are this node's
    /// alone.
    #[error("moved")]
    Moved,
}

/// The flow table underneath.
pub trait Flows {
    /// The record in a slot.
    fn read(&self, slot: u32) -> Flow;
    /// The slot that the flow's key from the client leads to.
    fn find(&self, id: &FlowId) -> Option<u32>;
    /// Whether nothing is in a flow's way.
    fn has_way(&self, record: &Record) -> bool;
    /// Enters a flow in a slot of its own, a half-open one in a place; what is in its way goes, and those slots are added to `displaced`.
    fn insert(&mut self, record: &Record, displaced: &mut Vec<u32>) -> Result<u32, Unfit>;
    /// Enters an established flow that is most likely not here: `None` if anything is in its way, and nothing has changed then.
    fn insert_unknown(&mut self, record: &Record) -> Option<Result<u32, Unfit>>;
    /// Brings stage, times and sequence numbers of the same flow up to date.
    fn update(&mut self, slot: u32, record: &Record);
    /// Takes the half-open flow in a slot out of its place: it is established.
    fn promote(&mut self, slot: u32) -> Result<(), Unfit>;
    /// Takes a flow out.
    fn remove(&mut self, slot: u32);
}

/// A virtual router whose flows are replicated.
#[derive(Debug, Clone)]
pub struct Scope {
    /// Its lowest address: what peers call it.
    pub addr: Addr,
    /// All its addresses.
    addresses: Vec<Addr>,
    /// Since when this node owns it.
    pub owned: Option<BootTime>,
}

impl Scope {
    fn of(addresses: Vec<Addr>) -> Self {
        Self { addr: addresses.iter().copied().min().unwrap_or_default(), addresses, owned: None }
    }

    /// Whether there is such a router.
    pub fn is_placed(&self) -> bool {
        !self.addresses.is_empty()
    }
}

/// All of it.
#[derive(Debug)]
pub struct Table {
    /// The virtual routers, by their numbers; without an address where nobody has that number.
    pub scopes: Vec<Scope>,
    index: Index,
    /// The loopback interface: clients on this node.
    loopback: u32,
    /// Flows that are not passed on, by reason.
    kept: BTreeMap<Unfit, HashSet<u32>>,
    /// Flows of peers that were not taken in.
    pub unfit: BTreeMap<Unfit, u64>,
    /// Flows taken in and changed by peers' word.
    pub taken: u64,
    /// Flows removed by peers' word.
    pub removed: u64,
}

impl Table {
    /// Of virtual routers with these addresses.
    pub fn new(routers: Vec<Vec<Addr>>, loopback: u32) -> Self {
        Self {
            index: Index::new(routers.len()),
            scopes: routers.into_iter().map(Scope::of).collect(),
            loopback,
            kept: BTreeMap::new(),
            unfit: BTreeMap::new(),
            taken: 0,
            removed: 0,
        }
    }

    /// Another virtual router has this number now, or nobody (no addresses): its flows are forgotten.
    pub fn place(&mut self, scope: usize, addresses: Vec<Addr>) {
        self.index.grow(scope + 1);
        self.index.clear(scope);
        if self.scopes.len() <= scope {
            self.scopes.resize(scope + 1, Scope::of(Vec::new()));
        }
        self.scopes[scope] = Scope::of(addresses);
    }

    /// The addresses of the virtual router with this number; none if nobody has it.
    pub fn addresses(&self, scope: usize) -> &[Addr] {
        self.scopes.get(scope).map_or(&[], |scope| &scope.addresses)
    }

    /// Whether a virtual router has this number.
    pub fn is_placed(&self, scope: usize) -> bool {
        self.scopes.get(scope).is_some_and(Scope::is_placed)
    }

    /// The virtual router that peers call by this address.
    pub fn scope(&self, addr: &Addr) -> Option<usize> {
        self.scopes.iter().position(|scope| scope.is_placed() && scope.addr == *addr)
    }

    /// Whether this node owns a router.
    pub fn owns(&self, scope: usize) -> bool {
        self.scopes[scope].owned.is_some()
    }

    /// Number and sum of a router's flows.
    pub fn total(&self, scope: usize) -> Summary {
        self.index.total(scope)
    }

    /// Sum of a bucket.
    pub fn sum(&self, scope: usize, bucket: u16) -> u64 {
        self.index.sum(scope, bucket)
    }

    /// How many flows are not passed on, by reason.
    pub fn kept(&self) -> impl Iterator<Item = (Unfit, usize)> + '_ {
        self.kept.iter().map(|(why, slots)| (*why, slots.len())).filter(|(_, n)| *n > 0)
    }

    /// Something may have happened to the flow in a slot: what peers are to be told of it.
    pub fn note(&mut self, slot: u32, flows: &impl Flows, now: BootTime) -> Option<Record> {
        let flow = flows.read(slot);
        let scope = usize::try_from(flow.router).ok().filter(|scope| self.is_placed(*scope))?;
        if !is_established(&flow) || !self.is_fit(slot, &flow) {
            self.index.forget(slot);
            return None;
        }
        let known = self.index.entry(slot).filter(|entry| entry.generation == flow.generation).copied();
        let mark = mark(&flow);
        let told_lately = |entry: &Entry| {
            let quiet = flow.seen > entry.told && now.0.saturating_sub(flow.seen) >= QUIET;
            !quiet && flow.seen < entry.told.saturating_add(REFRESH)
        };
        let record = Record::of(&flow, now.0);
        // A new connection of the same client took its keys: only the record is left, which the collector frees. It looks as before if it
        // had been closed by then; and its word would displace, at a peer, whoever has its client's or its source port by now.
        if flow.stage() == Stage::Closed && flows.find(&record.id) != Some(slot) {
            return self.gone(slot, known.is_some(), scope, record);
        }
        if known.is_some_and(|entry| entry.mark == mark && told_lately(&entry)) {
            return None;
        }
        match known {
            Some(entry) if entry.mark == mark => self.index.tell(slot, flow.seen),
            _ => {
                self.enter(slot, scope, &record, Stamp::default(), &flow);
                let delegated = known.map_or(!self.owns(scope), |entry| entry.delegated);
                self.index.delegate(slot, delegated);
            }
        }
        self.owns(scope).then_some(record)
    }

    /// The flow in a slot was there before this daemon: it is told like any other, and is nobody's that has just been opened here.
    pub fn found(&mut self, slot: u32, flows: &impl Flows, now: BootTime) -> Option<Record> {
        let news = self.note(slot, flows, now);
        self.index.delegate(slot, false);
        news
    }

    /// What peers are told of a half-open flow, because its client is to hear of it only once they have it or because they are about to
    /// own its address; nothing if no peer could go on with it. Such flows are in no sum: both sides forget them by themselves.
    pub fn half_open(
        &mut self,
        slot: u32,
        generation: u16,
        flows: &impl Flows,
        now: BootTime,
    ) -> Option<Record> {
        let flow = flows.read(slot);
        let scope = usize::try_from(flow.router).ok().filter(|scope| self.is_placed(*scope))?;
        let is_it = flow.generation == generation && flow.place != 0 && is_half_open(flow.stage());
        (is_it && self.owns(scope) && self.is_fit(slot, &flow)).then(|| Record::of(&flow, now.0))
    }

    /// Whether this node has the flow that it was told of.
    pub fn has(&self, record: &Record, flows: &impl Flows, now: BootTime) -> bool {
        flows.find(&record.id).is_some_and(|slot| Record::of(&flows.read(slot), now.0).is_same(record))
    }

    /// Whether peers have been, or can be, told of the flow in a slot.
    pub fn knows(&self, slot: u32) -> bool {
        self.index.entry(slot).is_some()
    }

    /// What is to be told of the flow in a slot, changed or not.
    pub fn tell(&self, slot: u32, flows: &impl Flows, now: BootTime) -> Option<Record> {
        let entry = self.index.entry(slot)?;
        let flow = flows.read(slot);
        let same = flow.generation == entry.generation && is_established(&flow);
        (same && self.owns(entry.scope.into())).then(|| Record::of(&flow, now.0))
    }

    /// The collector has freed a slot that held this flow: what peers are to be told of it.
    pub fn freed(&mut self, slot: u32, flow: &Flow, now: BootTime) -> Option<Record> {
        self.let_go(slot);
        let scope = usize::from(self.index.entry(slot)?.scope);
        self.gone(slot, true, scope, Record::of(flow, now.0))
    }

    fn gone(&mut self, slot: u32, known: bool, scope: usize, record: Record) -> Option<Record> {
        self.index.forget(slot);
        (known && self.owns(scope)).then_some(Record { op: Op::Gone, ..record })
    }

    /// Whether a flow can be another node's, which is counted if it cannot.
    fn is_fit(&mut self, slot: u32, flow: &Flow) -> bool {
        let why = match flow.mode() {
            Mode::Local => Some(Unfit::Local),
            _ if flow.client_if == self.loopback => Some(Unfit::Local),
            _ if flow.is_moved() => Some(Unfit::Moved),
            Mode::Nat if flow.snat != flow.vip => Some(Unfit::OwnAddress),
            _ => None,
        };
        match why {
            Some(why) => _ = self.kept.entry(why).or_default().insert(slot),
            None => self.let_go(slot),
        }
        why.is_none()
    }

    /// The slot holds no flow that is kept to this node, or none at all.
    fn let_go(&mut self, slot: u32) {
        for slots in self.kept.values_mut() {
            slots.remove(&slot);
        }
    }

    /// The slots of a bucket's flows, in parts that fit a message each; one empty part if there are none. No record is read for it.
    pub fn bucket_parts(&self, scope: usize, bucket: u16) -> Vec<Vec<u32>> {
        let (mut parts, mut length) = (vec![Vec::new()], 0);
        for slot in self.index.slots(scope, bucket) {
            let own = self.index.entry(*slot).map_or(0, |entry| usize::from(entry.length));
            if length + own > FLOWS_ROOM {
                parts.push(Vec::new());
                length = 0;
            }
            length += own;
            parts.last_mut().expect("one at least").push(*slot);
        }
        parts
    }

    /// What is true now of the flows in these slots, as far as they are of that bucket. Such a one that has come meanwhile may not fit
    /// any more: it has been told of by itself.
    pub fn current(
        &self,
        slots: &[u32],
        (scope, bucket): (usize, u16),
        flows: &impl Flows,
        now: BootTime,
    ) -> Vec<Record> {
        let (mut records, mut length) = (Vec::with_capacity(slots.len()), 0);
        for slot in slots {
            let Some(entry) = self.index.entry(*slot) else { continue };
            if (usize::from(entry.scope), entry.bucket) != (scope, bucket) {
                continue;
            }
            let flow = flows.read(*slot);
            let fits = length + usize::from(entry.length) <= FLOWS_ROOM;
            if fits && flow.generation == entry.generation && flow.stage() != Stage::Free {
                length += usize::from(entry.length);
                records.push(Record::of(&flow, now.0));
            }
        }
        records
    }

    /// Takes an owner's word for a flow. `stamp` says where it stands in the order of what the peer said.
    pub fn take(&mut self, record: &Record, stamp: Stamp, flows: &mut impl Flows, now: BootTime) {
        let Some(scope) = self.scope_of(record) else {
            return self.count_unfit(record, Unfit::Service);
        };
        let slot = flows.find(&record.id);
        if let Some(since) = self.scopes[scope].owned {
            let its_own = |slot| flows.read(slot).place != 0 && self.has(record, flows, now);
            let news = flows.has_way(record) || slot.is_some_and(its_own);
            let news = record.op == Op::Is && now.since(since) < LAST_WORDS && news;
            if !news {
                return;
            }
        }
        let known = slot.and_then(|slot| self.index.entry(slot)).copied();
        // What came later by another way is newer.
        if known.is_some_and(|entry| entry.stamp.is_after(stamp)) {
            return;
        }
        match (record.op, slot) {
            (Op::Gone, None) => {}
            (Op::Gone, Some(slot)) => {
                if Record::of(&flows.read(slot), now.0).is_same(record) {
                    flows.remove(slot);
                    self.index.forget(slot);
                    self.removed += 1;
                }
            }
            (Op::Is, Some(slot)) if is_same(&flows.read(slot), record, now) => {
                self.bring_up_to_date(slot, scope, record, stamp, flows);
            }
            (Op::Is, _) => {
                let mut displaced = Vec::new();
                let entered = flows.insert(record, &mut displaced);
                for slot in displaced {
                    self.index.forget(slot);
                }
                match entered {
                    Ok(slot) => {
                        if !record.is_half_open() {
                            self.enter(slot, scope, record, stamp, &flows.read(slot));
                        }
                        self.taken += 1;
                    }
                    Err(why) => self.count_unfit(record, why),
                }
            }
        }
    }

    /// As [`take`](Self::take), of a flow that is most likely not here: to look for it first would be a quarter of what it costs.
    pub fn take_unknown(&mut self, record: &Record, stamp: Stamp, flows: &mut impl Flows, now: BootTime) {
        let scope = self.scope_of(record).filter(|scope| !self.owns(*scope));
        let Some(scope) = scope.filter(|_| record.op == Op::Is && !record.is_half_open()) else {
            return self.take(record, stamp, flows, now);
        };
        match flows.insert_unknown(record) {
            Some(Ok(slot)) => {
                self.enter(slot, scope, record, stamp, &flows.read(slot));
                self.taken += 1;
            }
            Some(Err(why)) => self.count_unfit(record, why),
            None => self.take(record, stamp, flows, now),
        }
    }

    /// Takes an owner's word for a flow that is here.
    fn bring_up_to_date(
        &mut self,
        slot: u32,
        scope: usize,
        record: &Record,
        stamp: Stamp,
        flows: &mut impl Flows,
    ) {
        let there = flows.read(slot);
        if record.is_half_open() {
            // Only forward: what came by here, or was told by another way, is newer.
            if there.place != 0 && there.stage() == Stage::SynSent && record.stage == Stage::SynReceived {
                flows.update(slot, record);
            }
            return;
        }
        if there.place != 0
            && let Err(why) = flows.promote(slot)
        {
            return self.count_unfit(record, why);
        }
        flows.update(slot, record);
        self.enter(slot, scope, record, stamp, &flows.read(slot));
        self.taken += 1;
    }

    fn enter(&mut self, slot: u32, scope: usize, record: &Record, stamp: Stamp, flow: &Flow) {
        self.index.set(
            slot,
            Entry {
                sum: record.sum(),
                stamp,
                told: flow.seen,
                scope: scope as u16,
                bucket: record.bucket(),
                length: record.length() as u8,
                generation: flow.generation,
                mark: mark(flow),
                ..Entry::default()
            },
        );
    }

    fn count_unfit(&mut self, record: &Record, why: Unfit) {
        if record.op == Op::Is {
            *self.unfit.entry(why).or_default() += 1;
        }
    }

    fn scope_of(&self, record: &Record) -> Option<usize> {
        self.scopes.iter().position(|scope| scope.addresses.contains(&record.id.vip))
    }

    /// Removes the flows of a bucket that the owner does not have: those not in `has`, unless they came after `asked`, or have just been
    /// opened here, on the owner's behalf: it is handing over.
    pub fn retain(
        &mut self,
        scope: usize,
        bucket: u16,
        has: &HashSet<FlowId>,
        asked: Stamp,
        flows: &mut impl Flows,
        now: BootTime,
    ) {
        if self.owns(scope) {
            return;
        }
        for slot in self.index.slots(scope, bucket).to_vec() {
            let Some(Entry { stamp: came, delegated, .. }) = self.index.entry(slot).copied() else {
                continue;
            };
            let there = Record::of(&flows.read(slot), now.0);
            let just_opened = delegated && there.life_s < DELEGATED;
            if came.is_after(asked) || has.contains(&there.id) || just_opened {
                continue;
            }
            flows.remove(slot);
            self.index.forget(slot);
            self.removed += 1;
        }
    }
}

/// Whether a record is about the flow that is there; an ended one is another than one that begins.
fn is_same(flow: &Flow, record: &Record, now: BootTime) -> bool {
    let anew = record.is_half_open() && flow.has_ended();
    !anew && Record::of(flow, now.0).is_same(record)
}

fn is_established(flow: &Flow) -> bool {
    let stage = flow.stage();
    flow.place == 0 && matches!(stage, Stage::Established | Stage::Closing | Stage::Closed | Stage::TwoWay)
}

/// What peers are told of but for whose the flow is.
fn mark(flow: &Flow) -> u16 {
    u16::from(flow.stage) | u16::from(flow.flags & (FIN_CLIENT | FIN_BACKEND)) << 8
}
