//! Services beyond one port of a virtual address: several ports, the node's own addresses, the node's own stack.

use super::*;
use crate::config::model::{Mode, Service};

/// A good file whose service listens at `listen`, with further lines for service, backend and check.
fn with(listen: &str, service: &str, backend: &str, check: &str) -> String {
    let text = minimal("", check);
    let text = text.replace("\"172.18.0.201:3306\"", &format!("\"{listen}\""));
    text.replace("[[service.db.backend]]", &format!("{service}\n[[service.db.backend]]\n{backend}"))
}

fn taken(text: &str) -> Service {
    good(text).config.services[0].clone()
}

fn refusal(text: &str) -> String {
    match parse(text, "viplb.toml", &around()) {
        Ok(_) => panic!("taken: {text}"),
        Err(report) => report.to_string(),
    }
}

#[test]
fn a_service_may_listen_on_a_range_or_on_all_ports() {
    let several = taken(&with("172.18.0.201:30000-30100", "", "", ""));
    assert_eq!((several.listen.first.port(), several.listen.last), (30_000, Some(30_100)));
    assert_eq!(several.listen.to_string(), "172.18.0.201:30000-30100");
    assert!(several.backends[0].keeps_port);
    assert_eq!(several.backends[0].addr.port(), 30_000, "where the check goes");
    let all = taken(&with("172.18.0.201:*", "", "", "port = 9"));
    assert_eq!((all.listen.first.port(), all.listen.last), (0, Some(65_535)));
    assert_eq!(all.listen.to_string(), "172.18.0.201:*");
    let one = taken(&with("172.18.0.201:3306", "", "", ""));
    assert!(!one.backends[0].keeps_port && one.listen.last.is_none());
}

#[test]
fn ranges_that_are_none_are_refused() {
    for listen in
        ["172.18.0.201:9-8", "172.18.0.201:0-8", "172.18.0.201:1-65536", "172.18.0.201:1-", "172.18.0.201-4"]
    {
        let report = refusal(&with(listen, "", "", ""));
        assert!(report.contains("bad range of ports"), "{listen}: {report}");
    }
    let report = refusal(&with("172.18.0.201:*", "", "", ""));
    assert!(report.contains("no port to check"), "{report}");
}

#[test]
fn two_ranges_must_not_overlap_but_a_narrower_service_may_lie_within() {
    let two = |a: &str, b: &str| {
        let text = with(a, "", "", "port = 9");
        let at = text.find("[service.db]").unwrap();
        let second = text[at..].replace("service.db", "service.other").replace(a, b);
        text + "\n" + &second
    };
    let report = refusal(&two("172.18.0.201:100-200", "172.18.0.201:200-300"));
    assert!(report.contains("172.18.0.201:200-300 overlaps [service.db]"), "{report}");
    good(&two("172.18.0.201:100-200", "172.18.0.201:201-300"));
    good(&two("172.18.0.201:100-200", "172.18.0.201:150"));
    good(&two("172.18.0.201:*", "172.18.0.201:100-200"));
}

#[test]
fn a_service_on_the_nodes_own_address_says_that_it_is_under_no_lease() {
    let own = taken(&with("172.18.0.7:3306", "lease = false", "", ""));
    assert_eq!(own.router, None);
    let report = refusal(&with("172.18.0.7:3306", "", "", ""));
    assert!(report.contains("belongs to no virtual router") && report.contains("lease = false"), "{report}");
    let report = refusal(&with("172.18.0.201:3306", "lease = false", "", ""));
    assert!(report.contains("is a virtual address"), "{report}");
    let report = refusal(&with("172.18.0.7:*", "lease = false", "", "port = 9"));
    assert!(report.contains("nobody could reach the node any more"), "{report}");
}

#[test]
fn without_a_virtual_router_a_file_needs_a_service_on_an_own_address() {
    let text = with("172.18.0.7:3306", "lease = false", "", "");
    let from = text.find("[vrrp.").unwrap();
    let to = text.find("[service.").unwrap();
    let without = format!("{}{}", &text[..from], &text[to..]);
    assert!(good(&without).config.vrrp.is_empty());
    let report = refusal(&without.replace("lease = false", ""));
    assert!(report.contains("there is no virtual router"), "{report}");
}

#[test]
fn what_this_node_serves_itself_may_be_checked_on_its_loopback() {
    let local = |listen: &str, address: &str, mode: &str| {
        with(listen, mode, "", "").replace("\"172.18.0.2\"", &format!("\"{address}\""))
    };
    let backend = taken(&local("172.18.0.201:8888", "127.0.0.1", "mode = \"local\"")).backends[0].clone();
    assert_eq!((backend.mode, backend.addr.to_string().as_str()), (Mode::Local, "127.0.0.1:8888"));
    let report = refusal(&local("172.18.0.201:8888", "127.0.0.1", ""));
    assert!(report.contains("is a loopback address"), "{report}");
    let report = refusal(&local("172.18.0.201:8888", "127.0.0.1:80", "mode = \"local\""));
    assert!(report.contains("127.0.0.1:80 is not on port 8888"), "{report}");
    let report = refusal(&local("172.18.0.201:80-90", "127.0.0.1:80", "mode = \"local\""));
    assert!(report.contains("is one port for several"), "{report}");
}
