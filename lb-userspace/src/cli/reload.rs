//! `viplb reload`: the daemon takes its configuration in anew, and what changes by it is shown. What is wrong with the file is
//! shown as by `viplb check`.

use std::process::ExitCode;

use anyhow::{Result, bail};

use super::{Format, node, runtime};
use crate::{
    api::{
        Reload, Reloaded,
        client::{self, AskError},
    },
    config::diagnostic::count,
    datapath::pins,
};

/// Asks the daemon of a node.
pub(super) fn run(name: Option<&str>, dry_run: bool, format: Format) -> Result<ExitCode> {
    let name = node::choose(name)?;
    let done = runtime()?.block_on(client::reload(&pins::socket(&name), &Reload { dry_run }));
    match done {
        Ok(reloaded) => print(&reloaded, format),
        Err(AskError::Other(refused)) => {
            eprintln!("{refused:#}");
            bail!("node {name}: refused, the configuration that runs goes on");
        }
        Err(e) => bail!("node {name}: {e}"),
    }
}

/// Shows what has changed, or would.
pub(super) fn print(reloaded: &Reloaded, format: Format) -> Result<ExitCode> {
    eprint!("{}", reloaded.warnings);
    match format {
        Format::Json => println!("{}", serde_json::to_string(reloaded)?),
        Format::PrettyJson => println!("{}", serde_json::to_string_pretty(reloaded)?),
        Format::Text => {
            reloaded.changes.iter().for_each(|change| println!("{change}"));
            let changes = count(reloaded.changes.len(), "change");
            println!("{changes}{}", if reloaded.applied { "" } else { ", not applied (--dry-run)" });
        }
    }
    Ok(ExitCode::SUCCESS)
}
