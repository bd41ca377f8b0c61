//! `discover`: what it needs, and what it is by default.

use super::*;
use crate::config::model::{Discovery, Prefix, Service};

fn text(lines: &str) -> String {
    let check = "type = \"galera\"";
    let text = minimal("", "").replace("type = \"mysql\"", check);
    assert!(text.contains(check), "{text}");
    text.replace("[[service.db.backend]]", &format!("{lines}\n[[service.db.backend]]"))
}

fn service(lines: &str) -> Service {
    good(&text(lines)).config.services.remove(0)
}

#[test]
fn nobody_is_discovered_unless_the_file_says_where_nodes_may_be() {
    assert_eq!(service("").discovery, None);
    let prefix = |text: &str, len| Prefix { addr: text.parse().unwrap(), len };
    let found = service("discover = { networks = [\"172.18.0.0/16\", \"fd00::/64\"] }");
    let networks = vec![prefix("172.18.0.0", 16), prefix("fd00::", 64)];
    let wanted = Discovery { networks, most: 8, forget: Duration::from_secs(600) };
    assert_eq!(found.discovery.as_ref(), Some(&wanted));
    assert_eq!(found.most_backends(), found.backends.len() + 8);
    let allows = |text: &str| wanted.allows(text.parse().unwrap());
    assert!(allows("172.18.255.1") && allows("fd00::7"));
    assert!(!allows("172.19.0.1") && !allows("fd00:0:0:1::7"));
    assert_eq!(only_error(&text("discover = {}")), "`networks` is missing in [service.db.discover]");
    assert_eq!(
        only_error(&text("discover = { networks = [] }")),
        "`networks` names none: nobody could be discovered"
    );
}

#[test]
fn only_a_cluster_has_members_and_each_has_one_port() {
    let discover = "discover = { networks = [\"172.18.0.0/16\"] }";
    let by_mysql = text(discover).replace("\"galera\"", "\"mysql\"");
    assert_eq!(only_error(&by_mysql), "`discover` needs to know the cluster's members");
    let other_family = format!("mode = \"dnat\"\n{}", discover.replace("172.18.0.0/16", "fd00::/64"));
    assert_eq!(
        only_error(&text(&other_family)),
        "fd00::/64 is of another family than `listen`, which \"dnat\" keeps"
    );
}

#[test]
fn those_that_may_be_discovered_count_for_the_quorum_and_for_what_compares_backends() {
    let discover = "discover = { networks = [\"172.18.0.0/16\"], most = 2 }";
    assert_eq!(service(&format!("quorum = 3\n{discover}")).quorum, 3);
    assert_eq!(only_error(&text(&format!("quorum = 4\n{discover}"))), "4 of 3 backends would have to be up");
    let many = "scheduler = \"lc\"\ndiscover = { networks = [\"172.18.0.0/16\"], most = 64 }";
    assert_eq!(
        only_error(&text(many)),
        "`scheduler = \"lc\"` takes at most 64 backends, and [service.db] has 65"
    );
}
