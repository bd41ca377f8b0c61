//! One SQL statement to a database node, blocking, with a deadline.
//!
//! The lab's own questions go through the node's Unix socket, so that they also reach a node that is cut off.
//! Callers: starting the cluster, `lab status`, the final count, tests. The client's load is [`crate::writer`].

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result, anyhow};
use mysql_async::{Conn, Opts, OptsBuilder, Row, Value, prelude::Queryable};

use crate::netns::Netns;

/// Limit of one statement unless a caller needs longer.
pub const LIMIT: Duration = Duration::from_secs(2);

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// User name.
    pub user: &'static str,
    /// Password, if it has one.
    pub password: Option<&'static str>,
}

/// Owner of the server, through the Unix socket only.
pub const ROOT: Account = Account { user: "root", password: None };
/// The application: everything on schema `app`.
pub const APP: Account = Account { user: "app", password: Some("apppw") };
/// Health checks.
pub const MONITOR: Account = Account { user: "monitor", password: Some("monitorpw") };
/// Health checks of HAProxy, which sends no password.
pub const HAPROXY: Account = Account { user: "haproxy", password: None };

/// Where a server is reached.
#[derive(Debug, Clone)]
pub enum Server {
    /// Its Unix socket.
    Socket(PathBuf),
    /// Its address, from inside a namespace.
    Tcp(Netns, SocketAddr),
}

/// Rows of a result, every value as text.
pub type Rows = Vec<Vec<Option<String>>>;

/// Options of a connection to `addr`.
pub fn tcp_options(addr: SocketAddr, account: Account) -> Opts {
    let at = OptsBuilder::default().ip_or_hostname(addr.ip().to_string()).tcp_port(addr.port());
    common(at, account)
}

fn common(at: OptsBuilder, account: Account) -> Opts {
    // Both limits are given so that connecting does not ask the server for them first.
    at.user(Some(account.user))
        .pass(account.password)
        .prefer_socket(false)
        .max_allowed_packet(Some(64 << 20))
        .wait_timeout(Some(28_800))
        .into()
}

/// Runs one statement within [`LIMIT`].
pub fn query(server: &Server, account: Account, statement: &str) -> Result<Rows> {
    query_within(LIMIT, server, account, &[statement])
}

/// Runs statements on one connection, all within `limit`; the rows are those of the last.
pub fn query_within(limit: Duration, server: &Server, account: Account, statements: &[&str]) -> Result<Rows> {
    match server {
        Server::Socket(path) => {
            let at = OptsBuilder::default().socket(Some(path.display().to_string()));
            block(limit, common(at, account), statements)
        }
        Server::Tcp(ns, addr) => ns.run(|| block(limit, tcp_options(*addr, account), statements))?,
    }
}

fn block(limit: Duration, opts: Opts, statements: &[&str]) -> Result<Rows> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async { tokio::time::timeout(limit, ask(opts, statements)).await });
    // A name that is still being closed must not hold up the caller.
    runtime.shutdown_background();
    answer.map_err(|_| anyhow!("no answer within {} ms", limit.as_millis()))?
}

async fn ask(opts: Opts, statements: &[&str]) -> Result<Rows> {
    let mut conn = Conn::new(opts).await.context("cannot connect")?;
    let mut rows: Vec<Row> = Vec::new();
    for statement in statements {
        rows = conn.query(*statement).await?;
    }
    conn.disconnect().await?;
    Ok(rows.into_iter().map(|row| row.unwrap().into_iter().map(text).collect()).collect())
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::NULL => None,
        Value::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        other => Some(other.as_sql(true)),
    }
}
