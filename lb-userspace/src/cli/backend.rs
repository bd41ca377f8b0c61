//! `viplb backend drain|maint|ready|weight SERVICE BACKEND`: orders to the daemon, which holds them until it ends, and on request
//! enters them in its file.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Subcommand;

use super::{Format, node, reload, runtime};
use crate::{
    api::{
        BackendOrder, Edit, EditOrder, Order,
        client::{self, AskError},
    },
    datapath::pins,
};

/// Orders about one backend.
#[derive(Debug, Subcommand)]
pub enum Backend {
    /// Take no new connections; the existing ones stay.
    Drain(Name),
    /// The same, whatever the checks say.
    Maint(Name),
    /// Take connections again, if the checks let it.
    Ready(Name),
    /// Have another weight.
    Weight {
        #[command(flatten)]
        name: Name,
        /// 0 to 256; left out: that of the configuration, with `--write` 1, which is the default.
        weight: Option<u16>,
    },
}

/// Which backend.
#[derive(Debug, clap::Args)]
pub struct Name {
    /// Name of the service.
    service: String,
    /// Name of the backend.
    backend: String,
    /// Into the file as well, whose other lines and comments stay: it holds for later daemons, too.
    #[arg(short, long)]
    write: bool,
}

/// Gives the order to the daemon of a node.
pub fn order(node: Option<&str>, order: Backend, format: Format) -> Result<ExitCode> {
    let (name, order) = match order {
        Backend::Drain(name) => (name, Order::Drain),
        Backend::Maint(name) => (name, Order::Maint),
        Backend::Ready(name) => (name, Order::Ready),
        Backend::Weight { name, weight } => (name, Order::Weight(weight)),
    };
    let node = node::choose(node)?;
    let write = name.write;
    let order = BackendOrder { service: name.service, backend: name.backend, order };
    if write {
        let order = EditOrder { edit: Edit::Backend(order), write, dry_run: false };
        return match runtime()?.block_on(client::edit(&pins::socket(&node), &order)) {
            Ok(done) => reload::print(&done, format),
            Err(AskError::Other(refused)) => {
                eprintln!("{refused:#}");
                bail!("node {node}: refused, nothing has changed");
            }
            Err(e) => bail!("node {node}: {e}"),
        };
    }
    runtime()?
        .block_on(client::order_backend(&pins::socket(&node), &order))
        .with_context(|| format!("node {node} was not told"))?;
    Ok(ExitCode::SUCCESS)
}
