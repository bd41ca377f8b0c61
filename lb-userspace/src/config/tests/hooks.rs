//! Hooks: the node's, those of single interfaces, and what is said about words that are none.

use super::*;
use crate::config::model::{Hook, Hooks};

/// The hooks of a good file with these lines in `[node]`.
fn hooks(node: &str) -> Hooks {
    good(&format!("[node]\n{node}\n{}", minimal("", ""))).config.node.hooks
}

fn refusal(node: &str) -> String {
    match parse(&format!("[node]\n{node}\n{}", minimal("", "")), "viplb.toml", &around()) {
        Ok(_) => panic!("taken: {node}"),
        Err(report) => report.to_string(),
    }
}

#[test]
fn every_hook_has_its_word_and_auto_is_the_default() {
    assert_eq!(hooks("").of("eth0"), Hook::Auto);
    for (word, hook) in [
        ("auto", Hook::Auto),
        ("xdp", Hook::Xdp),
        ("xdp-generic", Hook::XdpGeneric),
        ("tcx", Hook::Tcx),
        ("clsact", Hook::Clsact),
    ] {
        assert_eq!(hooks(&format!("hook = \"{word}\"")).of("eth0"), hook, "{word}");
    }
}

#[test]
fn an_interfaces_hook_is_its_own_and_the_nodes_is_that_of_all_others() {
    let hooks = hooks("hook = \"tcx\"\nhooks = { eth1 = \"xdp\", \"br-1a2b\" = \"clsact\" }");
    for (interface, hook) in
        [("eth0", Hook::Tcx), ("eth1", Hook::Xdp), ("br-1a2b", Hook::Clsact), ("eth10", Hook::Tcx)]
    {
        assert_eq!(hooks.of(interface), hook, "{interface}");
    }
}

#[test]
fn a_word_that_is_no_hook_is_answered_with_those_that_are() {
    for node in ["hooks = { eth1 = \"tc\" }", "hooks = { eth1 = 1 }", "hooks = { eth1 = \"\" }"] {
        let refused = refusal(node);
        assert!(refused.contains("`eth1` in `hooks` has no hook that viplb knows"), "{refused}");
        assert!(refused.contains("\"auto\"") && refused.contains("\"xdp-generic\""), "{refused}");
    }
    assert!(refusal("hook = \"tc\"").contains("clsact"));
}

#[test]
fn a_name_that_no_interface_can_have_is_refused() {
    for name in ["an interface", "a-name-of-more-than-15", ""] {
        let refused = refusal(&format!("hooks = {{ \"{name}\" = \"tcx\" }}"));
        assert!(refused.contains("interface") || refused.contains("name"), "{refused}");
    }
}
