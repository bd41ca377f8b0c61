//! Against a server that does as it is told.

use super::{
    super::testserver::{PING, QUERY, Script, Seen, Server},
    *,
};
use crate::config::model::MysqlLogin;

const LIMIT: Duration = Duration::from_secs(2);

const SYNCED: &[(&str, &str)] = &[
    ("wsrep_cluster_status", "Primary"),
    ("wsrep_local_state", "4"),
    ("wsrep_ready", "ON"),
    ("wsrep_reject_queries", "NONE"),
    ("max_connections", "300"),
];

fn checker(server: &Server, login_every: u32, limit: Duration) -> Checker {
    let login = MysqlLogin { user: "monitor".into(), password: "secret".into(), password_file: None };
    Checker::new(server.addr, &GaleraCheck { login, login_every }, limit)
}

/// What the server saw so far.
async fn saw(server: &mut Server, n: usize) -> Vec<Seen> {
    let mut seen = Vec::new();
    for _ in 0..n {
        seen.push(server.next().await);
    }
    seen
}

#[tokio::test]
async fn one_connection_answers_two_statements_a_check_and_is_replaced_now_and_then() {
    let mut server = Server::start(Script::State(SYNCED)).await;
    let mut checker = checker(&server, 3, LIMIT);
    for _ in 0..4 {
        let outcome = checker.check().await;
        assert!(outcome.result.is_ok(), "{outcome:?}");
        let seen = outcome.galera.unwrap();
        assert!(
            seen.is_primary() && seen.ready && seen.state == 4 && seen.max_connections == 300,
            "{seen:?}"
        );
    }
    let (login, query, quit) = (Seen::Login, QUERY, super::super::testserver::QUIT);
    let mut all = saw(&mut server, 11).await;
    // The old connection takes its leave while the new one is being used.
    let quit_at = all.iter().position(|s| *s == quit).expect("the old connection quits");
    all.remove(quit_at);
    assert_eq!(all, [login, query, query, query, query, query, query, login, query, query]);
    assert!(quit_at >= 7, "{quit_at}");
}

#[tokio::test]
async fn no_room_for_another_login_is_full_and_the_kept_connection_goes_on_telling() {
    let server = Server::start(Script::State(SYNCED)).await;
    let mut checker = checker(&server, 1, LIMIT);
    assert!(checker.check().await.result.is_ok());
    server.become_(Script::ErrorFirst(1040, "Too many connections"));
    for _ in 0..3 {
        let full = checker.check().await;
        assert_eq!(full.result, Err(Failure::Full));
        assert!(full.galera.is_some_and(|seen| seen.is_primary()));
    }
    server.become_(Script::State(SYNCED));
    assert!(checker.check().await.result.is_ok());
}

#[tokio::test]
async fn a_kept_connection_that_ended_is_made_anew_within_the_same_check() {
    let server = Server::start(Script::StateUntil(SYNCED, 2)).await;
    let mut checker = checker(&server, 10, LIMIT);
    for _ in 0..3 {
        assert!(checker.check().await.result.is_ok());
    }
    server.become_(Script::Close);
    assert_eq!(checker.check().await.result, Err(Failure::Closed));
}

#[tokio::test]
async fn silence_fails_within_the_limit_and_the_next_login_asks_for_a_greeting_first() {
    let limit = Duration::from_millis(300);
    let server = Server::start(Script::SilentAtPing).await;
    let mut checker = checker(&server, 10, limit);
    let silent = checker.check().await.result;
    assert_eq!(silent, Err(Failure::Timeout { step: Step::State, limit }));
    server.become_(Script::Silent);
    assert_eq!(checker.check().await.result, Err(Failure::Timeout { step: Step::Greeting, limit }));
}

#[tokio::test]
async fn rows_without_end_and_a_server_without_galera_are_told_apart() {
    let server = Server::start(Script::EndlessRows).await;
    let endless = checker(&server, 10, LIMIT).check().await;
    assert!(matches!(endless.result, Err(Failure::Protocol(_))), "{endless:?}");
    let plain = Server::start(Script::State(&[("read_only", "OFF")])).await;
    let outcome = checker(&plain, 10, LIMIT).check().await;
    assert!(outcome.result.is_ok() && !outcome.galera.unwrap().is_galera());
}

#[tokio::test]
async fn an_error_in_answer_to_a_statement_is_shown_and_no_ping_is_sent() {
    let mut server = Server::start(Script::ErrorAtPing(1047, "WSREP has not yet prepared node")).await;
    let failed = checker(&server, 10, LIMIT).check().await;
    assert_eq!(failed.result, Err(Failure::NotReady));
    assert!(!saw(&mut server, 2).await.contains(&PING));
}

#[tokio::test]
async fn a_hostile_server_costs_a_check_its_time_and_no_more() {
    let limit = Duration::from_millis(500);
    let mut checks = tokio::task::JoinSet::new();
    for seed in 1..=200u64 {
        let server = Server::start(Script::Hostile(SYNCED, seed * 0x9e37_79b9)).await;
        let mut checker = checker(&server, 2, limit);
        checks.spawn(async move {
            let mut results = Vec::new();
            for _ in 0..3 {
                results.push(checker.check().await.result.is_ok());
            }
            drop(server);
            results
        });
    }
    let mut ended = [0, 0];
    let all = async {
        while let Some(results) = checks.join_next().await {
            // The driver may panic, which ends this check alone: `task` goes on after that.
            for passed in results.unwrap_or_default() {
                ended[usize::from(passed)] += 1;
            }
        }
    };
    tokio::time::timeout(AMPLE, all).await.expect("each check keeps its limit");
    // Seeds that spoil everything, or nothing, would show nothing.
    assert!(ended[0] > 20 && ended[1] > 20, "{ended:?}");
}

/// Three times the limit of a check, on a loaded machine.
const AMPLE: Duration = Duration::from_secs(30);
