//! Boots an unpacked kernel in QEMU on this machine's own files: initramfs and command line.
//!
//! The machine's root is mounted read-only, writes go to the guest's memory; it has no network. Without KVM, so that it runs
//! inside containers and guests, too: a boot takes half a minute and times of the guest mean nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::kernel::Kernel;
use crate::process;

/// What QEMU's status is when the guest's command ended well: see `init.sh`.
pub const SUCCESS: i32 = 33;
const INIT: &str = include_str!("init.sh");
/// What the guest's root needs; everything else is loaded by the kernel from the root.
const MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];
/// The kernel asks in the initramfs for modules, which are in the root.
const MODPROBE: &str = "#!/bin/busybox sh\nexec /bin/busybox chroot /new /sbin/modprobe \"$@\"\n";

/// QEMU, about to run `script` by the shell of this machine's root under `kernel`.
pub fn qemu(kernel: &Kernel, script: &str) -> Result<Command> {
    let initramfs = initramfs(kernel, script)?;
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "3072", "-smp", "2"])
        .args(["-display", "none", "-serial", "stdio", "-monitor", "none", "-no-reboot", "-nic", "none"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"])
        .args(["-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"])
        .args(["-append", "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off"])
        .arg("-kernel")
        .arg(kernel.image())
        .arg("-initrd")
        .arg(initramfs)
        .stdin(Stdio::null());
    Ok(qemu)
}

/// A word for the shell.
pub fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn initramfs(kernel: &Kernel, script: &str) -> Result<PathBuf> {
    let dir = kernel.root.join("initramfs");
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot empty {}", dir.display()))?;
    }
    for sub in ["bin", "sbin", "modules"] {
        fs::create_dir_all(dir.join(sub)).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let busybox = process::find_program("busybox").context("no busybox")?;
    fs::copy(busybox, dir.join("bin/busybox"))?;
    executable(&dir.join("init"), INIT)?;
    executable(&dir.join("sbin/modprobe"), MODPROBE)?;
    fs::write(dir.join("env"), format!("MODULES={}\n", quote(&kernel.modules().to_string_lossy())))?;
    fs::write(dir.join("cmd"), script)?;
    for (number, module) in (100..).zip(modules(kernel)?) {
        let name = module.file_stem().unwrap_or_default().to_string_lossy();
        let name = name.trim_end_matches(".ko");
        fs::write(dir.join(format!("modules/{number}-{name}.ko")), plain(&module)?)?;
    }
    let packed = kernel.root.join("initramfs.gz");
    let mut pack = Command::new("sh");
    pack.args(["-c", "find . | cpio -o -H newc --quiet | gzip -1 > \"$1\"", "sh"]).arg(&packed);
    process::run(pack.current_dir(&dir))?;
    Ok(packed)
}

fn executable(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The files of [`MODULES`] and of what they need, in the order of loading.
fn modules(kernel: &Kernel) -> Result<Vec<PathBuf>> {
    let modprobe = process::find_program("modprobe").context("no modprobe")?;
    let mut command = Command::new(modprobe);
    command.arg("-d").arg(&kernel.root).args(["-S", &kernel.release, "-a", "--show-depends"]).args(MODULES);
    let shown = process::output_of(&mut command)
        .with_context(|| format!("`{}` failed", process::describe(&command)))?;
    let mut files = Vec::new();
    for line in shown.lines() {
        match line.split_once(' ') {
            Some(("insmod", file)) if !files.contains(&PathBuf::from(file.trim())) => {
                files.push(PathBuf::from(file.trim()));
            }
            _ => {}
        }
    }
    Ok(files)
}

/// A module, unpacked.
fn plain(module: &Path) -> Result<Vec<u8>> {
    let tool = match module.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("ko") => return fs::read(module).with_context(|| format!("cannot read {}", module.display())),
        _ => bail!("{} is packed in a way unknown here", module.display()),
    };
    let output = Command::new(tool).args(["-dc"]).arg(module).output();
    let output = output.with_context(|| format!("cannot start {tool}"))?;
    ensure!(output.status.success(), "{tool} cannot unpack {}", module.display());
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_guests_shell_as_they_are() {
        for word in ["plain", "two words", "it's", "$HOME `x` \"y\" \\"] {
            let echoed =
                process::output_of(Command::new("sh").args(["-c", &format!("printf %s {}", quote(word))]));
            assert_eq!(echoed.as_deref(), Some(word));
        }
    }
}
