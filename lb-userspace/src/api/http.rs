//! `[http] listen`: metrics for whoever may reach the address. No password, and nothing that needs one.
//!
//! Apart from the control socket: this one is open to other hosts, so connections are few and short, and nothing but
//! `GET /metrics` is understood. The control loop starts it; it only ever reads the published snapshot.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{metrics, snapshot::Snapshot};

/// Connections at a time; more wait in the kernel's queue.
const CONNECTIONS: usize = 8;
/// From its first byte to its last.
const CONNECTION_LIMIT: Duration = Duration::from_secs(5);
/// After a failed accept: out of descriptors, most likely.
const RETRY: Duration = Duration::from_secs(1);
/// Prometheus' text format.
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Binds the address.
pub async fn bind(addr: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(addr)
        .await
        .with_context(|| format!("cannot serve metrics on {addr}: correct `listen` in [http], or remove it"))
}

/// Serves until cancelled.
pub fn serve(
    listener: TcpListener,
    snapshot: watch::Receiver<Snapshot>,
    cancel: &CancellationToken,
    tasks: &TaskTracker,
) {
    let (cancel, spawner) = (cancel.clone(), tasks.clone());
    tasks.spawn(async move {
        let accept = accept(listener, snapshot, cancel.clone(), spawner);
        cancel.run_until_cancelled(accept).await;
    });
}

async fn accept(
    listener: TcpListener,
    snapshot: watch::Receiver<Snapshot>,
    cancel: CancellationToken,
    tasks: TaskTracker,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    // The semaphore is never closed.
    while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(RETRY).await;
            continue;
        };
        let connection = connection(stream, snapshot.clone());
        let cancel = cancel.clone();
        tasks.spawn(async move {
            cancel.run_until_cancelled_owned(timeout(CONNECTION_LIMIT, connection)).await;
            drop(permit);
        });
    }
}

/// What a client does wrong is the client's affair.
async fn connection(stream: TcpStream, snapshot: watch::Receiver<Snapshot>) {
    let service = service_fn(|request| {
        let answer = answer(&request, &snapshot);
        async { Ok::<_, Infallible>(answer) }
    });
    let _ = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service).await;
}

fn answer(request: &Request<Incoming>, snapshot: &watch::Receiver<Snapshot>) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" {
        return status(StatusCode::NOT_FOUND, "there is /metrics only\n");
    }
    if request.method() != Method::GET {
        let mut refused = status(StatusCode::METHOD_NOT_ALLOWED, "");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return refused;
    }
    // Copied first: whoever publishes the next one must not wait for the text.
    let now = snapshot.borrow().clone();
    let mut metrics = Response::new(Full::from(metrics::render(&now)));
    metrics.headers_mut().insert(CONTENT_TYPE, TEXT);
    metrics
}

fn status(status: StatusCode, words: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(words));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn ask(addr: SocketAddr, line: &str) -> String {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(format!("{line} HTTP/1.1\r\nHost: h1\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn metrics_are_served_and_nothing_else_is_and_the_stop_ends_it() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (_sender, snapshot) = watch::channel(Snapshot::default());
        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        serve(listener, snapshot, &cancel, &tasks);
        let text = ask(addr, "GET /metrics").await;
        assert!(text.starts_with("HTTP/1.1 200") && text.contains("\nviplb_up 0\n"), "{text}");
        assert!(text.contains("content-type: text/plain; version=0.0.4"), "{text}");
        assert!(ask(addr, "POST /metrics").await.starts_with("HTTP/1.1 405"));
        assert!(ask(addr, "GET /v1/status").await.starts_with("HTTP/1.1 404"));
        // Many who say nothing hold up nobody for longer than their time.
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS {
            silent.push(TcpStream::connect(addr).await.unwrap());
        }
        let late = timeout(CONNECTION_LIMIT * 4, ask(addr, "GET /metrics")).await.expect("an answer");
        assert!(late.starts_with("HTTP/1.1 200"), "{late}");
        cancel.cancel();
        tasks.close();
        timeout(CONNECTION_LIMIT * 4, tasks.wait()).await.expect("all tasks end");
        let error = bind("192.0.2.1:1".parse().unwrap()).await.unwrap_err().to_string();
        assert!(error.starts_with("cannot serve metrics on 192.0.2.1:1"), "{error}");
    }
}
