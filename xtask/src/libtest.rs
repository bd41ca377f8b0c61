//! Reads what `cargo test` prints.
//!
//! Plain text is what every stable toolchain gives (JSON is nightly's), so this takes the lines it knows and
//! lets everything else pass: tests print what they like in between. Fed line by line by [`crate::suite`].

/// What the test binaries of one `cargo test` call have said so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Tests that passed.
    pub passed: usize,
    /// Tests that failed, a binary that died counting as one.
    pub failed: usize,
    /// Tests that were left out by `#[ignore]`.
    pub ignored: usize,
    /// Why tests could not run, as they said themselves (`not run: REASON`); libtest takes each for passed, `passed` does not.
    pub not_run: Vec<String>,
    /// Cells of a table that tests print (`matrix  CELL`).
    pub matrix: Vec<String>,
    /// The names of failed tests.
    pub failures: Vec<String>,
    /// Tests that ran for very long, or that had not ended when their binary did.
    pub slow: Vec<String>,
}

/// Makes a [`Tally`] of the lines it is fed.
#[derive(Debug, Default)]
pub struct Reader {
    tally: Tally,
    section: Section,
    unfinished: bool,
}

/// Where in a binary's output the reader is: names of failed tests stand in a list of their own.
#[derive(Debug, Default, PartialEq, Eq)]
enum Section {
    #[default]
    Running,
    Failures,
}

impl Reader {
    /// What is known so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Takes one line of output.
    pub fn line(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.result(counts);
        } else if let Some(reason) = line.strip_prefix("not run: ") {
            self.tally.not_run.push(reason.to_owned());
        } else if let Some((_, row)) = line.split_once("matrix  ") {
            // With one thread the test's name may stand before it.
            self.tally.matrix.push(row.to_owned());
        } else if is_start(line) {
            self.binary_died();
            self.unfinished = true;
        } else if line == "failures:" {
            self.section = Section::Failures;
        } else if self.section == Section::Failures {
            self.failure_list(line);
        } else if let Some((name, _)) =
            line.strip_prefix("test ").and_then(|rest| rest.split_once(" has been running for over"))
        {
            self.tally.slow.push(name.to_owned());
        } else if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... ")) {
            // With one thread the name is printed first; the line is left without an end if the test is.
            self.tally.slow.push(name.to_owned());
        }
    }

    /// The output is over; `success` is cargo's verdict, which also knows of deaths without a word.
    pub fn finish(mut self, success: bool) -> Tally {
        self.binary_died();
        if !success && self.tally.failed == 0 {
            self.tally.failed = 1;
            self.tally.failures.push("cargo test itself failed; its output says why".to_owned());
        }
        self.tally.passed = self.tally.passed.saturating_sub(self.tally.not_run.len());
        self.tally
    }

    /// Counts something other than a test as failed.
    pub fn fail(&mut self, reason: String) {
        // Whatever was running was ended by us: that is one failure, not two.
        self.unfinished = false;
        self.tally.failed += 1;
        self.tally.failures.push(reason);
    }

    fn result(&mut self, counts: &str) {
        let count = |word: &str| {
            counts
                .split([';', '.'])
                .filter_map(|part| part.trim().split_once(' '))
                .find(|(_, what)| *what == word)
                .and_then(|(number, _)| number.parse::<usize>().ok())
                .unwrap_or(0)
        };
        self.tally.passed += count("passed");
        self.tally.failed += count("failed");
        self.tally.ignored += count("ignored");
        self.section = Section::Running;
        self.unfinished = false;
    }

    /// The list of names comes after the outputs of the failed tests, four spaces in.
    fn failure_list(&mut self, line: &str) {
        match line.strip_prefix("    ") {
            Some(name) if !name.starts_with(' ') && !name.is_empty() => {
                self.tally.failures.push(name.to_owned())
            }
            _ if line.is_empty() => {}
            _ => self.section = Section::Running,
        }
    }

    fn binary_died(&mut self) {
        if std::mem::take(&mut self.unfinished) {
            self.fail("a test binary ended before its result".to_owned());
        }
        self.section = Section::Running;
    }
}

fn is_start(line: &str) -> bool {
    line.strip_prefix("running ")
        .and_then(|rest| rest.split_once(' '))
        .is_some_and(|(count, word)| count.parse::<u32>().is_ok() && matches!(word, "test" | "tests"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, success: bool) -> Tally {
        let mut reader = Reader::default();
        text.lines().for_each(|line| reader.line(line));
        reader.finish(success)
    }

    #[test]
    fn results_of_several_binaries_add_up() {
        let tally = read(
            "running 2 tests
test a ... ok
test b ... ok

test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s

running 3 tests
test result: ok. 1 passed; 0 failed; 2 ignored; 0 measured; 4 filtered out; finished in 1.20s",
            true,
        );
        assert_eq!((tally.passed, tally.failed, tally.ignored), (3, 0, 2));
        assert_eq!(tally.failures, [""; 0]);
    }

    #[test]
    fn a_test_that_says_it_could_not_run_does_not_count_as_passed() {
        let tally = read(
            "running 2 tests
test a ... ok
test b ... ok

successes:

---- b stdout ----
not run: MariaDB is not installed


successes:
    a
    b

test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
",
            true,
        );
        assert_eq!((tally.passed, tally.not_run), (1, vec!["MariaDB is not installed".to_owned()]));
    }

    #[test]
    fn failed_tests_are_named_once_and_their_output_is_not_taken_for_names() {
        let tally = read(
            "running 3 tests
test vrrp::a ... ok
test vrrp::b ... FAILED
test c ... FAILED

failures:

---- vrrp::b stdout ----
thread 'vrrp::b' panicked at src/x.rs:1:1:
assertion failed
    an indented line of the message

---- c stdout ----
boom

failures:
    vrrp::b
    c

test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s

error: test failed, to rerun pass `-p x --lib`",
            false,
        );
        assert_eq!((tally.passed, tally.failed), (1, 2));
        assert_eq!(tally.failures, ["vrrp::b", "c"]);
    }

    #[test]
    fn a_binary_that_dies_without_a_result_is_a_failure() {
        let tally = read(
            "running 1 test
running 2 tests
test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            false,
        );
        assert_eq!((tally.passed, tally.failed), (2, 1));
        assert_eq!(tally.failures, ["a test binary ended before its result"]);
    }

    #[test]
    fn a_failure_that_no_test_reports_still_counts() {
        assert_eq!(read("error: could not compile `x`", false).failed, 1);
    }

    #[test]
    fn a_suite_that_is_ended_from_outside_is_one_failure_and_names_the_slow_test() {
        let mut reader = Reader::default();
        reader.line("running 1 test");
        reader.line("test fails_over has been running for over 60 seconds");
        reader.fail("no end after 900 s".to_owned());
        let tally = reader.finish(false);
        assert_eq!((tally.failed, tally.slow), (1, vec!["fails_over".to_owned()]));
    }

    #[test]
    fn a_test_whose_line_has_no_end_is_the_one_that_hung() {
        let mut reader = Reader::default();
        reader.line("running 2 tests");
        reader.line("test starts ... ok");
        reader.line("test hangs ... ");
        assert_eq!(reader.tally().slow, ["hangs"]);
    }

    #[test]
    fn what_tests_print_themselves_is_not_taken_for_results() {
        let tally = read("running out of things to say\ntest of a line\nok. 9 passed; 9 failed", true);
        assert_eq!(tally, Tally::default());
    }
}
