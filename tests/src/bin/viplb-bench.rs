//! The command line of the benches; `cargo xtask bench` hands its arguments to it.
//!
//! Only parses, calls the library and prints: progress on standard error, the table of rows on standard output. Exit
//! code 0: every target is met, 1: one is missed, or the bench could not be run.

use std::{
    net::{IpAddr, SocketAddr, SocketAddrV4},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Result;
use clap::{Parser, Subcommand};
use lb_tests::{
    bench::{
        change, echo, election, failover, faults, flood, forward, hogs, program,
        row::{self, Row},
        strict, survive,
    },
    console::{self, Console},
    screen::put,
};

/// Measures viplb, beside what it replaces.
#[derive(Parser)]
#[command(name = "cargo xtask bench", version)]
struct Cli {
    /// Write the rows to this file as well.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    /// First part of the names of everything that is made; the default has the process id in it.
    #[arg(long, global = true)]
    prefix: Option<String>,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Failover(failover::Options),
    Election(election::Options),
    Program(program::Options),
    Forward(forward::Options),
    Flood(flood::Options),
    Faults(faults::Options),
    Survive(survive::Options),
    Change(change::Options),
    Strict(strict::Options),
    /// An echo server, TCP and UDP.
    #[command(hide = true)]
    Echo {
        listen: SocketAddrV4,
    },
    /// A backend of `flood`.
    #[command(hide = true)]
    FloodEcho {
        listen: IpAddr,
    },
    /// Connections of `flood`.
    #[command(hide = true)]
    FloodHeld {
        from: IpAddr,
        count: u32,
    },
    /// A backend of `survive`.
    #[command(hide = true)]
    SurviveServer {
        listen: SocketAddr,
    },
    /// Connections of `survive`, as told on standard input.
    #[command(hide = true)]
    SurviveClient {
        shape: String,
    },
    /// A backend of `change`.
    #[command(hide = true)]
    ChangeServer {
        listen: SocketAddr,
    },
    /// A client of `change`.
    #[command(hide = true)]
    ChangeClient {
        shape: String,
    },
    /// A process that is busy.
    #[command(hide = true)]
    Hog,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(rows) if row::all_met(&rows) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<Vec<Row>> {
    let console = Console::stderr();
    let prefix = cli.prefix.clone().unwrap_or_else(|| format!("bench{}n", std::process::id()));
    let rows = match &cli.what {
        What::Failover(options) => {
            console::catch_signals()?;
            failover::run(options, &prefix, &console)?
        }
        What::Election(options) => election::run(options)?,
        What::Program(options) => program::run(options, &prefix, &console)?,
        What::Forward(options) => {
            console::catch_signals()?;
            forward::run(options, &console)?
        }
        What::Flood(options) => {
            console::catch_signals()?;
            flood::run(options, &console)?
        }
        What::Survive(options) => {
            console::catch_signals()?;
            survive::run(options, &prefix, &console)?
        }
        What::Change(options) => {
            console::catch_signals()?;
            change::run(options, &console)?
        }
        What::Strict(options) => {
            console::catch_signals()?;
            strict::run(options, &console)?
        }
        What::ChangeServer { listen } => return change::server::serve(*listen).map(|()| Vec::new()),
        What::ChangeClient { shape } => {
            return change::load::be_client(serde_json::from_str(shape)?).map(|()| Vec::new());
        }
        What::SurviveServer { listen } => return survive::server::serve(*listen).map(|()| Vec::new()),
        What::SurviveClient { shape } => {
            return survive::talk::be_client(serde_json::from_str(shape)?).map(|()| Vec::new());
        }
        What::Faults(options) => {
            console::catch_signals()?;
            faults::run(options, &prefix, &console)?
        }
        What::Echo { listen } => return echo::serve_forever(*listen).map(|()| Vec::new()),
        What::FloodEcho { listen } => return flood::sockets::serve(*listen).map(|()| Vec::new()),
        What::FloodHeld { from, count } => return flood::sockets::hold(*from, *count).map(|()| Vec::new()),
        What::Hog => hogs::be_busy(),
    };
    put(&row::table(&rows));
    if let Some(file) = &cli.json {
        row::write_json(&rows, file)?;
    }
    Ok(rows)
}
