//! FRR's vrrpd as the peer, in namespace `b`: version 3, both families, with virtual hardware addresses.
//!
//! It wants a macvlan for each family, which carries the address and is up while it is master, and zebra beside it. Both
//! daemons have their sockets and pid files in the net's directory, so that several can run at once, and run as the user
//! that their package made.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Group, Pid, User},
};

use super::{Net, SECOND, TAKEOVER, VIP, VIP6, output, run, wait_until};

/// Where the package has its daemons.
const DAEMONS: &str = "/usr/lib/frr";

impl Net {
    /// FRR in `b` with the virtual addresses of both families. Its macvlans are down as long as it is a backup.
    pub fn frr(&self, priority: u8, advert_int: Duration) -> Frr {
        let dir = self.dir.join("frr");
        fs::create_dir_all(&dir).unwrap();
        fs::set_permissions(&self.dir, fs::Permissions::from_mode(0o755)).unwrap();
        let (user, group) = (User::from_name("frr").unwrap(), Group::from_name("frrvty").unwrap());
        let user = user.expect("the package frr has made a user").uid.as_raw();
        chown(&dir, Some(user), group.map(|group| group.gid.as_raw())).unwrap();
        // Without it the node answers for the address of a macvlan on every interface.
        self.sysctl(&self.b, "net.ipv4.conf.all.arp_ignore=1");
        self.macvlan("vrrp4", "00:00:5e:00:01:33", &[&format!("{VIP}/16")]);
        self.macvlan("vrrp6", "00:00:5e:00:02:33", &[&format!("{VIP6}/64"), "nodad"]);
        let interval = advert_int.as_millis();
        let config = format!(
            "interface eth0\n vrrp 51 version 3\n vrrp 51 priority {priority}\n vrrp 51 advertisement-interval {interval}\n \
             vrrp 51 ip {VIP}\n vrrp 51 ipv6 {VIP6}\n"
        );
        fs::write(dir.join("zebra.conf"), "").unwrap();
        fs::write(dir.join("vrrpd.conf"), config).unwrap();
        let zebra = start(&self.b, "zebra", &dir);
        wait_until("zebra's socket", TAKEOVER, || dir.join("zserv.api").exists());
        let vrrpd = start(&self.b, "vrrpd", &dir);
        let frr = Frr { vrrpd, zebra, dir };
        wait_until("vrrpd to answer", TAKEOVER, || frr.show().contains("Status (v4)"));
        frr
    }

    fn macvlan(&self, name: &str, mac: &str, address: &[&str]) {
        let b = self.b.as_str();
        let add = [
            "-n", b, "link", "add", name, "link", "eth0", "address", mac, "type", "macvlan", "mode", "bridge",
        ];
        run("ip", &add);
        run("ip", &[&["-n", b, "addr", "add"], address, &["dev", name]].concat());
        run("ip", &["-n", b, "link", "set", name, "up"]);
    }
}

/// A running vrrpd with its zebra.
#[derive(Debug)]
pub struct Frr {
    vrrpd: Child,
    zebra: Child,
    dir: PathBuf,
}

impl Frr {
    /// Its state for `family`, `v4` or `v6`: `Master`, `Backup` or `Initialize`.
    pub fn state(&self, family: &str) -> String {
        let (shown, label) = (self.show(), format!("Status ({family})"));
        let line = shown.lines().find(|line| line.contains(&label));
        line.and_then(|line| line.split_whitespace().last()).unwrap_or_default().to_owned()
    }

    /// Until it has started both families for good: its interfaces coming up make it stop and start again.
    pub fn settle(&self) {
        let (mut states, mut since) = (Vec::new(), Instant::now());
        wait_until("FRR to be settled", TAKEOVER, || {
            let now: Vec<_> = ["v4", "v6"].iter().map(|family| self.state(family)).collect();
            if now != states || now.iter().any(|state| state == "Initialize") {
                (states, since) = (now, Instant::now());
            }
            since.elapsed() > SECOND
        });
    }

    /// When it was in this state.
    pub fn wait_until(&self, family: &str, state: &str, limit: Duration) -> Instant {
        wait_until(&format!("FRR to be {state} for {family}"), limit, || self.state(family) == state)
    }

    /// What `show vrrp` says.
    pub fn show(&self) -> String {
        output("vtysh", &["--vty_socket", &self.dir.display().to_string(), "-c", "show vrrp"])
    }

    /// SIGTERM: it sends adverts of priority 0.
    pub fn terminate(&mut self) {
        for child in [&mut self.vrrpd, &mut self.zebra] {
            if matches!(child.try_wait(), Ok(None)) {
                kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
                child.wait().unwrap();
            }
        }
    }
}

impl Drop for Frr {
    fn drop(&mut self) {
        self.terminate();
    }
}

fn start(namespace: &str, daemon: &str, dir: &Path) -> Child {
    let file = |name: &str| dir.join(name).display().to_string();
    let log = fs::File::create(dir.with_file_name(format!("{daemon}.log"))).unwrap();
    Command::new("ip")
        .args([
            "netns",
            "exec",
            namespace,
            &format!("{DAEMONS}/{daemon}"),
            "-u",
            "frr",
            "-g",
            "frr",
            "-P",
            "0",
        ])
        .args(["-f", &file(&format!("{daemon}.conf")), "-i", &file(&format!("{daemon}.pid"))])
        .args(["-z", &file("zserv.api"), "--vty_socket", &dir.display().to_string()])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .expect("FRR starts")
}
