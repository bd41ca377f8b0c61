//! viplb in h1 (priority 101) beside the real keepalived in h2 (priority 100), as whole daemons in the lab.
//!
//! `interop_keepalived` has the protocol's cases, down to single adverts; here the question is who answers for the
//! address while one of the two daemons is stopped, killed, frozen or given another password. Needs root and
//! keepalived. In front of the stand-in, because no client is involved.

use std::{
    fs,
    time::{Duration, Instant},
};

use lb_tests::{
    console::Console,
    daemon::{self, AUTH_PASS},
    down::end,
    expect::wait_until,
    keepalived,
    lab::{Balancer, Engine, Lab, Node, Plan},
    node, proc, tryout, vip,
    watch::Watch,
};
use serde_json::Value;

/// For what takes an election (3.6 s) on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);
/// A farewell takes (256 − 100) / 256 s; silence would take 2.6 s at least.
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);
/// How long ownership is watched after its last change.
const BEYOND: Duration = Duration::from_secs(3);

/// A lab under watch; gone when it goes out of scope.
struct Scene {
    lab: Lab,
    watch: Option<Watch>,
}

impl Scene {
    /// viplb owns the address and keepalived stands by; or the reason why not.
    fn raise(test: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("not run: a lab needs root");
            return None;
        }
        if proc::which("keepalived").is_none() {
            eprintln!("not run: keepalived is not installed");
            return None;
        }
        let prefix = format!("{test}{}", std::process::id());
        let (h1, h2) = (Balancer::Viplb, Balancer::Keepalived);
        let plan = Plan { prefix, db: 1, engine: Engine::Standin, h1, h2 };
        let lab = tryout::raise(plan, &Console::quiet()).unwrap();
        let mut scene = Scene { lab, watch: None };
        scene.watch = Some(Watch::start(&scene.lab));
        scene.answered_by(&["h1"], "at the start");
        Some(scene)
    }

    fn node(&self, name: &str) -> Node {
        self.lab.node(name).unwrap()
    }

    fn watch(&self) -> &Watch {
        self.watch.as_ref().unwrap()
    }

    fn answered_by(&self, nodes: &[&str], when: &str) -> Instant {
        self.watch().until_answers(nodes, LIMIT).unwrap_or_else(|e| panic!("{when}: {e}"))
    }

    /// viplb has failed: keepalived has the address, and h1 has answered nothing beside it and answers nothing now.
    fn taken_over_by_keepalived(&self, fault: &str, since: Instant) -> Instant {
        let taken = self.answered_by(&["h2"], fault);
        assert_eq!(vip::pinged(&self.lab).unwrap(), ["h2"], "{fault}: who answers a ping");
        self.watch().never_two_since(since).unwrap_or_else(|e| panic!("{fault}: {e}"));
        taken
    }

    /// viplb is back: one owner at every sample until it has pre-empted, keepalived steps down, and it stays so.
    fn preempted_by_viplb(&self, cure: &str, since: Instant) {
        self.answered_by(&["h1"], cure);
        wait_until("viplb says why it is the owner", LIMIT, || {
            self.vrrp()["reason"] == "pre-empted a lower priority"
        });
        let h2 = self.node("h2");
        wait_until("keepalived steps down", LIMIT, || keepalived::state(&self.lab, &h2) == Some("Backup"));
        std::thread::sleep(BEYOND);
        self.watch().exactly_one_since(since).unwrap_or_else(|e| panic!("{cure}: {e}"));
        assert_eq!(vip::pinged(&self.lab).unwrap(), ["h1"], "{cure}: who answers a ping");
    }

    /// viplb's view of its virtual router; null while a busy machine keeps it from answering in time.
    fn vrrp(&self) -> Value {
        daemon::status(&self.lab, &self.node("h1")).map_or(Value::Null, |status| status["vrrp"][0].clone())
    }

    /// Replaces the password in keepalived's configuration and starts it anew.
    fn keepalived_with_password(&self, old: &str, new: &str) {
        let h2 = self.node("h2");
        let file = self.lab.node_dir(&h2).join("keepalived.conf");
        let text = fs::read_to_string(&file).unwrap();
        let changed = text.replace(&format!("auth_pass {old}\n"), &format!("auth_pass {new}\n"));
        assert_ne!(changed, text, "the password is in the file");
        node::stop(&self.lab, &h2, &Console::quiet()).unwrap();
        fs::write(&file, changed).unwrap();
        node::start(&self.lab, &h2, &Console::quiet()).unwrap();
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (name, log) in [("h1", "viplb.log"), ("h2", "keepalived.log")] {
                let log = self.lab.node_dir(&self.node(name)).join(log);
                eprintln!("the end of {name}'s log:\n{}", proc::tail(&log, 20));
            }
        }
        drop(self.watch.take());
        end(&self.lab.plan().prefix);
    }
}

#[test]
fn keepalived_takes_over_from_a_stopped_viplb_within_the_skew_and_gives_way_when_it_returns() {
    let Some(scene) = Scene::raise("vtkst") else { return };
    let h1 = scene.node("h1");

    let stopped = Instant::now();
    node::stop(&scene.lab, &h1, &Console::quiet()).unwrap();
    let taken = scene.taken_over_by_keepalived("viplb stopped", stopped);
    let took = taken.saturating_duration_since(stopped);
    assert!(took < FAREWELL_LIMIT, "the hand-over took {took:?}");

    let started = Instant::now();
    node::start(&scene.lab, &h1, &Console::quiet()).unwrap();
    scene.preempted_by_viplb("viplb started", started);
}

#[test]
fn keepalived_takes_over_from_a_killed_viplb_whose_kernel_answers_nothing_any_more() {
    let Some(scene) = Scene::raise("vtkki") else { return };
    let h1 = scene.node("h1");

    let killed = Instant::now();
    node::kill(&scene.lab, &h1, &Console::quiet()).unwrap();
    scene.taken_over_by_keepalived("viplb killed", killed);

    let started = Instant::now();
    node::start(&scene.lab, &h1, &Console::quiet()).unwrap();
    scene.preempted_by_viplb("viplb started", started);
}

#[test]
fn keepalived_takes_over_from_a_frozen_viplb_which_is_backup_first_when_it_wakes_up() {
    let Some(scene) = Scene::raise("vtkfr") else { return };
    let h1 = scene.node("h1");

    let frozen = Instant::now();
    node::pause(&scene.lab, &h1).unwrap();
    scene.taken_over_by_keepalived("viplb frozen", frozen);

    let woken = Instant::now();
    node::unpause(&scene.lab, &h1).unwrap();
    wait_until("viplb says why it is no owner", LIMIT, || {
        let vrrp = scene.vrrp();
        vrrp["state"] == "Backup" && vrrp["reason"] == "woke up after the end of its lease"
    });
    scene.preempted_by_viplb("viplb unpaused", woken);
}

#[test]
fn with_different_passwords_both_own_the_address_and_viplb_says_which_adverts_it_refuses() {
    let Some(scene) = Scene::raise("vtkpw") else { return };

    scene.keepalived_with_password(AUTH_PASS, "654321");
    scene.answered_by(&["h1", "h2"], "with different passwords, as between two keepaliveds");
    wait_until("viplb counts the refused adverts by their reason", LIMIT, || {
        // One is all that is certain: keepalived restarts its advert timer with each advert that it refuses itself.
        let vrrp = scene.vrrp();
        let refused: Vec<_> = vrrp["refused"].as_object().into_iter().flatten().collect();
        let password = matches!(refused[..], [(reason, count)] if reason.contains("password") && *count != 0);
        password && vrrp["state"] == "Master"
    });

    scene.keepalived_with_password("654321", AUTH_PASS);
    let agreed = scene.answered_by(&["h1"], "with the same password again");
    std::thread::sleep(BEYOND + Duration::from_secs(2));
    scene.watch().exactly_one_since(agreed).expect("with the same password again");
}
