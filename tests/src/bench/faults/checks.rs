//! What very many checks leave in a node's counters.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use lb_userspace::{
    config::model::{GaleraCheck, MysqlLogin},
    health::galera::Checker,
};
use tokio::task::JoinSet;

use super::{NAME, scene::Scene};
use crate::{
    bench::row::Row,
    lab::DB_PORT,
    sql::{self, MONITOR, ROOT, Server},
};

/// Checkers at a time.
const AT_A_TIME: u32 = 8;
/// Of one check; the machine is busy with the others.
const LIMIT: Duration = Duration::from_secs(10);
/// What a connection that did not become a session, or an attempt to connect that went wrong, raises.
const COUNTERS: &str = "SHOW GLOBAL STATUS WHERE Variable_name IN ('Aborted_connects', 'Aborted_connects_preauth', \
    'Connection_errors_peer_address', 'Connection_errors_internal', 'Access_denied_errors')";

/// Makes so many checks of one node from where viplb runs, as it makes them.
pub fn run(scene: &Scene, checks: u32) -> Result<Vec<Row>> {
    let lab = scene.lab();
    let (h1, db) = (lab.node("h1")?, lab.node("db1")?);
    let counters = || -> Result<u64> {
        let rows = sql::query(&Server::Socket(lab.db_socket(&db)), ROOT, COUNTERS)?;
        let value = |row: &Vec<Option<String>>| row.get(1)?.as_ref()?.parse::<u64>().ok();
        rows.iter().map(|row| value(row).context("a counter is no number")).sum()
    };
    let before = counters()?;
    let addr = SocketAddr::from((db.addr, DB_PORT));
    let failed = lab.netns(&h1).run(|| all(addr, checks))??;
    let raised = counters()? - before;
    // A host with max_connect_errors (100) of them would be refused: each check's login shows that it is not.
    ensure!(checks >= AT_A_TIME, "at least {AT_A_TIME} checks");
    let row = |figure: &str, unit: &str, value: f64| Row::sum(NAME, figure, unit, value, checks as usize);
    Ok(vec![
        row("checks of one node that failed", "checks", failed as f64).at_most(0.0),
        row("aborted connects and connect errors they raised", "errors", raised as f64).at_most(0.0),
    ])
}

fn all(addr: SocketAddr, checks: u32) -> Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut checkers = JoinSet::new();
        for _ in 0..AT_A_TIME {
            checkers.spawn(some(addr, checks / AT_A_TIME));
        }
        let mut failed = 0;
        while let Some(one) = checkers.join_next().await {
            failed += one?;
        }
        Ok(failed)
    })
}

async fn some(addr: SocketAddr, checks: u32) -> u64 {
    let password = MONITOR.password.unwrap_or_default().to_owned();
    let login = MysqlLogin { user: MONITOR.user.to_owned(), password, password_file: None };
    let mut checker = Checker::new(addr, &GaleraCheck { login, login_every: 10 }, LIMIT);
    let mut failed = 0;
    for _ in 0..checks {
        failed += u64::from(checker.check().await.result.is_err());
    }
    failed
}
