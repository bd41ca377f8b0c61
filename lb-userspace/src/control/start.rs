//! Start: everything that can be refused is refused before anything is attached; what fails later is taken back.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use lb_common::{ports::MAX_SOURCES, settings::SnatPorts};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

mod reach;

use super::{
    Control,
    ender::Ender,
    exhaustion::Exhaustion,
    model::{Machine, MachineInterface, Model, Way},
};
use crate::{
    api::{self, snapshot::Snapshot},
    config::model::{Config, Mode, VirtualRouter},
    datapath::{
        lease::KernelLease,
        load::{Datapath, Sizes},
        pins,
        pins::Pins,
        preflight, ring,
    },
    health,
    netlink::Netlink,
    notify::Notifier,
    track, vrrp,
};

/// How long the start waits for trackers that look at this machine only.
const TRACKER_PATIENCE: Duration = Duration::from_secs(1);
/// Commands waiting for the loop; more only come from more CLI calls at a time.
const COMMANDS: usize = 8;

/// Runs the daemon until `stop` is cancelled.
pub async fn run(config: Config, stop: CancellationToken) -> Result<()> {
    preflight::check()?;
    for router in &config.vrrp {
        preflight::ifindex(&router.interface)?;
    }
    // Before the routes: without an address there is none either, and that would name the wrong thing.
    vrrp::check(&config.vrrp.iter().map(vrrp::RouterSetup::from).collect::<Vec<_>>())?;
    let placements = placements(&config)?;
    let lock = preflight::lock(&config.node.name)?;
    let pins = Pins::of(&config.node.name);
    let netlink = Netlink::open()?;
    let routes = routes(&config, &netlink).await?;
    let interfaces = interfaces(&config, &placements, &routes)?;
    reach::check_sources(&config)?;
    let mut datapath = Datapath::open(&pins, &interfaces, config.node.hooks.clone(), sizes(&config))?;
    datapath.collector.set_timeouts(config.services.iter().map(|s| s.timeouts).collect());
    if datapath.adopted {
        tracing::info!("adopted the maps and flows of a former daemon");
    }
    raise_xdp(&config, &netlink, &routes, &mut datapath).await;
    let socket = pins::socket(&config.node.name);
    let result = match prepare(config, &pins, netlink, (placements, routes), datapath).await {
        Ok(control) => {
            tracing::info!("running");
            control.run(stop).await
        }
        Err((e, datapath)) => {
            // Adopted programs stay: a killed owner's address may still be on the interface, and only they fence it.
            if !datapath.adopted
                && let Err(left) = datapath.close()
            {
                tracing::warn!("{left:#}");
            }
            Err(e)
        }
    };
    // Ours for as long as the lock is held.
    let _ = std::fs::remove_file(socket);
    drop(lock);
    result
}

/// Index of each interface that addresses are put on: those of the virtual routers, and those named by `dev`.
fn placements(config: &Config) -> Result<BTreeMap<String, u32>> {
    let devs = |r: &VirtualRouter| {
        let addresses = r.addresses.iter().chain(&r.excluded);
        addresses.filter_map(|a| a.dev.clone()).chain([r.interface.clone()]).collect::<Vec<_>>()
    };
    let names = config.vrrp.iter().flat_map(devs);
    names.map(|name| Ok((name.clone(), preflight::ifindex(&name)?))).collect()
}

/// Interfaces to attach to, each once: those of the virtual routers and of their addresses, where clients come in, and
/// those that backends are reached by, where replies come in; and the loopback, where this node's own clients come in.
fn interfaces(config: &Config, placements: &BTreeMap<String, u32>, routes: &[u32]) -> Result<Vec<String>> {
    let mut names: Vec<String> = placements.keys().filter(|name| *name != reach::LOOPBACK).cloned().collect();
    names.extend(reach::own_interfaces(config)?);
    names.extend(config.node.local_clients.then(|| reach::LOOPBACK.to_owned()));
    for ifindex in routes.iter().filter(|ifindex| **ifindex != NO_INTERFACE) {
        names.push(preflight::ifname(*ifindex)?);
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// Room for what is configured, and a quarter more of what a later daemon may need that adopts the maps.
fn sizes(config: &Config) -> Sizes {
    let needed = config.services.iter().map(|s| {
        let backends = s.backends.iter().filter(|b| b.mode == Mode::Nat).count();
        backends * s.snat.len().clamp(1, MAX_SOURCES)
    });
    let needed = needed.sum::<usize>();
    let pools = (needed + needed / 4 + 16).min(usize::from(u16::MAX) - 1);
    Sizes { flows: config.node.flows, ring_slots: ring::slots(&config.services), pools: pools as u32 }
}

/// Instead of an interface: the backend is this node's own stack.
const NO_INTERFACE: u32 = 0;

async fn routes(config: &Config, netlink: &Netlink) -> Result<Vec<u32>> {
    let mut routes = Vec::new();
    for backend in config.services.iter().flat_map(|s| &s.backends) {
        if backend.mode == Mode::Local {
            routes.push(NO_INTERFACE);
            continue;
        }
        let to = backend.addr.ip();
        let ifindex = netlink.route_ifindex(to).await.with_context(|| format!("backend {}", backend.name))?;
        anyhow::ensure!(
            preflight::ifname(ifindex)? != "lo",
            "backend {}: {to} is this node itself, to which nothing is forwarded: name another host's address, or write `mode = \"local\"` \
             to leave its connections to this node's own stack",
            backend.name
        );
        routes.push(ifindex);
    }
    Ok(routes)
}

/// The ways to all backends. A tunnel, and a connection to a backend of the other family, starts from an address of this
/// node's own.
async fn ways(config: &Config, netlink: &Netlink) -> Result<Vec<Way>> {
    let mut ways = Vec::new();
    for (service, backend) in config.services.iter().flat_map(|s| s.backends.iter().map(move |b| (s, b))) {
        let to = backend.addr.ip();
        let (source, mtu) = netlink.way(to).await.with_context(|| format!("backend {}", backend.name))?;
        let chosen = service.path.tunnel_source.filter(|a| a.is_ipv4() == to.is_ipv4());
        let mixed = backend.mode == Mode::Nat && service.listen.first.is_ipv4() != to.is_ipv4();
        let own = if mixed { source } else { chosen.or(source) };
        let virtual_one = config.vrrp.iter().flat_map(|r| r.addresses.iter().chain(&r.excluded));
        let is_virtual = virtual_one.map(|a| a.addr).any(|a| Some(a) == own);
        anyhow::ensure!(
            !(mixed || backend.mode == Mode::Tunnel) || own.is_some() && !is_virtual,
            "backend {}: this node has no address of its own towards {to}, which the packets would come from: give it one",
            backend.name
        );
        ways.push(Way { source, mtu });
    }
    Ok(ways)
}

/// XDP in front of the TC programs, where it is wanted and works. A backend is asked in the self-test on the interface that
/// it is reached by.
async fn raise_xdp(config: &Config, netlink: &Netlink, routes: &[u32], datapath: &mut Datapath) {
    let backends = config.services.iter().flat_map(|s| &s.backends).map(|b| b.addr.ip());
    let backends: Vec<_> = backends.zip(routes).collect();
    let mut ports = Vec::new();
    for a in datapath.attached.iter().filter(|a| a.interface != reach::LOOPBACK) {
        let Ok(ifindex) = preflight::ifindex(&a.interface) else { continue };
        let there: Vec<_> = backends.iter().filter(|(_, by)| **by == ifindex).map(|(ip, _)| *ip).collect();
        match netlink.port(&a.interface, ifindex, &there).await {
            Ok(port) => ports.push(port),
            Err(e) => tracing::warn!("no XDP on {}: {e:#}", a.interface),
        }
    }
    for name in
        config.node.hooks.named.keys().filter(|n| datapath.attached.iter().all(|a| a.interface != **n))
    {
        tracing::warn!("`hooks` names {name:?}, which viplb has no programs on");
    }
    datapath.raise_xdp(&ports);
}

/// Where addresses are put, and how backends are reached.
type Places = (BTreeMap<String, u32>, Vec<u32>);

async fn prepare(
    config: Config,
    pins: &Pins,
    netlink: Netlink,
    places: Places,
    mut datapath: Datapath,
) -> Result<Control, (anyhow::Error, Datapath)> {
    match parts(&config, pins, &netlink, places, &mut datapath).await {
        Ok(p) => Ok(Control {
            model: p.model,
            exhaustion: Exhaustion::default(),
            datapath,
            netlink,
            mtu_turn: 0,
            driver: p.driver,
            replication: p.replication,
            vrrp_events: p.vrrp_events,
            health_events: p.health_events,
            nudges: p.nudges,
            track_events: p.track_events,
            notifier: p.notifier,
            ender: p.ender,
            commands: p.commands,
            snapshot: p.snapshot,
            cancel: p.cancel,
            tasks: p.tasks,
            api: p.api,
        }),
        Err(e) => Err((e, datapath)),
    }
}

/// What the loop is made of, besides datapath and netlink.
struct Parts {
    model: Model,
    driver: vrrp::Driver,
    replication: Option<super::sync::Replication>,
    vrrp_events: mpsc::UnboundedReceiver<vrrp::Event>,
    health_events: mpsc::UnboundedReceiver<health::Event>,
    nudges: health::Nudges,
    track_events: mpsc::UnboundedReceiver<track::Event>,
    notifier: Notifier,
    ender: Ender,
    commands: mpsc::Receiver<api::Command>,
    snapshot: watch::Sender<Snapshot>,
    cancel: CancellationToken,
    tasks: TaskTracker,
    api: tokio::task::JoinHandle<Result<()>>,
}

async fn parts(
    config: &Config,
    pins: &Pins,
    netlink: &Netlink,
    places: Places,
    datapath: &mut Datapath,
) -> Result<Parts> {
    let ways = ways(config, netlink).await?;
    let machine = Machine { ways, ..machine(netlink, places, datapath, config.node.snat_ports).await? };
    let replication = super::sync::open(config, &machine, pins, datapath)?;
    let mut model = Model::new(config.clone(), machine, SystemTime::now());
    // Services are in the maps, without backends, before anybody can own their address.
    let desired = model.desired();
    datapath.tables.publish(&desired)?;
    if datapath.adopted {
        let moved = datapath.collector.renumber(&desired);
        if moved > 0 {
            tracing::info!(
                "{moved} adopted flows have services or backends whose place in the file is another now"
            );
        }
    }
    datapath.alive.renew(vrrp::BootTime::now());
    let listener = api::bind(&pins::socket(&config.node.name))?;
    let http = match config.http {
        Some(addr) => Some(api::http::bind(addr).await?),
        None => None,
    };

    let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
    let track_events = watch_trackers(config, &mut model, &cancel, &tasks).await?;
    let (driver, vrrp_events) = elect(config, pins, &mut model)?;
    let notifier = Notifier::spawn(config);
    let ender = Ender::open().context("cannot open the sockets that resets are sent by")?;
    let (health_sender, health_events) = mpsc::unbounded_channel();
    let nudges = health::spawn(&config.services, &health_sender, &cancel, &tasks);

    let (command_sender, commands) = mpsc::channel(COMMANDS);
    let (snapshot, seen) = watch::channel(model.snapshot(SystemTime::now()));
    if let Some(http) = http {
        api::http::serve(http, seen.clone(), &cancel, &tasks);
    }
    let api = tokio::spawn(api::serve(listener, seen, command_sender, cancel.clone()));
    Ok(Parts {
        model,
        driver,
        replication,
        vrrp_events,
        health_events,
        nudges,
        track_events,
        notifier,
        ender,
        commands,
        snapshot,
        cancel,
        tasks,
        api,
    })
}

/// Starts the trackers and takes in what they say at once, so that no router starts with a priority that it does not have.
async fn watch_trackers(
    config: &Config,
    model: &mut Model,
    cancel: &CancellationToken,
    tasks: &TaskTracker,
) -> Result<mpsc::UnboundedReceiver<track::Event>> {
    let (sender, mut events) = mpsc::unbounded_channel();
    track::spawn(&config.tracks, &sender, cancel, tasks)?;
    let hear = async {
        while !model.tracking.has_heard_prompt_ones()
            && let Some(event) = events.recv().await
        {
            model.tracking.on_event(&event, SystemTime::now());
        }
    };
    if timeout(TRACKER_PATIENCE, hear).await.is_err() {
        tracing::warn!(
            "a tracker has said nothing within {TRACKER_PATIENCE:?}: the election starts without it"
        );
    }
    Ok(events)
}

/// Starts the election with the priorities that trackers make.
fn elect(
    config: &Config,
    pins: &Pins,
    model: &mut Model,
) -> Result<(vrrp::Driver, mpsc::UnboundedReceiver<vrrp::Event>)> {
    let (sender, events) = mpsc::unbounded_channel();
    let setup = vrrp::Setup {
        routers: config.vrrp.iter().map(vrrp::RouterSetup::from).collect(),
        groups: config.groups.iter().map(|group| group.members.clone()).collect(),
    };
    let lease = Box::new(KernelLease::open(pins)?);
    let driver = vrrp::Driver::spawn(setup, config.node.realtime, lease, sender)?;
    for (router, tracked) in model.tracking.changes() {
        driver.set_tracked(router, tracked);
    }
    Ok((driver, events))
}

/// The configured source ports, or those that the host's own sockets are not given.
fn snat_ports(configured: Option<(u16, u16)>) -> Result<SnatPorts> {
    let (first, last) = preflight::local_ports();
    if let Some((low_first, low_last)) = configured {
        if low_first <= last && first <= low_last {
            tracing::warn!(
                "`snat_ports` {low_first}–{low_last} overlaps net.ipv4.ip_local_port_range ({first}–{last}), from which the \
                 node's own sockets are given ports: replies to one that has a translated connection's address and port reach \
                 that instead; reserve them by `sysctl net.ipv4.ip_local_reserved_ports`"
            );
        }
        return Ok(SnatPorts { low_first, low_last, high_first: 1, high_last: 0 });
    }
    let snat_ports = SnatPorts::around(first, last);
    anyhow::ensure!(
        !snat_ports.is_empty(),
        "net.ipv4.ip_local_port_range is {first}–{last} and leaves no port for translated connections: narrow it, e.g. \
         `sysctl net.ipv4.ip_local_port_range=\"32768 60999\"`, or name them by `snat_ports`"
    );
    Ok(snat_ports)
}

async fn machine(
    netlink: &Netlink,
    (placements, routes): Places,
    datapath: &Datapath,
    configured: Option<(u16, u16)>,
) -> Result<Machine> {
    let mut interfaces = Vec::new();
    for a in &datapath.attached {
        let ifindex = preflight::ifindex(&a.interface)?;
        interfaces.push(MachineInterface {
            name: a.interface.clone(),
            ifindex,
            mac: netlink.mac(ifindex).await?,
            mtu: netlink.mtu(ifindex).await?,
            hook: (a.hook, a.why.clone()),
            ways: std::array::from_fn(|i| a.ways.get(i).copied().unwrap_or(0)),
        });
    }
    let snat_ports = snat_ports(configured)?;
    let started = Some(SystemTime::now());
    Ok(Machine { interfaces, placements, routes, ways: Vec::new(), snat_ports, started })
}
