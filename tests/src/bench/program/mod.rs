//! `bench program`: what a packet costs in the loaded programs, beside what any program costs (`BPF_PROG_TEST_RUN`).
//!
//! A test run repeats a program on one frame and does not restore it, and a translated frame belongs to no known flow. So a
//! feeding program (`lb-ebpf/src/bench`) writes the frame of the next flow and goes on by a tail call in the program that is
//! measured. Its own cost is measured in the same round with a bare program behind it: a figure is *(feed + viplb) − (feed +
//! bare) + bare*, with the bare program of the verdict that viplb comes to (redirect, drop, pass; for a refusal drop). Rounds are interleaved,
//! and ratios are of one round. The kernel gives whole nanoseconds; what follows a redirect (route, neighbour, device) is no
//! part of a test run, for viplb as for the bare program.

mod kernel;
mod world;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::Args;

use self::{kernel::Kernel, world::Case};
use super::row::Row;
use crate::console::Console;

const NAME: &str = "program";
/// Bytes of kernel memory for a flow.
const TARGET_BYTES: f64 = 350.0;

/// What a packet costs in the packet programs, beside bare ones; kernel memory of a flow
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// How often each figure is measured.
    #[arg(long, default_value_t = 11)]
    pub runs: usize,
    /// Packets of a run.
    #[arg(long, default_value_t = 1_000_000)]
    pub packets: u32,
    /// Only the cases whose names contain this.
    #[arg(long, default_value = "")]
    pub only: String,
    /// The bare programs and the feeding one, as `cargo xtask build` makes them.
    #[arg(long, hide = true)]
    pub object: PathBuf,
}

/// Figures of one case, ns a packet, a value a round.
#[derive(Default)]
struct Figures {
    viplb: Vec<f64>,
    bare: Vec<f64>,
    tx: Vec<f64>,
    ratio: Vec<f64>,
}

/// Measures all cases.
pub fn run(options: &Options, prefix: &str, console: &Console) -> Result<Vec<Row>> {
    ensure!(options.runs > 0 && options.packets > 0, "nothing to measure");
    let mut rows = Vec::new();
    for case in world::cases().into_iter().filter(|case| case.name().contains(&options.only)) {
        console.say(case.name());
        let mut kernel = Kernel::open(prefix, &options.object, &case)?;
        let mut figures = Figures::default();
        for _ in 0..options.runs {
            console.go_on()?;
            round(&mut kernel, &case, options.packets, &mut figures).with_context(|| case.name())?;
        }
        rows.extend(figures.rows(&case));
        kernel.close()?;
    }
    if options.only.is_empty() {
        rows.push(memory(prefix, options)?);
    }
    Ok(rows)
}

/// All sides of a case once, one after the other.
fn round(kernel: &mut Kernel, case: &Case, packets: u32, figures: &mut Figures) -> Result<()> {
    let bare = kernel.bare(case.bare(), packets)?;
    let tx = kernel.bare_tx(packets)?;
    let fed_bare = kernel.fed(case, packets)?;
    let fed_viplb = if case.is_new() {
        // Each batch finds none of the flows of the one before.
        let batches = packets.div_ceil(case.flows);
        let mut sum = 0.0;
        for _ in 0..batches {
            sum += kernel.fed_viplb(case, case.flows)?;
            kernel.forget()?;
        }
        sum / f64::from(batches)
    } else {
        kernel.fed_viplb(case, packets)?
    };
    let viplb = fed_viplb - fed_bare + bare;
    figures.viplb.push(viplb);
    figures.bare.push(bare);
    figures.tx.push(tx);
    figures.ratio.push(viplb / bare);
    Ok(())
}

impl Figures {
    fn rows(&self, case: &Case) -> Vec<Row> {
        let bare = format!("bare {}", case.bare().word());
        let nanoseconds = Row::median(NAME, case.name(), "ns", &self.viplb)
            .beside(&bare, &self.bare)
            .beside("bare XDP_TX", &self.tx);
        let ratio = Row::median(NAME, format!("{} / {bare}", case.name()), "x", &self.ratio);
        let ratio = match case.target() {
            Some(target) => ratio.at_most(target),
            None => ratio,
        };
        vec![nanoseconds, ratio]
    }
}

/// Kernel memory of the maps that hold flows, elements' and buckets' overhead included, by the room for flows: they
/// are allocated as a whole when they are made.
fn memory(prefix: &str, options: &Options) -> Result<Row> {
    let kernel = Kernel::open(prefix, &options.object, &world::largest())?;
    let bytes = kernel.flow_memory()?;
    let flows = kernel.room();
    kernel.close()?;
    Ok(Row::sum(NAME, "kernel memory of an IPv4 flow", "bytes", bytes as f64 / f64::from(flows), 1)
        .at_most(TARGET_BYTES))
}

/// Nanoseconds of a duration that the kernel gives.
fn ns(duration: Duration) -> f64 {
    duration.as_nanos() as f64
}
