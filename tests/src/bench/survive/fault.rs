//! What happens to the owner in the bench of survivors, and its undoing. Whatever is done, the programs that a node runs for its
//! purpose (viplb, or keepalived with HAProxy or conntrackd) are struck together, as a container's are.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::ValueEnum;
use nix::sys::signal::Signal;

use super::scene::Scene;
use crate::{
    console::Console,
    node::{self, Cut},
    proc,
};

/// Processes that are told to end have this long.
const END_LIMIT: Duration = Duration::from_secs(30);

/// A fault of the owner, or its proper stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Fault {
    /// Nothing: what the bench itself makes of it, by using all connections at once
    Nothing,
    /// Its programs are asked to end (SIGTERM), and started again
    Stop,
    /// Its programs are killed (SIGKILL), and started again
    Kill,
    /// All its processes are frozen (SIGSTOP, as `docker pause` does), and go on
    Freeze,
    /// Its cable is pulled (the carrier goes), and plugged in
    Cut,
    /// The two balancers do not hear each other, while all others hear both; then they do again
    Partition,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Nothing, Self::Stop, Self::Kill, Self::Freeze, Self::Cut, Self::Partition];

    /// In a row: the fault, and the failback after its undoing.
    pub fn words(self) -> [&'static str; 2] {
        match self {
            Self::Nothing => ["nothing", "nothing again"],
            Self::Stop => ["stopped (SIGTERM)", "started again"],
            Self::Kill => ["killed (SIGKILL)", "restarted"],
            Self::Freeze => ["frozen (SIGSTOP)", "resumed"],
            Self::Cut => ["cut off (no carrier)", "cable is back"],
            Self::Partition => ["balancers parted", "partition healed"],
        }
    }

    /// Whether the address is handed over by one living node to another: at the fault, and at the failback.
    pub fn is_planned(self) -> [bool; 2] {
        [self == Self::Stop, !matches!(self, Self::Nothing | Self::Partition)]
    }

    /// How long it goes on after the other node has taken over, at least: a node that is off the network stays so until
    /// its health checks have noticed.
    pub fn outlasts_takeover_by(self) -> Duration {
        match self {
            Self::Cut | Self::Partition => Duration::from_secs(4),
            Self::Nothing | Self::Stop | Self::Kill | Self::Freeze => Duration::ZERO,
        }
    }

    /// Who owns the address then.
    pub fn owner(self) -> &'static str {
        if self == Self::Nothing { "h1" } else { "h2" }
    }

    /// Does it to h1.
    pub fn strike(self, scene: &Scene, console: &Console) -> Result<()> {
        let (lab, h1) = (scene.lab(), scene.lab().node("h1")?);
        match self {
            Self::Nothing => Ok(()),
            Self::Stop => end(scene, Signal::SIGTERM, console),
            Self::Kill => end(scene, Signal::SIGKILL, console),
            Self::Freeze => node::pause(lab, &h1).map(drop),
            Self::Cut => node::cut(lab, &h1, Cut::Carrier),
            Self::Partition => scene.part(),
        }
    }

    /// Undoes it.
    pub fn cure(self, scene: &Scene) -> Result<()> {
        let (lab, h1) = (scene.lab(), scene.lab().node("h1")?);
        match self {
            Self::Nothing => Ok(()),
            Self::Stop | Self::Kill => scene.start(&h1),
            Self::Freeze => node::unpause(lab, &h1).map(drop),
            Self::Cut => node::heal(lab, &h1),
            Self::Partition => scene.join(),
        }
    }
}

fn end(scene: &Scene, signal: Signal, console: &Console) -> Result<()> {
    let (lab, h1) = (scene.lab(), scene.lab().node("h1")?);
    let pids = node::daemon_pids(lab, &h1);
    let asked = if signal == Signal::SIGKILL { pids.clone() } else { proc::leaders(&pids) };
    proc::signal(&asked, signal);
    let gone = || pids.iter().all(|pid| proc::has_ended(*pid)) && node::daemon_pids(lab, &h1).is_empty();
    if !console.wait_for(END_LIMIT, || Ok(gone()))? {
        bail!("{}: a program of h1 is still there {END_LIMIT:?} after {signal}", scene.title());
    }
    Ok(())
}
