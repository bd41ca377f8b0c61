//! The `mysql` check against servers that behave, misbehave and freeze.

use super::super::testserver::{PING, QUIT, Script, Seen, Server};
use super::*;
use tokio::task::JoinSet;

/// For checks that must not run into their limit.
const AMPLE: Duration = Duration::from_secs(20);
/// For checks that must; ample for a login even on a loaded machine.
const SHORT: Duration = Duration::from_secs(1);

fn checker(addr: SocketAddr, limit: Duration) -> Checker {
    let login = MysqlLogin { user: "monitor".into(), password: "secret".into(), password_file: None };
    Checker::new(addr, &login, limit)
}

async fn outcome(script: Script, limit: Duration) -> Result<(), Failure> {
    let server = Server::start(script).await;
    checker(server.addr, limit).check().await.map(|_| ())
}

#[tokio::test]
async fn a_check_logs_in_pings_and_quits_and_asks_nothing_else() {
    let mut server = Server::start(Script::Healthy).await;
    checker(server.addr, AMPLE).check().await.expect("a healthy server passes");
    let seen = [server.next().await, server.next().await, server.next().await];
    assert_eq!(seen, [Seen::Login, PING, QUIT]);
}

#[tokio::test]
async fn errors_of_the_server_are_told_apart() {
    use Script::{ErrorAtLogin, ErrorAtPing, ErrorFirst};
    for (script, expected) in [
        (ErrorFirst(1040, "Too many connections"), Failure::Full),
        (ErrorAtLogin(1040, "Too many connections"), Failure::Full),
        (ErrorFirst(1129, "Host 'h1' is blocked because of many connection errors"), Failure::Blocked),
        (ErrorAtLogin(1045, "Access denied for user"), Failure::Denied),
        (ErrorFirst(1130, "Host 'h1' is not allowed to connect"), Failure::Denied),
        (ErrorAtLogin(1047, "WSREP has not yet prepared node for application use"), Failure::NotReady),
        (ErrorAtPing(1047, "WSREP has not yet prepared node for application use"), Failure::NotReady),
        (
            ErrorAtPing(1053, "Server shutdown\n\u{1b}[31min progress"),
            Failure::Server { code: 1053, message: "Server shutdown  [31min progress".into() },
        ),
    ] {
        assert_eq!(outcome(script.clone(), AMPLE).await, Err(expected), "{script:?}");
    }
}

#[tokio::test]
async fn a_port_nobody_listens_on_is_refused() {
    // On an address of its own: on the usual one, a test beside this one may be given the port once it is free again.
    let listener = std::net::TcpListener::bind("127.0.78.2:0").unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    assert_eq!(checker(addr, AMPLE).check().await, Err(Failure::Refused));
}

#[tokio::test]
async fn a_server_that_hangs_up_is_closed() {
    assert_eq!(outcome(Script::Close, AMPLE).await, Err(Failure::Closed));
}

#[tokio::test]
async fn every_silence_ends_at_the_limit() {
    let mut cases = JoinSet::new();
    for (script, step) in [
        (Script::Silent, Step::Login),
        (Script::Slow, Step::Login),
        (Script::SilentAtPing, Step::Ping),
        // Half a header, and a packet that is never finished.
        (Script::Raw(vec![0x40, 0x00]), Step::Login),
        (Script::Raw(vec![0x40, 0x00, 0x00, 0x00, 0x0a]), Step::Login),
    ] {
        cases.spawn(async move {
            let expected = Err(Failure::Timeout { step, limit: SHORT });
            assert_eq!(outcome(script.clone(), SHORT).await, expected, "{script:?}");
        });
    }
    cases.join_all().await;
}

#[tokio::test]
async fn rubbish_is_not_taken_for_a_server() {
    for bytes in [
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        b"\x04\x00\x00\x00junk".to_vec(),
        b"\x00\x00\x00\x00".to_vec(),
        b"\x01\x00\x00\x05\x0a".to_vec(),
        b"\x01\x00\x00\x00\xff".to_vec(),
    ] {
        let got = outcome(Script::Raw(bytes.clone()), SHORT).await;
        assert!(
            matches!(got, Err(Failure::Protocol(_) | Failure::Timeout { .. } | Failure::Closed)),
            "{bytes:?}: {got:?}"
        );
    }
}

#[tokio::test]
async fn an_endless_greeting_is_cut_off() {
    let got = outcome(Script::Endless, Duration::from_secs(2)).await;
    assert!(matches!(got, Err(Failure::Protocol(_) | Failure::Timeout { .. })), "{got:?}");
}

#[tokio::test]
async fn a_frozen_server_is_left_with_a_reset_so_that_it_counts_no_connect_error() {
    let mut server = Server::start(Script::Silent).await;
    let mut checker = checker(server.addr, SHORT);
    assert_eq!(checker.check().await, Err(Failure::Timeout { step: Step::Login, limit: SHORT }));
    assert_eq!(server.next().await, Seen::Fin);
    for _ in 0..2 {
        assert_eq!(checker.check().await, Err(Failure::Timeout { step: Step::Greeting, limit: SHORT }));
        assert_eq!(server.next().await, Seen::Reset);
    }
}

#[tokio::test]
async fn a_server_that_thaws_passes_its_next_check() {
    let server = Server::start(Script::Silent).await;
    let mut checker = checker(server.addr, SHORT);
    checker.check().await.expect_err("silent");
    server.become_(Script::Healthy);
    checker.limit = AMPLE;
    checker.check().await.expect("healthy again");
}
