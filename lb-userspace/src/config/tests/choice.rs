//! Schedulers, persistence and limits: the words that are taken, defaults, and what a scheduler asks of a service.

use super::*;
use crate::config::model::{HASH_TABLE_SIZE, Persistence, Service};

/// A service with further lines, and those of its backend.
fn service(lines: &str, backend: &str) -> Service {
    let text = minimal("", "")
        .replace("[[service.db.backend]]", &format!("{lines}\n[[service.db.backend]]\n{backend}"));
    good(&text).config.services.remove(0)
}

#[test]
fn schedulers_go_by_their_names_and_by_haproxys_for_the_same() {
    for s in Scheduler::ALL {
        assert_eq!(service(&format!("scheduler = \"{}\"", s.word()), "").scheduler, s);
    }
    for (word, s) in [
        ("roundrobin", Scheduler::Wrr),
        ("leastconn", Scheduler::Wlc),
        ("source", Scheduler::Sh),
        ("maglev", Scheduler::Mh),
        ("first", Scheduler::Fo),
        ("random", Scheduler::Twos),
    ] {
        assert_eq!(service(&format!("scheduler = \"{word}\""), "").scheduler, s);
    }
}

#[test]
fn without_a_word_there_are_no_limits_and_no_persistence() {
    let s = service("", "");
    assert_eq!((s.persistence, s.max_connections, s.backends[0].max_connections), (None, 0, 0));
    assert_eq!(s.hash_table_size, HASH_TABLE_SIZE);
    assert!(crate::datapath::ring::is_prime(HASH_TABLE_SIZE));
}

#[test]
fn limits_and_persistence_are_taken_and_prefixes_counted_of_all_bits() {
    let s = service("max_connections = 1000\npersistence_timeout = 300", "max_connections = 10");
    assert_eq!((s.max_connections, s.backends[0].max_connections), (1000, 10));
    let persistence = |bits| Some(Persistence { timeout: Duration::from_secs(300), bits });
    assert_eq!(s.persistence, persistence(128));
    let s = service("persistence_timeout = \"5m\"\npersistence_prefix = 24", "");
    assert_eq!(s.persistence, persistence(96 + 24));
    let v6 = "version = 3\nvirtual_ipaddress = [\"fd00::1\"]";
    let text = minimal("", "")
        .replace("virtual_ipaddress = [\"172.18.0.201\"]", v6)
        .replace("172.18.0.201:3306", "[fd00::1]:3306")
        .replace(
            "[[service.db.backend]]",
            "persistence_timeout = 300\npersistence_prefix = 56\n[[service.db.backend]]",
        );
    assert_eq!(good(&text).config.services[0].persistence, persistence(56));
}

#[test]
fn what_compares_backends_takes_no_more_of_them_than_it_looks_at() {
    let many = |n: u32, lines: &str, backend: &str| {
        let one = |i| format!("[[service.db.backend]]\naddress = \"10.0.0.{i}\"\n");
        let all: String = (1..n).map(one).collect();
        let head = format!("{lines}\n{all}[[service.db.backend]]\n{backend}");
        minimal("", "").replace("[[service.db.backend]]", &head)
    };
    good(&many(65, "scheduler = \"mh\"", ""));
    good(&many(64, "scheduler = \"lc\"\npersistence_timeout = 9", "max_connections = 5"));
    for (lines, backend, what) in [
        ("scheduler = \"twos\"", "", "`scheduler = \"twos\"`"),
        ("persistence_timeout = 9", "", "`persistence_timeout`"),
        ("", "max_connections = 5", "`max_connections` of a backend"),
    ] {
        assert_eq!(
            only_error(&many(65, lines, backend)),
            format!("{what} takes at most 64 backends, and [service.db] has 65")
        );
    }
}
