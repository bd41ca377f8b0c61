//! What a daemon that ends with `--keep` leaves to the next one beside leases and maps: which numbers services and backends have,
//! how these stand, and what operators have ordered. New connections go on then, too, and flows count for whom they belong to.
//!
//! A file in `/run/viplb`. It is believed only while what it says of the time holds and the maps were adopted: after that, and after
//! a crash, backends begin unchecked as at any start.

use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::{
    model::Model,
    numbers::{Fresh, Numbers},
};
use crate::{
    config::model::{Config, Service, VirtualRouter},
    datapath::pins,
    health::{Admin, Restored, State},
    vrrp::BootTime,
};

/// No daemon leaves anything for longer.
pub const LONGEST: Duration = Duration::from_secs(300);

/// What is left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// Until when it is worth something, boottime ns.
    pub until: u64,
    fresh: Fresh,
    /// Names and numbers of services.
    services: Vec<(String, u32)>,
    backends: Vec<KeptBackend>,
    /// Names and numbers of virtual routers: leases are found by these.
    #[serde(default)]
    routers: Vec<(String, u32)>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct KeptBackend {
    service: String,
    name: String,
    addr: String,
    number: u32,
    /// Its checks had found it up.
    up: bool,
    /// Since when it stands as it does, unix seconds.
    since: u64,
    writer: bool,
    /// `ready`, `drain` or `maint`.
    ordered: String,
    /// What the file said of that.
    #[serde(default)]
    configured: String,
    weight: Option<u16>,
}

fn file(node: &str) -> PathBuf {
    PathBuf::from(pins::RUN).join(format!("{node}.kept"))
}

impl Kept {
    /// How everything stands.
    pub fn of(model: &Model, until: BootTime) -> Self {
        let (config, numbers) = (model.config(), model.numbers());
        let name = |(s, n): (&Service, &u32)| (s.name.clone(), *n);
        let mut backends = Vec::new();
        for (s, service) in config.services.iter().enumerate() {
            for (b, backend) in service.backends.iter().enumerate() {
                let (restored, since) = model.restorable(s, b);
                backends.push(KeptBackend {
                    service: service.name.clone(),
                    name: backend.name.clone(),
                    addr: backend.addr.to_string(),
                    number: numbers.backend(s, b),
                    up: restored.health == State::Up,
                    since: since.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
                    writer: restored.writer,
                    ordered: restored.admin.as_str().into(),
                    configured: restored.configured_admin.as_str().into(),
                    weight: restored.ordered_weight,
                });
            }
        }
        let services = config.services.iter().zip(numbers.services()).map(name).collect();
        let routers = config.vrrp.iter().zip(numbers.routers()).map(|(r, n)| (r.name.clone(), *n)).collect();
        Self { until: until.0, fresh: numbers.fresh(), services, backends, routers }
    }

    /// Leaves it for the node's next daemon.
    pub fn write(&self, node: &str) -> io::Result<()> {
        let text = serde_json::to_vec(self)?;
        let _ = fs::remove_file(file(node));
        let mut to = fs::File::options().write(true).create_new(true).mode(0o600).open(file(node))?;
        io::Write::write_all(&mut to, &text)
    }

    /// What the node's former daemon has left, if it is worth anything at `now`.
    pub fn read(node: &str, now: BootTime) -> Option<Self> {
        let kept: Self = serde_json::from_slice(&fs::read(file(node)).ok()?).ok()?;
        let left = BootTime(kept.until).since(now);
        // After a reboot the clock begins anew.
        (!left.is_zero() && left <= LONGEST).then_some(kept)
    }

    /// It has been taken over, or is not worth anything.
    pub fn remove(node: &str) {
        let _ = fs::remove_file(file(node));
    }

    /// The numbers that a configuration goes on with; none if there are not enough of them.
    pub fn numbers(&self, config: &Config) -> Option<Numbers> {
        let service = |s: &Service| self.services.iter().find(|(name, _)| *name == s.name).map(|(_, n)| *n);
        let backend = |s: &Service, b: usize| self.find(s, b).map(|kept| kept.number);
        let router =
            |r: &VirtualRouter| self.routers.iter().find(|(name, _)| *name == r.name).map(|(_, n)| *n);
        Numbers::restored(self.fresh, config, service, backend, router)
    }

    fn find(&self, service: &Service, backend: usize) -> Option<&KeptBackend> {
        let b = &service.backends[backend];
        let addr = b.addr.to_string();
        self.backends.iter().find(|k| k.service == service.name && k.name == b.name && k.addr == addr)
    }

    /// How a backend stood, and since when.
    pub fn restored(&self, service: &Service, backend: usize) -> Option<(Restored, SystemTime)> {
        let kept = self.find(service, backend)?;
        let admin = |word: &str| Admin::ALL.into_iter().find(|a| a.as_str() == word).unwrap_or_default();
        let restored = Restored {
            // Who was not up is checked first: it may be by now.
            health: if kept.up { State::Up } else { State::Unchecked },
            admin: admin(&kept.ordered),
            configured_admin: admin(&kept.configured),
            ordered_weight: kept.weight,
            writer: kept.writer,
        };
        Some((restored, UNIX_EPOCH + Duration::from_secs(kept.since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::testing::config;

    const FILE: &str = "[service.a]\nlisten = \"172.18.0.201:80\"\nbackend = [{ name = \"x\", address = \"172.18.0.2\" }, \
                        { name = \"y\", address = \"172.18.0.3\" }]\ncheck = { type = \"tcp\" }\n\
                        [service.b]\nlisten = \"172.18.0.201:81\"\nbackend = [{ address = \"172.18.0.2\" }]\n\
                        check = { type = \"tcp\" }\n";

    #[test]
    fn numbers_and_standings_are_found_again_by_name_and_address_in_any_order() {
        let old = config(FILE);
        let model = Model::new(old.clone(), Default::default(), UNIX_EPOCH);
        let mut kept = Kept::of(&model, BootTime(1));
        kept.backends[1].up = true;
        kept.backends[1].since = 77;
        kept.backends[1].ordered = "drain".into();
        let mut new = old;
        new.services.reverse();
        new.services[1].backends.reverse();
        new.services[0].backends[0].addr.set_port(8080);
        let numbers = kept.numbers(&new).unwrap();
        assert_eq!(numbers.services(), [1, 0]);
        assert_eq!(
            [numbers.backends(0), numbers.backends(1)],
            [&[3][..], &[1, 0]],
            "another address, another number"
        );
        let (y, since) = kept.restored(&new.services[1], 0).unwrap();
        assert_eq!(
            (y.health, y.admin, since),
            (State::Up, Admin::Drain, UNIX_EPOCH + Duration::from_secs(77))
        );
        assert_eq!(kept.restored(&new.services[1], 1).unwrap().0.health, State::Unchecked);
        assert_eq!(kept.restored(&new.services[0], 0), None);
    }

    #[test]
    fn it_is_worth_nothing_once_its_time_is_over_or_before_it_has_begun() {
        let node = format!("kept-test-{}", std::process::id());
        let model = Model::new(config(FILE), Default::default(), UNIX_EPOCH);
        let second = Duration::from_secs(1);
        let at = BootTime(0) + 1000 * second;
        if fs::create_dir_all(pins::RUN).is_err() || Kept::of(&model, at).write(&node).is_err() {
            return eprintln!("not run: {} cannot be written", pins::RUN);
        }
        assert!(Kept::read(&node, at - second).is_some());
        assert!(Kept::read(&node, at).is_none());
        assert!(Kept::read(&node, at - LONGEST - second).is_none(), "the machine was booted since");
        Kept::remove(&node);
        assert!(Kept::read(&node, at - second).is_none());
    }
}
