//! The part of the model that is about backends: results of checks, operators' orders and time go into the pools, and
//! what comes of it is logged and shown.

use std::time::{Duration, Instant, SystemTime};

use super::{Model, unix};
use crate::{
    api::{FlowKill, snapshot},
    config::model::Service,
    control::ender::Which,
    galera::Observation,
    health::{self, passive::Counts},
};

impl Model {
    /// Takes in the result of a check.
    pub fn on_health(&mut self, event: &health::Event, now: SystemTime) {
        let b = &mut self.backends[event.service][event.backend];
        b.latency = event.latency.or(b.latency);
        b.output.clone_from(&event.output);
        self.with_pool(event.service, (event.at, now), |pool| pool.on_event(event));
    }

    /// Which flows an operator means; an error says what there is instead.
    pub fn which(&self, kill: &FlowKill) -> Result<Which, String> {
        let service = kill.service.as_ref().map(|name| self.service_named(name)).transpose()?;
        let mut which = Which {
            service: service.map(|s| self.numbers.service(s)),
            client: kill.client,
            idle: Duration::from_millis(kill.idle_ms),
            ..Which::default()
        };
        if let Some(name) = &kill.backend {
            let Some(s) = service else { return Err("say of which service the backend is".into()) };
            which.backend = Some(self.numbers.backend(s, self.backend_named(s, name)?));
        }
        Ok(which)
    }

    fn service_named(&self, name: &str) -> Result<usize, String> {
        let services = &self.config.services;
        services.iter().position(|s| s.name == name).ok_or_else(|| {
            let there: Vec<_> = services.iter().map(|s| s.name.as_str()).collect();
            format!("there is no service {name}; there is {}", there.join(", "))
        })
    }

    fn backend_named(&self, service: usize, name: &str) -> Result<usize, String> {
        let service = &self.config.services[service];
        service.backends.iter().position(|b| b.name == name).ok_or_else(|| {
            let there: Vec<_> = service.backends.iter().map(|b| b.name.as_str()).collect();
            format!("service {} has no backend {name}; it has {}", service.name, there.join(", "))
        })
    }

    /// The places of a service and of a backend of it; an error says what there is instead.
    pub fn find(&self, service: &str, backend: &str) -> Result<(usize, usize), String> {
        let s = self.service_named(service)?;
        Ok((s, self.backend_named(s, backend)?))
    }

    /// Takes in an operator's order about a backend; an error says what there is instead.
    pub fn on_order(
        &mut self,
        service: &str,
        backend: &str,
        order: health::Order,
        (at, now): (Instant, SystemTime),
    ) -> Result<(), String> {
        let (s, b) = self.find(service, backend)?;
        tracing::info!("service {service}: backend {backend}: ordered {order}");
        self.with_pool(s, (at, now), |pool| pool.order(b, order, at));
        Ok(())
    }

    /// Lets time pass for the services. `flows` are the connections of each backend, by its number.
    pub fn on_tick(&mut self, (at, now): (Instant, SystemTime), flows: impl Fn(u32) -> u64) {
        for s in 0..self.pools.len() {
            let numbers = self.numbers.backends(s).to_vec();
            self.with_pool(s, (at, now), |pool| pool.tick(at, |b| flows(numbers[b])));
        }
        self.look_at_leaving(flows);
        self.forget_departed(at);
    }

    /// Takes in what the packet programs have counted of each backend, by its number. Gives those whose checks are
    /// to be made at once, by service and backend.
    pub fn on_counts(
        &mut self,
        (at, now): (Instant, SystemTime),
        counts: impl Fn(u32) -> Counts,
    ) -> Vec<(usize, usize)> {
        let mut suspects = Vec::new();
        for s in 0..self.pools.len() {
            let numbers: Vec<u32> = (0..self.backends[s].len()).map(|b| self.numbers.backend(s, b)).collect();
            self.with_pool(s, (at, now), |pool| pool.watch(at, |b| counts(numbers[b])));
            suspects.extend(self.pools[s].take_suspects().into_iter().map(|b| (s, b)));
        }
        suspects
    }

    /// Client addresses of the members of each service's cluster, where it is to discover backends by them.
    pub fn members(&self) -> Vec<Option<Vec<String>>> {
        let of = |(service, pool): (&Service, &health::Pool)| {
            service.discovery.as_ref().and_then(|_| pool.members().map(<[String]>::to_vec))
        };
        self.config.services.iter().zip(&self.pools).map(of).collect()
    }

    /// Changes a pool, and tells what came of it.
    pub(super) fn with_pool(
        &mut self,
        service: usize,
        (at, now): (Instant, SystemTime),
        change: impl FnOnce(&mut health::Pool) -> Vec<health::Change>,
    ) {
        let (config, pool) = (&self.config.services[service], &mut self.pools[service]);
        let ring = pool.ring();
        let changes = change(pool);
        self.changed |= pool.ring() != ring;
        let name = |b: usize| config.backends[b].name.as_str();
        for change in changes {
            match change {
                health::Change::State { backend, to, cause, .. } => {
                    let why = cause.map_or_else(String::new, |c| format!(": {c}"));
                    tracing::info!(
                        "service {}: backend {} is {}{why}",
                        config.name,
                        name(backend),
                        to.as_str()
                    );
                    self.backends[service][backend].since = now;
                }
                health::Change::Quorum { enough, up } => {
                    let then = match (enough, config.backends.iter().any(|b| b.sorry)) {
                        (true, _) => "its backends take new connections again",
                        (false, true) => "new connections go to its sorry server",
                        (false, false) => "new connections are refused",
                    };
                    tracing::info!(
                        "service {}: {up} of its backends up, quorum {}: {then}",
                        config.name,
                        config.quorum
                    );
                }
                health::Change::Writer { from, to } => {
                    let who = |w: Option<usize>| w.map_or("nobody", name);
                    tracing::info!("service {}: writer: {} → {}", config.name, who(from), who(to));
                }
            }
        }
        self.follow_endings(service, at);
        self.tell_tracking(service, now);
    }

    /// What the backends of a service, and of its router, come to for the election.
    fn tell_tracking(&mut self, service: usize, now: SystemTime) {
        let router = self.config.services[service].router;
        let mut of_router = self.config.services.iter().zip(&self.pools).filter(|(s, _)| s.router == router);
        let serving = of_router.any(|(_, pool)| pool.serves());
        // An ejection is this node's alone: its peer, which has no clients yet, would take over and then find the same.
        let states =
            || (0..self.backends[service].len()).map(|b| self.pools[service].standing(b).by_checks());
        // Until each has been checked once, their number says nothing.
        let checked = states().all(|state| state != health::State::Unchecked);
        let config = &self.config.services[service];
        let up = states().zip(&config.backends).filter(|(s, b)| *s == health::State::Up && !b.sorry).count();
        if let Some(router) = router {
            self.tracking.on_serving(router, serving);
        }
        if checked {
            self.tracking.on_backends(service, up as u32, now);
        }
    }

    /// What the checks of a backend have found.
    pub fn health_of(&self, service: usize, backend: usize) -> health::State {
        self.pools[service].health(backend)
    }

    pub(super) fn backend_snapshot(&self, service: usize, backend: usize) -> snapshot::Backend {
        let c = &self.config.services[service].backends[backend];
        let (b, pool) = (&self.backends[service][backend], &self.pools[service]);
        let standing = pool.standing(backend);
        snapshot::Backend {
            name: c.name.clone(),
            addr: c.addr.to_string(),
            state: standing.state.as_str().into(),
            since: unix(b.since),
            cause: standing.cause.as_ref().map(ToString::to_string).unwrap_or_default(),
            check_ms: b.latency.map(|l| (l.as_secs_f64() * 1e5).round() / 100.0),
            weight: standing.weight,
            slow_start: (standing.percent < 100).then_some(standing.percent),
            part: standing.part.as_str().into(),
            ordered: pool.admin(backend).as_str().into(),
            output: b.output.clone(),
            discovered: c.discovered,
            galera: pool.seen(backend).map(|seen| galera_snapshot(&seen.now, c.priority)),
            ..snapshot::Backend::default()
        }
    }
}

fn galera_snapshot(o: &Observation, priority: u8) -> snapshot::GaleraNode {
    snapshot::GaleraNode {
        cluster_status: o.cluster_status.clone(),
        cluster_uuid: o.cluster_uuid.clone(),
        conf_id: o.conf_id,
        cluster_size: o.cluster_size,
        state: o.state,
        state_comment: o.state_comment.clone(),
        ready: o.ready,
        local_index: o.local_index,
        priority,
        last_committed: o.last_committed,
        recv_queue: o.recv_queue,
        flow_control_paused_ns: o.flow_control_paused_ns,
        flow_control_sent: o.flow_control_sent,
        read_only: o.read_only,
        desync: o.desync,
        threads_connected: o.threads_connected,
        max_connections: o.max_connections,
    }
}
