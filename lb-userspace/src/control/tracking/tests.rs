use std::{path::Path, time::UNIX_EPOCH};

use super::*;
use crate::config::{self, SecretError, Surroundings};

const T: SystemTime = UNIX_EPOCH;

/// Two routers of priority 101 and 102 and a service of three backends; `first` and `second` are what they track.
fn tracking(first: &str, second: &str, more: &str) -> Tracking {
    let router = |name: &str, vrid: u8, track: &str| {
        format!(
            "[vrrp.{name}]\ninterface = \"eth0\"\nvirtual_router_id = {vrid}\npriority = {}\n\
             virtual_ipaddress = [\"172.18.0.{vrid}\"]\ntrack = {track}\n",
            vrid + 50
        )
    };
    let text = router("a", 51, first)
        + &router("b", 52, second)
        + r#"
        [track.link]
        type = "interface"
        interface = "eth1"
        [track.file]
        type = "file"
        file = "/f"
        [track.db]
        type = "backends"
        service = "db"
        quorum = 2
        [track.slow]
        type = "script"
        command = ["/bin/chk"]
        init = "down"
        [service.db]
        listen = "172.18.0.51:3306"
        backend = [{ address = "172.18.0.2" }, { address = "172.18.0.3" }, { address = "172.18.0.4" }]
        check = { type = "mysql", user = "m" }
        "#
        + more;
    let around = Surroundings {
        host_name: "h1".into(),
        directory: Path::new("."),
        read_secret: &|path| Err(SecretError::WorldReadable(path.display().to_string())),
        check_program: &|_| Ok(()),
        find_user: &|_| None,
        world_readable: false,
    };
    match config::parse(&text, "test.toml", &around) {
        Ok(loaded) => Tracking::new(&loaded.config, T),
        Err(report) => panic!("{report}"),
    }
}

fn say(t: &mut Tracking, track: usize, reading: impl Into<Reading>) {
    t.on_event(&Event { track, reading: reading.into(), cause: "because".into() }, T);
}

fn to(priority: u8, fault: bool) -> Tracked {
    Tracked { priority, fault, blind: false }
}

const LINK: usize = 0;
const FILE: usize = 1;

#[test]
fn the_election_is_told_only_what_changed_for_it() {
    let mut t = tracking("[{ name = \"link\", weight = -20 }]", "[\"link\"]", "");
    assert_eq!(t.changes(), [], "all is as the file says");
    say(&mut t, LINK, true);
    assert_eq!(t.changes(), []);
    say(&mut t, LINK, false);
    assert_eq!(t.changes(), [(0, to(81, false)), (1, to(102, true))]);
    assert_eq!(t.changes(), []);
    assert_eq!(t.faults(1), ["link"]);
    assert!(t.faults(0).is_empty());
    say(&mut t, LINK, true);
    assert_eq!(t.changes(), [(0, to(101, false)), (1, to(102, false))]);
}

#[test]
fn what_is_not_as_the_file_says_at_the_start_is_told() {
    let mut t = tracking("[\"slow\"]", "[{ name = \"slow\", weight = 10 }]", "");
    assert_eq!(t.changes(), [(0, to(101, true))], "`init` is down, and no bonus changes nothing");
    say(&mut t, 3, true);
    assert_eq!(t.changes(), [(0, to(101, false)), (1, to(112, false))]);
}

#[test]
fn the_value_of_a_file_is_added_as_it_is() {
    let mut t = tracking("[\"file\"]", "[{ name = \"file\", weight = -2 }]", "");
    say(&mut t, FILE, Reading::Value(7));
    assert_eq!(t.changes(), [(0, to(108, false)), (1, to(88, false))]);
}

#[test]
fn members_of_a_group_share_what_they_track_each_meaning_once() {
    let weight = "[{ name = \"link\", weight = -20 }]";
    let group = "[sync_group.g]\ngroup = [\"a\", \"b\"]\n";
    let mut t = tracking(weight, weight, group);
    say(&mut t, LINK, false);
    assert_eq!(t.changes(), [(0, to(81, false)), (1, to(82, false))], "not twice");
    let mut t = tracking(weight, "[\"file\"]", group);
    say(&mut t, LINK, false);
    say(&mut t, FILE, Reading::Value(5));
    assert_eq!(t.changes(), [(0, to(86, false)), (1, to(87, false))]);
}

#[test]
fn a_backends_tracker_follows_its_own_service_by_its_quorum() {
    let mut t = tracking("[{ name = \"db\", weight = -5 }]", "[]", "");
    t.on_backends(0, 1, T);
    assert_eq!(t.changes(), [(0, to(96, false))]);
    let shown = &t.shown(0, |_| 7)[0];
    assert_eq!((shown.state.as_str(), shown.cause.as_str()), ("bad", "1 of 2 backends up"));
    assert_eq!((shown.effect.as_str(), shown.since), ("-5", 7));
    t.on_backends(0, 2, T);
    assert_eq!(t.changes(), [(0, to(101, false))]);
    assert_eq!(t.shown(0, |_| 7)[0].effect, "none");
}

#[test]
fn the_start_waits_for_trackers_that_look_at_this_machine_only() {
    let mut t = tracking("[\"link\", \"file\", \"db\", \"slow\"]", "[]", "");
    assert_eq!(t.shown(0, |_| 0)[0].state, "unknown");
    say(&mut t, LINK, true);
    assert!(!t.has_heard_prompt_ones());
    say(&mut t, FILE, Reading::Value(0));
    assert!(t.has_heard_prompt_ones(), "scripts and backends take their time");
    assert_eq!(t.shown(0, |_| 0)[0].state, "good");
}

#[test]
fn a_node_that_reaches_no_backend_has_the_lowest_priority_until_it_reaches_one() {
    let mut t = tracking("[]", "[]", "");
    assert_eq!(t.changes(), []);
    t.on_serving(0, false);
    assert_eq!(t.changes(), [(0, to(1, false))]);
    assert!(!t.is_serving(0));
    t.on_serving(0, true);
    assert_eq!(t.changes(), [(0, to(101, false))]);
}
