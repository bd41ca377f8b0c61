//! What is measured: two balancer nodes, two echo servers behind them and a client, in namespaces of a lab of their own.
//!
//! The same scene holds viplb or keepalived, with the parameters of one [`Profile`]. keepalived forwards nothing, so
//! echo servers on its own nodes answer on the virtual address: its figures are of the election alone. A scene that
//! goes out of scope is taken down.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddrV4,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use super::{
    echo::{self, Echo},
    prober::Prober,
};
use crate::{
    console::Console,
    daemon,
    down::down,
    keepalived,
    lab::{Balancer, Engine, Lab, Node, Plan, VIP},
    proc::{self, MARK},
    vip,
};

/// All waiting of the benches ends here: an election at 1 s takes 3.6 s, a keepalived that forgot to announce itself
/// leaves the client in the dark for 9 s and more, and the machine may be busy.
pub const LIMIT: Duration = Duration::from_secs(40);
/// Service is back once every probe of this long was answered.
const SERVED: Duration = Duration::from_millis(300);
/// Of the health checks. A node that was cut off finds its backends again after two of them.
const CHECK_INTERVAL: &str = "1s";
/// Small, since several nodes are up at a time; a probe's flow is forgotten after 10 s.
const FLOWS: u32 = 32_768;

/// The documented fast profile: version 3, and priorities far apart so that two time-outs do not fall together.
pub const FAST_ADVERT_INT: Duration = Duration::from_millis(80);
/// Its priorities.
pub const FAST_PRIORITIES: [u8; 2] = [254, 200];
/// What keepalived is compared at: the shortest that keeps it in order on an idle machine.
const KEEPALIVED_FAST_ADVERT_INT: Duration = Duration::from_millis(30);

/// Whose nodes these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    /// viplb.
    Viplb,
    /// The real keepalived.
    Keepalived,
}

impl Product {
    /// Its name.
    pub fn word(self) -> &'static str {
        if self == Product::Viplb { "viplb" } else { "keepalived" }
    }
}

/// With which parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// VRRPv2 with a password, 1 s, priorities 101 and 100
    Default,
    /// VRRPv3, 80 ms (keepalived 30 ms), priorities 254 and 200
    Fast,
}

impl Profile {
    /// In a row.
    pub fn words(self) -> String {
        match self {
            Profile::Default => "1 s".to_owned(),
            Profile::Fast => {
                let [ours, theirs] =
                    [FAST_ADVERT_INT, KEEPALIVED_FAST_ADVERT_INT].map(|interval| interval.as_millis());
                format!("{ours} ms (keepalived {theirs} ms)")
            }
        }
    }

    /// The advertisement interval.
    pub fn advert_int(self, product: Product) -> Duration {
        match (self, product) {
            (Profile::Default, _) => Duration::from_secs(1),
            (Profile::Fast, Product::Viplb) => FAST_ADVERT_INT,
            (Profile::Fast, Product::Keepalived) => KEEPALIVED_FAST_ADVERT_INT,
        }
    }

    fn priority(self, node: &Node) -> u8 {
        match self {
            Profile::Default => node.priority(),
            Profile::Fast => FAST_PRIORITIES[usize::from(node.name != "h1")],
        }
    }
}

/// A scene that is up.
#[derive(Debug)]
pub struct Scene {
    lab: Lab,
    /// Whose nodes.
    pub product: Product,
    /// Their parameters.
    pub profile: Profile,
    /// Threads of this process; they go before the namespaces.
    backends: Vec<Echo>,
}

impl Scene {
    /// Raises it and waits until h1 owns the address and serves.
    pub fn raise(prefix: &str, product: Product, profile: Profile, console: &Console) -> Result<Self> {
        let balancer = if product == Product::Viplb { Balancer::Viplb } else { Balancer::Keepalived };
        let plan =
            Plan { prefix: prefix.to_owned(), db: 2, engine: Engine::Standin, h1: balancer, h2: balancer };
        if crate::lab::is_up(prefix) {
            bail!("a lab `{prefix}` is already up: `cargo xtask lab --prefix {prefix} down` removes it");
        }
        let lab = Lab::of(plan)?;
        // From here on whatever there is goes with the scene.
        let mut scene = Scene { lab, product, profile, backends: Vec::new() };
        scene.build(console)?;
        Ok(scene)
    }

    fn build(&mut self, console: &Console) -> Result<()> {
        Lab::lay(self.lab.plan().clone(), &Console::quiet())?;
        for backend in self.lab.databases() {
            self.backends.push(Echo::start(&self.lab.netns(&backend), backend.addr)?);
        }
        self.configure()?;
        for node in self.balancers()? {
            self.start(&node)?;
        }
        self.settle(console)
    }

    fn take_down(&mut self) -> Result<()> {
        self.backends.clear();
        down(&self.lab.plan().prefix, &Console::quiet()).map(drop)
    }

    /// Its lab.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// A node of it.
    pub fn node(&self, name: &str) -> Result<Node> {
        self.lab.node(name)
    }

    /// `viplb at 1 s`.
    pub fn title(&self) -> String {
        format!("{} at {:?}", self.product.word(), self.profile.advert_int(self.product))
    }

    fn balancers(&self) -> Result<[Node; 2]> {
        Ok([self.node("h1")?, self.node("h2")?])
    }

    /// Writes the nodes' files.
    fn configure(&self) -> Result<()> {
        for node in self.balancers()? {
            let dir = self.lab.node_dir(&node);
            if self.product == Product::Keepalived {
                fs::write(dir.join("keepalived.conf"), self.keepalived_conf(&node))?;
                continue;
            }
            let file = dir.join("viplb.toml");
            fs::write(&file, self.viplb_toml(&node))?;
            proc::finish(Command::new(daemon::binary()?).args(["check", "-c"]).arg(&file))?;
        }
        Ok(())
    }

    fn viplb_toml(&self, node: &Node) -> String {
        let version = match self.profile {
            Profile::Default => format!("version = 2\nauth_pass = \"{}\"", daemon::AUTH_PASS),
            Profile::Fast => "version = 3".to_owned(),
        };
        let mut text = format!(
            "[node]\nname = \"{name}\"\nflows = {FLOWS}\n\n\
             [vrrp.vi_1]\ninterface = \"eth0\"\nvirtual_router_id = {vrid}\npriority = {priority}\n{version}\n\
             advert_int = \"{interval}ms\"\nvirtual_ipaddress = [\"{VIP}\"]\n",
            name = self.lab.viplb_name(node),
            vrid = daemon::VRID,
            priority = self.profile.priority(node),
            interval = self.profile.advert_int(self.product).as_millis(),
        );
        for protocol in ["tcp", "udp"] {
            let _ = write!(
                text,
                "\n[service.{protocol}]\nlisten = \"{VIP}:{port}\"\nprotocol = \"{protocol}\"\n\
                 backend = [{backends}]\ncheck = {{ type = \"tcp\", interval = \"{CHECK_INTERVAL}\" }}\n",
                port = echo::PORT,
                backends = self
                    .lab
                    .databases()
                    .iter()
                    .map(|db| format!("{{ address = \"{}\" }}", db.addr))
                    .collect::<Vec<_>>()
                    .join(", "),
            );
        }
        text
    }

    fn keepalived_conf(&self, node: &Node) -> String {
        if self.profile == Profile::Default {
            return keepalived::configuration(node);
        }
        format!(
            "vrrp_instance VI_1 {{\n    state BACKUP\n    interface eth0\n    version 3\n    \
             virtual_router_id {vrid}\n    priority {priority}\n    advert_int {interval}\n    \
             virtual_ipaddress {{\n        {VIP}\n    }}\n}}\n",
            vrid = daemon::VRID,
            priority = self.profile.priority(node),
            interval = KEEPALIVED_FAST_ADVERT_INT.as_secs_f64(),
        )
    }

    /// Starts a balancer node, keepalived's after an echo server that lives and dies with it.
    pub fn start(&self, node: &Node) -> Result<()> {
        let quiet = Console::quiet();
        if self.product == Product::Viplb {
            return daemon::start(&self.lab, node, &quiet);
        }
        let log = fs::File::create(self.lab.node_dir(node).join("echo.log"))?;
        let mut command = Command::new(program()?);
        command.args(["echo", &target().to_string()]).env(MARK, &node.name);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        proc::reap(self.lab.netns(node).spawn(command)?);
        keepalived::start(&self.lab, node, &quiet)
    }

    /// Takes everything down and raises it anew.
    pub fn raise_again(&mut self, console: &Console) -> Result<()> {
        self.take_down()?;
        self.build(console)
    }

    /// A prober in the client.
    pub fn prober(&self) -> Result<Prober> {
        Ok(Prober::start(self.lab.netns(&self.node("client")?), target()))
    }

    /// Waits until h1 is the only owner, h2 stands by, and everything that should be known is known.
    pub fn settle(&self, console: &Console) -> Result<()> {
        let settled =
            console.wait_for(LIMIT, || Ok(self.is_steady()? && vip::owners(&self.lab)? == ["h1"]))?;
        if !settled {
            bail!("{}: not one owner and one backup within {LIMIT:?}; {}", self.title(), self.last_words()?);
        }
        Ok(())
    }

    /// What the nodes say of themselves.
    fn is_steady(&self) -> Result<bool> {
        let [h1, h2] = self.balancers()?;
        let state = |node: &Node| match self.product {
            Product::Viplb => self.viplb_state(node),
            Product::Keepalived => keepalived::state(&self.lab, node).map(str::to_owned),
        };
        Ok(state(&h1).as_deref() == Some("Master") && state(&h2).as_deref() == Some("Backup"))
    }

    /// The state of a node whose backends are all up.
    fn viplb_state(&self, node: &Node) -> Option<String> {
        let status = daemon::status(&self.lab, node).ok()?;
        let services = status["services"].as_array()?;
        let backends = self.lab.databases().len();
        let all_up = services.iter().all(|s| s["up"].as_u64().is_some_and(|up| up == backends as u64));
        all_up.then(|| status["vrrp"][0]["state"].as_str().map(str::to_owned))?
    }

    /// Waits until `owner` answers for the address, seen from the bridge, and the client is served. Whether that came: a
    /// client in the dark is a result, not an error.
    pub fn moved_to(&self, owner: &str, alone: bool, prober: &mut Prober, console: &Console) -> Result<bool> {
        console.wait_for(LIMIT, || {
            prober.check()?;
            let owners = vip::owners(&self.lab)?;
            let moved = if alone { owners == [owner] } else { owners.iter().any(|name| name == owner) };
            Ok(moved && prober.is_served(SERVED))
        })
    }

    /// Waits until the client is served, whoever the owner is.
    pub fn served(&self, prober: &mut Prober, console: &Console) -> Result<()> {
        let served = console.wait_for(LIMIT, || {
            prober.check()?;
            Ok(prober.is_served(SERVED))
        })?;
        if !served {
            bail!("{}: the client is not served within {LIMIT:?}; {}", self.title(), self.last_words()?);
        }
        Ok(())
    }

    fn last_words(&self) -> Result<String> {
        let mut text = "the ends of the logs:".to_owned();
        for node in self.balancers()? {
            let log = self.lab.node_dir(&node).join(format!("{}.log", self.product.word()));
            let _ = write!(text, "\n{}:\n{}", node.name, proc::tail(&log, 8));
        }
        Ok(text)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Err(e) = self.take_down() {
            let prefix = &self.lab.plan().prefix;
            eprintln!("the lab is not down: {e:#}; `cargo xtask lab --prefix {prefix} down` tries again");
        }
    }
}

/// Where the service is.
fn target() -> SocketAddrV4 {
    SocketAddrV4::new(VIP, echo::PORT)
}

/// The bench's own binary: this program, or the one beside it.
pub fn program() -> Result<std::path::PathBuf> {
    let exe = std::env::current_exe()?;
    let beside = exe.ancestors().skip(1).take(2).map(|dir| dir.join("viplb-bench"));
    beside.into_iter().find(|file| file.is_file()).context("no `viplb-bench` beside this program")
}
