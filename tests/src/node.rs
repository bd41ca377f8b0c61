//! What can happen to one node: frozen, killed, stopped, started, cut off, healed, asked to run a command.
//!
//! Callers: the `lab` commands and the tests. Faults reach processes by namespace and links by the bridge's side,
//! so a node cannot tell a fault from the real thing.

use std::{process::Command, time::Duration};

use anyhow::{Result, bail};
use nix::{sys::signal::Signal, unistd::Pid};

use crate::{
    books,
    console::Console,
    daemon, galera, keepalived,
    lab::{Balancer, Engine, Lab, Node, Role},
    proc, standin,
};

/// How long a daemon gets to stop; a database that leaves its cluster needs a few seconds.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Freezes all processes of the node. Its kernel goes on, as under `docker pause`. Returns how many.
pub fn pause(lab: &Lab, node: &Node) -> Result<usize> {
    let ns = lab.netns(node);
    // Again until no new one shows up: a process may fork between the listing and the signal.
    loop {
        let awake: Vec<Pid> = ns.pids().into_iter().filter(|pid| !proc::is_stopped(*pid)).collect();
        if awake.is_empty() {
            return Ok(ns.pids().len());
        }
        proc::signal(&awake, Signal::SIGSTOP);
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Lets the node's processes go on. Returns how many.
pub fn unpause(lab: &Lab, node: &Node) -> Result<usize> {
    let pids = lab.netns(node).pids();
    proc::signal(&pids, Signal::SIGCONT);
    Ok(pids.len())
}

/// The node's own daemon with what it forked; commands run by hand are not among them.
pub fn daemon_pids(lab: &Lab, node: &Node) -> Vec<Pid> {
    lab.netns(node).pids().into_iter().filter(|pid| proc::is_marked(*pid)).collect()
}

/// Ends the node's daemon with SIGKILL.
pub fn kill(lab: &Lab, node: &Node, console: &Console) -> Result<()> {
    let pids = running(lab, node)?;
    books::close(lab, node)?;
    proc::signal(&pids, Signal::SIGKILL);
    let ended = console.wait_for(STOP_LIMIT, || Ok(gone(lab, node, &pids)))?;
    if !ended {
        bail!("{}: a killed process is still there after {} s", node.name, STOP_LIMIT.as_secs());
    }
    Ok(())
}

/// Asks the node's daemon to end and waits until it has.
pub fn stop(lab: &Lab, node: &Node, console: &Console) -> Result<()> {
    let pids = running(lab, node)?;
    books::close(lab, node)?;
    proc::signal(&proc::leaders(&pids), Signal::SIGTERM);
    proc::signal(&pids, Signal::SIGCONT);
    let ended = console.wait_for(STOP_LIMIT, || Ok(gone(lab, node, &pids)))?;
    if !ended {
        bail!("{} did not stop within {} s: `lab kill {0}` ends it", node.name, STOP_LIMIT.as_secs());
    }
    Ok(())
}

/// Whether these processes, and whatever they forked meanwhile, are gone with their locks, so that another may start.
fn gone(lab: &Lab, node: &Node, pids: &[Pid]) -> bool {
    pids.iter().all(|pid| proc::has_ended(*pid)) && daemon_pids(lab, node).is_empty()
}

fn running(lab: &Lab, node: &Node) -> Result<Vec<Pid>> {
    if node.role == Role::Client {
        bail!("the client runs no daemon of its own; pause, cut and exec work on it");
    }
    let pids = daemon_pids(lab, node);
    if pids.is_empty() {
        bail!("{} runs nothing: `lab start {0}` starts it", node.name);
    }
    Ok(pids)
}

/// Starts the node's daemon and waits until it is ready.
pub fn start(lab: &Lab, node: &Node, console: &Console) -> Result<()> {
    if !daemon_pids(lab, node).is_empty() {
        bail!("{} is already running", node.name);
    }
    match node.role {
        Role::Balancer(Balancer::Viplb) => daemon::start(lab, node, console),
        Role::Balancer(Balancer::Keepalived) => keepalived::start(lab, node, console),
        Role::Balancer(Balancer::Nothing) => {
            bail!("this lab was raised with nothing to run in {}", node.name)
        }
        Role::Database(Engine::Galera) => galera::restart_node(lab, node, console),
        Role::Database(Engine::Standin) => standin::start_node(lab, node, console),
        Role::Client => bail!("the client runs no daemon of its own"),
    }
}

/// Two ways to cut a node off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The bridge's port goes down: the node sees its carrier go.
    Carrier,
    /// Packets are lost both ways while the node's carrier stays.
    Silent,
}

/// Cuts the node off.
pub fn cut(lab: &Lab, node: &Node, how: Cut) -> Result<()> {
    let line = match how {
        Cut::Carrier => format!("link set {} down", node.name),
        Cut::Silent => format!("link set {} nomaster", node.name),
    };
    lab.bridge().ip(&line)
}

/// Undoes both cuts.
pub fn heal(lab: &Lab, node: &Node) -> Result<()> {
    lab.bridge().ip(&format!("link set {} master br0 up", node.name))
}

/// How the node is cut off, if it is.
pub fn cut_state(lab: &Lab, node: &Node) -> Option<Cut> {
    let mut ip = Command::new("ip");
    ip.args(["-n", lab.bridge().name(), "-o", "link", "show", "dev", &node.name]);
    let shown = proc::finish(&mut ip).ok()?;
    let flags = shown.split_once('<')?.1.split_once('>')?.0;
    if !flags.split(',').any(|flag| flag == "UP") {
        Some(Cut::Carrier)
    } else if !shown.contains(" master br0 ") {
        Some(Cut::Silent)
    } else {
        None
    }
}

/// The command, to be run inside the node with the caller's terminal.
pub fn command(lab: &Lab, node: &Node, words: &[String]) -> Result<Command> {
    let Some((program, args)) = words.split_first() else {
        bail!("nothing to run: `lab exec {} -- CMD…`", node.name)
    };
    let mut command = Command::new(program);
    command.args(args);
    lab.netns(node).place(&mut command)?;
    Ok(command)
}
