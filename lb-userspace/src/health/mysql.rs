//! The `mysql` check: log in fully, `COM_PING`, `COM_QUIT`, all before one deadline.
//!
//! Anything less than a full login raises the server's `max_connect_errors` count until it blocks this host (error
//! 1129), and a connect alone passes while the server is frozen. `task` calls [`Checker::check`], `galera` uses the login alone. It issues no query:
//! the account needs no privilege, and nothing shows in the server's counters.

use std::{net::SocketAddr, time::Duration};

use mysql_async::{Conn, DriverError, Error, IoError, Opts, OptsBuilder, prelude::Queryable};
use tokio::time::{Instant, timeout_at};

use super::{Failure, Step, failure::printable, tcp};
use crate::config::model::MysqlLogin;

/// Checks one backend.
#[derive(Clone)]
pub struct Checker {
    addr: SocketAddr,
    opts: Opts,
    limit: Duration,
    /// The last check ended in silence. The server may be frozen, with its kernel queueing connections: each one
    /// closed without a login would count as a connect error when it wakes up. So it is asked for its greeting
    /// first, and left with RST, which does not count.
    silent: bool,
}

impl Checker {
    /// A checker of `addr` with this account, `limit` for a whole check.
    pub fn new(addr: SocketAddr, login: &MysqlLogin, limit: Duration) -> Self {
        let opts = OptsBuilder::default()
            .ip_or_hostname(addr.ip().to_string())
            .tcp_port(addr.port())
            .user(Some(login.user.clone()))
            .pass((!login.password.is_empty()).then(|| login.password.clone()))
            // Left unset, each of the three costs a query, or for `prefer_socket` a second login, per check.
            .max_allowed_packet(Some(MAX_PACKET_BYTES))
            .wait_timeout(Some(WAIT_TIMEOUT_S))
            .prefer_socket(Some(false))
            .stmt_cache_size(Some(0));
        Self { addr, opts: opts.into(), limit, silent: false }
    }

    /// One check; how long it took.
    pub async fn check(&mut self) -> Result<Duration, Failure> {
        let start = Instant::now();
        let result = self.ask(start + self.limit).await;
        self.remember(&result);
        result.map(|()| start.elapsed())
    }

    /// A connection with a full login behind it.
    pub(super) async fn login(&self, deadline: Instant) -> Result<Conn, Failure> {
        if self.silent {
            tcp::probe_greeting(self.addr, deadline, self.limit).await?;
        }
        self.within(Step::Login, deadline, Conn::new(self.opts.clone())).await
    }

    /// Takes note of how a check ended, for the next login.
    pub(super) fn remember(&mut self, result: &Result<(), Failure>) {
        self.silent = matches!(result, Err(Failure::Timeout { .. }));
    }

    async fn ask(&self, deadline: Instant) -> Result<(), Failure> {
        let mut conn = self.login(deadline).await?;
        self.within(Step::Ping, deadline, conn.ping()).await?;
        // The server has answered all it was asked; how it takes leave does not count.
        let _ = timeout_at(deadline, conn.disconnect()).await;
        Ok(())
    }

    async fn within<T>(
        &self,
        step: Step,
        deadline: Instant,
        future: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Failure> {
        match timeout_at(deadline, future).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(failure(&error, step, self.limit)),
            Err(_) => Err(Failure::Timeout { step, limit: self.limit }),
        }
    }
}

/// What an error of the driver means.
pub(super) fn failure(error: &Error, step: Step, limit: Duration) -> Failure {
    match error {
        Error::Server(server) => match server.code {
            1040 | 1203 => Failure::Full,
            1044 | 1045 | 1130 | 1698 => Failure::Denied,
            1047 => Failure::NotReady,
            1129 => Failure::Blocked,
            code => Failure::Server { code, message: printable(&server.message) },
        },
        Error::Io(IoError::Io(e)) => Failure::from_io(e, step, limit),
        Error::Driver(DriverError::ConnectionClosed) => Failure::Closed,
        // Never the `Debug` form: it would print the received packet.
        other => Failure::Protocol(printable(&other.to_string())),
    }
}

/// Far more than a login or a ping needs; a server that sends more is none.
const MAX_PACKET_BYTES: usize = 1 << 20;
/// Only read by the driver's pool, which is not used.
const WAIT_TIMEOUT_S: usize = 60;

#[cfg(test)]
mod tests;
