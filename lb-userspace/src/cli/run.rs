//! `viplb run`: configuration, log, signals; the rest is the control loop's.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::check,
    control::{self, Start},
    log, upgrade,
};

/// Runs the daemon until SIGTERM or SIGINT, or until another program goes on in this process.
pub fn run(file: &Path) -> Result<ExitCode> {
    let (before, began) = (upgrade::predecessor(), Instant::now());
    let failed = match daemon(file) {
        Ok(Some(Ended::Stopped)) => return Ok(ExitCode::SUCCESS),
        Ok(Some(Ended::For(program))) => return Err(upgrade::exec(&program)),
        Ok(None) => None,
        Err(e) => Some(e),
    };
    match before.filter(|_| began.elapsed() < TRIAL) {
        Some(before) => {
            let why = failed.as_ref().map_or_else(String::new, |e| format!("{e:#}: "));
            tracing::error!("{why}this build does not run here: back to the one before it");
            Err(upgrade::go_back(before))
        }
        None => failed.map_or(Ok(ExitCode::FAILURE), Err),
    }
}

/// How a daemon ended that had nothing to complain of.
enum Ended {
    Stopped,
    /// This program goes on in its process.
    For(PathBuf),
}

/// A build that fails within this time after it came by `viplb upgrade` gives way to the one before it.
const TRIAL: Duration = Duration::from_secs(60);

/// Nothing came of it if the file has mistakes, which have been told.
fn daemon(file: &Path) -> Result<Option<Ended>> {
    let Some((config, source)) = check::load(file) else { return Ok(None) };
    // A reload finds it wherever the daemon was started.
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    log::init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("viplb")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let successor = runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let stopper = stop.clone();
        // One that waits is enough: the file is read after it.
        let (hangup_sender, hangups) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => break tracing::info!("SIGTERM: stopping"),
                    _ = interrupt.recv() => break tracing::info!("SIGINT: stopping"),
                    _ = hangup.recv() => drop(hangup_sender.try_send(())),
                }
            }
            stopper.cancel();
        });
        control::run(Start { config, file, source, hangups }, stop).await
    })?;
    Ok(Some(successor.map_or(Ended::Stopped, Ended::For)))
}
