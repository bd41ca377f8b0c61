//! `bench forward`: what connections and bytes cost through viplb, beside none, nftables and HAProxy.
//!
//! Client, balancers and backend are namespaces on one switch; each balancer has one leg and the same backend. In each round
//! every load goes by each way once, a slice of a second, one after the other: what the machine does meanwhile hits all. Ratios
//! are of one round. Client and backend run on the same processors and take most of the time, so a ratio tells what a user of
//! one machine sees, not what the balancer alone costs (that is `bench program`).

mod load;
mod server;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::Args;
use lb_userspace::{config::model::Hook, vrrp::BootTime};

use self::load::Load;
use super::row::Row;
use crate::{
    console::Console,
    packets::{Family, PORT},
    wire::{Node, Wire, traffic::owner},
};

const NAME: &str = "forward";
/// Room for the flows of all slices.
const FLOWS: u32 = 262_144;
const DIRECT: &str = "direct";
const VIPLB: &str = "viplb";
const NFTABLES: &str = "nftables";
const HAPROXY: &str = "haproxy";

/// New connections, requests and bulk through viplb, beside none, nftables and HAProxy
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Rounds.
    #[arg(long, default_value_t = 11)]
    pub runs: usize,
    /// Length of a slice in milliseconds.
    #[arg(long, default_value_t = 1000)]
    pub slice_ms: u64,
    /// Leave out nftables and HAProxy.
    #[arg(long)]
    pub no_peers: bool,
}

/// What the ways gave, by figure and by way, a value a round.
#[derive(Default)]
struct Figures(BTreeMap<(Figure, &'static str), Vec<f64>>);

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Figure {
    Connections,
    Requests,
    Upload,
    Download,
    P50,
    P99,
}

impl Figure {
    const ALL: [Self; 6] =
        [Self::Connections, Self::Requests, Self::Upload, Self::Download, Self::P50, Self::P99];

    /// In words, with the unit.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Connections => ("new connections with a request each", "1/s"),
            Self::Requests => ("requests on open connections", "1/s"),
            Self::Upload => ("bulk to the backend", "Gbit/s"),
            Self::Download => ("bulk from the backend", "Gbit/s"),
            Self::P50 => ("a request, p50", "us"),
            Self::P99 => ("a request, p99", "us"),
        }
    }

    /// More of it is better.
    fn is_rate(self) -> bool {
        !matches!(self, Self::P50 | Self::P99)
    }

    /// What viplb aims at: a peer's figure over viplb's at most, or viplb's over the peer's where less is better.
    fn target(self, peer: &str) -> Option<f64> {
        match (self, peer) {
            (Self::Connections, DIRECT) => Some(1.0 / 0.80),
            (Self::Requests, DIRECT) => Some(1.0 / 0.85),
            (Self::Upload | Self::Download, DIRECT) => Some(1.0 / 0.95),
            (Self::P50, DIRECT) => Some(1.1),
            (Self::Connections | Self::Requests, NFTABLES) => Some(1.0 / 1.2),
            _ => None,
        }
    }
}

/// Measures all ways.
pub fn run(options: &Options, console: &Console) -> Result<Vec<Row>> {
    ensure!(options.runs > 0 && options.slice_ms > 0, "nothing to measure");
    let wire = Wire::new("fw").context("the bench cannot run here")?;
    let _server = server::Server::start(&wire.host('s'), SocketAddr::new(Family::V4.backend(0), PORT))?;
    let mut node = wire.node_of('a', Hook::Auto, FLOWS, |_| {});
    node.set_lease(owner());
    let mut ways = vec![(DIRECT, Family::V4.backend(0)), (VIPLB, Family::V4.vip())];
    let _peers = (!options.no_peers).then(|| {
        wire.nftables('b');
        ways.extend([(NFTABLES, wire.own('b', Family::V4)), (HAPROXY, wire.own('h', Family::V4))]);
        wire.haproxy('h')
    });
    wire.host('c').sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
    let load = Load::new(&wire.host('c'), Duration::from_millis(options.slice_ms))?;
    let mut figures = Figures::default();
    for round in 1..=options.runs {
        console.say(format!("round {round} of {}", options.runs));
        for figure in [Figure::Connections, Figure::Requests, Figure::Upload, Figure::Download, Figure::P50] {
            for (way, addr) in &ways {
                console.go_on()?;
                let values = load.run(figure, SocketAddr::new(*addr, PORT));
                for (figure, value) in values.with_context(|| format!("{figure:?} by {way}"))? {
                    figures.0.entry((figure, *way)).or_default().push(value);
                }
                sweep(&mut node)?;
            }
        }
    }
    Ok(figures.rows(&ways.iter().map(|(way, _)| *way).collect::<Vec<_>>()))
}

/// What the daemon's collector does meanwhile.
fn sweep(node: &mut Node) -> Result<()> {
    let d = node.kernel();
    let all = d.collector.records();
    d.collector.sweep(d.tables.maps(), BootTime::now().0, all)?;
    Ok(())
}

impl Figures {
    fn rows(&self, ways: &[&'static str]) -> Vec<Row> {
        let mut rows = Vec::new();
        for figure in Figure::ALL {
            let of = |way| self.0.get(&(figure, way)).map_or(&[][..], Vec::as_slice);
            let (words, unit) = figure.words();
            let peers = ways.iter().filter(|way| **way != VIPLB);
            let row = Row::median(NAME, words, unit, of(VIPLB));
            rows.push(peers.clone().fold(row, |row, peer| row.beside(peer, of(peer))));
            for peer in peers {
                let (above, below) = if figure.is_rate() { (*peer, VIPLB) } else { (VIPLB, *peer) };
                let ratios: Vec<f64> = of(above).iter().zip(of(below)).map(|(a, b)| a / b).collect();
                let row = Row::median(NAME, format!("{words}: {above} / {below}"), "x", &ratios);
                rows.push(match figure.target(peer) {
                    Some(target) => row.at_most(target),
                    None => row,
                });
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_one_round_and_turned_so_that_less_is_better() {
        let mut figures = Figures::default();
        for (figure, way, values) in [
            (Figure::Connections, VIPLB, [800.0, 50.0, 900.0]),
            (Figure::Connections, DIRECT, [1000.0, 100.0, 1000.0]),
            (Figure::P50, VIPLB, [110.0, 10.0, 20.0]),
            (Figure::P50, DIRECT, [100.0, 10.0, 10.0]),
        ] {
            figures.0.insert((figure, way), values.to_vec());
        }
        let rows = figures.rows(&[DIRECT, VIPLB]);
        let of = |words: &str| rows.iter().find(|row| row.figure == words).expect("a row");
        let connections = of("new connections with a request each: direct / viplb");
        assert_eq!((connections.value, connections.ok), (1.25, true));
        assert_eq!(of("a request, p50: viplb / direct").value, 1.1);
        assert!(!of("requests on open connections: direct / viplb").ok, "what was not measured is not met");
    }
}
