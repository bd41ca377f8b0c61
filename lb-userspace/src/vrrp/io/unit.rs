//! A virtual router with what it needs to act: its state machine, the frames it sends, and what it has told.
//!
//! Everything it sends is laid out at the start, so that the thread allocates nothing later.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::mpsc,
    time::Duration,
};

use super::{
    RouterSetup,
    announcing::Lane,
    port::{self, Port},
};
use crate::{
    config::model::Transport,
    vrrp::{
        announce::{self, ETHERNET_LEN, Mac},
        group::Demand,
        packet::{Family, Identity, Path},
        router::{LocalEvent, Params, Router},
        socket::Wanted,
        time::BootTime,
    },
};

/// A virtual router.
pub(super) struct Unit {
    /// What leases, events and counters know it by.
    pub(super) number: usize,
    pub(super) port: usize,
    pub(super) identity: Identity,
    pub(super) path: Path,
    pub(super) core: Router,
    /// The announcements, by family.
    pub(super) lanes: [Lane; 2],
    /// Questions for a foreign owner of each address.
    pub(super) probes: Vec<Vec<u8>>,
    pub(super) heard: Option<(IpAddr, u8)>,
    /// Whose other interval was told last.
    pub(super) learnt: Option<(IpAddr, Duration)>,
    /// Overslept: what is queued now was sent to somebody it no longer is.
    pub(super) deaf: bool,
    /// What the sync group demands of it.
    pub(super) demanded: Demand,
    pub(super) next_rival_alarm: BootTime,
    pub(super) next_foreign_alarm: BootTime,
    pub(super) next_interval_news: BootTime,
    /// What its kept lease is known by.
    pub(super) mark: u64,
    /// The end of a lease that the former daemon has left, until it goes on with it.
    pub(super) left: Option<BootTime>,
    /// Since when it is leaving for good, and who waits for that.
    pub(super) dismissed: Option<(BootTime, mpsc::Sender<Port>)>,
    /// All virtual addresses, those that are not in the advert too.
    addresses: Vec<IpAddr>,
    /// Which source the interface has to have; `None`: it is set.
    wanted: Option<Wanted>,
    /// The link is up, and there is an address to send from.
    up: bool,
    /// The link is up, and there is none.
    waits: bool,
    outgoing: Vec<Outgoing>,
    /// Adverts leave with this Ethernet source.
    virtual_mac: Option<Mac>,
}

/// An advert on its way to one destination, as a whole frame.
struct Outgoing {
    to: IpAddr,
    frame: Vec<u8>,
}

/// What a look at the interface has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Change {
    /// The router can take part now, or no longer: to be told to its state machine.
    pub(super) link: Option<LocalEvent>,
    /// It cannot, though the link is up: from now on it waits for an address to send from.
    pub(super) waits: bool,
}

impl Unit {
    pub(super) fn new(number: usize, setup: RouterSetup, ports: &[Port], now: BootTime) -> Self {
        let port = ports.iter().position(|port| port.interface.name == setup.interface).unwrap_or_default();
        let interface = &ports[port].interface;
        let wanted = setup.source.is_none().then(|| port::wanted(&setup));
        let source = wanted.map_or(setup.source, |wanted| interface.address(wanted));
        // Only IPv6 can be without an address at the start; until it has one, the router is in Fault.
        let local = source.unwrap_or(Ipv6Addr::UNSPECIFIED.into());
        let mark = setup.mark();
        let (addresses, virtual_mac) = (setup.addresses().collect::<Vec<_>>(), setup.virtual_mac());
        let params = Params {
            version: setup.identity.version,
            local,
            priority: setup.priority,
            advert_int: setup.identity.advert_int,
            preempt: setup.preempt,
            lease: setup.lease,
            probe: setup.probe,
            seed: seed(),
            garp: setup.garp,
        };
        let path = Path { local, transport: setup.transport };
        let announced_mac = virtual_mac.unwrap_or(interface.mac);
        let lane = |family, gap| {
            let of_family = addresses.iter().filter(|address| Family::of(**address) == family);
            let frame =
                |address: &IpAddr| announce::announcement(announced_mac, virtual_mac.is_some(), *address);
            Lane::new(of_family.map(frame).collect(), gap)
        };
        Self {
            number,
            port,
            core: Router::new(params, now),
            lanes: [lane(Family::V4, setup.garp.interval), lane(Family::V6, setup.garp.gna_interval)],
            probes: addresses.iter().map(|vip| announce::probe(interface.mac, *vip)).collect(),
            outgoing: path.destinations().map(|to| Outgoing::new(to, virtual_mac, &setup.identity)).collect(),
            virtual_mac: virtual_mac.filter(|_| path.transport == Transport::Multicast),
            identity: setup.identity,
            path,
            heard: None,
            learnt: None,
            deaf: false,
            demanded: Demand::Nothing,
            next_rival_alarm: now,
            next_foreign_alarm: now,
            next_interval_news: now,
            mark,
            left: None,
            dismissed: None,
            addresses,
            wanted,
            up: true,
            waits: false,
        }
    }

    /// All virtual addresses, those that are not in the advert too.
    pub(super) fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Takes the place of another one on the same interface, in the middle of what that did. `announce`: the addresses are others.
    pub(super) fn go_on_from(&mut self, old: Self, now: BootTime, announce: bool) {
        let mut core = old.core;
        core.change(now, &self.core, announce);
        self.core = core;
        self.path.local = old.path.local;
        (self.heard, self.learnt, self.deaf, self.demanded) = (old.heard, old.learnt, old.deaf, old.demanded);
        self.next_rival_alarm = old.next_rival_alarm;
        self.next_foreign_alarm = old.next_foreign_alarm;
        self.next_interval_news = old.next_interval_news;
        (self.up, self.waits) = (old.up, old.waits);
        (self.left, self.dismissed) = (old.left, old.dismissed);
    }

    /// Whether it is leaving for good.
    pub(super) fn leaves(&self) -> bool {
        self.dismissed.is_some()
    }

    /// Whether `address` is one of the virtual ones, in the advert or not.
    pub(super) fn owns(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// Whether the link is up and there is an address to send from: without one, nothing can have been meant for it.
    pub(super) fn takes_part(&self) -> bool {
        self.up
    }

    /// Looks whether the router can take part.
    pub(super) fn look(&mut self, port: &Port) -> Change {
        let source = self.source(port);
        if let Some(source) = source {
            self.path.local = source;
            self.core.set_local(source);
        }
        let up = port.running && source.is_some();
        let waits = port.running && source.is_none();
        let was_up = std::mem::replace(&mut self.up, up);
        let waited = std::mem::replace(&mut self.waits, waits);
        let event = if up { LocalEvent::LinkUp } else { LocalEvent::LinkDown };
        Change { link: (up != was_up).then_some(event), waits: waits && !waited }
    }

    /// The address to send from: the former one as long as it is there.
    fn source(&self, port: &Port) -> Option<IpAddr> {
        let Some(wanted) = self.wanted else { return Some(self.path.local) };
        let former = Some(self.path.local).filter(|source| port.interface.may_send_from(*source));
        former.or_else(|| port.interface.address(wanted))
    }

    /// Sends an advert on its way: over the raw socket, or as a frame of the virtual hardware address. Whether it left
    /// for at least one destination.
    pub(super) fn send(&mut self, priority: u8, port: &Port) -> bool {
        let Some(adverts) = port.adverts_of(self.identity.family()) else { return false };
        let mut left = false;
        for Outgoing { to, frame } in &mut self.outgoing {
            self.identity.emit(priority, self.path.local, *to, &mut frame[ETHERNET_LEN..]);
            let sent = match self.virtual_mac {
                Some(_) => port.frames.send(frame),
                None => adverts.send(&frame[ETHERNET_LEN..], *to),
            };
            left |= sent.is_ok();
        }
        left
    }
}

impl Outgoing {
    /// The Ethernet header counts only where frames are sent; the hardware address of a unicast peer is the kernel's
    /// affair.
    fn new(to: IpAddr, from: Option<Mac>, identity: &Identity) -> Self {
        let mut frame = vec![0; ETHERNET_LEN + identity.datagram_len()];
        frame[..6].copy_from_slice(&announce::multicast_mac(to));
        frame[6..12].copy_from_slice(&from.unwrap_or_default());
        frame[12..ETHERNET_LEN].copy_from_slice(match Family::of(to) {
            Family::V4 => &[0x08, 0x00],
            Family::V6 => &[0x86, 0xdd],
        });
        Self { to, frame }
    }
}

/// Unpredictable enough for nonces that nobody off the link may guess: the standard library's hash keys are the
/// system's random bytes.
fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}
