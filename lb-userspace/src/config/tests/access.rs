//! Who may connect to a service, and how fast.

use super::*;
use crate::config::model::{Access, DenyAction, Rate};

/// A good file whose service has these further lines.
fn with(service: &str) -> String {
    minimal("", "").replace("[[service.db.backend]]", &format!("{service}\n[[service.db.backend]]"))
}

fn access(lines: &str) -> Access {
    good(&with(lines)).config.services.remove(0).access
}

fn refusal(lines: &str) -> String {
    match parse(&with(lines), "viplb.toml", &around()) {
        Ok(_) => panic!("taken: {lines}"),
        Err(report) => report.to_string(),
    }
}

#[test]
fn everybody_may_connect_unless_lists_say_otherwise() {
    assert_eq!(access(""), Access::default());
    let a = access(
        "allow = [\"10.0.0.0/8\", \"fd00::/8\", \"172.18.0.9\"]\ndeny = [\"10.1.0.0/16\"]\ndeny_action = \"reset\"",
    );
    let bits: Vec<_> = a.allow.iter().chain(&a.deny).map(|p| p.bits()).collect();
    assert_eq!(bits, [104, 8, 128, 112]);
    assert_eq!(a.deny_action, DenyAction::Reset);
}

#[test]
fn prefixes_that_are_none_or_contradict_each_other_are_refused() {
    assert!(refusal("allow = [\"10.1.0.0/8\"]").contains("write \"10.0.0.0/8\""));
    assert!(refusal("deny = [\"fd00::1/64\"]").contains("write \"fd00::/64\""));
    for text in ["10.0.0.0/33", "fd00::/129", "10.0.0/8", "any", "10.0.0.0/x"] {
        assert!(refusal(&format!("allow = [\"{text}\"]")).contains("is no prefix"), "{text}");
    }
    assert!(refusal("allow = [\"10.0.0.0/8\"]\ndeny = [\"10.0.0.0/8\"]").contains("is allowed and denied"));
    assert!(refusal("deny = [\"10.0.0.0/8\", \"10.0.0.0/8\"]").contains("is named twice"));
    assert!(refusal("allow = []").contains("nobody could connect"));
    assert!(refusal("deny_action = \"reject\"").contains("offered: \"drop\", \"reset\""));
    assert!(good(&with("deny_action = \"drop\"")).warnings.to_string().contains("`deny_action` has no use"));
}

#[test]
fn a_clients_limit_is_a_rate_or_a_number_with_defaults_for_the_rest() {
    let limit = |text: &str| access(&format!("client_limit = {{ {text} }}")).client_limit.expect("a limit");
    let l = limit("rate = \"100/s\"");
    let rate = |count, seconds, burst| Some(Rate { count, seconds, burst });
    assert_eq!((l.rate, l.connections, l.prefix_v4, l.prefix_v6), (rate(100, 1, 100), 0, 32, 64));
    let l = limit("rate = \"30/m\", burst = 5, prefix_v4 = 24, prefix_v6 = 56");
    assert_eq!((l.rate, l.prefix_v4, l.prefix_v6), (rate(30, 60, 5), 24, 56));
    assert_eq!(limit("rate = \"30/m\"").rate, rate(30, 60, 1));
    let l = limit("connections = 20, prefix_v4 = 0");
    assert_eq!((l.rate, l.connections, l.prefix_v4), (None, 20, 0));
    for rate in ["100", "0/s", "100/h", "2000000/s", "x/s"] {
        assert!(refusal(&format!("client_limit = {{ rate = \"{rate}\" }}")).contains("is no rate"), "{rate}");
    }
    assert!(refusal("client_limit = { burst = 3 }").contains("`rate` is missing"));
    assert!(refusal("client_limit = { connections = 0 }").contains("must be 1 to"));
    let idle = good(&with("client_limit = { connections = 3, burst = 2 }")).warnings.to_string();
    assert!(idle.contains("`burst` has no use without `rate`"), "{idle}");
    assert!(refusal("client_limit = { rate = \"1/s\", prefix_v4 = 33 }").contains("must be 0 to 32"));
}
