//! `cargo xtask lint`: formatting and clippy, on the host and on the BPF target.
//!
//! The entry points of the packet programs exist only on the BPF target, where `cargo clippy` cannot go:
//! its libraries are another compiler's. Called by `.ci/run`.

use anyhow::{Context, Result};

use crate::paths::Paths;
use crate::toolchain::{LINT_NEEDS, Purpose};
use crate::{bpf, install, process};

/// Check formatting and run clippy with warnings denied, the packet programs' entry points included
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    install: install::Options,
}

/// Runs the subcommand.
pub fn run(paths: &Paths, options: Options) -> Result<()> {
    process::run(process::cargo(paths).args(["fmt", "--all", "--check"]))
        .context("some code is not formatted")?;
    install::ensure(paths, Purpose::Build, options.install)?;
    install::ensure_of(paths, LINT_NEEDS, Purpose::Build, options.install)?;
    bpf::build(paths)?;
    process::run(process::cargo(paths).args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "--deny=warnings",
    ]))?;
    bpf::lint(paths)
}
