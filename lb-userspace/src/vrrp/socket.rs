//! The kernel as the election sees it: an interface, and its VRRP, neighbour and link sockets.
//!
//! Only `io` calls this. Nothing here blocks: all sockets are non-blocking, the driver waits in one `ppoll`.
//! All unsafe code of `vrrp` is in these files and in `realtime`.

use std::{fmt, io, net::IpAddr, os::fd::AsRawFd, time::Duration};

use nix::sys::time::TimeSpec;
use socket2::SockAddr;

use super::packet::{self, MAX_IPV6_ADDRESSES};

mod advert;
mod frame;
mod interface;
mod link;
mod peer;

pub use self::{
    advert::{AdvertSocket, Received},
    frame::{FrameSender, NeighbourSocket},
    interface::{Interface, is_local},
    link::{LinkNews, LinkSocket},
    peer::{PeerSocket, Told},
};

/// TC_PRIO_CONTROL: the kernel's queues send what we say before bulk data, as they do for keepalived. The highest that
/// needs no permission.
const PRIORITY_CONTROL: i32 = 6;

/// Why the election could not be started: one sentence each.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The interface of a virtual router is not there.
    #[error("interface {interface} does not exist")]
    NoInterface {
        /// Its name.
        interface: String,
    },
    /// Adverts need a source address that is not virtual itself.
    #[error(
        "interface {interface} has no {wanted} address of its own to send adverts from: {}",
        wanted.cure(interface)
    )]
    NoAddress {
        /// Its name.
        interface: String,
        /// Which kind of address.
        wanted: Wanted,
    },
    /// Unicast adverts are received at this address, so it must be here.
    #[error("virtual router {router}: its source {source_address} is no address of this node")]
    Source {
        /// The virtual router.
        router: String,
        /// The address.
        source_address: IpAddr,
    },
    /// Announcements need a hardware address.
    #[error("interface {interface} has no Ethernet address to announce the virtual addresses with")]
    NoHardwareAddress {
        /// Its name.
        interface: String,
    },
    /// An advert carries addresses of one family, in version 2 of IPv4, and has to fit into a packet.
    #[error(
        "virtual router {router} needs 1 to 255 IPv4 addresses, or in version 3 1 to {MAX_IPV6_ADDRESSES} IPv6 addresses: what is \
         more can be in `virtual_ipaddress_excluded`"
    )]
    Addresses {
        /// Its name.
        router: String,
    },
    /// Raw sockets are for root.
    #[error(
        "no permission to open the VRRP and neighbour sockets on {interface}: run as root or with CAP_NET_RAW and CAP_NET_ADMIN"
    )]
    NotPermitted {
        /// The interface.
        interface: String,
    },
    /// The kernel refused something else.
    #[error("cannot {act} on {interface}: {source}")]
    Socket {
        /// The interface.
        interface: String,
        /// What was tried.
        act: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The lease could not even be cleared.
    #[error("cannot clear the lease of virtual router {router}: {source}")]
    Lease {
        /// Its name.
        router: String,
        /// What the map said.
        source: io::Error,
    },
    /// The thread or its wake-up pipe.
    #[error("cannot start the VRRP thread: {0}")]
    Thread(#[source] io::Error),
}

/// Which address of an interface adverts are sent from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The first IPv4 address.
    Ipv4,
    /// An IPv6 address of the link: RFC 9568 §5.1.2.1 has them all sent from one.
    LinkLocal,
    /// An IPv6 address that a peer beyond the link can answer.
    Global,
}

impl Wanted {
    fn cure(self, interface: &str) -> String {
        let give = "give it one (`ip addr add`)";
        match self {
            Self::Ipv4 | Self::Global => give.to_owned(),
            Self::LinkLocal => {
                format!(
                    "switch IPv6 on (sysctl net.ipv6.conf.{interface}.disable_ipv6, addr_gen_mode) or {give}"
                )
            }
        }
    }

    /// Whether `address` is of this kind.
    pub fn is(self, address: IpAddr) -> bool {
        match self {
            Self::Ipv4 => address.is_ipv4(),
            Self::LinkLocal => packet::is_link_local(address),
            Self::Global => address.is_ipv6() && !packet::is_link_local(address),
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::LinkLocal => "IPv6 link-local",
            Self::Global => "global IPv6",
        })
    }
}

impl StartError {
    /// For `map_err`: what was tried on which interface.
    pub(super) fn on(interface: &str, act: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::PermissionDenied => Self::NotPermitted { interface: interface.to_owned() },
            _ => Self::Socket { interface: interface.to_owned(), act, source },
        }
    }
}

/// What [`wait`] waits for; made once, so that waiting allocates nothing.
pub fn readable(descriptor: &impl AsRawFd) -> libc::pollfd {
    libc::pollfd { fd: descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 }
}

/// Sleeps until one of `fds` has something or `timeout` is over (`None`: for ever). A signal ends it too.
pub fn wait(fds: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<()> {
    let timeout = timeout.map(TimeSpec::from);
    let timeout = timeout.as_ref().map_or(std::ptr::null(), |timeout| std::ptr::from_ref(timeout.as_ref()));
    let count = libc::nfds_t::try_from(fds.len()).map_err(io::Error::other)?;
    // SAFETY: `fds` and `timeout` are valid for the call, `count` is the length of `fds`; no signal mask is passed.
    if unsafe { libc::ppoll(fds.as_mut_ptr(), count, timeout, std::ptr::null()) } >= 0 {
        return Ok(());
    }
    for fd in fds {
        fd.revents = 0;
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) }
}

/// A `sockaddr_*` of the kernel's, for those that socket2 does not know.
///
/// `family` is the protocol family `T` belongs to, `fill` sets the fields that matter; the others are zero.
fn socket_address<T>(fill: impl FnOnce(&mut T)) -> io::Result<SockAddr> {
    const { assert!(size_of::<T>() <= size_of::<libc::sockaddr_storage>()) };
    // SAFETY: the storage is zeroed, aligned for and at least as large as every sockaddr, of which all zeroes are a
    // valid value; `length` is set to that type's size. Callers pass sockaddr types of libc only.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            fill(&mut *storage.cast::<T>());
            *length = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
            Ok(())
        })
    }?;
    Ok(address)
}

#[cfg(test)]
mod tests {
    use crate::vrrp::BootTime;

    #[test]
    fn the_clock_goes_on() {
        let before = BootTime::now();
        assert!(BootTime::now() >= before && before > BootTime(0));
    }
}
