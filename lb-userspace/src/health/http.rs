//! The `http` and `https` checks: one GET over HTTP/1.1, its status, and words that the body must hold.
//!
//! `task` calls [`Checker::check`]. With `port = 9200` it asks the usual clustercheck. No redirects are followed: a
//! status within the configured range passes as it is.

use std::{net::SocketAddr, pin::pin, time::Duration};

use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout_at},
};
use tokio_rustls::TlsConnector;

use super::{Failure, Step, failure::printable, tcp, tls};
use crate::config::model::HttpCheck;

/// Checks one backend.
pub struct Checker {
    addr: SocketAddr,
    check: HttpCheck,
    limit: Duration,
    /// With `https`; an error is that of certificates that were good when the file was read.
    tls: Option<Result<(TlsConnector, ServerName<'static>), Failure>>,
}

impl Checker {
    /// A checker of `addr`, `limit` for a whole check.
    pub fn new(addr: SocketAddr, check: &HttpCheck, limit: Duration) -> Self {
        let tls = check.tls.as_ref().map(|tls| {
            let unfit = |e: String| Failure::Protocol(printable(&e));
            let connector = tls::connector(tls).map_err(|e| unfit(e.to_string()))?;
            Ok((connector, server_name(addr, check.host.as_deref())))
        });
        Self { addr, check: check.clone(), limit, tls }
    }

    /// One check; how long it took.
    pub async fn check(&self) -> Result<Duration, Failure> {
        let start = Instant::now();
        let (deadline, limit) = (start + self.limit, self.limit);
        let stream = tcp::connect(self.addr, deadline, limit).await?;
        let exchange = async {
            match &self.tls {
                None => exchange(stream, self.addr, &self.check).await,
                Some(Err(unfit)) => Err(unfit.clone()),
                Some(Ok((connector, name))) => {
                    let handshake = connector.connect(name.clone(), stream).await;
                    let stream = handshake.map_err(|e| Failure::from_io(&e, Step::Answer, limit))?;
                    exchange(stream, self.addr, &self.check).await
                }
            }
        };
        match timeout_at(deadline, exchange).await {
            Ok(result) => result.map(|()| start.elapsed()),
            Err(_) => Err(Failure::Timeout { step: Step::Answer, limit }),
        }
    }
}

/// The name that the certificate has to be for: that of `host`, else the address.
fn server_name(addr: SocketAddr, host: Option<&str>) -> ServerName<'static> {
    let name = host.map(|host| host.rsplit_once(':').map_or(host, |(name, _)| name));
    let name = name.and_then(|name| ServerName::try_from(name.to_owned()).ok());
    name.unwrap_or_else(|| ServerName::from(addr.ip()))
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    addr: SocketAddr,
    check: &HttpCheck,
) -> Result<(), Failure> {
    let io = TokioIo::new(stream);
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
            tls: None,
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
        let result = Checker::new(addr, &check, LIMIT).check().await;
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

    fn pem(name: &str) -> std::path::PathBuf {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tls").join(name)
    }

    /// The check against a server with the certificate for db.local and 127.0.0.1 of the test's authority.
    async fn over_tls(host: Option<&str>, authorities: &[&str]) -> Result<Duration, Failure> {
        use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let certificate = CertificateDer::from_pem_file(pem("server.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(pem("server.key")).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let _ = stream.read(&mut [0; 512]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsynced").await;
            let _ = stream.flush().await;
            let _ = stream.read(&mut [0]).await;
        });
        let der = |name: &&str| CertificateDer::from_pem_file(pem(name)).unwrap().to_vec();
        let tls = crate::config::model::Tls { authorities: authorities.iter().map(der).collect() };
        let check = HttpCheck { host: host.map(str::to_owned), tls: Some(tls), ..asking(Some("synced")) };
        let result = Checker::new(addr, &check, Duration::from_secs(20)).check().await;
        server.abort();
        result
    }

    #[tokio::test]
    async fn without_authorities_any_certificate_will_do_and_with_them_chain_and_name_must_fit() {
        for (host, authorities) in [
            (None, &[][..]),
            (Some("whatever.example"), &[]),
            (None, &["ca.pem"]),
            (Some("db.local"), &["ca.pem"]),
            (Some("db.local:9200"), &["ca.pem"]),
        ] {
            let passed = over_tls(host, authorities).await;
            assert!(passed.is_ok(), "{host:?} {authorities:?}: {passed:?}");
        }
        for (host, authorities, words) in [
            (Some("other.local"), &["ca.pem"], "not valid for name"),
            (Some("db.local"), &["server.pem"], "UnknownIssuer"),
        ] {
            let refused = over_tls(host, authorities).await.unwrap_err().to_string();
            assert!(refused.contains(words), "{refused}");
        }
    }

    #[tokio::test]
    async fn a_server_without_tls_fails_an_https_check() {
        let tls = Some(crate::config::model::Tls { authorities: Vec::new() });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            let _ = stream.read(&mut [0; 512]).await;
        });
        let check = HttpCheck { tls, ..asking(None) };
        let failed = Checker::new(addr, &check, Duration::from_secs(20)).check().await;
        assert!(matches!(failed, Err(Failure::Protocol(_))), "{failed:?}");
    }
}
