//! The `galera` check: two SHOW statements over a connection that is kept, and a fresh login now and then.
//!
//! `task` calls [`Checker::check`]. A login for every check would cost each node more than the questions do; none at
//! all would miss a server that takes no more logins. So every `login_every` checks, and whenever the last login
//! failed, the connection is replaced by a new one. Error 1040 on that login means `full`: the old connection goes on
//! telling the state. The statements need no privilege. Everything is before one deadline.

use std::{net::SocketAddr, time::Duration};

use mysql_async::{Conn, Error, Row, from_value_opt, prelude::Queryable};
use tokio::time::{Instant, timeout_at};

use super::{Failure, Outcome, Step, mysql};
use crate::{
    config::model::GaleraCheck,
    galera::{Observation, STATUS_NAMES, VARIABLE_NAMES},
};

/// Checks one backend.
pub struct Checker {
    login: mysql::Checker,
    login_every: u32,
    limit: Duration,
    conn: Option<Conn>,
    /// Checks until the next fresh login.
    until_login: u32,
    status: String,
    variables: String,
}

impl Checker {
    /// A checker of `addr` with this account, `limit` for a whole check.
    pub fn new(addr: SocketAddr, check: &GaleraCheck, limit: Duration) -> Self {
        Self {
            login: mysql::Checker::new(addr, &check.login, limit),
            login_every: check.login_every.max(1),
            limit,
            conn: None,
            until_login: 0,
            status: show("STATUS", STATUS_NAMES),
            variables: show("VARIABLES", VARIABLE_NAMES),
        }
    }

    /// One check.
    pub async fn check(&mut self) -> Outcome {
        let start = Instant::now();
        let deadline = start + self.limit;
        let (result, seen) = self.ask(deadline).await;
        self.login.remember(&result);
        Outcome { galera: seen.map(Box::new), ..result.map(|()| start.elapsed()).into() }
    }

    /// The state, also if there is no room for another login.
    async fn ask(&mut self, deadline: Instant) -> (Result<(), Failure>, Option<Observation>) {
        let (fresh, login) = match self.fresh_login(deadline).await {
            Ok(fresh) => (fresh, Ok(())),
            Err(failure) => (true, Err(failure)),
        };
        // Without any connection, or with a server that does not answer, there is nothing more to ask.
        let Some(conn) = self.conn.take_if(|_| matches!(login, Ok(()) | Err(Failure::Full))) else {
            return (login, None);
        };
        match self.state(conn, deadline).await {
            Ok((conn, seen)) => {
                self.conn = Some(conn);
                (login, Some(seen))
            }
            // The kept connection went away, as at a restart of the server: only a new one tells.
            Err(Failure::Closed) if !fresh => Box::pin(self.ask(deadline)).await,
            Err(failure) => (Err(failure), None),
        }
    }

    /// Replaces the connection if it is time to, or if there is none; whether it did.
    async fn fresh_login(&mut self, deadline: Instant) -> Result<bool, Failure> {
        if self.conn.is_some() && self.until_login > 0 {
            self.until_login -= 1;
            return Ok(false);
        }
        // A login that fails is tried again with the next check.
        self.until_login = 0;
        let new = self.login.login(deadline).await?;
        self.until_login = self.login_every - 1;
        if let Some(old) = self.conn.replace(new) {
            let _ = timeout_at(deadline, old.disconnect()).await;
        }
        Ok(true)
    }

    /// Both statements. The connection comes back only in order.
    async fn state(&self, mut conn: Conn, deadline: Instant) -> Result<(Conn, Observation), Failure> {
        let mut seen = Observation::default();
        for statement in [&self.status, &self.variables] {
            let rows = timeout_at(deadline, rows(&mut conn, statement, &mut seen)).await;
            match rows {
                Ok(Ok(())) => {}
                Ok(Err(e)) => return Err(mysql::failure(&e, Step::State, self.limit)),
                Err(_) => return Err(Failure::Timeout { step: Step::State, limit: self.limit }),
            }
        }
        Ok((conn, seen))
    }
}

async fn rows(conn: &mut Conn, statement: &str, seen: &mut Observation) -> Result<(), Error> {
    let mut result = conn.query_iter(statement).await?;
    for _ in 0..MOST_ROWS {
        let Some(row) = result.next().await? else { return Ok(()) };
        if let Some((name, value)) = name_and_value(row) {
            seen.take(&name, &value);
        }
    }
    // No server of ours has so many of them.
    Err(std::io::Error::other("endless rows").into())
}

fn name_and_value(mut row: Row) -> Option<(String, String)> {
    let mut text = |i: usize| from_value_opt::<String>(row.take(i)?).ok();
    Some((text(0)?, text(1)?))
}

fn show(what: &str, names: &[&str]) -> String {
    let list: Vec<_> = names.iter().map(|name| format!("'{name}'")).collect();
    format!("SHOW GLOBAL {what} WHERE Variable_name IN ({})", list.join(", "))
}

/// More rows than were asked for.
const MOST_ROWS: usize = 64;

#[cfg(test)]
mod tests;
