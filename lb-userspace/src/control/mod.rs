//! The control loop: one task owns all state. `event → model change (pure) → effects`, and a snapshot for everybody else.
//!
//! Effects reconcile: the model says what the maps and interfaces shall hold, and only differences are written. The VRRP
//! thread does not wait for this loop: it takes and drops leases itself.

mod discovery;
pub mod ender;
mod exhaustion;
pub mod kept;
pub mod model;
pub mod mover;
pub mod numbers;
pub mod reload;
mod shutdown;
mod start;
mod sync;
#[cfg(test)]
pub(crate) mod testing;
pub mod tracking;

use std::{
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use lb_common::lease::Standing;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    api::{
        BackendOrder, Command,
        snapshot::{self, Snapshot},
    },
    config::model::Version,
    datapath::{build::Build, counters, load::Datapath},
    health,
    netlink::Netlink,
    notify::Notifier,
    sockets, track,
    vrrp::{self, timers},
};
use ender::Ender;
use exhaustion::{Exhaustion, Word};
use model::{Model, ToEnd, ms};

pub use start::{Start, run};

/// How often counters are read and a slice of the flow table is swept.
const TICK: Duration = Duration::from_millis(250);
/// Ticks for one pass over the flow table.
const TICKS_PER_PASS: u32 = 16;

/// Everything the loop owns.
struct Control {
    model: Model,
    exhaustion: Exhaustion,
    datapath: Datapath,
    /// Whose packet programs run: this one's.
    build: Build,
    netlink: Netlink,
    /// Whose MTU is looked at next.
    mtu_turn: usize,
    driver: vrrp::Driver,
    /// Where the configuration is.
    file: PathBuf,
    /// Its text as it runs.
    source: String,
    discovered: discovery::Discovered,
    watch: reload::watch::Watch,
    looks: u32,
    /// Someone wants it read anew.
    hangups: mpsc::Receiver<()>,
    replication: Option<sync::Replication>,
    vrrp_events: mpsc::UnboundedReceiver<vrrp::Event>,
    health_events: mpsc::UnboundedReceiver<(health::Task, health::Event)>,
    /// Checks whose answers are overdue.
    silences: mpsc::UnboundedReceiver<health::Task>,
    checks: health::Checks,
    track_events: mpsc::UnboundedReceiver<track::Event>,
    /// Ends the trackers alone.
    trackers: CancellationToken,
    notifier: Notifier,
    ender: Ender,
    commands: mpsc::Receiver<Command>,
    snapshot: watch::Sender<Snapshot>,
    metrics: Option<reload::Metrics>,
    cancel: CancellationToken,
    tasks: TaskTracker,
    api: JoinHandle<Result<()>>,
    /// How it is to end, if not as by SIGTERM.
    ending: Option<Keep>,
}

/// An end that another daemon follows at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keep {
    /// What is kept is worth something for so long.
    pub(super) lasts: Duration,
    /// The program that goes on in this process; none: somebody starts one.
    pub(super) successor: Option<PathBuf>,
}

impl Control {
    /// Runs until `stop` is cancelled, an order ends it, or something that cannot be done without fails. Gives the program that is to
    /// go on in this process.
    async fn run(mut self, stop: CancellationToken) -> Result<Option<PathBuf>> {
        let failed = self.turn(&stop).await;
        if let Err(e) = &failed {
            tracing::error!("stopping: {e:#}");
        }
        let keep = self.ending.take().filter(|_| failed.is_ok());
        let successor = keep.as_ref().and_then(|keep| keep.successor.clone());
        let stopped = self.shutdown(keep.map(|keep| keep.lasts)).await;
        failed.and(stopped).map(|()| successor)
    }

    async fn turn(&mut self, stop: &CancellationToken) -> Result<()> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut step = interval(ender::STEP);
        step.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                ready = sync::ready(&mut self.replication) => {
                    ready?;
                    self.replicate();
                    // Thousands of times a second, and nothing of it is for the maps or interfaces.
                    continue;
                }
                Some(event) = self.vrrp_events.recv() => self.on_vrrp(event)?,
                Some((task, event)) = self.health_events.recv() => self.on_health(task, event),
                Some(task) = self.silences.recv() => self.on_silence(task),
                Some(()) = self.hangups.recv() => {
                    tracing::info!("SIGHUP: reading {} anew", self.file.display());
                    let _ = self.reload(false).await;
                }
                Some(event) = self.track_events.recv() => self.model.tracking.on_event(&event, SystemTime::now()),
                Some(command) = self.commands.recv() => self.on_command(command).await?,
                ended = &mut self.api => return ended.context("the control socket's task died")?.context("the control socket ended"),
                _ = tick.tick() => self.on_tick().await?,
                _ = step.tick(), if self.ender.is_busy() => {
                    self.ender.spare(|backend| self.model.is_in_trouble(backend));
                    let takers = self.model.takers(&self.ender.silent());
                    let ended = self.ender.step(&mut self.datapath, &takers, Instant::now())?;
                    self.tell_ended(ended);
                }
            }
            self.reconcile().await?;
            if self.ending.is_some() {
                return Ok(());
            }
        }
    }

    fn on_vrrp(&mut self, event: vrrp::Event) -> Result<()> {
        if let vrrp::Event::ThreadFailed { error } = &event {
            anyhow::bail!("the VRRP thread failed: {error}");
        }
        match &event {
            vrrp::Event::Entered { router, state, .. } => {
                self.tell_replication(*router, *state == vrrp::State::Master);
            }
            vrrp::Event::HandsOver { .. } => {
                if let Some(replication) = &mut self.replication {
                    replication.hand_over(sync::HANDING_OVER);
                }
            }
            vrrp::Event::TakeIn { router } => {
                self.take_in_flows();
                self.driver.tell_taken_in(*router);
            }
            _ => {}
        }
        // Of a router that is no longer in the file, its last word.
        if let Some(event) = event.of(|number| self.model.numbers().place_of_router(number)) {
            self.model.on_vrrp(&event, SystemTime::now());
        }
        Ok(())
    }

    /// A check's word counts for its backend, wherever that is in the file by now.
    fn on_health(&mut self, task: health::Task, mut event: health::Event) {
        let place = self.checks.speaks_for(task).and_then(|number| self.model.numbers().place(number));
        if let Some(place) = place {
            (event.service, event.backend) = place;
            if event.passed() || event.state != health::State::Up {
                // It has answered; or what was begun with it is ended.
                self.ender.hears_of(task.number);
            }
            self.model.on_health(&event, SystemTime::now());
        }
    }

    /// A backend that is up has not answered its check in time: whoever waits for its greeting is not left to wait until it is down.
    fn on_silence(&mut self, task: health::Task) {
        let Some(number) = self.checks.speaks_for(task) else { return };
        if let Some(why) = self.model.is_silent(number) {
            self.ender.leave_silent(number, why);
        }
    }

    async fn on_command(&mut self, command: Command) -> Result<()> {
        match command {
            Command::DatapathLog(on, answer) => {
                self.model.datapath_log = on;
                let written = self.datapath.tables.publish(&self.model.desired());
                let _ = answer.send(written.map_err(|e| format!("{e:#}")));
            }
            Command::Backend(BackendOrder { service, backend, order }, answer) => {
                let now = (Instant::now(), SystemTime::now());
                let done = self.model.on_order(&service, &backend, order.into(), now);
                // Who asks for the status next sees what came of it.
                self.reconcile().await?;
                let _ = answer.send(done);
            }
            Command::Reload(dry_run, answer) => {
                let done = self.reload(dry_run).await;
                self.reconcile().await?;
                let _ = answer.send(done);
            }
            Command::Edit(order, answer) => {
                let done = self.edit(order).await;
                self.reconcile().await?;
                let _ = answer.send(done);
            }
            Command::Stop(order, answer) => {
                self.on_stop(order);
                let _ = answer.send(Ok(()));
            }
            Command::KillFlows(kill, answer) => match self.model.which(&kill) {
                Ok(which) => self.ender.end(which, answer, Instant::now()),
                Err(e) => drop(answer.send(Err(e))),
            },
        }
        Ok(())
    }

    async fn on_tick(&mut self) -> Result<()> {
        let slice = self.datapath.collector.records().div_ceil(TICKS_PER_PASS);
        let now = vrrp::BootTime::now();
        self.datapath.alive.renew(now);
        self.sweep(now, slice)?;
        let collector = &self.datapath.collector;
        self.model.on_tick((Instant::now(), SystemTime::now()), |id| collector.connections(id));
        self.watch_backends()?;
        self.discover().await;
        self.look_at_mtus().await;
        self.watch_file().await;
        Ok(())
    }

    /// Has the model look at what backends did with their clients' connections, and the checks asked that it doubts.
    fn watch_backends(&mut self) -> Result<()> {
        let counts = counters::taken(self.datapath.tables.maps(), self.model.numbers().fresh().backends)?;
        let of = |id: u32| counts.get(id as usize).copied().unwrap_or_default();
        for (service, backend) in self.model.on_counts((Instant::now(), SystemTime::now()), of) {
            self.checks.ask(self.model.numbers().backend(service, backend));
        }
        Ok(())
    }

    /// Takes in what has changed of the interfaces' MTUs, one interface at a time. One that is gone has none.
    async fn look_at_mtus(&mut self) {
        let all = self.model.ifindexes();
        let Some(ifindex) = all.get(self.mtu_turn % all.len().max(1)) else { return };
        self.mtu_turn = self.mtu_turn.wrapping_add(1);
        if let Ok(mtu) = self.netlink.mtu(*ifindex).await {
            self.model.on_mtu(*ifindex, mtu);
        }
    }

    /// Tells the election what trackers come to.
    fn tell_tracked(&mut self) {
        for (router, tracked) in self.model.tracking.changes() {
            self.driver.set_tracked(self.model.numbers().router(router) as usize, tracked);
        }
    }

    /// Makes maps and interfaces agree with the model, then publishes a snapshot.
    async fn reconcile(&mut self) -> Result<()> {
        self.tell_tracked();
        for notice in self.model.take_notices() {
            self.notifier.tell(notice);
        }
        if self.model.take_changed() {
            self.datapath.tables.publish(&self.model.desired())?;
        }
        // Only now does nobody new come to them.
        let now = Instant::now();
        for ToEnd { backend, why } in self.model.take_endings(now) {
            self.ender.end_backend(backend, why, now);
        }
        for change in self.model.address_changes() {
            let done = if change.present {
                self.netlink.add_address(change.ifindex, change.addr, change.prefix_len).await
            } else {
                self.netlink.remove_address(change.ifindex, change.addr).await
            };
            // The programs answer for the address whether the interface has it or not: say it, and go on.
            if let Err(e) = done {
                tracing::warn!("{e:#}");
            }
            if !change.present {
                end_own_connections(change.addr);
            }
        }
        let snapshot = self.read_snapshot()?;
        self.snapshot.send_replace(snapshot);
        Ok(())
    }

    fn read_snapshot(&mut self) -> Result<Snapshot> {
        let Datapath { tables, collector, .. } = &mut self.datapath;
        let maps = tables.maps();
        let mut s = self.model.snapshot(SystemTime::now());
        let routers = self.model.numbers().routers();
        for (number, v) in routers.iter().zip(&mut s.vrrp) {
            let lease = maps.leases.get(number, 0).context("map LEASES")?;
            let now = vrrp::BootTime::now();
            v.lease_valid = lease.is_valid(now.0);
            v.timers.lease_left = match lease.standing(now.0) {
                Standing::Valid(rest) => ms(Duration::from_nanos(rest)),
                Standing::Expired | Standing::Released => 0.0,
            };
        }
        for ((v, election), number) in s.vrrp.iter_mut().zip(self.model.elections()).zip(routers) {
            if let Some(c) = self.driver.counters(*number as usize) {
                fill_counters(c, v);
                fill_timers(c, v, election);
                if let Some(probe) = &mut v.probe {
                    fill_probe(c, probe);
                }
            }
        }
        let numbers = self.model.numbers();
        for (i, service) in s.services.iter_mut().enumerate() {
            let number = numbers.service(i);
            counters::fill_service(maps, number, service)?;
            for word in self.exhaustion.look(number as usize, service, Instant::now()) {
                match word {
                    Word::Begun(text) => tracing::warn!("{text}"),
                    Word::Over(text) => tracing::info!("{text}"),
                }
            }
            for (b, number) in service.backends.iter_mut().zip(numbers.backends(i)) {
                counters::fill_backend(maps, *number, b)?;
                b.moved = self.ender.moved_from(*number);
            }
        }
        s.node.programs = Some(self.build.clone());
        s.flows.used = collector.used();
        s.flows.capacity = u64::from(collector.capacity());
        counters::fill_packets(maps, &mut s)?;
        s.sync = self.replication.as_ref().map(|r| r.driver.shown(self.model.router_names()));
        Ok(s)
    }
}

/// Ends connections of this node's own clients from an address that has gone.
pub(super) fn end_own_connections(from: IpAddr) {
    match sockets::end_connections_from(from) {
        Ok(0) => {}
        Ok(n) => tracing::info!("{from} has gone: {n} connections of this node's own from it are ended"),
        Err(e) => tracing::debug!("connections of this node's own from {from} are left to time out: {e}"),
    }
}

/// What probes say.
fn fill_probe(c: &vrrp::Counters, probe: &mut snapshot::VrrpProbe) {
    probe.watched = c.is_watched();
    let Some((state, contact)) = c.peer() else { return };
    probe.peer = match state {
        vrrp::PeerState::Silent => "silent",
        vrrp::PeerState::Alive => "alive",
        vrrp::PeerState::Lost => "lost",
    }
    .into();
    probe.answered = contact.map(|at| ms(vrrp::BootTime::now().since(at)));
}

/// Time-outs, and what the thread's punctuality allows them to be.
fn fill_timers(c: &vrrp::Counters, v: &mut snapshot::Vrrp, (version, priority): (Version, u8)) {
    let master_int = c.master_int();
    v.timers.master_int = ms(master_int);
    v.timers.skew = ms(timers::skew(version, priority, master_int));
    v.timers.master_down = ms(timers::master_down(version, priority, master_int));
    v.timers.next = c.deadline().map(|at| ms(at.since(vrrp::BootTime::now())));
    v.late_wakes = c.late_wakes();
    v.lateness_max_ms = ms(c.lateness_max());
    v.lateness_in_time_ms = ms(c.lateness_in_time());
    let measured = Some(c.lateness_in_time()).filter(|late| !late.is_zero());
    v.shortest_advert_int_ms = measured.and_then(|late| timers::shortest_advert_int(version, late)).map(ms);
}

fn fill_counters(c: &vrrp::Counters, v: &mut snapshot::Vrrp) {
    v.adverts_sent = c.sent();
    v.adverts_received = c.received();
    v.send_errors = c.send_errors();
    v.announcements = c.announcements();
    v.refused = vrrp::packet::Refusal::ALL
        .iter()
        .filter(|r| c.refused(**r) > 0)
        .map(|r| (r.to_string(), c.refused(*r)))
        .collect();
}
