//! Puts the eBPF object where the daemon embeds it: `$OUT_DIR/viplb.bpf.o`; and has a release say which commit it is of.
//!
//! `cargo xtask build` makes the object, since cargo itself cannot build for two compilers at once; this
//! script only picks it up, from `VIPLB_BPF_OBJECT` or from `bpf/viplb.bpf.o` in the target directory. With
//! no object there the crate still compiles, so that `cargo test` and editors work everywhere: the embedded
//! object is empty then, and the daemon says so when it is started.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;
use std::{env, fs, io};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=VIPLB_BPF_OBJECT");
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let object = if let Some(named) = env::var_os("VIPLB_BPF_OBJECT") {
        let named = PathBuf::from(named);
        assert!(named.is_file(), "VIPLB_BPF_OBJECT names {}, which is not a file", named.display());
        named
    } else {
        let other = env::var_os("CARGO_FEATURE_OTHER_LAYOUT").is_some();
        let name = if other { "viplb-other-layout.bpf.o" } else { "viplb.bpf.o" };
        let object = target_dir(&out_dir).join("bpf").join(name);
        if let Err(error) = hold_place(&object) {
            panic!("cannot write {}: {error}", object.display());
        }
        object
    };
    println!("cargo::rerun-if-changed={}", object.display());
    let bytes = fs::read(&object).unwrap_or_else(|error| panic!("cannot read {}: {error}", object.display()));
    if bytes.is_empty() {
        println!("cargo::warning=viplb is built without its packet programs; `cargo xtask build` adds them");
    }
    let embedded = out_dir.join("viplb.bpf.o");
    fs::write(&embedded, bytes)
        .unwrap_or_else(|error| panic!("cannot write {}: {error}", embedded.display()));
    tell_commit();
}

/// Of the repository, if these are files of one. Only for a release: other builds would be done anew with each commit.
fn tell_commit() {
    println!("cargo::rerun-if-env-changed=VIPLB_COMMIT");
    if env::var("PROFILE").as_deref() != Ok("release") || env::var_os("VIPLB_COMMIT").is_some() {
        return;
    }
    // `logs/HEAD` has a line more after each commit and each change of branches, wherever a worktree keeps it.
    let (Some(commit), Some(log)) =
        (git(&["rev-parse", "--short=12", "HEAD"]), git(&["rev-parse", "--git-path", "logs/HEAD"]))
    else {
        return;
    };
    println!("cargo::rerun-if-changed={log}");
    let dirty = git(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|text| !text.is_empty());
    println!("cargo::rustc-env=VIPLB_COMMIT={commit}{}", if dirty { "-dirty" } else { "" });
}

fn git(arguments: &[&str]) -> Option<String> {
    let out = Command::new("git").args(arguments).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

/// The target directory around `OUT_DIR`, which is `TARGET[/TRIPLE]/PROFILE/build/PACKAGE/out`.
fn target_dir(out_dir: &Path) -> &Path {
    out_dir
        .ancestors()
        .find(|dir| dir.join(".rustc_info.json").is_file() || dir.join("CACHEDIR.TAG").is_file())
        .or_else(|| out_dir.ancestors().nth(4))
        .unwrap_or(out_dir)
}

/// An absent file would make cargo run this script, and compile the crate, every time. So an empty one takes
/// its place, older than anything, until the real one comes.
fn hold_place(object: &Path) -> io::Result<()> {
    if object.exists() {
        return Ok(());
    }
    fs::create_dir_all(object.parent().unwrap_or(object))?;
    fs::File::create_new(object)?.set_modified(SystemTime::UNIX_EPOCH)
}
