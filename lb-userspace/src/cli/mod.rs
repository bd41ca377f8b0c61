//! The command line: `viplb [-j|-p] OBJECT COMMAND`, one verb a file. It prints only snapshots or pinned maps.

mod backend;
mod capture;
pub mod check;
mod flow;
mod galera;
mod log;
mod node;
mod prog;
mod reload;
mod run;
mod service;
pub mod status;
mod stop;
mod sync;
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
    /// Have the daemon take its configuration in anew, and show what changes by it. A file with mistakes changes nothing. Exit code:
    /// 0 taken in, 1 refused.
    Reload {
        /// Only show what would change.
        #[arg(long)]
        dry_run: bool,
    },
    /// End the daemon: as by SIGTERM, or for another one to go on with its flows and, where no other router was heard, its leases.
    Stop {
        /// Leave programs, maps, leases and addresses to the next daemon.
        #[arg(long)]
        keep: bool,
        /// How long the next one may take to come.
        #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=300))]
        within: u32,
    },
    /// Have another build of viplb go on in the daemon's process, without a packet lost. It is tried first; one that does not start
    /// gives the process back.
    Upgrade {
        /// The other build; default this one.
        program: Option<PathBuf>,
        /// How long it may take to come.
        #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=300))]
        within: u32,
    },
    /// The packet programs: which build runs.
    #[command(subcommand)]
    Prog(prog::Prog),
    /// Show the node. Exit code: 0 healthy, 1 degraded, 2 cannot tell.
    Status,
    /// The election: each virtual router's timers, counters and punctuality.
    #[command(subcommand)]
    Vrrp(Vrrp),
    /// Flow replication: how far this node has come with the owner's flows, and what was exchanged with each peer.
    #[command(subcommand)]
    Sync(Sync),
    /// Add services to a running daemon, and remove them.
    #[command(subcommand)]
    Service(service::Service),
    /// Take a backend out of its service, bring it back, or give it another weight; until the daemon ends, or for good (`--write`).
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

#[derive(Debug, Subcommand)]
enum Sync {
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
        Command::Reload { dry_run } => reload::run(args.node.as_deref(), dry_run, format),
        Command::Stop { keep, within } => stop::stop(args.node.as_deref(), keep, within),
        Command::Upgrade { program, within } => {
            stop::upgrade(args.node.as_deref(), program.as_deref(), within)
        }
        Command::Prog(command) => prog::run(args.node.as_deref(), &command, format),
        Command::Status => return exit(status::run(args.node.as_deref(), format), 2),
        Command::Vrrp(Vrrp::Show) => return exit(vrrp::show(args.node.as_deref(), format), 2),
        Command::Sync(Sync::Show) => return exit(sync::show(args.node.as_deref(), format), 2),
        Command::Galera(command) => return exit(galera::run(args.node.as_deref(), command, format), 2),
        Command::Service(service) => service::run(args.node.as_deref(), service, format),
        Command::Backend(order) => backend::order(args.node.as_deref(), order, format),
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
