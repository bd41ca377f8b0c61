//! The control socket: HTTP over a unix socket that only root can open, one JSON for CLI, scripts and tests.
//!
//! `GET /v1/status` gives the latest [`snapshot::Snapshot`]; `POST /v1/log` switches the packet programs' diagnostic
//! events; `POST /v1/backend` gives an order about a backend; `POST
//! /v1/reload` takes the configuration in anew, `POST /v1/edit` changes it, `POST /v1/stop` ends the daemon for
//! another one to follow; `POST /v1/flows/kill` ends flows. Handlers read the published snapshot or send a command to the control loop; they hold no state.

pub mod client;
pub mod http;
pub mod metrics;
pub mod snapshot;

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

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

use crate::{control::reload::diff::Change, health, upgrade};
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
    /// What is ordered. As an order of its own it holds until the daemon ends, or the file says something else.
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

/// Body of `POST /v1/reload`.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Reload {
    /// Only say what would change.
    #[serde(default)]
    pub dry_run: bool,
}

/// Body of `POST /v1/edit`: a change of the configuration that runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EditOrder {
    /// The change.
    pub edit: Edit,
    /// Write it to the file too.
    #[serde(default)]
    pub write: bool,
    /// Only say what would change.
    #[serde(default)]
    pub dry_run: bool,
}

/// A change of the configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Edit {
    /// One more service.
    AddService {
        /// Its name.
        name: String,
        /// What stands under its header in the file.
        body: String,
    },
    /// One less.
    RemoveService {
        /// Its name.
        name: String,
    },
    /// Another word about a backend, which stands in place of former orders about the same.
    Backend(BackendOrder),
}

/// Body of `POST /v1/stop`: end, so that another daemon goes on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StopOrder {
    /// How long what is left is worth something, s.
    pub seconds: u32,
    /// The program that goes on in this process; none: somebody starts one.
    #[serde(default)]
    pub successor: Option<PathBuf>,
}

/// What came of a reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// What changes by it.
    pub changes: Vec<Change>,
    /// What `viplb check` says besides; often empty.
    pub warnings: String,
    /// Whether it was done.
    pub applied: bool,
}

/// What the API asks of the control loop.
#[derive(Debug)]
pub enum Command {
    /// Switch the packet programs' diagnostic events.
    DatapathLog(bool, oneshot::Sender<Result<(), String>>),
    /// Take a backend out, bring it back, or give it another weight.
    Backend(BackendOrder, oneshot::Sender<Result<(), String>>),
    /// Take the configuration in anew, or only say what would change.
    Reload(bool, oneshot::Sender<Result<Reloaded, String>>),
    /// Change the configuration that runs.
    Edit(EditOrder, oneshot::Sender<Result<Reloaded, String>>),
    /// End, so that another daemon goes on.
    Stop(StopOrder, oneshot::Sender<Result<(), String>>),
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
        .route("/v1/reload", post(reload))
        .route("/v1/edit", post(edit))
        .route("/v1/stop", post(stop))
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

async fn reload(State(shared): State<Shared>, Json(body): Json<Reload>) -> Answer<Json<Reloaded>> {
    let asked = ask(&shared, |answer| Command::Reload(body.dry_run, answer)).await?;
    asked.map(Json).map_err(|e| (StatusCode::UNPROCESSABLE_ENTITY, e))
}

async fn edit(State(shared): State<Shared>, Json(body): Json<EditOrder>) -> Answer<Json<Reloaded>> {
    let asked = ask(&shared, |answer| Command::Edit(body, answer)).await?;
    asked.map(Json).map_err(|e| (StatusCode::UNPROCESSABLE_ENTITY, e))
}

/// A program is tried here, not in the control loop: that takes seconds.
async fn stop(State(shared): State<Shared>, Json(body): Json<StopOrder>) -> Answer {
    if let Some(program) = &body.successor {
        let file = PathBuf::from(shared.snapshot.borrow().configuration.file.clone());
        let tried = upgrade::check(program, &file).await;
        tried.map_err(|e| (StatusCode::UNPROCESSABLE_ENTITY, format!("{e:#}")))?;
    }
    let asked = ask(&shared, |answer| Command::Stop(body, answer)).await?;
    asked.map_err(|e| (StatusCode::UNPROCESSABLE_ENTITY, e))
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
