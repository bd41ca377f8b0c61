//! The control socket: HTTP over a unix socket that only root can open, one JSON for CLI, scripts and tests.
//!
//! `GET /v1/status` gives the latest [`snapshot::Snapshot`]; `POST /v1/log` switches the packet programs' diagnostic
//! events. Handlers read the published snapshot or send a command to the control loop; they hold no state.

pub mod client;
pub mod http;
pub mod metrics;
pub mod snapshot;

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path};

use anyhow::{Context, Result};
use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot, watch},
};
use tokio_util::sync::CancellationToken;

use snapshot::Snapshot;

/// Body of `POST /v1/log`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct LogSwitch {
    /// Whether the packet programs log their slow paths.
    pub datapath: bool,
}

/// What the API asks of the control loop.
#[derive(Debug)]
pub enum Command {
    /// Switch the packet programs' diagnostic events.
    DatapathLog(bool, oneshot::Sender<Result<(), String>>),
}

#[derive(Clone)]
struct Shared {
    snapshot: watch::Receiver<Snapshot>,
    commands: mpsc::Sender<Command>,
}

/// Binds the control socket. A stale one of a dead daemon is replaced: the caller holds the node's lock.
pub fn bind(path: &Path) -> Result<UnixListener> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("cannot replace {}", path.display()));
        }
        _ => {}
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("cannot restrict {}", path.display()))?;
    Ok(listener)
}

/// Serves until cancelled.
pub async fn serve(
    listener: UnixListener,
    snapshot: watch::Receiver<Snapshot>,
    commands: mpsc::Sender<Command>,
    cancel: CancellationToken,
) -> Result<()> {
    let app = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/log", post(log))
        .with_state(Shared { snapshot, commands });
    axum::serve(listener, app)
        .with_graceful_shutdown(async move { cancel.cancelled().await })
        .await
        .context("the control socket failed")
}

async fn status(State(shared): State<Shared>) -> Json<Snapshot> {
    Json(shared.snapshot.borrow().clone())
}

async fn log(State(shared): State<Shared>, Json(body): Json<LogSwitch>) -> Result<(), (StatusCode, String)> {
    let gone = || (StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping".to_owned());
    let (answer, answered) = oneshot::channel();
    shared.commands.send(Command::DatapathLog(body.datapath, answer)).await.map_err(|_| gone())?;
    answered.await.map_err(|_| gone())?.map_err(|e| (StatusCode::INTERNAL_SERVER_ERROR, e))
}
