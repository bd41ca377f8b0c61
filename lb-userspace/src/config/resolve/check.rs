//! The part of `resolve` that is about checks: which keys a kind of check has, their defaults, and what Galera's
//! state decides in a service.

use std::{ops::Range, time::Duration};

use nix::unistd::User;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use toml::Spanned;

use super::{Resolver, or};
use crate::config::{
    file::{self, CheckType},
    model::{
        AgentCheck, Check, CheckKind, DnsCheck, Donor, Galera, GaleraCheck, HttpCheck, MysqlLogin,
        ScriptCheck, Tls, UdpCheck,
    },
    os_reason,
    reader::{Field, show_duration},
};

/// A key that was written: its word and its place.
type Written = (&'static str, Option<Range<usize>>);

impl Resolver<'_, '_> {
    pub(super) fn check(&mut self, s: &file::Service, c: &file::Check) -> Option<Check> {
        let kind = self.check_kind(s, c);
        let interval = or(&c.interval, DEFAULT_INTERVAL);
        let fast = (interval / 4).max(LEAST_FAST_INTERVAL);
        let timeout = or(&c.timeout, interval.min(DEFAULT_TIMEOUT));
        if !matches!(c.interval, Field::Bad) {
            self.not_longer_than_interval("timeout", &c.timeout, interval);
            self.not_longer_than_interval("fast_interval", &c.fast_interval, interval);
        }
        Some(Check {
            kind: kind?,
            port: c.port.value().copied(),
            interval,
            fast_interval: or(&c.fast_interval, fast),
            timeout,
            rise: or(&c.rise, 2),
            fall: or(&c.fall, 3),
        })
    }

    fn not_longer_than_interval(&mut self, key: &str, field: &Field<Duration>, interval: Duration) {
        let Some(given) = field.given().filter(|given| *given.get_ref() > interval) else { return };
        let (long, interval) = (show_duration(*given.get_ref()), show_duration(interval));
        let message = format!("`{key}` is {long}, longer than the `interval` of {interval}");
        self.error(given.span(), message, "checks of one backend follow each other; lengthen the interval");
    }

    fn check_kind(&mut self, s: &file::Service, c: &file::Check) -> Option<CheckKind> {
        let kind = c.kind.given()?;
        let (place, kind) = (kind.span(), *kind.get_ref());
        self.refuse_keys_of_others(kind, c);
        Some(match kind {
            CheckType::Mysql => CheckKind::Mysql(self.mysql_login(kind, place, c)?),
            CheckType::Galera => CheckKind::Galera(GaleraCheck {
                login: self.mysql_login(kind, place, c)?,
                login_every: or(&c.login_every, 10),
            }),
            CheckType::Tcp => {
                if s.listen.value().is_some_and(|l| l.first.port() == 3306) {
                    let message = "a \"tcp\" check passes while the database is frozen or refuses logins";
                    self.warning(place, message, "write `type = \"mysql\"` for a MySQL server");
                }
                CheckKind::Tcp
            }
            CheckType::Http | CheckType::Https => CheckKind::Http(HttpCheck {
                path: c.path.value().cloned().unwrap_or_else(|| "/".into()),
                host: c.host.value().cloned(),
                status: or(&c.status, (200, 399)),
                body: c.body.value().cloned(),
                tls: match kind {
                    CheckType::Https => Some(Tls { authorities: self.authorities(c)? }),
                    _ => None,
                },
            }),
            CheckType::Dns => CheckKind::Dns(DnsCheck {
                query: c.query.value().cloned().unwrap_or_else(|| vec![0]),
                record: or(&c.record, RECORD_NS),
                rcode: or(&c.rcode, 0),
            }),
            CheckType::Udp => CheckKind::Udp(UdpCheck {
                send: bytes(&c.send),
                expect: c.expect.value().map(|text| text.clone().into_bytes()),
            }),
            CheckType::Script => CheckKind::Script(self.check_script(place, c)?),
            CheckType::Agent => {
                if c.port.is_absent() {
                    self.error(place, "a check of type \"agent\" needs `port`", "add `port = 9999`");
                }
                CheckKind::Agent(AgentCheck { send: bytes(&c.send) })
            }
        })
    }

    fn refuse_keys_of_others(&mut self, kind: CheckType, c: &file::Check) {
        for ((key, place), users) in keys_of_kinds(c) {
            let Some(place) = place.filter(|_| !users.contains(&kind)) else { continue };
            let message = format!("`{key}` has no use in a check of type \"{}\"", kind.word());
            let words: Vec<_> = users.iter().map(|kind| format!("`type = \"{}\"`", kind.word())).collect();
            self.error(place, message, format!("remove it, or write {}", words.join(" or ")));
        }
    }

    fn mysql_login(&mut self, kind: CheckType, place: Range<usize>, c: &file::Check) -> Option<MysqlLogin> {
        if c.user.is_absent() {
            let message = format!("a check of type \"{}\" logs in and needs `user`", kind.word());
            self.error(place, message, "add `user = \"monitor\"`");
        }
        let (password, password_file) = match (c.password.given(), c.password_file.given()) {
            (Some(_), Some(path)) => {
                self.error(path.span(), "`password` and `password_file` are both given", "remove one");
                return None;
            }
            (Some(given), None) => {
                if self.around.world_readable {
                    let message = "this file holds a password and can be read by every user of this host";
                    self.warning(given.span(), message, "run `chmod 600` on it, or use `password_file`");
                }
                (given.get_ref().clone(), None)
            }
            (None, Some(path)) => self.secret_file(path).map(|(path, password)| (password, Some(path)))?,
            (None, None) if c.password.is_absent() && c.password_file.is_absent() => (String::new(), None),
            (None, None) => return None,
        };
        Some(MysqlLogin { user: c.user.value()?.clone(), password, password_file })
    }

    fn check_script(&mut self, place: Range<usize>, c: &file::Check) -> Option<ScriptCheck> {
        if c.command.is_absent() {
            let help = "add `command = [\"/usr/local/bin/check\", \"argument\"]`";
            self.error(place, "a check of type \"script\" needs `command`", help);
        }
        let written = c.command.given()?;
        let command: Vec<String> = written.get_ref().iter().map(|word| word.get_ref().clone()).collect();
        // Looked up along PATH, it would be whatever the daemon's environment makes of it.
        if !command.first().is_some_and(|program| program.starts_with('/')) {
            let help = "the first word is the whole path of the program, the others are its arguments";
            self.error(written.span(), "`command` does not start with an absolute path", help);
            return None;
        }
        if command.iter().any(|word| word.contains('\0')) {
            self.error(written.span(), "`command` holds a NUL", "remove it");
            return None;
        }
        let user = match c.user.given() {
            Some(name) => Some(self.system_user(name)?),
            None => None,
        };
        Some(ScriptCheck { command, user })
    }

    fn system_user(&mut self, name: &Spanned<String>) -> Option<(String, u32, u32)> {
        match User::from_name(name.get_ref()) {
            Ok(Some(user)) => Some((user.name, user.uid.as_raw(), user.gid.as_raw())),
            _ => {
                let message = format!("this host has no user `{}`", name.get_ref().escape_debug());
                self.error(name.span(), message, "the script runs as this user; see `getent passwd`");
                None
            }
        }
    }

    /// The certificates of `ca_file`.
    fn authorities(&mut self, c: &file::Check) -> Option<Vec<Vec<u8>>> {
        let written = match &c.ca_file {
            Field::Absent => return Some(Vec::new()),
            Field::Bad => return None,
            Field::Given(written) => written,
        };
        let path = self.around.directory.join(written.get_ref());
        let pem = match std::fs::read(&path) {
            Ok(pem) => pem,
            Err(e) => {
                let message = format!("cannot read `{}`: {}", path.display(), os_reason(&e));
                self.error(written.span(), message, "give the path of a file with certificates in PEM");
                return None;
            }
        };
        let ders: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let ders = ders.ok().filter(|ders| !ders.is_empty());
        let usable = |der: &CertificateDer<'_>| RootCertStore::empty().add(der.clone()).is_ok();
        match ders.filter(|ders| ders.iter().all(usable)) {
            Some(ders) => Some(ders.iter().map(|der| der.to_vec()).collect()),
            None => {
                let message = format!("`{}` holds no certificate that can be used", path.display());
                self.error(written.span(), message, "it begins with -----BEGIN CERTIFICATE-----");
                None
            }
        }
    }

    /// What is made of the cluster's state; only a `galera` check knows it.
    pub(super) fn galera(&mut self, s: &file::Service) -> Option<Galera> {
        let check = s.check.value()?;
        if check.kind.value() != Some(&CheckType::Galera) {
            let places = [
                ("role", s.role.given().map(Spanned::span)),
                ("failback", s.failback.given().map(Spanned::span)),
            ];
            for (key, place) in places {
                let Some(place) = place.filter(|_| check.kind.value().is_some()) else { continue };
                let message = format!("`{key}` needs to know the cluster's state");
                self.error(place, message, "write `type = \"galera\"` in the check");
            }
            return None;
        }
        let role = or(&s.role, Default::default());
        if let Some(given) = s.failback.given().filter(|_| role != crate::config::model::Role::Writer) {
            self.error(given.span(), "`failback` is for `role = \"writer\"` alone", "remove it");
        }
        Some(Galera {
            role,
            failback: or(&s.failback, Default::default()),
            donor: or(&check.donor, Donor::default()),
            max_receive_queue: check.max_receive_queue.value().copied(),
            max_flow_control: check.max_flow_control.value().copied(),
        })
    }
}

/// Keys that not every kind of check has, and the kinds that have them.
fn keys_of_kinds(c: &file::Check) -> [(Written, &'static [CheckType]); 18] {
    use CheckType::{Agent, Dns, Galera, Http, Https, Mysql, Script, Udp};
    fn of<T>(key: &'static str, field: &Field<T>) -> Written {
        (key, field.given().map(Spanned::span))
    }
    [
        (of("user", &c.user), &[Mysql, Galera, Script]),
        (of("password", &c.password), &[Mysql, Galera]),
        (of("password_file", &c.password_file), &[Mysql, Galera]),
        (of("login_every", &c.login_every), &[Galera]),
        (of("donor", &c.donor), &[Galera]),
        (of("max_receive_queue", &c.max_receive_queue), &[Galera]),
        (of("max_flow_control", &c.max_flow_control), &[Galera]),
        (of("path", &c.path), &[Http, Https]),
        (of("host", &c.host), &[Http, Https]),
        (of("status", &c.status), &[Http, Https]),
        (of("body", &c.body), &[Http, Https]),
        (of("ca_file", &c.ca_file), &[Https]),
        (of("query", &c.query), &[Dns]),
        (of("record", &c.record), &[Dns]),
        (of("rcode", &c.rcode), &[Dns]),
        (of("send", &c.send), &[Udp, Agent]),
        (of("expect", &c.expect), &[Udp]),
        (of("command", &c.command), &[Script]),
    ]
}

fn bytes(field: &Field<String>) -> Vec<u8> {
    field.value().cloned().unwrap_or_default().into_bytes()
}

const DEFAULT_INTERVAL: Duration = Duration::from_secs(2);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
const LEAST_FAST_INTERVAL: Duration = Duration::from_millis(100);
/// RFC 1035, 3.2.2.
const RECORD_NS: u16 = 2;
