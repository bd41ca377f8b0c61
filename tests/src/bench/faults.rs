//! `bench faults`: what clients of a Galera cluster notice when one of its nodes fails or is taken out, beside HAProxy.
//!
//! viplb and two HAProxies (without and with `on-marked-down shutdown-sessions`) stand in front of the same three real nodes with the
//! same checks' intervals, and each fault strikes under the clients of all of them at once. What is measured is what a client
//! sees: the error of a session on the node, the time of a new connection until the answer to its first query.

mod checks;
mod load;
mod scene;
mod sessions;

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;

use self::{
    scene::{Product, Scene},
    sessions::Seen,
};
use super::row::Row;
use crate::{console::Console, galera, lab::Engine, node};

/// Of the bench in its rows.
pub const NAME: &str = "faults";

/// What clients notice of a Galera node that fails or is taken out, beside HAProxy
#[derive(Debug, Args)]
pub struct Options {
    /// How often each fault is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    pub runs: u16,
    /// Checks of one node, for what they leave in its counters; 0: none
    #[arg(long, default_value_t = 100_000)]
    pub checks: u32,
    /// Seconds of each run of sysbench; 0: without it
    #[arg(long, default_value_t = 15)]
    pub load: u16,
}

/// What happens to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Frozen,
    Cut,
    Killed,
}

impl Fault {
    const ALL: [Self; 3] = [Self::Frozen, Self::Cut, Self::Killed];

    fn word(self) -> &'static str {
        match self {
            Self::Frozen => "node frozen",
            Self::Cut => "node cut off",
            Self::Killed => "node killed",
        }
    }

    fn strike(self, scene: &Scene) -> Result<()> {
        let (lab, victim) = (scene.lab(), scene.victim()?);
        match self {
            Self::Frozen => node::pause(lab, &victim).map(drop),
            Self::Cut => node::cut(lab, &victim, node::Cut::Silent),
            Self::Killed => node::kill(lab, &victim, &Console::quiet()),
        }
    }

    fn cure(self, scene: &Scene) -> Result<()> {
        let (lab, victim) = (scene.lab(), scene.victim()?);
        match self {
            Self::Frozen => node::unpause(lab, &victim).map(drop),
            Self::Cut => node::heal(lab, &victim),
            Self::Killed => galera::restart_node(lab, &victim, &Console::quiet()),
        }
    }
}

/// Runs the bench in a lab of this prefix.
pub fn run(options: &Options, prefix: &str, console: &Console) -> Result<Vec<Row>> {
    let (engine, why) = galera::engine();
    ensure!(engine == Engine::Galera, "the bench needs a real cluster: {}", why.unwrap_or_default());
    let scene = Scene::raise(prefix, console)?;
    let mut rows = Vec::new();
    for fault in Fault::ALL {
        let mut seen: Vec<(Product, Seen)> = Vec::new();
        for run in 1..=options.runs {
            let outcome = struck(&scene, fault, console)?;
            for (product, one) in outcome {
                console.say(format!(
                    "run {run}/{}  {}, {}: {}",
                    options.runs,
                    fault.word(),
                    product.word(),
                    one.line()
                ));
                seen.push((product, one));
            }
        }
        rows.extend(of_fault(fault, &seen));
    }
    if options.load > 0 {
        let length = Duration::from_secs(options.load.into());
        rows.extend(load::drained(&scene, options.runs, length, console)?);
        rows.extend(load::single_writer(&scene, options.runs, length, console)?);
    }
    if options.checks > 0 {
        console.say(format!("{} checks of one node", options.checks));
        rows.extend(checks::run(&scene, options.checks)?);
    }
    Ok(rows)
}

/// One fault and its cure; what the clients of each product saw of the fault.
fn struck(scene: &Scene, fault: Fault, console: &Console) -> Result<Vec<(Product, Seen)>> {
    scene.settle(console)?;
    let watch = sessions::Watch::start(scene)?;
    fault.strike(scene)?;
    let seen = watch.finish(console);
    fault.cure(scene)?;
    seen
}

fn of_fault(fault: Fault, seen: &[(Product, Seen)]) -> Vec<Row> {
    let of = |product: Product, figure: fn(&Seen) -> Vec<f64>| -> Vec<f64> {
        seen.iter().filter(|(of, _)| *of == product).flat_map(|(_, seen)| figure(seen)).collect()
    };
    // The longest of all runs and sessions counts, not their median: each is a user who waits.
    let worst = |name: &str, figure: fn(&Seen) -> Vec<f64>| {
        let longest = |product| of(product, figure).into_iter().fold(f64::NAN, f64::max);
        let n = of(Product::Viplb, figure).len();
        let row = Row::sum(NAME, format!("{}: {name}", fault.word()), "ms", longest(Product::Viplb), n);
        Product::PEERS.iter().fold(row, |row, peer| row.beside_sum(peer.word(), longest(*peer)))
    };
    let total = |name: &str, figure: fn(&Seen) -> Vec<f64>| {
        let sum = |product| of(product, figure).iter().sum::<f64>();
        let n = of(Product::Viplb, figure).len();
        let row = Row::sum(NAME, format!("{}: {name}", fault.word()), "connections", sum(Product::Viplb), n);
        Product::PEERS.iter().fold(row, |row, peer| row.beside_sum(peer.word(), sum(*peer)))
    };
    let slow = if fault == Fault::Killed { 300.0 } else { 1500.0 };
    vec![
        worst("an idle session's error, at the latest after", |s| s.idle.clone()).at_most(slow),
        worst("a busy session's error, at the latest after", |s| s.busy.clone()).at_most(slow),
        total("new connections", |s| vec![s.tried as f64]),
        total("new connections that failed", |s| vec![s.failed as f64]).at_most(0.0),
        worst("a new connection and its first answer take at most", |s| s.opened.clone()).at_most(1200.0),
    ]
}
