//! The part of `resolve` that is about what moves priorities: trackers, and what they mean to a router.

use std::{ops::Range, time::Duration};

use toml::Spanned;

use super::{Resolver, or};
use crate::config::{
    file::{
        self,
        track::{Kind, Use},
    },
    model::{Backends, FileValue, Peer, Process, Script, Track, TrackKind, TrackUse},
    reader::{Field, show_duration},
};

impl Resolver<'_, '_> {
    pub(super) fn track(&mut self, t: &file::track::Track) -> Option<Track> {
        let name = t.name.get_ref();
        let used = |v: &file::Vrrp| match &v.track {
            Field::Given(uses) => uses.get_ref().iter().any(|u| u.get_ref().name.value() == Some(name)),
            Field::Bad => true,
            Field::Absent => false,
        };
        if !self.file.vrrp.iter().any(used) {
            let message = format!("no virtual router uses [track.{name}]");
            self.warning(t.name.span(), message, format!("add `track = [\"{name}\"]` to a `[vrrp.NAME]`"));
        }
        let kind = match t.kind.as_ref()? {
            Kind::Interface { interface } => TrackKind::Interface(interface.value()?.clone()),
            Kind::Script(script) => TrackKind::Script(self.script(script)?),
            Kind::Process(p) => TrackKind::Process(Process {
                name: p.name.value()?.clone(),
                arguments: words(&p.arguments),
                quorum: or(&p.quorum, 1),
                delay: or(&p.delay, Duration::ZERO),
            }),
            Kind::File { path, interval } => TrackKind::File(FileValue {
                path: self.around.directory.join(path.value()?),
                interval: or(interval, SECOND),
            }),
            Kind::Backends { service, quorum, hysteresis } => {
                TrackKind::Backends(self.backends_track(service, quorum, hysteresis)?)
            }
            Kind::Peer { addr, interval, multiplier } => {
                let given = addr.given()?;
                if self.file.vrrp.iter().flat_map(super::virtual_addrs).any(|a| a == *given.get_ref()) {
                    let message =
                        format!("{} is a virtual address, which any node can have", given.get_ref());
                    self.error(given.span(), message, "write the address that the other node always has");
                }
                TrackKind::Peer(Peer {
                    addr: *given.get_ref(),
                    interval: or(interval, Duration::from_millis(300)),
                    multiplier: or(multiplier, 3),
                })
            }
        };
        Some(Track { name: name.clone(), kind })
    }

    fn script(&mut self, s: &file::track::Script) -> Option<Script> {
        let user = self.run_as(&s.user);
        let program = self.program(&s.command, user.as_ref());
        let interval = or(&s.interval, SECOND);
        let timeout = or(&s.timeout, interval);
        if let (Some(given), true) = (s.timeout.given(), timeout > interval) {
            let (timeout, interval) = (show_duration(timeout), show_duration(interval));
            let message = format!("`timeout` is {timeout}, longer than the `interval` of {interval}");
            self.error(given.span(), message, "runs of one script follow each other; lengthen the interval");
        }
        Some(Script {
            program: program?,
            interval,
            timeout,
            rise: or(&s.rise, 1),
            fall: or(&s.fall, 1),
            init: or(&s.init, true),
        })
    }

    fn backends_track(
        &mut self,
        service: &Field<String>,
        quorum: &Field<u32>,
        hysteresis: &Field<u32>,
    ) -> Option<Backends> {
        let given = service.given()?;
        let Some(index) = self.file.services.iter().position(|s| s.name.get_ref() == given.get_ref()) else {
            let known: Vec<_> = self.file.services.iter().map(|s| s.name.get_ref().as_str()).collect();
            let message = format!("there is no service `{}`", given.get_ref().escape_debug());
            self.error(given.span(), message, format!("services are: {}", known.join(", ")));
            return None;
        };
        let (wanted, slack) = (or(quorum, 1), or(hysteresis, 0));
        let at = |field: &Field<u32>| field.given().map_or(given.span(), Spanned::span);
        if let Field::Given(list) = &self.file.services[index].backends {
            let all = u32::try_from(list.get_ref().len()).unwrap_or(u32::MAX);
            if wanted.saturating_add(slack) > all {
                let message = format!("the service has {all} backends, and {} must be up", wanted + slack);
                self.error(at(quorum), message, "lower `quorum` or `hysteresis`: it would never be good");
            }
        }
        if slack >= wanted {
            let message = format!("`hysteresis` is {slack}, not less than the `quorum` of {wanted}");
            self.error(at(hysteresis), message, "it would stay good without any backend");
        }
        Some(Backends { service: index, quorum: wanted, hysteresis: slack })
    }

    pub(super) fn uses(&mut self, v: &file::Vrrp) -> Vec<TrackUse> {
        let mut uses: Vec<TrackUse> = Vec::new();
        for written in v.track.value().into_iter().flatten() {
            let Some(found) = self.used_track(written) else { continue };
            if uses.iter().any(|u| u.track == found.track) {
                self.error(written.span(), "this tracker is listed twice", "remove one");
            }
            self.warn_of_use(v, written.span(), found);
            uses.push(found);
        }
        uses
    }

    fn used_track(&mut self, written: &Spanned<Use>) -> Option<TrackUse> {
        let u = written.get_ref();
        let name = u.name.given()?;
        let Some(track) = self.file.tracks.iter().position(|t| t.name.get_ref() == name.get_ref()) else {
            let known: Vec<_> = self.file.tracks.iter().map(|t| t.name.get_ref().as_str()).collect();
            let help = match known[..] {
                [] => format!("add a `[track.{}]`", name.get_ref().escape_debug()),
                _ => format!("trackers are: {}", known.join(", ")),
            };
            self.error(name.span(), format!("there is no tracker `{}`", name.get_ref().escape_debug()), help);
            return None;
        };
        let is_file = matches!(self.file.tracks[track].kind, Some(Kind::File { .. }));
        let default = i16::from(is_file);
        Some(TrackUse { track, weight: or(&u.weight, default), reverse: or(&u.reverse, false) })
    }

    /// Uses that do nothing, or more than was meant.
    fn warn_of_use(&mut self, v: &file::Vrrp, place: Range<usize>, u: TrackUse) {
        if u.weight != 0 && v.priority.value() == Some(&255) {
            let message = "a weight has no effect at priority 255, which is never lowered";
            self.warning(
                place,
                message,
                "leave the weight out, so that the router goes to Fault, or lower the priority",
            );
            return;
        }
        let fault = u.weight == 0 && !u.reverse;
        match &self.file.tracks[u.track].kind {
            Some(Kind::Interface { interface }) if interface.value() == v.interface.value() => {
                let message = "a router's own interface is watched in any case";
                self.warning(place, message, "remove it, or name another interface");
            }
            Some(Kind::Peer { .. }) if fault => {
                let message =
                    "when the other node dies, this one gives up too, and nobody owns the addresses";
                self.warning(place, message, "give it a weight");
            }
            Some(Kind::Backends { .. }) if fault => {
                let message = "when the backends die, every node gives up, and the addresses answer nobody";
                self.warning(
                    place,
                    message,
                    "give it a weight, so that the node that reaches more of them owns",
                );
            }
            _ => {}
        }
    }
}

/// The words of a list that is good or absent.
pub(super) fn words(field: &Field<Vec<Spanned<String>>>) -> Vec<String> {
    field.value().into_iter().flatten().map(|w| w.get_ref().clone()).collect()
}

const SECOND: Duration = Duration::from_secs(1);
