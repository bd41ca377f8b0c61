//! An interface with its sockets, shared by all virtual routers on it, whatever family and transport they have.
//!
//! Opened at the start, all or none, so that what cannot work is refused with a reason. Only the driver's thread uses
//! it afterwards. For a router that comes later all sockets are opened anew (`roster`), and take the place of the old ones.

use std::{net::IpAddr, os::fd::RawFd};

use super::{RouterSetup, announcing::Turns, hearing::WHOLE_QUEUE};
use crate::{
    config::model::Transport,
    vrrp::{
        announce,
        packet::{Family, MAX_IPV6_ADDRESSES, Version, is_link_local},
        socket::{
            AdvertSocket, FrameSender, Interface, LinkNews, NeighbourSocket, PeerSocket, Received,
            StartError, Wanted, is_local,
        },
    },
};

/// An interface with its sockets.
pub(super) struct Port {
    pub(super) interface: Interface,
    /// Up, with a carrier.
    pub(super) running: bool,
    /// Something was said about it since [`Port::take_news`].
    news: bool,
    /// One for each family that a router here has.
    pub(super) adverts: Vec<(Family, AdvertSocket)>,
    pub(super) frames: FrameSender,
    /// One for each family that a virtual address here has.
    pub(super) neighbours: Vec<NeighbourSocket>,
    pub(super) turns: Turns,
    /// One for each family that a router here that probes has.
    pub(super) peers: Vec<PeerSocket>,
}

impl Port {
    /// One for each interface in the setup.
    pub(super) fn open_all(setup: &[&RouterSetup]) -> Result<Vec<Self>, StartError> {
        check(setup)?;
        let foreign: Vec<_> = setup.iter().flat_map(|router| router.addresses()).collect();
        let mut ports: Vec<Self> = Vec::new();
        for router in setup {
            if ports.iter().all(|port| port.interface.name != router.interface) {
                let interface = Interface::find(&router.interface, &foreign)?;
                let here = |r: &&&RouterSetup| r.interface == router.interface;
                let routers: Vec<_> = setup.iter().filter(here).copied().collect();
                ports.push(Self::open(interface, &routers, |_| false)?);
            }
        }
        Ok(ports)
    }

    /// For all routers on an interface; but for those families that the thread `has` the peers' socket of already.
    pub(super) fn open(
        interface: Interface,
        routers: &[&RouterSetup],
        has: impl Fn(Family) -> bool,
    ) -> Result<Self, StartError> {
        let addresses: Vec<IpAddr> = routers.iter().flat_map(|router| router.addresses()).collect();
        let mut adverts = Vec::new();
        let mut neighbours = Vec::new();
        for family in [Family::V4, Family::V6] {
            let of_family = |router: &&&RouterSetup| router.identity.family() == family;
            let multicast = |router: &&RouterSetup| router.transport == Transport::Multicast;
            let watched: Vec<_> = addresses.iter().copied().filter(|a| Family::of(*a) == family).collect();
            // Addresses of IPv6 have groups to be joined, also when the adverts are IPv4's.
            if routers.iter().any(|router| of_family(&router)) || family == Family::V6 && !watched.is_empty()
            {
                let group = routers.iter().filter(of_family).any(multicast);
                let socket = AdvertSocket::open(&interface, family, group)?;
                join_groups(&interface, &socket, &watched)?;
                adverts.push((family, socket));
            }
            if !watched.is_empty() {
                neighbours.push(NeighbourSocket::open(&interface, family, &watched)?);
            }
        }
        let frames = FrameSender::open(&interface)?;
        for mac in routers.iter().filter_map(|router| router.virtual_mac()) {
            let taken = frames.take_frames_for(mac);
            taken.map_err(StartError::on(&interface.name, "take frames for a virtual hardware address"))?;
        }
        let missing = families(routers).filter(|family| !has(*family));
        let peers = missing.map(|family| PeerSocket::open(&interface, family));
        let peers = peers.collect::<Result<_, _>>()?;
        let running = interface.is_running();
        let turns = Turns::default();
        Ok(Self { interface, running, news: false, adverts, frames, neighbours, turns, peers })
    }

    /// As it is now: what was said before the thread had it went unheard.
    pub(super) fn begin(mut self) -> Self {
        self.running = self.interface.is_running();
        self
    }

    /// Goes on with the sockets of `new`, and gives its own away; peers' sockets are shared by families, and stay.
    pub(super) fn renew(&mut self, new: Self) -> Self {
        let mut old = std::mem::replace(self, new);
        self.peers.append(&mut old.peers);
        (self.running, self.news) = (old.running, old.news);
        self.turns = std::mem::take(&mut old.turns);
        old
    }

    /// Adverts that have waited here were heard already.
    pub(super) fn discard_adverts(&self, buffer: &mut [u8]) {
        for (_, socket) in &self.adverts {
            let more = |_: &usize| !matches!(socket.receive(buffer), Received::Nothing);
            (0..WHOLE_QUEUE).take_while(more).for_each(drop);
        }
    }

    /// Watches these addresses from now on, of which some are `new` here. `foreign` are those that the interface may carry but that
    /// are not its own. What can be watched is, also if something else cannot.
    pub(super) fn watch(
        &mut self,
        watched: &[IpAddr],
        new: &[IpAddr],
        foreign: Vec<IpAddr>,
    ) -> Result<(), StartError> {
        self.interface.set_foreign(foreign);
        let mut done = Ok(());
        let mut neighbours = Vec::new();
        for family in [Family::V4, Family::V6] {
            let of =
                |all: &[IpAddr]| all.iter().copied().filter(|a| Family::of(*a) == family).collect::<Vec<_>>();
            let watched = of(watched);
            if watched.is_empty() {
                continue;
            }
            match NeighbourSocket::open(&self.interface, family, &watched) {
                Ok(socket) => neighbours.push(socket),
                Err(e) => done = Err(e),
            }
            if family == Family::V6 && self.adverts_of(family).is_none() {
                match AdvertSocket::open(&self.interface, family, false) {
                    Ok(socket) => self.adverts.push((family, socket)),
                    Err(e) => done = Err(e),
                }
            }
            if let Some(socket) = self.adverts_of(family) {
                done = done.and(join_groups(&self.interface, socket, &of(new)));
            }
        }
        self.neighbours = neighbours;
        done
    }

    /// Every descriptor to be waited for.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = RawFd> + '_ {
        use std::os::fd::AsRawFd;
        let adverts = self.adverts.iter().map(|(_, socket)| socket.as_raw_fd());
        let neighbours = self.neighbours.iter().map(AsRawFd::as_raw_fd);
        adverts.chain(neighbours).chain(self.peers.iter().map(AsRawFd::as_raw_fd))
    }

    /// The socket for adverts of this family.
    pub(super) fn adverts_of(&self, family: Family) -> Option<&AdvertSocket> {
        self.adverts.iter().find(|(of, _)| *of == family).map(|(_, socket)| socket)
    }

    /// Remembers what the kernel says, if it is about this interface.
    pub(super) fn note(&mut self, news: LinkNews) {
        match news {
            LinkNews::Link { index, running } if index == self.interface.index => {
                self.news |= running != self.running;
                self.running = running;
            }
            // Virtual addresses come and go with the lease, in the middle of a takeover: nothing to look at.
            LinkNews::Address { index, address } if index == self.interface.index => {
                self.news |= !address.is_some_and(|address| self.interface.is_foreign(address));
            }
            LinkNews::Overrun => (self.running, self.news) = (self.interface.is_running(), true),
            LinkNews::Link { .. } | LinkNews::Address { .. } => {}
        }
    }

    /// Whether something was noted since the last call. The addresses are up to date then, as far as they can be asked
    /// for.
    pub(super) fn take_news(&mut self) -> bool {
        if self.news {
            let _ = self.interface.look_again();
        }
        std::mem::take(&mut self.news)
    }
}

/// The families that the routers of an interface speak to peers in.
fn families<'a>(routers: &'a [&RouterSetup]) -> impl Iterator<Item = Family> + 'a {
    [Family::V4, Family::V6].into_iter().filter(|family| {
        routers.iter().any(|router| router.probe.is_some() && router.identity.family() == *family)
    })
}

/// Whether all this can be started, as far as that can be said without sockets.
pub(crate) fn check(setup: &[&RouterSetup]) -> Result<(), StartError> {
    let foreign: Vec<_> = setup.iter().flat_map(|router| router.addresses()).collect();
    for router in setup {
        check_addresses(router)?;
        check_source(router, &Interface::find(&router.interface, &foreign)?)?;
    }
    Ok(())
}

fn check_addresses(router: &RouterSetup) -> Result<(), StartError> {
    let (identity, family) = (&router.identity, router.identity.family());
    let most = match (family, identity.version) {
        (Family::V4, _) => 255,
        (Family::V6, Version::V3) => MAX_IPV6_ADDRESSES,
        (Family::V6, Version::V2) => 0,
    };
    let one_family = identity.addresses.iter().all(|address| Family::of(*address) == family);
    if one_family && (1..=most).contains(&identity.addresses.len()) {
        Ok(())
    } else {
        Err(StartError::Addresses { router: router.name.clone() })
    }
}

/// Whether the router has, or can be expected to get, an address to send from.
fn check_source(router: &RouterSetup, interface: &Interface) -> Result<(), StartError> {
    let wanted = wanted(router);
    match router.source {
        Some(source) if router.transport != Transport::Multicast && !is_local(source) => {
            Err(StartError::Source { router: router.name.clone(), source_address: source })
        }
        Some(_) => Ok(()),
        None if interface.has(wanted) => Ok(()),
        // IPv6 gives no addresses to an interface before there is a link.
        None if wanted != Wanted::Ipv4 && !interface.is_running() => Ok(()),
        None => Err(StartError::NoAddress { interface: interface.name.clone(), wanted }),
    }
}

/// The kind of address that a router without a set source sends from.
pub(super) fn wanted(router: &RouterSetup) -> Wanted {
    match (router.identity.family(), &router.transport) {
        (Family::V4, _) => Wanted::Ipv4,
        (Family::V6, Transport::Unicast(peers)) if peers.iter().any(|peer| !is_link_local(peer.addr)) => {
            Wanted::Global
        }
        (Family::V6, _) => Wanted::LinkLocal,
    }
}

/// Solicitations for an IPv6 address come to its solicited-node group (RFC 9568 §6.4.2), and switches that watch
/// memberships send them only where it is joined. A Backup is a member, too, so that a takeover waits for no switch:
/// whether solicitations are answered is the lease's affair.
fn join_groups(interface: &Interface, socket: &AdvertSocket, addresses: &[IpAddr]) -> Result<(), StartError> {
    for address in addresses {
        if let IpAddr::V6(address) = address {
            let group = announce::solicited_node(*address);
            let joined = socket.join(group);
            joined.map_err(StartError::on(&interface.name, "join the group of an IPv6 address"))?;
        }
    }
    Ok(())
}
