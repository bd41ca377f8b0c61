//! Table of conditions, then components and views, then properties.

use super::*;
use crate::{config::model::Failback, galera::Observation};

const LONG_AGO: Duration = Duration::from_secs(60);

fn rules(role: Role, donor: Donor) -> Galera {
    Galera {
        role,
        failback: Failback::Never,
        donor,
        max_receive_queue: Some(100),
        max_flow_control: Some(50),
    }
}

/// A synced node of a three-node cluster, in the same view for a minute.
fn synced(start: Instant) -> Seen {
    let now = Observation {
        cluster_status: "Primary".into(),
        cluster_uuid: "a".into(),
        conf_id: 7,
        cluster_size: 3,
        connected: true,
        ready: true,
        state: 4,
        state_comment: "Synced".into(),
        reject_queries: "NONE".into(),
        ..Observation::default()
    };
    Seen { now, at: start + LONG_AGO, view_since: start, paused_percent: 0, lags: false }
}

fn verdicts(nodes: &[Seen], rules: &Galera) -> Vec<Verdict> {
    let nodes: Vec<_> = nodes.iter().map(|s| Node { seen: Some(s), wanted: true }).collect();
    judge(&nodes, rules)
}

/// The words for each: `in`, `drain: …`, `out: …`.
fn words(verdicts: &[Verdict]) -> Vec<String> {
    let word = |v: &Verdict| match v {
        Verdict::In => "in".to_owned(),
        Verdict::Drain(why) => format!("drain: {why}"),
        Verdict::Out(why) => format!("out: {why}"),
    };
    verdicts.iter().map(word).collect()
}

/// One node that differs from two synced ones.
fn first_of_three(change: impl Fn(&mut Seen), role: Role, donor: Donor) -> String {
    let start = Instant::now();
    let mut nodes = vec![synced(start); 3];
    change(&mut nodes[0]);
    let words = words(&verdicts(&nodes, &rules(role, donor)));
    assert_eq!(words[1..], ["in", "in"], "the others are not concerned");
    words[0].clone()
}

type Change = fn(&mut Seen);

#[test]
fn each_condition_has_its_consequence_and_says_so() {
    use Donor::{Allow, AllowIfLast, Avoid};
    use Role::{Any, Reader, Writer};
    let table: &[(Change, Role, Donor, &str)] = &[
        (|_| (), Any, Avoid, "in"),
        (
            |s| s.now.cluster_status = "non-Primary".into(),
            Any,
            Avoid,
            "out: not in the primary component: non-Primary",
        ),
        (|s| s.now.ready = false, Any, Avoid, "out: wsrep_ready is OFF: Synced"),
        (|s| s.now.reject_queries = "ALL".into(), Any, Avoid, "out: wsrep_reject_queries is ALL"),
        (|s| s.now.reject_queries = "ALL_KILL".into(), Any, Avoid, "out: wsrep_reject_queries is ALL_KILL"),
        (
            |s| {
                s.now.state = 3;
                s.now.state_comment = "Joined".into()
            },
            Any,
            Allow,
            "out: not synced: Joined",
        ),
        (|s| s.now.maint_mode = "SHUTDOWN".into(), Any, Avoid, "drain: pxc_maint_mode is SHUTDOWN"),
        (|s| s.now.maint_mode = "DISABLED".into(), Any, Avoid, "in"),
        (|s| s.now.read_only = true, Any, Avoid, "drain: read_only is ON"),
        (|s| s.now.read_only = true, Writer, Avoid, "drain: read_only is ON"),
        (|s| s.now.read_only = true, Reader, Avoid, "in"),
        (|s| s.now.state = 2, Any, Avoid, "drain: gives a state transfer"),
        (|s| s.now.state = 2, Any, AllowIfLast, "drain: gives a state transfer"),
        (|s| s.now.state = 2, Any, Allow, "in"),
        (
            |s| {
                s.now.state = 2;
                s.now.desync = true
            },
            Any,
            AllowIfLast,
            "drain: wsrep_desync is ON",
        ),
        (
            |s| {
                s.now.state = 2;
                s.now.donor_rejects_queries = true
            },
            Any,
            Allow,
            "out: a donor that rejects queries",
        ),
        (
            |s| {
                s.now.state = 2;
                s.now.desync = true;
                s.now.donor_rejects_queries = true
            },
            Any,
            Allow,
            "in",
        ),
        (
            |s| {
                s.lags = true;
                s.now.recv_queue = 120
            },
            Any,
            Avoid,
            "drain: 120 write sets wait to be applied",
        ),
        (
            |s| {
                s.lags = true;
                s.paused_percent = 60
            },
            Any,
            Avoid,
            "drain: had the cluster paused 60 % of the time",
        ),
        (|s| s.now = Observation::default(), Any, Avoid, "out: no Galera status: not a node of a cluster"),
        (
            |s| {
                s.now.cluster_status = "non-Primary".into();
                s.now.maint_mode = "SHUTDOWN".into()
            },
            Any,
            Avoid,
            "out: not in the primary component: non-Primary",
        ),
    ];
    for (change, role, donor, expected) in table {
        assert_eq!(first_of_three(change, *role, *donor), *expected, "{role:?} {donor:?}");
    }
}

#[test]
fn a_slow_node_serves_if_nobody_faster_does_and_a_donor_if_nobody_at_all() {
    let start = Instant::now();
    let mut nodes = vec![synced(start); 3];
    nodes[0].now.state = 2;
    nodes[1].lags = true;
    nodes[1].now.recv_queue = 500;
    nodes[2].now.reject_queries = "ALL".into();
    let slow = words(&verdicts(&nodes, &rules(Role::Any, Donor::AllowIfLast)));
    assert_eq!(slow[..2], ["drain: gives a state transfer", "in"]);
    nodes[1].now.ready = false;
    let last = words(&verdicts(&nodes, &rules(Role::Any, Donor::AllowIfLast)));
    assert_eq!(last[0], "in");
    let avoided = words(&verdicts(&nodes, &rules(Role::Any, Donor::Avoid)));
    assert_eq!(avoided[0], "drain: gives a state transfer");
}

#[test]
fn a_node_that_an_operator_took_out_keeps_no_donor_from_serving() {
    let start = Instant::now();
    let mut donor = synced(start);
    donor.now.state = 2;
    let other = synced(start);
    let of = |wanted| {
        let nodes = [Node { seen: Some(&donor), wanted: true }, Node { seen: Some(&other), wanted }];
        words(&judge(&nodes, &rules(Role::Any, Donor::AllowIfLast)))[0].clone()
    };
    assert_eq!(of(true), "drain: gives a state transfer");
    assert_eq!(of(false), "in");
}

/// Nodes of these clusters and views: uuid, conf_id, size.
fn in_views(start: Instant, views: &[(&str, u64, u32)]) -> Vec<Seen> {
    let seen = |(uuid, conf_id, size): &(&str, u64, u32)| {
        let mut s = synced(start);
        s.now.cluster_uuid = (*uuid).into();
        (s.now.conf_id, s.now.cluster_size) = (*conf_id, *size);
        s
    };
    views.iter().map(seen).collect()
}

fn who_is_in(nodes: &[Seen]) -> Vec<bool> {
    verdicts(nodes, &rules(Role::Any, Donor::Avoid)).iter().map(|v| *v == Verdict::In).collect()
}

#[test]
fn the_component_of_most_nodes_counts_although_the_others_call_themselves_primary() {
    for (views, expected, why) in [
        (
            &[("a", 7, 2), ("a", 7, 2), ("a", 9, 1)][..],
            &[true, true, false][..],
            "majority before a later view",
        ),
        (&[("a", 7, 3), ("b", 90, 5), ("a", 7, 3)], &[true, false, true], "another cluster"),
        (&[("a", 7, 3), ("b", 90, 5)], &[false, true], "one each: the larger cluster"),
        (&[("a", 8, 1), ("a", 7, 3)], &[true, false], "one each: the later view"),
        (&[("b", 7, 1), ("a", 7, 1)], &[false, true], "nothing tells them apart: the same everywhere"),
        (
            &[("a", 8, 4), ("a", 8, 2), ("a", 8, 4), ("a", 8, 2), ("a", 8, 4)],
            &[true, false, true, false, true],
            "3 and 2",
        ),
    ] {
        assert_eq!(who_is_in(&in_views(Instant::now(), views)), expected, "{why}");
    }
}

#[test]
fn two_halves_that_count_the_same_view_are_told_apart_by_their_members() {
    let mut nodes = in_views(Instant::now(), &[("a", 8, 1), ("a", 8, 1)]);
    nodes[0].now.incoming = vec!["10.0.0.2:3306".into()];
    nodes[1].now.incoming = vec!["10.0.0.1:3306".into()];
    assert_eq!(who_is_in(&nodes), [false, true]);
}

#[test]
fn a_node_outside_says_where_it_is() {
    let nodes = in_views(Instant::now(), &[("a", 7, 2), ("a", 7, 2), ("a", 9, 1), ("b", 1, 1)]);
    let words = words(&verdicts(&nodes, &rules(Role::Any, Donor::Avoid)));
    assert_eq!(words[2], "out: another component than the majority's: view 9 of 1 nodes, not 7 of 2");
    assert_eq!(words[3], "out: another cluster than the majority's: b");
}

#[test]
fn while_a_new_view_spreads_nobody_is_left_behind_and_who_stays_behind_is() {
    let start = Instant::now();
    let mut nodes = in_views(start, &[("a", 8, 2), ("a", 7, 3), ("a", 7, 3)]);
    let appeared = start + LONG_AGO;
    nodes[0].view_since = appeared;
    for n in &mut nodes {
        n.at = appeared + GRACE;
    }
    assert_eq!(who_is_in(&nodes), [true; 3], "on their way");
    nodes[1].at = appeared + GRACE + Duration::from_millis(1);
    assert_eq!(who_is_in(&nodes), [true, false, true], "the second had its time");
    nodes[2].at = nodes[1].at;
    assert_eq!(who_is_in(&nodes), [false, true, true], "so had the third: it is the first that went astray");
}

#[test]
fn a_node_that_does_not_answer_has_no_vote() {
    let start = Instant::now();
    let nodes = in_views(start, &[("a", 7, 3), ("b", 7, 1), ("b", 7, 1)]);
    let of = |answers: [bool; 3]| {
        let node = |(s, answers)| Node { seen: Some(s).filter(|_| answers), wanted: true };
        let nodes: Vec<_> = nodes.iter().zip(answers).map(node).collect();
        judge(&nodes, &rules(Role::Any, Donor::Avoid)).iter().map(|v| *v == Verdict::In).collect::<Vec<_>>()
    };
    assert_eq!(of([true, true, true]), [false, true, true]);
    assert_eq!(of([true, false, false]), [true, false, false]);
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    /// Any state of a node, seen within `spread` of the others.
    fn seen(start: Instant, spread_ms: u64) -> impl Strategy<Value = Seen> {
        let status = prop_oneof![4 => Just("Primary"), 1 => Just("non-Primary")];
        let view = (prop_oneof![3 => Just("a"), 1 => Just("b")], 6u64..9, 1u32..4, 0u8..3);
        let flags = any::<(bool, bool, bool, bool)>();
        let state = prop_oneof![4 => Just(4u8), 1 => Just(2), 1 => 0u8..6];
        let times = (0..=spread_ms, 0..=spread_ms);
        (status, view, flags, state, times, any::<bool>()).prop_map(
            move |(status, view, flags, state, times, lags)| {
                let mut s = synced(start);
                s.now.cluster_status = status.into();
                (s.now.cluster_uuid, s.now.conf_id, s.now.cluster_size) = (view.0.into(), view.1, view.2);
                s.now.incoming = vec![format!("10.0.0.{}:3306", view.3)];
                s.now.state = state;
                // Faults are rarer than not, so that something is left to decide.
                s.now.ready = flags.0 || flags.1;
                s.now.read_only = flags.1 && flags.2;
                s.now.desync = flags.3;
                s.now.reject_queries = if flags.0 && flags.2 && flags.3 { "ALL" } else { "NONE" }.into();
                s.view_since = start + Duration::from_millis(times.0);
                s.at = s.view_since + Duration::from_millis(times.1);
                s.lags = lags;
                s
            },
        )
    }

    fn any_rules() -> impl Strategy<Value = Galera> {
        (0usize..3, 0usize..3).prop_map(|(role, donor)| {
            let role = [Role::Writer, Role::Reader, Role::Any][role];
            rules(role, [Donor::Avoid, Donor::Allow, Donor::AllowIfLast][donor])
        })
    }

    proptest! {
        /// The order in which nodes are listed, and so the one in which they were heard, changes nothing.
        #[test]
        fn verdicts_depend_on_no_order(
            nodes in prop::collection::vec((seen(Instant::now(), 5_000), any::<bool>()), 0..7),
            rules in any_rules(),
            turn in 0usize..7,
        ) {
            let of = |list: &[(Seen, bool)]| {
                let nodes: Vec<_> = list.iter().map(|(s, wanted)| Node { seen: Some(s), wanted: *wanted }).collect();
                judge(&nodes, &rules)
            };
            let plain = of(&nodes);
            let mut turned = nodes.clone();
            let turn = if nodes.is_empty() { 0 } else { turn % nodes.len() };
            turned.rotate_left(turn);
            turned.reverse();
            let mut back = of(&turned);
            back.reverse();
            back.rotate_right(turn);
            prop_assert_eq!(plain, back);
        }

        /// Once views had the time to spread, all that are in are in one view, and no other has more nodes.
        #[test]
        fn no_node_outside_of_the_majority_is_in(
            nodes in prop::collection::vec(seen(Instant::now(), 0), 0..7),
            rules in any_rules(),
        ) {
            let settled: Vec<Seen> = nodes
                .into_iter()
                .map(|s| Seen { at: s.view_since + GRACE + Duration::from_millis(1), ..s })
                .collect();
            let is_in: Vec<&Seen> = settled.iter().zip(verdicts(&settled, &rules))
                .filter(|(_, v)| *v == Verdict::In)
                .map(|(s, _)| s)
                .collect();
            let votes = |of: &Seen| settled.iter().filter(|s| s.now.is_primary() && view(&s.now) == view(&of.now)).count();
            let of_cluster = |uuid: &str| settled.iter().filter(|s| s.now.is_primary() && s.now.cluster_uuid == uuid).count();
            if let Some(first) = is_in.first() {
                for s in &is_in {
                    prop_assert_eq!(view(&s.now), view(&first.now));
                    prop_assert!(s.now.is_primary() && s.now.ready && s.now.reject_queries == "NONE");
                }
                for other in settled.iter().filter(|s| s.now.is_primary()) {
                    prop_assert!(of_cluster(&other.now.cluster_uuid) <= of_cluster(&first.now.cluster_uuid));
                    if other.now.cluster_uuid == first.now.cluster_uuid {
                        prop_assert!(votes(other) <= votes(first));
                    }
                }
            }
        }
    }
}
