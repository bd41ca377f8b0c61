//! Start: everything that can be refused is refused before anything is attached; what fails later is taken back.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use lb_common::{ports::MAX_SOURCES, settings::SnatPorts};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(super) mod reach;
pub(super) mod ways;

use super::{
    Control,
    discovery::Discovered,
    ender::Ender,
    exhaustion::Exhaustion,
    kept::Kept,
    model::{Machine, MachineInterface, Model},
    numbers::Numbers,
    reload::{Metrics, watch::Watch},
};
use crate::{
    api::{
        self,
        snapshot::{Configuration, Snapshot},
    },
    config::model::{Config, Mode, Service, SyncGroup, Track},
    datapath::{
        build::Build,
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

/// What a daemon is started with.
#[derive(Debug)]
pub struct Start {
    /// The configuration.
    pub config: Config,
    /// Its file, which a reload reads anew.
    pub file: PathBuf,
    /// The text of that.
    pub source: String,
    /// A message is a reload (SIGHUP).
    pub hangups: mpsc::Receiver<()>,
}

/// Runs the daemon until `stop` is cancelled, or an order ends it. Gives the program that is to go on in this process.
pub async fn run(start: Start, stop: CancellationToken) -> Result<Option<PathBuf>> {
    let Start { config, file, source, hangups } = start;
    preflight::check()?;
    for router in &config.vrrp {
        preflight::ifindex(&router.interface)?;
    }
    // Before the routes: without an address there is none either, and that would name the wrong thing.
    let routers: Vec<_> = config.vrrp.iter().map(vrrp::RouterSetup::from).collect();
    vrrp::check(&routers.iter().collect::<Vec<_>>())?;
    let placements = ways::placements(&config)?;
    let lock = preflight::lock(&config.node.name)?;
    let pins = Pins::of(&config.node.name);
    let netlink = Netlink::open()?;
    let discovered = Discovered::read(&config, &netlink).await;
    let config = discovered.extend(config);
    let routes = ways::routes(&config, &netlink).await?;
    let ahead = ways::of_discovery(&config, &netlink).await;
    let interfaces = ways::interfaces(&config, &placements, &[&routes[..], &ahead].concat())?;
    reach::check_sources(&config)?;
    let mut datapath = Datapath::open(&pins, &interfaces, config.node.hooks.clone(), sizes(&config))?;
    if datapath.adopted {
        tracing::info!("adopted the maps and flows of a former daemon");
    }
    raise_xdp(&config, &netlink, &routes, &mut datapath).await;
    let socket = pins::socket(&config.node.name);
    let result = match prepare(
        config,
        (file, source, hangups, discovered),
        &pins,
        netlink,
        (placements, routes),
        datapath,
    )
    .await
    {
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

/// Room for what is configured, and a quarter more of what a later daemon may need that adopts the maps.
fn sizes(config: &Config) -> Sizes {
    let needed = pools(config);
    let pools = (needed + needed / 4 + 16).min(usize::from(u16::MAX) - 1);
    Sizes { flows: config.node.flows, ring_slots: ring::slots(&config.services), pools: pools as u32 }
}

/// Pools of source ports that a configuration takes, if no two backends share one.
pub(super) fn pools(config: &Config) -> usize {
    let of = |s: &Service| {
        let named = s.backends.iter().filter(|b| b.mode == Mode::Nat && !b.discovered).count();
        let others = s.discovery.as_ref().filter(|_| s.mode == Mode::Nat).map_or(0, |d| d.most as usize);
        (named + others) * s.snat.len().clamp(1, MAX_SOURCES)
    };
    config.services.iter().map(of).sum()
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
    (file, source, hangups, discovered): (PathBuf, String, mpsc::Receiver<()>, Discovered),
    pins: &Pins,
    netlink: Netlink,
    places: Places,
    mut datapath: Datapath,
) -> Result<Control, (anyhow::Error, Datapath)> {
    match parts(&config, &file, pins, &netlink, places, &mut datapath).await {
        Ok(p) => Ok(Control {
            model: p.model,
            exhaustion: Exhaustion::default(),
            datapath,
            build: Build::own(),
            netlink,
            mtu_turn: 0,
            driver: p.driver,
            discovered,
            watch: p.watch,
            looks: 0,
            file,
            source,
            hangups,
            replication: p.replication,
            vrrp_events: p.vrrp_events,
            health_events: p.health_events,
            silences: p.silences,
            checks: p.checks,
            track_events: p.track_events,
            trackers: p.trackers,
            notifier: p.notifier,
            ender: p.ender,
            commands: p.commands,
            snapshot: p.snapshot,
            metrics: p.metrics,
            cancel: p.cancel,
            tasks: p.tasks,
            api: p.api,
            ending: None,
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
    health_events: mpsc::UnboundedReceiver<(health::Task, health::Event)>,
    silences: mpsc::UnboundedReceiver<health::Task>,
    checks: health::Checks,
    track_events: mpsc::UnboundedReceiver<track::Event>,
    trackers: CancellationToken,
    notifier: Notifier,
    ender: Ender,
    commands: mpsc::Receiver<api::Command>,
    snapshot: watch::Sender<Snapshot>,
    metrics: Option<Metrics>,
    watch: Watch,
    cancel: CancellationToken,
    tasks: TaskTracker,
    api: tokio::task::JoinHandle<Result<()>>,
}

async fn parts(
    config: &Config,
    file: &Path,
    pins: &Pins,
    netlink: &Netlink,
    places: Places,
    datapath: &mut Datapath,
) -> Result<Parts> {
    let mut watch = Watch::default();
    watch.note(file);
    let ways = ways::ways(config, netlink).await?;
    let machine = Machine { ways, ..machine(netlink, places, datapath, config.node.snat_ports).await? };
    let mut model = Model::new(config.clone(), machine, SystemTime::now());
    let node = &config.node.name;
    if let Some(kept) = Kept::read(node, vrrp::BootTime::now()).filter(|_| datapath.adopted) {
        tracing::info!("going on with what the former daemon has left");
        model.restore(&kept, (Instant::now(), SystemTime::now()));
    }
    let replication = super::sync::open(config, (model.machine(), model.numbers()), pins, datapath)?;
    model.configuration = Configuration {
        file: file.display().to_string(),
        since: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        ..Configuration::default()
    };
    let timeouts = config.services.iter().map(|s| s.timeouts);
    datapath.collector.change_timeouts(model.numbers().services().iter().copied().zip(timeouts));
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
    let trackers = cancel.child_token();
    let track_events = watch_trackers(&config.tracks, &mut model, &trackers, &tasks).await?;
    let (driver, vrrp_events) = elect(config, pins, &mut model)?;
    Kept::remove(node);
    let notifier = Notifier::spawn(config);
    let ender = Ender::open(datapath.adopted).context("cannot open the sockets that resets are sent by")?;
    let (health_sender, health_events) = mpsc::unbounded_channel();
    let (silence_sender, silences) = mpsc::unbounded_channel();
    let mut checks = health::Checks::new((health_sender, silence_sender), &cancel, &tasks);
    let all = config.services.iter().flat_map(|s| s.backends.iter().map(move |b| (s, b)));
    let total = config.services.iter().map(|s| s.backends.len()).sum();
    for ((i, who), number) in all.enumerate().zip(model.numbers().all_backends()) {
        let state =
            model.numbers().place(number).map_or(health::State::Unchecked, |(s, b)| model.health_of(s, b));
        checks.start(number, who, state, health::schedule::first_check(i, total));
    }

    let (command_sender, commands) = mpsc::channel(COMMANDS);
    let (snapshot, seen) = watch::channel(model.snapshot(SystemTime::now()));
    let metrics = http.map(|http| {
        let cancel = cancel.child_token();
        api::http::serve(http, seen.clone(), &cancel, &tasks);
        Metrics { cancel }
    });
    let api = tokio::spawn(api::serve(listener, seen, command_sender, cancel.clone()));
    Ok(Parts {
        model,
        driver,
        replication,
        vrrp_events,
        health_events,
        silences,
        checks,
        track_events,
        trackers,
        notifier,
        ender,
        commands,
        snapshot,
        metrics,
        watch,
        cancel,
        tasks,
        api,
    })
}

/// Starts the trackers and takes in what they say at once, so that no router starts with a priority that it does not have.
pub(super) async fn watch_trackers(
    tracks: &[Track],
    model: &mut Model,
    cancel: &CancellationToken,
    tasks: &TaskTracker,
) -> Result<mpsc::UnboundedReceiver<track::Event>> {
    let (sender, mut events) = mpsc::unbounded_channel();
    track::spawn(tracks, &sender, cancel, tasks)?;
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
    let numbers = model.numbers();
    let routers = config.vrrp.iter().map(vrrp::RouterSetup::from);
    let routers = numbers.routers().iter().map(|number| *number as usize).zip(routers).collect();
    let setup = vrrp::Setup { routers, groups: groups(config, numbers) };
    let lease = KernelLease::open(pins)?;
    // A later router may be given such a number.
    lease.drop_others(numbers.routers());
    let driver = vrrp::Driver::spawn(setup, config.node.realtime, Box::new(lease), sender)?;
    for (router, tracked) in model.tracking.changes() {
        driver.set_tracked(model.numbers().router(router) as usize, tracked);
    }
    Ok((driver, events))
}

/// The sync groups, by the numbers of their routers.
pub(super) fn groups(config: &Config, numbers: &Numbers) -> Vec<Vec<usize>> {
    let of = |group: &SyncGroup| group.members.iter().map(|m| numbers.router(*m) as usize).collect();
    config.groups.iter().map(of).collect()
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
    let program = std::env::current_exe().map_or_else(|_| String::new(), |exe| exe.display().to_string());
    Ok(Machine { interfaces, placements, routes, ways: Vec::new(), snat_ports, started, program })
}
