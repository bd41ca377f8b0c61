//! `viplb` with maps of another layout, for tests: built by `cargo xtask build --other-layout`.

use std::process::ExitCode;

use clap::Parser;
use lb_userspace::cli;

fn main() -> ExitCode {
    cli::main(cli::Args::parse())
}
