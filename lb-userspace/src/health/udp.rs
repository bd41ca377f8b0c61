//! The `udp` check: send a datagram; the port must not refuse it, and if an answer is expected, it must come.
//!
//! `task` calls [`check`]. UDP has no handshake: without `expect`, silence passes, and only ICMP's "port unreachable"
//! fails.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    net::UdpSocket,
    time::{Instant, timeout_at},
};

use super::{Failure, Step, tcp::within};
use crate::config::model::UdpCheck;

/// Asks `addr` within `limit`; returns how long that took.
pub async fn check(addr: SocketAddr, check: &UdpCheck, limit: Duration) -> Result<Duration, Failure> {
    let start = Instant::now();
    let (deadline, step) = (start + limit, Step::Answer);
    let socket = connect(addr, limit).await?;
    within(deadline, step, limit, socket.send(&check.send)).await?;
    let mut answer = [0; 2048];
    let Some(expected) = &check.expect else {
        // Whether it answers or is silent is its own affair.
        return match timeout_at(deadline, socket.recv(&mut answer)).await {
            Ok(Err(e)) => Err(Failure::from_io(&e, step, limit)),
            Ok(Ok(_)) | Err(_) => Ok(start.elapsed()),
        };
    };
    let length = within(deadline, step, limit, socket.recv(&mut answer)).await?;
    let holds = answer[..length].windows(expected.len()).any(|part| part == expected);
    if holds { Ok(start.elapsed()) } else { Err(Failure::Words) }
}

/// A socket that hears `addr` alone, ICMP errors included.
pub(super) async fn connect(addr: SocketAddr, limit: Duration) -> Result<UdpSocket, Failure> {
    let io = |e: std::io::Error| Failure::from_io(&e, Step::Connect, limit);
    let any = if addr.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await.map_err(io)?;
    socket.connect(addr).await.map_err(io)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(300);

    fn asking(expect: Option<&str>) -> UdpCheck {
        UdpCheck { send: b"ping".to_vec(), expect: expect.map(|e| e.as_bytes().to_vec()) }
    }

    #[tokio::test]
    async fn an_answer_must_hold_the_words_if_there_are_any() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = server.local_addr().unwrap();
        tokio::spawn(async move {
            let mut packet = [0; 64];
            while let Ok((n, client)) = server.recv_from(&mut packet).await {
                assert_eq!(&packet[..n], b"ping");
                server.send_to(b"a pong!", client).await.unwrap();
            }
        });
        assert!(check(addr, &asking(Some("pong")), LIMIT).await.is_ok());
        assert!(check(addr, &asking(None), LIMIT).await.is_ok());
        assert_eq!(check(addr, &asking(Some("song")), LIMIT).await, Err(Failure::Words));
    }

    #[tokio::test]
    async fn silence_passes_only_if_no_answer_is_expected_and_a_refusal_never() {
        // An address of its own: on the usual one, a test beside this one may be given the port once it is free again, and
        // be silent there.
        let silent = UdpSocket::bind("127.0.78.1:0").await.unwrap();
        let addr = silent.local_addr().unwrap();
        assert!(check(addr, &asking(None), LIMIT).await.is_ok());
        let timed_out = check(addr, &asking(Some("pong")), LIMIT).await;
        assert_eq!(timed_out, Err(Failure::Timeout { step: Step::Answer, limit: LIMIT }));
        drop(silent);
        assert_eq!(check(addr, &asking(None), LIMIT).await, Err(Failure::Refused));
    }
}
