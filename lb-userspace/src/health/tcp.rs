//! The `tcp` check: connect, and close with RST.
//!
//! `task` calls [`check`]; `mysql` uses [`probe_greeting`], other checks `connect` and `within`. RST instead of FIN leaves no TIME_WAIT
//! behind, and a MySQL server that is asked this way by mistake does not count it towards `max_connect_errors`.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::{Failure, Step};

/// Connects to `addr` within `limit`; returns how long that took.
pub async fn check(addr: SocketAddr, limit: Duration) -> Result<Duration, Failure> {
    let start = Instant::now();
    connect(addr, start + limit, limit).await?;
    Ok(start.elapsed())
}

/// Connects and waits for the server's first byte, without taking it. A server that is frozen takes connections
/// (its kernel does) and says nothing; this leaves no half-made login behind on it.
pub async fn probe_greeting(addr: SocketAddr, deadline: Instant, limit: Duration) -> Result<(), Failure> {
    let stream = connect(addr, deadline, limit).await?;
    let step = Step::Greeting;
    match timeout_at(deadline, stream.peek(&mut [0])).await {
        Ok(Ok(0)) => Err(Failure::Closed),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(e)) => Err(Failure::from_io(&e, step, limit)),
        Err(_) => Err(Failure::Timeout { step, limit }),
    }
}

/// A connection that is reset when it is dropped.
pub(super) async fn connect(
    addr: SocketAddr,
    deadline: Instant,
    limit: Duration,
) -> Result<TcpStream, Failure> {
    let step = Step::Connect;
    let stream = within(deadline, step, limit, TcpStream::connect(addr)).await?;
    stream.set_zero_linger().map_err(|e| Failure::from_io(&e, step, limit))?;
    Ok(stream)
}

/// The result of `future`, if it comes before `deadline`. `limit` is that of the whole check, for the words.
pub(super) async fn within<T>(
    deadline: Instant,
    step: Step,
    limit: Duration,
    future: impl Future<Output = io::Result<T>>,
) -> Result<T, Failure> {
    match timeout_at(deadline, future).await {
        Ok(result) => result.map_err(|e| Failure::from_io(&e, step, limit)),
        Err(_) => Err(Failure::Timeout { step, limit }),
    }
}
