//! The ways to backends as packet programs are told of them: what the machine says (`Way`, MTUs of interfaces), and what the
//! configuration says instead.
//!
//! `desired` asks for them. An interface's MTU may change while the daemon runs; the control loop looks and tells.

use std::net::IpAddr;

use lb_common::{
    mode::Mode,
    service::{NO_CLAMP, Path},
};

use super::Model;
use crate::config::model::{Backend, Mss, Service};

/// The way to a backend as the kernel's routes have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Way {
    /// This node's address at its beginning.
    pub source: Option<IpAddr>,
    /// The route's own MTU, in bytes.
    pub mtu: Option<u32>,
}

impl Model {
    /// Takes in the MTU of an interface, in bytes.
    pub fn on_mtu(&mut self, ifindex: u32, mtu: u32) {
        for i in self.machine.interfaces.iter_mut().filter(|i| i.ifindex == ifindex && i.mtu != mtu) {
            tracing::info!("{}: packets of up to {mtu} bytes (MTU), before {}", i.name, i.mtu);
            i.mtu = mtu;
            self.changed = true;
        }
    }

    /// The interfaces with programs.
    pub fn ifindexes(&self) -> Vec<u32> {
        self.machine.interfaces.iter().map(|i| i.ifindex).collect()
    }

    /// The ways to all backends, by number.
    pub(super) fn paths(&self) -> Vec<Path> {
        let all = self.config.services.iter().flat_map(|s| s.backends.iter().map(move |b| (s, b)));
        let routes = self.machine.routes.iter();
        let ways = self.machine.ways.iter().copied().chain(std::iter::repeat(Way::default()));
        let path = |(((s, b), ifindex), way): (((_, _), &u32), _)| self.path(s, b, *ifindex, way);
        self.numbers.by_backend(all.zip(routes).zip(ways).map(path))
    }

    fn path(&self, service: &Service, backend: &Backend, ifindex: u32, way: Way) -> Path {
        let of = |i: &super::MachineInterface| Some(i.mtu).filter(|mtu| *mtu != 0);
        let own = self.machine.interfaces.iter().filter(|i| i.ifindex == ifindex).find_map(of);
        let mtu = least([own, way.mtu]);
        let least = least(self.machine.interfaces.iter().map(of).chain([mtu]));
        let tunnel = backend.mode == Mode::Tunnel;
        let overhead = if backend.addr.is_ipv4() { 20 } else { 40 };
        let path = service.path.tunnel_mtu.filter(|_| tunnel).map(|mtu| u32::from(mtu) + overhead).or(mtu);
        let chosen = service.path.tunnel_source.filter(|a| tunnel && a.is_ipv4() == backend.addr.is_ipv4());
        Path {
            source: chosen.or(way.source).map(Into::into).unwrap_or_default(),
            mtu: short(path),
            least: short(least),
            mss: match service.path.mss {
                Mss::Fitting => 0,
                Mss::Unchanged => NO_CLAMP,
                Mss::AtMost(mss) => mss,
            },
            moves: u8::from(moves(service, backend)),
            strict: u8::from(service.strict),
        }
    }
}

/// Whether the programs note how a backend's connections begin: where both ends are of one family and the numbers of both pass by here.
fn moves(service: &Service, backend: &Backend) -> bool {
    service.move_ungreeted
        && matches!(backend.mode, Mode::Nat | Mode::Dnat)
        && backend.addr.is_ipv4() == service.listen.first.is_ipv4()
}

fn least(all: impl IntoIterator<Item = Option<u32>>) -> Option<u32> {
    all.into_iter().flatten().min()
}

/// As maps have it: 0 for unknown, and nothing is longer than an IP packet.
pub(super) fn short(mtu: Option<u32>) -> u16 {
    mtu.map_or(0, |mtu| u16::try_from(mtu).unwrap_or(u16::MAX))
}
