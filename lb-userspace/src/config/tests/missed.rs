//! `redispatch`, `move_ungreeted` and `passive`: defaults, the forms of `passive`, and where they have no use.

use super::*;
use crate::config::model::{Passive, Service};

fn text(lines: &str) -> String {
    minimal("", "").replace("[[service.db.backend]]", &format!("{lines}\n[[service.db.backend]]"))
}

fn service(lines: &str) -> Service {
    good(&text(lines)).config.services.remove(0)
}

#[test]
fn both_are_on_unless_the_file_says_otherwise() {
    for lines in ["", "redispatch = true\npassive = true", "passive = {}"] {
        let s = service(lines);
        assert_eq!((s.redispatch, s.passive), (true, Some(Passive::default())), "{lines}");
    }
    let s = service("redispatch = false\npassive = false");
    assert_eq!((s.redispatch, s.passive), (false, None));
}

#[test]
fn what_a_table_does_not_say_is_the_default() {
    let s = service(
        "passive = { after = 10, share = 20, window = \"5s\", ejection = \"30s\", most_ejected = 10 }",
    );
    let all = Passive {
        after: 10,
        share: 20,
        window: Duration::from_secs(5),
        ejection: Duration::from_secs(30),
        most: 10,
    };
    assert_eq!(s.passive, Some(all));
    assert_eq!(
        service("passive = { after = 10 }").passive,
        Some(Passive { after: 10, ..Passive::default() })
    );
}

#[test]
fn where_answers_are_not_seen_both_are_off_and_a_file_that_wants_them_is_warned() {
    for lines in ["protocol = \"udp\"", "mode = \"dsr\"", "mode = \"tunnel\""] {
        let s = service(lines);
        assert_eq!((s.redispatch, s.passive), (false, None), "{lines}");
        let loaded = good(&text(&format!("{lines}\nredispatch = true\npassive = {{ after = 9 }}")));
        let said = loaded.warnings.to_string();
        assert!(
            said.contains("`redispatch` has no use ") && said.contains("`passive` has no use "),
            "{said}"
        );
        let loaded = good(&text(&format!("{lines}\nredispatch = false\npassive = false")));
        assert!(!loaded.warnings.to_string().contains("has no use"), "{}", loaded.warnings);
    }
}

#[test]
fn ungreeted_connections_are_moved_where_the_server_speaks_first_or_the_file_says_so() {
    let moved = |lines: &str| service(lines).move_ungreeted;
    assert!(moved("") && moved("mode = \"dnat\""));
    assert!(!moved("move_ungreeted = false") && !moved("mode = \"dsr\""));
    let tcp = |lines: &str| {
        let text = text(lines).replace("type = \"mysql\"\nuser = \"m\"", "type = \"tcp\"");
        good(&text).config.services.remove(0).move_ungreeted
    };
    assert!(!tcp("") && tcp("move_ungreeted = true"));
    let loaded = good(&text("mode = \"dsr\"\nmove_ungreeted = true"));
    assert!(loaded.warnings.to_string().contains("`move_ungreeted` has no use "), "{}", loaded.warnings);
}

#[test]
fn a_word_is_no_switch_and_a_table_tells_what_it_knows() {
    assert_eq!(
        only_error(&text("passive = \"on\"")),
        "`passive` must be `true`, `false` or a table, not a string"
    );
    assert_eq!(only_error(&text("passive = { share = 0 }")), "`share` is 0, but must be 1 to 100");
}
