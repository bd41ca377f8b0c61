//! The lab's shape: which nodes there are, where they keep their files, and how the whole is raised.
//!
//! Callers: the `viplb-lab` binary and the tests. What a lab is made of follows from its [`Plan`] alone; the plan
//! is kept in `/run/viplb-lab/PREFIX/lab.json` for later commands. Raising never reuses what an earlier lab left.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{console::Console, daemon, down, galera, keepalived, netns::Netns, node, standin};

/// The virtual address of the lab.
pub const VIP: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 201);
/// Port of the databases and of the service.
pub const DB_PORT: u16 = 3306;
/// Most database nodes a lab can have.
pub const DB_MAX: u8 = 5;
/// Prefix of a lab that asks for none.
pub const DEFAULT_PREFIX: &str = "viplb";

const STATE_DIR: &str = "/run/viplb-lab";
const DATA_DIR: &str = "/var/tmp/viplb-lab";

/// What runs in the database nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Engine {
    /// A real MariaDB Galera cluster.
    Galera,
    /// The embedded stand-in.
    Standin,
}

/// What runs in a balancer node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Balancer {
    /// `viplb run`.
    Viplb,
    /// The real keepalived, as a VRRP peer.
    Keepalived,
    /// Nothing.
    Nothing,
}

/// Everything that decides what a lab is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// First part of every name the lab uses.
    pub prefix: String,
    /// Number of database nodes, 1 to [`DB_MAX`].
    pub db: u8,
    /// What runs in the database nodes.
    pub engine: Engine,
    /// What runs in h1.
    pub h1: Balancer,
    /// What runs in h2.
    pub h2: Balancer,
}

/// What a node is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// h1, h2.
    Balancer(Balancer),
    /// db1 … db5.
    Database(Engine),
    /// The client.
    Client,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// `h1`, `db2`, `client`.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Its address on the bridge.
    pub addr: Ipv4Addr,
}

impl Node {
    fn new(name: impl Into<String>, role: Role, last: u8) -> Self {
        Node { name: name.into(), role, addr: Ipv4Addr::new(172, 18, 0, last) }
    }

    /// Its link-layer address, formed from the address as Docker does.
    pub fn mac(&self) -> [u8; 6] {
        let [a, b, c, d] = self.addr.octets();
        [0x02, 0x42, a, b, c, d]
    }

    /// VRRP priority of a balancer node.
    pub fn priority(&self) -> u8 {
        if self.name == "h1" { 101 } else { 100 }
    }
}

/// A lab that is up (or half up).
#[derive(Debug, Clone)]
pub struct Lab {
    plan: Plan,
}

impl Lab {
    /// A lab of this shape; nothing is made yet.
    pub fn of(plan: Plan) -> Result<Self> {
        check_prefix(&plan.prefix)?;
        if !(1..=DB_MAX).contains(&plan.db) {
            bail!("--db {} is out of range: a lab has 1 to {DB_MAX} database nodes", plan.db);
        }
        Ok(Lab { plan })
    }

    /// The lab of that prefix, as it was raised.
    pub fn open(prefix: &str) -> Result<Self> {
        check_prefix(prefix)?;
        let file = state_dir(prefix).join("lab.json");
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(_) if !bridge(prefix).exists() => {
                bail!("no lab `{prefix}` is up: `cargo xtask lab up` raises one")
            }
            Err(_) => bail!("lab `{prefix}` is only half up: `cargo xtask lab down` removes what there is"),
        };
        let plan = serde_json::from_str(&text).with_context(|| format!("{} is damaged", file.display()))?;
        Lab::of(plan)
    }

    /// Its plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// All nodes: balancers, databases, client.
    pub fn nodes(&self) -> Vec<Node> {
        let mut nodes = vec![
            Node::new("h1", Role::Balancer(self.plan.h1), 7),
            Node::new("h2", Role::Balancer(self.plan.h2), 8),
        ];
        nodes.extend(self.databases());
        nodes.push(Node::new("client", Role::Client, 100));
        nodes
    }

    /// The database nodes.
    pub fn databases(&self) -> Vec<Node> {
        let role = Role::Database(self.plan.engine);
        (1..=self.plan.db).map(|i| Node::new(format!("db{i}"), role, i + 1)).collect()
    }

    /// The node of that name; the error lists those there are.
    pub fn node(&self, name: &str) -> Result<Node> {
        let nodes = self.nodes();
        let names: Vec<&str> = nodes.iter().map(|n| n.name.as_str()).collect();
        match nodes.iter().find(|n| n.name == name) {
            Some(node) => Ok(node.clone()),
            None => bail!("no node `{name}` in this lab; it has {}", names.join(", ")),
        }
    }

    /// The namespace of a node.
    pub fn netns(&self, node: &Node) -> Netns {
        Netns::named(format!("{}-{}", self.plan.prefix, node.name))
    }

    /// The namespace that holds the bridge.
    pub fn bridge(&self) -> Netns {
        bridge(&self.plan.prefix)
    }

    /// Name of a balancer node as viplb knows it: its pins and sockets are named so.
    pub fn viplb_name(&self, node: &Node) -> String {
        viplb_name(&self.plan.prefix, &node.name)
    }

    /// Configuration and log of a node.
    pub fn node_dir(&self, node: &Node) -> PathBuf {
        state_dir(&self.plan.prefix).join(&node.name)
    }

    /// Bulky files of a database node, readable by the database's user.
    pub fn data_dir(&self, node: &Node) -> PathBuf {
        data_dir(&self.plan.prefix).join(&node.name)
    }

    /// Unix socket of a database node.
    pub fn db_socket(&self, node: &Node) -> PathBuf {
        self.data_dir(node).join("mysqld.sock")
    }

    /// Raises the lab; on an error it is left as far as it got, for [`down::down`].
    pub fn up(plan: Plan, console: &Console) -> Result<Self> {
        let lab = Lab::lay(plan, console)?;
        lab.start_databases(console)?;
        for node in lab.nodes() {
            if let Role::Balancer(Balancer::Viplb | Balancer::Keepalived) = node.role {
                node::start(&lab, &node, console)?;
            }
        }
        Ok(lab)
    }

    /// Raises its network with nothing running in it; on an error it is left as far as it got.
    pub fn lay(plan: Plan, console: &Console) -> Result<Self> {
        let lab = Lab::of(plan)?;
        need_root()?;
        if is_up(&lab.plan.prefix) {
            let prefix = &lab.plan.prefix;
            bail!("a lab `{prefix}` is already up: `cargo xtask lab down` removes it");
        }
        daemon::check_binary(&lab)?;
        keepalived::check_binary(&lab)?;
        lab.record()?;
        lab.raise_network()?;
        console.say(format!("network: bridge 172.18.0.0/16 and {} nodes", lab.nodes().len()));
        Ok(lab)
    }

    fn record(&self) -> Result<()> {
        down::claim_mounts(&self.plan.prefix)?;
        let dir = state_dir(&self.plan.prefix);
        for node in self.nodes() {
            fs::create_dir_all(self.node_dir(&node))?;
        }
        fs::create_dir_all(data_dir(&self.plan.prefix))?;
        let text = serde_json::to_string_pretty(&self.plan)?;
        fs::write(dir.join("lab.json"), text).context("cannot record the lab")
    }

    fn raise_network(&self) -> Result<()> {
        let bridge = Netns::create(self.bridge().name())?;
        bridge.ip_batch(
            "link add br0 type bridge forward_delay 0\n\
             addr add 172.18.0.1/16 dev br0\n\
             link set br0 up\n\
             route add prohibit default\n",
        )?;
        // There is no way out of the lab, and nodes are told so: a name look-up fails at once.
        bridge.sysctl("net/ipv4/ip_forward", "1")?;
        // A port taken out of the bridge (`cut --silent`) must not answer for the gateway.
        bridge.sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
        for node in self.nodes() {
            let ns = Netns::create(self.netns(&node).name())?;
            let mac = mac_text(node.mac());
            bridge.ip_batch(&format!(
                "link add {0} type veth peer name eth0 address {mac} netns {1}\n\
                 link set {0} master br0 up\n",
                node.name,
                ns.name()
            ))?;
            ns.ip_batch(&format!(
                "addr add {}/16 brd + dev eth0\nlink set eth0 up\nroute add default via 172.18.0.1\n",
                node.addr
            ))?;
        }
        Ok(())
    }

    pub(crate) fn start_databases(&self, console: &Console) -> Result<()> {
        match self.plan.engine {
            Engine::Galera => galera::start_cluster(self, console),
            Engine::Standin => {
                self.databases().iter().try_for_each(|db| standin::start_node(self, db, console))
            }
        }
    }
}

/// Where the states of all labs are kept.
pub(crate) fn state_root() -> &'static Path {
    Path::new(STATE_DIR)
}

/// State directory of a lab.
pub fn state_dir(prefix: &str) -> PathBuf {
    state_root().join(prefix)
}

/// Where the data of all labs are kept.
pub(crate) fn data_root() -> &'static Path {
    Path::new(DATA_DIR)
}

/// Data directory of a lab.
pub fn data_dir(prefix: &str) -> PathBuf {
    data_root().join(prefix)
}

/// The namespace of a lab's bridge.
pub fn bridge(prefix: &str) -> Netns {
    Netns::named(format!("{prefix}-br"))
}

/// Name of a balancer node as viplb knows it.
pub fn viplb_name(prefix: &str, node: &str) -> String {
    if prefix == DEFAULT_PREFIX { node.to_owned() } else { format!("{prefix}-{node}") }
}

/// Whether anything of such a lab exists.
pub fn is_up(prefix: &str) -> bool {
    bridge(prefix).exists() || state_dir(prefix).exists()
}

/// `02:42:ac:12:00:07`.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

/// Seconds since 1970.
pub fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn need_root() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the lab makes network namespaces and must run as root");
    }
    if crate::proc::which("ip").is_none() {
        bail!("no `ip` found: install the package iproute2");
    }
    Ok(())
}

fn check_prefix(prefix: &str) -> Result<()> {
    let fits = prefix.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if prefix.is_empty() || prefix.len() > 20 || !fits {
        bail!("--prefix `{prefix}` does not do: use 1 to 20 lower-case letters and digits");
    }
    Ok(())
}
