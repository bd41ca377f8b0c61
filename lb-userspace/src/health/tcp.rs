//! The `tcp` check: connect, and close with RST.
//!
//! `task` calls [`check`]; `mysql` uses [`probe_greeting`]. RST instead of FIN leaves no TIME_WAIT
//! behind, and a MySQL server that is asked this way by mistake does not count it towards `max_connect_errors`.

use std::{net::SocketAddr, time::Duration};

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
async fn connect(addr: SocketAddr, deadline: Instant, limit: Duration) -> Result<TcpStream, Failure> {
    let step = Step::Connect;
    let stream = match timeout_at(deadline, TcpStream::connect(addr)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) => return Err(Failure::from_io(&e, step, limit)),
        Err(_) => return Err(Failure::Timeout { step, limit }),
    };
    stream.set_zero_linger().map_err(|e| Failure::from_io(&e, step, limit))?;
    Ok(stream)
}
