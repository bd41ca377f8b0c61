//! What viplb is compared with on a wire: the kernel's own translation (nftables' DNAT and masquerade) and HAProxy.
//!
//! Each has a host to itself and the backend `s` behind it, on one leg as viplb has. Called by the benches and the
//! differential tests.

use std::{
    fs,
    io::Write,
    net::{IpAddr, SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::Wire;
use crate::{
    packets::{FAMILIES, Family, PORT},
    proc,
};

/// How long HAProxy has to begin to listen.
const START: Duration = Duration::from_secs(20);

/// A running HAProxy, which ends when dropped.
#[derive(Debug)]
pub struct Haproxy {
    child: Child,
    config: PathBuf,
}

impl Wire {
    /// The own address of a host.
    ///
    /// # Panics
    ///
    /// If there is no such host.
    pub fn own(&self, host: char, family: Family) -> IpAddr {
        let number = super::number(host);
        match family {
            Family::V4 => [172, 18, 0, number].into(),
            // Written in decimal digits, read as hexadecimal ones.
            Family::V6 => format!("fd12::{number}").parse().expect("an address"),
        }
    }

    /// Has a host's kernel translate what comes to its own addresses: TCP and UDP go on to the backend from the host.
    ///
    /// # Panics
    ///
    /// If the kernel refuses the rules.
    pub fn nftables(&self, host: char) {
        self.forwarding(host);
        // A router on one leg would tell each client to go straight to the backend.
        for key in ["all", "eth0"] {
            let key = format!("net/ipv4/conf/{key}/send_redirects");
            self.host(host).sysctl(&key, "0").expect("a setting");
        }
        let [v4, v6] = FAMILIES.map(|family| (self.own(host, family), family.backend(0)));
        let rules = format!(
            "table inet peer {{\n chain in {{\n  type nat hook prerouting priority dstnat\n\
             ip daddr {} meta l4proto {{ tcp, udp }} th dport {PORT} dnat ip to {}\n\
             ip6 daddr {} meta l4proto {{ tcp, udp }} th dport {PORT} dnat ip6 to {}\n }}\n\
             chain out {{\n  type nat hook postrouting priority srcnat\n\
             ip daddr {} masquerade\n ip6 daddr {} masquerade\n }}\n}}\n",
            v4.0, v4.1, v6.0, v6.1, v4.1, v6.1
        );
        let mut nft = Command::new("nft");
        nft.args(["-f", "-"]);
        self.host(host).place(&mut nft).expect("the namespace");
        proc::finish_with(&mut nft, &rules).expect("rules");
    }

    /// Starts HAProxy on a host's own IPv4 address.
    ///
    /// # Panics
    ///
    /// If it does not begin to listen.
    pub fn haproxy(&self, host: char) -> Haproxy {
        let at = SocketAddr::new(self.own(host, Family::V4), PORT);
        let config = std::env::temp_dir().join(format!("viplb-haproxy-{}", self.host(host).name()));
        let text = format!(
            "global\n  maxconn 2000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1m\n  \
             timeout server 1m\nlisten s\n  bind {at}\n  server s {}:{PORT}\n",
            Family::V4.backend(0)
        );
        fs::File::create(&config).and_then(|mut file| file.write_all(text.as_bytes())).expect("a file");
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&config).stdin(Stdio::null()).stdout(Stdio::null());
        let child = self.host(host).spawn(command).expect("haproxy starts");
        let peer = Haproxy { child, config };
        let until = Instant::now() + START;
        while self.host('c').run(|| TcpStream::connect_timeout(&at, START)).unwrap().is_err() {
            assert!(Instant::now() < until, "haproxy does not listen");
            thread::sleep(Duration::from_millis(50));
        }
        peer
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.config);
    }
}
