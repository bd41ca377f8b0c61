//! The part of `resolve` that is about flow replication: whom with, and with what keys.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use super::{Resolver, or};
use crate::config::{
    file,
    model::{Mode, Protocol, SYNC_PORT, Sync, SyncKey},
    reader::Field,
};

impl Resolver<'_, '_> {
    pub(super) fn sync(&mut self, s: &file::Sync) -> Option<Sync> {
        if self.file.vrrp.is_empty() {
            let message = "[sync] has no use without a virtual router";
            self.warning(s.place.clone(), message, "services on a node's own address stay where they are");
        }
        let keys = self.sync_keys(s);
        let peers = self.sync_peers(s);
        let (keys, peers) = (keys?, peers?);
        let any: IpAddr = if peers.iter().any(SocketAddr::is_ipv6) {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        };
        let listen = or(&s.listen, SocketAddr::new(any, SYNC_PORT));
        if let Some(given) = s.listen.given()
            && given.get_ref().is_ipv4()
            && let Some(peer) = peers.iter().find(|peer| peer.is_ipv6())
        {
            let message = format!("{} does not reach the peer {}", listen.ip(), peer.ip());
            self.error(given.span(), message, format!("listen on \"[::]:{SYNC_PORT}\" for both families"));
            return None;
        }
        let failback_wait = or(&s.failback_wait, FAILBACK_WAIT);
        let strict_wait = or(&s.strict_wait, STRICT_WAIT);
        Some(Sync { peers, listen, keys, failback_wait, strict_wait })
    }

    /// Whether a service's connections wait for peers.
    pub(super) fn strict(&mut self, s: &file::Service) -> bool {
        let Some(given) = s.sync.given().filter(|given| *given.get_ref()) else { return false };
        let default = or(&s.mode, Mode::Nat);
        let seen =
            s.backends.value().is_none_or(|all| all.iter().any(|b| !or(&b.mode, default).is_one_way()));
        let (message, help) = if self.file.sync.is_none() {
            (
                "`sync = \"strict\"` waits for peers, and there is no [sync]",
                "add `[sync]` with the other nodes",
            )
        } else if s.lease.value() == Some(&false) {
            (
                "`sync = \"strict\"` is for virtual addresses",
                "flows of the node's own addresses have no other node to go to",
            )
        } else if or(&s.protocol, Protocol::Tcp) == Protocol::Udp {
            ("`sync = \"strict\"` holds SYN-ACKs back, and UDP has none", "remove it")
        } else if !seen {
            (
                "`sync = \"strict\"` holds backends' SYN-ACKs back, which do not come by here",
                "choose \"nat\" or \"dnat\"",
            )
        } else {
            return true;
        };
        self.error(given.span(), message, help);
        false
    }

    /// Those that are named, else those that adverts go to.
    fn sync_peers(&mut self, s: &file::Sync) -> Option<Vec<SocketAddr>> {
        let mut peers: Vec<SocketAddr> = Vec::new();
        match &s.peers {
            Field::Bad => return None,
            Field::Given(given) => {
                for peer in given.get_ref() {
                    // Datagrams are told apart by the address they come from.
                    if peers.iter().any(|other| other.ip() == peer.get_ref().ip()) {
                        let message = format!("{} is named twice", peer.get_ref().ip());
                        self.error(peer.span(), message, "name each node once");
                    }
                    peers.push(*peer.get_ref());
                }
            }
            Field::Absent => {
                let lists = self.file.vrrp.iter().filter_map(|v| v.peers.value());
                for addr in lists.flatten().filter_map(|peer| peer.get_ref().addr.value()) {
                    if peers.iter().all(|other| other.ip() != *addr) {
                        peers.push(SocketAddr::new(*addr, SYNC_PORT));
                    }
                }
            }
        }
        if peers.is_empty() {
            let help = "add `peers = [\"172.18.0.8\"]`: the other nodes' own addresses";
            self.error(s.place.clone(), "[sync] names no peer, and no router has `unicast_peer`", help);
            return None;
        }
        if peers.len() > MOST_PEERS {
            self.error(s.place.clone(), format!("more than {MOST_PEERS} peers"), "name fewer");
            return None;
        }
        Some(peers)
    }

    fn sync_keys(&mut self, s: &file::Sync) -> Option<Vec<SyncKey>> {
        let given = s.key_file.given()?;
        let path = self.around.directory.join(Path::new(given.get_ref()));
        let text = match (self.around.read_keys)(&path) {
            Ok(text) => text,
            Err(error) => {
                self.error(given.span(), error.to_string(), error.help());
                return None;
            }
        };
        match parse_keys(&text) {
            Ok(keys) => Some(keys),
            Err((line, problem)) => {
                let message = format!("`{}`, line {line}: {problem}", path.display());
                self.error(given.span(), message, KEY_HELP);
                None
            }
        }
    }
}

/// The keys of a key file: `ID SECRET` a line. A mistake is told with its line, and without what stands there.
pub fn parse_keys(text: &str) -> Result<Vec<SyncKey>, (usize, &'static str)> {
    let mut keys: Vec<SyncKey> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut words = line.split_whitespace();
        let (id, secret) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let Ok(id) = id.parse::<u8>() else { return Err((number, "the id is no number of 0 to 255")) };
        if words.next().is_some() {
            return Err((number, "there is more than an id and a key"));
        }
        if secret.len() < SHORTEST_KEY {
            return Err((number, "the key is shorter than 16 characters"));
        }
        if keys.iter().any(|key| key.id == id) {
            return Err((number, "the id is used twice"));
        }
        keys.push(SyncKey { id, secret: secret.into() });
    }
    if keys.is_empty() { Err((1, "there is no key")) } else { Ok(keys) }
}

const KEY_HELP: &str =
    "write an id and a key a line, as `echo 1 $(openssl rand -hex 32)` makes one; the first seals";
const SHORTEST_KEY: usize = 16;
const MOST_PEERS: usize = 16;
const FAILBACK_WAIT: Duration = Duration::from_secs(30);
const STRICT_WAIT: Duration = Duration::from_millis(10);
