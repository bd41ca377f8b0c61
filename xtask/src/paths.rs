//! Where things are: the workspace, cargo's target directory and what the builds leave in it.
//!
//! Everything is worked out once, from this very executable, so that a user's `CARGO_TARGET_DIR` or
//! `build.target-dir` is respected without asking cargo. Used by every subcommand; touches no file.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Directories of the workspace and of its builds.
#[derive(Debug, Clone)]
pub struct Paths {
    /// The folder with the workspace's `Cargo.toml`.
    pub root: PathBuf,
    /// Cargo's target directory, absolute.
    pub target: PathBuf,
}

impl Paths {
    /// Finds the workspace from the manifest folder cargo names, and the target directory from where this
    /// executable lies.
    pub fn find() -> Self {
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .filter(|dir| Path::new(dir).file_name() == Some(OsStr::new("xtask")))
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest.parent().unwrap_or(&manifest).to_path_buf();
        let target = env::current_exe()
            .ok()
            .and_then(|exe| exe.ancestors().find(|dir| is_target_dir(dir)).map(Path::to_path_buf))
            .unwrap_or_else(|| root.join("target"));
        Self { root, target }
    }

    /// An executable built with the development profile, or with the release profile.
    pub fn program(&self, name: &str, release: bool) -> PathBuf {
        self.target.join(if release { "release" } else { "debug" }).join(name)
    }

    /// The target directory of the eBPF build; apart, because its compiler differs from the host's.
    pub fn bpf_target(&self) -> PathBuf {
        self.target.join("bpf")
    }

    /// The finished eBPF object, which `lb-userspace/build.rs` embeds.
    pub fn bpf_object(&self) -> PathBuf {
        self.bpf_target().join("viplb.bpf.o")
    }

    /// Likewise, of the daemon whose maps have another layout.
    pub fn other_layout_object(&self) -> PathBuf {
        self.bpf_target().join("viplb-other-layout.bpf.o")
    }

    /// The programs that `cargo xtask bench program` measures beside.
    pub fn bench_object(&self) -> PathBuf {
        self.bpf_target().join("viplb-bench.bpf.o")
    }

    /// Where `cargo xtask test` keeps the whole output of each suite.
    pub fn test_logs(&self) -> PathBuf {
        self.target.join("test-logs")
    }

    /// Where `cargo xtask vm` keeps kernels.
    pub fn vm(&self) -> PathBuf {
        self.target.join("vm")
    }
}

/// Cargo marks its target directory with one of these files.
fn is_target_dir(dir: &Path) -> bool {
    dir.join(".rustc_info.json").is_file() || dir.join("CACHEDIR.TAG").is_file()
}
