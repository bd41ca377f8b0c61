//! `viplb service add|del`: services of a running daemon, on request written to its file as well.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use toml_edit::{Array, InlineTable, Table, Value};

use super::{Format, node, reload, runtime};
use crate::{
    api::{
        Edit, EditOrder,
        client::{self, AskError},
    },
    datapath::pins,
};

/// Services of a running daemon.
#[derive(Debug, Subcommand)]
pub enum Service {
    /// Add a service.
    Add {
        /// Its name.
        name: String,
        /// Where clients connect.
        #[arg(short, long, value_name = "ADDRESS:PORT")]
        listen: String,
        /// A backend, as `ADDRESS[:PORT]` and further keys of it: `172.18.0.2,weight=5`. Once for each.
        #[arg(short, long, value_name = "ADDRESS[,KEY=VALUE]…", required = true)]
        backend: Vec<String>,
        /// The kind of check, and further keys of it: `tcp,interval=1s`.
        #[arg(short, long, value_name = "TYPE[,KEY=VALUE]…", default_value = "tcp")]
        check: String,
        /// Any other key of a service. Once for each.
        #[arg(short, long, value_name = "KEY=VALUE")]
        set: Vec<String>,
        #[command(flatten)]
        how: How,
    },
    /// Remove a service. Its connections go on, or are ended, as its `on_drain` says.
    Del {
        /// Its name.
        name: String,
        #[command(flatten)]
        how: How,
    },
}

/// How far it goes.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct How {
    /// Into the file as well, whose other lines and comments stay. Without it the next reload takes it back.
    #[arg(short, long)]
    write: bool,
    /// Only show what would change.
    #[arg(long)]
    dry_run: bool,
}

/// Gives the order to the daemon of a node.
pub(super) fn run(node: Option<&str>, service: Service, format: Format) -> Result<ExitCode> {
    let (edit, how) = match service {
        Service::Add { name, listen, backend, check, set, how } => {
            let body = body(&listen, &backend, &check, &set)?;
            (Edit::AddService { name, body }, how)
        }
        Service::Del { name, how } => (Edit::RemoveService { name }, how),
    };
    let node = node::choose(node)?;
    let order = EditOrder { edit, write: how.write, dry_run: how.dry_run };
    match runtime()?.block_on(client::edit(&pins::socket(&node), &order)) {
        Ok(done) => reload::print(&done, format),
        Err(AskError::Other(refused)) => {
            eprintln!("{refused:#}");
            bail!("node {node}: refused, nothing has changed");
        }
        Err(e) => bail!("node {node}: {e}"),
    }
}

/// What stands under the header of the service.
fn body(listen: &str, backends: &[String], check: &str, set: &[String]) -> Result<String> {
    let mut table = Table::new();
    table.insert("listen", listen.into());
    for setting in set {
        let (key, value) = pair(setting)?;
        table.insert(key, toml_edit::value(value));
    }
    let all = backends.iter().map(|b| inline("address", b)).collect::<Result<Vec<_>>>()?;
    table.insert("backend", toml_edit::value(all.into_iter().map(Value::from).collect::<Array>()));
    table.insert("check", toml_edit::value(inline("type", check)?));
    Ok(table.to_string())
}

/// `FIRST[,KEY=VALUE]…`, the first part under the key `first`.
fn inline(first: &str, text: &str) -> Result<InlineTable> {
    let mut parts = text.split(',');
    let mut table = InlineTable::new();
    table.insert(first, parts.next().unwrap_or_default().into());
    for part in parts {
        let (key, value) = pair(part)?;
        table.insert(key, value);
    }
    Ok(table)
}

/// A value that reads as TOML's number, boolean, string or list is that, anything else is a string.
fn pair(text: &str) -> Result<(&str, Value)> {
    let (key, value) = text.split_once('=').with_context(|| format!("{text}: write KEY=VALUE"))?;
    Ok((key.trim(), value.trim().parse().unwrap_or_else(|_| Value::from(value.trim()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_become_the_lines_of_a_service() {
        let backends = ["172.18.0.2,weight=5,name=d1".to_owned(), "[fd00::2]:3306".to_owned()];
        let set = ["scheduler=wlc".to_owned(), "allow=[\"10.0.0.0/8\"]".to_owned()];
        assert_eq!(
            body("172.18.0.201:80", &backends, "tcp,interval=1s", &set).unwrap(),
            "listen = \"172.18.0.201:80\"\nscheduler = \"wlc\"\nallow = [\"10.0.0.0/8\"]\n\
             backend = [{ address = \"172.18.0.2\", weight = 5, name = \"d1\" }, { address = \"[fd00::2]:3306\" }]\n\
             check = { type = \"tcp\", interval = \"1s\" }\n"
        );
        assert!(body("172.18.0.201:80", &["1.2.3.4,weight".into()], "tcp", &[]).is_err());
    }
}
