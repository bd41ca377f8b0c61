use super::*;
use crate::control::testing::parse;

const FILE: &str = r#"
    [node]
    name = "h1"
    [vrrp.vip]
    interface = "eth0"
    virtual_router_id = 51
    priority = 101
    auth_pass = "sesame"
    virtual_ipaddress = ["172.18.0.201", "172.18.0.202"]
    track = [{ name = "up", weight = -20 }]
    [track.up]
    type = "interface"
    interface = "eth1"
    [service.db]
    listen = "172.18.0.201:3306"
    backend = [{ name = "d1", address = "172.18.0.2" }, { name = "d2", address = "172.18.0.3" }]
    check = { type = "tcp" }
    [service.web]
    listen = "172.18.0.201:80"
    backend = [{ name = "w1", address = "172.18.0.2:80" }]
    check = { type = "tcp" }
"#;

/// The lines of a change of the file.
fn lines(from: &str, to: &str) -> Vec<String> {
    assert!(FILE.contains(from), "{from}");
    let (old, new) = (parse(FILE), parse(&FILE.replacen(from, to, 1)));
    assert_ne!(old, new);
    diff(&old, &new).iter().map(Change::to_string).collect()
}

#[test]
fn each_kind_of_change_is_a_line() {
    assert_eq!(diff(&parse(FILE), &parse(FILE)), []);
    assert_eq!(lines("priority = 101", "priority = 90"), ["~ vrrp vip: priority 101 → 90"]);
    assert_eq!(lines("sesame", "secret"), ["~ vrrp vip: auth_pass"]);
    assert_eq!(
        lines("\"172.18.0.202\"", "\"172.18.0.203/16\""),
        ["~ vrrp vip: + 172.18.0.203/16, - 172.18.0.202/32"]
    );
    assert_eq!(lines("weight = -20", "weight = -30"), ["~ vrrp vip: track"]);
    assert_eq!(lines("\"eth1\"", "\"eth2\""), ["~ track up"]);
    assert_eq!(
        lines("address = \"172.18.0.3\"", "address = \"172.18.0.3\", weight = 5"),
        ["~ service db: backend d2: weight 1 → 5"]
    );
    assert_eq!(
        lines("address = \"172.18.0.3\"", "address = \"172.18.0.4\""),
        [
            "~ service db: backend d2: address 172.18.0.3:3306 → 172.18.0.4:3306, another server, checked first"
        ]
    );
    assert_eq!(
        lines(", { name = \"d2\", address = \"172.18.0.3\" }", ""),
        ["- service db: backend d2: 172.18.0.3:3306, its connections go on until they end"]
    );
    assert_eq!(
        lines("{ name = \"w1\"", "{ name = \"w2\", address = \"172.18.0.3:80\" }, { name = \"w1\""),
        ["+ service web: backend w2: 172.18.0.3:80, checked first"]
    );
    assert_eq!(
        lines("{ type = \"tcp\" }", "{ type = \"tcp\", interval = \"5s\" }\nscheduler = \"wlc\""),
        ["~ service db: scheduler rr → wlc, check"]
    );
    for key in ["redispatch = false", "move_ungreeted = true", "passive = false"] {
        let changed = lines("{ type = \"tcp\" }", &format!("{{ type = \"tcp\" }}\n{key}"));
        let word = key.split(' ').next().unwrap();
        assert!(changed.len() == 1 && changed[0].contains(word), "{changed:?}");
    }
    assert_eq!(
        lines("[service.web]", "[service.www]"),
        [
            "+ service www: listens on 172.18.0.201:80",
            "+ service www: backend w1: 172.18.0.2:80, checked first",
            "- service web: listens on 172.18.0.201:80",
            "- service web: backend w1: 172.18.0.2:80, its connections go on until they end"
        ]
    );
    assert_eq!(lines("[service.web]", "[http]\nlisten = \"127.0.0.1:9112\"\n[service.web]"), ["+ http"]);
}

#[test]
fn routers_and_groups_that_come_and_go_are_lines_whatever_their_places_are() {
    let more = "[vrrp.other]\ninterface = \"eth0\"\nvirtual_router_id = 52\npriority = 90\n\
                virtual_ipaddress = [\"172.18.0.209\"]\n[vrrp.vip]";
    assert_eq!(
        lines("[vrrp.vip]", more),
        ["+ vrrp other: virtual_router_id 52 on eth0, priority 90, 172.18.0.209, begins as Backup"]
    );
    let grouped = format!("[sync_group.g]\ngroup = [\"other\", \"vip\"]\n{more}");
    let (one, two, three) = (
        parse(FILE),
        parse(&FILE.replacen("[vrrp.vip]", more, 1)),
        parse(&FILE.replacen("[vrrp.vip]", &grouped, 1)),
    );
    let lines = |old: &Config, new: &Config| -> Vec<_> {
        diff(old, &crate::control::reload::align::align(old, new.clone()).unwrap())
            .iter()
            .map(Change::to_string)
            .collect()
    };
    assert_eq!(lines(&two, &three), ["+ sync_group g: other vip"]);
    assert_eq!(
        lines(&three, &one),
        [
            "- vrrp other: gives its addresses up, its connections are another node's or forgotten",
            "- sync_group g"
        ]
    );
}
