//! `[sync]`: peers, keys, and what is said about mistakes.

use std::path::Path;

use super::*;
use crate::config::model::SYNC_PORT;

/// The key files of these tests.
pub(super) fn keys(path: &Path) -> Result<String, SecretError> {
    match path.to_str() {
        Some("/etc/viplb/sync.key") => {
            Ok("# new\n2 0123456789abcdef0123456789abcdef\n\n1 fedcba9876543210\n".into())
        }
        Some("/etc/viplb/short.key") => Ok("1 fedcba9876543210\n2 tooshort\n".into()),
        Some("/etc/viplb/twice.key") => Ok("1 fedcba9876543210\n1 0123456789abcdef\n".into()),
        Some("/etc/viplb/bare.key") => Ok("fedcba9876543210fedcba9876543210\n".into()),
        Some("/etc/viplb/empty.key") => Ok("# none\n".into()),
        _ => Err(SecretError::WorldReadable(path.display().to_string())),
    }
}

fn with(sync: &str) -> String {
    format!("{}\n[sync]\n{sync}\n", minimal("", "password = \"x\""))
}

#[test]
fn flows_are_replicated_only_where_the_file_says_so() {
    assert_eq!(good(&minimal("", "password = \"x\"")).config.sync, None);
    let sync =
        good(&with("peers = [\"172.18.0.8\", \"172.18.0.9:7000\"]\nkey_file = \"sync.key\"")).config.sync;
    let sync = sync.expect("a section");
    assert_eq!(
        sync.peers.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["172.18.0.8:29113", "172.18.0.9:7000"]
    );
    assert_eq!(sync.listen.to_string(), format!("0.0.0.0:{SYNC_PORT}"));
    assert_eq!(sync.keys.iter().map(|key| key.id).collect::<Vec<_>>(), [2, 1], "the first seals");
    assert_eq!(sync.failback_wait.as_secs(), 30);
    assert!(!format!("{sync:?}").contains("0123"), "keys are not printed");
}

#[test]
fn peers_are_those_of_the_adverts_unless_others_are_named() {
    let unicast = minimal("unicast_peer = [\"172.18.0.8\"]", "password = \"x\"");
    let sync = good(&format!("{unicast}\n[sync]\nkey_file = \"sync.key\"\n")).config.sync.expect("a section");
    assert_eq!(sync.peers, ["172.18.0.8:29113".parse().unwrap()]);
    let v6 = good(&with("peers = [\"fd00::8\", \"172.18.0.8\"]\nkey_file = \"sync.key\"")).config.sync;
    assert_eq!(v6.expect("a section").listen.to_string(), "[::]:29113", "both families are heard");
}

#[test]
fn what_is_wrong_is_said_without_showing_a_key() {
    let peers = "peers = [\"172.18.0.8\"]";
    for (sync, said) in [
        ("key_file = \"sync.key\"".to_owned(), "names no peer"),
        (peers.to_owned(), "`key_file` is missing"),
        (format!("{peers}\nkey_file = \"open.key\""), "read by every user"),
        (format!("{peers}\nkey_file = \"short.key\""), "line 2: the key is shorter"),
        (format!("{peers}\nkey_file = \"twice.key\""), "line 2: the id is used twice"),
        (format!("{peers}\nkey_file = \"bare.key\""), "line 1: the id is no number"),
        (format!("{peers}\nkey_file = \"empty.key\""), "there is no key"),
        (format!("{peers}\nkey_file = \"sync.key\"\nkey = \"1234567890123456\""), "unknown key `key`"),
        ("peers = [\"172.18.0.8\", \"172.18.0.8:1\"]\nkey_file = \"sync.key\"".to_owned(), "named twice"),
        (
            "peers = [\"fd00::8\"]\nlisten = \"0.0.0.0:29113\"\nkey_file = \"sync.key\"".to_owned(),
            "does not reach the peer",
        ),
    ] {
        let message = only_error(&with(&sync));
        assert!(message.contains(said), "{message} for\n{sync}");
        assert!(!message.contains("fedcba") && !message.contains("tooshort"), "{message}");
    }
}

#[test]
fn a_strict_service_has_peers_and_backends_whose_answers_come_by_here() {
    let strict = |lines: &str| {
        let text = minimal("", "password = \"x\"");
        text.replace("[[service.db.backend]]", &format!("sync = \"strict\"\n{lines}\n[[service.db.backend]]"))
    };
    let sync = "[sync]\npeers = [\"172.18.0.8\"]\nkey_file = \"sync.key\"\n";
    let config = good(&format!("{}\n{sync}", strict(""))).config;
    assert!(config.services[0].strict);
    assert_eq!(config.sync.expect("a section").strict_wait.as_millis(), 10);
    assert!(!good(&with("peers = [\"172.18.0.8\"]\nkey_file = \"sync.key\"")).config.services[0].strict);
    for (lines, sync, said) in [
        ("", "", "there is no [sync]"),
        ("mode = \"dsr\"", sync, "do not come by here"),
        ("protocol = \"udp\"", sync, "UDP has none"),
    ] {
        let message = only_error(&format!("{}\n{sync}", strict(lines)));
        assert!(message.contains(said), "{message}");
    }
}
