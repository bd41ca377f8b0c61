//! What a new configuration changes, for people: by service, backend, virtual router and tracker, each with the keys that differ.
//!
//! It decides nothing: what is applied follows from the configurations themselves. A test holds that it is empty exactly when they
//! are equal. No value of a secret is in it.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    config::model::{Backend, Config, Service, SyncGroup, Then, VirtualRouter},
    control::{numbers::is_same, tracking},
};

/// How something differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sign {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It is another way.
    Changed,
}

/// One thing that differs. `Display` gives a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// How.
    pub sign: Sign,
    /// `service db`, `service db: backend d1`, `vrrp vip`, …
    pub what: String,
    /// The keys that differ, with their values, or what follows from it.
    pub details: Vec<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.sign {
            Sign::Added => '+',
            Sign::Removed => '-',
            Sign::Changed => '~',
        };
        write!(f, "{sign} {}", self.what)?;
        if self.details.is_empty() { Ok(()) } else { write!(f, ": {}", self.details.join(", ")) }
    }
}

/// All that differs, in the order of the new file; what is gone comes last of its kind.
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut node = Details::default();
    node.values("datapath_log", &old.node.datapath_log, &new.node.datapath_log);
    node.values("watch_config", &old.node.watch_config, &new.node.watch_config);
    node.into_change(&mut changes, "node".into());
    for b in &new.vrrp {
        let what = format!("vrrp {}", b.name);
        match old.vrrp.iter().find(|a| a.name == b.name) {
            Some(a) => router((old, a), (new, b)).into_change(&mut changes, what),
            None => changes.push(Change { sign: Sign::Added, what, details: joins(b) }),
        }
    }
    for a in old.vrrp.iter().filter(|a| new.vrrp.iter().all(|b| b.name != a.name)) {
        let what = format!("vrrp {}", a.name);
        let details = vec!["gives its addresses up, its connections are another node's or forgotten".into()];
        changes.push(Change { sign: Sign::Removed, what, details });
    }
    groups(old, new, &mut changes);
    tracks(old, new, &mut changes);
    for s in &new.services {
        match old.services.iter().find(|o| o.name == s.name) {
            Some(o) => service((old, o), (new, s), &mut changes),
            None => {
                let (what, details) = (format!("service {}", s.name), vec![listens(s)]);
                changes.push(Change { sign: Sign::Added, what, details });
                changes.extend(s.backends.iter().map(|b| added(s, b)));
            }
        }
    }
    for s in old.services.iter().filter(|s| new.services.iter().all(|n| n.name != s.name)) {
        let what = format!("service {}", s.name);
        changes.push(Change { sign: Sign::Removed, what, details: vec![listens(s)] });
        changes.extend(s.backends.iter().map(|b| removed(s, b)));
    }
    let mut details = Details::default();
    match (&old.sync, &new.sync) {
        (Some(a), Some(b)) => {
            details.values("peers", &a.peers, &b.peers);
            details.values("listen", &a.listen, &b.listen);
            details.keys("keys", a.keys != b.keys);
            details.values("failback_wait", &a.failback_wait, &b.failback_wait);
            details.values("strict_wait", &a.strict_wait, &b.strict_wait);
            details.into_change(&mut changes, "sync".into());
        }
        (a, b) => present(&mut changes, "sync", a.is_some(), b.is_some()),
    }
    match (&old.http, &new.http) {
        (Some(a), Some(b)) => {
            details = Details::default();
            details.values("listen", a, b);
            details.into_change(&mut changes, "http".into());
        }
        (a, b) => present(&mut changes, "http", a.is_some(), b.is_some()),
    }
    changes
}

/// What becomes of a virtual router that is new.
fn joins(r: &VirtualRouter) -> Vec<String> {
    let addresses: Vec<_> = r.addresses.iter().map(|a| a.addr.to_string()).collect();
    let id = format!("virtual_router_id {} on {}, priority {}", r.vrid, r.interface, r.priority);
    vec![id, addresses.join(" "), "begins as Backup".into()]
}

fn groups(old: &Config, new: &Config, changes: &mut Vec<Change>) {
    for b in &new.groups {
        let what = format!("sync_group {}", b.name);
        let names = |config: &Config, g: &SyncGroup| -> Vec<_> {
            g.members.iter().map(|m| config.vrrp[*m].name.clone()).collect()
        };
        let Some(a) = old.groups.iter().find(|a| a.name == b.name) else {
            changes.push(Change { sign: Sign::Added, what, details: vec![names(new, b).join(" ")] });
            continue;
        };
        let mut details = Details::default();
        details.lists("group", &names(old, a), &names(new, b));
        details.keys("notify", a.notify != b.notify);
        details.into_change(changes, what);
    }
    for a in old.groups.iter().filter(|a| new.groups.iter().all(|b| b.name != a.name)) {
        changes.push(Change {
            sign: Sign::Removed,
            what: format!("sync_group {}", a.name),
            details: Vec::new(),
        });
    }
}

fn present(changes: &mut Vec<Change>, what: &str, before: bool, after: bool) {
    let sign = match (before, after) {
        (false, true) => Sign::Added,
        (true, false) => Sign::Removed,
        _ => return,
    };
    changes.push(Change { sign, what: what.into(), details: Vec::new() });
}

#[derive(Default)]
struct Details(Vec<String>);

impl Details {
    /// A key and both its values.
    fn values<T: PartialEq + Shown>(&mut self, key: &str, a: &T, b: &T) {
        if a != b {
            self.0.push(format!("{key} {} → {}", a.shown(), b.shown()));
        }
    }

    /// Keys alone: of many, of long ones, and of secrets.
    fn keys(&mut self, keys: &str, differ: bool) {
        if differ {
            self.0.push(keys.into());
        }
    }

    /// Elements of a list.
    fn lists<T: PartialEq + Shown>(&mut self, key: &str, a: &[T], b: &[T]) {
        let count = self.0.len();
        self.0.extend(b.iter().filter(|x| !a.contains(x)).map(|x| format!("+ {}", x.shown())));
        self.0.extend(a.iter().filter(|x| !b.contains(x)).map(|x| format!("- {}", x.shown())));
        self.keys(&format!("order of {key}"), a != b && self.0.len() == count);
    }

    fn into_change(self, changes: &mut Vec<Change>, what: String) {
        if !self.0.is_empty() {
            changes.push(Change { sign: Sign::Changed, what, details: self.0 });
        }
    }
}

/// In the words of the file.
trait Shown {
    fn shown(&self) -> String;
}

macro_rules! shown {
    ($($kind:ty: $format:literal),* $(,)?) => {
        $(impl Shown for $kind {
            fn shown(&self) -> String {
                format!($format, self)
            }
        })*
    };
}
shown!(bool: "{}", u8: "{}", u16: "{}", u32: "{}", Duration: "{:?}", std::net::SocketAddr: "{}", std::net::IpAddr: "{}",
    Vec<std::net::SocketAddr>: "{:?}", String: "{}");

fn router((old, a): (&Config, &VirtualRouter), (new, b): (&Config, &VirtualRouter)) -> Details {
    let mut d = Details::default();
    d.values("priority", &a.priority, &b.priority);
    d.values("advert_int", &a.advert_int, &b.advert_int);
    d.values("lease", &a.lease, &b.lease);
    d.keys("preempt", a.preempt != b.preempt);
    d.keys("probe_interval, probe_lease", a.probe != b.probe);
    d.keys("garp", a.garp != b.garp);
    d.keys("auth_pass", a.auth_pass != b.auth_pass);
    d.keys("v3_checksum", a.v3_checksum != b.v3_checksum);
    let placed = |list: &[crate::config::model::VirtualAddress]| -> Vec<String> {
        let of = |a: &crate::config::model::VirtualAddress| {
            let dev = a.dev.as_ref().map_or_else(String::new, |dev| format!(" dev {dev}"));
            format!("{}/{}{dev}", a.addr, a.prefix_len)
        };
        list.iter().map(of).collect()
    };
    d.lists("virtual_ipaddress", &placed(&a.addresses), &placed(&b.addresses));
    d.lists("virtual_ipaddress_excluded", &placed(&a.excluded), &placed(&b.excluded));
    d.values("assign_address", &a.assign, &b.assign);
    d.values("witness", &a.witness, &b.witness);
    let uses = |config: &Config, r: &VirtualRouter| -> Vec<_> {
        let of =
            |u: &crate::config::model::TrackUse| (config.tracks[u.track].name.clone(), u.weight, u.reverse);
        r.track.iter().map(of).collect()
    };
    d.keys("track", uses(old, a) != uses(new, b));
    d.keys("unicast_peer", a.transport != b.transport);
    d.keys("notify", a.notify != b.notify);
    d
}

fn tracks(old: &Config, new: &Config, changes: &mut Vec<Change>) {
    for t in &new.tracks {
        let sign = match old.tracks.iter().find(|o| o.name == t.name) {
            Some(o) if tracking::is_same((old, o), (new, t)) => continue,
            Some(_) => Sign::Changed,
            None => Sign::Added,
        };
        changes.push(Change { sign, what: format!("track {}", t.name), details: Vec::new() });
    }
    for t in old.tracks.iter().filter(|t| new.tracks.iter().all(|n| n.name != t.name)) {
        let what = format!("track {}", t.name);
        changes.push(Change { sign: Sign::Removed, what, details: Vec::new() });
    }
}

fn listens(s: &Service) -> String {
    format!("listens on {}", s.listen)
}

fn added(s: &Service, b: &Backend) -> Change {
    let what = format!("service {}: backend {}", s.name, b.name);
    Change { sign: Sign::Added, what, details: vec![format!("{}, checked first", b.addr)] }
}

fn removed(s: &Service, b: &Backend) -> Change {
    let then = match s.sessions.drain {
        Then::Keep => "its connections go on until they end".into(),
        Then::Reset(after) => format!("its connections are ended after {after:?}"),
    };
    let what = format!("service {}: backend {}", s.name, b.name);
    Change { sign: Sign::Removed, what, details: vec![b.addr.to_string(), then] }
}

fn service((old, a): (&Config, &Service), (new, b): (&Config, &Service), changes: &mut Vec<Change>) {
    let mut d = Details::default();
    d.values("listen", &a.listen.to_string(), &b.listen.to_string());
    let router = |config: &Config, s: &Service| s.router.map(|r| config.vrrp[r].name.clone());
    d.keys("virtual router", router(old, a) != router(new, b));
    d.keys("protocol", a.protocol != b.protocol);
    d.values("mode", &a.mode.word().to_owned(), &b.mode.word().to_owned());
    d.values("scheduler", &a.scheduler.word().to_owned(), &b.scheduler.word().to_owned());
    d.values("hash_table_size", &a.hash_table_size, &b.hash_table_size);
    d.keys("persistence", a.persistence != b.persistence);
    d.values("max_connections", &a.max_connections, &b.max_connections);
    d.keys("check", a.check != b.check);
    d.keys("galera", a.galera != b.galera);
    d.values("slow_start", &a.slow_start, &b.slow_start);
    d.keys("allow, deny, client_limit", a.access != b.access);
    d.lists("snat", &a.snat, &b.snat);
    d.keys("timeouts", a.timeouts != b.timeouts);
    d.values("quorum", &a.quorum, &b.quorum);
    d.values("hysteresis", &a.hysteresis, &b.hysteresis);
    d.keys("on_lost, on_failed, on_drain, on_maint", a.sessions != b.sessions);
    d.keys("unknown", a.unknown != b.unknown);
    d.values("strict", &a.strict, &b.strict);
    d.values("redispatch", &a.redispatch, &b.redispatch);
    d.values("move_ungreeted", &a.move_ungreeted, &b.move_ungreeted);
    d.keys("passive", a.passive != b.passive);
    d.keys("discover", a.discovery != b.discovery);
    d.keys("mss, tunnel", a.path != b.path);
    let order = |s: &Service, other: &Service| -> Vec<_> {
        let both = |b: &&Backend| other.backends.iter().any(|o| o.name == b.name);
        s.backends.iter().filter(both).map(|b| b.name.clone()).collect()
    };
    d.keys("order of backends", order(a, b) != order(b, a));
    d.into_change(changes, format!("service {}", b.name));
    for n in &b.backends {
        match a.backends.iter().find(|o| o.name == n.name) {
            Some(o) => backend(o, n).into_change(changes, format!("service {}: backend {}", b.name, n.name)),
            None => changes.push(added(b, n)),
        }
    }
    let gone = a.backends.iter().filter(|o| b.backends.iter().all(|n| n.name != o.name));
    changes.extend(gone.map(|o| removed(a, o)));
}

fn backend(a: &Backend, b: &Backend) -> Details {
    let mut d = Details::default();
    d.values("address", &a.addr, &b.addr);
    d.values("mode", &a.mode.word().to_owned(), &b.mode.word().to_owned());
    d.keys("port", a.keeps_port != b.keeps_port);
    d.keys("another server, checked first", !is_same(a, b));
    d.values("weight", &a.weight, &b.weight);
    d.values("max_connections", &a.max_connections, &b.max_connections);
    d.values("priority", &a.priority, &b.priority);
    d.values("sorry", &a.sorry, &b.sorry);
    d.values("discovered", &a.discovered, &b.discovered);
    d.values("state", &a.admin.as_str().to_owned(), &b.admin.as_str().to_owned());
    d
}

#[cfg(test)]
mod tests;
