//! `unknown`: where a new owner can go on with connections that it does not know, and the words where it cannot.

use super::*;
use crate::config::model::Unknown;

fn with(service: &str) -> String {
    minimal("", "").replace("[[service.db.backend]]", &format!("{service}\n[[service.db.backend]]"))
}

fn refusal(text: &str) -> String {
    match parse(text, "viplb.toml", &around()) {
        Ok(_) => panic!("taken: {text}"),
        Err(report) => report.to_string(),
    }
}

#[test]
fn connections_are_reset_unless_the_service_adopts_them() {
    let of = |lines: &str| good(&with(lines)).config.services[0].unknown;
    assert_eq!(of(""), Unknown::Reset);
    assert_eq!(of("unknown = \"reset\""), Unknown::Reset);
    for scheduler in ["sh", "dh", "mh", "fo"] {
        for mode in ["nat", "dnat", "dsr", "tunnel"] {
            let lines = format!("unknown = \"adopt\"\nscheduler = \"{scheduler}\"\nmode = \"{mode}\"");
            assert_eq!(of(&lines), Unknown::Adopt, "{lines}");
        }
    }
}

#[test]
fn adoption_is_refused_where_the_backend_or_the_port_could_not_be_the_right_one() {
    for (lines, words) in [
        ("unknown = \"adopt\"", "cannot be with `scheduler = \"rr\"`"),
        ("unknown = \"adopt\"\nscheduler = \"lc\"", "choose \"sh\", \"dh\", \"mh\" or \"fo\""),
        ("unknown = \"adopt\"\nscheduler = \"sh\"\npersistence_timeout = 60", "persistence_timeout"),
        ("unknown = \"adopt\"\nscheduler = \"mh\"\nprotocol = \"udp\"", "no use for UDP"),
        ("unknown = \"keep\"", "\"adopt\""),
    ] {
        let report = refusal(&with(lines));
        assert!(report.contains(words), "{lines}: {report}");
    }
    let mixed = with("unknown = \"adopt\"\nscheduler = \"mh\"").replace("172.18.0.2\"", "fd12::2\"");
    assert!(refusal(&mixed).contains("between IPv4 and IPv6"), "{}", refusal(&mixed));
}
