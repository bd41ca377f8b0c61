//! The control loop's part of flow replication: it owns the flow table, so it gives `sync` each turn of it.
//!
//! A turn is no event of the model: nothing is reconciled and no snapshot published for it, the next tick shows it.

use std::{future::pending, hash::BuildHasher, time::Duration};

use anyhow::Result;
use lb_common::{addr::Addr, flow::Flow};
use tokio::time::{sleep, timeout};

use super::{
    Control,
    model::{Machine, Model},
    numbers::Numbers,
};
use crate::{
    config::model::Config,
    datapath::{
        flows::{Witness, half_open::HalfOpen},
        held::HeldPackets,
        load::Datapath,
        pins::Pins,
        preflight,
        replica::{Events, Replica},
    },
    sync::{
        Driver, Setup,
        auth::Keys,
        directory::Directory,
        gate::Gate,
        node::{Node, Outcome},
    },
    vrrp::{BootTime, TAKE_IN},
};

/// Flow replication of this node.
pub(super) struct Replication {
    pub(super) driver: Driver,
    directory: Directory,
    /// While an address is handed over: until when half-open flows are looked at, the next time of that, and what was seen.
    handing_over: Option<(BootTime, BootTime, HalfOpen)>,
}

/// Opens it, if the configuration has it, and takes in the flows that are in the table already.
pub(super) fn open(
    config: &Config,
    (machine, numbers): (&Machine, &Numbers),
    pins: &Pins,
    datapath: &mut Datapath,
) -> Result<Option<Replication>> {
    let Some(sync) = &config.sync else { return Ok(None) };
    let secrets: Vec<_> = sync.keys.iter().map(|key| (key.id, key.secret.clone())).collect();
    let Some(keys) = Keys::new(&secrets) else { return Ok(None) };
    let setup = Setup {
        peers: sync.peers.clone(),
        routers: routers(config, numbers),
        keys,
        wait: sync.failback_wait,
        hold: sync.strict_wait,
        loopback: preflight::ifindex("lo").unwrap_or(1),
        run: random(),
    };
    let directory = directory(config, machine, numbers);
    let mut replication = Replication {
        driver: Driver::open(sync, setup, Events::open(pins)?, HeldPackets::open(pins)?)?,
        directory,
        handing_over: None,
    };
    let now = BootTime::now();
    let slots = datapath.collector.records();
    let replica = replica(datapath, &replication.directory, now);
    let node = replication.driver.node();
    (0..slots).for_each(|slot| node.found(slot, &replica, now));
    Ok(Some(replication))
}

/// The addresses of all virtual routers, by their numbers.
fn routers(config: &Config, numbers: &Numbers) -> Vec<Vec<Addr>> {
    let room = numbers.routers().iter().max().map_or(0, |last| *last as usize + 1);
    let mut routers = vec![Vec::new(); room];
    for (router, number) in config.vrrp.iter().zip(numbers.routers()) {
        let all = router.addresses.iter().chain(&router.excluded);
        routers[*number as usize] = all.map(|a| Addr::from(a.addr)).collect();
    }
    routers
}

fn directory(config: &Config, machine: &Machine, numbers: &Numbers) -> Directory {
    Directory::new(config, numbers, |router, addr| client_if(config, machine, router, addr), &machine.routes)
}

/// Goes over to the services and virtual routers of the next model, and where peers, keys or the addresses of a router that stays are
/// others, to new sessions.
pub(super) fn follow(control: &mut Control, next: &Model) -> Result<()> {
    let (old, new) = (control.model.config(), next.config());
    let before = routers(old, control.model.numbers());
    let after = routers(new, next.numbers());
    let stays =
        |(before, after): (&Vec<Addr>, &Vec<Addr>)| before == after || before.is_empty() || after.is_empty();
    if old.sync == new.sync && before.iter().zip(&after).all(stays) {
        if let Some(replication) = &mut control.replication {
            replication.directory = directory(new, next.machine(), next.numbers());
        }
        place(control, &after);
        return Ok(());
    }
    // The old socket is at the same address.
    flush(&mut control.replication, &mut control.datapath);
    control.replication = None;
    let pins = control.datapath.pins().clone();
    control.replication = open(new, (next.machine(), next.numbers()), &pins, &mut control.datapath)?;
    own(control, next.owned());
    Ok(())
}

/// Routers that have come or gone come or go for the peers; the others go on.
fn place(control: &mut Control, routers: &[Vec<Addr>]) {
    let Some(Replication { driver, .. }) = &mut control.replication else { return };
    let (node, now) = (driver.node(), BootTime::now());
    for number in 0..routers.len().max(node.gates.len()) {
        let addresses = routers.get(number).map_or(&[][..], Vec::as_slice);
        if node.table.addresses(number) != addresses {
            node.place(number, addresses.to_vec(), now);
        }
    }
}

/// Back to what the model says.
pub(super) fn reopen(control: &mut Control) -> Result<()> {
    if control.replication.is_some() || control.model.config().sync.is_none() {
        if let Some(replication) = &mut control.replication {
            let model = &control.model;
            replication.directory = directory(model.config(), model.machine(), model.numbers());
        }
        let all = routers(control.model.config(), control.model.numbers());
        place(control, &all);
        return Ok(());
    }
    let pins = control.datapath.pins().clone();
    let model = &control.model;
    let parts = (model.machine(), model.numbers());
    control.replication = open(model.config(), parts, &pins, &mut control.datapath)?;
    let owned = control.model.owned();
    own(control, owned);
    Ok(())
}

/// New sessions are told what the election has decided.
fn own(control: &mut Control, owned: Vec<usize>) {
    let Some(replication) = &mut control.replication else { return };
    let now = BootTime::now();
    for router in owned {
        replication.driver.node().own(router, true, now);
    }
}

/// The interface that a virtual address is on.
fn client_if(config: &Config, machine: &Machine, router: usize, addr: Addr) -> u32 {
    let router = &config.vrrp[router];
    let placed = router.addresses.iter().chain(&router.excluded).find(|a| Addr::from(a.addr) == addr);
    let dev = placed.and_then(|a| a.dev.as_ref()).unwrap_or(&router.interface);
    machine.placements.get(dev).copied().unwrap_or(0)
}

/// Different at each start, and not to be guessed: the standard library's hash keys are the system's random bytes.
fn random() -> u64 {
    std::hash::RandomState::new().hash_one(BootTime::now().0).max(1)
}

fn replica<'a>(datapath: &'a mut Datapath, directory: &'a Directory, now: BootTime) -> Replica<'a> {
    Replica::new(datapath.tables.maps(), &mut datapath.collector, directory, now)
}

/// Until there is something to do; for ever without replication.
pub(super) async fn ready(replication: &mut Option<Replication>) -> Result<()> {
    match replication {
        Some(Replication { driver, handing_over: Some(_), .. }) => {
            // A turn that was given up for this goes on with the next.
            let _ = timeout(LOOK, driver.ready()).await;
            Ok(())
        }
        Some(replication) => Ok(replication.driver.ready().await?),
        None => pending().await,
    }
}

/// How long a node that leaves waits at most until its peers have all of its flows: two signs of life of theirs.
const PASSED_ON_LIMIT: Duration = Duration::from_millis(400);
/// And if they have not even read what they were told: they are busy.
const READ_LIMIT: Duration = Duration::from_secs(2);
/// A peer that has read within this time of being asked has nothing else waiting to be read.
const PROMPT: Duration = Duration::from_millis(20);
/// One that does not answer is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// Between two looks at what peers say meanwhile.
const LOOK: Duration = Duration::from_millis(1);

/// Goes on replicating until every peer that lives has all flows of this node's, for a bounded time: with new ones all the while
/// there is no such moment, but the peers have had the time to take in what was on its way. Whoever leaves does this first, for its
/// successor takes the addresses over without looking at what it has not read yet.
pub(super) async fn pass_on(replication: &mut Option<Replication>, datapath: &mut Datapath) {
    let Some(Replication { driver, directory, .. }) = replication else { return };
    let begun = BootTime::now();
    let (mut asked, mut said) = (begun, begun);
    driver.node().ask_whether_read(begun);
    loop {
        driver.turn(&mut replica(datapath, directory, BootTime::now()));
        let (now, node) = (BootTime::now(), driver.node());
        let read = node.is_read(now);
        let prompt = read && now.since(asked) < PROMPT;
        let over = now.since(begun) >= if prompt { PASSED_ON_LIMIT } else { READ_LIMIT };
        if over || node.is_passed_on(begun, now) {
            return;
        }
        if read && now.since(asked) >= PROMPT {
            node.ask_whether_read(now);
            (asked, said) = (now, now);
        } else if !read && now.since(said) >= ASK_AGAIN {
            node.ask_again_whether_read(now);
            said = now;
        }
        sleep(LOOK).await;
    }
}

/// Tells the peers all that there is to tell: this node leaves.
pub(super) fn flush(replication: &mut Option<Replication>, datapath: &mut Datapath) {
    let Some(replication) = replication else { return };
    let now = BootTime::now();
    replication.tell_half_open(datapath, now);
    replication.driver.flush(&replica(datapath, &replication.directory, now));
}

/// For how long half-open flows are told of once an address is handed over: the other node owns it long before.
pub(super) const HANDING_OVER: Duration = Duration::from_millis(50);

impl Replication {
    /// An address is about to be another node's, which is to have the half-open flows too.
    pub(super) fn hand_over(&mut self, lasts: Duration) {
        let now = BootTime::now();
        let seen = self.handing_over.take().map(|(_, _, seen)| seen).unwrap_or_default();
        self.handing_over = Some((now + lasts, now, seen));
    }

    /// Tells of those that have begun, or have gone on, since the last time. No sooner than a flow has had the time to.
    fn tell_half_open(&mut self, datapath: &mut Datapath, now: BootTime) {
        let Some((until, next, seen)) = &mut self.handing_over else { return };
        if now < *next {
            return;
        }
        *next = now + LOOK;
        let half_open = datapath.collector.half_open(seen);
        let over = now >= *until;
        let node = self.driver.node();
        node.hand_over(&half_open, &replica(datapath, &self.directory, now), now);
        if over {
            node.handed_over();
            self.handing_over = None;
        }
    }
}

impl Control {
    /// One turn of replication, and what the election is to know of it.
    pub(super) fn replicate(&mut self) {
        let Some(replication) = &mut self.replication else { return };
        let now = BootTime::now();
        replication.tell_half_open(&mut self.datapath, now);
        let Replication { driver, directory, .. } = replication;
        driver.turn(&mut replica(&mut self.datapath, directory, now));
        for (router, waits) in driver.node().gate_changes(now) {
            self.driver.set_catching_up(router, waits);
            if let Some((_, name)) = self.model.router_names().find(|(number, _)| *number == router) {
                match driver.node().gates[router] {
                    Gate::Closed(_) => tracing::info!("sync: {name} pre-empts once it has the owner's flows"),
                    Gate::Open => tracing::info!("sync: {name} has the owner's flows, or owns the addresses"),
                    Gate::WaitedOut => tracing::warn!(
                        "sync: {name} may pre-empt without the owner's flows: they did not come in time (`failback_wait`)"
                    ),
                }
            }
        }
    }

    /// Takes in what peers have told until now, for no longer than the election waits for it.
    pub(super) fn take_in_flows(&mut self) {
        let begun = BootTime::now();
        loop {
            self.replicate();
            let more = self.replication.as_ref().is_some_and(|replication| replication.driver.has_more());
            if !more || BootTime::now().since(begun) >= TAKE_IN {
                return;
            }
        }
    }

    /// The election has decided about the router with this number. Who is owner no longer passes its last flows on first.
    pub(super) fn tell_replication(&mut self, router: usize, owns: bool) {
        if !owns {
            flush(&mut self.replication, &mut self.datapath);
        }
        let Some(Replication { driver, .. }) = &mut self.replication else { return };
        let now = BootTime::now();
        driver.node().own(router, owns, now);
        self.replicate();
    }

    /// Tells the peers of flows that were ended here.
    pub(super) fn tell_ended(&mut self, ended: Vec<(u32, Flow)>) {
        let Some(Replication { driver, directory, .. }) = &mut self.replication else { return };
        let now = BootTime::now();
        for (slot, flow) in ended {
            driver.node().freed(slot, &flow, now);
        }
        driver.flush(&replica(&mut self.datapath, directory, now));
    }

    /// Frees what has expired in a part of the flow table.
    pub(super) fn sweep(&mut self, now: BootTime, slots: u32) -> Result<()> {
        let Datapath { tables, collector, .. } = &mut self.datapath;
        let Some(Replication { driver, directory, .. }) = &mut self.replication else {
            collector.sweep(tables.maps(), now.0, slots)?;
            return Ok(());
        };
        let mut seen =
            Seen { node: driver.node(), freed: Vec::new(), used: Vec::new(), established: Vec::new(), now };
        collector.sweep_seen(tables.maps(), now.0, slots, &mut seen)?;
        let Seen { node, freed, mut used, established, .. } = seen;
        used.extend(established.into_iter().filter(|slot| collector.establish(tables.maps(), *slot)));
        for (slot, flow) in freed {
            node.freed(slot, &flow, now);
        }
        // What no event told of: there was no room for it.
        let replica = replica(&mut self.datapath, directory, now);
        for slot in used {
            node.note(slot, &replica, now);
        }
        node.flush(&replica, now);
        Ok(())
    }
}

/// What a sweep has come by.
struct Seen<'a> {
    node: &'a mut Node,
    freed: Vec<(u32, Flow)>,
    used: Vec<u32>,
    established: Vec<u32>,
    now: BootTime,
}

impl Witness for Seen<'_> {
    fn keeps(&mut self, slot: u32, flow: &Flow) -> bool {
        match self.node.outcome(flow, self.now) {
            Outcome::Over => self.node.keeps(slot, flow.router as usize, self.now),
            Outcome::Waits => true,
            Outcome::Established => {
                self.established.push(slot);
                true
            }
        }
    }

    fn freed(&mut self, slot: u32, flow: &Flow) {
        self.freed.push((slot, *flow));
    }

    fn used(&mut self, slot: u32) {
        self.used.push(slot);
    }
}
