//! Who takes a service's new connections, and how one of them is chosen: what `ring` makes tables of, and what programs are told
//! besides.

use lb_common::schedule::{MAX_MEMBERS, Scheduler};

use super::Model;
use crate::{
    config::model::Service,
    datapath::{
        ring::{Taker, seed},
        tables::Choice,
    },
    health::Pool,
};

impl Model {
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
