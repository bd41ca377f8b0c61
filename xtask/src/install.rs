//! Installs what is missing, or says in one list what would have to be.
//!
//! Called first by every subcommand that builds or runs something. On a Debian-like system, as root and
//! without `--no-install`, it announces each thing with its reason and then installs it; anywhere else it
//! fails before anything is done. It starts no service, and when nothing is missing it says nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::bpf;
use crate::paths::Paths;
use crate::plan::{CommandLine, Offers, Plan, announcement, refusal};
use crate::process;
use crate::toolchain::{LLVM_MAJOR, Missing, NEEDS, Need, Purpose, missing};

/// Options of every subcommand that may install something.
#[derive(Debug, Clone, Copy, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Install nothing: fail with a list of what is missing and how to get it
    #[arg(long)]
    pub no_install: bool,
}

/// Makes sure that `purpose` has what it needs.
pub fn ensure(paths: &Paths, purpose: Purpose, options: Options) -> Result<()> {
    ensure_of(paths, NEEDS, purpose, options)
}

/// [`ensure`] for a table of one's own.
pub fn ensure_of(paths: &Paths, needs: &'static [Need], purpose: Purpose, options: Options) -> Result<()> {
    let lacking = missing(needs, purpose);
    if lacking.is_empty() {
        return Ok(());
    }
    match obstacle(options) {
        Some(why_not) => {
            let offers = offers();
            refuse_or_note(&lacking, &Plan::new(&lacking, purpose, offers), purpose, offers, why_not)
        }
        None => install(paths, needs, &lacking, purpose),
    }
}

/// Why nothing may be installed here.
fn obstacle(options: Options) -> Option<&'static str> {
    if options.no_install {
        Some("--no-install was given")
    } else if !has_apt() {
        Some("this is not a Debian-like system")
    } else if !process::is_root() {
        Some("that needs root")
    } else {
        None
    }
}

fn refuse_or_note(
    lacking: &[Missing],
    plan: &Plan,
    purpose: Purpose,
    offers: Offers,
    why_not: &str,
) -> Result<()> {
    if lacking.iter().any(|item| !item.is_optional_for(purpose)) {
        bail!("{}", refusal(lacking, plan, offers, why_not));
    }
    eprintln!("Going on without what is not strictly needed; {}\n", refusal(lacking, plan, offers, why_not));
    Ok(())
}

fn install(paths: &Paths, needs: &'static [Need], lacking: &[Missing], purpose: Purpose) -> Result<()> {
    eprintln!("{}", announcement(lacking));
    process::catch_interrupts();
    if let Err(error) = apt(&["update"]) {
        // One archive out of reach must not stand in the way of what the others have.
        eprintln!("{error:#}; going on with the package lists that are there");
    }
    let offers = offers();
    let plan = Plan::new(lacking, purpose, offers);
    for line in plan.shell_lines(offers, true) {
        eprintln!("+ {line}");
    }
    install_packages(&plan)?;
    for command in &plan.commands {
        if process::interrupted() {
            bail!("interrupted");
        }
        run_line(paths, command)?;
    }
    let still = missing(needs, purpose);
    if still.is_empty() {
        eprintln!("Everything needed is installed.\n");
        return Ok(());
    }
    refuse_or_note(
        &still,
        &Plan::new(&still, purpose, offers),
        purpose,
        offers,
        "the attempt just made failed",
    )
}

/// One call for all packages; if that fails, the ones that can be done without are left out.
fn install_packages(plan: &Plan) -> Result<()> {
    let all: Vec<_> = plan.packages.iter().chain(&plan.optional_packages).copied().collect();
    let _no_services = NoServices::declare()?;
    match apt_install(&all) {
        Err(_) if !plan.optional_packages.is_empty() && !process::interrupted() => {
            eprintln!("Trying again without {}.", plan.optional_packages.join(", "));
            apt_install(&plan.packages)
        }
        result => result,
    }
}

fn apt_install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let mut args = vec!["install", "-y", "--no-install-recommends"];
    args.extend(packages);
    apt(&args)
}

fn apt(args: &[&str]) -> Result<()> {
    // A lock held by somebody else's apt is waited for; a question would hang, so none is asked.
    process::run(
        Command::new("apt-get")
            .args(["-q", "-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0"])
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null()),
    )
}

fn run_line(paths: &Paths, line: &CommandLine) -> Result<()> {
    let Some((program, args)) = line.words.split_first() else { return Ok(()) };
    let mut command = if program == "cargo" { process::cargo(paths) } else { Command::new(program) };
    // A tool is built in a temporary folder, not in the workspace's own.
    command.args(args).envs(line.env.iter().cloned()).env_remove("CARGO_TARGET_DIR").stdin(Stdio::null());
    process::run(&mut command)
}

fn offers() -> Offers {
    if !has_apt() {
        return Offers { apt: false, rustc_web: false, llvm: false };
    }
    let rustc_web =
        candidate("rustc-web").is_some_and(|version| bpf::new_enough("rustc-web", &version).is_ok());
    Offers { apt: true, rustc_web, llvm: candidate(&format!("llvm-{LLVM_MAJOR}-dev")).is_some() }
}

fn has_apt() -> bool {
    Path::new("/etc/debian_version").exists() && process::find_program("apt-get").is_some()
}

/// The version of a package that apt would install.
fn candidate(package: &str) -> Option<String> {
    let policy = process::output_of(Command::new("apt-cache").args(["policy", package]).env("LC_ALL", "C"))?;
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    // An epoch is no part of the program's version.
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    (version != "(none)").then(|| version.to_owned())
}

/// While it lives, packages being installed do not start their services: a MariaDB or keepalived on the
/// host itself is the last thing a user wants from a try-out. An existing policy is left alone.
struct NoServices {
    ours: Option<PathBuf>,
}

impl NoServices {
    const MARK: &str = "# made by viplb's xtask while it installs packages\n";

    fn declare() -> Result<Self> {
        Self::declare_at(Path::new("/usr/sbin/policy-rc.d"))
    }

    fn declare_at(path: &Path) -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let leftover = fs::read_to_string(path).is_ok_and(|text| text.contains(Self::MARK));
        if path.exists() && !leftover {
            return Ok(Self { ours: None });
        }
        fs::write(path, format!("#!/bin/sh\n{}exit 101\n", Self::MARK))
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { ours: Some(path.to_path_buf()) })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(path) = &self.ours
            && let Err(error) = fs::remove_file(path)
        {
            eprintln!("cannot remove {}: {error}; remove it by hand", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy_path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("viplb-policy-{name}-{}", std::process::id()))
    }

    #[test]
    fn services_are_held_back_only_while_packages_are_installed() {
        let path = policy_path("fresh");
        let guard = NoServices::declare_at(&path).unwrap();
        assert!(fs::read_to_string(&path).unwrap().ends_with("exit 101\n"));
        drop(guard);
        assert!(!path.exists());
    }

    #[test]
    fn an_administrators_policy_survives_untouched() {
        let path = policy_path("theirs");
        fs::write(&path, "#!/bin/sh\nexit 0\n").unwrap();
        drop(NoServices::declare_at(&path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "#!/bin/sh\nexit 0\n");
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_policy_left_by_a_killed_run_is_removed_by_the_next() {
        let path = policy_path("leftover");
        std::mem::forget(NoServices::declare_at(&path).unwrap());
        drop(NoServices::declare_at(&path).unwrap());
        assert!(!path.exists());
    }
}
