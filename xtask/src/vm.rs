//! `cargo xtask vm KVER -- test [FILTER]`: the kernel tests under another kernel, in QEMU.
//!
//! The tests of group `programs` are built here and run there: do the programs load, does the verifier take them, do they
//! attach, do maps, helpers and redirections do what they do under this machine's kernel? A long target, which
//! `cargo xtask test` leaves out.

mod boot;
mod kernel;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::paths::Paths;
use crate::suite::Suite;
use crate::summary::{Row, RowResult, Summary};
use crate::toolchain::{Purpose, VM_NEEDS};
use crate::{build, install, process, test};
use boot::quote;
use kernel::Kernel;

/// For all of them together, on two busy cores and without KVM.
const LIMIT: Duration = Duration::from_secs(90 * 60);
/// Tests of many millions of packets, which would take hours there; by their own name they are run all the same.
const LONG: [&str; 1] = ["packet_flood"];

/// Run the tests of group `programs` under a stock Debian kernel in QEMU: vm 6.1 -- test [FILTER]
///
/// The kernel is downloaded with apt and unpacked under target/vm, not installed. Other words than `test` are a command
/// that is run there, as root on a layer over this machine's files.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Version of the kernel, such as 6.1 or 6.12
    kernel: String,
    #[command(flatten)]
    install: install::Options,
    /// `test [FILTER]`, a test's name or a file under tests/tests; or a command
    #[arg(last = true, default_value = "test")]
    args: Vec<String>,
}

/// Runs the subcommand.
pub fn run(paths: &Paths, options: &Options) -> Result<ExitCode> {
    install::ensure_of(paths, VM_NEEDS, Purpose::Test, options.install)?;
    let kernel = Kernel::of(paths, &options.kernel, options.install)?;
    match options.args.split_first() {
        Some((first, rest)) if first == "test" => {
            run_tests(paths, &kernel, rest.first().map(String::as_str), options.install)
        }
        _ => run_command(paths, &kernel, &options.args),
    }
}

fn run_command(paths: &Paths, kernel: &Kernel, words: &[String]) -> Result<ExitCode> {
    let line = words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ");
    let mut qemu = boot::qemu(kernel, &format!("{}{line}\n", preamble(paths)))?;
    let status = qemu.status().context("cannot start QEMU")?;
    Ok(if status.code() == Some(boot::SUCCESS) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_tests(
    paths: &Paths,
    kernel: &Kernel,
    filter: Option<&str>,
    install: install::Options,
) -> Result<ExitCode> {
    install::ensure(paths, Purpose::Build, install)?;
    build::all(paths, false)?;
    let script = script(paths, kernel, filter)?;
    process::catch_interrupts();
    process::adopt_orphans();
    let logs = paths.test_logs();
    fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    let log = logs.join(format!("vm-{}.log", kernel.release));
    let qemu = boot::qemu(kernel, &script)?;
    let name = format!("Linux {}", kernel.release);
    let suite =
        Suite { name: name.clone(), command: expecting(boot::SUCCESS, &qemu), log, limit: LIMIT, echo: true };
    let log = suite.log.clone();
    let outcome = suite.run()?;
    let summary =
        Summary { rows: vec![Row { group: "vm", suite: name, result: RowResult::Ran(outcome, log) }] };
    println!("\n{summary}");
    if summary.passed() + summary.failed() == 0 {
        bail!("no test was run");
    }
    Ok(if summary.failed() + summary.not_run() > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What the guest's shell runs: the test binaries one after the other, of which the worst status is the script's.
fn script(paths: &Paths, kernel: &Kernel, filter: Option<&str>) -> Result<String> {
    let names: Vec<_> = test::program_suites(paths)?;
    let by_name = filter.filter(|filter| names.iter().any(|name| name == filter));
    let chosen = names.iter().filter(|name| match by_name {
        Some(only) => only == name.as_str(),
        None => !LONG.contains(&name.as_str()),
    });
    if by_name.is_none() {
        eprintln!("left out, for it takes too long there: {}", LONG.join(", "));
    }
    let filter = if by_name.is_some() { None } else { filter };
    let mut script = format!("{}worst=0\n", preamble(paths));
    for name in chosen {
        let binary = held(kernel, name, &binary(paths, name)?)?;
        let mut line =
            format!("{} --test-threads=2 --show-output --color never", quote(&binary.to_string_lossy()));
        if let Some(filter) = filter {
            line = format!("{line} {}", quote(filter));
        }
        script.push_str(&format!("echo '== {name}'\n{line} || worst=1\n"));
    }
    script.push_str("exit $worst\n");
    Ok(script)
}

/// Builds a test binary and gives its path, which cargo tells in words.
fn binary(paths: &Paths, name: &str) -> Result<PathBuf> {
    let mut cargo = process::cargo(paths);
    cargo
        .args(["test", "--no-run", "--package", "lb-tests", "--test", name])
        .env("CARGO_TERM_COLOR", "never");
    let output = cargo.output().context("cannot start cargo")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("the tests do not build:\n{said}");
    }
    let path = executable(&said).with_context(|| format!("cargo does not say where {name} is:\n{said}"))?;
    Ok(paths.root.join(path))
}

/// Another name for the binary, under which it stays as it is while the guest runs and the user goes on building.
fn held(kernel: &Kernel, name: &str, binary: &Path) -> Result<PathBuf> {
    let dir = kernel.root.join("tests");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let path = dir.join(name);
    if path.exists() {
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    fs::hard_link(binary, &path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}

/// The path in `Executable tests/NAME.rs (PATH)`.
fn executable(said: &str) -> Option<&str> {
    let line = said.lines().find(|line| line.trim_start().starts_with("Executable "))?;
    line.split_once('(')?.1.strip_suffix(')')
}

fn preamble(paths: &Paths) -> String {
    format!(
        "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8\ncd {}\n",
        quote(&paths.root.to_string_lossy())
    )
}

/// The command with its expected status turned into success, and every other into failure.
fn expecting(status: i32, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("\"$@\"; [ $? -eq {status} ]"), "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    shell
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_test_binary_is_is_read_from_what_cargo_says() {
        let said = "   Compiling lb-tests v0.2.0\n    Finished `test` profile\n  Executable tests/packet_path.rs \
                    (target/debug/deps/packet_path-0a1b)\n";
        assert_eq!(executable(said), Some("target/debug/deps/packet_path-0a1b"));
        assert_eq!(executable("error: no test target named `x`"), None);
    }

    #[test]
    fn only_the_expected_status_is_success() {
        for (said, good) in [("exit 33", true), ("exit 0", false), ("exit 1", false)] {
            let mut command = Command::new("sh");
            command.args(["-c", said]);
            assert_eq!(expecting(33, &command).status().unwrap().success(), good, "{said}");
        }
    }
}
