//! A new configuration against the one that runs: what only a restart can change is refused by name, and virtual routers and sync
//! groups are put into the order in which they run, those that are new behind them.

use crate::{
    config::model::{Config, Node, SyncGroup, Transport, VirtualRouter},
    vrrp::packet::is_link_local,
};

/// The new configuration with its routers and groups in the order of the old one; or everything that needs a restart, by its
/// keys in the file.
pub fn align(old: &Config, mut new: Config) -> Result<Config, Vec<String>> {
    let mut restart = node(&old.node, &new.node);
    let mut order = Vec::new();
    for router in &old.vrrp {
        if let Some(place) = new.vrrp.iter().position(|r| r.name == router.name) {
            restart.extend(self::router(router, &new.vrrp[place]));
            order.push(place);
        }
    }
    if !restart.is_empty() {
        return Err(restart);
    }
    let is_new = |place: &usize| !order.contains(place);
    order.extend((0..new.vrrp.len()).filter(is_new).collect::<Vec<_>>());
    put_in_order(&mut new, &order);
    groups(old, &mut new);
    Ok(new)
}

/// `order` names the place of each router in the new file.
fn put_in_order(config: &mut Config, order: &[usize]) {
    let place_of = |router: usize| order.iter().position(|place| *place == router).unwrap_or(router);
    let mut routers: Vec<_> = config.vrrp.drain(..).map(Some).collect();
    config.vrrp = order.iter().filter_map(|place| routers[*place].take()).collect();
    for service in &mut config.services {
        service.router = service.router.map(place_of);
    }
    for group in &mut config.groups {
        group.members.iter_mut().for_each(|member| *member = place_of(*member));
    }
}

fn node(old: &Node, new: &Node) -> Vec<String> {
    let keys = [
        ("name", old.name != new.name),
        ("flows", old.flows != new.flows),
        ("hook` and `hooks", old.hooks != new.hooks),
        ("local_clients", old.local_clients != new.local_clients),
        ("realtime", old.realtime != new.realtime),
        ("snat_ports", old.snat_ports != new.snat_ports),
    ];
    keys.iter().filter(|(_, changed)| *changed).map(|(key, _)| format!("`{key}` of [node]")).collect()
}

fn router(old: &VirtualRouter, new: &VirtualRouter) -> Vec<String> {
    let keys = [
        ("interface", old.interface != new.interface),
        ("virtual_router_id", old.vrid != new.vrid),
        ("version", old.version != new.version),
        ("unicast_peer", !alike(old, new)),
        ("source", old.source != new.source),
        ("virtual_mac", old.virtual_mac != new.virtual_mac),
        ("probe", old.probe.is_some() != new.probe.is_some()),
    ];
    let changed = keys.iter().filter(|(_, changed)| *changed);
    changed.map(|(key, _)| format!("`{key}` of [vrrp.{}]", new.name)).collect()
}

/// Whether adverts travel by the same sockets, from the same kind of address: which peers they go to may change.
fn alike(old: &VirtualRouter, new: &VirtualRouter) -> bool {
    let afar = |r: &VirtualRouter| match &r.transport {
        Transport::Multicast => None,
        Transport::Unicast(peers) => {
            Some(peers.iter().any(|peer| peer.addr.is_ipv6() && !is_link_local(peer.addr)))
        }
    };
    afar(old) == afar(new)
}

/// Groups in the order of the old file, and so their members.
fn groups(old: &Config, new: &mut Config) {
    let names = |config: &Config, g: &SyncGroup| -> Vec<String> {
        g.members.iter().map(|m| config.vrrp[*m].name.clone()).collect()
    };
    let sorted = |mut names: Vec<String>| {
        names.sort_unstable();
        names
    };
    let mut rest = std::mem::take(&mut new.groups);
    for group in &old.groups {
        let Some(place) = rest.iter().position(|g| g.name == group.name) else { continue };
        let mut found = rest.remove(place);
        let before = names(old, group);
        if sorted(before.clone()) == sorted(names(new, &found)) {
            let place_of = |name: &String| new.vrrp.iter().position(|r| r.name == *name);
            found.members = before.iter().filter_map(place_of).collect();
        }
        new.groups.push(found);
    }
    new.groups.extend(rest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::testing::parse;

    const FILE: &str = r#"
        [node]
        name = "h1"
        [vrrp.a]
        interface = "eth0"
        virtual_router_id = 51
        priority = 101
        virtual_ipaddress = ["172.18.0.201"]
        [vrrp.b]
        interface = "eth1"
        virtual_router_id = 52
        priority = 101
        virtual_ipaddress = ["172.18.0.202"]
        [sync_group.g]
        group = ["a", "b"]
        [service.db]
        listen = "172.18.0.202:3306"
        backend = [{ address = "172.18.0.2" }]
        check = { type = "tcp" }
    "#;

    #[test]
    fn routers_keep_their_order_whatever_that_of_the_file_is() {
        let old = parse(FILE);
        let a = FILE.find("[vrrp.a]").unwrap()..FILE.find("[vrrp.b]").unwrap();
        let turned = format!("{}{}{}", &FILE[..a.start], &FILE[a.end..], &FILE[a.clone()]);
        let mut turned = parse(&turned);
        assert_eq!((turned.vrrp[0].name.as_str(), turned.services[0].router), ("b", Some(0)));
        turned.vrrp[0].priority = 77;
        let new = align(&old, turned).unwrap();
        let names: Vec<_> = new.vrrp.iter().map(|r| (r.name.as_str(), r.priority)).collect();
        assert_eq!(names, [("a", 101), ("b", 77)]);
        assert_eq!((new.services[0].router, &new.groups), (Some(1), &old.groups));
    }

    #[test]
    fn what_only_a_restart_can_change_is_named_all_of_it() {
        let old = parse(FILE);
        let new = FILE
            .replace("name = \"h1\"", "name = \"h1\"\nflows = 1024\nlocal_clients = false")
            .replace("virtual_router_id = 52", "virtual_router_id = 53\nprobe = false")
            .replace("\"eth0\"", "\"eth2\"");
        assert_eq!(
            align(&old, parse(&new)).unwrap_err(),
            [
                "`flows` of [node]",
                "`local_clients` of [node]",
                "`interface` of [vrrp.a]",
                "`virtual_router_id` of [vrrp.b]",
                "`probe` of [vrrp.b]"
            ]
        );
    }

    #[test]
    fn who_stays_keeps_the_order_and_who_is_new_comes_behind_whatever_is_put_before() {
        let old = parse(FILE);
        let new = FILE
            .replace("[vrrp.a]", "[vrrp.c]")
            .replace("\"a\", \"b\"", "\"b\", \"c\"")
            .replace("virtual_router_id = 51", "virtual_router_id = 50");
        let new = align(&old, parse(&new)).unwrap();
        let names: Vec<_> = new.vrrp.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(names, ["b", "c"], "a is gone");
        assert_eq!((new.services[0].router, &new.groups[0].members), (Some(0), &vec![0, 1]));
    }

    #[test]
    fn groups_come_and_go_and_their_members_keep_their_order() {
        let old = parse(FILE);
        let turned = FILE.replace("\"a\", \"b\"", "\"b\", \"a\"");
        assert_eq!(align(&old, parse(&turned)).unwrap(), old);
        let without = FILE.replace("[sync_group.g]\n        group = [\"a\", \"b\"]", "");
        let without = align(&old, parse(&without)).unwrap();
        assert_eq!(without.groups, []);
        assert_eq!(align(&without, parse(FILE)).unwrap().groups, old.groups);
    }

    #[test]
    fn the_peers_of_unicast_change_but_not_to_multicast_or_farther() {
        let peers = |list: &str| {
            let peers = format!("virtual_router_id = 52\n        unicast_peer = [{list}]");
            parse(&FILE.replace("virtual_router_id = 52", &peers))
        };
        let old = peers("\"172.18.0.8\"");
        assert!(align(&old, peers("\"172.18.0.8\", \"172.18.0.9\"")).is_ok());
        assert_eq!(align(&old, parse(FILE)).unwrap_err(), ["`unicast_peer` of [vrrp.b]"]);
    }
}
