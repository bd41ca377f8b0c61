//! The stand-in as its clients see it, over the loopback.

use std::net::SocketAddr;

use mysql_async::{Conn, Error, prelude::Queryable};

use super::*;
use crate::sql::{Account, tcp_options};

fn server(store: Store) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    serve(listener, Arc::new(store));
    addr
}

fn with_conn<T>(addr: SocketAddr, account: Account, f: impl AsyncFnOnce(&mut Conn) -> T) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut conn = Conn::new(tcp_options(addr, account)).await?;
        Ok(f(&mut conn).await)
    })
}

#[test]
fn a_known_account_logs_in_and_pings() {
    let addr = server(Store::in_memory());
    for account in [APP, MONITOR, HAPROXY, ROOT] {
        with_conn(addr, account, async |conn| conn.ping().await).unwrap().unwrap();
    }
}

#[test]
fn an_unknown_account_is_denied_with_1045() {
    let nobody = Account { user: "nobody", password: None };
    let denied = with_conn(server(Store::in_memory()), nobody, async |_| ()).unwrap_err();
    assert!(matches!(denied, Error::Server(e) if e.code == 1045));
}

#[test]
fn an_inserted_row_is_counted_and_its_key_is_refused_a_second_time() {
    with_conn(server(Store::in_memory()), APP, async |conn| {
        conn.query_drop("INSERT INTO app.lab_rows (seq, at) VALUES (7, NOW(6))").await.unwrap();
        let again = conn.query_drop("INSERT INTO app.lab_rows (seq, at) VALUES (7, NOW(6))").await;
        assert!(matches!(again, Err(Error::Server(e)) if e.code == 1062));
        let count =
            async |conn: &mut Conn, sql: &str| conn.query_first::<u64, _>(sql).await.unwrap().unwrap();
        assert_eq!(count(conn, "SELECT COUNT(*) FROM app.lab_rows").await, 1);
        let range = "SELECT COUNT(*) FROM app.lab_rows WHERE seq BETWEEN 8 AND 9";
        assert_eq!(count(conn, range).await, 0);
    })
    .unwrap();
}

#[test]
fn rows_inserted_at_one_node_are_counted_at_the_other() {
    let file = std::env::temp_dir().join(format!("viplb-standin-{}", std::process::id()));
    let (a, b) = (Store::shared(&file).unwrap(), Store::shared(&file).unwrap());
    assert!(a.insert(1).unwrap() && b.insert(2).unwrap());
    assert!(!b.insert(1).unwrap());
    assert_eq!((a.count(0..=9).unwrap(), b.count(0..=9).unwrap()), (2, 2));
    std::fs::remove_file(file).unwrap();
}

#[test]
fn a_value_larger_than_one_packet_arrives_whole() {
    with_conn(server(Store::in_memory()), APP, async |conn| {
        let value: Vec<u8> =
            conn.query_first("SELECT REPEAT('ab', 10000000) FROM seq_1_to_1").await.unwrap().unwrap();
        assert_eq!(value.len(), 20_000_000);
        assert!(value.chunks_exact(2).all(|pair| pair == b"ab"));
    })
    .unwrap();
}

#[test]
fn an_upload_larger_than_one_packet_is_read_whole() {
    with_conn(server(Store::in_memory()), APP, async |conn| {
        let text = "x".repeat(20_000_000);
        let crc: u32 = conn.query_first(format!("SELECT CRC32('{text}')")).await.unwrap().unwrap();
        assert_eq!(crc, answer::crc32(text.as_bytes()));
        let len: u64 = conn.query_first(format!("SELECT LENGTH('{text}')")).await.unwrap().unwrap();
        assert_eq!(len, 20_000_000);
    })
    .unwrap();
}

#[test]
fn checksums_agree_with_the_published_check_value() {
    assert_eq!(answer::crc32(b"123456789"), 0xcbf4_3926);
}

#[test]
fn a_statement_it_does_not_know_is_an_error_and_not_a_success() {
    let refused = with_conn(server(Store::in_memory()), APP, async |conn| {
        conn.query_drop("UPDATE app.lab_rows SET seq = 1").await
    });
    assert!(matches!(refused.unwrap(), Err(Error::Server(e)) if e.code == 1064));
}

#[test]
fn it_reports_itself_synced_as_galera_does() {
    with_conn(server(Store::in_memory()), MONITOR, async |conn| {
        let sql = "SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_local_state', 'wsrep_ready')";
        let rows: Vec<(String, String)> = conn.query(sql).await.unwrap();
        assert_eq!(
            rows,
            [("wsrep_local_state", "4"), ("wsrep_ready", "ON")].map(|(n, v)| (n.into(), v.into()))
        );
    })
    .unwrap();
}
