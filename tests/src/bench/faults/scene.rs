//! The scene of `bench faults`: three real Galera nodes, viplb and two HAProxies in front of them, one client.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    console::Console,
    daemon,
    down::down,
    lab::{Balancer, DB_PORT, Engine, Lab, Node, Plan, VIP},
    node, proc,
    sql::{HAPROXY, MONITOR},
    vip,
};

/// For a cluster and its checks to come to order.
const LIMIT: Duration = Duration::from_secs(120);
/// Of viplb's service for the one writer.
const WRITER_PORT: u16 = 3307;
/// Of the HAProxy that shuts sessions down.
const SHUTTING_PORT: u16 = 3316;

/// Who stands in front of the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    /// viplb.
    Viplb,
    /// HAProxy as it comes.
    Haproxy,
    /// HAProxy with `on-marked-down shutdown-sessions`.
    Shutting,
}

impl Product {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Viplb, Self::Haproxy, Self::Shutting];
    /// All but viplb.
    pub const PEERS: [Self; 2] = [Self::Haproxy, Self::Shutting];

    /// Its name in the rows.
    pub fn word(self) -> &'static str {
        match self {
            Self::Viplb => "viplb",
            Self::Haproxy => "HAProxy",
            Self::Shutting => "HAProxy, shutdown-sessions",
        }
    }

    /// Where its clients connect to.
    pub fn target(self) -> SocketAddr {
        let haproxy = Ipv4Addr::new(172, 18, 0, 8);
        match self {
            Self::Viplb => (VIP, DB_PORT).into(),
            Self::Haproxy => (haproxy, DB_PORT).into(),
            Self::Shutting => (haproxy, SHUTTING_PORT).into(),
        }
    }
}

/// Where viplb's service for the one writer is.
pub fn writer() -> SocketAddr {
    (VIP, WRITER_PORT).into()
}

/// A scene that is up; it is taken down when dropped.
#[derive(Debug)]
pub struct Scene {
    lab: Lab,
    haproxy: Option<Child>,
}

impl Scene {
    /// Raises it.
    pub fn raise(prefix: &str, console: &Console) -> Result<Self> {
        let (engine, h1, h2) = (Engine::Galera, Balancer::Viplb, Balancer::Nothing);
        let plan = Plan { prefix: prefix.to_owned(), db: 3, engine, h1, h2 };
        if crate::lab::is_up(prefix) {
            bail!("a lab `{prefix}` is already up: `cargo xtask lab --prefix {prefix} down` removes it");
        }
        let mut scene = Scene { lab: Lab::of(plan)?, haproxy: None };
        scene.build(console)?;
        Ok(scene)
    }

    fn build(&mut self, console: &Console) -> Result<()> {
        Lab::lay(self.lab.plan().clone(), &Console::quiet())?;
        let h1 = self.lab.node("h1")?;
        let file = self.lab.node_dir(&h1).join("viplb.toml");
        fs::write(&file, self.viplb_toml(&h1))?;
        proc::finish(Command::new(daemon::binary()?).args(["check", "-c"]).arg(&file))?;
        self.lab.start_databases(console)?;
        node::start(&self.lab, &h1, &Console::quiet())?;
        self.start_haproxy()
    }

    /// Its lab.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The node that things happen to.
    pub fn victim(&self) -> Result<Node> {
        self.lab.node("db3")
    }

    /// The client.
    pub fn client(&self) -> Result<Node> {
        self.lab.node("client")
    }

    /// Checks twice a second, two of which decide, on both products. HAProxy asks faster while it doubts, as viplb does.
    fn viplb_toml(&self, h1: &Node) -> String {
        let (user, password) = (MONITOR.user, MONITOR.password.unwrap_or_default());
        let check = format!(
            "check = {{ type = \"galera\", user = \"{user}\", password = \"{password}\", interval = \"500ms\", \
             fast_interval = \"200ms\", timeout = \"400ms\", rise = 2, fall = 2 }}\n"
        );
        let backend = |(db, priority): (&Node, i32)| {
            format!(
                "{{ name = \"{}\", address = \"{}:{DB_PORT}\", priority = {priority} }}",
                db.name, db.addr
            )
        };
        let databases = self.lab.databases();
        let backends: Vec<String> = databases.iter().zip([2, 1, 0]).map(backend).collect();
        let backends = format!("backend = [{}]\n{check}", backends.join(", "));
        let text = daemon::configuration(&self.lab, h1);
        let vrrp = text.split_once("[service.").map_or(text.as_str(), |(before, _)| before);
        format!(
            "{vrrp}[service.all]\nlisten = \"{VIP}:{DB_PORT}\"\n{backends}\
             [service.write]\nlisten = \"{VIP}:{WRITER_PORT}\"\nrole = \"writer\"\n{backends}"
        )
    }

    fn haproxy_cfg(&self) -> String {
        let mut text = format!(
            "global\n  maxconn 4000\n  stats socket {} level admin\ndefaults\n  mode tcp\n  timeout connect 5s\n  \
             timeout client 1h\n  timeout server 1h\n  timeout check 400ms\n  option redispatch 1\n  retries 3\n",
            self.haproxy_socket().display()
        );
        for product in Product::PEERS {
            let option = if product == Product::Shutting { " on-marked-down shutdown-sessions" } else { "" };
            text += &format!(
                "listen {product:?}\n  bind {}\n  balance roundrobin\n  option mysql-check user {}\n  \
                 default-server inter 500ms fastinter 200ms rise 2 fall 2{option}\n",
                product.target(),
                HAPROXY.user
            );
            for db in self.lab.databases() {
                text += &format!("  server {} {}:{DB_PORT} check\n", db.name, db.addr);
            }
        }
        text
    }

    fn haproxy_socket(&self) -> PathBuf {
        crate::lab::state_dir(&self.lab.plan().prefix).join("haproxy.sock")
    }

    fn start_haproxy(&mut self) -> Result<()> {
        let h2 = self.lab.node("h2")?;
        let file = self.lab.node_dir(&h2).join("haproxy.cfg");
        fs::write(&file, self.haproxy_cfg())?;
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&file).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        self.haproxy = Some(self.lab.netns(&h2).spawn(command)?);
        Ok(())
    }

    /// Waits until viplb owns the address and everybody holds all nodes for good.
    pub fn settle(&self, console: &Console) -> Result<()> {
        let settled = console.wait_for(LIMIT, || {
            let up = self.viplb_up("all")? == 3 && self.viplb_up("write")? == 1 && self.haproxy_up() == 6;
            Ok(up && vip::owners(&self.lab)? == ["h1"])
        })?;
        if !settled {
            let log = self.lab.node_dir(&self.lab.node("h1")?).join("viplb.log");
            bail!("not all nodes are up after {LIMIT:?}; the end of viplb's log:\n{}", proc::tail(&log, 20));
        }
        Ok(())
    }

    fn viplb_up(&self, service: &str) -> Result<u64> {
        let Ok(status) = daemon::status(&self.lab, &self.lab.node("h1")?) else { return Ok(0) };
        let services = status["services"].as_array().context("status without services")?;
        let service = services.iter().find(|s| s["name"] == service).context("status lacks a service")?;
        let backends = service["backends"].as_array().context("a service without backends")?;
        let serves = |b: &&serde_json::Value| b["state"] == "up" && b["part"] != "standby";
        Ok(backends.iter().filter(serves).count() as u64)
    }

    /// How viplb's service for all holds a node.
    pub fn viplb_state(&self, db: &Node) -> Option<String> {
        let status = daemon::status(&self.lab, &self.lab.node("h1").ok()?).ok()?;
        let service = status["services"].as_array()?.iter().find(|s| s["name"] == "all")?.clone();
        let backend = service["backends"].as_array()?.iter().find(|b| b["name"] == db.name.as_str())?;
        backend["state"].as_str().map(str::to_owned)
    }

    /// Servers of both HAProxies that are up.
    fn haproxy_up(&self) -> usize {
        let ask = || -> std::io::Result<String> {
            let mut stream = UnixStream::connect(self.haproxy_socket())?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(b"show stat -1 4 -1\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        // proxy,server,…; the 18th column is the status.
        let text = ask().unwrap_or_default();
        text.lines().filter(|line| line.split(',').nth(17) == Some("UP")).count()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(child) = &mut self.haproxy {
            let _ = child.kill();
            let _ = child.wait();
        }
        let prefix = &self.lab.plan().prefix;
        if let Err(e) = down(prefix, &Console::quiet()) {
            eprintln!("the lab is not down: {e:#}; `cargo xtask lab --prefix {prefix} down` tries again");
        }
    }
}
