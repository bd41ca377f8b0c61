//! The few things asked of the kernel by rtnetlink: links, addresses, routes. The only module that knows rtnetlink.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use lb_common::addr::Mac;
use rtnetlink::{
    Error, Handle, RouteMessageBuilder,
    packet_route::{address::AddressAttribute, link::LinkAttribute, route::RouteAttribute},
};

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

    /// Interface by which an address is reached.
    pub async fn route_ifindex(&self, to: Ipv4Addr) -> Result<u32> {
        let message = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, 32).build();
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

    /// Puts an address on an interface; no error if it is there.
    pub async fn add_address(&self, ifindex: u32, addr: IpAddr, prefix_len: u8) -> Result<()> {
        match self.handle.address().add(ifindex, addr, prefix_len).execute().await {
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
            let same = m.attributes.iter().any(|a| matches!(a, AddressAttribute::Local(l) if *l == addr));
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
