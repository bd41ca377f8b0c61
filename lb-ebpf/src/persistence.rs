//! Clients that keep to their backend: remembered by service and network of the client, for so long after the last connection.
//!
//! A backend that takes no new connections, or no more, or did not take this one (`redispatch`), is forgotten for another that
//! the scheduler chooses.

use lb_common::{
    flow::Flow,
    persistence::{ClientKey, Remembered},
};

use crate::{schedule::Ring, tables::Tables};

const SECOND: u64 = 1_000_000_000;

/// The backend that the client of a new flow had before, with a place held there.
#[inline(always)]
pub fn recall<T: Tables>(f: &Flow, ring: &Ring, t: &T) -> Option<u32> {
    let seen = f.seen;
    let remembered = t.remembered(&key(f, ring))?;
    let backend = remembered.backend;
    if ring.avoids(backend) || seen.saturating_sub(remembered.seen) >= u64::from(ring.persistence) * SECOND {
        return None;
    }
    remembered.seen = seen;
    (t.is_member(ring.first_member(), ring.members, backend) && t.occupy(backend)).then_some(backend)
}

/// Leaves word of the backend that it has now.
#[inline(always)]
pub fn remember<T: Tables>(f: &Flow, ring: &Ring, backend: u32, t: &T) {
    t.remember(&key(f, ring), &Remembered { seen: f.seen, backend, pad: 0 });
}

#[inline(always)]
fn key(f: &Flow, ring: &Ring) -> ClientKey {
    ClientKey { client: f.client.network(ring.prefix), service: ring.service, pad: 0 }
}

#[cfg(test)]
mod tests {
    use lb_common::{
        addr::Addr,
        schedule::{Scheduler, word},
    };

    use super::*;
    use crate::testing::Memory;

    /// Three backends in turn, and clients that keep to theirs for ten seconds.
    fn tables() -> (Memory, Ring) {
        let mut m = Memory::new(1);
        for i in 0..3 {
            m.rings.insert(i, word(i, 1));
            m.rings.insert(3 + i, word(i, 1));
        }
        let scheduler = Scheduler::Rr;
        (
            m,
            Ring {
                base: 0,
                len: 3,
                members: 3,
                scheduler,
                service: 0,
                persistence: 10,
                prefix: 128,
                avoid: 0,
            },
        )
    }

    /// The backend that a client gets at a time, s.
    fn at(m: &Memory, ring: &Ring, client: u8, seconds: u64) -> u32 {
        let f = m.flow(0).expect("a record");
        (f.client, f.seen) = (Addr::v4([10, 0, 0, client]), seconds * SECOND);
        m.pick(0, ring).expect("a backend")
    }

    #[test]
    fn a_client_is_forgotten_when_its_last_connection_is_too_long_ago() {
        let (m, ring) = tables();
        assert_eq!(at(&m, &ring, 1, 100), 0);
        assert_eq!(at(&m, &ring, 2, 100), 1);
        assert_eq!(at(&m, &ring, 1, 109), 0);
        assert_eq!(at(&m, &ring, 1, 118), 0, "each connection puts it off");
        assert_eq!(at(&m, &ring, 1, 128), 2, "ten seconds later it has its turn as any other");
        assert_eq!(at(&m, &ring, 1, 129), 2);
        assert_eq!(at(&m, &ring, 2, 129), 0);
    }

    #[test]
    fn services_remember_their_clients_apart() {
        let (m, ring) = tables();
        let other = Ring { service: 1, ..ring };
        assert_eq!(at(&m, &ring, 9, 1), 0);
        assert_eq!(at(&m, &ring, 1, 1), 1);
        assert_eq!([at(&m, &other, 1, 1), at(&m, &ring, 1, 1)], [0, 1]);
    }

    #[test]
    fn a_connection_without_persistence_leaves_no_word() {
        let (m, ring) = tables();
        let plain = Ring { persistence: 0, ..ring };
        assert_eq!([0, 1, 2].map(|_| at(&m, &plain, 1, 1)), [0, 1, 2]);
        assert!(m.remembered.borrow().is_empty());
    }
}
