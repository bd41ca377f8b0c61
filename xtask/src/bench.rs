//! `cargo xtask bench`: measurements beside the programs that viplb replaces.
//!
//! Builds in release and becomes `viplb-bench`, whose arguments and help these are: a new bench is a module of
//! `tests/src/bench` and nothing has to be told here. Only what a bench needs on the machine is known in this file.

use std::ffi::OsString;

use anyhow::Result;

use crate::paths::Paths;
use crate::toolchain::{BENCH_NEEDS, FAULTS_NEEDS, FORWARD_NEEDS, Need, PEER_NEEDS, Purpose, SURVIVE_NEEDS};
use crate::{build, install, process};

/// Measure viplb: bench failover (--runs N, --only stop,freeze, --json FILE, --no-peers, --hogs, …), bench election,
/// bench program, bench forward, bench flood, bench faults, bench survive, bench change, bench strict
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Options {
    #[command(flatten)]
    install: install::Options,
    /// Which bench and its options; `cargo xtask bench failover --help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

impl Options {
    /// What goes to the program that is started.
    #[cfg(test)]
    pub fn passed_on(&self) -> &[OsString] {
        &self.args
    }
}

/// Runs the subcommand.
pub fn run(paths: &Paths, mut options: Options) -> Result<()> {
    install::ensure(paths, Purpose::Build, options.install)?;
    if says(&options.args, &["survive"]) {
        // Its MySQL sessions want a server; without one they go to the stand-in.
        install::ensure(paths, Purpose::Lab, options.install)?;
    }
    if says(&options.args, &["failover", "forward", "flood"]) {
        install::ensure_of(paths, BENCH_NEEDS, Purpose::Lab, options.install)?;
    }
    for needs in compared(&options.args) {
        install::ensure_of(paths, needs, Purpose::Lab, options.install)?;
    }
    if says(&options.args, &["faults"]) && !says(&options.args, &["--help", "-h"]) {
        install::ensure(paths, Purpose::Lab, options.install)?;
        install::ensure_of(paths, FAULTS_NEEDS, Purpose::Lab, options.install)?;
    }
    build::all(paths, true)?;
    if says(&options.args, &["program"]) {
        options.args.extend(["--object".into(), paths.bench_object().into()]);
    }
    process::exec(&paths.program("viplb-bench", true), &options.args)
}

/// What benches compare with.
static COMPARED: &[(&[&str], &[Need])] = &[
    (&["failover", "survive"], PEER_NEEDS),
    (&["forward", "survive", "change"], FORWARD_NEEDS),
    (&["survive"], SURVIVE_NEEDS),
];

/// What has to be there because it is measured too.
fn compared(args: &[OsString]) -> impl Iterator<Item = &'static [Need]> {
    let alone = says(args, &["--no-peers", "--help", "-h"]);
    let measured = move |(benches, _): &&(&[&str], _)| !alone && says(args, benches);
    COMPARED.iter().filter(measured).map(|(_, needs)| *needs)
}

fn says(args: &[OsString], words: &[&str]) -> bool {
    args.iter().any(|arg| words.iter().any(|word| arg == word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_asked_for_only_where_they_are_measured() {
        for (line, expected) in [
            ("failover --runs 2", &["keepalived"][..]),
            ("failover --runs 2 --no-peers", &[]),
            ("failover --help", &[]),
            ("survive", &["keepalived", "nftables", "HAProxy", "conntrackd"]),
            ("survive --no-peers", &[]),
            ("election", &[]),
            ("", &[]),
        ] {
            let args: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            let names: Vec<_> = compared(&args).flatten().map(|need| need.name).collect();
            assert_eq!(names, expected, "{line}");
        }
    }
}
