//! The `viplb` binary: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser;
use lb_userspace::cli;

fn main() -> ExitCode {
    cli::main(cli::Args::parse())
}
