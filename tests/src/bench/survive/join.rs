//! `bench survive --join FLOWS`: how long a node that joins takes to have the owner's flows, and what the owner forwards meanwhile.
//!
//! Half a million connections cannot be opened here, so the owner has been told of them: by a peer in this process that speaks
//! replication as a daemon does, owned the address before it, and has only a list of flows. From then on both nodes are whole daemons.
//!
//! What the owner forwards meanwhile is asked of it as of a machine of its own: its daemon, the client and the backends keep to some of
//! the processors, and the node that joins to others. On one alone they would share it, and the row says so.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use lb_common::{
    addr::{Addr, PROTO_TCP, Port},
    flow::{Flow, Stage},
    mode::Mode,
};
use lb_userspace::{
    sync::{
        Setup,
        auth::{Keys, MAX_DATAGRAM},
        node::Node,
        table::{Flows, Unfit},
        wire::{FlowId, Record},
    },
    vrrp::BootTime,
};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use super::{
    NAME, Options,
    scene::{HELD_PORT, SYNC_KEY, SYNC_PORT, Scene, Setup as SceneSetup, Stack, other},
    talk::Order,
};
use crate::{
    bench::{row::Row, scene::Profile},
    console::Console,
    lab::VIP,
    node, proc,
    vrrp_net::{self, Viplb},
};

/// A node has caught up by then, or never will.
const LIMIT: Duration = Duration::from_secs(60);
/// Of 500,000 flows, s.
const CAUGHT_UP_S: f64 = 5.0;
/// What the owner forwarded before, over what it forwards meanwhile.
const FALL: f64 = 1.05;
/// Requests are counted for so long before a node joins.
const COUNTED: Duration = Duration::from_secs(3);
/// Connections that carry requests, one after the other without a pause.
const BUSY: u32 = 32;

/// The flows of a peer that has no packets.
struct List(Vec<Flow>);

impl Flows for List {
    fn read(&self, slot: u32) -> Flow {
        self.0[slot as usize]
    }
    fn find(&self, _: &FlowId) -> Option<u32> {
        None
    }
    fn has_way(&self, _: &Record) -> bool {
        false
    }
    fn insert(&mut self, _: &Record, _: &mut Vec<u32>) -> Result<u32, Unfit> {
        Err(Unfit::Full)
    }
    fn insert_unknown(&mut self, _: &Record) -> Option<Result<u32, Unfit>> {
        None
    }
    fn update(&mut self, _: u32, _: &Record) {}
    fn promote(&mut self, _: u32) -> Result<(), Unfit> {
        Err(Unfit::Full)
    }
    fn remove(&mut self, _: u32) {}
}

/// The owner before the owner, until it is dropped.
struct Former {
    election: Viplb,
    stop: Arc<AtomicBool>,
    speaker: Option<JoinHandle<Result<()>>>,
}

impl Former {
    /// Owns the address in h2's place, with so many flows through each backend of the scene.
    fn start(scene: &Scene, flows: u32) -> Result<Self> {
        let h2 = scene.lab().node("h2")?;
        let netns = scene.lab().netns(&h2);
        let election = Viplb::start(netns.name(), vrrp_net::setup(250));
        let backends: Vec<Ipv4Addr> = scene.lab().databases().iter().map(|db| db.addr).collect();
        let own = SocketAddr::new(h2.addr.into(), SYNC_PORT);
        let socket = netns.run(|| UdpSocket::bind(own))?.context("replication's port")?;
        socket.set_read_timeout(Some(Duration::from_millis(1)))?;
        let peer = SocketAddr::new(other(&h2).into(), SYNC_PORT);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let speaker = thread::spawn(move || speak(&socket, peer, list(flows, &backends), &stopped));
        Ok(Self { election, stop, speaker: Some(speaker) })
    }

    /// Leaves the address to whoever is there.
    fn leave(mut self) -> Result<()> {
        self.election.stop();
        self.stop.store(true, Ordering::Relaxed);
        let speaker = self.speaker.take().context("it has left")?;
        speaker.join().map_err(|_| anyhow!("the former owner panicked"))?
    }
}

impl Drop for Former {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Established flows of made-up clients, whose address their backend sees.
fn list(flows: u32, backends: &[Ipv4Addr]) -> List {
    let now = BootTime::now();
    let flow = |i: u32| {
        let (client, port) = (Addr::from(IpAddr::from(Ipv4Addr::from(0x0a00_0001 + i / 50_000))), i % 50_000);
        let client_port = Port::new(10_000 + port as u16);
        Flow {
            client,
            vip: IpAddr::from(VIP).into(),
            backend: IpAddr::from(backends[i as usize % backends.len()]).into(),
            snat: client,
            client_port,
            vip_port: Port::new(HELD_PORT),
            backend_port: Port::new(HELD_PORT),
            snat_port: client_port,
            seen: now.0,
            born: (now.0 / 1_000_000_000) as u32,
            client_if: u32::MAX,
            generation: 1,
            proto: PROTO_TCP,
            stage: Stage::Established as u8,
            mode: Mode::Dnat as u8,
            ..Flow::default()
        }
    };
    List((0..flows).map(flow).collect())
}

/// Replication by an owner whose flows do not change.
fn speak(socket: &UdpSocket, peer: SocketAddr, mut list: List, stop: &AtomicBool) -> Result<()> {
    let setup = Setup {
        peers: vec![peer],
        routers: vec![vec![IpAddr::from(VIP).into()]],
        keys: Keys::new(&[(SYNC_KEY.0, SYNC_KEY.1.as_bytes().to_vec())]).context("a key")?,
        wait: Duration::ZERO,
        hold: Duration::from_millis(10),
        loopback: 1,
        run: 4711,
    };
    let mut node = Node::new(setup, BootTime::now());
    node.own(0, true, BootTime::now());
    (0..list.0.len() as u32).for_each(|slot| node.note(slot, &list, BootTime::now()));
    node.flush(&list, BootTime::now());
    let mut buffer = [0; MAX_DATAGRAM + 1];
    while !stop.load(Ordering::Relaxed) {
        let now = BootTime::now();
        node.wake(now);
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            node.receive(now, from.ip(), &buffer[..length], &mut list);
        }
        while let Some((to, datagram)) = node.poll_transmit(BootTime::now(), &list) {
            // A datagram that is lost is asked for again.
            let _ = socket.send_to(&datagram, to);
        }
    }
    Ok(())
}

/// Runs it `options.rounds` times, each in a scene of its own.
pub fn run(options: &Options, flows: u32, prefix: &str, console: &Console) -> Result<Vec<Row>> {
    let apart = if Parted::new()?.apart { "processors of their own" } else { "one processor for all" };
    let (mut caught_up, mut started, mut falls) = (Vec::new(), Vec::new(), Vec::new());
    let (mut owners, mut joiners, mut starts) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=options.rounds {
        let joined = once(options, flows, prefix, console)?;
        console.say(format!(
            "round {round}/{}  {flows} flows in {:.2} s, {:.2} s after its start; {:.0} requests/s before, {:.0} meanwhile; \
             processor time of the owner's daemon {:.2} s, of the other {:.2} s, and {:.2} s for its start",
            options.rounds,
            joined.caught_up_s,
            joined.started_s,
            joined.before,
            joined.meanwhile,
            joined.owner_s,
            joined.joiner_s,
            joined.start_s
        ));
        owners.push(joined.owner_s);
        joiners.push(joined.joiner_s);
        starts.push(joined.start_s);
        caught_up.push(joined.caught_up_s);
        started.push(joined.started_s);
        falls.push(joined.before / joined.meanwhile);
    }
    let row = |figure: String, unit, values: &[f64]| Row::median(NAME, figure, unit, values);
    Ok(vec![
        row(format!("a node that joins has the owner's {flows} flows"), "s", &caught_up).at_most(CAUGHT_UP_S),
        row("likewise, from the start of its daemon on".to_owned(), "s", &started),
        row(format!("requests through the owner: before / meanwhile, {apart}"), "x", &falls).at_most(FALL),
        row("processor time of the owner's daemon meanwhile".to_owned(), "s", &owners),
        row("processor time of the other daemon".to_owned(), "s", &joiners),
        row("processor time of its start, the kernel's verifier included".to_owned(), "s", &starts),
    ])
}

struct Joined {
    caught_up_s: f64,
    started_s: f64,
    before: f64,
    meanwhile: f64,
    /// Processor time of the owner's daemon from the other's start on, of the other's start, and of what it does then, s.
    owner_s: f64,
    start_s: f64,
    joiner_s: f64,
}

/// Which processors the owner has, with clients and backends, and which the node that joins.
struct Parted {
    all: CpuSet,
    owner: CpuSet,
    joiner: CpuSet,
    apart: bool,
}

impl Parted {
    fn new() -> Result<Self> {
        let all = sched_getaffinity(Pid::from_raw(0))?;
        let ours: Vec<usize> = (0..CpuSet::count()).filter(|cpu| all.is_set(*cpu).unwrap_or(false)).collect();
        let (mut owner, mut joiner) = (CpuSet::new(), CpuSet::new());
        for (i, cpu) in ours.iter().enumerate() {
            let set = if i < ours.len().div_ceil(2) { &mut owner } else { &mut joiner };
            set.set(*cpu)?;
        }
        let apart = ours.len() > 1;
        if !apart {
            joiner = owner;
        }
        Ok(Self { all, owner, joiner, apart })
    }

    /// What is started meanwhile keeps to these.
    fn with<T>(&self, set: &CpuSet, work: impl FnOnce() -> Result<T>) -> Result<T> {
        sched_setaffinity(Pid::from_raw(0), set)?;
        let done = work();
        sched_setaffinity(Pid::from_raw(0), &self.owner)?;
        done
    }
}

impl Drop for Parted {
    fn drop(&mut self) {
        let _ = sched_setaffinity(Pid::from_raw(0), &self.all);
    }
}

fn once(options: &Options, flows: u32, prefix: &str, console: &Console) -> Result<Joined> {
    ensure!(options.profile == Profile::Default, "--join has the default profile alone");
    let setup = SceneSetup {
        profile: Profile::Default,
        connections: BUSY,
        sessions: 0,
        loss: 0,
        adopt: false,
        strict: false,
        held: flows,
    };
    let parted = Parted::new()?;
    let mut scene = parted.with(&parted.owner, || Scene::lay(prefix, Stack::Viplb, setup))?;
    let former = Former::start(&scene, flows)?;
    let (h1, h2) = (scene.lab().node("h1")?, scene.lab().node("h2")?);
    scene.start(&h1)?;
    wait(&scene, "h1", flows, "in-sync", console)?;
    former.leave()?;
    scene.wait_owner("h1", console)?;
    wait(&scene, "h1", flows, "owner", console)?;
    console.say(format!("the owner has {flows} flows"));

    scene.start_clients()?;
    scene.tell(Order::Fill)?;
    scene.tell(Order::Talk)?;
    scene.tell(Order::Mark)?;
    let begun = Instant::now();
    console.wait_for(COUNTED, || Ok(false))?;
    let before = scene.tell(Order::Mark)?.exchanges as f64 / begun.elapsed().as_secs_f64();
    let owner = processor_time(&scene, "h1")?;
    let begun = Instant::now();
    parted.with(&parted.joiner, || scene.start(&h2))?;
    let (joined, start_s) = (Instant::now(), processor_time(&scene, "h2")?);
    // A flow a connection that carries requests is there as well.
    wait(&scene, "h2", flows, "in-sync", console)?;
    let (caught_up, started) = (joined.elapsed(), begun.elapsed());
    let meanwhile = scene.tell(Order::Mark)?.exchanges as f64 / begun.elapsed().as_secs_f64();
    Ok(Joined {
        caught_up_s: caught_up.as_secs_f64(),
        started_s: started.as_secs_f64(),
        before,
        meanwhile,
        owner_s: processor_time(&scene, "h1")? - owner,
        start_s,
        joiner_s: processor_time(&scene, "h2")? - start_s,
    })
}

/// Of a node's daemon, s.
fn processor_time(scene: &Scene, name: &str) -> Result<f64> {
    let pids = node::daemon_pids(scene.lab(), &scene.lab().node(name)?);
    let pid = *proc::leaders(&pids).first().with_context(|| format!("{name} has no daemon"))?;
    Ok(proc::processor_time(pid).context("no processor time")?.as_secs_f64())
}

/// Until a node stands so with so many flows at least.
fn wait(scene: &Scene, name: &str, flows: u32, wanted: &str, console: &Console) -> Result<()> {
    let mut seen = serde_json::Value::Null;
    let stands = console.wait_for(LIMIT, || {
        seen = scene.status(name).unwrap_or_default()["sync"]["routers"][0].clone();
        Ok(seen["state"] == wanted && seen["flows"].as_u64() >= Some(flows.into()))
    })?;
    if !stands {
        bail!("{name} is not {wanted} with {flows} flows within {LIMIT:?}: {seen}");
    }
    Ok(())
}
