//! Tables: turns and shares of the round robins; what Maglev's promise: every slot taken, the same table from the same backends,
//! shares by weight, and little moved when one goes.

use super::*;

/// Backends `0..` with these weights.
fn takers(weights: &[u16]) -> Vec<Taker> {
    let taker = |(id, weight): (u32, &u16)| {
        let addr = SocketAddr::from(([10, 0, (id >> 8) as u8, id as u8], 3306));
        Taker { id, weight: *weight, seed: seed(addr) }
    };
    (0..).zip(weights).map(taker).collect()
}

fn share(table: &[u32], id: u32) -> f64 {
    table.iter().filter(|b| **b == id).count() as f64 / table.len() as f64
}

#[test]
fn round_robin_takes_each_backend_once_in_the_order_of_the_file() {
    assert_eq!(table(Scheduler::Rr, &takers(&[9, 1, 3]), 7), [0, 1, 2]);
}

#[test]
fn weight_zero_takes_no_new_connections() {
    for scheduler in Scheduler::ALL {
        let ring = table(scheduler, &takers(&[1, 0]), 7);
        assert!(!ring.is_empty() && ring.iter().all(|b| *b == 0), "{scheduler:?}: {ring:?}");
        assert!(table(scheduler, &takers(&[0]), 7).is_empty(), "{scheduler:?}");
        assert!(table(scheduler, &[], 7).is_empty(), "{scheduler:?}");
    }
}

#[test]
fn weighted_round_robin_is_smooth_and_in_proportion() {
    assert_eq!(table(Scheduler::Wrr, &takers(&[5, 1, 1]), 7), [0, 0, 1, 0, 2, 0, 0]);
    assert_eq!(table(Scheduler::Wrr, &takers(&[100, 50]), 7), [0, 1, 0]);
}

#[test]
fn the_share_of_weights_that_share_no_divisor_is_exact() {
    let ring = table(Scheduler::Wrr, &takers(&[256, 255, 1]), 7);
    let count = |id| ring.iter().filter(|b| **b == id).count();
    assert_eq!([count(0), count(1), count(2)], [256, 255, 1]);
}

#[test]
fn a_total_beyond_the_ring_is_scaled_and_nobody_is_lost() {
    let weights: Vec<u16> = (0..100).map(|i| if i == 0 { 1 } else { 2559 }).collect();
    let ring = table(Scheduler::Wrr, &takers(&weights), 7);
    assert!(ring.len() <= MAX_RING);
    assert!((0..100).all(|id| ring.contains(&id)));
}

#[test]
fn every_slot_of_a_maglev_table_has_a_backend_and_every_backend_its_share() {
    for slots in [251, 4099, 16_381, 65_537] {
        for n in [1u16, 2, 3, 5, 16] {
            let table = table(Scheduler::Mh, &takers(&vec![1; n.into()]), slots);
            assert_eq!(table.len(), slots as usize);
            for id in 0..u32::from(n) {
                // Taken by turns: shares differ by one slot.
                let off = (share(&table, id) - 1.0 / f64::from(n)).abs() * f64::from(slots);
                assert!(off <= 1.0, "{slots} slots, {n} backends: {off} slots off");
            }
        }
    }
}

#[test]
fn maglev_shares_follow_weights() {
    let weights = [1, 2, 3, 10, 256];
    let total: u16 = weights.iter().sum();
    let table = table(Scheduler::Mh, &takers(&weights), 16_381);
    for (id, weight) in (0..).zip(weights) {
        let wanted = f64::from(weight) / f64::from(total);
        assert!((share(&table, id) - wanted).abs() < 0.001, "{id}: {} of {wanted}", share(&table, id));
    }
}

#[test]
fn the_same_backends_make_the_same_maglev_table_in_whatever_order_they_are_written() {
    let forward = takers(&[1, 2, 3, 4]);
    let backward: Vec<_> = forward.iter().rev().copied().collect();
    let made = table(Scheduler::Mh, &forward, 4099);
    assert_eq!(made, table(Scheduler::Mh, &forward, 4099));
    assert_eq!(made, table(Scheduler::Mh, &backward, 4099));
}

#[test]
fn of_a_maglev_table_with_slots_enough_a_backend_that_goes_moves_little_more_than_its_own_share() {
    for (slots, most) in [(4099, 10), (16_381, 64), (65_537, 64)] {
        for n in [2u16, 3, 5, 10, 40, 64].into_iter().filter(|n| *n <= most) {
            let all = takers(&vec![1; n.into()]);
            let before = table(Scheduler::Mh, &all, slots);
            for gone in [0, usize::from(n) / 2] {
                let mut rest = all.clone();
                rest.remove(gone);
                let after = table(Scheduler::Mh, &rest, slots);
                let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count();
                let moved = moved as f64 / f64::from(slots);
                assert!(moved <= 1.0 / f64::from(n) + 0.02, "{slots} slots, one of {n}: {moved} moved");
            }
        }
    }
}

#[test]
fn primes_are_told_from_other_numbers() {
    let primes = [2, 3, 251, 4099, 16_381, 65_537, 131_071];
    assert!(primes.into_iter().all(is_prime));
    assert!([0, 1, 4, 253, 4096, 65_535, 65_536].into_iter().all(|n| !is_prime(n)));
}
