//! From the file as written to the model: defaults, and every rule that compares one value with another.
//!
//! `config::parse` calls it once per file. It goes on after a mistake; the model only comes out when there is none.

mod access;
mod check;
mod choice;
mod compare;
mod discovery;
mod group;
mod limits;
mod missed;
mod own;
mod path;
mod reach;
mod router;
mod service;
mod sync;
mod track;
mod unknown;

use std::{
    net::IpAddr,
    ops::Range,
    path::{Path, PathBuf},
};

use toml::Spanned;

use super::{
    Surroundings,
    diagnostic::{Diagnostic, Report},
    file::{self, File},
    model::{Config, Hook, Hooks, Node, Service, VirtualRouter},
    reader::Field,
};

/// Checks the whole file and resolves it. `None` when the report has errors.
pub fn resolve(file: &File, report: &mut Report, around: &Surroundings<'_>) -> Option<Config> {
    let mut r = Resolver { file, report, around };
    r.compare_routers();
    r.compare_services();
    let node = r.node();
    let vrrp: Vec<_> = file.vrrp.iter().map(|v| r.router(v)).collect();
    let services: Vec<_> = file.services.iter().map(|s| r.service(s)).collect();
    let tracks: Vec<_> = file.tracks.iter().map(|t| r.track(t)).collect();
    let groups: Vec<_> = file.groups.iter().map(|g| r.group(g)).collect();
    let sync = file.sync.as_ref().map(|s| r.sync(s));
    if r.report.errors() > 0 {
        return None;
    }
    let mut vrrp: Vec<_> = vrrp.into_iter().collect::<Option<_>>()?;
    let services: Vec<_> = services.into_iter().collect::<Option<_>>()?;
    set_witnesses(file, &mut vrrp, &services);
    Some(Config {
        node: node?,
        vrrp,
        services,
        tracks: tracks.into_iter().collect::<Option<_>>()?,
        groups: groups.into_iter().collect::<Option<_>>()?,
        http: file.http.value().copied(),
        sync: match sync {
            Some(sync) => Some(sync?),
            None => None,
        },
    })
}

/// A Galera cluster is a witness unless the file says otherwise.
fn set_witnesses(file: &File, vrrp: &mut [VirtualRouter], services: &[Service]) {
    for ((i, router), written) in vrrp.iter_mut().enumerate().zip(&file.vrrp) {
        let galera = services.iter().any(|s| s.router == Some(i) && s.galera.is_some());
        router.witness = or(&written.witness, galera);
    }
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
            watch_config: or(&written.watch_config, false),
            datapath_log: or(&written.datapath_log, false),
            hooks: Hooks {
                node: or(&written.hook, Hook::Auto),
                named: written.hooks.iter().cloned().collect(),
            },
            local_clients: or(&written.local_clients, true),
            realtime: or(&written.realtime, true),
            snat_ports: written.snat_ports.value().copied(),
        })
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

/// All virtual addresses of a router, those outside of its adverts too.
fn virtual_addrs(v: &file::Vrrp) -> impl Iterator<Item = IpAddr> + '_ {
    let lists = [&v.addresses, &v.excluded].into_iter().filter_map(Field::value);
    lists.flatten().map(|a| a.get_ref().address.addr)
}

fn or<T: Copy>(field: &Field<T>, default: T) -> T {
    field.value().copied().unwrap_or(default)
}

const DEFAULT_FLOWS: u32 = 262_144;
