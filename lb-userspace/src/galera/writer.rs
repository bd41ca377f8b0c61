//! Which node is the writer: one rule that every balancer applies alike, without talking to the others.
//!
//! Pure. `health::pool` calls [`choose`] whenever anything changed, and puts at most its answer into the ring.

use std::net::SocketAddr;

use crate::config::model::Failback;

/// A node as the choice sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// It may become the writer: up, and takes writes.
    pub fit: bool,
    /// It may stay the writer: fit, or full. A full one is left for nobody: its sessions go on writing.
    pub may_stay: bool,
    /// It has no connection.
    pub idle: bool,
    /// Configured; the highest wins.
    pub priority: u8,
    /// `wsrep_local_index`; the lowest wins.
    pub local_index: u32,
    /// Settles what is left.
    pub addr: SocketAddr,
}

/// The writer from now on, given the one so far.
pub fn choose(candidates: &[Candidate], so_far: Option<usize>, failback: Failback) -> Option<usize> {
    let best = best(candidates);
    let Some(kept) = so_far.filter(|i| candidates.get(*i).is_some_and(|c| c.may_stay)) else { return best };
    let give_up = match failback {
        Failback::Never => false,
        Failback::WhenIdle => candidates[kept].idle,
        Failback::Now => true,
    };
    // A full writer is only left for a node that comes before it.
    let better = best.filter(|b| rank(&candidates[*b]) < rank(&candidates[kept]));
    if give_up { better.or(Some(kept)) } else { Some(kept) }
}

fn best(candidates: &[Candidate]) -> Option<usize> {
    let fit = candidates.iter().enumerate().filter(|(_, c)| c.fit);
    fit.min_by_key(|(_, c)| rank(c)).map(|(i, _)| i)
}

/// The lowest comes first.
fn rank(c: &Candidate) -> (u8, u32, SocketAddr) {
    (u8::MAX - c.priority, c.local_index, c.addr)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(fit, may_stay, idle, priority, local index)` of each; addresses descend, so that order in the list is no help.
    fn candidates(list: &[(bool, bool, bool, u8, u32)]) -> Vec<Candidate> {
        (0u8..)
            .zip(list)
            .map(|(i, &(fit, may_stay, idle, priority, local_index))| Candidate {
                fit,
                may_stay,
                idle,
                priority,
                local_index,
                addr: SocketAddr::from(([10, 0, 0, 99 - i], 3306)),
            })
            .collect()
    }

    fn good(priority: u8, index: u32) -> (bool, bool, bool, u8, u32) {
        (true, true, false, priority, index)
    }

    #[test]
    fn the_first_choice_goes_by_priority_then_index_then_address() {
        for (list, expected, why) in [
            (vec![good(0, 2), good(0, 1), good(0, 3)], Some(1), "lowest index"),
            (vec![good(1, 2), good(9, 5), good(1, 0)], Some(1), "priority before index"),
            (vec![good(0, 1), good(0, 1)], Some(1), "lowest address"),
            (vec![(false, false, true, 9, 0), good(0, 1)], Some(1), "one that is out is nobody"),
            (vec![(false, true, true, 9, 0), good(0, 1)], Some(1), "nor may a full one become it"),
            (vec![(false, false, true, 0, 0)], None, "nobody left"),
            (vec![], None, "nobody at all"),
        ] {
            for failback in [Failback::Never, Failback::WhenIdle, Failback::Now] {
                assert_eq!(choose(&candidates(&list), None, failback), expected, "{why}");
            }
        }
    }

    #[test]
    fn failback_says_when_a_better_one_takes_over() {
        use Failback::{Never, Now, WhenIdle};
        let idle = |priority, index| (true, true, true, priority, index);
        for (list, so_far, failback, expected, why) in [
            (vec![good(9, 0), good(0, 1)], 1, Never, 1, "never: it stays"),
            (vec![good(9, 0), good(0, 1)], 1, WhenIdle, 1, "when idle: not while it has connections"),
            (vec![good(9, 0), idle(0, 1)], 1, WhenIdle, 0, "when idle: it has none"),
            (vec![good(9, 0), good(0, 1)], 1, Now, 0, "now"),
            (vec![good(0, 0), (false, false, false, 9, 0)], 1, Never, 0, "one that is out is replaced"),
            (vec![good(0, 0), (false, true, false, 9, 0)], 1, Now, 1, "a full one is left for no lesser one"),
            (vec![good(9, 0), (false, true, false, 0, 0)], 1, Now, 0, "but for a better one"),
            (vec![good(9, 0), (false, true, false, 0, 0)], 1, Never, 1, "unless it shall never be"),
        ] {
            assert_eq!(choose(&candidates(&list), Some(so_far), failback), Some(expected), "{why}");
        }
    }

    proptest::proptest! {
        /// Whatever the order in which nodes are listed, the same node is chosen; it may be chosen, and nobody who
        /// comes before it was passed over.
        #[test]
        fn the_choice_depends_on_no_order(
            nodes in proptest::collection::vec((proptest::prelude::any::<(bool, bool, bool)>(), 0u8..3, 0u32..4), 0..8),
            turn in 0usize..8,
            so_far in proptest::option::of(0usize..8),
            failback in 0usize..3,
        ) {
            let failback = [Failback::Never, Failback::WhenIdle, Failback::Now][failback];
            let list: Vec<_> = nodes.iter().map(|((fit, stay, idle), p, i)| (*fit, *fit || *stay, *idle, *p, *i)).collect();
            let plain = candidates(&list);
            let so_far = so_far.filter(|i| *i < plain.len());
            let chosen = choose(&plain, so_far, failback);

            let turn = if plain.is_empty() { 0 } else { turn % plain.len() };
            let mut turned = plain.clone();
            turned.rotate_left(turn);
            let so_far_turned = so_far.map(|i| (i + plain.len() - turn) % plain.len());
            let chosen_turned = choose(&turned, so_far_turned, failback);
            assert_eq!(chosen.map(|i| plain[i].addr), chosen_turned.map(|i| turned[i].addr));

            assert_eq!(chosen.is_none(), best(&plain).is_none() && so_far.is_none_or(|i| !plain[i].may_stay));
            if let Some(i) = chosen {
                assert!(plain[i].fit || (so_far == Some(i) && plain[i].may_stay));
                if failback == Failback::Now {
                    assert!(plain.iter().all(|c| !c.fit || rank(c) >= rank(&plain[i])));
                }
            }
        }
    }
}
