//! Sources, source ports and time-outs of a service's connections.

use std::time::Duration;

use super::*;
use crate::config::model::{Service, Timeouts};

/// A good file whose service has these further lines.
fn with(service: &str) -> String {
    minimal("", "").replace("[[service.db.backend]]", &format!("{service}\n[[service.db.backend]]"))
}

fn service(lines: &str) -> Service {
    good(&with(lines)).config.services.remove(0)
}

fn refusal(text: &str) -> String {
    match parse(text, "viplb.toml", &around()) {
        Ok(_) => panic!("taken: {text}"),
        Err(report) => report.to_string(),
    }
}

#[test]
fn backends_see_the_services_own_address_unless_others_are_named() {
    let own = service("");
    assert_eq!(own.snat, [own.listen.first.ip()]);
    let named = service("snat = [\"10.0.0.5\", \"fd00::5\"]");
    assert_eq!(named.snat, ["10.0.0.5".parse::<std::net::IpAddr>().unwrap(), "fd00::5".parse().unwrap()]);
}

#[test]
fn sources_that_cannot_be_are_refused() {
    let nine = (1..10).map(|i| format!("\"10.0.0.{i}\"")).collect::<Vec<_>>().join(", ");
    assert!(
        refusal(&with(&format!("snat = [{nine}]")))
            .contains("`snat` names 9 addresses, but must name 1 to 8")
    );
    assert!(refusal(&with("snat = []")).contains("must name 1 to 8"));
    assert!(refusal(&with("snat = [\"10.0.0.5\", \"10.0.0.5\"]")).contains("10.0.0.5 is named twice"));
    assert!(refusal(&with("snat = [\"db1\"]")).contains("^"));
    let other = "[vrrp.other]\ninterface = \"eth1\"\nvirtual_router_id = 9\npriority = 7\nvirtual_ipaddress = [\"10.9.9.9\"]\n";
    let moves = refusal(&(with("snat = [\"10.9.9.9\"]") + other));
    assert!(
        moves.contains("10.9.9.9 moves with the virtual router `other`, the service does not"),
        "{moves}"
    );
    let idle = good(&with("mode = \"dsr\"\nsnat = [\"10.0.0.5\"]")).warnings.to_string();
    assert!(idle.contains("`snat` has no use"), "{idle}");
}

#[test]
fn time_outs_are_the_defaults_but_for_those_that_are_written() {
    assert_eq!(service("").timeouts, Timeouts::default());
    let t = service(
        "timeouts = { established = \"12h\", half_open = \"10s\", closing = \"5s\", closed = \"1s\" }",
    )
    .timeouts;
    let s = Duration::from_secs;
    assert_eq!((t.established, t.half_open, t.closing, t.closed), (s(12 * 3600), s(10), s(5), s(1)));
    assert_eq!((t.unanswered, t.udp), (s(30), s(180)));
    let udp = "protocol = \"udp\"\ntimeouts = { half_open = \"10s\", udp = \"1h\" }";
    let udp = with(udp).replace("type = \"mysql\"\nuser = \"m\"", "type = \"tcp\"");
    let t = good(&udp).config.services[0].timeouts;
    assert_eq!((t.unanswered, t.udp), (s(10), s(3600)));
}

#[test]
fn time_outs_out_of_bounds_are_refused_and_foreign_words_answered() {
    for (key, value, bounds) in [
        ("established", "10s", "1m to 30d"),
        ("established", "31d", "1m to 30d"),
        ("half_open", "1s", "4s to 10m"),
        ("closing", "11m", "1s to 10m"),
        ("closed", "0s", "1s to 10m"),
        ("udp", "25h", "1s to 1d"),
    ] {
        let refused = refusal(&with(&format!("timeouts = {{ {key} = \"{value}\" }}")));
        assert!(refused.contains(&format!("but must be {bounds}")), "{refused}");
    }
    assert!(refusal(&with("timeouts = { client = \"50s\" }")).contains("write `established`"));
    assert!(refusal(&with("timeouts = { established = 50 }")).contains("needs a unit"));
    assert!(refusal(&with("timeouts = \"50s\"")).contains("`timeouts` must be a table"));
    let idle = good(&with("timeouts = { udp = \"50s\" }")).warnings.to_string();
    assert!(idle.contains("`udp` has no use in a TCP service"), "{idle}");
}

#[test]
fn source_ports_are_a_range_of_unprivileged_ones() {
    let node = |range: &str| format!("[node]\nsnat_ports = \"{range}\"\n{}", minimal("", ""));
    assert_eq!(good(&node("40000-40063")).config.node.snat_ports, Some((40_000, 40_063)));
    assert_eq!(good(&minimal("", "")).config.node.snat_ports, None);
    assert!(refusal(&node("80-4000")).contains("begins below 1024"));
    assert!(refusal(&node("5000-4000")).contains("write \"4000-5000\""));
    for range in ["", "4000", "4000-70000", "a-b"] {
        assert!(refusal(&node(range)).contains("is no range of ports"), "{range}");
    }
}
