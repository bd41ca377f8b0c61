//! The order in which a service's backends get new connections, as a ring that the programs walk round.

use lb_common::maps::RING_SLOTS;

use crate::config::model::Scheduler;

/// Smooth weighted round robin over `(backend, weight)`: each backend appears in proportion to its weight and as evenly
/// spread as the numbers allow. Weight 0 does not appear. A total over [`RING_SLOTS`] is scaled down; nobody with a
/// weight is lost as long as there are no more backends than slots.
pub fn build(scheduler: Scheduler, backends: &[(u32, u16)]) -> Vec<u32> {
    let mut weighted: Vec<(u32, u32)> = backends
        .iter()
        .filter(|(_, w)| *w > 0)
        .map(|(id, w)| (*id, if scheduler == Scheduler::Rr { 1 } else { u32::from(*w) }))
        .collect();
    weighted.truncate(RING_SLOTS);
    reduce(&mut weighted);
    let total: u32 = weighted.iter().map(|(_, w)| w).sum();
    let mut credit = vec![0i64; weighted.len()];
    let mut ring = Vec::with_capacity(total as usize);
    for _ in 0..total {
        for (c, (_, w)) in credit.iter_mut().zip(&weighted) {
            *c += i64::from(*w);
        }
        // The first of the highest credits, so that equal weights keep the order of the file.
        let best = (0..weighted.len()).rev().max_by_key(|i| credit[*i]).unwrap_or(0);
        credit[best] -= i64::from(total);
        ring.push(weighted[best].0);
    }
    ring
}

/// Divides by the common divisor, then scales down what is still too long.
fn reduce(weighted: &mut [(u32, u32)]) {
    let g = weighted.iter().fold(0, |g, (_, w)| gcd(g, *w)).max(1);
    weighted.iter_mut().for_each(|(_, w)| *w /= g);
    let total: u64 = weighted.iter().map(|(_, w)| u64::from(*w)).sum();
    if total <= RING_SLOTS as u64 {
        return;
    }
    let room = (RING_SLOTS - weighted.len()) as u64;
    for (_, w) in weighted.iter_mut() {
        *w = 1 + (u64::from(*w - 1) * room / total) as u32;
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_robin_takes_each_backend_once_in_the_order_of_the_file() {
        assert_eq!(build(Scheduler::Rr, &[(4, 9), (7, 1), (2, 3)]), [4, 7, 2]);
    }

    #[test]
    fn weight_zero_takes_no_new_connections() {
        assert_eq!(build(Scheduler::Rr, &[(0, 1), (1, 0)]), [0]);
        assert!(build(Scheduler::Wrr, &[(0, 0)]).is_empty());
        assert!(build(Scheduler::Rr, &[]).is_empty());
    }

    #[test]
    fn weighted_round_robin_is_smooth_and_in_proportion() {
        assert_eq!(build(Scheduler::Wrr, &[(0, 5), (1, 1), (2, 1)]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(build(Scheduler::Wrr, &[(0, 100), (1, 50)]), [0, 1, 0]);
    }

    #[test]
    fn large_weights_are_scaled_to_the_ring_and_nobody_is_lost() {
        let ring = build(Scheduler::Wrr, &[(0, 256), (1, 255), (2, 1)]);
        assert!(ring.len() <= RING_SLOTS);
        let share = |id| ring.iter().filter(|b| **b == id).count();
        assert!(share(2) >= 1);
        assert!(share(0).abs_diff(share(1)) <= 2, "{} {}", share(0), share(1));
    }
}
