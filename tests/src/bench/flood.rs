//! `bench flood`: 200,000 idle connections through one service outlive a flood of requests from made-up addresses, and new
//! ones still come through: real sockets in namespaces on one switch.
//!
//! The connections are opened, held idle for longer than half-open flows live, while the flood goes on, and used again. A
//! process may have some 20,000 of them open, so each address of the client and each backend is one. The collector sweeps as
//! the daemon's does. At the end every packet that came in must have a reason. Then the same flood comes upon the backends
//! themselves, without a balancer in between: what that does to their clients is the measure.

mod attack;
pub mod sockets;

use std::{
    net::{IpAddr, Ipv4Addr},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use lb_common::service::Backend;
use lb_userspace::{config::model::Hook, datapath::tables::Desired, vrrp::BootTime};

use super::row::Row;
use crate::{
    console::Console,
    packets::Family,
    wire::{Node, Wire, traffic::owner},
};

const NAME: &str = "flood";
/// The peer: no balancer.
const DIRECT: &str = "direct";
/// Connections of one process at either end.
const EACH: u32 = 16_000;
/// Room for established flows.
const ROOM: u32 = 262_144;
/// The daemon's: a part of the table at a time.
const SWEEP: (Duration, u32) = (Duration::from_millis(250), 16);

/// Idle connections through a flood of requests from made-up addresses
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Connections that are opened, held and used again.
    #[arg(long, default_value_t = 200_000)]
    pub flows: u32,
    /// Requests from made-up addresses.
    #[arg(long, default_value_t = 5_000_000)]
    pub requests: u64,
    /// Seconds for which the connections are idle; half-open flows live for 60.
    #[arg(long, default_value_t = 75)]
    pub hold: u64,
    /// Without the flood upon the backends themselves.
    #[arg(long)]
    pub no_direct: bool,
}

/// What the bench has counted.
struct Counts {
    lost: u64,
    queues: u64,
    flooded: u64,
    clients: attack::Clients,
    /// Without a balancer.
    direct: Option<attack::Clients>,
    displaced: u64,
    unaccounted: i64,
}

/// Runs it once.
pub fn run(options: &Options, console: &Console) -> Result<Vec<Row>> {
    ensure!(options.flows > 0 && options.flows <= ROOM, "room for 1 to {ROOM} connections");
    let ends = u8::try_from(options.flows.div_ceil(EACH))?;
    let processors = attack::Processors::part().context("processors cannot be parted")?;
    let wire = Wire::new("fl").context("the bench cannot run here")?;
    prepare(&wire, ends)?;
    let mut node = wire.node_of('a', Hook::Auto, ROOM, |desired| several_backends(desired, ends));
    node.set_lease(owner());
    let echo = (0..ends).map(|i| sockets::Echo::start(&wire.host('s'), backend(i)));
    let _echo = echo.collect::<Result<Vec<_>>>()?;

    console.say(format!("opening {} connections", options.flows));
    let mut held = meanwhile(&mut node, console, {
        let (client, flows) = (wire.host('c'), options.flows);
        move || {
            let share = |i: u8| flows / u32::from(ends) + u32::from(u32::from(i) < flows % u32::from(ends));
            let held = (0..ends).map(|i| sockets::Held::start(&client, client_address(i), share(i)));
            let mut held = held.collect::<Result<Vec<_>>>()?;
            held.iter_mut().try_for_each(sockets::Held::opened)?;
            Ok(held)
        }
    })?;
    console.say(format!("{} requests from made-up addresses in {} s", options.requests, options.hold));
    let hold = Duration::from_secs(options.hold);
    let queues = lost_in_queues()?;
    let (attacker, client, requests) = (wire.host('b'), wire.host('c'), options.requests);
    let (processors, (flooded, clients)) = meanwhile(&mut node, console, {
        let (attacker, client) = (attacker.clone(), client.clone());
        let target = attack::Target { mac: wire.mac('a'), addresses: vec![v4(Family::V4.vip())] };
        move || {
            let met = attack::run((&attacker, &client), &target, requests, hold, &processors)?;
            Ok((processors, met))
        }
    })?;
    let queues = lost_in_queues()? - queues;
    say_reasons(console, "", &clients);
    console.say("using the connections again");
    let lost = meanwhile(&mut node, console, move || {
        held.iter_mut().try_for_each(sockets::Held::use_again)?;
        held.iter_mut().map(sockets::Held::lost).sum::<Result<u64>>()
    })?;
    let displaced = displaced(&mut node)?;
    let unaccounted = node.unaccounted().context("nothing can be said of the node's packets")?;
    let direct = if options.no_direct {
        None
    } else {
        console.say("the same without a balancer");
        let addresses = (0..ends).map(|i| v4(backend(i))).collect();
        let target = attack::Target { mac: wire.mac('s'), addresses };
        let (_, met) = attack::run((&attacker, &client), &target, requests, hold, &processors)?;
        say_reasons(console, " without a balancer", &met);
        Some(met)
    };
    Ok(rows(options, &Counts { lost, queues, flooded, clients, direct, displaced, unaccounted }))
}

fn say_reasons(console: &Console, how: &str, clients: &attack::Clients) {
    for (reason, n) in &clients.reasons {
        console.say(format!("{n} new connections failed{how}: {reason}"));
    }
}

fn rows(options: &Options, counts: &Counts) -> Vec<Row> {
    let row = |figure: &str, unit: &str, value: f64| Row::sum(NAME, figure, unit, value, 1);
    let count = |clients: &attack::Clients| clients.times.len() as f64;
    let beside = |row: Row, figure: &dyn Fn(&attack::Clients) -> f64| match &counts.direct {
        Some(direct) => row.beside_sum(DIRECT, figure(direct)),
        None => row,
    };
    let both = |name: &str, unit: &str, figure: &dyn Fn(&attack::Clients) -> f64| {
        beside(row(name, unit, figure(&counts.clients)), figure)
    };
    let mut rows = vec![
        row("idle connections held", "connections", f64::from(options.flows)),
        row("of these lost", "connections", counts.lost as f64).at_most(0.0),
        row("requests from made-up addresses", "packets", counts.flooded as f64),
        row("packets lost in this machine's queues meanwhile", "packets", counts.queues as f64),
        row("half-open flows displaced", "flows", counts.displaced as f64),
        both("connections opened meanwhile", "connections", &count),
        both("failed meanwhile", "connections", &|clients| clients.failed as f64).at_most(0.0),
        row("packets in that differ from the sum of reasons", "packets", counts.unaccounted.abs() as f64)
            .at_most(0.0),
    ];
    let median =
        Row::median(NAME, "a connection opened meanwhile, with a request", "ms", &counts.clients.times);
    let direct = counts.direct.as_ref().map_or(&[][..], |direct| &direct.times);
    rows.push(median.beside(DIRECT, direct));
    rows.push(both("the slowest but one in a hundred", "ms", &|clients| quantile(&clients.times, 0.99)));
    rows
}

/// What so great a part of the values does not exceed.
fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((part * last as f64).ceil() as usize).copied().unwrap_or(f64::NAN)
}

/// Runs `work` on a thread while the collector sweeps.
fn meanwhile<T: Send + 'static>(
    node: &mut Node,
    console: &Console,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let worker: JoinHandle<Result<T>> = thread::spawn(work);
    while !worker.is_finished() {
        let next = Instant::now() + SWEEP.0;
        let d = node.kernel();
        let part = d.collector.records().div_ceil(SWEEP.1);
        d.collector.sweep(d.tables.maps(), BootTime::now().0, part)?;
        console.go_on()?;
        while !worker.is_finished() && Instant::now() < next {
            thread::sleep(Duration::from_millis(5));
        }
    }
    worker.join().map_err(|_| anyhow!("a thread of the bench panicked"))?
}

/// Addresses and limits of the namespaces.
fn prepare(wire: &Wire, ends: u8) -> Result<()> {
    let (client, server, attacker) = (wire.host('c'), wire.host('s'), wire.host('b'));
    for i in 1..ends {
        client.ip(&format!("addr add {}/24 dev eth0", client_address(i)))?;
        server.ip(&format!("addr add {}/24 dev eth0", backend(i)))?;
    }
    client.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
    server.sysctl("net/core/somaxconn", "65535")?;
    // Answers to the made-up addresses go to the attacker, who says nothing to them.
    for host in ['a', 's'] {
        wire.host(host).ip(&format!("route add default via {}", wire.own('b', Family::V4)))?;
    }
    attacker.sysctl("net/ipv4/ip_forward", "0")
}

fn v4(addr: IpAddr) -> Ipv4Addr {
    match addr {
        IpAddr::V4(addr) => addr,
        IpAddr::V6(_) => unreachable!("the bench is of IPv4"),
    }
}

fn client_address(i: u8) -> IpAddr {
    Ipv4Addr::new(172, 18, 0, 100 + i).into()
}

fn backend(i: u8) -> IpAddr {
    Ipv4Addr::new(172, 18, 0, if i == 0 { 2 } else { 20 + i }).into()
}

/// All TCP connections of IPv4 to the backends in turn.
fn several_backends(desired: &mut Desired, ends: u8) {
    let one = desired.backends[0];
    let first = desired.backends.len() as u32;
    let more = (1..ends).map(|i| Backend { addr: backend(i).into(), ..one });
    desired.backends.extend(more);
    let service = desired.services.iter_mut().find(|s| s.addr == Family::V4.vip().into());
    let service = service.expect("the wire's service");
    service.ring = (first..first + u32::from(ends) - 1).chain([0]).collect();
}

/// Packets that found the queue between two interfaces full (`net.core.netdev_max_backlog`), before any program saw them.
fn lost_in_queues() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/net/softnet_stat").context("softnet_stat")?;
    let lost = text.lines().map(|line| {
        let word = line.split_whitespace().nth(1).context("softnet_stat has other columns")?;
        Ok(u64::from_str_radix(word, 16)?)
    });
    lost.sum()
}

fn displaced(node: &mut Node) -> Result<u64> {
    let maps = node.kernel().tables.maps();
    Ok(lb_userspace::datapath::counters::service(maps, 0)?.displaced)
}
