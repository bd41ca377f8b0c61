//! `viplb log datapath on|off`.

use std::process::ExitCode;

use anyhow::{Context, Result};

use super::{node, runtime};
use crate::{api::client, datapath::pins};

/// Switches the packet programs' diagnostic events.
pub fn datapath(name: Option<&str>, on: bool) -> Result<ExitCode> {
    let name = node::choose(name)?;
    runtime()?
        .block_on(client::datapath_log(&pins::socket(&name), on))
        .with_context(|| format!("node {name} cannot be told"))?;
    Ok(ExitCode::SUCCESS)
}
