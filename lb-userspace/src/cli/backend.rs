//! `viplb backend drain|maint|ready|weight SERVICE BACKEND`: orders to the daemon, which holds them until it ends.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Subcommand;

use super::{node, runtime};
use crate::{
    api::{BackendOrder, Order, client},
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
        /// 0 to 256; left out: that of the configuration.
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
}

/// Gives the order to the daemon of a node.
pub fn order(node: Option<&str>, order: Backend) -> Result<ExitCode> {
    let (name, order) = match order {
        Backend::Drain(name) => (name, Order::Drain),
        Backend::Maint(name) => (name, Order::Maint),
        Backend::Ready(name) => (name, Order::Ready),
        Backend::Weight { name, weight } => (name, Order::Weight(weight)),
    };
    let node = node::choose(node)?;
    let order = BackendOrder { service: name.service, backend: name.backend, order };
    runtime()?
        .block_on(client::order_backend(&pins::socket(&node), &order))
        .with_context(|| format!("node {node} was not told"))?;
    Ok(ExitCode::SUCCESS)
}
