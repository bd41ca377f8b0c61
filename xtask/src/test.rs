//! `cargo xtask test`: every test there is, in groups, with one summary at the end.
//!
//! The groups are `unit` (anybody, anywhere) and three that are made of the test binaries under
//! `tests/tests`, by the names of their files. A group that cannot run is reported with the reason and
//! makes the run fail; nothing is skipped silently.

use std::fs;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::paths::Paths;
use crate::suite::{Outcome, Suite, fresh_log_dir};
use crate::summary::{Row, RowResult, Summary};
use crate::toolchain::{NEEDS, Purpose, missing};
use crate::{build, install, process};

/// Generous for two busy cores; reached only by a test that hangs.
const UNIT_LIMIT: Duration = Duration::from_secs(15 * 60);
/// The verifier and a packet at a time: seconds, when nothing is wrong.
const PROGRAMS_LIMIT: Duration = Duration::from_secs(5 * 60);
/// For each test binary: the clusters it raises take about 15 s apiece.
const LAB_LIMIT: Duration = Duration::from_secs(15 * 60);

/// In the names of tests that need the daemon whose maps have another layout, which takes a minute to build.
const OTHER_LAYOUT: &str = "migrat";

/// Run the tests and print one summary; fails too if some could not run
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Which tests to run
    #[arg(value_enum, default_value = "all")]
    group: Choice,
    /// Only tests whose name contains this, or the whole file of that name under tests/tests
    filter: Option<String>,
    /// Do not fail because some tests could not run on this machine
    #[arg(long)]
    allow_missing: bool,
    #[command(flatten)]
    install: install::Options,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Choice {
    /// Tests that need neither root nor the kernel
    Unit,
    /// The packet programs in this machine's kernel, one packet at a time
    Programs,
    /// Nodes, clients and a database cluster in network namespaces
    Lab,
    /// keepalived and FRR as the peers
    Interop,
    /// All of these
    All,
}

/// Tests with the same needs.
#[derive(Debug)]
struct Group {
    choice: Choice,
    name: &'static str,
    purpose: Purpose,
    root: bool,
    limit: Duration,
    /// Tests of the lab keep time and share addresses: one after the other.
    threads: Option<u32>,
}

static GROUPS: [Group; 4] = [
    Group {
        choice: Choice::Unit,
        name: "unit",
        purpose: Purpose::Build,
        root: false,
        limit: UNIT_LIMIT,
        threads: None,
    },
    Group {
        choice: Choice::Programs,
        name: "programs",
        purpose: Purpose::Build,
        root: true,
        limit: PROGRAMS_LIMIT,
        threads: Some(2),
    },
    Group {
        choice: Choice::Lab,
        name: "lab",
        purpose: Purpose::Test,
        root: true,
        limit: LAB_LIMIT,
        threads: Some(1),
    },
    Group {
        choice: Choice::Interop,
        name: "interop",
        purpose: Purpose::Test,
        root: true,
        limit: LAB_LIMIT,
        threads: Some(1),
    },
];

/// Runs the subcommand.
pub fn run(paths: &Paths, options: &Options) -> Result<ExitCode> {
    let groups: Vec<_> = GROUPS
        .iter()
        .filter(|group| matches!(options.group, Choice::All) || options.group == group.choice)
        .collect();
    if let Err(error) = prepare(paths, &groups, options) {
        // Whoever reads only the last line must not miss this.
        eprintln!("error: {error:#}");
        println!("\n0 passed, 1 failed");
        return Ok(ExitCode::FAILURE);
    }
    let mut summary = Summary::default();
    for group in groups {
        match group.obstacle() {
            Some(reason) => summary.rows.push(Row {
                group: group.name,
                suite: "all of it".to_owned(),
                result: RowResult::NotRun(reason),
            }),
            None => run_group(paths, group, options.filter.as_deref(), &mut summary)?,
        }
        if process::interrupted() {
            break;
        }
    }
    finish(&summary, options)
}

/// Installs and builds, so that a suite's time limit is about its tests.
fn prepare(paths: &Paths, groups: &[&Group], options: &Options) -> Result<()> {
    let runnable = |group: &&&Group| !group.root || process::is_root();
    // What nobody could use, or may be missing, is not asked for.
    let purpose = groups.iter().filter(runnable).map(|group| group.purpose).max().unwrap_or(Purpose::Build);
    let purpose = if options.allow_missing && options.install.no_install { Purpose::Build } else { purpose };
    install::ensure(paths, purpose, options.install)?;
    fresh_log_dir(&paths.test_logs())?;
    if groups.iter().any(|group| group.choice == Choice::Lab && group.obstacle().is_none())
        && options.filter.as_deref().is_none_or(|filter| filter.contains(OTHER_LAYOUT))
    {
        build::other_layout(paths)?;
    }
    build::all(paths, false)?;
    let mut compile = process::cargo(paths);
    process::run(compile.args(["test", "--no-run"])).context("the unit tests do not build")?;
    let mut compile = process::cargo(paths);
    process::run(compile.args(["test", "--no-run", "--package", "lb-tests"]))
        .context("the tests do not build")?;
    process::catch_interrupts();
    process::adopt_orphans();
    Ok(())
}

impl Group {
    /// Why this group cannot run here.
    fn obstacle(&self) -> Option<String> {
        if self.root && !process::is_root() {
            return Some("needs root".to_owned());
        }
        let lacking: Vec<_> = missing(NEEDS, self.purpose).iter().map(|item| item.need.name).collect();
        (!lacking.is_empty()).then(|| format!("missing: {}", lacking.join(", ")))
    }
}

fn run_group(
    paths: &Paths,
    group: &'static Group,
    filter: Option<&str>,
    summary: &mut Summary,
) -> Result<()> {
    for suite in suites(paths, group, filter)? {
        if process::interrupted() {
            return Ok(());
        }
        let (name, log) = (suite.name.clone(), suite.log.clone());
        eprintln!("\n== {}: {name}", group.name);
        let outcome = suite.run()?;
        if outcome.ended {
            take_lab_down(paths);
        }
        // With a filter, most suites have nothing to say.
        if filter.is_none() || outcome.said_something() {
            summary.rows.push(Row { group: group.name, suite: name, result: RowResult::Ran(outcome, log) });
        }
    }
    Ok(())
}

impl Outcome {
    fn said_something(&self) -> bool {
        self.tally.passed + self.tally.failed + self.tally.ignored > 0
    }
}

fn suites(paths: &Paths, group: &Group, filter: Option<&str>) -> Result<Vec<Suite>> {
    let suite = |name: &str, selection: &[&str], filter: Option<&str>| {
        let mut command = process::cargo(paths);
        // One failing binary must not keep the others of its suite from running.
        command.args(["test", "--no-fail-fast"]).args(selection).arg("--").args(filter);
        if let Some(threads) = group.threads {
            command.arg(format!("--test-threads={threads}"));
            // What a test says that could not run is printed only then.
            command.arg("--show-output");
        }
        let log = paths.test_logs().join(format!("{}-{name}.log", group.name));
        Suite { name: name.to_owned(), command, log, limit: group.limit, echo: true }
    };
    if group.choice == Choice::Unit {
        return Ok(vec![
            suite("workspace", &[], filter),
            suite("lab-library", &["--package", "lb-tests", "--lib"], filter),
        ]);
    }
    let binaries = test_binaries(paths)?;
    let by_name = filter.filter(|filter| binaries.iter().any(|binary| binary == filter));
    Ok(binaries
        .iter()
        .filter(|binary| group_of(binary) == group.choice)
        .filter(|binary| by_name.is_none_or(|name| name == binary.as_str()))
        .map(|binary| {
            let filter = if by_name.is_some() { None } else { filter };
            suite(binary, &["--package", "lb-tests", "--test", binary], filter)
        })
        .collect())
}

/// The test binaries of the group `programs`.
pub fn program_suites(paths: &Paths) -> Result<Vec<String>> {
    let binaries = test_binaries(paths)?;
    Ok(binaries.into_iter().filter(|binary| group_of(binary) == Choice::Programs).collect())
}

/// The test binaries cargo makes of `tests/tests`.
fn test_binaries(paths: &Paths) -> Result<Vec<String>> {
    let dir = paths.root.join("tests/tests");
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        let is_test =
            path.extension().is_some_and(|extension| extension == "rs") || path.join("main.rs").is_file();
        if let Some(name) = path.file_stem().and_then(|stem| stem.to_str()).filter(|_| is_test) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Which group a test binary is in, from its name.
fn group_of(binary: &str) -> Choice {
    if binary.starts_with("interop_") {
        Choice::Interop
    } else if binary.starts_with("packet_") || binary.starts_with("program") {
        Choice::Programs
    } else {
        Choice::Lab
    }
}

/// After a suite that was ended: its own cleaning did not run.
fn take_lab_down(paths: &Paths) {
    let lab = paths.program("viplb-lab", false);
    if process::is_root()
        && let Err(error) = process::run(Command::new(lab).args(["lab", "down"]))
    {
        eprintln!("the lab may still be up: {error:#}");
    }
}

fn finish(summary: &Summary, options: &Options) -> Result<ExitCode> {
    println!("\n{summary}");
    if process::interrupted() {
        bail!("interrupted");
    }
    if summary.passed() + summary.failed() == 0 {
        bail!(
            "no test was run{}",
            options.filter.as_ref().map_or(String::new(), |f| format!(": none matches {f}"))
        );
    }
    let missing_counts = summary.not_run() > 0 && !options.allow_missing;
    if summary.failed() > 0 || missing_counts { Ok(ExitCode::FAILURE) } else { Ok(ExitCode::SUCCESS) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_files_fall_into_groups_by_name() {
        assert_eq!(group_of("packet_path"), Choice::Programs);
        assert_eq!(group_of("programs_verifier"), Choice::Programs);
        assert_eq!(group_of("interop_keepalived"), Choice::Interop);
        assert_eq!(group_of("failover"), Choice::Lab);
    }

    #[test]
    fn every_group_can_be_chosen_by_the_name_the_summary_shows() {
        use clap::ValueEnum as _;
        for group in &GROUPS {
            assert_eq!(Choice::from_str(group.name, false), Ok(group.choice));
        }
    }
}
