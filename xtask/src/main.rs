//! `cargo xtask`: builds, runs and tests viplb, and installs what that needs.
//!
//! One module per subcommand, each with its `Options` and `run`; the doc comments are the help text. This
//! crate is compiled before anything can be said to the user, so it stays light and depends on no other
//! crate of the workspace: `lab down` must work when the rest does not compile.

mod bench;
mod bpf;
mod build;
mod install;
mod lab;
mod libtest;
mod lint;
mod paths;
mod plan;
mod process;
mod run;
mod suite;
mod summary;
mod test;
mod toolchain;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::paths::Paths;

/// Builds, runs and tests viplb
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Build(build::Options),
    Run(run::Options),
    Lab(lab::Options),
    Test(test::Options),
    Bench(bench::Options),
    Lint(lint::Options),
    Vm(vm::Options),
}

fn main() -> ExitCode {
    let paths = Paths::find();
    match dispatch(&paths, Args::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(paths: &Paths, command: Command) -> Result<ExitCode> {
    match command {
        Command::Build(options) => build::run(paths, options),
        Command::Run(options) => run::run(paths, options),
        Command::Lab(options) => lab::run(paths, options),
        Command::Test(options) => return test::run(paths, &options),
        Command::Bench(options) => bench::run(paths, options),
        Command::Lint(options) => lint::run(paths, options),
        Command::Vm(options) => return vm::run(paths, &options),
    }
    .map(|()| ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn what_follows_the_dashes_reaches_the_try_out_untouched() {
        let args = Args::try_parse_from(["xtask", "run", "--", "--db", "5", "--seconds", "30"]).unwrap();
        let Command::Run(options) = args.command else { panic!("not run") };
        assert_eq!(options.passed_on(), ["--db", "5", "--seconds", "30"]);
    }

    #[test]
    fn what_a_guest_is_to_run_follows_the_dashes() {
        for line in [&["xtask", "vm", "6.1", "--", "test", "--exact"][..], &["xtask", "vm", "6.12"]] {
            let args = Args::try_parse_from(line).unwrap();
            assert!(matches!(args.command, Command::Vm(_)), "{line:?}");
        }
    }

    #[test]
    fn lab_arguments_keep_their_dashes() {
        let args = Args::try_parse_from(["xtask", "lab", "exec", "h1", "--", "ip", "-br", "link"]).unwrap();
        let Command::Lab(options) = args.command else { panic!("not lab") };
        assert_eq!(options.passed_on(), ["exec", "h1", "--", "ip", "-br", "link"]);
    }

    #[test]
    fn bench_arguments_keep_their_dashes() {
        let args = Args::try_parse_from(["xtask", "bench", "failover", "--json", "rows.json"]).unwrap();
        let Command::Bench(options) = args.command else { panic!("not bench") };
        assert_eq!(options.passed_on(), ["failover", "--json", "rows.json"]);
    }
}
