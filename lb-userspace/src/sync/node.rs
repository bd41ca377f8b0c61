//! This node among its peers: sessions, news, and whether it may pre-empt. Sans-IO, as `peer`: datagrams and the time go in,
//! datagrams come out; `io` has the socket.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_common::{
    addr::Addr,
    flow::{Flow, REPLICATED, Stage},
};

use super::{
    auth::{Keys, Refusal, Session},
    gate::Gate,
    hold::Waiting,
    peer::{HELLO, Peer, SILENCE},
    pull::Standing,
    table::{Flows, Table},
    wire::{self, Record},
};
use crate::vrrp::BootTime;

/// A turn that comes so late has been slept through: what peers have said meanwhile is lost.
const OVERSLEPT: Duration = SILENCE;

/// A new flow is told of again after each of these times: until a loss is noticed by its sum, a crash of the owner would cost it. Soon,
/// for an owner may go at any moment, and once after what a full queue takes to drain.
const AGAIN: [Duration; 3] = [Duration::from_millis(1), Duration::from_millis(4), Duration::from_millis(20)];

/// How often peers are told of a half-open flow while its address is handed over.
const HANDED: u8 = 3;

/// A backend whose SYN-ACK is not acknowledged has sent it again within this time: the third time after 7 s (Linux).
const ANSWERED_AGAIN: Duration = Duration::from_secs(10);

/// A run of a peer's that is silent for so long may have been succeeded by another: two signs of life are missing.
const SUCCEEDS: Duration = HELLO.saturating_mul(2);

/// SYN-ACKs that are taken in between two turns.
const MOST_HELD: usize = 1024;

/// What does not change while it runs.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The peers' addresses and ports.
    pub peers: Vec<SocketAddr>,
    /// All addresses of each virtual router, by their numbers; none where nobody has that number.
    pub routers: Vec<Vec<Addr>>,
    /// The keys.
    pub keys: Keys,
    /// How long a node that has come back waits for the flows at most.
    pub wait: Duration,
    /// How long a SYN-ACK of a strict service waits for peers at most.
    pub hold: Duration,
    /// Index of the loopback interface.
    pub loopback: u32,
    /// This run: random and not 0.
    pub run: u64,
}

/// What becomes of a flow whose time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It ends.
    Over,
    /// It is too early to say.
    Waits,
    /// It is established.
    Established,
}

/// One peer and what secures the talk with it.
#[derive(Debug)]
pub struct Link {
    /// Where it is.
    pub addr: SocketAddr,
    /// What is said.
    pub peer: Peer,
    /// And how.
    pub session: Session,
}

/// The node.
#[derive(Debug)]
pub struct Node {
    /// Its flows.
    pub table: Table,
    /// Its peers.
    pub links: Vec<Link>,
    /// By router, whether it may pre-empt.
    pub gates: Vec<Gate>,
    /// Datagrams from nobody's address.
    pub strangers: u64,
    /// SYN-ACKs of strict services.
    pub waiting: Waiting,
    wait: Duration,
    hold: Duration,
    keys: Keys,
    news: Vec<Record>,
    /// Flows that peers are to confirm, each with the packet that waits for it.
    held: Vec<(Record, Vec<u8>)>,
    /// Slots of flows that were told of for the first time, and when they are told again, for each of [`AGAIN`].
    young: [VecDeque<(BootTime, u32)>; AGAIN.len()],
    /// Half-open flows that peers are told of: in which stage, and how often.
    handed: HashMap<(u32, u16), (Stage, u8)>,
    /// What peers were asked to confirm once they have read it, and which of them have not.
    unread: (u32, Vec<usize>),
    turned: BootTime,
    told: Vec<bool>,
}

impl Node {
    /// Nothing heard yet, and every gate closed.
    pub fn new(setup: Setup, now: BootTime) -> Self {
        let routers = setup.routers.len();
        let link = |(number, addr): (u8, SocketAddr)| Link {
            addr,
            peer: Peer::new(number, routers, now),
            session: Session::new(setup.run),
        };
        Self {
            links: (1..).zip(setup.peers.iter().copied()).map(link).collect(),
            table: Table::new(setup.routers, setup.loopback),
            gates: vec![Gate::Closed(now); routers],
            strangers: 0,
            waiting: Waiting::default(),
            wait: setup.wait,
            hold: setup.hold,
            keys: setup.keys,
            news: Vec::new(),
            held: Vec::new(),
            young: Default::default(),
            handed: HashMap::new(),
            unread: (0, Vec::new()),
            turned: now,
            told: vec![false; routers],
        }
    }

    /// Another virtual router has this number from now on, or nobody: then there are no addresses. The others go on.
    pub fn place(&mut self, router: usize, addresses: Vec<Addr>, now: BootTime) {
        let routers = self.gates.len().max(router + 1);
        self.gates.resize(routers, Gate::Open);
        self.told.resize(routers, false);
        self.gates[router] = if addresses.is_empty() { Gate::Open } else { Gate::Closed(now) };
        self.told[router] = false;
        self.table.place(router, addresses);
        self.links.iter_mut().for_each(|link| link.peer.place(router, now));
    }

    /// To be called first in each turn: notices when this node has slept (was frozen).
    pub fn wake(&mut self, now: BootTime) {
        if now.since(self.turned) > OVERSLEPT {
            self.links.iter_mut().for_each(|link| link.peer.forget());
            for (gate, scope) in self.gates.iter_mut().zip(&self.table.scopes) {
                if scope.is_placed() && scope.owned.is_none() {
                    *gate = Gate::Closed(now);
                }
            }
        }
        self.turned = now;
    }

    /// The election has decided about a router.
    pub fn own(&mut self, router: usize, owns: bool, now: BootTime) {
        if !self.table.is_placed(router) {
            return;
        }
        let owned = &mut self.table.scopes[router].owned;
        if owned.is_some() == owns {
            return;
        }
        *owned = owns.then_some(now);
        self.gates[router] = match self.gates[router] {
            // Still true of it: clients whose connections it lacked have been reset.
            Gate::WaitedOut if owns => Gate::WaitedOut,
            _ if owns => Gate::Open,
            _ => Gate::Closed(now),
        };
        // Who owns is what everybody's next step depends on.
        self.links.iter_mut().for_each(|link| link.peer.greet(now));
    }

    /// Opens a datagram and takes in what it says.
    pub fn receive(&mut self, now: BootTime, from: IpAddr, datagram: &[u8], flows: &mut impl Flows) {
        let from = from.to_canonical();
        let Some(link) = self.links.iter_mut().find(|link| link.addr.ip() == from) else {
            self.strangers += 1;
            return;
        };
        let lives = link.peer.heard().is_some_and(|at| now < at + SUCCEEDS);
        let Ok(opened) = link.session.open_beside(datagram, &self.keys, lives) else { return };
        if opened.begins {
            link.peer.forget();
        }
        if opened.greet {
            link.peer.greet(now);
        }
        if let Some(message) = opened.message {
            link.peer.hear(now, opened.stamp, message, &mut self.table, flows);
        }
        for (place, link) in self.links.iter_mut().enumerate() {
            for nonce in link.peer.take_confirmed() {
                self.waiting.confirmed(place, nonce);
                if nonce == self.unread.0 {
                    self.unread.1.retain(|unread| *unread != place);
                }
            }
        }
    }

    /// A SYN-ACK of the flow in a slot is to go on once peers have that.
    pub fn hold(&mut self, (slot, generation): (u32, u16), packet: &[u8], flows: &impl Flows, now: BootTime) {
        if !self.waiting.has_room() || self.held.len() >= MOST_HELD {
            return self.waiting.crowded(packet.to_vec());
        }
        match self.table.half_open(slot, generation, flows, now) {
            Some(record) => self.held.push((record, packet.to_vec())),
            None => self.waiting.alone(packet.to_vec()),
        }
    }

    /// Has the peers confirm what is held.
    fn ask_to_confirm(&mut self, now: BootTime) {
        let (records, packets): (Vec<_>, Vec<_>) = std::mem::take(&mut self.held).into_iter().unzip();
        if records.is_empty() {
            return;
        }
        let mut packets = packets.into_iter();
        for part in wire::parts(&records) {
            let nonce = self.waiting.nonce();
            let links = self.links.iter_mut().enumerate();
            let asked =
                links.filter_map(|(place, link)| link.peer.ask_to_confirm(nonce, part, now).then_some(place));
            let asked = asked.collect();
            self.waiting.wait(nonce, packets.by_ref().take(part.len()).collect(), asked, now + self.hold);
        }
    }

    /// These half-open flows, by slot and generation, are soon another node's, for an address of this one's is being handed over. Each is
    /// told of a few times, and anew once its backend has answered.
    pub fn hand_over(&mut self, half_open: &[(u32, u16)], flows: &impl Flows, now: BootTime) {
        let mut records = Vec::new();
        for (slot, generation) in half_open {
            let Some(record) = self.table.half_open(*slot, *generation, flows, now) else { continue };
            let told = self.handed.entry((*slot, *generation)).or_insert((record.stage, 0));
            if told.0 != record.stage {
                *told = (record.stage, 0);
            }
            if told.1 < HANDED {
                told.1 += 1;
                records.push(record);
            }
        }
        if records.is_empty() {
            return;
        }
        for part in wire::parts(&records) {
            let nonce = self.waiting.nonce();
            for link in &mut self.links {
                link.peer.ask_to_confirm(nonce, part, now);
            }
        }
    }

    /// Nothing is handed over any more.
    pub fn handed_over(&mut self) {
        self.handed.clear();
    }

    /// What becomes of a half-open flow that a peer told of and that nothing has come by of since, though its time is over. Its owner may
    /// have died without having told that it was established: then the backend has its client's acknowledgement, or would have sent its
    /// SYN-ACK again meanwhile, past this node.
    pub fn outcome(&self, flow: &Flow, now: BootTime) -> Outcome {
        let told = flow.place != 0 && flow.stage() == Stage::SynReceived && flow.flags & REPLICATED != 0;
        match self.table.scopes.get(flow.router as usize).and_then(|scope| scope.owned) {
            Some(since) if told && now.since(since) >= ANSWERED_AGAIN => Outcome::Established,
            Some(_) if told => Outcome::Waits,
            _ => Outcome::Over,
        }
    }

    /// Something may have happened to the flow in a slot.
    pub fn note(&mut self, slot: u32, flows: &impl Flows, now: BootTime) {
        let known = self.table.knows(slot);
        let news = self.table.note(slot, flows, now);
        if news.is_some() && !known && self.links.iter().any(|link| link.peer.is_alive(now)) {
            for (young, after) in self.young.iter_mut().zip(AGAIN) {
                young.push_back((now + after, slot));
            }
        }
        self.news.extend(news);
    }

    /// The flow in a slot was there before this daemon.
    pub fn found(&mut self, slot: u32, flows: &impl Flows, now: BootTime) {
        let news = self.table.found(slot, flows, now);
        self.news.extend(news);
    }

    /// Flows that are old enough to be told again.
    fn tell_again(&mut self, flows: &impl Flows, now: BootTime) {
        for young in &mut self.young {
            while let Some((_, slot)) = young.pop_front_if(|(at, _)| *at <= now) {
                self.news.extend(self.table.tell(slot, flows, now));
            }
        }
    }

    /// The collector has freed a slot that held this flow.
    pub fn freed(&mut self, slot: u32, flow: &Flow, now: BootTime) {
        self.news.extend(self.table.freed(slot, flow, now));
    }

    /// Hands what was noted to the peers.
    pub fn flush(&mut self, flows: &impl Flows, now: BootTime) {
        self.tell_again(flows, now);
        self.ask_to_confirm(now);
        for link in &mut self.links {
            link.peer.tell(&self.news, now);
        }
        self.news.clear();
    }

    /// The next datagram to be sent now.
    pub fn poll_transmit(&mut self, now: BootTime, flows: &impl Flows) -> Option<(SocketAddr, Vec<u8>)> {
        for link in &mut self.links {
            if let Some(message) = link.peer.poll_message(now, &self.table, flows) {
                return Some((link.addr, link.session.seal(&message, &self.keys)));
            }
        }
        None
    }

    /// When there is something to do next.
    pub fn deadline(&self, now: BootTime) -> BootTime {
        let peers = self.links.iter().map(|link| link.peer.deadline(now));
        let young = self.young.iter().filter_map(|young| young.front()).map(|(at, _)| *at);
        peers.chain(young).chain(self.waiting.deadline()).fold(self.turned + HELLO, BootTime::min)
    }

    /// Whether every peer that lives has said since then that it has all flows that this node owns.
    pub fn is_passed_on(&self, since: BootTime, now: BootTime) -> bool {
        let owned = || (0..self.table.scopes.len()).filter(|scope| self.table.owns(*scope));
        let alive = self.links.iter().filter(|link| link.peer.is_alive(now));
        alive
            .flat_map(|link| owned().map(move |scope| (link, scope)))
            .all(|(link, scope)| link.peer.has(scope, since) == Some(self.table.total(scope)))
    }

    /// Asks the peers to say when they have read what they have been told until now. Those of version 1 cannot.
    pub fn ask_whether_read(&mut self, now: BootTime) {
        self.unread = (self.waiting.nonce(), (0..self.links.len()).collect());
        self.ask_again_whether_read(now);
    }

    /// Asks those again that have not said so: the question, or its answer, may have been lost.
    pub fn ask_again_whether_read(&mut self, now: BootTime) {
        let (nonce, unread) = &mut self.unread;
        unread.retain(|place| self.links[*place].peer.ask_to_confirm(*nonce, &[], now));
    }

    /// Whether all peers that live have said that they have read that.
    pub fn is_read(&self, now: BootTime) -> bool {
        !self.unread.1.iter().any(|place| self.links[*place].peer.is_alive(now))
    }

    /// Which routers may pre-empt now, where that has changed: their index, and whether they wait.
    pub fn gate_changes(&mut self, now: BootTime) -> Vec<(usize, bool)> {
        let mut changes = Vec::new();
        for router in 0..self.gates.len() {
            let gate = self.gates[router].look(now, self.best(router, now), self.wait);
            self.gates[router] = gate;
            if std::mem::replace(&mut self.told[router], gate.is_closed()) != gate.is_closed() {
                changes.push((router, gate.is_closed()));
            }
        }
        changes
    }

    /// How long a gate stays closed at most.
    pub fn wait(&self) -> Duration {
        self.wait
    }

    /// How far this node has come with the router's owner, if one is heard.
    pub fn best(&self, router: usize, now: BootTime) -> Option<Standing> {
        let rank = |standing: &Standing| match standing {
            Standing::Comparing => 0,
            Standing::Fetching { .. } => 1,
            Standing::Repairing => 2,
            Standing::InSync => 3,
        };
        self.links.iter().filter_map(|link| link.peer.standing(router, now)).max_by_key(rank)
    }

    /// Whether the router's flow in a slot is another node's to end: its owner is heard, and says when it is gone. Of half-open
    /// flows and what else is not replicated it says nothing.
    pub fn keeps(&self, slot: u32, router: usize, now: BootTime) -> bool {
        let another = router < self.gates.len() && !self.table.owns(router);
        another && self.table.knows(slot) && self.best(router, now).is_some()
    }

    /// Refused datagrams of all peers by reason.
    pub fn refused(&self) -> BTreeMap<Refusal, u64> {
        let mut all = BTreeMap::new();
        for (why, count) in self.links.iter().flat_map(|link| link.session.refused()) {
            *all.entry(*why).or_default() += count;
        }
        if self.strangers > 0 {
            all.insert(Refusal::Stranger, self.strangers);
        }
        all
    }
}
