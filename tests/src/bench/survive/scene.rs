//! What survivors are counted in: two balancers, four backends and a client in namespaces of a lab of their own, with viplb or one
//! of what it is compared with in the balancers. A scene that goes out of scope is taken down.

use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::OpenOptionsExt,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::{
    peers::{self, Peer},
    session,
    talk::{Answer, Order, Shape},
};
use crate::{
    bench::{
        flood::sockets::{End, READY},
        scene::{FAST_ADVERT_INT, FAST_PRIORITIES, LIMIT, Profile},
    },
    console::Console,
    daemon,
    down::down,
    galera, keepalived,
    lab::{Balancer, DB_PORT, Engine, Lab, Node, Plan, VIP},
    proc,
    sql::{self, MONITOR, ROOT, Server},
    standin,
};

/// Port of the service whose connections are counted.
pub const PORT: u16 = 7000;
/// Backends of that service.
const BACKENDS: u8 = 4;
/// Connections of one client process; the system lets a process have some 20,000 files open.
const EACH: u32 = 14_000;
/// Requests of all active connections together, a second: what balancers, clients and backends on two processors carry easily.
const REQUESTS: u32 = 5_000;
/// Between an answer and the next request at the least.
const THINK: Duration = Duration::from_millis(100);
/// Port of a service of mode `dnat` that no connection goes to: its flows are made up (`join`).
pub const HELD_PORT: u16 = 7001;
/// Replication's UDP port.
pub const SYNC_PORT: u16 = 29_113;
/// Replication's key.
pub const SYNC_KEY: (u8, &str) = (1, "0123456789abcdef0123456789abcdef");

/// Whose nodes these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stack {
    /// viplb.
    Viplb,
    /// Something else.
    Peer(Peer),
}

/// What a scene is made of.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// Of the election.
    pub profile: Profile,
    /// Connections, sessions among them.
    pub connections: u32,
    /// Sessions among them.
    pub sessions: u32,
    /// Of a hundred datagrams of viplb's replication, so many are lost.
    pub loss: u8,
    /// viplb adopts connections that a new owner does not know.
    pub adopt: bool,
    /// viplb lets clients hear of their connections once the other node has them.
    pub strict: bool,
    /// Made-up flows that both nodes have room for.
    pub held: u32,
}

/// A scene that is up.
pub struct Scene {
    lab: Lab,
    /// Whose nodes.
    pub stack: Stack,
    setup: Setup,
    clients: Vec<End>,
    servers: Vec<End>,
}

impl Scene {
    /// Raises it, and waits until h1 owns the address and all connections are open.
    pub fn raise(prefix: &str, stack: Stack, setup: Setup, console: &Console) -> Result<Self> {
        let mut scene = Self::lay(prefix, stack, setup)?;
        for node in [scene.lab.node("h1")?, scene.lab.node("h2")?] {
            scene.start(&node)?;
        }
        scene.settle(console)?;
        scene.start_clients()?;
        scene.tell(Order::Fill)?;
        Ok(scene)
    }

    /// Raises it with nothing running in the balancers, and no client.
    pub fn lay(prefix: &str, stack: Stack, setup: Setup) -> Result<Self> {
        let balancer = if stack == Stack::Viplb { Balancer::Viplb } else { Balancer::Keepalived };
        let engine = galera::engine().0;
        let plan = Plan { prefix: prefix.to_owned(), db: BACKENDS, engine, h1: balancer, h2: balancer };
        if crate::lab::is_up(prefix) {
            bail!("a lab `{prefix}` is already up: `cargo xtask lab --prefix {prefix} down` removes it");
        }
        let mut scene = Self { lab: Lab::of(plan)?, stack, setup, clients: Vec::new(), servers: Vec::new() };
        scene.build()?;
        Ok(scene)
    }

    fn build(&mut self) -> Result<()> {
        Lab::lay(self.lab.plan().clone(), &Console::quiet())?;
        self.widen()?;
        if self.setup.sessions > 0 {
            self.start_database()?;
        }
        for backend in self.lab.databases() {
            let netns = self.lab.netns(&backend);
            let at = SocketAddr::new(backend.addr.into(), PORT);
            let mut server = End::start(&netns, &["survive-server", &at.to_string()])?;
            ensure!(server.line()? == READY, "a backend does not listen");
            self.servers.push(server);
        }
        for node in [self.lab.node("h1")?, self.lab.node("h2")?] {
            self.configure(&node)?;
        }
        Ok(())
    }

    /// Room for many connections at both ends.
    fn widen(&self) -> Result<()> {
        let client = self.lab.netns(&self.lab.node("client")?);
        client.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
        for i in 1..self.processes() {
            client.ip(&format!("addr add {}/16 dev eth0", client_address(i)))?;
        }
        for backend in self.lab.databases() {
            self.lab.netns(&backend).sysctl("net/core/somaxconn", "65535")?;
        }
        Ok(())
    }

    /// db1 alone has one; all nodes have the other backends.
    fn start_database(&self) -> Result<()> {
        let alone = Lab::of(Plan { db: 1, ..self.lab.plan().clone() })?;
        let quiet = Console::quiet();
        match self.lab.plan().engine {
            Engine::Galera => galera::start_cluster(&alone, &quiet)?,
            Engine::Standin => standin::start_node(&alone, &alone.node("db1")?, &quiet)?,
        }
        let server = Server::Socket(self.lab.db_socket(&self.lab.node("db1")?));
        sql::query(&server, ROOT, session::TABLE).context("no table for the sessions").map(drop)
    }

    /// Starts what opens connections.
    pub fn start_clients(&mut self) -> Result<()> {
        let netns = self.lab.netns(&self.lab.node("client")?);
        let (processes, connections) = (self.processes(), self.setup.connections - self.setup.sessions);
        for i in 0..processes {
            let share = connections / processes + u32::from(i < connections % processes);
            let shape = Shape {
                from: client_address(i),
                to: SocketAddr::new(VIP.into(), PORT),
                count: share,
                sessions: if i == 0 { self.setup.sessions } else { 0 },
                database: SocketAddr::new(VIP.into(), DB_PORT),
                keys: 1,
                think: match self.setup.held {
                    0 => THINK.max(Duration::from_secs(1) * (self.setup.connections / 2) / REQUESTS),
                    _ => Duration::ZERO,
                },
            };
            let mut client = End::start(&netns, &["survive-client", &serde_json::to_string(&shape)?])?;
            ensure!(client.line()? == READY, "a client does not start");
            self.clients.push(client);
        }
        Ok(())
    }

    fn processes(&self) -> u32 {
        self.setup.connections.div_ceil(EACH).max(1)
    }

    /// Its lab.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// `viplb`.
    pub fn title(&self) -> String {
        match self.stack {
            Stack::Viplb => "viplb".to_owned(),
            Stack::Peer(peer) => peer.words().to_owned(),
        }
    }

    /// Tells all clients and puts their answers together. A connection that does not open is an error.
    pub fn tell(&mut self, order: Order) -> Result<Answer> {
        let answer = self.ask(order)?;
        let Answer { unopened, why_unopened, .. } = &answer;
        ensure!(*unopened == 0, "{}: {unopened} connections did not open: {why_unopened}", self.title());
        Ok(answer)
    }

    /// Has the clients open what they lack, while a fault goes on: where two nodes own the address, or none does, what does not
    /// open is of the peer's doing, and only said.
    pub fn fill_in_trouble(&mut self, console: &Console) -> Result<()> {
        if self.stack == Stack::Viplb {
            return self.tell(Order::Fill).map(drop);
        }
        let Answer { unopened, why_unopened, .. } = self.ask(Order::Fill)?;
        if unopened > 0 {
            console.say(format!("{}: {unopened} connections did not open: {why_unopened}", self.title()));
        }
        Ok(())
    }

    /// Tells all clients and puts their answers together.
    fn ask(&mut self, order: Order) -> Result<Answer> {
        let share = |order, processes| match order {
            Order::Renew(count) => Order::Renew(count / processes),
            other => other,
        };
        let order = share(order, self.clients.len() as u32);
        let line = serde_json::to_string(&order)?;
        self.clients.iter_mut().try_for_each(|client| client.say(&line))?;
        let mut sum = Answer::default();
        for client in &mut self.clients {
            let line = client.line()?;
            let answer: Answer =
                serde_json::from_str(&line).with_context(|| format!("a client says: {line}"))?;
            sum.add(answer);
        }
        Ok(sum)
    }

    fn configure(&self, node: &Node) -> Result<()> {
        let dir = self.lab.node_dir(node);
        if let Stack::Peer(peer) = self.stack {
            return peer.configure(&self.lab, node, self.setup.profile);
        }
        let secret = dir.join("sync.key");
        fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(&secret)?;
        fs::write(&secret, format!("{} {}\n", SYNC_KEY.0, SYNC_KEY.1))?;
        let file = dir.join("viplb.toml");
        fs::write(&file, self.viplb_toml(node))?;
        proc::finish(Command::new(daemon::binary()?).args(["check", "-c"]).arg(&file))?;
        if self.setup.loss > 0 {
            let filter = format!(
                "table inet loss {{ chain in {{ type filter hook input priority 0; \
                 udp dport {SYNC_PORT} numgen random mod 100 < {} drop; }}; }}",
                self.setup.loss
            );
            peers::nft(&self.lab.netns(node), &filter)?;
        }
        Ok(())
    }

    fn viplb_toml(&self, node: &Node) -> String {
        let (election, advert_int) = match self.setup.profile {
            Profile::Default => {
                (format!("version = 2\nauth_pass = \"{}\"", daemon::AUTH_PASS), Duration::from_secs(1))
            }
            Profile::Fast => ("version = 3".to_owned(), FAST_ADVERT_INT),
        };
        // Those that are closing or half-open have records too.
        let flows = (self.setup.connections * 4 + self.setup.held).next_power_of_two().max(32_768);
        let mut text = format!(
            "[node]\nname = \"{name}\"\nflows = {flows}\n\n\
             [vrrp.vi_1]\ninterface = \"eth0\"\nvirtual_router_id = {vrid}\npriority = {priority}\n{election}\n\
             advert_int = \"{interval}ms\"\nvirtual_ipaddress = [\"{VIP}\"]\n\n\
             [sync]\npeers = [\"{other}\"]\nkey_file = \"sync.key\"\n",
            name = self.lab.viplb_name(node),
            vrid = daemon::VRID,
            priority = priority(self.setup.profile, node),
            interval = advert_int.as_millis(),
            other = other(node),
        );
        let check = "check = { type = \"tcp\", interval = \"1s\" }";
        let _ = writeln!(text, "\n[service.app]\nlisten = \"{VIP}:{PORT}\"\n{check}");
        if self.setup.adopt {
            let _ = writeln!(text, "scheduler = \"mh\"\nunknown = \"adopt\"");
        }
        if self.setup.strict {
            let _ = writeln!(text, "sync = \"strict\"");
        }
        for backend in self.lab.databases() {
            let _ = writeln!(text, "[[service.app.backend]]\naddress = \"{}\"", backend.addr);
        }
        if self.setup.sessions > 0 {
            let _ = writeln!(
                text,
                "\n[service.mysql]\nlisten = \"{VIP}:{DB_PORT}\"\nbackend = [{{ address = \"{database}\" }}]\n\
                 check = {{ type = \"mysql\", user = \"{user}\", password = \"{password}\", interval = \"1s\" }}",
                database = self.lab.databases()[0].addr,
                user = MONITOR.user,
                password = MONITOR.password.unwrap_or_default(),
            );
        }
        if self.setup.held > 0 {
            let _ = writeln!(
                text,
                "\n[service.held]\nlisten = \"{VIP}:{HELD_PORT}\"\nmode = \"dnat\"\n\
                 check = {{ type = \"tcp\", interval = \"1s\", port = {PORT} }}"
            );
            for backend in self.lab.databases() {
                let _ = writeln!(text, "[[service.held.backend]]\naddress = \"{}\"", backend.addr);
            }
        }
        text
    }

    /// Starts what runs in a balancer.
    pub fn start(&self, node: &Node) -> Result<()> {
        match self.stack {
            // Without its books: under load there is no moment in which they could be compared.
            Stack::Viplb => daemon::launch(&self.lab, node, &Console::quiet()),
            Stack::Peer(peer) => peer.start(&self.lab, node),
        }
    }

    /// The balancers do not hear each other any more.
    pub fn part(&self) -> Result<()> {
        peers::nft(
            &self.lab.bridge(),
            "table bridge parted { chain c { type filter hook forward priority 0; \
             iifname h1 oifname h2 drop; iifname h2 oifname h1 drop; }; }",
        )
    }

    /// And do again.
    pub fn join(&self) -> Result<()> {
        peers::nft(&self.lab.bridge(), "delete table bridge parted")
    }

    /// Waits until h1 owns the address, h2 stands by, and both serve.
    pub fn settle(&self, console: &Console) -> Result<()> {
        self.wait("h1 is no owner with h2 as its backup", console, || {
            Ok(self.state("h1")?.as_deref() == Some("Master")
                && self.state("h2")?.as_deref() == Some("Backup")
                && self.serves("h1")?
                && self.serves("h2")?)
        })
    }

    /// Waits until a node owns it.
    pub fn wait_owner(&self, name: &str, console: &Console) -> Result<()> {
        let owns = || Ok(self.state(name)?.as_deref() == Some("Master"));
        self.wait(&format!("{name} does not take over"), console, owns)
    }

    fn wait(&self, what: &str, console: &Console, done: impl FnMut() -> Result<bool>) -> Result<()> {
        if console.wait_for(LIMIT, done)? {
            return Ok(());
        }
        let log = |name: &str| -> Result<String> {
            let log = if self.stack == Stack::Viplb { "viplb.log" } else { "keepalived.log" };
            Ok(proc::tail(&self.lab.node_dir(&self.lab.node(name)?).join(log), 8))
        };
        bail!("{}: {what} within {LIMIT:?}; h1:\n{}\nh2:\n{}", self.title(), log("h1")?, log("h2")?)
    }

    fn state(&self, name: &str) -> Result<Option<String>> {
        let node = self.lab.node(name)?;
        Ok(match self.stack {
            Stack::Viplb => {
                let status = daemon::status(&self.lab, &node).ok();
                status.and_then(|s| s["vrrp"][0]["state"].as_str().map(str::to_owned))
            }
            Stack::Peer(_) => keepalived::state(&self.lab, &node).map(str::to_owned),
        })
    }

    /// Whether a node knows that its backends are up, and has the other's flows.
    fn serves(&self, name: &str) -> Result<bool> {
        if self.stack != Stack::Viplb {
            return Ok(true);
        }
        let Ok(status) = daemon::status(&self.lab, &self.lab.node(name)?) else { return Ok(false) };
        let services = status["services"].as_array().context("services")?;
        let backends = |s: &serde_json::Value| if s["name"] == "mysql" { 1 } else { u64::from(BACKENDS) };
        let all = services.iter().all(|s| s["up"].as_u64() == Some(backends(s)));
        let standing = status["sync"]["routers"][0]["state"].as_str();
        Ok(all && matches!(standing, Some("owner" | "in-sync")))
    }

    /// What a node of viplb's says of itself.
    pub fn status(&self, name: &str) -> Result<serde_json::Value> {
        daemon::status(&self.lab, &self.lab.node(name)?)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // A frozen or parted node is no obstacle: what lives in the namespaces is killed with them.
        self.clients.clear();
        self.servers.clear();
        let prefix = &self.lab.plan().prefix;
        if let Err(e) = down(prefix, &Console::quiet()) {
            eprintln!("the lab is not down: {e:#}; `cargo xtask lab --prefix {prefix} down` tries again");
        }
    }
}

/// Of a balancer in the election.
pub fn priority(profile: Profile, node: &Node) -> u8 {
    match profile {
        Profile::Default => node.priority(),
        Profile::Fast => FAST_PRIORITIES[usize::from(node.name != "h1")],
    }
}

/// The other balancer's address.
pub fn other(node: &Node) -> Ipv4Addr {
    let [a, b, c, d] = node.addr.octets();
    Ipv4Addr::new(a, b, c, if d == 7 { 8 } else { 7 })
}

fn client_address(i: u32) -> IpAddr {
    Ipv4Addr::new(172, 18, 0, 100 + i as u8).into()
}
