//! What is asked of the simulated world: safety and liveness over arbitrary operations, and courses of events that operators
//! know by name.

use proptest::prelude::*;

use super::*;

fn wait() -> impl Strategy<Value = Op> {
    prop_oneof![0_u64..60, 0_u64..1500, 0_u64..6000, 3500_u64..3700]
        .prop_map(|ms| Op::Wait(Duration::from_millis(ms) + Duration::from_micros(ms % 7 * 131)))
}

fn restarts() -> impl Strategy<Value = Op> {
    prop_oneof![4 => wait(), 1 => (0_usize..3).prop_map(Op::Stop), 2 => (0_usize..4).prop_map(Op::Start)]
}

fn faults() -> impl Strategy<Value = Op> {
    let node = 0_usize..4;
    prop_oneof![
        8 => wait(),
        2 => node.clone().prop_map(Op::Freeze),
        3 => node.clone().prop_map(Op::Thaw),
        1 => node.clone().prop_map(Op::Kill),
        1 => node.clone().prop_map(Op::Stop),
        3 => node.clone().prop_map(Op::Start),
        1 => node.clone().prop_map(Op::Part),
        2 => Just(Op::Heal),
        1 => node.prop_map(Op::Carrier),
    ]
}

fn faults_and_clocks() -> impl Strategy<Value = Op> {
    let leap = (0_usize..4, prop_oneof![0_u64..500, 0_u64..10_000]);
    prop_oneof![12 => faults(), 1 => leap.prop_map(|(node, ms)| Op::Jump(node, Duration::from_millis(ms)))]
}

/// Version 2 as the users have it, and version 3 down to its shortest interval.
fn pace() -> impl Strategy<Value = Pace> {
    prop_oneof![
        4 => Just(Pace::SEED),
        1 => Just(Pace::v3(1000)),
        1 => Just(Pace::v3(100)),
        2 => Just(Pace::v3(30)),
        2 => Just(Pace::v3(10)),
    ]
}

fn priorities() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(vec![101, 100]),
        Just(vec![100, 100]),
        Just(vec![101, 100, 99]),
        Just(vec![100, 100, 100]),
        Just(vec![101, 100, 99, 98]),
        proptest::collection::vec(1_u8..255, 2..=4),
    ]
}

fn play(sim: &mut Sim, ops: &[Op]) {
    for op in ops {
        let (Op::Freeze(n)
        | Op::Thaw(n)
        | Op::Kill(n)
        | Op::Stop(n)
        | Op::Start(n)
        | Op::Part(n)
        | Op::Carrier(n)
        | Op::Jump(n, _)) = *op
        else {
            sim.apply(*op);
            continue;
        };
        if n < sim.nodes.len() {
            sim.apply(*op);
        }
    }
}

/// Plays the operations, ends all faults, and expects one owner: that of highest priority, unless nobody pre-empts.
fn go_through(mut sim: Sim, ops: &[Op]) {
    let preempts = sim.nodes.iter().all(|node| node.params.preempt != Preempt::Never);
    let highest = sim.nodes.iter().map(|node| node.params.priority).max();
    play(&mut sim, ops);
    sim.end_faults();
    sim.run(sim.pace.settled());
    sim.assert_one_owner_from_now_on(highest.filter(|_| preempts));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn loss_and_delay_never_make_two_owners(
        seed: u64, pace in pace(), priorities in priorities(), ops in proptest::collection::vec(restarts(), 1..30),
    ) {
        go_through(Sim { lossy: true, ..Sim::new(pace, &priorities, Preempt::NOW, seed) }, &ops);
    }

    #[test]
    fn routers_of_different_intervals_never_make_two_owners_and_agree_on_one(
        seed: u64, ms in prop_oneof![Just(10_u64), Just(30), Just(100)], last_factor in 2_u32..20,
        priorities in priorities(), ops in proptest::collection::vec(restarts(), 1..30),
    ) {
        let pace = Pace { last_factor, ..Pace::v3(ms) };
        go_through(Sim::new(pace, &priorities, Preempt::NOW, seed), &ops);
    }

    #[test]
    fn freezes_kills_and_partitions_never_make_two_owners_that_reach_each_other(
        seed: u64, pace in pace(), priorities in priorities(), never: bool,
        ops in proptest::collection::vec(faults(), 1..40),
    ) {
        let preempt = if never { Preempt::Never } else { Preempt::NOW };
        go_through(Sim::new(pace, &priorities, preempt, seed), &ops);
    }

    #[test]
    fn whatever_happened_there_is_one_owner_soon_after(
        seed: u64, pace in pace(), priorities in priorities(), ops in proptest::collection::vec(faults(), 1..40),
    ) {
        go_through(Sim { lossy: true, checked: false, ..Sim::new(pace, &priorities, Preempt::NOW, seed) }, &ops);
    }
}

/// Version 2 as the users have it, and version 3, with probes.
fn probing_pace() -> impl Strategy<Value = Pace> {
    prop_oneof![3 => Just(Pace::SEED), 1 => Just(Pace::v3(1000)), 2 => Just(Pace::v3(80))]
        .prop_map(Pace::probing)
}

proptest! {
    // Twenty probes a second and router cost time.
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn probing_routers_never_make_two_owners_however_they_lose_packets(
        seed: u64, pace in probing_pace(), priorities in priorities(),
        ops in proptest::collection::vec(restarts(), 1..30),
    ) {
        go_through(Sim { lossy: true, ..Sim::new(pace, &priorities, Preempt::NOW, seed) }, &ops);
    }

    /// Clocks that jump, too, and none of the windows that time-outs need to be excused for, but that of a healed
    /// partition.
    #[test]
    fn probing_routers_never_make_two_owners_whatever_freezes_or_dies_at_whatever_moment(
        seed: u64, pace in probing_pace(), priorities in priorities(), never: bool,
        ops in proptest::collection::vec(faults_and_clocks(), 1..40),
    ) {
        let preempt = if never { Preempt::Never } else { Preempt::NOW };
        go_through(Sim::new(pace, &priorities, preempt, seed), &ops);
    }

    #[test]
    fn whatever_happened_to_probing_routers_there_is_one_owner_soon_after(
        seed: u64, pace in probing_pace(), priorities in priorities(),
        ops in proptest::collection::vec(faults_and_clocks(), 1..40),
    ) {
        go_through(Sim { lossy: true, checked: false, ..Sim::new(pace, &priorities, Preempt::NOW, seed) }, &ops);
    }
}

#[test]
fn the_seeds_nodes_started_together_elect_the_higher_priority_once() {
    let mut sim = Sim::new(Pace::SEED, &[101, 100], Preempt::NOW, 1);
    play(&mut sim, &[Op::Start(0), Op::Start(1)]);
    sim.run(4 * SECOND);
    sim.assert_one_owner_from_now_on(Some(101));
    assert_eq!(sim.nodes[1].bursts, 0, "the loser announced itself");
}

#[test]
fn a_paused_owner_is_replaced_after_its_lease_and_takes_back_by_the_ordinary_rule() {
    let mut sim = Sim::new(Pace::SEED, &[101, 100], Preempt::NOW, 2);
    play(&mut sim, &[Op::Start(0), Op::Start(1), Op::Wait(10 * SECOND), Op::Freeze(0)]);
    sim.run(4 * SECOND);
    assert_eq!(sim.owners(), [1]);
    sim.apply(Op::Thaw(0));
    sim.run(3 * SECOND);
    assert_eq!(sim.owners(), [1], "it waits the master-down time before it claims");
    sim.run(2 * SECOND);
    assert_eq!(sim.nodes[0].bursts, 2 + 1, "one burst on its return; the second one is due after 5 s");
    sim.assert_one_owner_from_now_on(Some(101));
}

#[test]
fn a_healed_partition_leaves_the_higher_owner_which_announces_itself_again() {
    let mut sim = Sim::new(Pace::SEED, &[101, 100], Preempt::NOW, 3);
    play(&mut sim, &[Op::Start(0), Op::Start(1), Op::Wait(10 * SECOND), Op::Part(0), Op::Wait(10 * SECOND)]);
    assert_eq!(sim.owners(), [0, 1]);
    let before = sim.nodes[0].bursts;
    sim.apply(Op::Heal);
    sim.run(Pace::SEED.healed());
    assert!(sim.nodes[0].bursts > before, "the neighbours still know the other's hardware address");
    sim.assert_one_owner_from_now_on(Some(101));
}

#[test]
fn at_30_ms_a_silent_owner_is_replaced_within_110_ms_and_one_that_leaves_within_20() {
    let ms = |n| n * MS;
    let mut sim = Sim::new(Pace::v3(30), &[254, 200], Preempt::NOW, 4);
    play(&mut sim, &[Op::Start(0), Op::Start(1)]);
    sim.run(SECOND);
    assert_eq!(sim.owners(), [0]);
    sim.apply(Op::Kill(0));
    sim.run(ms(110));
    assert_eq!(sim.owners(), [1]);
    sim.apply(Op::Start(0));
    sim.run(SECOND);
    assert_eq!(sim.owners(), [0]);
    sim.apply(Op::Stop(0));
    sim.run(ms(20));
    assert_eq!(sim.owners(), [1]);
}

/// A claim on a slow rival that waited longer than the third router's three short intervals went on for ever.
#[test]
fn a_quick_claimer_does_not_wait_so_long_for_a_slow_rival_that_others_claim_too() {
    let pace = Pace { last_factor: 9, ..Pace::v3(10) };
    let mut sim = Sim::new(pace, &[101, 100, 99], Preempt::NOW, 727_278_647_236_981_806);
    let wait = |us| Op::Wait(Duration::from_micros(us));
    play(&mut sim, &[Op::Start(1), wait(2_640_131), wait(947_262), wait(22_131), Op::Stop(1)]);
    sim.end_faults();
    sim.run(pace.settled());
    sim.assert_one_owner_from_now_on(Some(101));
}

/// A clock that leapt while another's first claim was just through: the first probe was still to be answered.
#[test]
fn a_clock_that_leaps_right_after_anothers_take_over_does_not_make_a_second_owner() {
    let mut sim = Sim::new(Pace::SEED.probing(), &[101, 100], Preempt::NOW, 1);
    let wait = |us| Op::Wait(Duration::from_micros(us));
    let leap = Op::Jump(1, Duration::from_millis(3607));
    play(
        &mut sim,
        &[
            Op::Start(0),
            Op::Start(1),
            Op::Freeze(1),
            wait(3_616_524),
            Op::Thaw(1),
            leap,
            Op::Freeze(0),
            wait(11_524),
        ],
    );
    sim.end_faults();
    sim.run(sim.pace.settled());
    sim.assert_one_owner_from_now_on(Some(101));
}
