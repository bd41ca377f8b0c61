//! Members of a Galera cluster that the file does not name: who becomes a backend of a service with `discover`, and who is one no more.
//!
//! Pure. `control::discovery` brings what the nodes of the majority say of each other (`wsrep_incoming_addresses`) and has backends made
//! of it. Nobody ceases to be one because he is away for a while: a node that restarts is no member meanwhile, and while nobody
//! knows the members time stands still for all.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use crate::config::model::{Discovery, Mode, Service};

/// Between two tries to take in a member that could not be.
pub const AGAIN: Duration = Duration::from_secs(60);

/// Members of one service's cluster that its section of the file does not name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Members {
    taken: Vec<Member>,
    /// Those that could not be taken in, and when it is tried again.
    failed: Vec<(SocketAddr, Instant)>,
    /// Those that are no backends by the rules, and why: each is told of once.
    passed_over: Vec<(String, Unfit)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Member {
    addr: SocketAddr,
    /// Since when it is none.
    absent: Option<Instant>,
}

/// Why a member is no backend. `Display` gives words for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// No address.
    #[error("it is no address: set wsrep_node_incoming_address on that node")]
    NoAddress,
    /// Outside of `networks`.
    #[error("it is in none of the `networks` of `discover`")]
    Elsewhere,
    /// The mode forwards to no such address.
    #[error("the service's mode forwards neither to another family nor to another port")]
    Unreachable,
    /// A virtual address.
    #[error("it is a virtual address of this node")]
    Virtual,
    /// `most` are there already.
    #[error("there are as many as `most` of `discover` allows")]
    TooMany,
}

/// What differs since members were last heard of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct News {
    /// Who shall become a backend: [`Members::take`], or [`Members::fail`].
    pub new: Vec<SocketAddr>,
    /// Who is none any more.
    pub gone: Vec<SocketAddr>,
    /// Members that were found to be unfit just now.
    pub unfit: Vec<(String, Unfit)>,
}

impl Members {
    /// Those that a former daemon had taken in.
    pub fn of(addrs: impl IntoIterator<Item = SocketAddr>) -> Self {
        let taken = addrs.into_iter().map(|addr| Member { addr, absent: None }).collect();
        Self { taken, ..Self::default() }
    }

    /// Those that are backends.
    pub fn taken(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.taken.iter().map(|m| m.addr)
    }

    /// Takes in who is said to be a member, `None` if nobody knows. `virtual_ones` are addresses of this node's routers.
    pub fn hear(
        &mut self,
        service: &Service,
        heard: Option<&[String]>,
        virtual_ones: &[IpAddr],
        now: Instant,
    ) -> News {
        let mut news = News::default();
        let Some(rules) = &service.discovery else {
            news.gone = std::mem::take(self).taken().collect();
            return news;
        };
        let is_named = |addr| service.backends.iter().any(|b| !b.discovered && b.addr == addr);
        let fits = |addr| fit(addr, service, rules, virtual_ones);
        self.forget(&mut news, |m| is_named(m.addr) || fits(m.addr).is_err());
        let Some(heard) = heard else { return news };
        self.failed.retain(|(_, again)| *again > now);

        let mut addrs = Vec::new();
        let mut unfit = Vec::new();
        for text in heard {
            match parse(text, service).ok_or(Unfit::NoAddress).and_then(|a| fits(a).map(|()| a)) {
                Ok(addr) if is_named(addr) || addrs.contains(&addr) => {}
                Ok(addr) => addrs.push(addr),
                Err(why) => unfit.push((text.clone(), why)),
            }
        }
        for m in &mut self.taken {
            m.absent = if addrs.contains(&m.addr) { None } else { m.absent.or(Some(now)) };
        }
        let is_over = |since: Instant| now.saturating_duration_since(since) >= rules.forget;
        self.forget(&mut news, |m| m.absent.is_some_and(is_over));
        for addr in addrs {
            if self.taken().any(|a| a == addr) || self.failed.iter().any(|(a, _)| *a == addr) {
                continue;
            }
            if self.taken.len() + news.new.len() >= rules.most as usize {
                unfit.push((addr.to_string(), Unfit::TooMany));
                continue;
            }
            news.new.push(addr);
        }
        news.unfit = unfit.iter().filter(|u| !self.passed_over.contains(u)).cloned().collect();
        self.passed_over = unfit;
        news
    }

    fn forget(&mut self, news: &mut News, is_gone: impl Fn(&Member) -> bool) {
        news.gone.extend(self.taken.iter().filter(|m| is_gone(m)).map(|m| m.addr));
        self.taken.retain(|m| !is_gone(m));
    }

    /// It has become a backend.
    pub fn take(&mut self, addr: SocketAddr) {
        self.taken.push(Member { addr, absent: None });
    }

    /// It could not become one.
    pub fn fail(&mut self, addr: SocketAddr, now: Instant) {
        self.failed.push((addr, now + AGAIN));
    }
}

/// `ADDR:PORT`, `[ADDR]:PORT`, or an address alone; without a port, or with 0, it is the service's.
fn parse(text: &str, service: &Service) -> Option<SocketAddr> {
    let alone = text.trim_start_matches('[').trim_end_matches(']');
    let addr = text.parse().ok().or_else(|| Some(SocketAddr::new(alone.parse().ok()?, 0)))?;
    let port = if addr.port() == 0 { service.listen.first.port() } else { addr.port() };
    Some(SocketAddr::new(addr.ip(), port))
}

fn fit(addr: SocketAddr, service: &Service, rules: &Discovery, virtual_ones: &[IpAddr]) -> Result<(), Unfit> {
    let (ip, listen) = (addr.ip(), service.listen.first);
    if !rules.allows(ip) || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() {
        return Err(Unfit::Elsewhere);
    }
    let keeps_family = matches!(service.mode, Mode::Dnat | Mode::Dsr) && ip.is_ipv4() != listen.is_ipv4();
    if keeps_family || service.mode.is_one_way() && addr.port() != listen.port() {
        return Err(Unfit::Unreachable);
    }
    if virtual_ones.contains(&ip) { Err(Unfit::Virtual) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::testing::config;

    const SECOND: Duration = Duration::from_secs(1);

    fn service(more: &str) -> Service {
        let lines = format!(
            "[service.db]\nlisten = \"172.18.0.201:3306\"\nbackend = [{{ address = \"172.18.0.2\" }}]\n{more}\n\
             check = {{ type = \"galera\", user = \"m\", interval = \"500ms\" }}\n"
        );
        config(&lines).services.remove(0)
    }

    fn open() -> Service {
        service("discover = { networks = [\"172.18.0.0/16\", \"fd00::/64\"], most = 2, forget = \"60s\" }")
    }

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    fn addrs(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|a| a.parse().unwrap()).collect()
    }

    fn hear(m: &mut Members, s: &Service, heard: &[&str], now: Instant) -> News {
        m.hear(s, Some(&words(heard)), &["172.18.0.201".parse().unwrap()], now)
    }

    #[test]
    fn members_that_the_file_does_not_name_are_new_once() {
        let (s, now, mut m) = (open(), Instant::now(), Members::default());
        let heard = ["172.18.0.2:3306", "172.18.0.3:3307", "[fd00::4]:0", "172.18.0.3:3307"];
        let news = hear(&mut m, &s, &heard, now);
        assert_eq!(news, News { new: addrs(&["172.18.0.3:3307", "[fd00::4]:3306"]), ..News::default() });
        news.new.into_iter().for_each(|addr| m.take(addr));
        assert_eq!(hear(&mut m, &s, &heard, now), News::default());
    }

    #[test]
    fn nobody_is_sent_where_the_file_does_not_allow_it_and_each_refusal_is_told_once() {
        let (s, now, mut m) = (open(), Instant::now(), Members::default());
        let heard = ["10.0.0.1:3306", "172.18.0.201:3306", "db3.example:3306"];
        let news = hear(&mut m, &s, &heard, now);
        let why: Vec<_> = news.unfit.iter().map(|(_, why)| *why).collect();
        assert_eq!(why, [Unfit::Elsewhere, Unfit::Virtual, Unfit::NoAddress]);
        assert!(news.new.is_empty());
        assert_eq!(hear(&mut m, &s, &heard, now), News::default());
    }

    #[test]
    fn there_are_never_more_than_allowed() {
        let (s, now, mut m) = (open(), Instant::now(), Members::default());
        let news = hear(&mut m, &s, &["172.18.0.3:3306", "172.18.0.4:3306", "172.18.0.5:3306"], now);
        assert_eq!(news.new, addrs(&["172.18.0.3:3306", "172.18.0.4:3306"]));
        assert_eq!(news.unfit, [("172.18.0.5:3306".to_owned(), Unfit::TooMany)]);
    }

    #[test]
    fn a_node_that_restarts_stays_and_one_that_has_left_is_forgotten() {
        let (s, start, mut m) = (open(), Instant::now(), Members::of(addrs(&["172.18.0.3:3306"])));
        let both = ["172.18.0.2:3306", "172.18.0.3:3306"];
        assert_eq!(hear(&mut m, &s, &both[..1], start), News::default());
        assert_eq!(hear(&mut m, &s, &both, start + 59 * SECOND), News::default());
        assert_eq!(hear(&mut m, &s, &both[..1], start + 60 * SECOND), News::default());
        // While nobody knows, nobody is forgotten.
        assert_eq!(m.hear(&s, None, &[], start + 200 * SECOND), News::default());
        let news = hear(&mut m, &s, &both[..1], start + 200 * SECOND);
        assert_eq!(news.gone, addrs(&["172.18.0.3:3306"]));
        assert_eq!(m, Members::default());
    }

    #[test]
    fn who_could_not_be_taken_in_is_tried_again_later() {
        let (s, now, mut m) = (open(), Instant::now(), Members::default());
        let heard = ["172.18.0.3:3306"];
        for addr in hear(&mut m, &s, &heard, now).new {
            m.fail(addr, now);
        }
        assert_eq!(hear(&mut m, &s, &heard, now + 59 * SECOND), News::default());
        assert_eq!(hear(&mut m, &s, &heard, now + 60 * SECOND).new, addrs(&heard));
    }

    #[test]
    fn what_a_new_file_names_or_does_not_allow_any_more_is_discovered_no_longer() {
        let (now, there) = (Instant::now(), addrs(&["172.18.0.3:3306"]));
        let named = service("discover = { networks = [\"172.18.0.0/16\"] }");
        let named = Service {
            backends: vec![crate::config::model::Backend { addr: there[0], ..named.backends[0].clone() }],
            ..named
        };
        let elsewhere = service("discover = { networks = [\"172.19.0.0/16\"] }");
        for s in [named, elsewhere, service("")] {
            let mut m = Members::of(there.clone());
            assert_eq!(m.hear(&s, None, &[], now), News { gone: there.clone(), ..News::default() });
            assert_eq!(m, Members::default());
        }
    }
}
