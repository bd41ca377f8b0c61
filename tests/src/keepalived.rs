//! The real keepalived in a balancer node, as the VRRP peer of viplb.
//!
//! It has the very VRRP parameters of viplb's configuration and nothing else: it takes and gives the virtual
//! address, and forwards nothing. Its pid files lie in the node's directory, so that several can run at once.

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Result, bail};

use crate::{
    console::Console,
    daemon::{AUTH_PASS, VRID},
    lab::{Balancer, Lab, Node, VIP},
    proc::{self, MARK},
};

const READY_LIMIT: Duration = Duration::from_secs(10);

/// Fails early if this lab needs a keepalived that is not installed.
pub(crate) fn check_binary(lab: &Lab) -> Result<()> {
    let plan = lab.plan();
    if [plan.h1, plan.h2].contains(&Balancer::Keepalived) && proc::which("keepalived").is_none() {
        bail!(
            "no `keepalived` found: install the package keepalived, or raise the lab without --h2 keepalived"
        );
    }
    Ok(())
}

/// The `keepalived.conf` of a node.
pub fn configuration(node: &Node) -> String {
    format!(
        "global_defs {{
    router_id {name}
}}
vrrp_instance VI_1 {{
    state BACKUP
    interface eth0
    virtual_router_id {VRID}
    priority {priority}
    advert_int 1
    authentication {{
        auth_type PASS
        auth_pass {AUTH_PASS}
    }}
    virtual_ipaddress {{
        {VIP}
    }}
}}
",
        name = node.name,
        priority = node.priority(),
    )
}

/// Starts keepalived and waits until its VRRP instance listens.
pub fn start(lab: &Lab, node: &Node, console: &Console) -> Result<()> {
    let dir = lab.node_dir(node);
    let config = dir.join("keepalived.conf");
    if !config.exists() {
        fs::write(&config, configuration(node))?;
    }
    for left in ["keepalived.pid", "vrrp.pid"] {
        // One that was killed leaves these, and takes a zombie of that number for a daemon that runs.
        let _ = fs::remove_file(dir.join(left));
    }
    let log_file = dir.join("keepalived.log");
    let log = fs::File::create(&log_file)?;
    let mut command = Command::new("keepalived");
    command.args(["--dont-fork", "--log-console", "--log-detail", "--vrrp"]);
    command.arg("--use-file").arg(&config);
    command.arg("--pid").arg(dir.join("keepalived.pid"));
    command.arg("--vrrp_pid").arg(dir.join("vrrp.pid"));
    command.env(MARK, &node.name);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut child = lab.netns(node).spawn(command)?;
    let ready = console.wait_for(READY_LIMIT, || match child.try_wait()? {
        Some(status) => {
            bail!("keepalived in {} ended at once ({status}):\n{}", node.name, proc::tail(&log_file, 8))
        }
        None => Ok(fs::read_to_string(&log_file)?.contains("Entering BACKUP STATE")),
    });
    proc::reap(child);
    if !ready? {
        let log = proc::tail(&log_file, 8);
        bail!("keepalived in {} is not ready after {} s:\n{log}", node.name, READY_LIMIT.as_secs());
    }
    console.say(format!("{}: keepalived runs, priority {}", node.name, node.priority()));
    Ok(())
}

/// What its log says it is: `Master`, `Backup`, `Fault`.
pub fn state(lab: &Lab, node: &Node) -> Option<&'static str> {
    let log = fs::read_to_string(lab.node_dir(node).join("keepalived.log")).ok()?;
    let last = log.lines().rev().find(|line| line.contains("Entering ") && line.contains(" STATE"))?;
    [("MASTER", "Master"), ("BACKUP", "Backup"), ("FAULT", "Fault")]
        .into_iter()
        .find(|(word, _)| last.contains(word))
        .map(|(_, state)| state)
}
