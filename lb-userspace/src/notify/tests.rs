use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::*;
use crate::program::testing;

const PATIENCE: Duration = Duration::from_secs(30);

/// A directory of a test's own, which goes with it.
struct Dir(PathBuf);

impl Dir {
    fn new(test: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("viplb-notify-{}-{test}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    /// A program whose `$OUT` is the file that [`lines`](Self::lines) reads.
    fn program(&self, name: &str, lines: &str) -> Option<Program> {
        let path = self.0.join(name);
        testing::script(&path, &format!("OUT={}\n{lines}", self.0.join("out").display()), 0o755);
        Some(Program { path, args: vec!["own".into()], user: None })
    }

    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(self.0.join("out")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    async fn wait_for_lines(&self, count: usize) {
        let start = Instant::now();
        while self.lines().len() < count {
            assert!(start.elapsed() < PATIENCE, "{:?}", self.lines());
            sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn notice(old: State, state: State) -> Notice {
    Notice {
        subject: Subject::Router(0),
        name: "VI_1".into(),
        old,
        state,
        priority: 81,
        reason: "no master was heard".into(),
        addresses: "172.18.0.201 172.18.0.202".into(),
    }
}

fn start(notify: Notify, limit: Duration) -> Notifier {
    Notifier::start("h1", [(Subject::Router(0), notify)].into_iter(), limit)
}

#[tokio::test]
async fn a_program_learns_of_the_change_from_its_arguments_and_its_environment() {
    let dir = Dir::new("env");
    let any = dir.program("any", "echo \"$@\" >> $OUT; env | grep VIPLB_ | sort >> $OUT");
    let master = dir.program("master", "echo \"master: $@\" >> $OUT");
    let notifier = start(Notify { any, master, ..Notify::default() }, LIMIT);
    notifier.tell(notice(State::Backup, State::Master));
    notifier.finish(PATIENCE).await;
    let expected = [
        "master: own",
        "own INSTANCE VI_1 MASTER 81",
        "VIPLB_ADDRESSES=172.18.0.201 172.18.0.202",
        "VIPLB_NODE=h1",
        "VIPLB_OLD_STATE=BACKUP",
        "VIPLB_PRIORITY=81",
        "VIPLB_REASON=no master was heard",
        "VIPLB_ROUTER=VI_1",
        "VIPLB_STATE=MASTER",
    ];
    assert_eq!(dir.lines(), expected);
}

#[tokio::test]
async fn programs_run_one_after_the_other_in_the_order_of_the_changes() {
    let dir = Dir::new("order");
    // Later ones are faster: run side by side, they would be first.
    let lines = "echo \"> $VIPLB_STATE\" >> $OUT; test $VIPLB_STATE != BACKUP || sleep 0.2; echo \"< $VIPLB_STATE\" >> $OUT";
    let notifier = start(Notify { any: dir.program("any", lines), ..Notify::default() }, LIMIT);
    notifier.tell(notice(State::Init, State::Backup));
    notifier.tell(notice(State::Backup, State::Master));
    notifier.tell(notice(State::Master, State::Stop));
    notifier.finish(PATIENCE).await;
    assert_eq!(dir.lines(), ["> BACKUP", "< BACKUP", "> MASTER", "< MASTER", "> STOP", "< STOP"]);
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_and_the_next_change_is_told() {
    let dir = Dir::new("hang");
    let any = dir.program("any", "echo $VIPLB_STATE >> $OUT; test $VIPLB_STATE != BACKUP || exec sleep 1000");
    let notifier = start(Notify { any, ..Notify::default() }, Duration::from_millis(500));
    notifier.tell(notice(State::Init, State::Backup));
    dir.wait_for_lines(1).await;
    notifier.tell(notice(State::Backup, State::Master));
    notifier.finish(PATIENCE).await;
    assert_eq!(dir.lines(), ["BACKUP", "MASTER"]);
}

#[tokio::test]
async fn while_a_program_hangs_the_oldest_of_too_many_changes_are_left_out() {
    let dir = Dir::new("many");
    let any =
        dir.program("any", "echo $VIPLB_PRIORITY >> $OUT; while test ! -e $OUT.go; do sleep 0.02; done");
    let notifier = start(Notify { any, ..Notify::default() }, LIMIT);
    let told = |priority: usize| {
        notifier.tell(Notice { priority: priority as u8, ..notice(State::Backup, State::Master) });
    };
    told(0);
    dir.wait_for_lines(1).await;
    (1..=WAITING + 2).for_each(told);
    fs::write(dir.0.join("out.go"), "").unwrap();
    notifier.finish(PATIENCE).await;
    let expected: Vec<String> = [0].into_iter().chain(3..=WAITING + 2).map(|n| n.to_string()).collect();
    assert_eq!(dir.lines(), expected);
}

#[tokio::test]
async fn the_stop_waits_for_programs_only_so_long() {
    let dir = Dir::new("stop");
    let stop = dir.program("stop", "echo x >> $OUT; exec sleep 1000");
    let notifier = start(Notify { stop, ..Notify::default() }, LIMIT);
    notifier.tell(notice(State::Master, State::Stop));
    dir.wait_for_lines(1).await;
    let started = Instant::now();
    notifier.finish(Duration::from_millis(100)).await;
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[tokio::test]
async fn who_has_no_program_is_not_told() {
    let notifier = start(Notify::default(), LIMIT);
    notifier.tell(Notice { subject: Subject::Group(7), ..notice(State::Backup, State::Master) });
    notifier.finish(PATIENCE).await;
}
