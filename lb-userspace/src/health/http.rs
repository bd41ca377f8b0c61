//! The `http` check: one GET over HTTP/1.1, its status, and words that the body must hold.
//!
//! `task` calls [`check`]. With `port = 9200` it asks the usual clustercheck. No TLS, no redirects followed: a status
//! within the configured range passes as it is.

use std::{net::SocketAddr, pin::pin, time::Duration};

use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};

use super::{Failure, Step, failure::printable, tcp};
use crate::config::model::HttpCheck;

/// Asks `addr` within `limit`; returns how long that took.
pub async fn check(addr: SocketAddr, check: &HttpCheck, limit: Duration) -> Result<Duration, Failure> {
    let start = Instant::now();
    let deadline = start + limit;
    let stream = tcp::connect(addr, deadline, limit).await?;
    match timeout_at(deadline, exchange(TokioIo::new(stream), addr, check)).await {
        Ok(result) => result.map(|()| start.elapsed()),
        Err(_) => Err(Failure::Timeout { step: Step::Answer, limit }),
    }
}

async fn exchange(
    io: TokioIo<tokio::net::TcpStream>,
    addr: SocketAddr,
    check: &HttpCheck,
) -> Result<(), Failure> {
    let (mut sender, connection) = http1::handshake(io).await.map_err(|e| failure(&e))?;
    let host = check.host.clone().unwrap_or_else(|| addr.to_string());
    let request = Request::get(&check.path)
        .header("host", host)
        .header("user-agent", "viplb")
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| Failure::Protocol(printable(&e.to_string())))?;
    let ask = async {
        let response = sender.send_request(request).await.map_err(|e| failure(&e))?;
        judge(response, check).await
    };
    // The connection is driven beside the request and ends with it; no task outlives the check.
    let (mut ask, mut connection) = (pin!(ask), pin!(connection));
    tokio::select! {
        biased;
        result = &mut ask => result,
        ended = &mut connection => match ended {
            // It may end before the last of the answer is looked at.
            Ok(()) => ask.await,
            Err(e) => Err(failure(&e)),
        },
    }
}

async fn judge(response: Response<Incoming>, check: &HttpCheck) -> Result<(), Failure> {
    let status = response.status().as_u16();
    if !(check.status.0..=check.status.1).contains(&status) {
        return Err(Failure::Status(status));
    }
    let Some(words) = &check.body else { return Ok(()) };
    let mut body = response.into_body();
    let mut text = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| failure(&e))?;
        text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        if text.windows(words.len()).any(|part| part == words.as_bytes()) {
            return Ok(());
        }
        if text.len() > MOST_BYTES {
            break;
        }
    }
    Err(Failure::Words)
}

fn failure(error: &hyper::Error) -> Failure {
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        return Failure::Closed;
    }
    Failure::Protocol(printable(&error.to_string()))
}

/// Words that stand further behind are not looked for.
const MOST_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    const LIMIT: Duration = Duration::from_millis(500);

    fn asking(body: Option<&str>) -> HttpCheck {
        HttpCheck {
            path: "/ready?full=1".into(),
            host: Some("db.local".into()),
            status: (200, 299),
            body: body.map(str::to_owned),
        }
    }

    /// The check against a server that gives this answer, and the request it got.
    async fn against(answer: &'static str, check: HttpCheck) -> (Result<Duration, Failure>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).await.unwrap();
                request.push(byte[0]);
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            if answer.is_empty() {
                // Silence; until the check has given up.
                let _ = stream.read(&mut [0]).await;
            }
            String::from_utf8(request).unwrap()
        });
        let result = super::check(addr, &check, LIMIT).await;
        (result, server.await.unwrap())
    }

    #[tokio::test]
    async fn path_and_host_are_sent_and_status_and_words_decide() {
        let good = "HTTP/1.1 200 OK\r\nContent-Length: 29\r\n\r\nPercona XtraDB node is synced";
        let (passed, request) = against(good, asking(None)).await;
        assert!(passed.is_ok(), "{passed:?}");
        assert!(request.starts_with("GET /ready?full=1 HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("host: db.local\r\n"), "{request}");
        assert!(against(good, asking(Some("is synced"))).await.0.is_ok());
        assert_eq!(against(good, asking(Some("is not"))).await.0, Err(Failure::Words));
        let until_close = "HTTP/1.0 200 OK\r\n\r\nuntil the connection ends: is synced";
        assert!(against(until_close, asking(Some("is synced"))).await.0.is_ok());
        let bad = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(against(bad, asking(None)).await.0, Err(Failure::Status(503)));
    }

    #[tokio::test]
    async fn silence_and_nonsense_fail_within_the_limit() {
        let silent = against("", asking(None)).await.0;
        assert_eq!(silent, Err(Failure::Timeout { step: Step::Answer, limit: LIMIT }));
        let nonsense = against("SSH-2.0-OpenSSH_9.2\r\n", asking(None)).await.0;
        assert!(matches!(nonsense, Err(Failure::Protocol(_) | Failure::Closed)), "{nonsense:?}");
        let cut =
            against("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", asking(Some("whole"))).await.0;
        assert!(matches!(cut, Err(Failure::Closed | Failure::Protocol(_))), "{cut:?}");
    }
}
