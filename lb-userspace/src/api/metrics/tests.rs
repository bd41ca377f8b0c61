use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::api::snapshot::{Alarm, Node, Packets, VrrpThread, VrrpTimers};

fn snapshot() -> Snapshot {
    let track = |name: &str, state: &str, effect: &str| Track {
        name: name.into(),
        state: state.into(),
        effect: effect.into(),
        ..Track::default()
    };
    let router = Vrrp {
        name: "VI_1".into(),
        state: "Master".into(),
        priority: 101,
        effective_priority: 81,
        lease_valid: true,
        adverts_sent: 7,
        refused: BTreeMap::from([("wrong \"password\"".to_owned(), 2)]),
        timers: VrrpTimers { lease_left: 61.5, ..VrrpTimers::default() },
        tracks: vec![
            track("uplink", "bad", "fault"),
            track("load", "-20", "-20"),
            track("new", "unknown", "none"),
        ],
        lateness_max_ms: 9000.0,
        ..Vrrp::default()
    };
    let connect = Times {
        p50_ms: 0.048,
        p99_ms: 0.064,
        count: 3,
        sum_ms: 0.15,
        buckets: vec![(0.032, 0), (0.048, 2), (0.064, 1)],
    };
    let backend = Backend {
        name: "db1".into(),
        state: "up".into(),
        check_ms: Some(0.46),
        active: 7,
        limit: 500,
        connect: Some(connect),
        ..Backend::default()
    };
    let thread = VrrpThread { realtime: true, memory_locked: false, missing: vec!["why\nnot".into()] };
    let alarm =
        Alarm { kind: "two_owners".into(), router: "VI_1".into(), text: "172.18.0.8 advertises".into() };
    Snapshot {
        node: Node {
            name: "h1".into(),
            daemon: RUNNING.into(),
            vrrp_thread: Some(thread),
            ..Node::default()
        },
        vrrp: vec![router, Vrrp { name: "VI_2".into(), ..Vrrp::default() }],
        services: vec![Service { name: "mysql".into(), backends: vec![backend], ..Service::default() }],
        packets: vec![Packets { reason: "not-owner".into(), kind: "dropped".into(), count: 19 }],
        alarm_list: vec![alarm],
        ..Snapshot::default()
    }
}

/// A reader of the format that shares nothing with the writer: samples by name and labels, or what is wrong.
fn parse(text: &str) -> Result<BTreeMap<String, f64>, String> {
    let (mut samples, mut families) = (BTreeMap::new(), BTreeSet::new());
    let mut family = String::new();
    for line in text.lines() {
        let wrong = |why: &str| Err(format!("{why}: {line}"));
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let Some((name, kind)) = rest.split_once(' ') else { return wrong("no type") };
            if !families.insert(name.to_owned()) {
                return wrong("a family twice");
            }
            let known = matches!(kind, "gauge" | "counter" | "histogram");
            if !known || (kind == "counter") != name.ends_with("_total") {
                return wrong("type and name do not fit");
            }
            family = name.to_owned();
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let Some((series, value)) = line.rsplit_once(' ') else { return wrong("no value") };
        let (name, labels) = match series.split_once('{') {
            Some((name, rest)) => match rest.strip_suffix('}') {
                Some(labels) => (name, labels),
                None => return wrong("labels do not end"),
            },
            None => (series, ""),
        };
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let part = name.strip_prefix(family.as_str());
        let of_family = part.is_some_and(|part| matches!(part, "" | "_bucket" | "_sum" | "_count"));
        if !of_family || !name.chars().all(fits) {
            return wrong("outside of its family");
        }
        check_labels(labels).map_err(|why| format!("{why}: {line}"))?;
        let Ok(value) = value.parse() else { return wrong("no number") };
        if samples.insert(series.to_owned(), value).is_some() {
            return wrong("a series twice");
        }
    }
    Ok(samples)
}

fn check_labels(mut labels: &str) -> Result<(), &'static str> {
    while !labels.is_empty() {
        let (key, rest) = labels.split_once("=\"").ok_or("no label")?;
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
            return Err("a bad label name");
        }
        let mut end = None;
        let mut escaped = false;
        for (i, c) in rest.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => {
                    end = Some(i);
                    break;
                }
                _ => {}
            }
        }
        let after = &rest[end.ok_or("a value does not end")? + 1..];
        labels = if after.is_empty() { after } else { after.strip_prefix(',').ok_or("no comma")? };
    }
    Ok(())
}

#[test]
fn the_text_is_well_formed_and_says_what_the_snapshot_says() {
    let samples = parse(&render(&snapshot())).unwrap();
    for (series, value) in [
        ("viplb_up", 1.0),
        ("viplb_alarm{alarm=\"two_owners\",router=\"VI_1\"}", 1.0),
        ("viplb_vrrp_state{router=\"VI_1\",state=\"master\"}", 1.0),
        ("viplb_vrrp_state{router=\"VI_1\",state=\"backup\"}", 0.0),
        ("viplb_vrrp_lease_valid{router=\"VI_1\"}", 1.0),
        ("viplb_vrrp_lease_left_seconds{router=\"VI_1\"}", 0.0615),
        ("viplb_vrrp_priority{router=\"VI_1\"}", 101.0),
        ("viplb_vrrp_effective_priority{router=\"VI_1\"}", 81.0),
        ("viplb_vrrp_adverts_total{router=\"VI_1\",what=\"sent\"}", 7.0),
        ("viplb_vrrp_refused_total{router=\"VI_1\",reason=\"wrong \\\"password\\\"\"}", 2.0),
        ("viplb_vrrp_lateness_max_seconds{router=\"VI_1\",with_stalls=\"true\"}", 9.0),
        ("viplb_vrrp_thread{has=\"realtime\"}", 1.0),
        ("viplb_vrrp_thread{has=\"memory_locked\"}", 0.0),
        ("viplb_track_good{router=\"VI_1\",track=\"uplink\"}", 0.0),
        ("viplb_track_fault{router=\"VI_1\",track=\"uplink\"}", 1.0),
        ("viplb_track_value{router=\"VI_1\",track=\"load\"}", -20.0),
        ("viplb_service_backends{service=\"mysql\"}", 1.0),
        ("viplb_backend_up{service=\"mysql\",backend=\"db1\"}", 1.0),
        ("viplb_backend_connections{service=\"mysql\",backend=\"db1\"}", 7.0),
        ("viplb_backend_connections_limit{service=\"mysql\",backend=\"db1\"}", 500.0),
        ("viplb_backend_check_seconds{service=\"mysql\",backend=\"db1\"}", 0.00046),
        ("viplb_backend_connect_seconds_bucket{service=\"mysql\",backend=\"db1\",le=\"0.000032\"}", 0.0),
        ("viplb_backend_connect_seconds_bucket{service=\"mysql\",backend=\"db1\",le=\"0.000064\"}", 3.0),
        ("viplb_backend_connect_seconds_bucket{service=\"mysql\",backend=\"db1\",le=\"+Inf\"}", 3.0),
        ("viplb_backend_connect_seconds_sum{service=\"mysql\",backend=\"db1\"}", 0.00015),
        ("viplb_backend_connect_seconds_count{service=\"mysql\",backend=\"db1\"}", 3.0),
        ("viplb_packets_total{kind=\"dropped\",reason=\"not-owner\"}", 19.0),
    ] {
        assert_eq!(samples.get(series), Some(&value), "{series} in {samples:#?}");
    }
    assert!(!samples.contains_key("viplb_track_good{router=\"VI_1\",track=\"new\"}"), "not known yet");
}

#[test]
fn an_empty_snapshot_is_well_formed_too_and_has_no_empty_family() {
    let text = render(&Snapshot::default());
    parse(&text).unwrap();
    let types = text.lines().filter(|l| l.starts_with("# TYPE")).count();
    let helps = text.lines().filter(|l| l.starts_with("# HELP")).count();
    assert_eq!(types, helps);
    assert!(!text.contains("viplb_alarm"), "{text}");
}

#[test]
fn the_reader_of_this_test_finds_mistakes() {
    for bad in [
        "# TYPE a gauge\nb 1",
        "# TYPE a gauge\na{b=\"c} 1",
        "# TYPE a gauge\na one",
        "# TYPE a gauge\na 1\na 2",
        "# TYPE a counter\na 1",
        "# TYPE a gauge\na{b=\"c\"d=\"e\"} 1",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}
