//! The part of `resolve` that is about one virtual router: versions, intervals, lease, password. Its addresses, peers
//! and announcements are in `reach`.

use std::time::Duration;

use toml::Spanned;

use super::{
    Resolver, or,
    reach::{Family, placed},
};
use crate::config::{
    file,
    model::{AuthPass, Preempt, V3Checksum, Version, VirtualRouter},
    reader::{Field, show_duration},
};

impl Resolver<'_, '_> {
    pub(super) fn router(&mut self, v: &file::Vrrp) -> Option<VirtualRouter> {
        let version = self.version(v);
        let advert_int = version.and_then(|version| self.advert_int(v, version));
        let lease = self.lease(v, advert_int);
        let auth_pass = version.filter(|version| *version == Version::V2).and_then(|_| self.auth_pass(v));
        let addresses = self.addresses(v, version);
        let family = addresses.as_ref().map(|list| Family::of(list[0].addr));
        let (transport, source) = (self.transport(v, family), self.source(v, family));
        let probe = self.probe(v, advert_int, lease);
        let (track, notify) = (self.uses(v), self.notify(&v.notify));
        self.warn_of_what_is_lost(v);
        Some(VirtualRouter {
            name: v.name.get_ref().clone(),
            interface: v.interface.value()?.clone(),
            vrid: *v.vrid.value()?,
            priority: *v.priority.value()?,
            version: version?,
            advert_int: advert_int?,
            v3_checksum: or(&v.v3_checksum, V3Checksum::default()),
            auth_pass,
            transport: transport?,
            source,
            addresses: addresses?,
            excluded: placed(&v.excluded),
            assign: or(&v.assign, true),
            virtual_mac: or(&v.virtual_mac, false),
            witness: or(&v.witness, false),
            preempt: or(&v.preempt, Preempt::NOW),
            lease: lease?,
            probe,
            garp: self.garp(v),
            track,
            notify,
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
}

/// 12 bits of centiseconds.
const V3_LONGEST: Duration = Duration::from_millis(40_950);
const DEFAULT_ADVERT_INT: Duration = Duration::from_secs(1);
