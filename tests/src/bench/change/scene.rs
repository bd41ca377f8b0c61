//! Where `bench change` takes place: a client, three backends, viplb on one or two nodes, and HAProxy on one, in namespaces on one
//! switch. Whoever's turn it is has all of the load; the others are not there.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    kernel::Counts,
    load::{Shape, Toll},
};
use crate::{
    bench::flood::sockets::{End, READY},
    hosts::{Daemon, Hosts},
    netns::Netns,
    proc,
};

/// The service's port, and the backends'.
const PORT: u16 = 7000;
const VIP: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 201);
const HAPROXY: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 9);
const NODES: [(&str, Ipv4Addr, u8); 2] =
    [("n1", Ipv4Addr::new(172, 18, 0, 7), 101), ("n2", Ipv4Addr::new(172, 18, 0, 8), 100)];
const BACKENDS: [(&str, Ipv4Addr); 3] = [
    ("d1", Ipv4Addr::new(172, 18, 0, 2)),
    ("d2", Ipv4Addr::new(172, 18, 0, 3)),
    ("d3", Ipv4Addr::new(172, 18, 0, 4)),
];
/// Room for flows. New connections hold theirs for some seconds.
pub const FLOWS: u32 = 32_768;
/// Shared by the nodes of a pair.
const KEY: &str = "1 0123456789abcdef0123456789abcdef\n";
/// For a program to begin or to end.
const LIMIT: Duration = Duration::from_secs(20);

/// How the backends are to stand: what a reload changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    /// The second one's weight.
    pub weight: u16,
    /// Whether there is a third.
    pub third: bool,
}

impl Variant {
    /// Of the `i`th reload: each differs from the one before in one backend. The third's connections stay while it goes.
    pub fn of(i: u16) -> Self {
        Self { weight: 1 + i.div_ceil(2) % 5, third: i % 4 < 2 }
    }

    fn backends(self) -> impl Iterator<Item = (&'static str, Ipv4Addr, u16)> {
        let weights = [10, self.weight, 10];
        BACKENDS.into_iter().zip(weights).take(if self.third { 3 } else { 2 }).map(|((n, a), w)| (n, a, w))
    }
}

/// The namespaces, with backends that serve.
pub struct Scene {
    hosts: Hosts,
    _backends: Vec<End>,
}

impl Scene {
    /// Raises them.
    pub fn raise() -> Result<Self> {
        let mut hosts = Hosts::new("change").context("the bench cannot run here")?;
        let nodes = NODES.map(|(name, address, _)| (name, address));
        let others = [("c", Ipv4Addr::new(172, 18, 0, 100)), ("h", HAPROXY)];
        for (name, address) in BACKENDS.into_iter().chain(nodes).chain(others) {
            hosts.plug(name, "eth0", &[&format!("{address}/16")], "x");
        }
        hosts.host("c").sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
        hosts.secret("sync.key", KEY);
        let mut backends = Vec::new();
        for (name, address) in BACKENDS {
            let mut backend = End::start(
                &hosts.host(name),
                &["change-server", &SocketAddr::from((address, PORT)).to_string()],
            )?;
            ensure!(backend.line()? == READY, "a backend does not listen");
            backends.push(backend);
        }
        Ok(Self { hosts, _backends: backends })
    }

    /// The hosts.
    pub fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// A node's file. Of a pair both replicate their flows.
    pub fn viplb_toml(node: usize, pair: bool, variant: Variant) -> String {
        let (_, _, priority) = NODES[node];
        let backends: Vec<_> = variant
            .backends()
            .map(|(name, address, weight)| {
                format!("{{ name = \"{name}\", address = \"{address}\", weight = {weight} }}")
            })
            .collect();
        let service = |name: &str, protocol: &str| {
            format!(
                "[service.{name}]\nlisten = \"{VIP}:{PORT}\"\nprotocol = \"{protocol}\"\nscheduler = \"wrr\"\n\
                 backend = [{}]\ncheck = {{ type = \"tcp\", interval = \"500ms\", rise = 1, fall = 3 }}\n\
                 timeouts = {{ closing = \"2s\", closed = \"2s\" }}\n",
                backends.join(", ")
            )
        };
        let sync = match NODES[1 - node] {
            (_, other, _) if pair => format!("[sync]\npeers = [\"{other}\"]\nkey_file = \"sync.key\"\n"),
            _ => String::new(),
        };
        format!(
            "[vrrp.vip]\ninterface = \"eth0\"\nvirtual_router_id = 51\npriority = {priority}\nversion = 3\n\
             advert_int = \"100ms\"\nvirtual_ipaddress = [\"{VIP}\"]\n{sync}{}{}",
            service("tcp", "tcp"),
            service("udp", "udp")
        )
    }

    /// Starts viplb on a node and waits until it knows all backends.
    pub fn start_viplb(&self, node: usize, pair: bool) -> Daemon {
        let config = Self::viplb_toml(node, pair, Variant::of(0));
        let daemon = self.hosts.start_in_traffic(NODES[node].0, FLOWS, &config);
        ["tcp", "udp"].iter().for_each(|service| daemon.wait_up(service, 3));
        daemon
    }

    /// Namespaces in which a loss on the way of a request is counted: all ends of TCP connections.
    fn ends(&self) -> Vec<Netns> {
        ["c", "h", "n1", "n2"]
            .into_iter()
            .chain(BACKENDS.map(|(name, _)| name))
            .map(|n| self.hosts.host(n))
            .collect()
    }

    /// Begins a load through viplb, or through HAProxy, which takes no datagrams: connections have their part too.
    pub fn load(&self, haproxy: bool, shape: Shape) -> Result<Load> {
        let to = SocketAddr::from((if haproxy { HAPROXY } else { VIP }, PORT));
        let shape = if haproxy {
            Shape {
                to,
                datagrams_to: None,
                requests: shape.requests + shape.datagrams,
                datagrams: 0,
                ..shape
            }
        } else {
            Shape { to, datagrams_to: Some(to), ..shape }
        };
        let mut client =
            End::start(&self.hosts.host("c"), &["change-client", &serde_json::to_string(&shape)?])?;
        ensure!(client.line()? == READY, "the client does not open its connections");
        let (spaces, before) = (self.ends(), Counts::of(&self.ends())?);
        client.say("begin")?;
        Ok(Load { client, spaces, before })
    }
}

/// A load that is under way.
pub struct Load {
    client: End,
    spaces: Vec<Netns>,
    before: Counts,
}

impl Load {
    /// Ends it; what it has come to.
    pub fn end(mut self) -> Result<(Toll, Counts)> {
        self.client.say("end")?;
        let line = self.client.line()?;
        let toll = serde_json::from_str(&line).with_context(|| format!("the client says: {line}"))?;
        Ok((toll, Counts::of(&self.spaces)?.since(self.before)))
    }
}

/// HAProxy as its package runs it: a master with workers, which hands its listening sockets over at a reload. Ends when dropped.
pub struct Haproxy<'a> {
    scene: &'a Scene,
    file: PathBuf,
    master: Child,
}

impl<'a> Haproxy<'a> {
    /// Starts it.
    pub fn start(scene: &'a Scene) -> Result<Self> {
        let file = std::env::temp_dir().join(format!("change-haproxy-{}.cfg", std::process::id()));
        Self::write(&file, Variant::of(0))?;
        let master = Self::spawn(scene, &file)?;
        Ok(Self { scene, file, master })
    }

    fn write(file: &PathBuf, variant: Variant) -> Result<()> {
        let servers: String = variant
            .backends()
            .map(|(name, address, weight)| {
                format!("    server {name} {address}:{PORT} check inter 500ms weight {weight}\n")
            })
            .collect();
        let text = format!(
            "global\n    nbthread 2\n    stats socket {}.sock mode 600 level admin expose-fd listeners\n\
             defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 1h\n    timeout server 1h\n\
             listen app\n    bind {HAPROXY}:{PORT}\n    balance roundrobin\n{servers}",
            file.display()
        );
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    fn spawn(scene: &Scene, file: &PathBuf) -> Result<Child> {
        let mut command = Command::new("haproxy");
        command.args(["-W", "-db", "-f"]).arg(file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let master = scene.hosts.host("h").spawn(command)?;
        let to = SocketAddr::from((HAPROXY, PORT));
        let begun = Instant::now();
        while scene.hosts.host("c").run(|| std::net::TcpStream::connect(to))?.is_err() {
            ensure!(begun.elapsed() < LIMIT, "HAProxy does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(master)
    }

    fn workers(&self) -> Vec<Pid> {
        let pid = self.master.id();
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        text.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
    }

    /// Has it take in another configuration, and waits until a new worker is there.
    pub fn reload(&self, variant: Variant) -> Result<()> {
        Self::write(&self.file, variant)?;
        let before = self.workers();
        kill(Pid::from_raw(self.master.id() as i32), Signal::SIGUSR2)?;
        let begun = Instant::now();
        while self.workers().iter().all(|pid| before.contains(pid)) {
            ensure!(begun.elapsed() < LIMIT, "HAProxy has no new worker");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Ends it and starts it again.
    pub fn restart(&mut self) -> Result<()> {
        self.end()?;
        self.master = Self::spawn(self.scene, &self.file)?;
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let all = self.workers();
        kill(Pid::from_raw(self.master.id() as i32), Signal::SIGTERM)?;
        let begun = Instant::now();
        while self.master.try_wait()?.is_none() || !all.iter().all(|pid| proc::has_ended(*pid)) {
            if begun.elapsed() > LIMIT {
                bail!("HAProxy does not end");
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Haproxy<'_> {
    fn drop(&mut self) {
        // Workers end with their master's socket, but those of former reloads have connections yet.
        proc::signal(&self.workers(), Signal::SIGKILL);
        let _ = self.master.kill();
        let _ = self.master.wait();
        let _ = fs::remove_file(&self.file);
        let _ = fs::remove_file(format!("{}.sock", self.file.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reload_changes_one_backend() {
        for i in 0..100 {
            let (a, b) = (Variant::of(i), Variant::of(i + 1));
            assert!((a.weight != b.weight) != (a.third != b.third), "{i}: {a:?} {b:?}");
        }
    }
}
