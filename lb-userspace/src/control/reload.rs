//! Reload: a new configuration is taken in whole or not at all, and of the running state only what it changes is touched.
//!
//! Everything that can be refused is refused before the first map is written: mistakes in the file, what needs a restart (`align`),
//! what this machine lacks, what the maps have no room for. Then trackers and sockets are opened, then virtual routers that are gone
//! leave (`routers`), then the tables are written, the services last; should the kernel refuse one, the old tables are written
//! again, and who has left joins again. What follows cannot fail.

pub mod align;
pub mod diff;
pub mod edit;
mod routers;
pub mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, fchown},
    path::Path,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use lb_common::{
    addr::Addr,
    maps::{MAX_BACKENDS, MAX_RULES, MAX_SERVICES, MAX_VIPS},
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    Control,
    model::{Machine, Model, Way},
    numbers::{Numbers, is_same},
    start, sync,
};
use crate::{
    api::{self, BackendOrder, Edit, EditOrder, Order, Reloaded, snapshot::Refused},
    config::{self, Loaded, model::Config},
    datapath::{counters, ring},
    health::{self, State},
    notify::Notifier,
    track, vrrp,
};
use align::align;
use diff::{Change, diff};

/// Ticks of the loop between two looks at a watched file.
const TICKS_PER_LOOK: u32 = 4;

/// What serves metrics.
pub(super) struct Metrics {
    pub(super) cancel: CancellationToken,
}

/// In unix seconds.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Puts another text into a file in one step, for whoever may read it now.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    let new = Path::new(&name);
    let (before, mut to) =
        (fs::metadata(file)?, fs::File::options().write(true).create_new(true).mode(0o600).open(new)?);
    let written = (|| {
        fchown(&to, Some(before.uid()), Some(before.gid()))?;
        to.set_permissions(before.permissions())?;
        to.write_all(text.as_bytes())?;
        to.sync_all()?;
        fs::rename(new, file)
    })();
    written.inspect_err(|_| drop(fs::remove_file(new)))
}

/// A configuration that can be taken in.
struct Prepared {
    config: Config,
    machine: Machine,
    numbers: Numbers,
    /// Where metrics are served from now on, if that is another address.
    http: Option<TcpListener>,
}

/// Trackers of a new configuration.
struct Trackers {
    events: mpsc::UnboundedReceiver<track::Event>,
    cancel: CancellationToken,
}

/// They are not needed.
fn forget(trackers: &Option<Trackers>) {
    trackers.iter().for_each(|trackers| trackers.cancel.cancel());
}

impl Control {
    /// Takes the file in anew. An error is all that is wrong with it, and nothing has changed then; so it is after a dry run.
    pub(super) async fn reload(&mut self, dry_run: bool) -> Result<Reloaded, String> {
        let file = self.file.clone();
        if !dry_run {
            self.watch.note(&file);
        }
        let done = match config::read(&file) {
            Ok(text) => self.take_text(text, dry_run).await,
            Err(e) => Err(e.to_string()),
        };
        if !dry_run {
            self.tell_reload(&file, &done);
        }
        done
    }

    /// Changes the configuration that runs, as if the file had been changed, and on request that too.
    pub(super) async fn edit(
        &mut self,
        EditOrder { edit, write, dry_run }: EditOrder,
    ) -> Result<Reloaded, String> {
        let file = self.file.clone();
        if write && config::read(&file).map_err(|e| e.to_string())? != self.source {
            return Err(format!("{} is another one than runs: `viplb reload` first", file.display()));
        }
        let text = match &edit {
            Edit::AddService { name, body } => edit::add_service(&self.source, name, body),
            Edit::RemoveService { name } => edit::remove_service(&self.source, name),
            Edit::Backend(order) => {
                let (s, place) = self.model.find(&order.service, &order.backend)?;
                if write && self.model.config().services[s].backends[place].discovered {
                    return Err(format!(
                        "{} is discovered: it is in no file that this could be written to",
                        order.backend
                    ));
                }
                edit::set_backend(&self.source, &order.service, place, order.order)
            }
        };
        let mut done = self.take_text(text?, dry_run).await?;
        if dry_run {
            return Ok(done);
        }
        if let Edit::Backend(BackendOrder { service, backend, order }) = &edit {
            // What was ordered before goes, be it that the file has said the same all the while.
            let order = if let Order::Weight(_) = order { Order::Weight(None) } else { *order };
            self.model.on_order(service, backend, order.into(), (Instant::now(), SystemTime::now()))?;
        }
        for change in &done.changes {
            tracing::info!("by order: {change}");
        }
        let shown = &mut self.model.configuration;
        (shown.since, shown.reloads) = (now(), shown.reloads + 1);
        shown.unwritten |= !write;
        if write {
            match replace(&file, &self.source) {
                Ok(()) => shown.unwritten = false,
                Err(e) => {
                    shown.unwritten = true;
                    done.warnings +=
                        &format!("warning: it runs, but {} could not be written: {e}\n", file.display());
                }
            }
            self.watch.note(&file);
        }
        Ok(done)
    }

    /// Takes a text in that is, or could be, the file's.
    async fn take_text(&mut self, text: String, dry_run: bool) -> Result<Reloaded, String> {
        let file = self.file.clone();
        let Loaded { config, warnings } = config::check(&file, &text).map_err(|e| e.to_string())?;
        let changes = self.take_in(self.discovered.extend(config), dry_run).await;
        let changes = changes.map_err(|e| format!("{}: {e:#}", file.display()))?;
        if !dry_run {
            self.source = text;
        }
        Ok(Reloaded { changes, warnings: warnings.to_string(), applied: !dry_run })
    }

    /// Takes the file in anew if it has changed and is to be watched.
    pub(super) async fn watch_file(&mut self) {
        self.looks = (self.looks + 1) % TICKS_PER_LOOK;
        if self.looks == 0 && self.model.config().node.watch_config && self.watch.look(&self.file) {
            tracing::info!("{} has changed", self.file.display());
            let _ = self.reload(false).await;
        }
    }

    fn tell_reload(&mut self, file: &Path, done: &Result<Reloaded, String>) {
        let (now, shown) = (now(), &mut self.model.configuration);
        match done {
            Ok(Reloaded { changes, warnings, .. }) => {
                for line in warnings.lines() {
                    tracing::warn!("reload: {line}");
                }
                for change in changes {
                    tracing::info!("reload: {change}");
                }
                tracing::info!("reload: {} taken in, {} changes", file.display(), changes.len());
                (shown.since, shown.reloads, shown.refused) = (now, shown.reloads + 1, None);
                shown.unwritten = false;
            }
            Err(why) => {
                for line in why.lines() {
                    tracing::error!("reload refused: {line}");
                }
                tracing::error!("reload refused: the configuration that runs goes on");
                shown.refused = Some(Refused { at: now, why: why.clone() });
            }
        }
    }

    /// Takes a checked configuration in, or with `dry_run` only finds out whether it could be. What changes by it.
    pub(super) async fn take_in(&mut self, config: Config, dry_run: bool) -> Result<Vec<Change>> {
        let old = self.model.config();
        let config = align(old, config).map_err(|what| {
            anyhow::anyhow!("this needs a restart (stop viplb and start it again): {}", what.join("; "))
        })?;
        let changes = diff(old, &config);
        if config == *old {
            return Ok(changes);
        }
        let prepared = self.prepare(config).await?;
        if !dry_run {
            self.apply(prepared).await?;
        }
        Ok(changes)
    }

    /// Finds out whether the configuration can run here. Touches nothing.
    async fn prepare(&self, config: Config) -> Result<Prepared> {
        let routers = routers::setups(&config);
        vrrp::check(&routers.iter().collect::<Vec<_>>())?;
        let machine = self.machine_for(&config).await?;
        start::reach::check_sources(&config)?;
        let attached: BTreeSet<_> = machine.interfaces.iter().map(|i| i.name.as_str()).collect();
        let needed = start::ways::interfaces(&config, &machine.placements, &machine.routes)?;
        if let Some(name) = needed.iter().find(|name| !attached.contains(name.as_str())) {
            anyhow::bail!(
                "this needs a restart (stop viplb and start it again): {name} has no packet programs yet"
            );
        }
        self.has_room(&config)?;
        let (old, collector) = (self.model.config(), &self.datapath.collector);
        let numbers = self.model.numbers().follow(old, &config, || {
            let mut in_use = collector.numbers_in_use();
            in_use.routers.extend(self.model.departed());
            in_use
        })?;
        let http = match config.http.filter(|addr| old.http != Some(*addr)) {
            Some(addr) => Some(api::http::bind(addr).await?),
            None => None,
        };
        Ok(Prepared { config, machine, numbers, http })
    }

    /// The machine with the ways to new backends. Those to the others are as they were, even if one is not to be found at the moment.
    async fn machine_for(&self, config: &Config) -> Result<Machine> {
        let (old, before) = (self.model.config(), self.model.machine());
        let mut machine = Machine { placements: start::ways::placements(config)?, ..before.clone() };
        (machine.routes, machine.ways) = (Vec::new(), Vec::new());
        let mut known: BTreeMap<(&str, &str), (usize, &config::model::Service, &config::model::Backend)> =
            BTreeMap::new();
        let all = old.services.iter().flat_map(|s| s.backends.iter().map(move |b| (s, b)));
        known.extend(all.enumerate().map(|(i, (s, b))| ((s.name.as_str(), b.name.as_str()), (i, s, b))));
        for (service, backend) in config.services.iter().flat_map(|s| s.backends.iter().map(move |b| (s, b)))
        {
            let was = known.get(&(service.name.as_str(), backend.name.as_str()));
            let was = was.filter(|(_, s, b)| {
                is_same(b, backend) && s.listen == service.listen && s.path == service.path
            });
            let way: Option<(u32, Way)> = was.and_then(|(i, ..)| {
                Some((*before.routes.get(*i)?, before.ways.get(*i).copied().unwrap_or_default()))
            });
            let (route, way) = match way {
                Some(way) => way,
                None => {
                    let route = start::ways::route(backend, &self.netlink).await?;
                    (route, start::ways::way(config, (service, backend), &self.netlink).await?)
                }
            };
            machine.routes.push(route);
            machine.ways.push(way);
        }
        Ok(machine)
    }

    /// The maps whose size was chosen at the start, and those that are of one size always.
    fn has_room(&self, config: &Config) -> Result<()> {
        let restart = "stop viplb properly (SIGTERM) and start it again";
        let (wanted, there) = (ring::slots(&config.services), self.datapath.tables.ring_slots());
        ensure!(
            wanted <= there,
            "the schedulers' tables would take {wanted} slots, and there are {there}: {restart}"
        );
        let all = config.services.iter().flat_map(|s| &s.backends);
        let backends: BTreeSet<Addr> = all.map(|b| b.addr.ip().into()).collect();
        let others = self.datapath.tables.pools_in_use(|addr| !backends.contains(&addr));
        let (wanted, there) = (start::pools(config) + others, self.datapath.tables.pools());
        ensure!(
            wanted <= there,
            "{wanted} pools of source ports would be needed, those of connections that still go on counted in, and there are \
             {there}: {restart}"
        );
        let backends: usize = config.services.iter().map(|s| s.backends.len()).sum();
        ensure!(config.services.len() <= MAX_SERVICES, "more than {MAX_SERVICES} services");
        ensure!(backends <= MAX_BACKENDS, "more than {MAX_BACKENDS} backends");
        let rules: usize =
            config.services.iter().map(|s| s.access.allow.len() + s.access.deny.len() + 1).sum();
        ensure!(rules <= MAX_RULES, "there is room for {MAX_RULES} rules about clients");
        // Those of routers that leave stay for a while.
        let leave = self.model.routers_gone_in(config);
        let leave = leave.iter().map(|(_, place)| &self.model.config().vrrp[*place]);
        let vips: usize = config.vrrp.iter().chain(leave).map(|r| r.addresses.len() + r.excluded.len()).sum();
        ensure!(vips + config.services.len() <= MAX_VIPS, "there is room for {MAX_VIPS} virtual addresses");
        Ok(())
    }

    async fn apply(&mut self, prepared: Prepared) -> Result<()> {
        let Prepared { config, machine, numbers, http } = prepared;
        let at = (Instant::now(), SystemTime::now());
        let mut next = self.model.follow(config, machine, numbers, at);
        let trackers = self.new_trackers(&mut next).await?;
        let opened = self.open_for_new(&next).inspect_err(|_| forget(&trackers))?;
        // Places are others in the next model.
        self.model.take_notices().into_iter().for_each(|notice| self.notifier.tell(notice));
        // From here on what fails is undone.
        let left = self.depart(&next).await;
        if let Err(e) = self.publish(&next) {
            forget(&trackers);
            let back = self.publish_again();
            self.come_back(&left);
            return match back {
                Ok(()) => Err(e),
                Err(worse) => {
                    Err(e.context(format!("and the old tables could not be written again: {worse:#}")))
                }
            };
        }
        let old = std::mem::replace(&mut self.model, next);
        if let Some(Trackers { events, cancel }) = trackers {
            self.trackers.cancel();
            (self.track_events, self.trackers) = (events, cancel);
        }
        self.follow_checks(&old);
        let config = self.model.config();
        let timeouts = config.services.iter().map(|s| s.timeouts);
        self.datapath
            .collector
            .change_timeouts(self.model.numbers().services().iter().copied().zip(timeouts));
        self.datapath.collector.leave(left.iter().map(|(number, _)| *number));
        self.change_elections(&old, opened);
        let config = self.model.config();
        let notifies = |c: &Config| -> Vec<_> {
            c.vrrp.iter().map(|r| r.notify.clone()).chain(c.groups.iter().map(|g| g.notify.clone())).collect()
        };
        if notifies(config) != notifies(old.config()) {
            let before = std::mem::replace(&mut self.notifier, Notifier::spawn(config));
            // What it has been told is still done.
            self.tasks.spawn(async move { before.finish(super::shutdown::NOTIFY_LIMIT).await });
        }
        if config.http != old.config().http {
            self.metrics.take().iter().for_each(|metrics| metrics.cancel.cancel());
            self.metrics = http.map(|listener| {
                let cancel = self.cancel.child_token();
                api::http::serve(listener, self.snapshot.subscribe(), &cancel, &self.tasks);
                Metrics { cancel }
            });
        }
        Ok(())
    }

    /// Starts the trackers of a new configuration, if they are others, and hears their first words.
    async fn new_trackers(&self, next: &mut Model) -> Result<Option<Trackers>> {
        if next.config().tracks == self.model.config().tracks {
            return Ok(None);
        }
        let cancel = self.cancel.child_token();
        let tracks = next.config().tracks.clone();
        let spawned = start::watch_trackers(&tracks, next, &cancel, &self.tasks).await;
        match spawned {
            Ok(events) => Ok(Some(Trackers { events, cancel })),
            Err(e) => {
                cancel.cancel();
                Err(e)
            }
        }
    }

    /// Has maps and replication say what the model does.
    fn publish(&mut self, next: &Model) -> Result<()> {
        let fresh = self.model.numbers();
        let (services, backends) = next.numbers().given_again(fresh);
        for number in services {
            counters::clear_service(self.datapath.tables.maps(), number)?;
        }
        for number in backends {
            counters::clear_backend(self.datapath.tables.maps(), number)?;
        }
        self.datapath.tables.publish(&next.desired()).context("the kernel refused a table")?;
        sync::follow(self, next)
    }

    fn publish_again(&mut self) -> Result<()> {
        self.datapath.tables.publish(&self.model.desired())?;
        sync::reopen(self)
    }

    /// Checks of backends that are gone end, those of new ones begin, and those that are others begin again from what was found.
    fn follow_checks(&mut self, old: &Model) {
        let (numbers, config) = (self.model.numbers(), self.model.config());
        let gone = old.numbers().all_backends().filter(|number| numbers.place(*number).is_none());
        gone.for_each(|number| self.checks.stop(number));
        let places = config.services.iter().enumerate();
        let all = places.flat_map(|(s, service)| {
            service.backends.iter().enumerate().map(move |(b, x)| (s, b, service, x))
        });
        let mut new = Vec::new();
        for (s, b, service, backend) in all {
            let number = numbers.backend(s, b);
            match old.numbers().place(number) {
                Some((before, _)) if old.config().services[before].check == service.check => {}
                Some(_) => new.push((number, (service, backend), self.model.health_of(s, b))),
                None => new.push((number, (service, backend), State::Unchecked)),
            }
        }
        let total = new.len();
        for (i, (number, who, state)) in new.into_iter().enumerate() {
            self.checks.start(number, who, state, health::schedule::first_check(i, total));
        }
    }
}
