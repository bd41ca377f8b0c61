//! A stock Debian kernel: found among apt's packages by its version, downloaded and unpacked under the target directory.
//!
//! Nothing is installed on the machine. What is unpacked once stays until `target/vm` is removed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::{install, paths::Paths, process};

/// An unpacked kernel.
#[derive(Debug)]
pub struct Kernel {
    /// Its release, as `uname -r` will say.
    pub release: String,
    /// Where the package was unpacked.
    pub root: PathBuf,
}

impl Kernel {
    /// The kernel of `version` (`6.1`), downloaded if it is not there yet.
    pub fn of(paths: &Paths, version: &str, options: install::Options) -> Result<Self> {
        let numbers = version.split('.').all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        ensure!(numbers, "{version} is no kernel version such as 6.1 or 6.12");
        let root = paths.vm().join(version);
        if !root.exists() {
            ensure!(
                !options.no_install,
                "no kernel in {}; without --no-install it is downloaded from Debian",
                root.display()
            );
            unpack(version, &root)?;
        }
        let boot = root.join("boot");
        let entries = fs::read_dir(&boot).with_context(|| format!("cannot read {}", boot.display()))?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let release = names.filter_map(|name| name.strip_prefix("vmlinuz-").map(str::to_owned)).next();
        let release = release.with_context(|| format!("no kernel in {}; remove it", boot.display()))?;
        Ok(Self { release, root })
    }

    /// The kernel's image.
    pub fn image(&self) -> PathBuf {
        self.root.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    /// The directory of its modules.
    pub fn modules(&self) -> PathBuf {
        self.root.join("lib/modules").join(&self.release)
    }
}

fn unpack(version: &str, root: &Path) -> Result<()> {
    let package = match package(version) {
        Some(package) => package,
        None if process::is_root() => {
            process::run(Command::new("apt-get").args(["-q", "update"]).stdin(Stdio::null()))?;
            package(version).with_context(|| unknown(version))?
        }
        None => bail!("{}", unknown(version)),
    };
    eprintln!("Getting Debian's {package} (it is not installed, only unpacked)");
    let partial = root.with_file_name(format!("{version}.tmp"));
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("cannot empty {}", partial.display()))?;
    }
    fs::create_dir_all(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
    // Its own user cannot write here, and nothing that it downloads is run.
    let quietly = ["-q", "-o", "APT::Sandbox::User=root", "download", &package];
    process::run(Command::new("apt-get").args(quietly).current_dir(&partial))?;
    let archive = fs::read_dir(&partial)?.flatten().map(|entry| entry.path()).next();
    let archive = archive.with_context(|| format!("apt-get left no {package}"))?;
    process::run(Command::new("dpkg-deb").arg("--extract").args([&archive, &partial]))?;
    fs::remove_file(&archive)?;
    // Releases since trixie have their modules here, and programs look there.
    let (new, old) = (partial.join("usr/lib/modules"), partial.join("lib"));
    if new.is_dir() && !old.exists() {
        std::os::unix::fs::symlink("usr/lib", &old)?;
    }
    let release = fs::read_dir(old.join("modules"))?.flatten().map(|entry| entry.file_name()).next();
    let release = release.with_context(|| format!("{package} has no modules"))?;
    let depmod = process::find_program("depmod").context("no depmod")?;
    process::run(Command::new(depmod).arg("-b").arg(&partial).arg(release))?;
    fs::rename(&partial, root).with_context(|| format!("cannot make {}", root.display()))
}

fn unknown(version: &str) -> String {
    format!("apt knows no kernel linux-image-{version}.*: of Debian's, 6.1 is in bookworm and 6.12 in trixie")
}

/// The newest package of that version that apt knows.
fn package(version: &str) -> Option<String> {
    let prefix = format!("^linux-image-{}\\.", version.replace('.', "\\."));
    let found = process::output_of(Command::new("apt-cache").args(["search", "--names-only", &prefix]))?;
    newest(found.lines().filter_map(|line| line.split_whitespace().next()))
}

/// The newest of the plain, signed kernels: no realtime, cloud, unsigned or debugging ones.
fn newest<'a>(packages: impl Iterator<Item = &'a str>) -> Option<String> {
    let plain = packages.filter(|name| {
        let Some(version) = name.strip_prefix("linux-image-").and_then(|rest| rest.strip_suffix("-amd64"))
        else {
            return false;
        };
        let version = version.replace("+deb", "+").replace("-bpo", "-");
        version.bytes().all(|b| b.is_ascii_digit() || b"+-.~".contains(&b))
    });
    plain.max_by_key(|name| numbers(name)).map(str::to_owned)
}

fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_plain_kernel_is_taken() {
        let old =
            ["linux-image-6.1.0-9-amd64", "linux-image-6.1.0-56-amd64", "linux-image-6.1.0-57-rt-amd64"];
        assert_eq!(newest(old.into_iter()).as_deref(), Some("linux-image-6.1.0-56-amd64"));
        let new = [
            "linux-image-6.12.117+deb12-amd64",
            "linux-image-6.12.99+deb12-amd64",
            "linux-image-6.12.118+deb12-amd64-unsigned",
            "linux-image-6.12.118+deb12-cloud-amd64",
            "linux-image-6.12.118+deb12-amd64-dbg",
        ];
        assert_eq!(newest(new.into_iter()).as_deref(), Some("linux-image-6.12.117+deb12-amd64"));
        assert_eq!(newest(["linux-image-cloud-amd64"].into_iter()), None);
    }
}
