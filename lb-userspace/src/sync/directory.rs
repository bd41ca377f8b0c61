//! From the names in a record to this node's own indices, and the record of the flow table that comes of it.
//!
//! Made of the configuration and of what the start found out about this machine; knows no map.

use lb_common::{
    addr::{Addr, PROTO_TCP, PROTO_UDP, Port},
    checksum::{delta, sum_addr, sum2},
    flow::{ADOPTED, DETOUR, Flow, REPLICATED, Stage, TIMED},
    mode::Mode,
    reach::NO_ROUTER,
    service::Path,
};

use super::{table::Unfit, wire::Record};
use crate::{
    config::model::{self, Config},
    control::numbers::Numbers,
};

/// The services of this node.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    services: Vec<Service>,
}

#[derive(Debug, Clone)]
struct Service {
    id: u32,
    addr: Addr,
    proto: u8,
    first: u16,
    last: u16,
    router: u32,
    client_if: u32,
    backends: Vec<Backend>,
}

#[derive(Debug, Clone, Copy)]
struct Backend {
    id: u32,
    addr: Addr,
    /// `None`: whatever the client speaks to.
    port: Option<Port>,
    mode: Mode,
    ifindex: u32,
}

/// Where a flow belongs on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Index of its service.
    pub service: u32,
    /// Number of its virtual router.
    pub router: u32,
    /// Interface towards the client, until its first packet shows another one.
    pub client_if: u32,
    /// Index of its backend.
    pub backend: u32,
    /// Interface towards the backend.
    pub backend_if: u32,
}

impl Directory {
    /// `numbers` are those of the maps; `client_if` gives the interface of a virtual router's address, `routes` that of each backend
    /// in the order of the file.
    pub fn new(
        config: &Config,
        numbers: &Numbers,
        client_if: impl Fn(usize, Addr) -> u32,
        routes: &[u32],
    ) -> Self {
        let mut routes = routes.iter().copied().chain(std::iter::repeat(0));
        let services = config.services.iter().enumerate().map(|(i, s)| {
            let addr = Addr::from(s.listen.first.ip());
            let backends = s.backends.iter().zip(numbers.backends(i)).map(|(b, id)| Backend {
                id: *id,
                addr: b.addr.ip().into(),
                port: (!b.keeps_port).then(|| Port::new(b.addr.port())),
                mode: b.mode,
                ifindex: routes.next().unwrap_or(0),
            });
            Service {
                id: numbers.service(i),
                addr,
                proto: match s.protocol {
                    model::Protocol::Tcp => PROTO_TCP,
                    model::Protocol::Udp => PROTO_UDP,
                },
                first: s.listen.first.port(),
                last: s.listen.last.unwrap_or(s.listen.first.port()),
                router: s.router.map_or(NO_ROUTER, |router| numbers.router(router)),
                client_if: s.router.map_or(0, |router| client_if(router, addr)),
                backends: backends.collect(),
            }
        });
        Self { services: services.collect() }
    }

    /// Where a flow belongs. Of services that overlap the narrowest counts, as for new flows.
    pub fn place(&self, record: &Record) -> Result<Place, Unfit> {
        let (id, port) = (&record.id, record.id.vip_port.number());
        let takes = |s: &Service| {
            s.addr == id.vip
                && s.proto == id.proto
                && (s.first..=s.last).contains(&port)
                && s.router != NO_ROUTER
        };
        let of_it = self.services.iter().filter(|s| takes(s));
        let s = of_it.min_by_key(|s| s.last - s.first).ok_or(Unfit::Service)?;
        let is_it = |b: &&Backend| {
            b.addr == record.backend
                && b.port.unwrap_or(id.vip_port) == record.backend_port
                && b.mode == record.mode
        };
        let b = s.backends.iter().find(is_it).ok_or(Unfit::Backend)?;
        Ok(Place {
            service: s.id,
            router: s.router,
            client_if: s.client_if,
            backend: b.id,
            backend_if: b.ifindex,
        })
    }
}

/// The record of a replicated flow, at boottime `now` in ns.
pub fn fill(record: &Record, at: &Place, path: &Path, generation: u16, now: u64) -> Flow {
    let id = &record.id;
    // A tunnel begins at an address of this node's own.
    let snat = if record.mode == Mode::Tunnel { path.source } else { record.snat };
    let mut flow = Flow {
        client: id.client,
        vip: id.vip,
        backend: record.backend,
        snat,
        client_port: id.client_port,
        vip_port: id.vip_port,
        backend_port: record.backend_port,
        snat_port: record.snat_port,
        seen: seen(record, now),
        born: (now / 1_000_000_000).saturating_sub(record.life_s.into()) as u32,
        service: at.service,
        backend_id: at.backend,
        router: at.router,
        client_if: at.client_if,
        backend_if: at.backend_if,
        client_next: record.client_next,
        backend_next: record.backend_next,
        addr_delta: delta(
            sum_addr(&id.client) + sum_addr(&id.vip),
            sum_addr(&snat) + sum_addr(&record.backend),
        ),
        port_delta: delta(
            sum2(id.client_port.0) + sum2(id.vip_port.0),
            sum2(record.snat_port.0) + sum2(record.backend_port.0),
        ),
        generation,
        proto: id.proto,
        stage: record.stage as u8,
        // What the backend will be heard to say, without its SYN, confirms it.
        flags: record.fins | TIMED | REPLICATED | if record.stage == Stage::SynSent { ADOPTED } else { 0 },
        mode: record.mode as u8,
        mtu: path.least,
        // It is in no place, and from no pool.
        ..Flow::default()
    };
    if flow.mode() == Mode::Tunnel || flow.is_mixed() {
        flow.mtu = DETOUR;
    }
    flow
}

/// Boottime of its last packet, by this node's clock.
pub fn seen(record: &Record, now: u64) -> u64 {
    now.saturating_sub(u64::from(record.idle_ms) * 1_000_000)
}
