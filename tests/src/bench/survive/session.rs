//! A MySQL session that is inside a transaction when something happens to the balancer: what it had written before must still be
//! there, uncommitted and to be seen by itself alone, on the same connection.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use mysql_async::{Conn, prelude::Queryable};
use tokio::time::timeout;

use super::talk::LIMIT;
use crate::sql;

/// Keys that are one session's own.
pub const KEYS: u64 = 1 << 20;
/// Makes the table that sessions write to.
pub const TABLE: &str = "CREATE TABLE IF NOT EXISTS app.survive (k BIGINT UNSIGNED PRIMARY KEY)";

/// One session.
pub struct Session {
    at: SocketAddr,
    conn: Option<Conn>,
    /// The next key.
    next: u64,
    /// The first key of the transaction.
    first: u64,
}

impl Session {
    /// Not begun yet; it writes `KEYS` keys from `first` on.
    pub fn new(at: SocketAddr, first: u64) -> Self {
        Self { at, conn: None, next: first, first }
    }

    /// Whether it has a connection that has not failed.
    pub fn lives(&self) -> bool {
        self.conn.is_some()
    }

    /// Commits and closes what there is, and begins a transaction on a new connection.
    pub async fn begin(&mut self) -> Result<()> {
        if let Some(mut conn) = self.conn.take() {
            timeout(LIMIT, conn.query_drop("COMMIT")).await.context("COMMIT")??;
            timeout(LIMIT, conn.disconnect()).await??;
        }
        let begun = timeout(LIMIT, async {
            let mut conn = Conn::new(sql::tcp_options(self.at, sql::APP)).await?;
            conn.query_drop("BEGIN").await?;
            Ok::<_, mysql_async::Error>(conn)
        });
        self.conn = Some(begun.await.context("no session")??);
        self.first = self.next;
        self.go_on().await
    }

    /// Writes one more row, and finds all rows of the transaction.
    pub async fn go_on(&mut self) -> Result<()> {
        // Back in its place only if all went well.
        let mut conn = self.conn.take().context("not begun")?;
        let (first, last) = (self.first, self.next);
        self.next += 1;
        let count = timeout(LIMIT, async {
            conn.query_drop(format!("INSERT INTO app.survive VALUES ({last})")).await?;
            let count = format!("SELECT COUNT(*) FROM app.survive WHERE k BETWEEN {first} AND {last}");
            conn.query_first::<u64, _>(count).await
        });
        let count = count.await.context("no answer")??.context("no count")?;
        ensure!(count == last - first + 1, "{count} rows of {} are there", last - first + 1);
        self.conn = Some(conn);
        Ok(())
    }
}
