//! What lies beyond the switch is the witness in a partition: who is cut off from it and from its peer does not own the address.

use lb_tests::{
    expect::wait_until,
    hosts::{Daemon, Hosts, LIMIT, Server},
};

/// Two nodes, a client and a server on one switch.
struct Net {
    // Go before their hosts do.
    nodes: [Daemon; 2],
    _server: Server,
    hosts: Hosts,
}

impl Net {
    fn new(test: &str) -> Option<Self> {
        let mut hosts = Hosts::new(test)?;
        for (host, last) in [("s", 2), ("a", 7), ("b", 8), ("c", 100)] {
            hosts.plug(host, "eth0", &[&format!("172.18.0.{last}/16")], "sw");
        }
        let server = hosts.serve("s", "172.18.0.2:3306".parse().unwrap(), 1);
        let nodes = [("a", 101), ("b", 100)].map(|(host, priority)| hosts.start(host, &config(priority)));
        nodes[0].wait_master();
        nodes.iter().for_each(|node| node.wait_up("db", 1));
        // Probes come from the backup only once it has heard the owner.
        wait_until("the owner is watched", LIMIT, || {
            nodes[0].status().vrrp[0].probe.as_ref().is_some_and(|probe| probe.watched)
        });
        Some(Self { nodes, _server: server, hosts })
    }

    fn cut_off(&self, host: &str) {
        self.hosts.host("sw").ip(&format!("link set to-{host} nomaster")).expect("cut off");
    }

    fn heal(&self, host: &str) {
        self.hosts.host("sw").ip(&format!("link set to-{host} master br0")).expect("healed");
    }

    fn wait(&self, node: usize, state: &str, lease: bool) {
        wait_until(&format!("{} is {state}", self.nodes[node].name()), LIMIT, || {
            let router = &self.nodes[node].status().vrrp[0];
            router.state == state && router.lease_valid == lease
        });
    }

    fn serves(&self) {
        let mut talk = self.hosts.connect("c", "172.18.0.201:3306".parse().unwrap()).expect("the service");
        talk.exchange(1000).expect("an answer");
    }
}

fn config(priority: u8) -> String {
    format!(
        "[vrrp.v]\ninterface = \"eth0\"\nvirtual_router_id = 51\npriority = {priority}\nversion = 3\nadvert_int = \"200ms\"\n\
         virtual_ipaddress = [\"172.18.0.201\"]\nwitness = true\n\
         [service.db]\nlisten = \"172.18.0.201:3306\"\n\
         check = {{ type = \"tcp\", interval = \"200ms\", timeout = \"150ms\", fall = 2, rise = 1 }}\n\
         backend = [{{ name = \"s\", address = \"172.18.0.2:3306\" }}]\n"
    )
}

#[test]
fn an_owner_that_is_cut_off_from_its_peer_and_the_servers_gives_the_address_up_and_gets_it_back() {
    let Some(net) = Net::new("witown") else { return };
    net.serves();
    net.cut_off("a");
    net.wait(1, "Master", true);
    net.serves();
    net.wait(0, "Backup", false);
    assert!(net.nodes[0].status().vrrp[0].reason.contains("neither a peer nor the cluster"));
    net.heal("a");
    net.wait(0, "Master", true);
    net.wait(1, "Backup", false);
    net.serves();
}

#[test]
fn a_backup_that_is_cut_off_from_its_peer_and_the_servers_does_not_own_until_it_sees_them_again() {
    let Some(net) = Net::new("witback") else { return };
    net.cut_off("b");
    wait_until("b has lost the server", LIMIT, || net.nodes[1].status().services[0].up == 0);
    // It may have learnt of its peer's silence first.
    net.wait(1, "Backup", false);
    // Four times as long as it would wait for its peer.
    let watched_until = std::time::Instant::now() + 4 * std::time::Duration::from_millis(700);
    while std::time::Instant::now() < watched_until {
        let router = &net.nodes[1].status().vrrp[0];
        assert_eq!((router.state.as_str(), router.lease_valid), ("Backup", false));
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    net.serves();
    net.heal("b");
    wait_until("b has the server again", LIMIT, || net.nodes[1].status().services[0].up == 1);
    net.cut_off("a");
    net.wait(1, "Master", true);
    net.serves();
}

/// The whole cluster is down, the peers hear each other: connections are refused, not left to hang.
#[test]
fn while_no_server_lives_the_owner_stays_and_refuses() {
    let Some(net) = Net::new("witall") else { return };
    net.cut_off("s");
    for node in &net.nodes {
        wait_until("no server", LIMIT, || node.status().services[0].up == 0);
    }
    let watched_until = std::time::Instant::now() + std::time::Duration::from_secs(3);
    while std::time::Instant::now() < watched_until {
        let refused = net.hosts.connect("c", "172.18.0.201:3306".parse().unwrap()).err().expect("no server");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        assert_eq!(net.nodes[0].status().vrrp[0].state, "Master");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
