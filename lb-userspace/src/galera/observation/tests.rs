use std::time::Duration;

use super::*;
use crate::config::model::{Donor, Failback, Role};

fn rules(max_receive_queue: Option<u32>, max_flow_control: Option<u8>) -> Galera {
    Galera {
        role: Role::Any,
        failback: Failback::Never,
        donor: Donor::Avoid,
        max_receive_queue,
        max_flow_control,
    }
}

fn of(rows: &[(&str, &str)]) -> Observation {
    let mut o = Observation::default();
    for (name, value) in rows {
        o.take(name, value);
    }
    o
}

#[test]
fn the_rows_of_a_synced_node_are_read() {
    let o = of(&[
        ("wsrep_cluster_status", "Primary"),
        ("wsrep_cluster_state_uuid", "9C2E3A0E-6B3C-11F0-8000-000000000000"),
        ("wsrep_cluster_conf_id", "12"),
        ("wsrep_cluster_size", "3"),
        ("wsrep_incoming_addresses", "172.18.0.4:3306,172.18.0.2:3306,,AUTO"),
        ("wsrep_local_index", "1"),
        ("wsrep_last_committed", "4711"),
        ("wsrep_ready", "ON"),
        ("read_only", "OFF"),
        ("super_read_only", "ON"),
        ("wsrep_desync", "OFF"),
        ("wsrep_reject_queries", "NONE"),
        ("Unknown_variable", "17"),
    ]);
    assert!(o.is_galera() && o.is_primary() && o.ready && o.read_only && !o.desync);
    assert_eq!((o.conf_id, o.cluster_size, o.local_index, o.last_committed), (12, 3, 1, 4711));
    assert_eq!(o.cluster_uuid, "9c2e3a0e-6b3c-11f0-8000-000000000000");
    assert_eq!(o.incoming, ["172.18.0.2:3306", "172.18.0.4:3306"]);
}

#[test]
fn outside_of_a_primary_component_numbers_are_all_ones_and_no_node_is_first_by_them() {
    let o = of(&[
        ("wsrep_cluster_status", "non-Primary"),
        ("wsrep_cluster_conf_id", "18446744073709551615"),
        ("wsrep_local_index", "18446744073709551615"),
    ]);
    assert!(o.is_galera() && !o.is_primary());
    assert_eq!((o.conf_id, o.local_index), (u64::MAX, u32::MAX));
}

#[test]
fn a_server_without_wsrep_is_no_galera_node() {
    assert!(!of(&[("read_only", "OFF"), ("max_connections", "151")]).is_galera());
}

#[test]
fn a_long_queue_lags_until_it_is_half_as_long() {
    let rules = rules(Some(100), None);
    let start = Instant::now();
    let mut seen = None;
    let lags: Vec<_> = [100, 101, 80, 51, 50, 100, 101]
        .iter()
        .map(|queue| {
            let o = of(&[("wsrep_local_recv_queue", &queue.to_string())]);
            seen = Some(Seen::next(seen.as_ref(), o, start, &rules));
            seen.as_ref().unwrap().lags
        })
        .collect();
    assert_eq!(lags, [false, true, true, true, false, false, true]);
}

#[test]
fn a_node_that_has_the_cluster_paused_lags_and_one_that_is_only_paused_does_not() {
    let rules = rules(None, Some(30));
    let start = Instant::now();
    let at = |paused_ms: u64, sent: u64| {
        of(&[
            ("wsrep_flow_control_paused_ns", &(paused_ms * 1_000_000).to_string()),
            ("wsrep_flow_control_sent", &sent.to_string()),
        ])
    };
    let first = Seen::next(None, at(1_000, 5), start, &rules);
    let second = |o| Seen::next(Some(&first), o, start + Duration::from_secs(1), &rules);
    assert_eq!((second(at(1_400, 6)).paused_percent, second(at(1_400, 6)).lags), (40, true));
    assert!(!second(at(1_400, 5)).lags, "another node asked for it");
    assert!(!second(at(1_200, 6)).lags, "20 %");
    assert!(!second(at(0, 0)).lags, "restarted: counters begin anew");
}

#[test]
fn a_view_is_as_old_as_its_first_sight_and_no_older_than_the_way_back_into_it() {
    let rules = rules(None, None);
    let start = Instant::now();
    let after = |s| start + Duration::from_secs(s);
    let view =
        |status: &str, conf: &str| of(&[("wsrep_cluster_status", status), ("wsrep_cluster_conf_id", conf)]);
    let mut seen = Seen::next(None, view("Primary", "4"), start, &rules);
    let mut since = |o, s| {
        seen = Seen::next(Some(&seen), o, after(s), &rules);
        (seen.view_since - start).as_secs()
    };
    assert_eq!(since(view("Primary", "4"), 1), 0);
    assert_eq!(since(view("Primary", "5"), 2), 2);
    assert_eq!(since(view("Primary", "5"), 3), 2);
    assert_eq!(since(view("non-Primary", "5"), 4), 4);
    assert_eq!(since(view("Primary", "5"), 5), 5);
}

proptest::proptest! {
    #[test]
    fn no_rows_break_it(rows in proptest::collection::vec((0usize..24, r"\PC{0,300}"), 0..64)) {
        let names: Vec<_> = STATUS_NAMES.iter().chain(VARIABLE_NAMES).copied().chain(["", "x"]).collect();
        let mut o = Observation::default();
        for (name, value) in &rows {
            o.take(names[name % names.len()], value);
        }
        assert!(o.incoming.len() <= MOST_ADDRESSES && o.cluster_status.chars().count() <= 161);
    }
}
