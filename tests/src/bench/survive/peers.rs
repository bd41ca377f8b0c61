//! What viplb's survivors are counted beside: keepalived with HAProxy, and the best that Linux itself offers, keepalived with
//! nftables' translation whose entries conntrackd replicates (FT-FW).
//!
//! The second is set up with what is known to help it (see the comments): without, it loses more.

use std::{
    fs,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use super::scene::{PORT, other, priority};
use crate::{
    bench::scene::Profile,
    console::Console,
    daemon::{AUTH_PASS, VRID},
    keepalived,
    lab::{DB_PORT, Lab, Node, VIP},
    netns::Netns,
    proc::{self, MARK},
};

/// Advertisement interval of keepalived in the fast profile, s: at 0.03 it changes owners on a busy machine.
const FAST_ADVERT_INT: f64 = 0.1;
/// A connection may be idle for so long, h.
const IDLE_H: u32 = 24;

/// Something that is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Peer {
    /// keepalived + HAProxy
    Haproxy,
    /// keepalived + nftables DNAT + conntrackd (FT-FW)
    Conntrackd,
}

impl Peer {
    /// In a row.
    pub fn words(self) -> &'static str {
        match self {
            Self::Haproxy => "keepalived + HAProxy",
            Self::Conntrackd => "keepalived + nftables + conntrackd",
        }
    }

    /// The programs that it needs, and their packages.
    pub fn needs(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Haproxy => &[("keepalived", "keepalived"), ("haproxy", "haproxy")],
            Self::Conntrackd => {
                &[("keepalived", "keepalived"), ("conntrackd", "conntrackd"), ("nft", "nftables")]
            }
        }
    }

    /// Writes a node's files and sets its kernel up.
    pub fn configure(self, lab: &Lab, node: &Node, profile: Profile) -> Result<()> {
        let (dir, netns) = (lab.node_dir(node), lab.netns(node));
        match self {
            Self::Haproxy => {
                netns.sysctl("net/ipv4/ip_nonlocal_bind", "1")?;
                fs::write(dir.join("haproxy.cfg"), haproxy_cfg(lab))?;
            }
            Self::Conntrackd => {
                netns.sysctl("net/ipv4/ip_forward", "1")?;
                nft(&netns, &translation(lab))?;
                // Sequence numbers of an entry that was replicated are not known; a segment of no entry opens none.
                netns.sysctl("net/netfilter/nf_conntrack_tcp_be_liberal", "1")?;
                netns.sysctl("net/netfilter/nf_conntrack_tcp_loose", "0")?;
                fs::write(dir.join("conntrackd.conf"), conntrackd_conf(lab, node))?;
                fs::write(dir.join("notify.sh"), notify(lab, node))?;
            }
        }
        fs::write(dir.join("keepalived.conf"), self.keepalived_conf(lab, node, profile))?;
        Ok(())
    }

    /// Starts a node's programs.
    pub fn start(self, lab: &Lab, node: &Node) -> Result<()> {
        let dir = lab.node_dir(node);
        let mut command = match self {
            Self::Haproxy => {
                let mut command = Command::new("haproxy");
                command.arg("-db").arg("-f").arg(dir.join("haproxy.cfg"));
                command
            }
            Self::Conntrackd => {
                // One that was killed leaves these.
                for left in ["conntrackd.lock", "conntrackd.sock"] {
                    let _ = fs::remove_file(dir.join(left));
                }
                let mut command = Command::new("conntrackd");
                command.arg("-C").arg(dir.join("conntrackd.conf"));
                command
            }
        };
        let log_file = dir.join("peer.log");
        let log = fs::File::options().create(true).append(true).open(&log_file)?;
        command.env(MARK, &node.name).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut child = lab.netns(node).spawn(command)?;
        let ready = Console::quiet().wait_for(std::time::Duration::from_secs(10), || {
            if let Some(status) = child.try_wait()? {
                bail!("{} in {} ended ({status}):\n{}", self.words(), node.name, proc::tail(&log_file, 8));
            }
            Ok(self.is_ready(lab, node))
        })?;
        proc::reap(child);
        if !ready {
            bail!("{} in {} is not ready:\n{}", self.words(), node.name, proc::tail(&log_file, 8));
        }
        keepalived::start(lab, node, &Console::quiet())
    }

    fn is_ready(self, lab: &Lab, node: &Node) -> bool {
        match self {
            Self::Haproxy => {
                let connect = || std::net::TcpStream::connect((VIP, PORT)).is_ok();
                // Bound to an address that is not here: asked for as a local one.
                lab.netns(node).run(listens).unwrap_or(false) || lab.netns(node).run(connect).unwrap_or(false)
            }
            Self::Conntrackd => lab.node_dir(node).join("conntrackd.sock").exists(),
        }
    }

    fn keepalived_conf(self, lab: &Lab, node: &Node, profile: Profile) -> String {
        let election = match profile {
            Profile::Default => format!(
                "    advert_int 1\n    authentication {{\n        auth_type PASS\n        auth_pass {AUTH_PASS}\n    }}\n"
            ),
            Profile::Fast => format!("    version 3\n    advert_int {FAST_ADVERT_INT}\n"),
        };
        // Time for a returning node to be sent the other's entries, which nothing waits for otherwise.
        let (delay, notify) = match self {
            Self::Haproxy => ("", String::new()),
            Self::Conntrackd => {
                let script = lab.node_dir(node).join("notify.sh");
                let line = |word: &str, state: &str| {
                    format!("    notify_{word} \"/bin/sh {} {state}\"\n", script.display())
                };
                let lines = [("master", "primary"), ("backup", "backup"), ("fault", "fault")];
                ("    preempt_delay 3\n", lines.map(|(word, state)| line(word, state)).concat())
            }
        };
        format!(
            "global_defs {{\n    router_id {name}\n    script_user root\n}}\n\
             vrrp_instance VI_1 {{\n    state BACKUP\n    interface eth0\n    virtual_router_id {VRID}\n    \
             priority {priority}\n{election}{delay}    virtual_ipaddress {{\n        {VIP}\n    }}\n{notify}}}\n",
            name = node.name,
            priority = priority(profile, node),
        )
    }
}

/// Whether somebody listens on the service's port in this namespace.
fn listens() -> bool {
    let shown = fs::read_to_string("/proc/thread-self/net/tcp").unwrap_or_default();
    let (port, listening) = (format!(":{PORT:04X}"), "0A");
    shown.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace().skip(1);
        words.next().is_some_and(|local| local.ends_with(&port)) && words.nth(1) == Some(listening)
    })
}

fn haproxy_cfg(lab: &Lab) -> String {
    let servers: String = lab
        .databases()
        .iter()
        .map(|db| format!("    server {} {}:{PORT} check inter 1s\n", db.name, db.addr))
        .collect();
    format!(
        "global\n    nbthread 2\n\
         defaults\n    mode tcp\n    timeout connect 5s\n    timeout client {IDLE_H}h\n    timeout server {IDLE_H}h\n\
         listen app\n    bind {VIP}:{PORT}\n    balance roundrobin\n{servers}\
         listen mysql\n    bind {VIP}:{DB_PORT}\n    server db1 {}:{DB_PORT} check inter 1s\n",
        lab.databases()[0].addr
    )
}

/// Translation both ways. The backend is chosen by a hash that both nodes compute alike, and the source is the virtual address, so
/// that replies go to whoever has it. A node lets nothing through until its notify script has committed the entries: a segment
/// that came before would be answered by RST.
fn translation(lab: &Lab) -> String {
    let backends = lab.databases();
    let map: Vec<String> = backends.iter().enumerate().map(|(i, db)| format!("{i} : {}", db.addr)).collect();
    format!(
        "table ip lb {{\n\
         chain open {{ drop; }}\n\
         chain gate {{ type filter hook prerouting priority raw; ip daddr {VIP} tcp dport {{ {PORT}, {DB_PORT} }} jump open;\n\
         ip daddr {VIP} tcp sport {{ {PORT}, {DB_PORT} }} jump open; }}\n\
         chain pre {{ type nat hook prerouting priority dstnat;\n\
         ip daddr {VIP} tcp dport {PORT} dnat to jhash ip saddr . tcp sport mod {count} seed 0x1 map {{ {map} }};\n\
         ip daddr {VIP} tcp dport {DB_PORT} dnat to {first}; }}\n\
         chain post {{ type nat hook postrouting priority srcnat;\n\
         ct status dnat ct original ip daddr {VIP} snat to {VIP}; }}\n}}\n",
        count = backends.len(),
        map = map.join(", "),
        first = backends[0].addr,
    )
}

fn conntrackd_conf(lab: &Lab, node: &Node) -> String {
    let dir = lab.node_dir(node);
    format!(
        "Sync {{\n  Mode FTFW {{\n    ResendQueueSize 131072\n    ACKWindowSize 300\n    DisableExternalCache Off\n  \
         StartupResync on\n  }}\n  \
         UDP {{\n    IPv4_address {own}\n    IPv4_Destination_Address {other}\n    Port 3780\n    Interface eth0\n    \
         SndSocketBuffer 24985600\n    RcvSocketBuffer 24985600\n    Checksum on\n  }}\n}}\n\
         General {{\n  Systemd off\n  HashSize 32768\n  HashLimit 1048576\n  LogFile {log}\n  Syslog off\n  \
         LockFile {lock}\n  UNIX {{\n    Path {sock}\n  }}\n  \
         NetlinkBufferSize 2097152\n  NetlinkBufferSizeMaxGrowth 33554432\n  \
         Filter From Userspace {{\n    Protocol Accept {{ TCP }}\n    Address Ignore {{\n      IPv4_address 127.0.0.1\n      \
         IPv4_address {own}\n      IPv4_address {other}\n    }}\n  }}\n}}\n",
        own = node.addr,
        other = other(node),
        log = dir.join("conntrackd.log").display(),
        lock = dir.join("conntrackd.lock").display(),
        sock = dir.join("conntrackd.sock").display(),
    )
}

/// conntrackd's own `primary-backup.sh`, and the gate.
fn notify(lab: &Lab, node: &Node) -> String {
    format!(
        "ct=\"conntrackd -C {conf}\"\n\
         case \"$1\" in\n\
         primary) $ct -c; nft flush chain ip lb open; $ct -f; $ct -R; $ct -B ;;\n\
         backup) nft add rule ip lb open drop; $ct -t; $ct -n ;;\n\
         fault) nft add rule ip lb open drop; $ct -t ;;\n\
         esac\n",
        conf = lab.node_dir(node).join("conntrackd.conf").display()
    )
}

/// Loads rules in a namespace.
pub fn nft(netns: &Netns, rules: &str) -> Result<()> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]);
    netns.place(&mut command)?;
    proc::finish_with(&mut command, rules).context("nft").map(drop)
}
