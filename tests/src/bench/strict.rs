//! `bench strict`: what a connection costs more whose client hears of it only once a peer has the flow (`sync = "strict"`).
//!
//! A pair of nodes has the same two backends behind two ports, one service strict and the other not. A client opens connections one
//! after the other, to either in turn and to a backend itself, so that each ratio is of the same moment.

use std::{
    collections::BTreeMap,
    io::Read,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use socket2::SockRef;

use super::row::Row;
use crate::{
    console::Console,
    expect::wait_until,
    hosts::{Daemon, Hosts, LIMIT},
};

const NAME: &str = "strict";
const VIP: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 201);
const NODES: [(&str, Ipv4Addr, u8); 2] =
    [("n1", Ipv4Addr::new(172, 18, 0, 7), 101), ("n2", Ipv4Addr::new(172, 18, 0, 8), 100)];
const BACKENDS: [(&str, Ipv4Addr); 2] =
    [("d1", Ipv4Addr::new(172, 18, 0, 2)), ("d2", Ipv4Addr::new(172, 18, 0, 3))];
const PORT: u16 = 3306;
const STRICT_PORT: u16 = 3307;
/// Connections of each kind before those that are timed.
const WARM_UP: usize = 50;

/// What `sync = "strict"` costs a new connection
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Measurements of so many connections of each kind
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub runs: u16,
    /// Connections of each kind
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    pub connections: u32,
}

/// Where connections go.
#[derive(Debug, Clone, Copy)]
enum Way {
    Straight,
    Usual,
    Strict,
}

impl Way {
    const ALL: [Self; 3] = [Self::Straight, Self::Usual, Self::Strict];

    fn to(self) -> SocketAddr {
        match self {
            Self::Straight => (BACKENDS[0].1, PORT).into(),
            Self::Usual => (VIP, PORT).into(),
            Self::Strict => (VIP, STRICT_PORT).into(),
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Straight => "straight at a backend",
            Self::Usual => "through the pair",
            Self::Strict => "through the pair, strict",
        }
    }
}

/// Median and 99th percentile of one run, ms.
#[derive(Debug, Clone, Copy)]
struct Times {
    median: f64,
    p99: f64,
}

/// Runs the bench.
pub fn run(options: &Options, console: &Console) -> Result<Vec<Row>> {
    let mut hosts = Hosts::new(NAME).context("the bench cannot run here")?;
    let nodes = NODES.map(|(name, address, _)| (name, address));
    let client = ("c", Ipv4Addr::new(172, 18, 0, 100));
    for (name, address) in BACKENDS.into_iter().chain(nodes).chain([client]) {
        hosts.plug(name, "eth0", &[&format!("{address}/16")], "x");
    }
    let _servers: Vec<_> =
        BACKENDS.iter().zip(1..).map(|((n, a), i)| hosts.serve(n, (*a, PORT).into(), i)).collect();
    hosts.secret("sync.key", "1 0123456789abcdef0123456789abcdef\n");
    let owner = start(&hosts, 0);
    owner.wait_master();
    let _other = start(&hosts, 1);
    wait_until("the nodes have met", LIMIT, || {
        owner.status().sync.is_some_and(|s| s.peers[0].state == "alive")
    });
    let before = held(&owner)?;
    let mut times: [Vec<Times>; 3] = Default::default();
    for run in 0..options.runs {
        let measured = hosts.host("c").run(|| measure(options.connections as usize))??;
        let line =
            Way::ALL.iter().zip(&measured).map(|(way, t)| format!("{} {:.3} ms", way.words(), t.median));
        console.say(format!("run {}/{}: {}", run + 1, options.runs, line.collect::<Vec<_>>().join(", ")));
        for (all, one) in times.iter_mut().zip(measured) {
            all.push(one);
        }
    }
    let mut held = held(&owner)?;
    held.iter_mut().for_each(|(name, count)| *count -= before.get(name).copied().unwrap_or_default());
    Ok(rows(&times, &held, options))
}

fn start(hosts: &Hosts, which: usize) -> Daemon {
    let ((name, _, priority), (_, peer, _)) = (NODES[which], NODES[1 - which]);
    let service = |name: &str, port: u16, more: &str| {
        let backends =
            BACKENDS.map(|(_, a)| format!("[[service.{name}.backend]]\naddress = \"{a}:{PORT}\"\n"));
        format!(
            "[service.{name}]\nlisten = \"{VIP}:{port}\"\n{more}\n{}[service.{name}.check]\ntype = \"tcp\"\nrise = 1\n",
            backends.concat()
        )
    };
    let daemon = hosts.start_with_room(
        name,
        65_536,
        &format!(
            "[vrrp.vip]\ninterface = \"eth0\"\nvirtual_router_id = 51\npriority = {priority}\nversion = 3\n\
             advert_int = \"100ms\"\nvirtual_ipaddress = [\"{VIP}\"]\n\
             [sync]\npeers = [\"{peer}\"]\nkey_file = \"sync.key\"\n{}{}",
            service("usual", PORT, ""),
            service("strict", STRICT_PORT, "sync = \"strict\""),
        ),
    );
    daemon.wait_up("usual", BACKENDS.len());
    daemon.wait_up("strict", BACKENDS.len());
    daemon
}

/// What has become of SYN-ACKs that waited, by name.
fn held(owner: &Daemon) -> Result<BTreeMap<String, u64>> {
    Ok(owner.status().sync.context("it replicates")?.strict)
}

/// Opens connections of each kind in turn.
fn measure(connections: usize) -> Result<[Times; 3]> {
    let mut times: [Vec<f64>; 3] = Default::default();
    for i in 0..WARM_UP + connections {
        for (way, times) in Way::ALL.into_iter().zip(&mut times) {
            let took = connect(way.to()).with_context(|| format!("{}: {}", way.words(), way.to()))?;
            if i >= WARM_UP {
                times.push(took.as_secs_f64() * 1e3);
            }
        }
    }
    Ok(times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        Times { median: times[times.len() / 2], p99: times[times.len() * 99 / 100] }
    }))
}

/// How long a connection took to be established. It is ended by RST, so that its port is free again.
fn connect(to: SocketAddr) -> Result<Duration> {
    let begun = Instant::now();
    let mut stream = TcpStream::connect_timeout(&to, LIMIT)?;
    let took = begun.elapsed();
    stream.set_read_timeout(Some(LIMIT))?;
    let read = stream.read(&mut [0])?;
    ensure!(read == 1, "it was closed");
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    Ok(took)
}

fn rows(times: &[Vec<Times>; 3], held: &BTreeMap<String, u64>, options: &Options) -> Vec<Row> {
    let of =
        |way: Way, pick: fn(&Times) -> f64| -> Vec<f64> { times[way as usize].iter().map(pick).collect() };
    let mut rows = Vec::new();
    for way in Way::ALL {
        let figure = |what: &str| format!("connect {}, {what}", way.words());
        rows.push(Row::median(NAME, figure("median"), "ms", &of(way, |t| t.median)));
        rows.push(Row::median(NAME, figure("p99"), "ms", &of(way, |t| t.p99)));
    }
    let ratios: Vec<f64> =
        of(Way::Strict, |t| t.median).iter().zip(of(Way::Usual, |t| t.median)).map(|(a, b)| a / b).collect();
    rows.push(Row::median(NAME, "strict over usual, medians of a run", "x", &ratios));
    rows.extend(held.iter().map(|(name, count)| {
        Row::sum(NAME, format!("SYN-ACKs that waited: {name}"), "packets", *count as f64, options.runs.into())
    }));
    rows
}
