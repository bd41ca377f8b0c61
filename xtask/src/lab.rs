//! `cargo xtask lab`: the lab by hand.
//!
//! Only `up` builds. Everything else acts on a lab that runs, so it uses the program that is there: `down`
//! and `status` are instant, and work while the tree does not compile.

use std::ffi::OsString;

use anyhow::Result;

use crate::paths::Paths;
use crate::toolchain::Purpose;
use crate::{build, install, process, run};

/// Drive the lab by hand: up, down, status, pause, unpause, stop, start, kill, cut, heal, exec
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Options {
    #[command(flatten)]
    install: install::Options,
    /// What the lab is to do; `cargo xtask lab help` lists it all
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
    let program = paths.program("viplb-lab", false);
    let raises = options.args.first().is_some_and(|verb| verb == "up");
    if raises {
        run::need_root("cargo xtask lab up")?;
    }
    if raises || !program.is_file() {
        install::ensure(paths, if raises { Purpose::Lab } else { Purpose::Build }, options.install)?;
        build::all(paths, false)?;
    }
    let mut args = vec![OsString::from("lab")];
    args.extend(options.args);
    process::exec(&program, &args)
}
