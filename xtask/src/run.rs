//! `cargo xtask run`: the five-minute try-out, or the daemon on this very host.
//!
//! Builds, then becomes the program: from there on Ctrl-C, exit code and terminal are the program's own.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::paths::Paths;
use crate::toolchain::Purpose;
use crate::{build, install, process};

/// Try viplb out: two nodes, a database cluster and a client, in network namespaces of this machine
///
/// With -c, run the daemon on this host with that configuration instead.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Run `viplb` on this host with this configuration file
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    install: install::Options,
    /// Passed on: to the try-out (such as --db 5, --seconds 30) or, with -c, to `viplb run`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

impl Options {
    /// What goes to the program that is started.
    #[cfg(test)]
    pub fn passed_on(&self) -> &[OsString] {
        &self.args
    }
}

/// Runs the subcommand.
pub fn run(paths: &Paths, options: Options) -> Result<()> {
    let mut args = vec![OsString::from("run")];
    if let Some(config) = options.config {
        // Made absolute here, because the file is named from where the user stands.
        let config = std::path::absolute(config)?;
        install::ensure(paths, Purpose::Build, options.install)?;
        build::daemon(paths, true)?;
        args.extend(["-c".into(), config.into()]);
        args.extend(options.args);
        return process::exec(&paths.program("viplb", true), &args);
    }
    need_root("cargo xtask run")?;
    install::ensure(paths, Purpose::Lab, options.install)?;
    build::all(paths, false)?;
    args.extend(options.args);
    process::exec(&paths.program("viplb-lab", false), &args)
}

/// The lab is made of network namespaces, which only root can make.
pub fn need_root(command: &str) -> Result<()> {
    if !process::is_root() {
        bail!(
            "the lab is made of network namespaces and needs root; \
             `sudo env \"PATH=$PATH\" {command}` runs it with your own Rust toolchain"
        );
    }
    Ok(())
}
