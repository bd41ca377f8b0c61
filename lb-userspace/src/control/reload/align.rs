//! A new configuration against the one that runs: what only a restart can change is refused by name, and virtual routers are put
//! into the order in which they run, since leases and flows know them by it.

use crate::config::model::{Config, Node, SyncGroup, VirtualRouter};

/// The new configuration with its routers and groups in the order of the old one; or everything that needs a restart, by its
/// keys in the file.
pub fn align(old: &Config, mut new: Config) -> Result<Config, Vec<String>> {
    let mut restart = node(&old.node, &new.node);
    let mut order = Vec::new();
    for router in &old.vrrp {
        match new.vrrp.iter().position(|r| r.name == router.name) {
            Some(place) => {
                restart.extend(self::router(router, &new.vrrp[place]));
                order.push(place);
            }
            None => restart.push(format!("[vrrp.{}] is gone", router.name)),
        }
    }
    let is_new = |r: &&VirtualRouter| old.vrrp.iter().all(|o| o.name != r.name);
    restart.extend(new.vrrp.iter().filter(is_new).map(|r| format!("[vrrp.{}] is new", r.name)));
    if restart.is_empty() {
        put_in_order(&mut new, &order);
        restart.extend(groups(old, &mut new));
    }
    if restart.is_empty() { Ok(new) } else { Err(restart) }
}

/// `order` names the place of each router that runs.
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
        ("unicast_peer", old.transport != new.transport),
        ("source", old.source != new.source),
        ("virtual_mac", old.virtual_mac != new.virtual_mac),
        ("probe", old.probe.is_some() != new.probe.is_some()),
    ];
    let changed = keys.iter().filter(|(_, changed)| *changed);
    changed.map(|(key, _)| format!("`{key}` of [vrrp.{}]", new.name)).collect()
}

/// Groups in the order of the old file, with the same members.
fn groups(old: &Config, new: &mut Config) -> Vec<String> {
    let members = |g: &SyncGroup| {
        let mut members = g.members.clone();
        members.sort_unstable();
        members
    };
    let mut restart = Vec::new();
    let mut groups = Vec::new();
    for group in &old.groups {
        match new.groups.iter().position(|g| g.name == group.name) {
            Some(place) if members(&new.groups[place]) == members(group) => {
                groups.push(SyncGroup { members: group.members.clone(), ..new.groups.remove(place) });
            }
            _ => restart.push(format!("[sync_group.{}] has other members, or is gone", group.name)),
        }
    }
    let known = |g: &&SyncGroup| old.groups.iter().all(|o| o.name != g.name);
    restart.extend(new.groups.iter().filter(known).map(|g| format!("[sync_group.{}] is new", g.name)));
    new.groups = groups;
    restart
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
        let without = FILE.replace("[sync_group.g]\n        group = [\"a\", \"b\"]", "");
        assert_eq!(
            align(&old, parse(&without)).unwrap_err(),
            ["[sync_group.g] has other members, or is gone"]
        );
        let renamed = FILE.replace("[vrrp.a]", "[vrrp.c]").replace("\"a\"", "\"c\"");
        assert_eq!(align(&old, parse(&renamed)).unwrap_err(), ["[vrrp.a] is gone", "[vrrp.c] is new"]);
    }
}
