//! `cargo xtask build`: toolchain, packet programs, then the daemon and the lab that embed and use them.
//!
//! The other subcommands build through [`all`] and [`daemon`]. Nothing here decides whether a rebuild is
//! due; cargo does.

use anyhow::{Context, Result};

use crate::paths::Paths;
use crate::toolchain::Purpose;
use crate::{bpf, install, process};

/// Build the packet programs, the daemon `viplb` and the lab `viplb-lab`
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Optimise fully, for production and measurements
    #[arg(long)]
    release: bool,
    /// Build the daemon whose maps have another layout, too: tests go over to it and come back
    #[arg(long)]
    other_layout: bool,
    #[command(flatten)]
    install: install::Options,
}

/// Runs the subcommand.
pub fn run(paths: &Paths, options: Options) -> Result<()> {
    install::ensure(paths, Purpose::Build, options.install)?;
    if options.other_layout {
        other_layout(paths)?;
    }
    all(paths, options.release)
}

/// The packet programs, the daemon and the lab.
pub fn all(paths: &Paths, release: bool) -> Result<()> {
    bpf::build(paths)?;
    userspace(paths, &["--package", "lb-userspace", "--package", "lb-tests", "--bins"], release)
}

/// The packet programs and the daemon.
pub fn daemon(paths: &Paths, release: bool) -> Result<()> {
    bpf::build(paths)?;
    userspace(paths, &["--package", "lb-userspace", "--bins"], release)
}

/// The daemon whose maps have another layout. It shares all but this workspace's own crates with the daemon.
pub fn other_layout(paths: &Paths) -> Result<()> {
    bpf::build_other_layout(paths)?;
    let features = ["--features", "other-layout", "--bin", "viplb-other-layout"];
    userspace(paths, &[&["--package", "lb-userspace"], &features[..]].concat(), false)
}

fn userspace(paths: &Paths, selection: &[&str], release: bool) -> Result<()> {
    let mut command = process::cargo(paths);
    command.arg("build").args(selection);
    if release {
        command.arg("--release");
    }
    process::run(&mut command).context("viplb does not build")
}
