//! Forwarding modes: a service's, a backend's own, and what a mode asks of its backends.

use super::*;
use crate::config::model::Mode;

/// A good file whose service and backend have these further lines.
fn with(service: &str, backend: &str) -> String {
    let text = minimal("", "");
    text.replace("[[service.db.backend]]", &format!("{service}\n[[service.db.backend]]\n{backend}"))
}

fn mode_of(service: &str, backend: &str) -> Mode {
    good(&with(service, backend)).config.services[0].backends[0].mode
}

fn refusal(service: &str, backend: &str) -> String {
    refusal_of(&with(service, backend))
}

fn refusal_of(text: &str) -> String {
    match parse(text, "viplb.toml", &around()) {
        Ok(_) => panic!("taken: {text}"),
        Err(report) => report.to_string(),
    }
}

#[test]
fn a_backend_has_its_services_mode_unless_it_has_one_of_its_own() {
    assert_eq!(mode_of("", ""), Mode::Nat);
    assert_eq!(mode_of("mode = \"dnat\"", ""), Mode::Dnat);
    assert_eq!(mode_of("mode = \"dnat\"", "mode = \"dsr\""), Mode::Dsr);
    assert_eq!(mode_of("mode = \"DR\"", ""), Mode::Dsr, "keepalived's word");
}

#[test]
fn keepaliveds_nat_is_answered_with_the_two_modes_that_it_might_mean() {
    let refused = refusal("mode = \"NAT\"", "");
    assert!(refused.contains("\"dnat\"") && refused.contains("\"nat\""), "{refused}");
    assert!(refusal("mode = \"tun\"", "").contains("offered: "));
    assert!(refusal("lb_kind = \"DR\"", "").contains("write `mode`"));
}

#[test]
fn dsr_translates_no_port() {
    let text = with("mode = \"dsr\"", "").replace("172.18.0.2\"", "172.18.0.2:3307\"");
    let report = refusal_of(&text);
    assert!(report.contains("172.18.0.2:3307 is not on port 3306"), "{report}");
    assert!(report.contains("write \"172.18.0.2:3306\""), "{report}");
    good(&text.replace("\"dsr\"", "\"dnat\""));
}
