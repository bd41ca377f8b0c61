//! The few things asked of the kernel by rtnetlink: links, addresses, routes. The only module that knows rtnetlink.
//!
//! Called by the control loop (addresses, routes) and by `track` (carriers). Nothing here decides anything.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context, Result};
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream::Stream};
use lb_common::addr::Mac;
use rtnetlink::{
    Error, Handle, MulticastGroup, RouteMessageBuilder,
    packet_route::{
        address::{AddressAttribute, AddressFlags, AddressHeaderFlags, CacheInfo},
        link::{LinkAttribute, LinkFlags, LinkXdp},
        neighbour::{NeighbourAddress, NeighbourAttribute},
        route::{RouteAddress, RouteAttribute, RouteMetric},
    },
};

use crate::datapath::xdp::Port;

/// A netlink socket; its task ends when this is dropped.
#[derive(Clone)]
pub struct Netlink {
    handle: Handle,
}

impl Netlink {
    /// Opens a socket in the thread's network namespace and spawns its task.
    pub fn open() -> Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection().context("cannot open a netlink socket")?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Hardware address of an interface.
    pub async fn mac(&self, ifindex: u32) -> Result<Mac> {
        let link = self
            .handle
            .link()
            .get()
            .match_index(ifindex)
            .execute()
            .try_next()
            .await
            .with_context(|| format!("cannot look at interface {ifindex}"))?
            .with_context(|| format!("interface {ifindex} is gone"))?;
        let mac = link.attributes.iter().find_map(|a| match a {
            LinkAttribute::Address(b) => <[u8; 6]>::try_from(b.as_slice()).ok(),
            _ => None,
        });
        mac.map(Mac).with_context(|| format!("interface {ifindex} has no Ethernet address"))
    }

    /// What XDP has to know of an interface; `others` are further addresses that may be on its link.
    pub async fn port(&self, name: &str, ifindex: u32, others: &[IpAddr]) -> Result<Port> {
        let failed = || format!("cannot look at interface {name}");
        let link = self.handle.link().get().match_index(ifindex).execute().try_next().await;
        let link = link.with_context(failed)?.with_context(failed)?;
        let mut port = Port {
            name: name.into(),
            ifindex,
            mac: self.mac(ifindex).await?,
            own: None,
            neighbours: Vec::new(),
            real: false,
            program: None,
        };
        for a in link.attributes {
            match a {
                LinkAttribute::ParentDevName(_) => port.real = true,
                LinkAttribute::Xdp(xdp) => {
                    port.program = xdp.iter().find_map(|x| match x {
                        LinkXdp::ProgId(id) => Some(*id),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        let mut found = self.handle.address().get().set_link_index_filter(ifindex).execute();
        while let Some(m) = found.try_next().await.with_context(failed)? {
            port.own = port.own.or(m.attributes.iter().find_map(|a| match a {
                AddressAttribute::Local(IpAddr::V4(own)) => Some(*own),
                _ => None,
            }));
        }
        port.neighbours = self.neighbours(ifindex).await.with_context(failed)?;
        port.neighbours.extend(others.iter().filter_map(|ip| match ip {
            IpAddr::V4(ip) => Some(*ip),
            IpAddr::V6(_) => None,
        }));
        Ok(port)
    }

    /// IPv4 neighbours that the kernel knows on an interface.
    async fn neighbours(&self, ifindex: u32) -> Result<Vec<Ipv4Addr>> {
        let mut found = Vec::new();
        let mut known = self.handle.neighbours().get().execute();
        while let Some(m) = known.try_next().await? {
            found.extend(m.attributes.iter().filter_map(|a| match a {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip))
                    if m.header.ifindex == ifindex =>
                {
                    Some(*ip)
                }
                _ => None,
            }));
        }
        Ok(found)
    }

    /// Interface by which an address is reached.
    pub async fn route_ifindex(&self, to: IpAddr) -> Result<u32> {
        let message = match to {
            IpAddr::V4(to) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, 32).build(),
            IpAddr::V6(to) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(to, 128).build(),
        };
        let route = self
            .handle
            .route()
            .get(message)
            .execute()
            .try_next()
            .await
            .with_context(|| {
                format!("there is no route to {to}: correct the address or add one (`ip route`)")
            })?
            .with_context(|| {
                format!("there is no route to {to}: correct the address or add one (`ip route`)")
            })?;
        let oif = route.attributes.iter().find_map(|a| match a {
            RouteAttribute::Oif(i) => Some(*i),
            _ => None,
        });
        oif.with_context(|| format!("the route to {to} names no interface"))
    }

    /// This node's address at the beginning of the route to an address, and the route's own MTU, as far as it has them.
    pub async fn way(&self, to: IpAddr) -> Result<(Option<IpAddr>, Option<u32>)> {
        let message = match to {
            IpAddr::V4(to) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, 32).build(),
            IpAddr::V6(to) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(to, 128).build(),
        };
        let route = self.handle.route().get(message).execute().try_next().await;
        let route = route.with_context(|| format!("cannot look at the route to {to}"))?;
        let (mut source, mut mtu) = (None, None);
        for a in route.into_iter().flat_map(|route| route.attributes) {
            match a {
                RouteAttribute::PrefSource(RouteAddress::Inet(own)) => source = Some(own.into()),
                RouteAttribute::PrefSource(RouteAddress::Inet6(own)) => source = Some(own.into()),
                RouteAttribute::Metrics(metrics) => {
                    mtu = metrics.iter().find_map(|m| match m {
                        RouteMetric::Mtu(mtu) => Some(*mtu),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        Ok((source, mtu))
    }

    /// MTU of an interface, in bytes.
    pub async fn mtu(&self, ifindex: u32) -> Result<u32> {
        let link = self.handle.link().get().match_index(ifindex).execute().try_next().await;
        let link = link.with_context(|| format!("cannot look at interface {ifindex}"))?;
        let mtu = link.into_iter().flat_map(|link| link.attributes).find_map(|a| match a {
            LinkAttribute::Mtu(mtu) => Some(mtu),
            _ => None,
        });
        mtu.with_context(|| format!("interface {ifindex} has no MTU"))
    }

    /// Puts a virtual address on an interface; no error if it is there. An IPv6 one goes without duplicate address
    /// detection (whoever had it before may still be answering, and the programs answer from now on), and deprecated: the
    /// node's own connections must not start from an address that moves away.
    pub async fn add_address(&self, ifindex: u32, addr: IpAddr, prefix_len: u8) -> Result<()> {
        let mut request = self.handle.address().add(ifindex, addr, prefix_len);
        if addr.is_ipv6() {
            let mut lifetime = CacheInfo::default();
            (lifetime.ifa_preferred, lifetime.ifa_valid) = (0, u32::MAX);
            let message = request.message_mut();
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            message.attributes.push(AddressAttribute::CacheInfo(lifetime));
        }
        match request.execute().await {
            Ok(()) => Ok(()),
            Err(Error::NetlinkError(e)) if e.raw_code() == -libc::EEXIST => Ok(()),
            Err(e) => {
                Err(e).with_context(|| format!("cannot add {addr}/{prefix_len} to interface {ifindex}"))
            }
        }
    }

    /// Takes an address off an interface; no error if it is not there.
    pub async fn remove_address(&self, ifindex: u32, addr: IpAddr) -> Result<()> {
        let mut found = self.handle.address().get().set_link_index_filter(ifindex).execute();
        while let Some(m) =
            found.try_next().await.with_context(|| format!("cannot list addresses of {ifindex}"))?
        {
            // IFA_LOCAL is IPv4's word; for IPv6 the kernel only says IFA_ADDRESS.
            let same = m.attributes.iter().any(|a| match a {
                AddressAttribute::Local(own) => *own == addr,
                AddressAttribute::Address(own) => addr.is_ipv6() && *own == addr,
                _ => false,
            });
            if !same {
                continue;
            }
            match self.handle.address().del(m).execute().await {
                Ok(()) => {}
                Err(Error::NetlinkError(e)) if e.raw_code() == -libc::EADDRNOTAVAIL => {}
                Err(e) => {
                    return Err(e).with_context(|| format!("cannot remove {addr} from interface {ifindex}"));
                }
            }
        }
        Ok(())
    }
}

/// Carriers of some interfaces, told whenever they change.
pub struct LinkWatch {
    handle: Handle,
    changes: Box<dyn Stream<Item = ()> + Send + Unpin>,
    names: Vec<String>,
    fresh: bool,
}

impl LinkWatch {
    /// Watches the interfaces of these names, which need not exist, in the thread's network namespace.
    pub fn open(names: Vec<String>) -> Result<Self> {
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&[MulticastGroup::Link])
            .context("cannot open a netlink socket for links")?;
        tokio::spawn(connection);
        // Whatever it says, an overrun too, is answered by a look at what is so now.
        Ok(Self { handle, changes: Box::new(messages.map(|_| ())), names, fresh: true })
    }

    /// Waits for a change, the first time not at all. Whether each interface is up with a carrier; one that is not there
    /// is missing.
    pub async fn next(&mut self) -> Result<BTreeMap<String, bool>> {
        if !std::mem::take(&mut self.fresh) {
            self.changes.next().await.context("the netlink socket for links was closed")?;
        }
        // One look for a burst of messages; one that comes during the look causes another.
        while let Some(more) = self.changes.next().now_or_never() {
            more.context("the netlink socket for links was closed")?;
        }
        let mut links = self.handle.link().get().execute();
        let mut seen = BTreeMap::new();
        while let Some(link) = links.try_next().await.context("cannot list interfaces")? {
            let name = link.attributes.iter().find_map(|a| match a {
                LinkAttribute::IfName(name) if self.names.contains(name) => Some(name.clone()),
                _ => None,
            });
            if let Some(name) = name {
                seen.insert(name, link.header.flags.contains(LinkFlags::Up | LinkFlags::Running));
            }
        }
        Ok(seen)
    }
}
