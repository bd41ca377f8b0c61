//! Who takes a service's new connections, and how one of them is chosen: what `ring` makes tables of, and what programs are told
//! besides.

use std::collections::BTreeSet;

use lb_common::schedule::{MAX_MEMBERS, Scheduler};

use super::Model;
use crate::{
    config::model::Service,
    control::mover::Takers,
    datapath::{
        ring::{Taker, seed},
        tables::Choice,
    },
    health::{Pool, State},
};

impl Model {
    /// Who takes connections over that another backend does not greet, by service: those of its backends that take new ones, but for
    /// the `silent` ones.
    pub fn takers(&self, silent: &BTreeSet<u32>) -> Takers {
        let all = self.config.services.iter().zip(&self.pools).enumerate();
        let of = |(i, (s, pool)): (usize, (&Service, &Pool))| {
            let (scheduler, all) = takers(s, pool, self.numbers.backends(i));
            // The scheduler that takes the first available one takes the first that is not silent.
            let count = if scheduler == Scheduler::Fo { 1 } else { all.len() };
            let heard = all.iter().filter(|t| !silent.contains(&t.id)).map(|t| (t.id, t.weight));
            (self.numbers.service(i), heard.take(count).collect())
        };
        all.filter(|(_, (s, _))| s.move_ungreeted).map(of).collect()
    }

    /// Why connections of a backend that does not answer its check are to be looked at: it is up, and those that it has not greeted can
    /// be moved.
    pub fn is_silent(&self, backend: u32) -> Option<String> {
        let (s, b) = self.numbers.place(backend)?;
        let service = &self.config.services[s];
        let up = self.pools[s].health(b) == State::Up && service.move_ungreeted;
        up.then(|| format!("service {}: backend {} is silent", service.name, service.backends[b].name))
    }

    /// Connections that each backend may have, by number.
    pub(super) fn limits(&self) -> Vec<u32> {
        let all = self.config.services.iter().flat_map(|s| &s.backends);
        self.numbers.by_backend(all.map(|b| b.max_connections))
    }
}

/// The backends that take new connections, by their `numbers`, and the scheduler that does justice to their weights. The scheduler that takes the first available gets them in the order of priorities.
pub(super) fn takers(s: &Service, pool: &Pool, numbers: &[u32]) -> (Scheduler, Vec<Taker>) {
    let (scheduler, mut takers) = pool.ring();
    if scheduler == Scheduler::Fo {
        takers.sort_by_key(|(b, _)| std::cmp::Reverse(s.backends[*b].priority));
    }
    let taker = |(b, weight): (usize, u16)| Taker { id: numbers[b], weight, seed: seed(s.backends[b].addr) };
    (scheduler, takers.into_iter().map(taker).collect())
}

/// What programs are told besides the table.
pub(super) fn of(s: &Service, scheduler: Scheduler, takers: &[Taker]) -> Choice {
    let members = takers.iter().filter(|t| t.weight > 0).map(|t| (t.id, t.weight)).collect::<Vec<_>>();
    Choice {
        scheduler,
        members: if members.len() <= MAX_MEMBERS { members } else { Vec::new() },
        persistence: s.persistence.map(|p| (p.bits, p.timeout.as_secs() as u32)),
        max_connections: s.max_connections,
    }
}
