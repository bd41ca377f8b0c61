//! keepalived as the peer, in namespace `b`.

use std::{
    fs,
    net::IpAddr,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Net, SECOND, VIP, output, wait_until};

impl Net {
    /// keepalived in `b`, version 2 with a password; `more` are further lines of its `vrrp_instance`.
    pub fn keepalived(&self, priority: u8, password: &str, more: &str) -> Keepalived {
        let auth =
            format!("advert_int 1\n authentication {{\n auth_type PASS\n auth_pass {password}\n }}\n {more}");
        self.keepalived_with(priority, &auth)
    }

    /// keepalived in `b`; `lines` are those of its `vrrp_instance` besides the ones all tests share.
    pub fn keepalived_with(&self, priority: u8, lines: &str) -> Keepalived {
        self.keepalived_for(&[VIP.into()], priority, lines)
    }

    /// The same with other virtual addresses.
    pub fn keepalived_for(&self, vips: &[IpAddr], priority: u8, lines: &str) -> Keepalived {
        let file = |suffix: &str| self.dir.join(suffix).display().to_string();
        let addresses: String = vips.iter().map(|vip| format!(" {vip} dev eth0\n")).collect();
        let config = format!(
            "vrrp_instance VI_1 {{\n state BACKUP\n interface eth0\n virtual_router_id 51\n priority {priority}\n \
             {lines}\n virtual_ipaddress {{\n{addresses} }}\n}}\n"
        );
        fs::write(self.dir.join("keepalived.conf"), config).unwrap();
        let log = fs::File::create(self.dir.join("keepalived.log")).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &self.b, "keepalived", "-n", "-l", "-D", "--vrrp"])
            .args(["-f", &file("keepalived.conf"), "-p", &file("pid"), "-r", &file("vrrp.pid")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("keepalived starts");
        Keepalived { child, namespace: self.b.clone(), vip: vips[0] }
    }
}

/// A running keepalived.
#[derive(Debug)]
pub struct Keepalived {
    child: Child,
    namespace: String,
    vip: IpAddr,
}

impl Keepalived {
    /// Whether the (first) virtual address is on its interface.
    pub fn owns_the_address(&self) -> bool {
        let shown = output("ip", &["-n", &self.namespace, "-o", "addr", "show", "dev", "eth0"]);
        shown.contains(&format!(" {}/", self.vip))
    }

    /// When it had, or had not, the virtual address.
    pub fn wait_until_owner(&self, owner: bool, limit: Duration) -> Instant {
        let what = format!("keepalived to be {}", if owner { "master" } else { "backup" });
        wait_until(&what, limit, || self.owns_the_address() == owner)
    }

    /// For as long as its start takes with short intervals it never owns the address: then it has heard the master that
    /// there is.
    pub fn hear_the_master(&self) {
        let quiet = Instant::now() + 2 * SECOND;
        wait_until("keepalived's start", 3 * SECOND, || {
            assert!(!self.owns_the_address());
            Instant::now() >= quiet
        });
    }

    /// SIGTERM: it sends an advert of priority 0.
    pub fn terminate(&mut self) {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM).unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.terminate();
        }
    }
}
