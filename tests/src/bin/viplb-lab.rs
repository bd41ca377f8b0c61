//! The command line of the lab; `cargo xtask run` and `cargo xtask lab` hand their arguments to it.
//!
//! Only parses, calls the library and prints. An error is one sentence on standard error and exit code 1.

use std::{
    io::{self, BufRead, IsTerminal},
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use lb_tests::{
    console::{self, Console},
    down, galera,
    lab::{self, Balancer, DEFAULT_PREFIX, Engine, Lab, Plan},
    node::{self, Cut},
    screen::put,
    standin::{self, Store},
    status::View,
    tryout,
};

/// The viplb lab: two balancers, a Galera cluster and a client in network namespaces.
#[derive(Parser)]
#[command(name = "viplb-lab", version)]
struct Cli {
    /// First part of the names of everything the lab makes; labs with different ones do not meet.
    #[arg(long, global = true, default_value = DEFAULT_PREFIX)]
    prefix: String,
    #[command(subcommand)]
    command: Top,
}

#[derive(Subcommand)]
enum Top {
    /// Try it out: raise the lab, write rows through the virtual IP, show one live screen; Ctrl-C takes all down.
    Run {
        #[command(flatten)]
        shape: Shape,
        /// End after that many seconds.
        #[arg(long, value_name = "S")]
        seconds: Option<u64>,
        /// Write to this address instead of the virtual one.
        #[arg(long, hide = true)]
        target: Option<SocketAddr>,
    },
    /// Drive the lab by hand.
    #[command(subcommand)]
    Lab(Command),
    /// One node of the stand-in for MySQL.
    #[command(hide = true)]
    Standin {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        socket: Option<PathBuf>,
        #[arg(long)]
        rows: PathBuf,
    },
}

#[derive(Args)]
struct Shape {
    /// Number of database nodes.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=5))]
    db: u8,
    /// What runs in h2.
    #[arg(long, value_enum, default_value_t = Peer::Viplb)]
    h2: Peer,
    /// Start no viplb.
    #[arg(long, hide = true)]
    no_viplb: bool,
    /// Use the stand-in even where MariaDB is there.
    #[arg(long, hide = true)]
    standin: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Peer {
    Viplb,
    Keepalived,
}

#[derive(Subcommand)]
enum Command {
    /// Raise the lab and leave it running.
    Up(Shape),
    /// Remove everything that a lab of this prefix left, also after a crash.
    Down,
    /// Who owns the virtual IP, and how each node is.
    Status,
    /// Freeze all processes of a node (SIGSTOP); its kernel goes on, as under `docker pause`.
    Pause { node: String },
    /// Let a frozen node go on.
    Unpause { node: String },
    /// End a node's daemon properly (SIGTERM) and wait for it.
    Stop { node: String },
    /// Start a node's daemon again and wait until it is ready.
    Start { node: String },
    /// End a node's daemon at once (SIGKILL).
    Kill { node: String },
    /// Cut a node off the network: its carrier goes.
    Cut {
        node: String,
        /// Lose its packets both ways, but leave it its carrier.
        #[arg(long)]
        silent: bool,
    },
    /// Undo a cut of either kind.
    Heal { node: String },
    /// Run a command inside a node.
    Exec {
        node: String,
        /// The command and its arguments, after `--`.
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let console = Console::stderr();
    match cli.command {
        Top::Run { shape, seconds, target } => {
            console::catch_signals()?;
            offer_down(&cli.prefix, &console)?;
            let plan = plan(cli.prefix, &shape, &console);
            tryout::run(plan, target, seconds.map(Duration::from_secs), &console)
        }
        Top::Lab(Command::Up(shape)) => {
            console::catch_signals()?;
            let lab = tryout::raise(plan(cli.prefix, &shape, &console), &console)?;
            put(&View::of(&lab).table());
            Ok(())
        }
        Top::Lab(Command::Down) => take_down(&cli.prefix, &console),
        Top::Lab(command) => on_node(&Lab::open(&cli.prefix)?, command, &console),
        Top::Standin { listen, socket, rows } => {
            standin::serve_forever(listen, socket.as_deref(), Store::shared(&rows)?)
        }
    }
}

fn plan(prefix: String, shape: &Shape, console: &Console) -> Plan {
    let (found, why) = galera::engine();
    let engine = if shape.standin { Engine::Standin } else { found };
    if let Some(why) = why.filter(|_| !shape.standin) {
        console.say(format!("no MariaDB Galera here: {why}. The embedded MySQL stand-in takes its place."));
    }
    let (h1, h2) = match shape.h2 {
        _ if shape.no_viplb && matches!(shape.h2, Peer::Viplb) => (Balancer::Nothing, Balancer::Nothing),
        Peer::Keepalived if shape.no_viplb => (Balancer::Nothing, Balancer::Keepalived),
        Peer::Keepalived => (Balancer::Viplb, Balancer::Keepalived),
        Peer::Viplb => (Balancer::Viplb, Balancer::Viplb),
    };
    Plan { prefix, db: shape.db, engine, h1, h2 }
}

/// A lab that is still up is taken down only if the user at the terminal says so.
fn offer_down(prefix: &str, console: &Console) -> Result<()> {
    if !lab::is_up(prefix) || !io::stdin().is_terminal() {
        return Ok(()); // raising refuses with words
    }
    console.say(format!("a lab `{prefix}` is still up. Take it down first? [y/N]"));
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if !answer.trim().eq_ignore_ascii_case("y") {
        bail!("left as it is: `cargo xtask lab down` removes it");
    }
    take_down(prefix, console)
}

fn take_down(prefix: &str, console: &Console) -> Result<()> {
    let gone = down::down(prefix, console)?;
    match gone.is_empty() {
        true => put("nothing to remove\n"),
        false => put(&format!("removed: {}\n", gone.join(", "))),
    }
    Ok(())
}

fn on_node(lab: &Lab, command: Command, console: &Console) -> Result<()> {
    match command {
        Command::Up(_) | Command::Down => Ok(()),
        Command::Status => {
            put(&View::of(lab).table());
            Ok(())
        }
        Command::Pause { node } => {
            let frozen = node::pause(lab, &lab.node(&node)?)?;
            put(&format!("{node}: {frozen} processes frozen\n"));
            Ok(())
        }
        Command::Unpause { node } => {
            let woken = node::unpause(lab, &lab.node(&node)?)?;
            put(&format!("{node}: {woken} processes go on\n"));
            Ok(())
        }
        Command::Stop { node } => node::stop(lab, &lab.node(&node)?, console),
        Command::Start { node } => node::start(lab, &lab.node(&node)?, console),
        Command::Kill { node } => node::kill(lab, &lab.node(&node)?, console),
        Command::Cut { node, silent } => {
            node::cut(lab, &lab.node(&node)?, if silent { Cut::Silent } else { Cut::Carrier })
        }
        Command::Heal { node } => node::heal(lab, &lab.node(&node)?),
        Command::Exec { node, command } => {
            let why = node::command(lab, &lab.node(&node)?, &command)?.exec();
            bail!("cannot run {}: {why}", command[0])
        }
    }
}
