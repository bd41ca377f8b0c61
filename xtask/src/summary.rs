//! What `cargo xtask test` says at the end.
//!
//! Pure: outcomes in, text out. The last line is exactly `N passed, N failed`, for people and programs alike.

use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;

use crate::suite::Outcome;

/// One line of the summary.
#[derive(Debug)]
pub struct Row {
    /// The group's name.
    pub group: &'static str,
    /// The suite's name, or what of the group the row is about.
    pub suite: String,
    /// What became of it.
    pub result: RowResult,
}

/// What became of a suite.
#[derive(Debug)]
pub enum RowResult {
    /// It ran; its whole output is in the log.
    Ran(Outcome, PathBuf),
    /// It could not run, for this reason.
    NotRun(String),
}

/// The end of a test run.
#[derive(Debug, Default)]
pub struct Summary {
    /// In the order they ran.
    pub rows: Vec<Row>,
}

impl Summary {
    /// Tests that passed.
    pub fn passed(&self) -> usize {
        self.outcomes().map(|outcome| outcome.tally.passed).sum()
    }

    /// Tests that failed.
    pub fn failed(&self) -> usize {
        self.outcomes().map(|outcome| outcome.tally.failed).sum()
    }

    /// How many suites and single tests could not run.
    pub fn not_run(&self) -> usize {
        let suites = self.rows.iter().filter(|row| matches!(row.result, RowResult::NotRun(_))).count();
        suites + self.outcomes().map(|outcome| outcome.tally.not_run.len()).sum::<usize>()
    }

    fn outcomes(&self) -> impl Iterator<Item = &Outcome> {
        self.rows.iter().filter_map(|row| match &row.result {
            RowResult::Ran(outcome, _) => Some(outcome),
            RowResult::NotRun(_) => None,
        })
    }

    fn row(&self, f: &mut Formatter<'_>, row: &Row, width: usize) -> fmt::Result {
        write!(f, "{:9}  {:width$}  ", row.group, row.suite)?;
        match &row.result {
            RowResult::NotRun(reason) => writeln!(f, "not run: {reason}"),
            RowResult::Ran(outcome, log) => {
                let tally = &outcome.tally;
                let seconds = outcome.took.as_secs_f64();
                write!(f, "{:>6}  {:>6}  {seconds:>7.1} s", tally.passed, tally.failed)?;
                if tally.ignored > 0 {
                    write!(f, "  {} left out by #[ignore]", tally.ignored)?;
                }
                writeln!(f)?;
                for reason in &tally.not_run {
                    writeln!(f, "{:9}    one test not run: {reason}", "")?;
                }
                for failure in &tally.failures {
                    writeln!(f, "{:9}    FAILED {failure}", "")?;
                }
                if tally.failed > 0 {
                    writeln!(f, "{:9}    output: {}", "", log.display())?;
                }
                if !outcome.leftovers.is_empty() {
                    writeln!(
                        f,
                        "{:9}    left processes behind, now ended: {}",
                        "",
                        outcome.leftovers.join(", ")
                    )?;
                }
                Ok(())
            }
        }
    }
}

impl Display for Summary {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.suite.len()).max().unwrap_or(0).max("suite".len());
        writeln!(f, "{:9}  {:width$}  {:>6}  {:>6}  {:>9}", "group", "suite", "passed", "failed", "time")?;
        for row in &self.rows {
            self.row(f, row, width)?;
        }
        for cell in self.outcomes().flat_map(|outcome| &outcome.tally.matrix) {
            writeln!(f, "matrix  {cell}")?;
        }
        write!(f, "\n{} passed, {} failed", self.passed(), self.failed())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::libtest::Tally;

    fn ran(passed: usize, failures: &[&str]) -> RowResult {
        let failures: Vec<_> = failures.iter().map(|&name| name.to_owned()).collect();
        let tally = Tally { passed, failed: failures.len(), failures, ..Tally::default() };
        let outcome = Outcome { tally, took: Duration::from_millis(1250), ..Outcome::default() };
        RowResult::Ran(outcome, PathBuf::from("target/test-logs/x.log"))
    }

    fn row(group: &'static str, suite: &str, result: RowResult) -> Row {
        Row { group, suite: suite.to_owned(), result }
    }

    #[test]
    fn every_suite_is_listed_and_the_last_line_is_the_count_alone() {
        let summary = Summary {
            rows: vec![
                row("unit", "workspace", ran(120, &[])),
                row("lab", "failover", ran(4, &["paused_owner_is_replaced"])),
                row("interop", "interop_keepalived", RowResult::NotRun("needs root".to_owned())),
            ],
        };
        assert_eq!(
            summary.to_string(),
            "\
group      suite               passed  failed       time
unit       workspace              120       0      1.2 s
lab        failover                 4       1      1.2 s
             FAILED paused_owner_is_replaced
             output: target/test-logs/x.log
interop    interop_keepalived  not run: needs root

124 passed, 1 failed"
        );
        assert_eq!(summary.not_run(), 1);
    }

    #[test]
    fn ignored_tests_and_processes_left_behind_are_shown() {
        let outcome = Outcome {
            tally: Tally { passed: 1, ignored: 2, ..Tally::default() },
            leftovers: vec!["mariadbd (77)".to_owned()],
            ..Outcome::default()
        };
        let text =
            Summary { rows: vec![row("lab", "x", RowResult::Ran(outcome, PathBuf::new()))] }.to_string();
        assert!(text.contains("2 left out by #[ignore]"), "{text}");
        assert!(text.contains("left processes behind, now ended: mariadbd (77)"), "{text}");
    }
}
