//! Whole files in, the model or every mistake out. What a bad file prints stands in `tests/fixtures/config/*.stderr`
//! and is compared whole; `VIPLB_BLESS=1 cargo test` writes those files anew.

mod access;
mod choice;
mod discovery;
mod hooks;
mod limits;
mod missed;
mod modes;
mod reach;
mod sync;
mod track;
mod unknown;

use std::{fs, path::PathBuf, time::Duration};

use super::{
    model::{CheckKind, Preempt, Probe, Protocol, Scheduler, Transport, UnicastPeer, V3Checksum, Version},
    *,
};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/config")
}

fn secret(path: &Path) -> Result<String, SecretError> {
    match path.to_str() {
        Some("/etc/viplb/monitor.pw") => Ok("hunter2".into()),
        _ => Err(SecretError::WorldReadable(path.display().to_string())),
    }
}

fn check_program(path: &Path) -> Result<(), Unfit> {
    let name = || path.display().to_string();
    match path.to_str() {
        Some("/tmp/anybodys") => Err(Unfit::WorldWritable(name())),
        Some("/usr/bin/logger master") => {
            Err(Unfit::Unreadable { path: name(), reason: "No such file or directory".into() })
        }
        Some("/etc/passwd") => Err(Unfit::NotExecutable(name())),
        _ => Ok(()),
    }
}

fn find_user(name: &str) -> Option<RunAs> {
    (name == "nobody").then(|| RunAs { name: name.into(), uid: 65534, gid: 65534 })
}

fn around() -> Surroundings<'static> {
    Surroundings {
        host_name: "h1".into(),
        directory: Path::new("/etc/viplb"),
        read_secret: &secret,
        read_keys: &sync::keys,
        check_program: &check_program,
        find_user: &find_user,
        world_readable: true,
    }
}

fn good(text: &str) -> Loaded {
    parse(text, "viplb.toml", &around()).unwrap_or_else(|report| panic!("refused:\n{report}"))
}

/// A small good file with the sections' further lines as given.
fn minimal(vrrp: &str, check: &str) -> String {
    format!(
        "[vrrp.VI_1]\ninterface = \"eth0\"\nvirtual_router_id = 51\npriority = 101\n\
         virtual_ipaddress = [\"172.18.0.201\"]\n{vrrp}\n[service.db]\nlisten = \"172.18.0.201:3306\"\n\
         [[service.db.backend]]\naddress = \"172.18.0.2\"\n[service.db.check]\ntype = \"mysql\"\nuser = \"m\"\n{check}\n"
    )
}

fn only_error(text: &str) -> String {
    let report = parse(text, "viplb.toml", &around()).expect_err("a mistake");
    assert_eq!(report.errors(), 1, "{report}");
    report.diagnostics().into_iter().find(|d| d.severity == Severity::Error).unwrap().message.clone()
}

#[test]
fn every_mistake_of_a_bad_file_is_shown_where_it_stands() {
    let bless = std::env::var_os("VIPLB_BLESS").is_some();
    let mut wrong = Vec::new();
    for name in [
        "addresses",
        "checks",
        "choice",
        "conflicts",
        "empty",
        "five-mistakes",
        "keepalived-words",
        "reach",
        "secrets",
        "secrets-in-broken-syntax",
        "shapes",
        "sync",
        "syntax",
        "track",
        "warnings",
    ] {
        let file = format!("{name}.toml");
        let text = fs::read_to_string(fixtures().join(&file)).unwrap();
        let report = match parse(&text, &file, &around()) {
            Ok(loaded) => loaded.warnings,
            Err(report) => report,
        };
        let shown = format!("{report}\n{file}: {}\n", report.summary());
        let expected = fixtures().join(format!("{name}.stderr"));
        if bless {
            fs::write(&expected, &shown).unwrap();
        }
        if fs::read_to_string(&expected).unwrap_or_default() != shown {
            wrong.push(shown);
        }
    }
    assert!(wrong.is_empty(), "not as in the fixture:\n{}", wrong.join("\n"));
}

#[test]
fn no_secret_is_ever_printed() {
    for entry in fs::read_dir(fixtures()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "toml") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let shown = match parse(&text, "f", &around()) {
            Ok(loaded) => format!("{}{loaded:?}", loaded.warnings),
            Err(report) => format!("{report}{report:?}"),
        };
        assert!(!shown.contains("hunter2") && !shown.contains("123456"), "{}:\n{shown}", path.display());
    }
}

#[test]
fn the_stars_do_not_tell_how_long_a_secret_is() {
    let shown =
        |password: &str| only_report(&minimal("", &format!("password = {password}\npassword_file = \"x\"")));
    assert_eq!(shown("[\"a\"]"), shown("[\"a much longer one\"]"));
}

fn only_report(text: &str) -> String {
    parse(text, "viplb.toml", &around()).expect_err("a mistake").to_string()
}

#[test]
fn the_set_up_of_the_users_is_read_as_they_mean_it() {
    let loaded = good(&fs::read_to_string(fixtures().join("good-seed.toml")).unwrap());
    assert_eq!(loaded.warnings.to_string(), "");
    let config = loaded.config;
    let router = &config.vrrp[0];
    assert_eq!((router.vrid, router.priority, router.interface.as_str()), (51, 101, "eth0"));
    assert_eq!(router.auth_pass.unwrap().0, *b"123456\0\0");
    assert_eq!(router.ipv4().map(|a| a.to_string()).collect::<Vec<_>>(), ["172.18.0.201"]);
    let service = &config.services[0];
    assert_eq!((service.router, service.listen.to_string().as_str()), (Some(0), "172.18.0.201:3306"));
    let backends: Vec<_> = service.backends.iter().map(|b| format!("{} {}", b.name, b.addr)).collect();
    assert_eq!(backends, ["db1 172.18.0.2:3306", "db2 172.18.0.3:3306", "172.18.0.4 172.18.0.4:3306"]);
}

#[test]
fn defaults_are_those_the_documentation_states() {
    let Config { node, vrrp, services, .. } = good(&minimal("", "")).config;
    assert_eq!((node.name.as_str(), node.flows, node.datapath_log), ("h1", 262_144, false));
    assert!(node.realtime);
    let router = &vrrp[0];
    assert_eq!(router.advert_int, Duration::from_secs(1));
    assert_eq!((router.version, router.v3_checksum), (Version::V2, V3Checksum::PseudoHeader));
    assert_eq!(router.lease, Duration::from_millis(2_500));
    assert_eq!((router.preempt, router.auth_pass), (Preempt::NOW, None));
    assert_eq!(router.addresses[0].prefix_len, 32);
    assert_eq!(
        (router.garp.repeat, router.garp.delay, router.garp.refresh),
        (5, Duration::from_secs(5), None)
    );
    let service = &services[0];
    assert_eq!((service.scheduler, service.backends[0].weight), (Scheduler::Rr, 1));
    let check = &service.check;
    assert_eq!((check.interval, check.timeout), (Duration::from_secs(2), Duration::from_secs(1)));
    assert_eq!((check.rise, check.fall), (2, 3));
}

#[test]
fn version_3_takes_intervals_of_10_ms_to_40_95_s_and_the_lease_follows_them() {
    for (written, ms) in [("\"10ms\"", 10), ("\"0.03s\"", 30), ("1", 1000), ("\"40.95s\"", 40_950)] {
        let router = &good(&minimal(&format!("version = 3\nadvert_int = {written}"), "")).config.vrrp[0];
        assert_eq!((router.version, router.advert_int.as_millis()), (Version::V3, ms), "{written}");
        assert_eq!(router.lease, router.advert_int * 5 / 2);
    }
    let plain = &good(&minimal("version = 3\nv3_checksum = \"plain\"", "")).config.vrrp[0];
    assert_eq!(plain.v3_checksum, V3Checksum::Plain);
    for (written, shown) in [("\"15ms\"", "15ms"), ("\"40.96s\"", "40.96s"), ("41", "41s")] {
        assert_eq!(
            only_error(&minimal(&format!("version = 3\nadvert_int = {written}"), "")),
            format!("`advert_int` is {shown}, but VRRP version 3 has 10ms to 40.95s in steps of 10ms")
        );
    }
}

#[test]
fn what_one_version_does_not_have_is_refused_and_the_other_one_named() {
    let version_2 = only_report(&minimal("advert_int = \"500ms\"", ""));
    assert!(
        version_2.contains("`advert_int` is 500ms, but VRRP version 2 has whole seconds only"),
        "{version_2}"
    );
    assert!(version_2.contains("`version = 3` on every node"), "{version_2}");
    for (line, message) in [
        ("version = 3\nauth_pass = \"x\"", "`auth_pass` is given, but VRRP version 3 has no authentication"),
        (
            "version = 3\nauth_pass_file = \"x\"",
            "`auth_pass_file` is given, but VRRP version 3 has no authentication",
        ),
        (
            "v3_checksum = \"plain\"",
            "`v3_checksum` has no use in VRRP version 2, whose checksum is the same everywhere",
        ),
        ("version = 4", "`version` is 4, but must be 2 to 3"),
        (
            "version = 3\nadvert_int = \"100ms\"\nlease = \"300ms\"",
            "`lease` is 300ms, not less than 3 × advert_int \
             (100ms): a peer takes over after that, and there would be two owners",
        ),
    ] {
        assert_eq!(only_error(&minimal(line, "")), message);
    }
}

#[test]
fn addresses_are_read_with_their_prefix_and_interface() {
    let six = "version = 3\nvirtual_ipaddress_excluded = [\"10.0.0.1/8 dev eth1\"]\nassign_address = false";
    let text = minimal(six, "")
        .replace("[\"172.18.0.201\"]", "[\"fe80::1\", \"fd00::201/64  dev  eth2\"]")
        .replace("172.18.0.201:3306", "[fd00::201]:3306")
        .replace("\"172.18.0.2\"", "\"fd00::2\"");
    let Config { vrrp, services, .. } = good(&text).config;
    let shown = |list: &[model::VirtualAddress]| {
        list.iter().map(|a| format!("{}/{} {:?}", a.addr, a.prefix_len, a.dev)).collect::<Vec<_>>()
    };
    assert_eq!(shown(&vrrp[0].addresses), ["fe80::1/128 None", "fd00::201/64 Some(\"eth2\")"]);
    assert_eq!(shown(&vrrp[0].excluded), ["10.0.0.1/8 Some(\"eth1\")"]);
    assert!(!vrrp[0].assign);
    assert_eq!(services[0].backends[0].addr.to_string(), "[fd00::2]:3306", "the port is that of `listen`");
    assert_eq!((services[0].router, services[0].protocol), (Some(0), Protocol::Tcp));
}

#[test]
fn peers_are_on_the_same_link_unless_a_ttl_says_otherwise() {
    let lines =
        "unicast_peer = [\"172.18.0.8\", { address = \"10.0.0.8\", min_ttl = 1 }]\nsource = \"172.18.0.7\"";
    let router = &good(&minimal(lines, "")).config.vrrp[0];
    let peer = |addr: &str, min_ttl| UnicastPeer { addr: addr.parse().unwrap(), min_ttl, max_ttl: 255 };
    assert_eq!(router.transport, Transport::Unicast(vec![peer("172.18.0.8", 255), peer("10.0.0.8", 1)]));
    assert_eq!(router.source, Some("172.18.0.7".parse().unwrap()));
    let router = &good(&minimal("", "")).config.vrrp[0];
    assert_eq!((&router.transport, router.source), (&Transport::Multicast, None));
}

#[test]
fn preemption_is_at_once_never_or_after_a_while() {
    let after = |s| Preempt::After(Duration::from_secs(s));
    for (written, preempt) in
        [("now", after(0)), ("0s", after(0)), ("never", Preempt::Never), ("30s", after(30))]
    {
        let router = &good(&minimal(&format!("preempt = \"{written}\""), "")).config.vrrp[0];
        assert_eq!(router.preempt, preempt, "{written}");
    }
}

#[test]
fn probes_follow_the_interval_of_adverts_unless_told_otherwise() {
    let us = Duration::from_micros;
    let probe = |lines: &str| good(&minimal(lines, "")).config.vrrp[0].probe;
    for (lines, interval, lease) in [
        ("", 40_000, 400_000),
        ("version = 3\nadvert_int = \"10ms\"", 500, 4_000),
        ("probe_lease = \"200ms\"", 20_000, 200_000),
        ("probe_interval = \"80ms\"", 80_000, 400_000),
    ] {
        assert_eq!(probe(lines), Some(Probe { interval: us(interval), lease: us(lease) }), "{lines}");
    }
    assert_eq!(probe("probe = false"), None);
}

#[test]
fn announcements_after_a_losing_advert_are_those_of_a_take_over_unless_told_otherwise() {
    let garp = |lines: &str| good(&minimal(lines, "")).config.vrrp[0].garp;
    assert_eq!(garp(""), model::Garp::default());
    let followed = garp("garp_master_repeat = 3\ngarp_master_delay = 1");
    assert_eq!((followed.lower_prio_repeat, followed.lower_prio_delay), (3, Duration::from_secs(1)));
    let own = garp("garp_lower_prio_repeat = 2\ngarp_lower_prio_delay = 0\ngarp_interval = \"1ms\"");
    assert_eq!((own.lower_prio_repeat, own.lower_prio_delay), (2, Duration::ZERO));
    assert_eq!((own.repeat, own.interval), (5, Duration::from_millis(1)));
}

#[test]
fn a_short_interval_shortens_the_default_timeout() {
    let check = &good(&minimal("", "interval = \"200ms\"")).config.services[0].check;
    assert_eq!(check.timeout, Duration::from_millis(200));
}

#[test]
fn durations_are_read_with_their_unit_and_plain_seconds_where_keepalived_has_them() {
    for (written, ms) in [("2", 2_000), ("\"2s\"", 2_000), ("\"2000ms\"", 2_000), ("\"1m\"", 60_000)] {
        let router = &good(&minimal(&format!("advert_int = {written}"), "")).config.vrrp[0];
        assert_eq!(router.advert_int.as_millis(), ms, "{written}");
    }
    let router = &good(&minimal("lease = \"1.25s\"\ngarp_master_refresh = 60", "")).config.vrrp[0];
    assert_eq!(router.lease, Duration::from_millis(1_250));
    assert_eq!(router.garp.refresh, Some(Duration::from_secs(60)));
    for written in [
        "\"2\"",
        "\"s\"",
        "\"-1s\"",
        "\"1.2.3s\"",
        "\"1e3s\"",
        "\".5s\"",
        "\"2 s s\"",
        "\"\"",
        "\"99999999999999999999s\"",
    ] {
        assert_eq!(
            only_error(&minimal("", &format!("interval = {written}"))),
            "`interval` is not a duration",
            "{written}"
        );
    }
}

#[test]
fn a_lease_must_lie_between_one_advert_and_the_peers_take_over() {
    for lease in ["3s", "1s", "10s", "500ms"] {
        let message = only_error(&minimal(&format!("lease = \"{lease}\""), ""));
        assert!(message.starts_with(&format!("`lease` is {lease}")), "{message}");
    }
    good(&minimal("lease = \"2.999s\"", ""));
    good(&minimal("lease = \"1.001s\"", ""));
}

#[test]
fn password_files_are_taken_from_the_directory_of_the_configuration() {
    let services = good(&minimal("", "password_file = \"monitor.pw\"")).config.services;
    let CheckKind::Mysql(login) = &services[0].check.kind else { panic!("a mysql check") };
    assert_eq!(login.password, "hunter2");
    assert_eq!(login.password_file.as_deref(), Some(Path::new("/etc/viplb/monitor.pw")));
}

#[test]
fn a_host_name_that_does_not_do_is_told_apart_from_a_name_in_the_file() {
    let around = Surroundings { host_name: String::new(), ..around() };
    let report = parse(&minimal("", ""), "viplb.toml", &around).expect_err("no name");
    assert!(report.to_string().contains("[node] has no `name`"), "{report}");
}

#[test]
fn the_example_is_good_and_its_comments_state_the_defaults() {
    let text = include_str!("../../../docs/viplb.example.toml");
    let with_defaults: String = text
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) => {
                format!("{rest}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    assert!(with_defaults.contains("\nlease = "), "comments were taken off");
    let (bare, spelt_out) = (good(text), good(&with_defaults));
    assert_eq!(bare.warnings.to_string(), "");
    assert_eq!(bare.config, spelt_out.config);
}

#[test]
fn every_key_is_documented_and_every_documented_key_exists() {
    let docs = include_str!("../../../docs/configuration.md");
    // All quoted words of a row's first cell; environment variables are no keys.
    let cells = docs.lines().filter_map(|l| l.strip_prefix("| `")?.split('|').next());
    let documented: Vec<&str> =
        cells.flat_map(|cell| cell.split('`').step_by(2)).filter(|k| !k.starts_with("VIPLB_")).collect();
    let mut known: Vec<String> = Vec::new();
    // An unknown key far from all others is answered with the list of the known ones.
    for section in [
        "[node]\nZ",
        "[vrrp.a]\nZ",
        "[vrrp.a]\nunicast_peer = [{ Z }]",
        "[service.a]\nZ",
        "[[service.a.backend]]\nZ",
        "[service.a.check]\nZ",
        "[service.a.timeouts]\nZ",
        "[service.a.client_limit]\nZ",
        "[service.a.passive]\nZ",
        "[service.a.discover]\nZ",
        "[vrrp.a]\ntrack = [{ Z }]",
        "[track.a]\ntype = \"interface\"\nZ",
        "[track.a]\ntype = \"script\"\nZ",
        "[track.a]\ntype = \"process\"\nZ",
        "[track.a]\ntype = \"file\"\nZ",
        "[track.a]\ntype = \"backends\"\nZ",
        "[track.a]\ntype = \"peer\"\nZ",
        "[sync_group.a]\nZ",
        "[http]\nZ",
        "[sync]\nZ",
    ] {
        let report = only_report(&section.replace('Z', "zzzzzzzzzzzzzzzz = 1"));
        let list = report.lines().find_map(|l| l.split_once("known here: ")).expect("the list").1;
        known.extend(list.split(", ").filter(|k| !matches!(*k, "backend" | "check")).map(str::to_owned));
    }
    for key in &known {
        assert!(documented.contains(&key.as_str()), "`{key}` is not documented");
    }
    for key in documented {
        assert!(known.iter().any(|k| k == key), "`{key}` is documented but does not exist");
    }
}

proptest::proptest! {
    /// Whatever is in the file, the answer is a model or a list of mistakes that can be printed.
    #[test]
    fn no_file_breaks_the_reader(
        which in 0usize..3,
        cuts in proptest::collection::vec((proptest::prelude::any::<proptest::sample::Index>(), 0usize..12, r#"\PC{0,4}|"""|\r?\n|[\[\]={}"'.,\#]"#), 1..8),
    ) {
        let mut text = [
            include_str!("../../../docs/viplb.example.toml"),
            include_str!("../../../tests/fixtures/config/conflicts.toml"),
            include_str!("../../../tests/fixtures/config/secrets.toml"),
        ][which].to_owned();
        for (at, length, instead) in cuts {
            let at = text.floor_char_boundary(at.index(text.len() + 1));
            let end = text.ceil_char_boundary((at + length).min(text.len()));
            text.replace_range(at..end, &instead);
        }
        match parse(&text, "f", &around()) {
            Ok(loaded) => assert_eq!(loaded.warnings.errors(), 0),
            Err(report) => assert!(report.to_string().contains("error: ")),
        }
    }
}

mod on_disk {
    //! What depends on the file system itself.

    use std::os::unix::fs::PermissionsExt;

    use super::{super::secret as secret_file, *};

    struct Dir(PathBuf);

    impl Dir {
        fn new(test: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("viplb-config-{}-{test}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }

        fn file(&self, name: &str, content: impl AsRef<[u8]>, mode: u32) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_password_file_is_one_line_that_others_cannot_read() {
        let dir = Dir::new("password");
        let read = |name: &str, content: &str, mode| {
            secret_file::read_file(&dir.file(name, content, mode)).map_err(|e| e.to_string())
        };
        assert_eq!(read("plain", "hunter2\n", 0o600).as_deref(), Ok("hunter2"));
        assert_eq!(read("group", "hunter2", 0o640).as_deref(), Ok("hunter2"));
        for (name, content, mode, problem) in [
            ("open", "hunter2\n", 0o644, "can be read by every user"),
            ("empty", "\n", 0o600, "is empty"),
            ("lines", "hunter2\nmore\n", 0o600, "more than one line"),
            ("long", "x".repeat(5000).as_str(), 0o600, "longer than 4 KiB"),
        ] {
            let error = read(name, content, mode).unwrap_err();
            assert!(error.contains(problem) && !error.contains("hunter2"), "{name}: {error}");
        }
        let error = secret_file::read_file(&dir.0).unwrap_err().to_string();
        assert!(error.contains("is not a regular file"), "{error}");
    }

    #[test]
    fn a_file_that_cannot_be_used_is_one_sentence() {
        let dir = Dir::new("load");
        let latin1 = dir.file("latin1.toml", b"# caf\xe9\n", 0o600);
        for (path, reason) in [
            (dir.0.join("missing.toml"), "No such file or directory"),
            (dir.0.clone(), "it is not a regular file"),
            (latin1, "it is not UTF-8 text"),
        ] {
            let error = load(&path).expect_err("cannot be read").to_string();
            assert_eq!(error, format!("cannot read the configuration `{}`: {reason}", path.display()));
        }
    }

    #[test]
    fn a_relative_password_file_lies_beside_the_configuration() {
        let dir = Dir::new("relative");
        dir.file("monitor.pw", "hunter2\n", 0o600);
        let text = format!("[node]\nname = \"h1\"\n{}", minimal("", "password_file = \"monitor.pw\""));
        let loaded = load(&dir.file("viplb.toml", text, 0o644)).expect("good");
        assert_eq!(loaded.warnings.warnings(), 0, "{}", loaded.warnings);
    }
}
