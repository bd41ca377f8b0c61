//! `viplb galera status`: the cluster on one screen, from the daemon's snapshot. `viplb galera restart-plan DIR…`: how to
//! start a stopped cluster again, from what was collected of its nodes; it asks no daemon and changes nothing.

use std::{fmt::Write, io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde::Serialize;

use super::{Format, status, table::Table};
use crate::{
    api::snapshot::{Backend, GaleraNode, RUNNING, Service},
    galera::{
        files::{self, COLLECTOR, Collected},
        plan::{self, Action, Plan, Refusal, Step},
    },
};

/// The cluster behind the services.
#[derive(Debug, Subcommand)]
pub enum Galera {
    /// Show each node's state, the writer, and why a node is out. Exit code as for `status`.
    Status,
    /// Say how to start a stopped cluster again. Exit code: 0 a plan, 1 refused, 2 cannot read.
    RestartPlan {
        /// One directory per node with its grastate.dat, gvwstate.dat and recover.txt; of equal nodes the first is
        /// preferred.
        #[arg(value_name = "DIR", required_unless_present = "collector")]
        dirs: Vec<PathBuf>,
        /// How many nodes the cluster has, if not all were collected.
        #[arg(long, value_name = "N")]
        nodes: Option<usize>,
        /// Plan although transactions may be lost, and name them.
        #[arg(long)]
        force: bool,
        /// Print the script that collects such a directory, to be run on each node.
        #[arg(long, conflicts_with_all = ["dirs", "nodes", "force"])]
        collector: bool,
    },
}

/// Runs one of them.
pub(super) fn run(node: Option<&str>, command: Galera, format: Format) -> Result<ExitCode> {
    match command {
        Galera::Status => show(node, format),
        Galera::RestartPlan { collector: true, .. } => {
            print(COLLECTOR);
            Ok(ExitCode::SUCCESS)
        }
        Galera::RestartPlan { dirs, nodes, force, .. } => restart_plan(&dirs, nodes, force, format),
    }
}

fn print(text: &str) {
    // A closed pipe (`| head`) is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn json(value: &impl Serialize, format: Format) -> Result<String> {
    Ok(match format {
        Format::PrettyJson => serde_json::to_string_pretty(value)?,
        _ => serde_json::to_string(value)?,
    } + "\n")
}

fn show(node: Option<&str>, format: Format) -> Result<ExitCode> {
    let snapshot = status::ask(node)?;
    if snapshot.node.daemon != RUNNING {
        bail!("{}: only it asks the cluster", snapshot.node.daemon);
    }
    let services: Vec<&Service> = snapshot.services.iter().filter(|s| !s.role.is_empty()).collect();
    if services.is_empty() {
        bail!("no service has a check of type \"galera\"");
    }
    let text = match format {
        Format::Text => render(&services),
        _ => json(&services, format)?,
    };
    Ok(status::print(&text, &snapshot))
}

fn render(services: &[&Service]) -> String {
    let mut out = String::new();
    for (i, s) in services.iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        let writer = s.backends.iter().find(|b| b.part == "writer");
        let writer = match (s.role.as_str(), writer) {
            ("writer", Some(b)) => format!("  writer {}", b.name),
            ("writer", None) => "  writer nobody".into(),
            _ => String::new(),
        };
        let (up, all) = (s.up, s.backends.len());
        let _ = writeln!(out, "service {}  {}  role {}{writer}  {up}/{all} up", s.name, s.listen, s.role);
        for uuid in clusters(s) {
            let _ = writeln!(out, "cluster {uuid}");
        }
        out.push_str(&nodes(s).render(2));
    }
    out
}

/// The clusters that its nodes are in; more than one is a mistake that shall be seen.
fn clusters(s: &Service) -> Vec<&str> {
    let mut all: Vec<&str> =
        s.backends.iter().filter_map(|b| b.galera.as_ref()).map(|g| g.cluster_uuid.as_str()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn nodes(s: &Service) -> Table {
    let mut t = Table::new(&[
        "NODE",
        "ADDRESS",
        "SERVES",
        "STATE",
        "COMPONENT",
        "VIEW",
        "SIZE",
        "INDEX",
        "PRIO",
        "COMMITTED",
        "QUEUE",
        "PAUSES",
        "CONNECTIONS",
        "WHY NOT",
    ]);
    for b in &s.backends {
        let of =
            |show: &dyn Fn(&GaleraNode) -> String| b.galera.as_ref().map_or_else(|| "-".to_owned(), show);
        let primary = |g: &GaleraNode| g.cluster_status.eq_ignore_ascii_case("primary");
        t.row([
            status::name(b),
            b.addr.clone(),
            serves(b),
            of(&|g| g.state_comment.clone()),
            of(&|g| g.cluster_status.clone()),
            // All ones outside of a primary component.
            of(&|g| if primary(g) { g.conf_id.to_string() } else { "-".into() }),
            of(&|g| g.cluster_size.to_string()),
            of(&|g| if primary(g) { g.local_index.to_string() } else { "-".into() }),
            of(&|g| g.priority.to_string()),
            of(&|g| g.last_committed.to_string()),
            of(&|g| g.recv_queue.to_string()),
            of(&|g| g.flow_control_sent.to_string()),
            of(&|g| format!("{}/{}", g.threads_connected, g.max_connections)),
            b.cause.clone(),
        ]);
    }
    t
}

fn serves(b: &Backend) -> String {
    match b.part.as_str() {
        part if b.state == "up" && !part.is_empty() => part.to_owned(),
        _ => b.state.clone(),
    }
}

fn restart_plan(dirs: &[PathBuf], expected: Option<usize>, force: bool, format: Format) -> Result<ExitCode> {
    let read = |dir: &PathBuf| files::read(dir).with_context(|| format!("cannot read {}", dir.display()));
    let nodes: Vec<Collected> = dirs.iter().map(read).collect::<Result<_>>()?;
    for (i, n) in nodes.iter().enumerate() {
        if nodes[..i].iter().any(|other| other.name == n.name) {
            bail!("two directories are named {}: name them by their nodes", n.name);
        }
    }
    match plan::plan(&nodes, expected, force) {
        Ok(plan) => {
            print(&if format == Format::Text { plan_text(&plan) } else { json(&plan, format)? });
            Ok(ExitCode::SUCCESS)
        }
        Err(refusal) => {
            print(&if format == Format::Text { refusal_text(&refusal) } else { json(&refusal, format)? });
            Ok(ExitCode::FAILURE)
        }
    }
}

fn plan_text(plan: &Plan) -> String {
    let mut out = format!("cluster {}\n\n", plan.cluster);
    let mut t = Table::new(&["NODE", "TRANSACTION", "FROM", "LAST TO LEAVE"]);
    for n in &plan.nodes {
        let seqno = n.seqno.map_or_else(|| "-".to_owned(), |s| s.to_string());
        let safe = if n.safe_to_bootstrap { "yes" } else { "no" };
        t.row([n.node.clone(), seqno, n.source.to_owned(), safe.to_owned()]);
    }
    out.push_str(&t.render(0));
    for note in &plan.notes {
        let _ = writeln!(out, "\nnote: {note}");
    }
    if !plan.losses.is_empty() {
        out.push_str("\nMAY BE LOST:\n");
        plan.losses.iter().for_each(|loss| out.push_str(&format!("  {loss}\n")));
    }
    out.push_str("\nOne step after the other; after each, wait until the node shows wsrep_local_state_comment = Synced.\n");
    for (i, step) in plan.steps.iter().enumerate() {
        let _ = write!(out, "\n{}. {}", i + 1, step_text(step));
    }
    out
}

fn step_text(step: &Step) -> String {
    let (what, commands): (_, &[&str]) = match step.action {
        Action::MarkSafe => (
            "set safe_to_bootstrap: 1 in its grastate.dat",
            &["sed -i 's/^safe_to_bootstrap:.*/safe_to_bootstrap: 1/' /var/lib/mysql/grastate.dat"],
        ),
        Action::Bootstrap => (
            "bootstrap",
            &[
                "galera_new_cluster                  # MariaDB",
                "systemctl start mysql@bootstrap     # Percona XtraDB Cluster",
            ],
        ),
        Action::Start if step.nodes.len() > 1 => {
            ("start them all at the same time, none of them as a new cluster", &["systemctl start mariadb"])
        }
        Action::Start => ("start", &["systemctl start mariadb             # Percona: mysql"]),
        Action::MakePrimary => (
            "make its component primary, once the other nodes are surely down",
            &["mysql -e \"SET GLOBAL wsrep_provider_options = 'pc.bootstrap=YES'\""],
        ),
    };
    let mut out = format!("{}: {what}\n   {}\n", step.nodes.join(", "), step.why);
    commands.iter().for_each(|command| out.push_str(&format!("     {command}\n")));
    out
}

fn refusal_text(refusal: &Refusal) -> String {
    let mut out = "No plan:\n".to_owned();
    for (reason, instead) in refusal.reasons.iter().zip(&refusal.instead) {
        let _ = writeln!(out, "  {reason}\n    → {instead}");
    }
    if refusal.can_be_forced {
        out.push_str("\nWith --force there is one; it names the transactions that may be lost.\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(name: &str, state: &str, part: &str, cause: &str) -> Backend {
        let galera = GaleraNode {
            cluster_status: "Primary".into(),
            cluster_uuid: "aaaa".into(),
            conf_id: 4,
            cluster_size: 2,
            state_comment: "Synced".into(),
            last_committed: 77,
            threads_connected: 3,
            max_connections: 300,
            ..GaleraNode::default()
        };
        Backend {
            name: name.into(),
            addr: "10.0.0.1:3306".into(),
            state: state.into(),
            part: part.into(),
            cause: cause.into(),
            galera: (state != "down").then_some(galera),
            ..Backend::default()
        }
    }

    #[test]
    fn the_screen_names_the_writer_and_says_why_a_node_is_out() {
        let service = Service {
            name: "write".into(),
            listen: "172.18.0.201:3306".into(),
            role: "writer".into(),
            up: 1,
            backends: vec![
                backend("db1", "up", "writer", ""),
                backend("db2", "drain", "standby", "wsrep_desync is ON"),
                backend("db3", "down", "standby", "connection refused"),
            ],
            ..Service::default()
        };
        let text = render(&[&service]);
        let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(lines[0].join(" "), "service write 172.18.0.201:3306 role writer writer db1 1/3 up");
        assert_eq!(lines[1], ["cluster", "aaaa"]);
        assert_eq!(lines[3].join(" "), "db1 10.0.0.1:3306 writer Synced Primary 4 2 0 0 77 0 0 3/300");
        assert!(lines[4].join(" ").ends_with("wsrep_desync is ON"), "{text}");
        assert_eq!(lines[5].join(" "), "db3 10.0.0.1:3306 down - - - - - - - - - - connection refused");
    }

    #[test]
    fn a_plan_has_its_losses_before_its_steps_and_numbers_them() {
        let step = |action, node: &str| Step { nodes: vec![node.into()], action, why: "why".into() };
        let plan = Plan {
            cluster: "aaaa".into(),
            nodes: vec![],
            steps: vec![step(Action::Bootstrap, "db2"), step(Action::Start, "db1")],
            losses: vec!["transactions after 12 that only db3 has".into()],
            notes: vec![],
        };
        let text = plan_text(&plan);
        let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("no {what} in\n{text}"));
        assert!(
            at("transactions after 12") < at("1. db2: bootstrap")
                && at("galera_new_cluster") < at("2. db1: start")
        );
    }

    #[test]
    fn a_refusal_says_what_to_do_and_whether_it_can_be_forced() {
        let mut refusal =
            Refusal { reasons: vec!["a".into()], instead: vec!["b".into()], can_be_forced: true };
        assert_eq!(
            refusal_text(&refusal),
            "No plan:\n  a\n    → b\n\nWith --force there is one; it names the transactions that may be lost.\n"
        );
        refusal.can_be_forced = false;
        assert!(!refusal_text(&refusal).contains("--force"));
    }
}
