//! Backends that no file names: what the cluster of a service with `discover` says of its members becomes part of the configuration
//! that runs, by the way that a reload takes.
//!
//! Who is to be one is for `galera::members` to say. Each is taken in alone: one that cannot be (no route to it, no room in a map)
//! keeps no other out. They are written down in `/run/viplb`, so that a daemon that goes on after a restart or a crash has the
//! backends at once that its flows go to.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    time::Instant,
};

use anyhow::Result;

use super::{Control, start::ways};
use crate::{
    config::model::{Admin, Backend, Config, Service},
    datapath::pins,
    galera::members::{Members, News},
    netlink::Netlink,
};

/// Members of all services' clusters, by the services' names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Discovered(BTreeMap<String, Members>);

fn file(node: &str) -> PathBuf {
    PathBuf::from(pins::RUN).join(format!("{node}.members"))
}

impl Discovered {
    /// What the node's former daemon has left, as far as the file still allows it and there is a way.
    pub(super) async fn read(config: &Config, netlink: &Netlink) -> Self {
        let text = fs::read(file(&config.node.name)).unwrap_or_default();
        let written: BTreeMap<String, Vec<SocketAddr>> = serde_json::from_slice(&text).unwrap_or_default();
        let mut all = Self::default();
        for service in &config.services {
            let mut members = Members::of(written.get(&service.name).into_iter().flatten().copied());
            members.hear(service, None, &virtual_addrs(config), Instant::now());
            let mut reached = Vec::new();
            for addr in members.taken() {
                if let Some(b) = backend(service, addr)
                    && ways::route(&b, netlink).await.is_ok()
                {
                    reached.push(addr);
                }
            }
            if !reached.is_empty() {
                all.0.insert(service.name.clone(), Members::of(reached));
            }
        }
        all
    }

    /// Leaves them to the node's next daemon.
    fn write(&self, node: &str) -> io::Result<()> {
        let all: BTreeMap<_, Vec<_>> = self.0.iter().map(|(s, m)| (s, m.taken().collect())).collect();
        let (to, new) = (file(node), file(&format!("{node}.new")));
        let _ = fs::remove_file(&new);
        let mut out = fs::File::options().write(true).create_new(true).mode(0o600).open(&new)?;
        io::Write::write_all(&mut out, &serde_json::to_vec(&all)?)?;
        fs::rename(new, to)
    }

    /// They are no backends of the next daemon: their flows end with this one.
    pub(super) fn remove(node: &str) {
        let _ = fs::remove_file(file(node));
    }

    /// A configuration with those that were discovered, after those of the file.
    pub(super) fn extend(&self, mut config: Config) -> Config {
        for service in &mut config.services {
            service.backends.retain(|b| !b.discovered);
            let members = self.0.get(&service.name).filter(|_| service.discovery.is_some());
            for addr in members.into_iter().flat_map(Members::taken) {
                if let Some(b) = backend(service, addr) {
                    service.backends.push(b);
                }
            }
        }
        config
    }

    /// What is new of any service.
    fn hear(&mut self, config: &Config, heard: &[Option<Vec<String>>], now: Instant) -> Vec<(String, News)> {
        self.0.retain(|name, _| config.services.iter().any(|s| s.name == *name));
        let mut all = Vec::new();
        for (service, heard) in config.services.iter().zip(heard) {
            if service.discovery.is_none() && !self.0.contains_key(&service.name) {
                continue;
            }
            let members = self.0.entry(service.name.clone()).or_default();
            let news = members.hear(service, heard.as_deref(), &virtual_addrs(config), now);
            if news != News::default() {
                all.push((service.name.clone(), news));
            }
        }
        all
    }

    fn of(&mut self, service: &str) -> &mut Members {
        self.0.entry(service.to_owned()).or_default()
    }
}

fn virtual_addrs(config: &Config) -> Vec<IpAddr> {
    config.vrrp.iter().flat_map(|r| r.addresses.iter().chain(&r.excluded)).map(|a| a.addr).collect()
}

/// The backend that a member becomes, under a name that the service does not have yet; none if it has that server.
fn backend(service: &Service, addr: SocketAddr) -> Option<Backend> {
    if service.backends.iter().any(|b| b.addr == addr) {
        return None;
    }
    let names = [addr.ip().to_string(), addr.to_string()];
    let name = names.into_iter().find(|name| service.backends.iter().all(|b| b.name != *name))?;
    Some(Backend {
        name,
        addr,
        keeps_port: false,
        weight: 1,
        max_connections: 0,
        priority: 0,
        sorry: false,
        mode: service.mode,
        admin: Admin::Ready,
        discovered: true,
    })
}

impl Control {
    /// Has the members of clusters be backends.
    pub(super) async fn discover(&mut self) {
        let heard = self.model.members();
        let now = Instant::now();
        let before: Vec<_> = self.discovered.0.values().flat_map(Members::taken).collect();
        let news = self.discovered.hear(self.model.config(), &heard, now);
        for (service, News { gone, unfit, .. }) in &news {
            for addr in gone {
                tracing::info!("service {service}: {addr} is discovered no longer");
            }
            for (text, why) in unfit {
                tracing::warn!(
                    "service {service}: member {text} of its cluster does not become a backend: {why}"
                );
            }
        }
        if news.iter().any(|(_, n)| !n.gone.is_empty())
            && let Err(e) = self.take_members().await
        {
            tracing::warn!("backends that are discovered no longer stay: {e:#}");
        }
        for (service, addr) in news.iter().flat_map(|(s, n)| n.new.iter().map(move |addr| (s, *addr))) {
            let without = self.discovered.clone();
            self.discovered.of(service).take(addr);
            match self.take_members().await {
                Ok(()) => {
                    tracing::info!(
                        "service {service}: {addr} is a member of its cluster and becomes a backend"
                    );
                }
                Err(e) => {
                    self.discovered = without;
                    self.discovered.of(service).fail(addr, now);
                    tracing::warn!(
                        "service {service}: member {addr} of its cluster cannot become a backend: {e:#}"
                    );
                }
            }
        }
        if before != self.discovered.0.values().flat_map(Members::taken).collect::<Vec<_>>()
            && let Err(e) = self.discovered.write(&self.model.config().node.name)
        {
            tracing::warn!("discovered backends are not written down: {e}");
        }
    }

    async fn take_members(&mut self) -> Result<()> {
        let config = self.discovered.extend(self.model.config().clone());
        self.take_in(config, false).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::testing::config;

    const FILE: &str = "[service.db]\nlisten = \"172.18.0.201:3306\"\nbackend = [{ name = \"172.18.0.3\", address = \"172.18.0.2\" }]\n\
                        check = { type = \"galera\", user = \"m\", interval = \"500ms\" }\n\
                        discover = { networks = [\"172.18.0.0/16\"] }\n";

    #[test]
    fn discovered_ones_come_after_those_of_the_file_each_under_its_own_name() {
        let mut all = Discovered::default();
        for addr in ["172.18.0.2:3306", "172.18.0.3:3306", "172.18.0.4:3306", "172.18.0.4:3307"] {
            all.of("db").take(addr.parse().unwrap());
        }
        let extended = all.extend(config(FILE));
        let names = |c: &Config| -> Vec<_> {
            c.services[0].backends.iter().map(|b| (b.name.clone(), b.discovered)).collect()
        };
        let expected = [
            ("172.18.0.3", false),
            ("172.18.0.3:3306", true),
            ("172.18.0.4", true),
            ("172.18.0.4:3307", true),
        ];
        assert_eq!(names(&extended), expected.map(|(name, found)| (name.to_owned(), found)));
        assert_eq!(all.extend(extended.clone()), extended, "as often as one likes");
        let without = FILE.split("discover").next().unwrap();
        assert_eq!(all.extend(config(without)), config(without), "only where the file wants it");
    }
}
