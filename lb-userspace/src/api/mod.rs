//! The control socket: HTTP over a unix socket that only root can open, one JSON for CLI, scripts and tests.
//!
//! `GET /v1/status` gives the latest [`snapshot::Snapshot`]; `POST /v1/log` switches the packet programs' diagnostic
//! events; `POST /v1/backend` gives an order about a backend; `POST /v1/flows/kill` ends flows. Handlers read the published snapshot or send a command to the control loop; they hold no state.

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
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot, watch},
};
use tokio_util::sync::CancellationToken;

use crate::health;
use snapshot::Snapshot;

/// Body of `POST /v1/log`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct LogSwitch {
    /// Whether the packet programs log their slow paths.
    pub datapath: bool,
}

/// Body of `POST /v1/backend`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackendOrder {
    /// Name of the service.
    pub service: String,
    /// Name of the backend.
    pub backend: String,
    /// What is ordered; it holds until the daemon ends.
    pub order: Order,
}

/// What can be ordered of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Take connections again, if checks let it.
    Ready,
    /// Take no new ones.
    Drain,
    /// Take no new ones, whatever checks say.
    Maint,
    /// Another weight; none: that of the configuration.
    Weight(Option<u16>),
}

impl From<Order> for health::Order {
    fn from(order: Order) -> Self {
        match order {
            Order::Ready => Self::Admin(health::Admin::Ready),
            Order::Drain => Self::Admin(health::Admin::Drain),
            Order::Maint => Self::Admin(health::Admin::Maint),
            Order::Weight(weight) => Self::Weight(weight),
        }
    }
}

/// Body of `POST /v1/flows/kill`: which flows; all that is said must hold.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct FlowKill {
    /// Name of the service.
    pub service: Option<String>,
    /// Name of the backend; of several services, unless one is named.
    pub backend: Option<String>,
    /// The client's address, or network.
    pub client: Option<IpNet>,
    /// Silent for so many milliseconds.
    #[serde(default)]
    pub idle_ms: u64,
}

/// What the API asks of the control loop.
#[derive(Debug)]
pub enum Command {
    /// Switch the packet programs' diagnostic events.
    DatapathLog(bool, oneshot::Sender<Result<(), String>>),
    /// Take a backend out, bring it back, or give it another weight.
    Backend(BackendOrder, oneshot::Sender<Result<(), String>>),
    /// End flows; gives how many.
    KillFlows(FlowKill, oneshot::Sender<Result<u64, String>>),
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
        .route("/v1/backend", post(backend))
        .route("/v1/flows/kill", post(kill_flows))
        .with_state(Shared { snapshot, commands });
    axum::serve(listener, app)
        .with_graceful_shutdown(async move { cancel.cancelled().await })
        .await
        .context("the control socket failed")
}

async fn status(State(shared): State<Shared>) -> Json<Snapshot> {
    Json(shared.snapshot.borrow().clone())
}

async fn log(State(shared): State<Shared>, Json(body): Json<LogSwitch>) -> Answer {
    let asked = ask(&shared, |answer| Command::DatapathLog(body.datapath, answer)).await?;
    asked.map_err(|e| (StatusCode::INTERNAL_SERVER_ERROR, e))
}

async fn backend(State(shared): State<Shared>, Json(body): Json<BackendOrder>) -> Answer {
    if let Order::Weight(Some(weight)) = body.order
        && weight > MAX_WEIGHT
    {
        return Err((
            StatusCode::BAD_REQUEST,
            format!("the weight is {weight}, but must be 0 to {MAX_WEIGHT}"),
        ));
    }
    let asked = ask(&shared, |answer| Command::Backend(body, answer)).await?;
    asked.map_err(|e| (StatusCode::NOT_FOUND, e))
}

async fn kill_flows(State(shared): State<Shared>, Json(body): Json<FlowKill>) -> Answer<Json<u64>> {
    let asked = ask(&shared, |answer| Command::KillFlows(body, answer)).await?;
    asked.map(Json).map_err(|e| (StatusCode::NOT_FOUND, e))
}

/// Nothing, or a status and a sentence.
type Answer<T = ()> = Result<T, (StatusCode, String)>;

/// Sends a command to the control loop; its answer.
async fn ask<T>(
    shared: &Shared,
    command: impl FnOnce(oneshot::Sender<Result<T, String>>) -> Command,
) -> Answer<Result<T, String>> {
    let gone = || (StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping".to_owned());
    let (answer, answered) = oneshot::channel();
    shared.commands.send(command(answer)).await.map_err(|_| gone())?;
    answered.await.map_err(|_| gone())
}

/// As in the configuration.
const MAX_WEIGHT: u16 = 256;
