//! What happens to the owner in the failover bench, and what is promised for it.
//!
//! Every event is done to h1 and undone again; undoing it is an event too, since h1 has the higher priority and takes
//! the address back.

use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;

use super::scene::{Profile, Scene};
use crate::{
    console::Console,
    node::{self, Cut},
};

/// A fault of the owner, or its proper stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Event {
    /// Its daemon is asked to end (SIGTERM), and started again
    Stop,
    /// All its processes are frozen (SIGSTOP, as `docker pause` does), and go on
    Freeze,
    /// Its daemon is killed (SIGKILL), and started again
    Kill,
    /// Its cable is pulled (the carrier goes), and plugged in
    Cut,
    /// Its packets are lost both ways while the carrier stays, and pass again
    Partition,
}

impl Event {
    /// All of them.
    pub const ALL: [Event; 5] = [Event::Stop, Event::Freeze, Event::Kill, Event::Cut, Event::Partition];

    /// In a row: the event, and its undoing.
    pub fn words(self) -> [&'static str; 2] {
        match self {
            Event::Stop => ["stopped (SIGTERM)", "failback after the start"],
            Event::Freeze => ["frozen (SIGSTOP)", "failback after the resume"],
            Event::Kill => ["killed (SIGKILL)", "failback after the restart"],
            Event::Cut => ["cut off (no carrier)", "failback after the cable is back"],
            Event::Partition => ["partition (carrier stays)", "partition healed"],
        }
    }

    /// Time without an answer that is allowed, in ms: for the event, and for its undoing. A failback loses nothing; after
    /// a partition each side has had an owner, and one of them must first hear the other.
    pub fn targets_ms(self, profile: Profile) -> [f64; 2] {
        let event = match (profile, self) {
            (_, Event::Stop) => 20.0,
            (Profile::Default, _) => 500.0,
            (Profile::Fast, Event::Freeze | Event::Kill) => 100.0,
            (Profile::Fast, Event::Cut | Event::Partition) => 50.0,
        };
        [event, if self == Event::Partition { 1000.0 } else { 0.0 }]
    }

    /// How often it is done per run: a healed partition goes wrong only now and then.
    pub fn repeats(self) -> usize {
        if self == Event::Partition { 2 } else { 1 }
    }

    /// How long it goes on after h2 has taken over, at least. A node that is off the network stays so until its health
    /// checks have noticed (three, a second apart): what it does with its backends when it is back is a part of the figure.
    pub fn outlasts_takeover_by(self) -> Duration {
        match self {
            Event::Cut | Event::Partition => Duration::from_secs(4),
            Event::Stop | Event::Freeze | Event::Kill => Duration::ZERO,
        }
    }

    /// Does it to h1.
    pub fn strike(self, scene: &Scene, console: &Console) -> Result<()> {
        let (lab, h1) = (scene.lab(), scene.node("h1")?);
        match self {
            Event::Stop => node::stop(lab, &h1, console),
            Event::Freeze => node::pause(lab, &h1).map(drop),
            Event::Kill => node::kill(lab, &h1, console),
            Event::Cut => node::cut(lab, &h1, Cut::Carrier),
            Event::Partition => node::cut(lab, &h1, Cut::Silent),
        }
    }

    /// Undoes it.
    pub fn cure(self, scene: &Scene) -> Result<()> {
        let (lab, h1) = (scene.lab(), scene.node("h1")?);
        match self {
            Event::Stop | Event::Kill => scene.start(&h1),
            Event::Freeze => node::unpause(lab, &h1).map(drop),
            Event::Cut | Event::Partition => node::heal(lab, &h1),
        }
    }
}
