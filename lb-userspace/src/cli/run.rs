//! `viplb run`: configuration, log, signals; the rest is the control loop's.

use std::{path::Path, process::ExitCode};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{cli::check, control, log};

/// Runs the daemon until SIGTERM or SIGINT.
pub fn run(file: &Path) -> Result<ExitCode> {
    let Some(config) = check::load(file) else { return Ok(ExitCode::FAILURE) };
    log::init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("viplb")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        // Its default would end the daemon, and users of keepalived and HAProxy send it to reload.
        let mut hangup = signal(SignalKind::hangup())?;
        let stopper = stop.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => break tracing::info!("SIGTERM: stopping"),
                    _ = interrupt.recv() => break tracing::info!("SIGINT: stopping"),
                    _ = hangup.recv() => tracing::warn!("SIGHUP: ignored, reloading is not built yet; restart instead"),
                }
            }
            stopper.cancel();
        });
        control::run(config, stop).await
    })?;
    Ok(ExitCode::SUCCESS)
}
