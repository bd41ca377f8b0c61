use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::PathBuf,
    time::{Duration, Instant},
};

use super::*;

/// A directory of a test's own, which goes with it.
struct Dir(PathBuf);

impl Dir {
    fn new(test: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("viplb-program-{}-{test}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn script(&self, name: &str, lines: &str, mode: u32) -> PathBuf {
        let path = self.0.join(name);
        testing::script(&path, lines, mode);
        path
    }

    fn program(&self, lines: &str) -> Program {
        Program { path: self.script("program", lines, 0o755), args: vec!["own".into()], user: None }
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_program_that_anybody_can_change_is_refused_wherever_it_hides() {
    let dir = Dir::new("check");
    let good = dir.script("good", "", 0o755);
    assert_eq!(check(&good), Ok(()));
    let name = |path: &Path| path.display().to_string();
    let open = dir.script("open", "", 0o757);
    assert_eq!(check(&open), Err(Unfit::WorldWritable(name(&open))));
    let plain = dir.script("plain", "", 0o644);
    assert_eq!(check(&plain), Err(Unfit::NotExecutable(name(&plain))));
    assert_eq!(check(&dir.0), Err(Unfit::NotExecutable(name(&dir.0))), "a directory");
    let (link, missing) = (dir.0.join("link"), dir.0.join("missing"));
    symlink(&open, &link).unwrap();
    assert_eq!(check(&link), Err(Unfit::WorldWritable(name(&link))), "by way of a link");
    assert!(matches!(check(&missing), Err(Unfit::Unreadable { .. })));
    let shared = dir.0.join("shared");
    fs::create_dir(&shared).unwrap();
    let inside = dir.script("shared/inside", "", 0o755);
    for (mode, fine) in [(0o777, false), (0o1777, true), (0o755, true)] {
        fs::set_permissions(&shared, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(check(&inside).is_ok(), fine, "in a directory of mode {mode:o}");
    }
}

#[tokio::test]
async fn a_run_gets_its_arguments_and_only_the_environment_that_it_is_given() {
    let dir = Dir::new("run");
    let out = dir.0.join("out");
    let program = dir.program(&format!("echo \"$@\" > {0}; env >> {0}", out.display()));
    let environment = [("VIPLB_STATE", "MASTER".to_owned())];
    let mut job = Job::start(&program, ["INSTANCE", "v 1"], &environment).unwrap();
    assert_eq!(job.wait().await, Ok(()));
    let text = fs::read_to_string(out).unwrap();
    assert!(text.starts_with("own INSTANCE v 1\n"), "{text}");
    assert!(text.contains("VIPLB_STATE=MASTER\n") && text.contains("PATH=/usr/local/sbin:"), "{text}");
    assert!(!text.contains("CARGO"), "nothing of the daemon's own: {text}");
}

#[tokio::test]
async fn how_a_run_ended_is_told_in_words() {
    let dir = Dir::new("end");
    for (lines, words) in [("exit 3", "exit status 3"), ("kill -9 $$", "ended by signal 9")] {
        let mut job = Job::start(&dir.program(lines), [], &[]).unwrap();
        assert_eq!(job.wait().await.unwrap_err().to_string(), words);
    }
    let gone = Program { path: dir.0.join("gone"), args: Vec::new(), user: None };
    let error = Job::start(&gone, [], &[]).unwrap_err().to_string();
    assert!(error.starts_with("cannot be run: cannot look at"), "{error}");
}

#[tokio::test]
async fn a_killed_run_takes_with_it_what_it_started() {
    let dir = Dir::new("kill");
    let pid = dir.0.join("pid");
    let program =
        dir.program(&format!("sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait", pid.display()));
    let mut job = Job::start(&program, [], &[]).unwrap();
    let start = Instant::now();
    while !pid.exists() {
        assert!(start.elapsed() < Duration::from_secs(30), "the script does not start");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    job.kill();
    assert_eq!(job.wait().await, Err(Failure::Signal(9)));
    let child: i32 = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    // Nobody but init can reap it, so a zombie counts as ended.
    let running = || {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    };
    while running() {
        assert!(start.elapsed() < Duration::from_secs(30), "its child goes on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
