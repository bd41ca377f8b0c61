//! The command line: `viplb [-j|-p] OBJECT COMMAND`, one verb a file. It prints only snapshots or pinned maps.

mod backend;
mod capture;
pub mod check;
mod flow;
mod galera;
mod log;
mod node;
mod run;
pub mod status;
pub mod table;
mod vrrp;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

/// A floating virtual IP with an in-kernel load balancer behind it.
#[derive(Debug, Parser)]
#[command(name = "viplb", version, propagate_version = true)]
pub struct Args {
    /// Print JSON.
    #[arg(short, long, global = true)]
    json: bool,
    /// Print JSON for people: indented.
    #[arg(short, long, global = true)]
    pretty: bool,
    /// Name of the node to ask, where several run on this machine.
    #[arg(short, long, global = true)]
    node: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon.
    Run {
        /// Configuration file.
        #[arg(short, long, value_name = "FILE", default_value = "/etc/viplb/viplb.toml")]
        config: PathBuf,
    },
    /// Check a configuration file and print every mistake in it. Exit code: 0 usable, 1 not, 2 cannot be read.
    Check {
        /// Configuration file.
        #[arg(short, long, value_name = "FILE", default_value = "/etc/viplb/viplb.toml")]
        config: PathBuf,
    },
    /// Show the node. Exit code: 0 healthy, 1 degraded, 2 cannot tell.
    Status,
    /// The election: each virtual router's timers, counters and punctuality.
    #[command(subcommand)]
    Vrrp(Vrrp),
    /// Take a backend out of its service, bring it back, or give it another weight; until the daemon ends.
    #[command(subcommand)]
    Backend(backend::Backend),
    /// Connections: show them, end them.
    #[command(subcommand)]
    Flow(flow::FlowCommand),
    /// The Galera cluster behind the services.
    #[command(subcommand)]
    Galera(galera::Galera),
    /// Show packets that went no further, with the reason: their first bytes as they came. Also while the daemon is dead.
    Capture(capture::Capture),
    /// Switch diagnostic events at run time.
    Log {
        /// Where they come from.
        source: LogSource,
        /// `on` or `off`.
        switch: Switch,
    },
}

#[derive(Debug, Subcommand)]
enum Vrrp {
    /// Show all of it. Exit code as for `status`.
    Show,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogSource {
    /// The packet programs: answered, refused and dropped packets and new flows, never a forwarded one.
    Datapath,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    /// Into the daemon's log.
    On,
    /// Nowhere.
    Off,
}

/// How output is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One line of JSON.
    Json,
    /// Indented JSON.
    PrettyJson,
}

/// Runs one command.
pub fn main(args: Args) -> ExitCode {
    let format = match (args.pretty, args.json) {
        (true, _) => Format::PrettyJson,
        (_, true) => Format::Json,
        _ => Format::Text,
    };
    let done = match args.command {
        Command::Run { config } => run::run(&config),
        Command::Check { config } => return check::run(&config),
        Command::Status => return exit(status::run(args.node.as_deref(), format), 2),
        Command::Vrrp(Vrrp::Show) => return exit(vrrp::show(args.node.as_deref(), format), 2),
        Command::Galera(command) => return exit(galera::run(args.node.as_deref(), command, format), 2),
        Command::Backend(order) => backend::order(args.node.as_deref(), order),
        Command::Flow(command) => flow::run(args.node.as_deref(), command, format),
        Command::Capture(what) => capture::run(args.node.as_deref(), &what, format),
        Command::Log { source: LogSource::Datapath, switch } => {
            log::datapath(args.node.as_deref(), switch == Switch::On)
        }
    };
    exit(done, 1)
}

/// Errors go to standard error in one sentence with its causes.
fn exit(done: Result<ExitCode>, failed: u8) -> ExitCode {
    done.unwrap_or_else(|e| {
        eprintln!("viplb: {e:#}");
        ExitCode::from(failed)
    })
}

/// A runtime for a command that asks the daemon.
fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
