//! Tables of what is left of a cluster, and the steps or the refusal that follow.

use super::{super::files::*, *};

const A: &str = "aaaaaaaa-6b3c-11f0-8000-0123456789ab";
const B: &str = "bbbbbbbb-6b3c-11f0-8000-0123456789ab";
const NONE: &str = "00000000-0000-0000-0000-000000000000";

fn node(name: &str) -> Collected {
    Collected { name: name.into(), ..Collected::default() }
}

/// Stopped in order at `seqno`; `safe`: as the last.
fn stopped(name: &str, seqno: i64, safe: bool) -> Collected {
    let grastate = Grastate { uuid: A.into(), seqno, safe_to_bootstrap: safe };
    Collected { grastate: Some(grastate), ..node(name) }
}

/// Crashed out of view `number` with these members, by first letters of their identities; its own is that of its name.
fn crashed(name: &str, recovered: Option<i64>, number: u64, members: &str) -> Collected {
    let id = |c: char| format!("{}-0000-11f0-8000-000000000000", c.to_string().repeat(8));
    let view = LastView {
        my_uuid: id(name.chars().next_back().unwrap()),
        view_id: format!("3 {} {number}", id('1')),
        number,
        members: members.chars().map(id).collect(),
    };
    Collected {
        grastate: Some(Grastate { uuid: A.into(), seqno: -1, safe_to_bootstrap: false }),
        view: (number > 0).then_some(view),
        recovered: recovered.map(|seqno| Position { uuid: A.into(), seqno }),
        ..node(name)
    }
}

fn running(name: &str, status: Option<&str>, seqno: i64) -> Collected {
    Collected {
        running: true,
        cluster_status: status.map(str::to_owned),
        committed: Some(Position { uuid: A.into(), seqno }),
        ..crashed(name, None, 3, "123")
    }
}

/// `bootstrap db1; start db2; start db3`, or `refused: REASON`.
fn told(nodes: &[Collected], expected: Option<usize>, force: bool) -> String {
    let step = |s: &Step| {
        let action = serde_json::to_value(s.action).unwrap();
        format!("{} {}", action.as_str().unwrap(), s.nodes.join("+"))
    };
    match plan(nodes, expected, force) {
        Ok(plan) => plan.steps.iter().map(step).collect::<Vec<_>>().join("; "),
        Err(refusal) => format!("refused: {}", refusal.reasons.join("; ")),
    }
}

#[test]
fn a_cluster_stopped_in_order_is_bootstrapped_at_the_node_that_left_last() {
    for (nodes, expected) in [
        (
            vec![stopped("db1", 12, true), stopped("db2", 10, false), stopped("db3", 11, false)],
            "bootstrap db1; start db3; start db2",
        ),
        (vec![stopped("db1", 12, false), stopped("db2", 12, true)], "bootstrap db2; start db1"),
        (vec![stopped("db1", 7, true)], "bootstrap db1"),
        (vec![stopped("db1", 9, true), stopped("db2", 10, true)], "bootstrap db2; start db1"),
    ] {
        assert_eq!(told(&nodes, None, false), expected);
    }
    // The mark is not believed against the numbers.
    let nodes = [stopped("db1", 9, true), stopped("db2", 10, false)];
    assert_eq!(told(&nodes, Some(2), false), "mark-safe db2; bootstrap db2; start db1");
    let behind = plan(&nodes, Some(2), false).unwrap();
    assert_eq!(
        behind.notes,
        ["db1 is marked safe_to_bootstrap, but lacks transactions up to 10: it is not the one"]
    );
}

#[test]
fn a_cluster_that_crashed_out_of_one_view_forms_it_again_by_itself() {
    let nodes = [
        crashed("db1", Some(5), 3, "123"),
        crashed("db2", Some(7), 3, "123"),
        crashed("db3", None, 3, "123"),
    ];
    assert_eq!(
        told(&nodes[..2], Some(2), false),
        "refused: the last view had 1 members of which nothing was collected"
    );
    let known = [nodes[0].clone(), nodes[1].clone(), crashed("db3", Some(7), 3, "123")];
    assert_eq!(told(&known, None, false), "start db1+db2+db3");
    assert_eq!(
        told(&nodes, None, false),
        "refused: db3 ended without writing its position, and none was recovered"
    );
}

#[test]
fn else_the_node_with_the_latest_transaction_is_first_and_of_equals_the_one_named_first() {
    for (nodes, expected) in [
        (
            vec![
                crashed("db1", Some(5), 0, ""),
                crashed("db2", Some(9), 0, ""),
                crashed("db3", Some(9), 0, ""),
            ],
            "mark-safe db2; bootstrap db2; start db3; start db1",
        ),
        // The last survivor was killed; the others had left in order.
        (
            vec![stopped("db1", 5, false), stopped("db2", 6, false), crashed("db3", Some(9), 5, "3")],
            "mark-safe db3; bootstrap db3; start db2; start db1",
        ),
        // One crashed a week ago and remembers what is long past.
        (
            vec![crashed("db1", Some(5), 3, "145"), stopped("db2", 60, true), stopped("db3", 59, false)],
            "bootstrap db2; start db3; start db1",
        ),
        (
            vec![
                crashed("db1", Some(5), 3, "123"),
                crashed("db2", Some(8), 4, "23"),
                crashed("db3", Some(8), 4, "23"),
            ],
            "mark-safe db2; bootstrap db2; start db3; start db1",
        ),
    ] {
        let remembered = nodes.iter().any(|n| n.view.is_some());
        assert_eq!(told(&nodes, (!remembered).then_some(3), false), expected);
    }
    let forgotten = [crashed("db1", Some(5), 0, ""), crashed("db2", Some(9), 0, "")];
    assert_eq!(
        told(&forgotten, None, false),
        "refused: nothing here tells whether these are all: no last view, and no last to leave"
    );
}

#[test]
fn nothing_is_bootstrapped_beside_a_living_primary_component_not_even_by_force() {
    for force in [false, true] {
        let nodes = [running("db1", Some("Primary"), 9), stopped("db2", 9, true), stopped("db3", 8, false)];
        let refusal = plan(&nodes, None, force).unwrap_err();
        assert_eq!(refusal.reasons, ["db1 is in a primary component: a second one would split the cluster"]);
        assert_eq!(refusal.instead, ["start the others as always, one after the other: db2, db3"]);
        assert!(!refusal.can_be_forced);
        let silent = [running("db1", None, 9), stopped("db2", 9, true)];
        assert_eq!(
            told(&silent, None, force),
            "refused: db1 is running and not telling its state: it may be primary"
        );
    }
}

#[test]
fn survivors_without_a_quorum_are_made_primary_where_they_run() {
    let nodes = [
        running("db1", Some("non-Primary"), 8),
        running("db2", Some("non-Primary"), 9),
        crashed("db3", Some(7), 3, "123"),
    ];
    assert_eq!(told(&nodes, None, false), "make-primary db2; start db3");
    let later = [running("db1", Some("non-Primary"), 8), crashed("db2", Some(9), 3, "12")];
    assert!(told(&later, None, true).starts_with("refused: a stopped node has transactions up to 9"));
}

#[test]
fn what_could_cost_transactions_is_refused_and_named_when_forced() {
    let foreign = Collected {
        grastate: Some(Grastate { uuid: B.into(), seqno: 500, safe_to_bootstrap: true }),
        ..node("db3")
    };
    let two = [stopped("db1", 12, true), stopped("db2", 12, false)];
    for (third, expected, reason, steps, loss) in [
        (
            Some(foreign),
            None,
            format!("refused: db3 was in another cluster: {B}, not {A}"),
            "bootstrap db1; start db2; start db3",
            "transactions 1..500 of db3, whose data are replaced by a full copy",
        ),
        (
            None,
            Some(3),
            "refused: 1 of 3 nodes are missing".to_owned(),
            "bootstrap db1; start db2",
            "transactions after 12 that only a missing node has",
        ),
        (
            Some(crashed("db3", None, 0, "")),
            None,
            "refused: db3 ended without writing its position, and none was recovered".to_owned(),
            "bootstrap db1; start db2; start db3",
            "transactions after 12 that only db3 has",
        ),
        (
            Some(node("db3")),
            None,
            "refused: db3: nothing is known of it: there is no grastate.dat".to_owned(),
            "bootstrap db1; start db2; start db3",
            "transactions after 12 that only db3 has",
        ),
    ] {
        let nodes: Vec<_> = two.iter().cloned().chain(third).collect();
        assert_eq!(told(&nodes, expected, false), reason);
        let forced = plan(&nodes, expected, true).unwrap();
        assert_eq!(told(&nodes, expected, true), steps);
        assert_eq!(forced.losses, [loss]);
    }
}

#[test]
fn when_the_last_to_leave_is_missing_that_shows_without_being_told_how_many_there_are() {
    let nodes = [stopped("db1", 12, false), stopped("db2", 11, false)];
    assert_eq!(
        told(&nodes, None, false),
        "refused: all were stopped in order, and none of them was the last to leave"
    );
    assert_eq!(told(&nodes, None, true), "mark-safe db1; bootstrap db1; start db2");
}

#[test]
fn a_node_that_never_was_a_member_gets_a_full_copy_and_costs_nothing() {
    let fresh = Collected {
        grastate: Some(Grastate { uuid: NONE.into(), seqno: -1, safe_to_bootstrap: false }),
        ..node("db2")
    };
    let plan = plan(&[stopped("db1", 12, true), fresh.clone()], None, false).unwrap();
    assert_eq!(plan.steps[1].why, "it gets a full copy, which blocks or slows its donor");
    assert!(told(&[fresh], None, true).starts_with("refused: no node has ever been in a cluster"));
}

#[test]
fn each_start_says_what_will_be_transferred() {
    let nodes = [stopped("db1", 12, true), stopped("db2", 12, false), stopped("db3", 10, false)];
    let whys: Vec<_> = plan(&nodes, None, false).unwrap().steps.into_iter().map(|s| s.why).collect();
    assert_eq!(whys[0], "it was the last to leave and has every transaction, up to 12");
    assert_eq!(whys[1], "it has every transaction: next to nothing is transferred");
    assert!(whys[2].starts_with("it lacks transactions 11..12: an incremental transfer if"), "{}", whys[2]);
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    fn any_node(i: usize) -> impl Strategy<Value = Collected> {
        let name = format!("db{}", i + 1);
        let seqno = 0i64..6;
        prop_oneof![
            (seqno.clone(), any::<bool>()).prop_map({
                let name = name.clone();
                move |(seqno, safe)| stopped(&name, seqno, safe)
            }),
            (prop::option::of(seqno.clone()), 0u64..3).prop_map({
                let name = name.clone();
                move |(seqno, view)| crashed(&name, seqno, view, "123")
            }),
            (seqno, prop::sample::select(vec![Some("Primary"), Some("non-Primary"), None]))
                .prop_map(move |(seqno, status)| running(&name, status, seqno)),
        ]
    }

    proptest! {
        /// Whatever is left: nobody is bootstrapped beside a primary node, whoever is first has the latest known
        /// transaction, every stopped node is started once, and without force nothing is lost.
        #[test]
        fn no_plan_loses_or_splits(
            nodes in (any_node(0), any_node(1), any_node(2)).prop_map(|(a, b, c)| vec![a, b, c]),
            force in any::<bool>(),
        ) {
            let Ok(plan) = plan(&nodes, None, force) else { return Ok(()) };
            prop_assert!(nodes.iter().all(|n| n.cluster_status.as_deref() != Some("Primary")));
            prop_assert!(force || plan.losses.is_empty());
            let last = highest(&nodes, A);
            let mut started: Vec<&String> = Vec::new();
            for step in &plan.steps {
                let of = |name: &String| nodes.iter().find(|n| n.name == *name).unwrap();
                match step.action {
                    Action::Bootstrap | Action::MakePrimary => {
                        prop_assert_eq!(seqno_in(of(&step.nodes[0]), A), Some(last));
                        prop_assert_eq!(step.action == Action::MakePrimary, of(&step.nodes[0]).running);
                    }
                    Action::MarkSafe => continue,
                    Action::Start => {}
                }
                started.extend(step.nodes.iter().filter(|name| !of(name).running));
            }
            started.sort();
            let stopped: Vec<&String> = nodes.iter().filter(|n| !n.running).map(|n| &n.name).collect();
            prop_assert_eq!(started, stopped);
        }
    }
}
