//! The part of `resolve` that is about how a backend is chosen: what schedulers and limits ask of a service.

use std::ops::Range;

use lb_common::schedule::MAX_MEMBERS;
use toml::Spanned;

use super::{Resolver, or};
use crate::{
    config::{
        file,
        model::{HASH_TABLE_SIZE, Persistence, Scheduler},
        reader::Field,
    },
    datapath::ring::is_prime,
};

impl Resolver<'_, '_> {
    pub(super) fn scheduler(&mut self, s: &file::Service) -> Scheduler {
        let scheduler = or(&s.choice.scheduler, Scheduler::Rr);
        self.check_number(s, scheduler);
        scheduler
    }

    /// What looks at one backend after the other looks at so many at most.
    fn check_number(&mut self, s: &file::Service, scheduler: Scheduler) {
        let Some(backends) = s.backends.value() else { return };
        let count = backends.len() + self.most_discovered(s);
        if count <= MAX_MEMBERS {
            return;
        }
        let compares = s.choice.scheduler.given().filter(|_| scheduler.compares());
        let limited = backends.iter().find_map(|b| b.max_connections.given());
        let wants: [(Option<Range<usize>>, String); 3] = [
            (compares.map(Spanned::span), format!("`scheduler = \"{}\"`", scheduler.word())),
            (s.choice.persistence_timeout.given().map(Spanned::span), "`persistence_timeout`".into()),
            (limited.map(Spanned::span), "`max_connections` of a backend".into()),
        ];
        for (place, what) in wants {
            let Some(place) = place else { continue };
            let message = format!(
                "{what} takes at most {MAX_MEMBERS} backends, and [service.{}] has {count}",
                s.name.get_ref()
            );
            self.error(place, message, "the packet programs compare no more for one connection");
        }
    }

    pub(super) fn hash_table_size(&mut self, s: &file::Service, scheduler: Scheduler) -> u32 {
        let Some(written) = s.choice.hash_table_size.given() else { return HASH_TABLE_SIZE };
        let size = *written.get_ref();
        if !is_prime(size) {
            let next = (size..).find(|n| is_prime(*n)).unwrap_or(HASH_TABLE_SIZE);
            let message = format!("`hash_table_size` is {size}, which is no prime");
            self.error(written.span(), message, format!("the next one is {next}"));
        } else if !scheduler.is_hash() && !matches!(s.choice.scheduler, Field::Bad) {
            let message = format!("`hash_table_size` has no use with `scheduler = \"{}\"`", scheduler.word());
            self.warning(written.span(), message, "remove it, or choose \"sh\", \"dh\" or \"mh\"");
        }
        size
    }

    pub(super) fn persistence(&mut self, s: &file::Service) -> Option<Persistence> {
        let (timeout, prefix) = (s.choice.persistence_timeout.given(), s.choice.persistence_prefix.given());
        let v4 = s.listen.value().is_none_or(|l| l.first.is_ipv4());
        if let Some(prefix) = prefix {
            if s.choice.persistence_timeout.is_absent() {
                let message = "`persistence_prefix` has no use without `persistence_timeout`";
                self.warning(prefix.span(), message, "remove it, or add `persistence_timeout = \"300s\"`");
            }
            if v4 && *prefix.get_ref() > 32 {
                let message = format!("`persistence_prefix` is {}, but must be 1 to 32", prefix.get_ref());
                self.error(prefix.span(), message, "clients of this service have IPv4 addresses");
            }
        }
        let timeout = timeout?;
        if timeout.get_ref().subsec_nanos() != 0 {
            self.error(
                timeout.span(),
                "`persistence_timeout` counts whole seconds",
                "write \"1s\" or a multiple of it",
            );
        }
        let written = prefix.map_or(if v4 { 32 } else { 128 }, |p| *p.get_ref());
        let bits = if v4 { 96 + written.min(32) } else { written };
        Some(Persistence { timeout: *timeout.get_ref(), bits })
    }
}
