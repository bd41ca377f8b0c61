//! A network interface: its index, hardware address and own addresses.
//!
//! IPv6 addresses come from `/proc`, because getifaddrs does not tell whether one may be used yet: at boot, and whenever
//! the link comes up, the kernel first asks whether anybody else has it (duplicate address detection, RFC 4862 §5.4).
//! The thread's own network namespace is asked, which a test's may differ in from the process's.

use std::{
    fs, io,
    net::{IpAddr, Ipv6Addr},
};

use nix::{
    ifaddrs::{InterfaceAddress, getifaddrs},
    net::if_::{InterfaceFlags, if_nametoindex},
};

use super::{StartError, Wanted};
use crate::vrrp::announce::Mac;

/// Addresses of all interfaces with their flags, as hexadecimal text.
const IPV6_ADDRESSES: &str = "/proc/thread-self/net/if_inet6";
/// Still asked about, or found at another host; but an optimistic one (RFC 4429) may be used meanwhile.
const UNUSABLE: u32 = libc::IFA_F_TENTATIVE | libc::IFA_F_DADFAILED;

/// A network interface.
#[derive(Debug, Clone)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index in this network namespace.
    pub index: u32,
    /// Its hardware address.
    pub mac: Mac,
    /// Its addresses when last looked up, in the kernel's order, without the virtual ones.
    addresses: Vec<Address>,
    /// Addresses that it may carry but that are not its own.
    foreign: Vec<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Address {
    address: IpAddr,
    usable: bool,
}

impl Interface {
    /// Looks an interface up; `foreign` are addresses that it may carry but that are not its own.
    pub fn find(name: &str, foreign: &[IpAddr]) -> Result<Self, StartError> {
        let Ok(index) = if_nametoindex(name) else {
            return Err(StartError::NoInterface { interface: name.to_owned() });
        };
        let list = entries(name).map_err(StartError::on(name, "list the addresses"))?;
        let mac = |a: &InterfaceAddress| a.address?.as_link_addr()?.addr();
        let Some(mac) = list.iter().find_map(mac) else {
            return Err(StartError::NoHardwareAddress { interface: name.to_owned() });
        };
        let mut found =
            Self { name: name.to_owned(), index, mac, addresses: Vec::new(), foreign: foreign.to_vec() };
        found.look_again().map_err(StartError::on(name, "list the addresses"))?;
        Ok(found)
    }

    /// Other addresses may be on it that are not its own.
    pub fn set_foreign(&mut self, foreign: Vec<IpAddr>) {
        self.foreign = foreign;
        // One that cannot be asked now keeps what it had; every change of its addresses has it asked again.
        let _ = self.look_again();
    }

    /// Asks for its addresses anew.
    pub fn look_again(&mut self) -> io::Result<()> {
        let ipv4 = |a: InterfaceAddress| Some(IpAddr::V4(a.address?.as_sockaddr_in()?.ip()));
        let ipv4 = entries(&self.name)?.into_iter().filter_map(ipv4);
        let ipv4 = ipv4.map(|address| Address { address, usable: true });
        // Without IPv6 there is no such file.
        let text = fs::read_to_string(IPV6_ADDRESSES).unwrap_or_default();
        let ipv6 = text.lines().filter_map(|line| ipv6_address(line, &self.name));
        self.addresses = ipv4.chain(ipv6).filter(|a| !self.foreign.contains(&a.address)).collect();
        Ok(())
    }

    /// Its first address of this kind that may be used now.
    pub fn address(&self, wanted: Wanted) -> Option<IpAddr> {
        self.of_kind(wanted).find(|a| a.usable).map(|a| a.address)
    }

    /// Whether it may carry the address although it is not its own.
    pub fn is_foreign(&self, address: IpAddr) -> bool {
        self.foreign.contains(&address)
    }

    /// Whether it has this address, and it may be used now.
    pub fn may_send_from(&self, address: IpAddr) -> bool {
        self.addresses.contains(&Address { address, usable: true })
    }

    /// Whether it has an address of this kind, usable or not yet.
    pub fn has(&self, wanted: Wanted) -> bool {
        self.of_kind(wanted).next().is_some()
    }

    /// Whether it is up and has a carrier now.
    pub fn is_running(&self) -> bool {
        let running = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
        entries(&self.name).is_ok_and(|list| list.first().is_some_and(|a| a.flags.contains(running)))
    }

    fn of_kind(&self, wanted: Wanted) -> impl Iterator<Item = &Address> {
        self.addresses.iter().filter(move |a| wanted.is(a.address))
    }
}

/// Whether some interface of this node has the address.
pub fn is_local(address: IpAddr) -> bool {
    let same = |a: &InterfaceAddress| match address {
        IpAddr::V4(v4) => a.address.is_some_and(|a| a.as_sockaddr_in().is_some_and(|a| a.ip() == v4)),
        IpAddr::V6(v6) => a.address.is_some_and(|a| a.as_sockaddr_in6().is_some_and(|a| a.ip() == v6)),
    };
    getifaddrs().is_ok_and(|mut list| list.any(|a| same(&a)))
}

fn entries(name: &str) -> io::Result<Vec<InterfaceAddress>> {
    Ok(getifaddrs()?.filter(|a| a.interface_name == name).collect())
}

/// `ADDRESS INDEX PREFIX SCOPE FLAGS NAME`, the numbers in hexadecimal.
fn ipv6_address(line: &str, interface: &str) -> Option<Address> {
    let mut words = line.split_whitespace();
    let (address, flags, name) = (words.next()?, words.nth(3)?, words.next()?);
    let address = Ipv6Addr::from_bits(u128::from_str_radix(address, 16).ok()?);
    let flags = u32::from_str_radix(flags, 16).ok()?;
    let usable = flags & UNUSABLE == 0 || flags & libc::IFA_F_OPTIMISTIC != 0;
    (name == interface).then_some(Address { address: address.into(), usable })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_interface_is_named() {
        let error = Interface::find("viplb-none0", &[]).unwrap_err();
        assert_eq!(error.to_string(), "interface viplb-none0 does not exist");
    }

    #[test]
    fn an_address_that_is_still_asked_about_or_somebody_elses_is_not_usable() {
        let line = |flags| format!("fe80000000000000984a5efffe2b1c0d 02 40 20 {flags}     eth0");
        let usable = |flags| ipv6_address(&line(flags), "eth0").map(|a| a.usable);
        assert_eq!(usable("80"), Some(true));
        assert_eq!((usable("c0"), usable("c8"), usable("c4")), (Some(false), Some(false), Some(true)));
        assert_eq!(ipv6_address(&line("80"), "eth1"), None);
        let address = ipv6_address(&line("80"), "eth0").unwrap().address;
        assert_eq!(address.to_string(), "fe80::984a:5eff:fe2b:1c0d");
        assert!(Wanted::LinkLocal.is(address) && !Wanted::Global.is(address) && !Wanted::Ipv4.is(address));
    }
}
