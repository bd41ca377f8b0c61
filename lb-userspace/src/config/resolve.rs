//! From the file as written to the model: defaults, and every rule that compares one value with another.
//!
//! `config::parse` calls it once per file. It goes on after a mistake; the model only comes out when there is none.

mod check;
mod service;

use std::{
    net::IpAddr,
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::Spanned;

use super::{
    Surroundings,
    diagnostic::{Diagnostic, Report},
    file::{self, File},
    model::{
        AuthPass, Config, Garp, Hook, Node, Preempt, Probe, Transport, V3Checksum, Version, VirtualAddress,
        VirtualRouter,
    },
    reader::{Field, show_duration},
};

/// Checks the whole file and resolves it. `None` when the report has errors.
pub fn resolve(file: &File, report: &mut Report, around: &Surroundings<'_>) -> Option<Config> {
    let mut r = Resolver { file, report, around };
    r.compare_routers();
    r.compare_services();
    let node = r.node();
    let vrrp: Vec<_> = file.vrrp.iter().map(|v| r.router(v)).collect();
    let services: Vec<_> = file.services.iter().map(|s| r.service(s)).collect();
    if r.report.errors() > 0 {
        return None;
    }
    Some(Config {
        node: node?,
        vrrp: vrrp.into_iter().collect::<Option<_>>()?,
        services: services.into_iter().collect::<Option<_>>()?,
    })
}

struct Resolver<'f, 'r> {
    file: &'f File,
    report: &'r mut Report,
    around: &'r Surroundings<'r>,
}

impl Resolver<'_, '_> {
    fn error(&mut self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.report.push(Diagnostic::error(span, message).help(help));
    }

    fn warning(&mut self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.report.push(Diagnostic::warning(span, message).help(help));
    }

    fn node(&mut self) -> Option<Node> {
        let written = &self.file.node;
        let name = match written.name.value() {
            Some(name) => name.clone(),
            None if !written.name.is_absent() => return None,
            None => match file::check_name(&self.around.host_name) {
                Ok(name) => name,
                Err((message, _)) => {
                    let message = format!("[node] has no `name`, and the host's does not do: {message}");
                    self.error(0..0, message, "add `name = \"…\"` to `[node]`");
                    return None;
                }
            },
        };
        Some(Node {
            name,
            flows: or(&written.flows, DEFAULT_FLOWS),
            datapath_log: or(&written.datapath_log, false),
            hook: or(&written.hook, Hook::Auto),
            realtime: or(&written.realtime, true),
        })
    }

    /// What two routers must not share.
    fn compare_routers(&mut self) {
        if self.file.vrrp.is_empty() && self.report.errors() == 0 {
            self.error(0..0, "there is no virtual router", "add a `[vrrp.NAME]`; see docs/configuration.md");
        }
        for (i, router) in self.file.vrrp.iter().enumerate() {
            let (Some(vrid), Some(interface)) = (router.vrid.given(), router.interface.value()) else {
                continue;
            };
            let same = |other: &&file::Vrrp| {
                other.vrid.value() == Some(vrid.get_ref()) && other.interface.value() == Some(interface)
            };
            if let Some(other) = self.file.vrrp[..i].iter().find(same) {
                let (id, other) = (vrid.get_ref(), other.name.get_ref());
                let message =
                    format!("virtual_router_id {id} is also that of [vrrp.{other}] on the same interface");
                self.error(vrid.span(), message, "give each its own, 1 to 255");
            }
        }
        self.compare_virtual_addresses();
    }

    fn compare_virtual_addresses(&mut self) {
        let mut seen: Vec<(IpAddr, &str)> = Vec::new();
        for router in &self.file.vrrp {
            for address in router.addresses.value().into_iter().flatten() {
                let addr = address.get_ref().addr;
                match seen.iter().find(|(other, _)| *other == addr) {
                    None => seen.push((addr, router.name.get_ref())),
                    Some((_, owner)) => {
                        let message =
                            format!("virtual address {addr} is listed twice, first in [vrrp.{owner}]");
                        self.error(address.span(), message, "remove one");
                    }
                }
            }
        }
    }

    /// What two services must not share.
    fn compare_services(&mut self) {
        if self.file.services.is_empty() && self.report.errors() == 0 && !self.file.vrrp.is_empty() {
            let message = "there is no service: the virtual addresses will answer, but nothing is forwarded";
            self.warning(0..0, message, "add a `[service.NAME]`");
        }
        for (i, service) in self.file.services.iter().enumerate() {
            let Some(listen) = service.listen.given() else { continue };
            let same = |s: &&file::Service| s.listen.value() == Some(listen.get_ref());
            if let Some(other) = self.file.services[..i].iter().find(same) {
                let message = format!(
                    "{} overlaps [service.{}]: the same address and port",
                    listen.get_ref(),
                    other.name.get_ref()
                );
                self.error(listen.span(), message, "give each service its own port or virtual address");
            }
        }
    }

    fn router(&mut self, v: &file::Vrrp) -> Option<VirtualRouter> {
        let version = self.version(v);
        let advert_int = version.and_then(|version| self.advert_int(v, version));
        let lease = self.lease(v, advert_int);
        let auth_pass = version.filter(|version| *version == Version::V2).and_then(|_| self.auth_pass(v));
        let addresses = self.addresses(v);
        Some(VirtualRouter {
            name: v.name.get_ref().clone(),
            interface: v.interface.value()?.clone(),
            vrid: *v.vrid.value()?,
            priority: *v.priority.value()?,
            version: version?,
            advert_int: advert_int?,
            v3_checksum: or(&v.v3_checksum, V3Checksum::default()),
            auth_pass,
            addresses: addresses?,
            preempt: or(&v.preempt, Preempt::NOW),
            lease: lease?,
            garp: Garp {
                repeat: or(&v.garp_repeat, 5),
                delay: or(&v.garp_delay, Duration::from_secs(5)),
                refresh: v.garp_refresh.value().copied().filter(|d| !d.is_zero()),
                ..Garp::default()
            },
            transport: Transport::Multicast,
            source: None,
            excluded: Vec::new(),
            assign: true,
            virtual_mac: false,
            probe: Some(Probe { interval: advert_int? / 20, lease: advert_int? * 2 / 5 }),
        })
    }

    /// The version, and that nothing is asked of it which only the other one has.
    fn version(&mut self, v: &file::Vrrp) -> Option<Version> {
        if matches!(v.version, Field::Bad) {
            return None;
        }
        if v.version.value() == Some(&3) {
            for (key, span) in [
                ("auth_pass", v.auth_pass.given().map(Spanned::span)),
                ("auth_pass_file", v.auth_pass_file.given().map(Spanned::span)),
            ] {
                let Some(span) = span else { continue };
                let message = format!("`{key}` is given, but VRRP version 3 has no authentication");
                self.error(
                    span,
                    message,
                    "remove it: any host of the network can speak VRRP in either version",
                );
            }
            return Some(Version::V3);
        }
        if let Some(given) = v.v3_checksum.given() {
            let message = "`v3_checksum` has no use in VRRP version 2, whose checksum is the same everywhere";
            self.error(given.span(), message, "remove it, or write `version = 3` on every node");
        }
        Some(Version::V2)
    }

    fn advert_int(&mut self, v: &file::Vrrp, version: Version) -> Option<Duration> {
        let given = match &v.advert_int {
            Field::Absent => return Some(DEFAULT_ADVERT_INT),
            Field::Bad => return None,
            Field::Given(given) => given,
        };
        let advert_int = *given.get_ref();
        let shown = show_duration(advert_int);
        let (fits, has, help) = match version {
            Version::V2 => (
                advert_int.subsec_nanos() == 0,
                "VRRP version 2 has whole seconds only",
                "1 is the least; with `version = 3` on every node it is \"10ms\"",
            ),
            Version::V3 => (
                advert_int <= V3_LONGEST && advert_int.as_millis().is_multiple_of(10),
                "VRRP version 3 has 10ms to 40.95s in steps of 10ms",
                "write for example \"100ms\"",
            ),
        };
        if !fits {
            self.error(given.span(), format!("`advert_int` is {shown}, but {has}"), help);
            return None;
        }
        Some(advert_int)
    }

    fn lease(&mut self, v: &file::Vrrp, advert_int: Option<Duration>) -> Option<Duration> {
        let advert_int = advert_int?;
        let given = match &v.lease {
            Field::Absent => return Some(advert_int * 5 / 2),
            Field::Bad => return None,
            Field::Given(given) => given,
        };
        let lease = *given.get_ref();
        let (shown, adverts) = (show_duration(lease), show_duration(advert_int));
        if lease >= advert_int * 3 {
            let message = format!(
                "`lease` is {shown}, not less than 3 × advert_int ({adverts}): a peer takes over after that, \
                 and there would be two owners"
            );
            let help = format!("leave it out: the default is {}", show_duration(advert_int * 5 / 2));
            self.error(given.span(), message, help);
            return None;
        }
        if lease <= advert_int {
            let message = format!(
                "`lease` is {shown}, not more than advert_int ({adverts}): forwarding would stop between two adverts"
            );
            let help = format!("leave it out: the default is {}", show_duration(advert_int * 5 / 2));
            self.error(given.span(), message, help);
            return None;
        }
        Some(lease)
    }

    fn auth_pass(&mut self, v: &file::Vrrp) -> Option<AuthPass> {
        let (span, password) = match (v.auth_pass.given(), v.auth_pass_file.given()) {
            (Some(_), Some(path)) => {
                self.error(path.span(), "`auth_pass` and `auth_pass_file` are both given", "remove one");
                return None;
            }
            (Some(given), None) => (given.span(), given.get_ref().clone()),
            (None, Some(path)) => (path.span(), self.secret_file(path)?.1),
            (None, None) => return None,
        };
        let bytes = password.as_bytes();
        if bytes.len() > 8 {
            let message = "only the first 8 bytes of this password are used; keepalived does the same";
            self.warning(span, message, "shorten it on every node, so that nobody is misled");
        }
        let mut padded = [0; 8];
        let used = bytes.len().min(8);
        padded[..used].copy_from_slice(&bytes[..used]);
        Some(AuthPass(padded))
    }

    fn addresses(&mut self, v: &file::Vrrp) -> Option<Vec<VirtualAddress>> {
        let given = v.addresses.given()?;
        let list: Vec<_> = given.get_ref().iter().map(|a| a.get_ref().clone()).collect();
        // The count is one byte of the advert.
        if list.is_empty() || list.len() > 255 {
            let message = format!("`virtual_ipaddress` lists {} addresses", list.len());
            self.error(given.span(), message, "1 to 255");
            return None;
        }
        Some(list)
    }

    /// The path, taken from the directory of the configuration, and what the file holds.
    fn secret_file(&mut self, written: &Spanned<String>) -> Option<(PathBuf, String)> {
        let path = self.around.directory.join(Path::new(written.get_ref()));
        match (self.around.read_secret)(&path) {
            Ok(secret) => Some((path, secret)),
            Err(error) => {
                self.error(written.span(), error.to_string(), error.help());
                None
            }
        }
    }
}

fn virtual_addrs(v: &file::Vrrp) -> impl Iterator<Item = IpAddr> + '_ {
    v.addresses.value().into_iter().flatten().map(|a| a.get_ref().addr)
}

fn or<T: Copy>(field: &Field<T>, default: T) -> T {
    field.value().copied().unwrap_or(default)
}

const DEFAULT_FLOWS: u32 = 262_144;
/// 12 bits of centiseconds.
const V3_LONGEST: Duration = Duration::from_millis(40_950);
const DEFAULT_ADVERT_INT: Duration = Duration::from_secs(1);
