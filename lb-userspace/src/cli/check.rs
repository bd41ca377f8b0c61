//! `viplb check -c FILE`: shows every mistake of a configuration file and touches nothing else.
//!
//! `main` calls [`run`]. Remarks go to standard error, one summary line to standard output. Exit status: 0 good
//! (warnings allowed), 1 mistakes, 2 the file cannot be read.

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use crate::config::{self, LoadError, Loaded, diagnostic::count, model::Config};

/// Checks `file` and says what it found.
pub fn run(file: &Path) -> ExitCode {
    // A closed pipe is the reader's choice, not a failure of the check.
    let code =
        check(file, &mut io::stdout().lock(), &mut io::stderr().lock()).unwrap_or_else(|(code, _)| code);
    ExitCode::from(code)
}

/// The configuration in `file`, and its text, for a daemon that is to run; what is wrong with it goes to standard error.
pub fn load(file: &Path) -> Option<(Config, String)> {
    let loaded = config::read(file).and_then(|text| Ok((config::check(file, &text)?, text)));
    match loaded {
        Ok((Loaded { config, warnings }, text)) => {
            eprint!("{warnings}");
            Some((config, text))
        }
        Err(LoadError::Invalid(report)) => {
            eprintln!("{report}viplb: {}: {}", file.display(), report.summary());
            None
        }
        Err(unreadable @ LoadError::Unreadable { .. }) => {
            eprintln!("viplb: {unreadable} (`-c FILE` names another)");
            None
        }
    }
}

/// The exit status; with the I/O error if it could not be told to `out` or `err`.
fn check(file: &Path, out: &mut impl Write, err: &mut impl Write) -> Result<u8, (u8, io::Error)> {
    let name = file.display();
    match config::load(file) {
        Ok(Loaded { config, warnings }) => {
            let things = [
                count(config.vrrp.len(), "virtual router"),
                count(config.services.len(), "service"),
                count(config.services.iter().map(|s| s.backends.len()).sum(), "backend"),
            ];
            let summary = match warnings.summary() {
                none if none.is_empty() => format!("{name}: ok ({})", things.join(", ")),
                some => format!("{name}: ok, {some} ({})", things.join(", ")),
            };
            write!(err, "{warnings}").and_then(|()| writeln!(out, "{summary}")).map_err(|e| (0, e))?;
            Ok(0)
        }
        Err(LoadError::Invalid(report)) => {
            let summary = report.summary();
            write!(err, "{report}").and_then(|()| writeln!(out, "{name}: {summary}")).map_err(|e| (1, e))?;
            Ok(1)
        }
        Err(unreadable @ LoadError::Unreadable { .. }) => {
            writeln!(err, "error: {unreadable}").map_err(|e| (2, e))?;
            Ok(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(file: &Path) -> (u8, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = check(file, &mut out, &mut err).expect("a Vec takes everything");
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    fn fixture(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/config").join(name)
    }

    #[test]
    fn a_good_file_is_counted_and_exits_zero() {
        let (code, out, err) = checked(&fixture("good-seed.toml"));
        assert_eq!((code, err.as_str()), (0, ""));
        assert!(out.ends_with("good-seed.toml: ok (1 virtual router, 1 service, 3 backends)\n"), "{out}");
    }

    #[test]
    fn a_bad_file_shows_every_mistake_and_exits_one() {
        let (code, out, err) = checked(&fixture("five-mistakes.toml"));
        assert_eq!(code, 1);
        assert_eq!(err.matches("error: ").count(), 5, "{err}");
        assert!(out.ends_with("five-mistakes.toml: 5 errors\n"), "{out}");
    }

    #[test]
    fn a_missing_file_is_one_sentence_and_exits_two() {
        let (code, out, err) = checked(Path::new("/nonexistent/viplb.toml"));
        assert_eq!((code, out.as_str()), (2, ""));
        assert_eq!(
            err,
            "error: cannot read the configuration `/nonexistent/viplb.toml`: No such file or directory\n"
        );
    }
}
