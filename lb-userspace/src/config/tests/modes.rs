//! Forwarding modes: a service's, a backend's own, and what a mode asks of its backends.

use super::*;
use crate::config::model::{Mode, Mss, PathOptions};

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

#[test]
fn a_tunnel_leads_to_backends_of_either_family_on_the_services_port() {
    assert_eq!(mode_of("mode = \"tunnel\"", ""), Mode::Tunnel);
    assert_eq!(mode_of("mode = \"TUN\"", ""), Mode::Tunnel, "keepalived's word");
    let text = with("mode = \"tunnel\"", "").replace("172.18.0.2\"", "fd12::2\"");
    assert_eq!(good(&text).config.services[0].backends[0].addr, "[fd12::2]:3306".parse().unwrap());
    let report = refusal_of(&with("mode = \"tunnel\"", "").replace("172.18.0.2\"", "172.18.0.2:3307\""));
    assert!(report.contains("172.18.0.2:3307 is not on port 3306"), "{report}");
}

#[test]
fn families_meet_by_nat_and_not_where_the_packet_keeps_its_own() {
    let mixed = |mode: &str| with(&format!("mode = \"{mode}\""), "").replace("172.18.0.2\"", "fd12::2\"");
    good(&mixed("nat"));
    for mode in ["dnat", "dsr"] {
        let report = refusal_of(&mixed(mode));
        assert!(report.contains("fd12::2 is of another family than `listen`"), "{report}");
    }
}

#[test]
fn packet_sizes_are_those_written_or_what_fits() {
    let path = |service: &str| good(&with(service, "")).config.services[0].path;
    assert_eq!(path(""), PathOptions::default());
    assert_eq!(path("mss = 1400").mss, Mss::AtMost(1400));
    assert_eq!(path("mss_clamp = true").mss, Mss::Fitting);
    assert_eq!(path("mss_clamp = false").mss, Mss::Unchanged);
    let tunnel = path("mode = \"tunnel\"\ntunnel_mtu = 1400\ntunnel_source = \"172.18.0.7\"");
    assert_eq!((tunnel.tunnel_mtu, tunnel.tunnel_source), (Some(1400), Some("172.18.0.7".parse().unwrap())));
    assert!(refusal("mss = 1400\nmss_clamp = false", "").contains("remove one of the two"));
    assert!(refusal("mode = \"tunnel\"\ntunnel_source = \"172.18.0.201\"", "").contains("virtual address"));
    let idle = good(&with("tunnel_mtu = 1400", "")).warnings.to_string();
    assert!(idle.contains("`tunnel_mtu` has no use without"), "{idle}");
}
