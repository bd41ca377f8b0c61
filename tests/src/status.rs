//! The lab as it stands, gathered from the nodes, and `lab status` that prints it once.
//!
//! The owner of the virtual address is whoever answers ARP for it, not what a daemon says of itself: a frozen
//! daemon says nothing. Each question has a deadline, so that a frozen node does not freeze the picture.

use std::{fmt::Write as _, thread};

use serde_json::Value;

use crate::{
    daemon, galera, keepalived,
    lab::{Balancer, Engine, Lab, Node, Role, VIP},
    node::{self, Cut},
    proc,
    sql::{self, ROOT, Server},
    vip,
};

/// One node as it stands.
#[derive(Debug, Clone)]
pub struct NodeView {
    /// The node.
    pub node: Node,
    /// `viplb`, `keepalived`, `mariadbd`, `stand-in`, `-`.
    pub runs: &'static str,
    /// Processes of its daemon.
    pub pids: Vec<i32>,
    /// Its state in one word or two.
    pub state: String,
    /// viplb only: whether the kernel's lease is valid.
    pub lease: Option<bool>,
    /// viplb only: its whole status.
    pub status: Option<Value>,
}

/// A backend as the owner sees it.
#[derive(Debug, Clone, Default)]
pub struct BackendView {
    /// Its name.
    pub name: String,
    /// State, with the cause if there is one.
    pub state: String,
    /// Flows now.
    pub flows: u64,
    /// Packets ever.
    pub packets: u64,
}

/// The lab as it stands.
#[derive(Debug, Clone)]
pub struct View {
    /// Nodes that answer for the virtual address.
    pub owners: Vec<String>,
    /// Every node but the client.
    pub nodes: Vec<NodeView>,
    /// Backends of the first service, as the owner sees them.
    pub backends: Vec<BackendView>,
    /// Flows of all services at the owner.
    pub flows: u64,
    /// Packets of all services at both nodes: a counter that goes on after a failover.
    pub packets: u64,
}

impl View {
    /// Asks all nodes at once.
    pub fn of(lab: &Lab) -> View {
        let nodes: Vec<Node> = lab.nodes().into_iter().filter(|n| n.role != Role::Client).collect();
        let (owners, nodes) = thread::scope(|scope| {
            let owners = scope.spawn(|| vip::owners(lab).unwrap_or_default());
            let asked: Vec<_> = nodes.into_iter().map(|n| scope.spawn(|| view_node(lab, n))).collect();
            let nodes: Vec<NodeView> = asked.into_iter().filter_map(|n| n.join().ok()).collect();
            (owners.join().unwrap_or_default(), nodes)
        });
        let services = |view: &NodeView| services(view.status.as_ref());
        let leader =
            nodes.iter().find(|n| n.lease == Some(true)).or(nodes.iter().find(|n| n.status.is_some()));
        let led: Vec<Value> = leader.map(services).unwrap_or_default();
        let backends = led.first().map(backends).unwrap_or_default();
        let flows = led.iter().map(|s| number(&s["flows"])).sum();
        let packets = nodes.iter().flat_map(services).map(|s| number(&s["packets"])).sum();
        View { owners, nodes, backends, flows, packets }
    }

    /// The owner in words.
    pub fn owner(&self) -> String {
        match self.owners.as_slice() {
            [] => "nobody".to_owned(),
            [one] => one.clone(),
            many => format!("SPLIT: {}", many.join(" and ")),
        }
    }

    /// The table of nodes and backends.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "VIP {VIP} is answered for by {}\n", self.owner());
        let _ = writeln!(
            out,
            "{:<7} {:<12} {:<11} {:<26} {:<7} pids",
            "node", "address", "runs", "state", "lease"
        );
        for n in &self.nodes {
            let lease = n.lease.map_or("-", |valid| if valid { "valid" } else { "none" });
            let pids: Vec<String> = n.pids.iter().map(i32::to_string).collect();
            let (name, addr) = (&n.node.name, n.node.addr.to_string());
            let _ = writeln!(
                out,
                "{name:<7} {addr:<12} {:<11} {:<26} {lease:<7} {}",
                n.runs,
                n.state,
                pids.join(" ")
            );
        }
        if !self.backends.is_empty() {
            let _ = writeln!(out, "\n{:<7} {:<32} {:>7} {:>10}", "backend", "state", "flows", "packets");
        }
        for b in &self.backends {
            let _ = writeln!(out, "{:<7} {:<32} {:>7} {:>10}", b.name, b.state, b.flows, b.packets);
        }
        out
    }
}

fn view_node(lab: &Lab, node: Node) -> NodeView {
    let pids = node::daemon_pids(lab, &node);
    let mut view = NodeView {
        runs: runs(&node),
        pids: pids.iter().map(|p| p.as_raw()).collect(),
        state: "down".to_owned(),
        lease: None,
        status: None,
        node,
    };
    if view.runs == "viplb" {
        view.status = daemon::status(lab, &view.node).ok();
        view.lease = view.status.as_ref().map(|s| s["vrrp"][0]["lease_valid"].as_bool() == Some(true));
    }
    if pids.iter().any(|pid| proc::is_stopped(*pid)) {
        view.state = "frozen".to_owned();
    } else if !pids.is_empty() {
        view.state = daemon_state(lab, &view);
    } else if view.runs == "-" {
        view.state = "-".to_owned();
    }
    match node::cut_state(lab, &view.node) {
        Some(Cut::Carrier) => view.state.push_str(", cut"),
        Some(Cut::Silent) => view.state.push_str(", cut silently"),
        None => {}
    }
    view
}

fn daemon_state(lab: &Lab, view: &NodeView) -> String {
    let unknown = || "no answer".to_owned();
    match view.node.role {
        Role::Balancer(Balancer::Viplb) => {
            let state = view.status.as_ref().and_then(|s| s["vrrp"][0]["state"].as_str().map(str::to_owned));
            state.unwrap_or_else(unknown)
        }
        Role::Balancer(_) => keepalived::state(lab, &view.node).map_or_else(unknown, str::to_owned),
        Role::Database(Engine::Galera) => galera::state(lab, &view.node).unwrap_or_else(|_| unknown()),
        Role::Database(Engine::Standin) => {
            let server = Server::Socket(lab.db_socket(&view.node));
            sql::query(&server, ROOT, "SELECT 1").map_or_else(|_| unknown(), |_| "answers".to_owned())
        }
        Role::Client => "-".to_owned(),
    }
}

fn runs(node: &Node) -> &'static str {
    match node.role {
        Role::Balancer(Balancer::Viplb) => "viplb",
        Role::Balancer(Balancer::Keepalived) => "keepalived",
        Role::Database(Engine::Galera) => "mariadbd",
        Role::Database(Engine::Standin) => "stand-in",
        Role::Balancer(Balancer::Nothing) | Role::Client => "-",
    }
}

fn services(status: Option<&Value>) -> Vec<Value> {
    status.and_then(|s| s["services"].as_array().cloned()).unwrap_or_default()
}

fn backends(service: &Value) -> Vec<BackendView> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let view = |b: &Value| {
        let cause = text(&b["cause"]);
        let state = text(&b["state"]);
        let state = if cause.is_empty() { state } else { format!("{state} ({cause})") };
        BackendView {
            name: text(&b["name"]),
            state,
            flows: number(&b["flows"]),
            packets: number(&b["packets"]),
        }
    };
    service["backends"].as_array().map(|list| list.iter().map(view).collect()).unwrap_or_default()
}

/// A number, also one that was written as text.
fn number(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(0)
}
