//! A program whose exit status is asked for again and again.
//!
//! Runs of one script follow each other and never overlap, so that one that cannot even be killed (waiting for a dead
//! disk) does not pile up: it counts as failed until it is gone.

use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{Voice, state::Streak};
use crate::{
    config::model::Script,
    program::{Failure, Job},
};

pub(super) async fn watch(script: Script, mut voice: Voice) {
    let mut streak = Streak::fresh(script.rise, script.fall, script.init);
    let mut due = interval(script.interval);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        let mut job = match Job::start(&script.program, [], &[]) {
            Ok(job) => job,
            Err(failure) => {
                judge(&mut streak, &mut voice, Err(failure.to_string()));
                continue;
            }
        };
        match timeout(script.timeout, job.wait()).await {
            Ok(ended) => judge(&mut streak, &mut voice, ended.map_err(|e: Failure| e.to_string())),
            Err(_) => {
                job.kill();
                judge(&mut streak, &mut voice, Err(format!("no end within {:?}", script.timeout)));
                let _ = job.wait().await;
            }
        }
    }
}

fn judge(streak: &mut Streak, voice: &mut Voice, result: Result<(), String>) {
    let good = streak.take(result.is_ok());
    let cause = match result {
        // Not yet enough passes: what the last failure was is not known to be over.
        Ok(()) if !good => "passes again, not often enough yet".to_owned(),
        Ok(()) => String::new(),
        Err(failure) => failure,
    };
    voice.say(good, cause);
}
