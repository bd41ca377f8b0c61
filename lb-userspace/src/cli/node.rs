//! Which node a command is about.

use anyhow::{Result, bail};

use crate::datapath::pins;

/// The named node, or the only one of this machine.
pub fn choose(name: Option<&str>) -> Result<String> {
    let mut nodes = pins::nodes();
    match (name, nodes.len()) {
        (_, 0) => {
            bail!(
                "no viplb runs here, and none has left pins in {}: start one with `viplb run -c FILE`",
                pins::ROOT
            )
        }
        (Some(name), _) if nodes.iter().any(|n| n == name) => Ok(name.to_owned()),
        (Some(name), _) => bail!("there is no node {name} here; there is {}", nodes.join(", ")),
        (None, 1) => Ok(nodes.remove(0)),
        (None, _) => bail!("several nodes are here ({}): choose one with --node NAME", nodes.join(", ")),
    }
}
