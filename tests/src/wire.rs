//! Hosts in namespaces on one switch, two of which run the packet programs by themselves, without a daemon: what a test run
//! of a program cannot show (offloaded checksums, redirection, neighbour resolution) is shown here by real sockets.
//!
//! Hosts are named by a letter; `c` is the client, `s` the backend, `a` and `b` run the programs, `h` what they are compared with. The virtual address is on
//! no interface: only the programs answer for it. When a node's programs go, each packet that came in must have had its reason.

pub mod peers;
pub mod raw;
pub mod traffic;

use std::{net::IpAddr, process::Command};

use lb_common::{
    addr::{Mac, PROTO_TCP, PROTO_UDP, Port},
    lease::Lease,
    mode::Mode,
    service::{Backend, Interface, Path, Vip},
    settings::{Settings, SnatPorts},
};
use lb_userspace::{
    config::model::Hook,
    datapath::{
        load::Datapath,
        pins::Pins,
        tables::{Desired, DesiredService},
    },
    netlink::Netlink,
};

use crate::{
    books::{self, Books},
    down::Bpffs,
    netns::Netns,
    packets::{FAMILIES, Family, PORT},
    proc,
};

/// The hosts and their last octet, or group.
const HOSTS: [(char, u8); 5] = [('c', 100), ('s', 2), ('a', 7), ('b', 8), ('h', 9)];

/// The switch and its hosts.
pub struct Wire {
    name: String,
    spaces: Vec<Netns>,
}

impl Wire {
    /// Raises it, named after `test` and this process. `None`, with the reason printed, where the test cannot run.
    ///
    /// # Panics
    ///
    /// If the kernel refuses something.
    pub fn new(test: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("not run: network namespaces need root");
            return None;
        }
        if let Some(tool) = ["ip", "ethtool"].iter().find(|tool| proc::which(tool).is_none()) {
            eprintln!("not run: {tool} is not installed");
            return None;
        }
        let name = format!("vw{}{test}", std::process::id());
        let mut wire = Self { spaces: Vec::new(), name };
        let switch = wire.add("x");
        switch.ip("link add br0 up type bridge").expect("a bridge");
        for (host, number) in HOSTS {
            let space = wire.add(&host.to_string());
            let lines = format!(
                "link add eth0 address 02:00:00:00:00:{number:02x} type veth peer name to-{host} netns {x}\n\
                 addr add 172.18.0.{number}/24 dev eth0\n\
                 addr add fd12::{number}/64 dev eth0 nodad\n\
                 link set eth0 up\n",
                x = switch.name(),
            );
            space.ip_batch(&lines).expect("an interface");
            switch.ip(&format!("link set to-{host} master br0 up")).expect("a port");
        }
        Some(wire)
    }

    fn add(&mut self, host: &str) -> Netns {
        let space = Netns::create(format!("{}{host}", self.name)).expect("a namespace");
        self.spaces.push(space.clone());
        space
    }

    /// A host's namespace.
    pub fn host(&self, host: char) -> Netns {
        Netns::named(format!("{}{host}", self.name))
    }

    /// A host's hardware address.
    ///
    /// # Panics
    ///
    /// If there is no such host.
    pub fn mac(&self, host: char) -> Mac {
        Mac([2, 0, 0, 0, 0, number(host)])
    }

    /// The namespace of the switch, where each host's port is `to-HOST`.
    pub fn switch(&self) -> Netns {
        Netns::named(format!("{}x", self.name))
    }

    /// Has a host's kernel forward packets: without that it tells XDP no route.
    ///
    /// # Panics
    ///
    /// If a sysctl cannot be written.
    pub fn forwarding(&self, host: char) {
        for key in ["net/ipv4/conf/eth0/forwarding", "net/ipv6/conf/all/forwarding"] {
            self.host(host).sysctl(key, "1").expect("forwarding");
        }
    }

    /// Switches a host's checksum offloads off: checksums of what it sends are complete when they leave it, and those of
    /// what it receives are verified.
    ///
    /// # Panics
    ///
    /// If ethtool fails.
    pub fn without_offload(&self, host: char) {
        let mut ethtool = Command::new("ethtool");
        ethtool.args(["-K", "eth0", "tx", "off", "rx", "off"]);
        self.host(host).place(&mut ethtool).expect("the namespace");
        proc::finish(&mut ethtool).expect("ethtool");
    }

    /// Tells a host where the virtual addresses are.
    ///
    /// # Panics
    ///
    /// If `ip` fails.
    pub fn tell(&self, host: char, mac: Mac) {
        for family in FAMILIES {
            let line = format!("neigh replace {} lladdr {mac} dev eth0 nud permanent", family.vip());
            self.host(host).ip(&line).expect("a neighbour");
        }
    }

    /// Loads the programs on a host, with a TCP and a UDP service in each family and the backend `s`.
    ///
    /// # Panics
    ///
    /// If the kernel refuses them.
    pub fn node(&self, host: char, virtual_mac: bool) -> Node {
        self.node_with(host, virtual_mac, Hook::Auto, Mode::Nat)
    }

    /// Likewise with this hook, and the backend in `mode`. XDP is tried with the backend and the client as neighbours.
    ///
    /// # Panics
    ///
    /// If the kernel refuses them.
    pub fn node_with(&self, host: char, virtual_mac: bool, hook: Hook, mode: Mode) -> Node {
        self.node_between(host, virtual_mac, hook, (mode, false))
    }

    /// Likewise; `crossed` gives each service the backend's address of the other family.
    ///
    /// # Panics
    ///
    /// If the kernel refuses them.
    pub fn node_between(
        &self,
        host: char,
        virtual_mac: bool,
        hook: Hook,
        (mode, crossed): (Mode, bool),
    ) -> Node {
        self.node_of(host, hook, 64, |desired| {
            if virtual_mac {
                desired.vips.iter_mut().zip(FAMILIES).for_each(|((_, vip), family)| {
                    vip.mac = Mac::virtual_router(family == Family::V6, 51);
                });
            }
            desired.backends.iter_mut().for_each(|b| b.mode = mode as u8);
            if crossed {
                desired.backends.reverse();
                desired.paths.reverse();
            }
        })
    }

    /// Likewise with room for `flows` flows, and tables as `edit` leaves them.
    ///
    /// # Panics
    ///
    /// If the kernel refuses them.
    pub fn node_of(&self, host: char, hook: Hook, flows: u32, edit: impl FnOnce(&mut Desired)) -> Node {
        let bpffs = Bpffs::claim(&format!("{}{host}", self.name)).expect("bpffs");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let pins = Pins::of(&format!("{}{host}", self.name));
        let (mut datapath, ifindex) = self
            .host(host)
            .run(|| {
                let _inside = runtime.enter();
                let ifindex = nix::net::if_::if_nametoindex("eth0").expect("eth0");
                let opened = Datapath::open(&pins, &["eth0".into()], hook, flows);
                let mut datapath = opened.expect("programs load");
                let neighbours = ['s', 'c'].map(|host| IpAddr::from([172, 18, 0, number(host)]));
                let port = runtime.block_on(async {
                    let netlink = Netlink::open().expect("netlink");
                    netlink.port("eth0", ifindex, &neighbours).await.expect("a port")
                });
                datapath.raise_xdp(&[port]);
                (datapath, ifindex)
            })
            .expect("the namespace");
        let mut desired = desired(ifindex, self.mac(host));
        desired.paths = FAMILIES.map(|f| own_way(f, host)).to_vec();
        edit(&mut desired);
        for (way, proven) in desired.interfaces[0].1.ways.iter_mut().zip(&datapath.attached[0].ways) {
            *way = *proven;
        }
        datapath.tables.publish(&desired).expect("tables are written");
        let mut node = Node { desired, datapath: Some(datapath), runtime, books: None, _bpffs: bpffs };
        node.books = Books::open(&self.host(host), &["eth0"], || node.accounted());
        node
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for space in &self.spaces {
            let _ = space.delete();
        }
    }
}

fn number(host: char) -> u8 {
    HOSTS.into_iter().find(|(h, _)| *h == host).expect("a host of this wire").1
}

/// The programs on a host.
pub struct Node {
    desired: Desired,
    datapath: Option<Datapath>,
    runtime: tokio::runtime::Runtime,
    books: Option<Books>,
    _bpffs: Bpffs,
}

impl Node {
    /// The kernel's side.
    ///
    /// # Panics
    ///
    /// Never: it is open until dropped.
    pub fn kernel(&mut self) -> &mut Datapath {
        self.datapath.as_mut().expect("open until dropped")
    }

    /// Tells the programs that the ways to backends take packets of up to `mtu` bytes.
    ///
    /// # Panics
    ///
    /// If a map refuses it.
    pub fn narrow(&mut self, mtu: u16) {
        for path in &mut self.desired.paths {
            (path.mtu, path.least) = (mtu, mtu);
        }
        let desired = self.desired.clone();
        self.kernel().tables.publish(&desired).expect("tables are written");
    }

    /// How many more packets came in than have a reason; `None` where that cannot be compared.
    pub fn unaccounted(&mut self) -> Option<i64> {
        let books = self.books.take()?;
        let missing = books.missing(|| self.accounted()).expect("counters");
        self.books = Some(books);
        Some(missing)
    }

    fn accounted(&mut self) -> u64 {
        books::accounted(self.kernel().tables.maps()).expect("counters")
    }

    /// Writes the lease of both addresses' router.
    ///
    /// # Panics
    ///
    /// If the map refuses it.
    pub fn set_lease(&mut self, lease: Lease) {
        self.kernel().tables.maps().leases.set(0, lease, 0).expect("lease");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(books) = self.books.take().filter(|_| !std::thread::panicking())
            && let Err(e) = books.balance(|| self.accounted())
        {
            panic!("{e:#}: {:?}", lb_userspace::datapath::counters::reasons(self.kernel().tables.maps()));
        }
        let _inside = self.runtime.enter();
        if let Some(datapath) = self.datapath.take() {
            let closed = datapath.close();
            if !std::thread::panicking() {
                closed.expect("pins removed");
            }
        }
    }
}

/// The way from a host to a backend of this family.
fn own_way(family: Family, host: char) -> Path {
    let source = family.backend(number(host) - 2).into();
    Path { source, mtu: 1500, least: 1500, ..Path::default() }
}

fn desired(ifindex: u32, mac: Mac) -> Desired {
    let port = Port::new(PORT);
    let backend = |f: Family| Backend { addr: f.backend(0).into(), ifindex, port, ..Backend::default() };
    let vip = |f: Family| (f.vip().into(), Vip::default());
    let service = |(ring, f): (u32, Family), proto| {
        let addr = IpAddr::into(f.vip());
        DesiredService { addr, port, proto, snat: vec![addr], ring: vec![ring], ..DesiredService::default() }
    };
    let services = (0..).zip(FAMILIES).flat_map(|f| [PROTO_TCP, PROTO_UDP].map(|proto| service(f, proto)));
    Desired {
        access: Vec::new(),
        settings: Settings {
            schema: lb_common::maps::SCHEMA,
            snat_ports: SnatPorts::around(32768, 60999),
            ..Settings::default()
        },
        vips: FAMILIES.map(vip).to_vec(),
        interfaces: vec![(ifindex, Interface { mac, ..Interface::default() })],
        backends: FAMILIES.map(backend).to_vec(),
        paths: Vec::new(),
        limits: Vec::new(),
        services: services.collect(),
    }
}
