//! The CLI's side of the control socket.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, time::timeout};

use super::{BackendOrder, EditOrder, FlowKill, LogSwitch, Reload, Reloaded, StopOrder, snapshot::Snapshot};

/// A daemon that has not answered by then is taken for frozen.
const LIMIT: Duration = Duration::from_secs(2);

/// Names of users may have to be looked up, and trackers are waited for.
const RELOAD_LIMIT: Duration = Duration::from_secs(30);

/// The next program is tried first: the kernel looks at all that it may do.
const STOP_LIMIT: Duration = Duration::from_secs(120);

/// Ending a million flows takes some twenty seconds.
const KILL_LIMIT: Duration = Duration::from_secs(120);

/// Why the daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens.
    #[error("no daemon runs")]
    NotRunning,
    /// Somebody listens and does not answer.
    #[error("the daemon does not answer (frozen?)")]
    Silent,
    /// Anything else.
    #[error("{0:#}")]
    Other(anyhow::Error),
}

/// The latest snapshot of the daemon behind `socket`.
pub async fn status(socket: &Path) -> Result<Snapshot, AskError> {
    let body = ask(socket, "GET", "/v1/status", Bytes::new()).await?;
    serde_json::from_slice(&body).context("the daemon's answer is not understood").map_err(AskError::Other)
}

/// Switches the packet programs' diagnostic events.
pub async fn datapath_log(socket: &Path, on: bool) -> Result<(), AskError> {
    let body = serde_json::to_vec(&LogSwitch { datapath: on }).map_err(|e| AskError::Other(e.into()))?;
    ask(socket, "POST", "/v1/log", body.into()).await.map(drop)
}

/// Gives an order about a backend.
pub async fn order_backend(socket: &Path, order: &BackendOrder) -> Result<(), AskError> {
    let body = serde_json::to_vec(order).map_err(|e| AskError::Other(e.into()))?;
    ask(socket, "POST", "/v1/backend", body.into()).await.map(drop)
}

/// Has the daemon take its configuration in anew, or only say what would change.
pub async fn reload(socket: &Path, reload: &Reload) -> Result<Reloaded, AskError> {
    let body = serde_json::to_vec(reload).map_err(|e| AskError::Other(e.into()))?;
    let body = ask_within(RELOAD_LIMIT, socket, "POST", "/v1/reload", body.into()).await?;
    serde_json::from_slice(&body).context("the daemon's answer is not understood").map_err(AskError::Other)
}

/// Has the daemon change its configuration.
pub async fn edit(socket: &Path, order: &EditOrder) -> Result<Reloaded, AskError> {
    let body = serde_json::to_vec(order).map_err(|e| AskError::Other(e.into()))?;
    let body = ask_within(RELOAD_LIMIT, socket, "POST", "/v1/edit", body.into()).await?;
    serde_json::from_slice(&body).context("the daemon's answer is not understood").map_err(AskError::Other)
}

/// Ends the daemon so that another one goes on.
pub async fn stop(socket: &Path, order: &StopOrder) -> Result<(), AskError> {
    let body = serde_json::to_vec(order).map_err(|e| AskError::Other(e.into()))?;
    ask_within(STOP_LIMIT, socket, "POST", "/v1/stop", body.into()).await.map(drop)
}

/// Ends flows; gives how many.
pub async fn kill_flows(socket: &Path, kill: &FlowKill) -> Result<u64, AskError> {
    let body = serde_json::to_vec(kill).map_err(|e| AskError::Other(e.into()))?;
    // A large table is gone through a part at a time.
    let body = ask_within(KILL_LIMIT, socket, "POST", "/v1/flows/kill", body.into()).await?;
    serde_json::from_slice(&body).context("the daemon's answer is not understood").map_err(AskError::Other)
}

async fn ask(socket: &Path, method: &str, path: &str, body: Bytes) -> Result<Bytes, AskError> {
    ask_within(LIMIT, socket, method, path, body).await
}

async fn ask_within(
    limit: Duration,
    socket: &Path,
    method: &str,
    path: &str,
    body: Bytes,
) -> Result<Bytes, AskError> {
    let stream = match timeout(LIMIT, UnixStream::connect(socket)).await {
        Err(_) => return Err(AskError::Silent),
        Ok(Err(_)) => return Err(AskError::NotRunning),
        Ok(Ok(s)) => s,
    };
    match timeout(limit, exchange(stream, method, path, body)).await {
        Err(_) => Err(AskError::Silent),
        // Killed while it was being asked.
        Ok(Err(e)) if e.is::<hyper::Error>() => Err(AskError::NotRunning),
        Ok(r) => r.map_err(AskError::Other),
    }
}

async fn exchange(stream: UnixStream, method: &str, path: &str, body: Bytes) -> Result<Bytes> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "viplb")
        .header("content-type", "application/json")
        .body(Full::new(body))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        bail!("{}", String::from_utf8_lossy(&body));
    }
    Ok(body)
}
