//! Programs that tests run.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

/// Makes a shell script of these lines with this mode.
///
/// Another process writes it. If this one did, a test beside this one could start a program meanwhile, whose process would
/// hold the file open for writing until its exec, and the kernel runs no file that anybody can write to (`ETXTBSY`).
pub fn script(path: &Path, lines: &str, mode: u32) {
    let mut write = Command::new("install");
    write.arg(format!("--mode={mode:o}")).arg("/dev/stdin").arg(path).stdin(Stdio::piped());
    let mut child = write.spawn().unwrap();
    write!(child.stdin.take().unwrap(), "#!/bin/sh\n{lines}\n").unwrap();
    assert!(child.wait().unwrap().success(), "{} cannot be written", path.display());
}
