//! The eBPF object: which compiler can make it, and the one cargo call that does.
//!
//! Two toolchains can compile for the BPF target: a rustup nightly with `rust-src`, which builds `core` on
//! the way, and Debian's `rustc-web`, which ships a ready `core`. All the difference between them is here.
//! Whether anything is rebuilt is cargo's decision.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};

use crate::paths::Paths;
use crate::process;
use crate::toolchain::{Version, bpf_linker};

/// The kernel reads maps and packets in the host's byte order, so the programs are built for that.
const TARGET: &str = if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };
/// Where distributions put their own rustc; the one on `PATH` is usually rustup's.
const SYSTEM_RUSTC: &str = "/usr/bin/rustc";
const PACKAGE: &str = "lb-ebpf";
const BIN: &str = "viplb-ebpf";
/// The programs that the benches measure beside; no daemon embeds them.
const BENCH_BIN: &str = "viplb-bench-ebpf";

/// A compiler that can make BPF code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compiler {
    /// rustup's nightly, building `core` from `rust-src`.
    Nightly,
    /// A distribution's rustc with a compiled `core` for the BPF target.
    System(PathBuf),
}

impl Compiler {
    /// The compiler to use, or what stands in the way of each.
    pub fn find() -> Result<Self, String> {
        let nightly = match probe_nightly() {
            Ok(()) => return Ok(Self::Nightly),
            Err(reason) => reason,
        };
        let system = Path::new(SYSTEM_RUSTC);
        match probe_system(system) {
            Ok(()) => Ok(Self::System(system.to_path_buf())),
            Err(reason) => Err(format!("{nightly}; {reason}")),
        }
    }

    /// Cargo, set up to build for the BPF target with this compiler.
    fn cargo(&self, paths: &Paths, linker: &Path) -> Command {
        let mut command = match self {
            Self::Nightly => {
                let mut command = Command::new("rustup");
                command.args(["run", "nightly", "cargo"]).env_remove("RUSTC").env_remove("RUSTDOC");
                command
            }
            Self::System(rustc) => {
                let mut command = process::cargo(paths);
                command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
                command
            }
        };
        // BTF is made from the debug information. Encoded flags outrank any RUSTFLAGS of the host's build. By default the linker
        // has LLVM keep the order of memory copies, which leaves no `memset` inline: each structure that is set up would cost a
        // call of a loop over its bytes, together a third of a packet's time.
        let flags = [
            "-Cdebuginfo=2".into(),
            "-Clink-arg=--btf".into(),
            "-Clink-arg=--disable-expand-memcpy-in-order".into(),
            format!("-Clinker={}", linker.display()),
        ];
        command
            .current_dir(&paths.root)
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .env("CARGO_TARGET_DIR", paths.bpf_target())
            // Built piece by piece, as incremental builds are, the programs are inlined otherwise, and the verifier refuses them.
            .env("CARGO_INCREMENTAL", "0")
            .env_remove("RUSTC_WORKSPACE_WRAPPER");
        command
    }

    /// Arguments that say what to build and for which target.
    fn selection(&self) -> Vec<&'static str> {
        let mut args = vec!["--release", "--package", PACKAGE, "--bins", "--target", TARGET];
        if *self == Self::Nightly {
            args.push("-Zbuild-std=core");
        }
        args
    }

    /// The clippy that belongs to this compiler: another version's cannot read its libraries.
    pub fn clippy(&self) -> Result<PathBuf, String> {
        let (rustc, driver) = match self {
            Self::Nightly => return nightly_clippy(),
            Self::System(rustc) => (rustc, rustc.with_file_name("clippy-driver")),
        };
        let release = |program: &Path| {
            let shown = process::output_of(Command::new(program).args(["--rustc", "--version"]))
                .or_else(|| process::output_of(Command::new(program).arg("--version")))?;
            shown.strip_prefix("rustc ").map(str::to_owned)
        };
        match release(&driver) {
            Some(version) if Some(&version) == release(rustc).as_ref() => Ok(driver),
            Some(version) => Err(format!("{} belongs to rustc {version}", driver.display())),
            None => Err(format!("no {}", driver.display())),
        }
    }
}

/// Builds the objects and puts the daemon's where the daemon's build embeds it; untouched when nothing changed.
pub fn build(paths: &Paths) -> Result<()> {
    let built = compile(paths, &[])?;
    publish(&built.join(BIN), &paths.bpf_object())?;
    publish(&built.join(BENCH_BIN), &paths.bench_object())
}

/// Builds the object whose maps have another layout, for the daemon that tests go over to and come back from.
pub fn build_other_layout(paths: &Paths) -> Result<()> {
    let built = compile(paths, &["--features", "other-layout"])?;
    publish(&built.join(BIN), &paths.other_layout_object())
}

fn compile(paths: &Paths, features: &[&str]) -> Result<PathBuf> {
    let (compiler, linker) = tools()?;
    process::run(compiler.cargo(paths, &linker).arg("build").args(compiler.selection()).args(features))
        .context("the packet programs do not build")?;
    Ok(paths.bpf_target().join(TARGET).join("release"))
}

/// Runs clippy over the entry points, warnings denied.
pub fn lint(paths: &Paths) -> Result<()> {
    let (compiler, linker) = tools()?;
    let driver = compiler.clippy().map_err(|found| anyhow!("no clippy for the BPF compiler: {found}"))?;
    let mut command = compiler.cargo(paths, &linker);
    // What `cargo clippy` does, with a driver of our choice.
    command.arg("check").args(compiler.selection()).env("RUSTC_WORKSPACE_WRAPPER", driver);
    command.env("CLIPPY_ARGS", "-Dwarnings__CLIPPY_HACKERY__");
    process::run(&mut command).context("clippy finds fault with the packet programs")
}

fn tools() -> Result<(Compiler, PathBuf)> {
    let compiler = Compiler::find().map_err(|found| anyhow!("no BPF compiler: {found}"))?;
    let linker = bpf_linker().map_err(|found| anyhow!("no bpf-linker: {found}"))?;
    Ok((compiler, linker))
}

fn probe_nightly() -> Result<(), String> {
    let rustc = |args: &[&str]| {
        process::output_of(Command::new("rustup").args(["run", "nightly", "rustc"]).args(args))
            .ok_or_else(|| "no rustup nightly".to_owned())
    };
    new_enough("rustup's nightly", &rustc(&["--version"])?)?;
    let sysroot = PathBuf::from(rustc(&["--print", "sysroot"])?);
    if !sysroot.join("lib/rustlib/src/rust/library/core").is_dir() {
        return Err("rustup's nightly has no rust-src".to_owned());
    }
    Ok(())
}

fn probe_system(rustc: &Path) -> Result<(), String> {
    let ask = |flags: &[&str]| {
        process::output_of(Command::new(rustc).args(flags)).ok_or_else(|| format!("no {}", rustc.display()))
    };
    new_enough(SYSTEM_RUSTC, &ask(&["--version"])?)?;
    let libraries = PathBuf::from(ask(&["--print", "sysroot"])?).join("lib/rustlib").join(TARGET).join("lib");
    let has_core = fs::read_dir(&libraries).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
    });
    if has_core { Ok(()) } else { Err(format!("{SYSTEM_RUSTC} has no core for {TARGET}")) }
}

/// Whether a version text is no older than the `rust-version` of the workspace.
pub fn new_enough(name: &str, shown: &str) -> Result<(), String> {
    let version = Version::parse(shown).ok_or_else(|| format!("{name} says \"{shown}\""))?;
    match Version::parse(env!("CARGO_PKG_RUST_VERSION")) {
        Some(wanted) if version < wanted => Err(format!("{name} is {version}, older than {wanted}")),
        _ => Ok(()),
    }
}

fn nightly_clippy() -> Result<PathBuf, String> {
    process::output_of(Command::new("rustup").args(["which", "--toolchain", "nightly", "clippy-driver"]))
        .map(PathBuf::from)
        .ok_or_else(|| "rustup's nightly has no clippy".to_owned())
}

/// Copies only a changed object, so that its date tells cargo the truth; never leaves half a file.
fn publish(built: &Path, object: &Path) -> Result<()> {
    let new = fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
    if fs::read(object).is_ok_and(|old| old == new) {
        return Ok(());
    }
    let partial = object.with_extension("tmp");
    fs::write(&partial, new)
        .and_then(|()| fs::rename(&partial, object))
        .with_context(|| format!("cannot write {}", object.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_older_than_the_workspace_asks_for_is_refused_by_version() {
        assert_eq!(
            new_enough("/usr/bin/rustc", "rustc 1.63.0 (Debian)"),
            Err(format!(
                "/usr/bin/rustc is 1.63.0, older than {}",
                Version::parse(env!("CARGO_PKG_RUST_VERSION")).unwrap()
            ))
        );
        assert_eq!(new_enough("rustc", concat!("rustc ", env!("CARGO_PKG_RUST_VERSION"), ".0")), Ok(()));
    }

    #[test]
    fn an_unchanged_object_keeps_its_date() {
        let dir = std::env::temp_dir().join(format!("viplb-publish-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (built, object) = (dir.join("built"), dir.join("viplb.bpf.o"));
        fs::write(&built, b"one").unwrap();
        publish(&built, &object).unwrap();
        let long_ago = std::time::SystemTime::UNIX_EPOCH;
        fs::File::options().write(true).open(&object).unwrap().set_modified(long_ago).unwrap();

        publish(&built, &object).unwrap();
        assert_eq!(fs::metadata(&object).unwrap().modified().unwrap(), long_ago);

        fs::write(&built, b"two").unwrap();
        publish(&built, &object).unwrap();
        assert_eq!(fs::read(&object).unwrap(), b"two");
        fs::remove_dir_all(dir).unwrap();
    }
}
