//! `viplb stop` and `viplb upgrade`: another daemon goes on where this one ends, and connections do not notice.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{node, runtime};
use crate::{
    api::{
        StopOrder,
        client::{self, AskError},
        snapshot::Snapshot,
    },
    datapath::pins,
};

/// The next daemon loads its programs, which the kernel's verifier looks at for seconds.
const LIMIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);

/// Ends a node's daemon; with `keep` for another one to go on.
pub(super) fn stop(name: Option<&str>, keep: bool, seconds: u32) -> Result<ExitCode> {
    let name = node::choose(name)?;
    let socket = pins::socket(&name);
    let runtime = runtime()?;
    let before = runtime.block_on(client::status(&socket)).with_context(|| format!("node {name}"))?;
    if keep {
        runtime
            .block_on(client::stop(&socket, &StopOrder { seconds, successor: None }))
            .with_context(|| format!("node {name} was not told"))?;
    } else {
        kill(Pid::from_raw(before.node.pid.try_into()?), Signal::SIGTERM).context("cannot send SIGTERM")?;
    }
    wait(LIMIT, || {
        matches!(runtime.block_on(client::status(&socket)), Err(AskError::NotRunning)).then_some(())
    })
    .with_context(|| format!("node {name} does not end"))?;
    if keep {
        println!("node {name} has stopped; start it again within {seconds} s");
    }
    Ok(ExitCode::SUCCESS)
}

/// Has a program go on in the process of a node's daemon: this one, if none is named.
pub(super) fn upgrade(name: Option<&str>, program: Option<&Path>, seconds: u32) -> Result<ExitCode> {
    let name = node::choose(name)?;
    let socket = pins::socket(&name);
    let program = match program {
        Some(program) => std::path::absolute(program)?,
        None => std::env::current_exe().context("cannot find this program")?,
    };
    let runtime = runtime()?;
    let before = runtime.block_on(client::status(&socket)).with_context(|| format!("node {name}"))?;
    let order = StopOrder { seconds, successor: Some(PathBuf::from(&program)) };
    if let Err(e) = runtime.block_on(client::stop(&socket, &order)) {
        bail!("node {name}: {e}; nothing has changed");
    }
    let is_next = |s: &Snapshot| s.node.run != before.node.run;
    let after = wait(LIMIT, || runtime.block_on(client::status(&socket)).ok().filter(is_next))
        .with_context(|| format!("node {name} has not come back: see its log, and `viplb status`"))?;
    ensure!(
        after.node.program == program.display().to_string(),
        "{} did not start, and {} runs again: see the log",
        program.display(),
        after.node.program
    );
    println!(
        "node {name}: viplb {} goes on, pid {}, after {}",
        after.node.version, after.node.pid, before.node.version
    );
    Ok(ExitCode::SUCCESS)
}

fn wait<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        ensure!(Instant::now() < deadline, "waited for {limit:?}");
        sleep(LOOK);
    }
}
