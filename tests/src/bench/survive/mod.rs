//! `bench survive`: how many established connections outlive what happens to the owner and its coming back, and how long their
//! applications wait, beside what Linux offers otherwise.
//!
//! Connections go through the virtual address of two balancers to four backends: half of them idle, half with a request after the
//! other, a quarter renewed just before each fault, and a few MySQL sessions inside transactions. In each round every fault is done
//! to h1 and undone; every connection is used after the fault and after the failback. Nothing is cleaned between rounds: what a
//! round has left in a table is there in the next. Scenes take turns, and only the one whose turn it is carries requests.

mod fault;
mod join;
pub mod peers;
pub mod rows;
pub mod scene;
pub mod server;
pub mod session;
pub mod talk;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

pub use self::fault::Fault;
use self::{
    peers::Peer,
    rows::{Counts, Outcome},
    scene::{Scene, Setup, Stack},
    talk::{Answer, Order},
};
use super::{row::Row, scene::Profile};
use crate::{
    console::{Console, stop_asked},
    proc,
};

/// Of the bench in its rows.
pub const NAME: &str = "survive";
/// Active connections have carried requests for so long before a fault, and after a failback.
const LEAD: Duration = Duration::from_millis(500);

/// Established connections through each fault of the owner and its failback, beside keepalived's
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Connections of each scene, sessions among them
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(16..=110_000))]
    pub connections: u32,
    /// MySQL sessions inside transactions among them
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(0..=64))]
    pub sessions: u32,
    /// Consecutive rounds of all faults, without cleaning anything between them
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: u16,
    /// Only these faults
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FAULT,…")]
    pub only: Vec<Fault>,
    /// Parameters of the election
    #[arg(long, value_enum, default_value_t = Profile::Default)]
    pub profile: Profile,
    /// Of viplb's replication, so many datagrams of a hundred are lost
    #[arg(long, default_value_t = 0, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=50))]
    pub loss: u8,
    /// Instead: how long a node that joins takes to have the owner's flows, which are so many
    #[arg(long, value_name = "FLOWS", value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    pub join: Option<u32>,
    /// viplb's service chooses backends by hash (`mh`), and a new owner adopts connections that it does not know
    #[arg(long)]
    pub adopt: bool,
    /// viplb's service is a strict one: a client hears of its connection once the other node has it
    #[arg(long)]
    pub strict: bool,
    /// Without HAProxy and conntrackd beside it
    #[arg(long)]
    pub no_peers: bool,
}

impl Options {
    fn faults(&self) -> Vec<Fault> {
        let chosen = |fault: &Fault| self.only.is_empty() || self.only.contains(fault);
        Fault::ALL.into_iter().filter(chosen).collect()
    }

    fn stacks(&self) -> Result<Vec<Stack>> {
        let mut stacks = vec![Stack::Viplb];
        for peer in [Peer::Haproxy, Peer::Conntrackd].into_iter().filter(|_| !self.no_peers) {
            if let Some((_, package)) =
                peer.needs().iter().find(|(program, _)| proc::which(program).is_none())
            {
                bail!(
                    "{} cannot be compared with: install the package {package}, or give --no-peers",
                    peer.words()
                );
            }
            stacks.push(Stack::Peer(peer));
        }
        Ok(stacks)
    }
}

/// Runs the bench in labs whose prefixes begin with `prefix`.
pub fn run(options: &Options, prefix: &str, console: &Console) -> Result<Vec<Row>> {
    if let Some(flows) = options.join {
        return join::run(options, flows, prefix, console);
    }
    let setup = Setup {
        held: 0,
        profile: options.profile,
        connections: options.connections,
        sessions: options.sessions,
        loss: options.loss,
        adopt: options.adopt,
        strict: options.strict,
    };
    let mut scenes = Vec::new();
    for stack in options.stacks()? {
        let scene = Scene::raise(&format!("{prefix}{}", scenes.len()), stack, setup, console)?;
        console.say(format!("{}: raised, {} connections", scene.title(), options.connections));
        scenes.push(scene);
    }
    // Peers that did not come back to order.
    let mut out = Vec::new();
    let mut outcomes = Vec::new();
    for round in 1..=options.rounds {
        for fault in options.faults() {
            for scene in &mut scenes {
                if round > rounds_of(scene.stack) || out.contains(&scene.stack) {
                    continue;
                }
                let outcome = match cycle(scene, fault, options.connections / 4, console) {
                    Err(e) if scene.stack != Stack::Viplb && !stop_asked() => {
                        console.say(format!("round {round}/{}  it goes no further: {e:#}", options.rounds));
                        out.push(scene.stack);
                        continue;
                    }
                    outcome => outcome?,
                };
                console.say(format!("round {round}/{}  {}", options.rounds, outcome.line()));
                outcomes.push(outcome);
            }
        }
    }
    Ok(rows::rows(&outcomes, options, &scenes.iter().map(|scene| scene.stack).collect::<Vec<_>>()))
}

/// HAProxy keeps no connection, so that further rounds of it say nothing; and each waits for those that hang. What conntrackd loses of
/// later rounds shows in the third.
fn rounds_of(stack: Stack) -> u16 {
    match stack {
        Stack::Viplb => u16::MAX,
        Stack::Peer(Peer::Haproxy) => 1,
        Stack::Peer(_) => 3,
    }
}

/// One fault and its failback. With a scene that does not come back to order it is over: connections of the next fault would tell
/// of this one.
pub fn cycle(scene: &mut Scene, fault: Fault, young: u32, console: &Console) -> Result<Outcome> {
    scene.settle(console)?;
    scene.tell(Order::Talk)?;
    rest(LEAD, console)?;
    scene.tell(Order::Renew(young))?;
    let begun = scene.tell(Order::Mark)?;

    fault.strike(scene, console).with_context(|| format!("{fault:?}"))?;
    let since = Instant::now();
    scene.wait_owner(fault.owner(), console)?;
    rest(LEAD, console)?;
    let faulted = scene.tell(Order::Use)?;
    explain(scene, &faulted, console)?;
    // An application would open what it has lost anew.
    scene.fill_in_trouble(console)?;
    rest(fault.outlasts_takeover_by().saturating_sub(since.elapsed()), console)?;

    let again = scene.tell(Order::Mark)?;
    fault.cure(scene)?;
    scene.settle(console)?;
    rest(LEAD, console)?;
    let back = scene.tell(Order::Use)?;
    explain(scene, &back, console)?;
    scene.tell(Order::Fill)?;
    scene.tell(Order::Rest)?;
    Ok(Outcome {
        stack: scene.stack,
        fault,
        young: begun.young,
        phases: [counts(&begun, &faulted), counts(&again, &back)],
    })
}

/// What viplb's nodes say of themselves when a connection was lost.
fn explain(scene: &Scene, answer: &Answer, console: &Console) -> Result<()> {
    if scene.stack != Stack::Viplb || answer.lost + answer.sessions_lost == 0 {
        return Ok(());
    }
    for name in ["h1", "h2"] {
        match scene.status(name) {
            Ok(status) => {
                let packets = status["packets"].as_array().map_or(&[][..], Vec::as_slice);
                let refused = packets.iter().filter(|p| p["kind"] == "refused" || p["kind"] == "dropped");
                let refused: Vec<_> = refused.map(|p| format!("{} {}", p["count"], p["reason"])).collect();
                console.say(format!("{name}: {}; {}", refused.join(", "), status["sync"]));
            }
            Err(e) => console.say(format!("{name}: {e:#}")),
        }
    }
    Ok(())
}

fn counts(before: &Answer, after: &Answer) -> Counts {
    Counts {
        of: before.alive + before.sessions,
        lost: after.lost + after.sessions_lost,
        sessions_lost: after.sessions_lost,
        stalls_ms: after.stalls_ms.clone(),
        why: after.why.clone(),
    }
}

/// A wait that Ctrl-C ends.
fn rest(length: Duration, console: &Console) -> Result<()> {
    console.wait_for(length, || Ok(false)).map(drop)
}
