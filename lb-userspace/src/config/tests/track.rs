//! What moves priorities, sync groups, programs that are run.

use super::*;
use crate::config::model::{
    Backends, FileValue, Notify, Peer, Process, Program, Script, SyncGroup, TrackKind, TrackUse,
};

fn program(words: &[&str], user: Option<&str>) -> Program {
    Program {
        path: words[0].into(),
        args: words[1..].iter().map(|w| (*w).to_owned()).collect(),
        user: user.and_then(find_user),
    }
}

#[test]
fn every_kind_of_tracker_is_read_with_its_defaults() {
    let text = minimal("track = [\"i\", \"s\", \"p\", \"f\", \"b\", { name = \"o\", weight = -9 }]", "")
        + r#"
        [track.i]
        type = "interface"
        interface = "eth1"
        [track.s]
        type = "script"
        command = ["/bin/chk", "a b"]
        [track.p]
        type = "process"
        process = "mariadbd"
        [track.f]
        type = "file"
        file = "weight"
        [track.b]
        type = "backends"
        service = "db"
        [track.o]
        type = "peer"
        address = "172.18.0.8"
        "#;
    let second = Duration::from_secs(1);
    let config = good(&text).config;
    let kinds: Vec<_> = config.tracks.iter().map(|t| &t.kind).collect();
    let script = Script {
        program: program(&["/bin/chk", "a b"], None),
        interval: second,
        timeout: second,
        rise: 1,
        fall: 1,
        init: true,
    };
    let process =
        Process { name: "mariadbd".into(), arguments: Vec::new(), quorum: 1, delay: Duration::ZERO };
    let peer =
        Peer { addr: "172.18.0.8".parse().unwrap(), interval: Duration::from_millis(300), multiplier: 3 };
    let expected = [
        TrackKind::Interface("eth1".into()),
        TrackKind::Script(script),
        TrackKind::Process(process),
        TrackKind::File(FileValue { path: "/etc/viplb/weight".into(), interval: second }),
        TrackKind::Backends(Backends { service: 0, quorum: 1, hysteresis: 0 }),
        TrackKind::Peer(peer),
    ];
    assert_eq!(kinds, expected.iter().collect::<Vec<_>>());
    let weights: Vec<_> = config.vrrp[0].track.iter().map(|u| (u.track, u.weight, u.reverse)).collect();
    // A file's value counts as it is; anything else without a weight is a fault.
    assert_eq!(
        weights,
        [(0, 0, false), (1, 0, false), (2, 0, false), (3, 1, false), (4, 0, false), (5, -9, false)]
    );
}

#[test]
fn what_a_tracker_means_is_said_where_it_is_used() {
    let text = minimal("track = [{ name = \"i\", weight = 253, reverse = true }]", "")
        + "[track.i]\ntype = \"interface\"\ninterface = \"eth1\"\n";
    let used = TrackUse { track: 0, weight: 253, reverse: true };
    assert_eq!(good(&text).config.vrrp[0].track, [used]);
}

#[test]
fn programs_of_routers_and_groups_are_read_with_their_arguments_and_user() {
    let second = "[vrrp.VI_2]\ninterface = \"eth0\"\nvirtual_router_id = 52\npriority = 101\n\
                  virtual_ipaddress = [\"172.18.0.202\"]\n";
    let text =
        minimal("notify = [\"/bin/n\", \"x\"]\nnotify_stop = [\"/bin/s\"]\nnotify_user = \"nobody\"", "")
            + second
            + "[sync_group.g]\ngroup = [\"VI_1\", \"VI_2\"]\nnotify_master = [\"/bin/m\"]\n";
    let config = good(&text).config;
    let (any, stop) = (program(&["/bin/n", "x"], Some("nobody")), program(&["/bin/s"], Some("nobody")));
    assert_eq!(config.vrrp[0].notify, Notify { any: Some(any), stop: Some(stop), ..Notify::default() });
    assert!(config.vrrp[1].notify.is_empty());
    let master = Some(program(&["/bin/m"], None));
    assert_eq!(
        config.groups,
        [SyncGroup { name: "g".into(), members: vec![0, 1], notify: Notify { master, ..Notify::default() } }]
    );
}

#[test]
fn metrics_are_served_only_where_the_file_says() {
    assert_eq!(good(&minimal("", "")).config.http, None);
    let text = minimal("", "") + "[http]\nlisten = \"[::1]:9112\"\n";
    assert_eq!(good(&text).config.http, Some("[::1]:9112".parse().unwrap()));
}
