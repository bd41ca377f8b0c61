//! The integer in a file, as keepalived's track_file: what another program wants the priority to be moved by.
//!
//! The file is read again and again, a few bytes each time: whatever way it is written (in place, renamed over, on a
//! file system without notifications) is seen. A read that hangs (a dead network file system) keeps the last value.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};

use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{Reading, Voice};
use crate::config::model::FileValue;

/// More than any integer needs, and little enough to read at every look.
const LIMIT_BYTES: u64 = 64;
/// A local file is read in microseconds.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) async fn watch(file: FileValue, mut voice: Voice) {
    let mut due = interval(file.interval);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = 0;
    loop {
        due.tick().await;
        let path = file.path.clone();
        let mut look = spawn_blocking(move || value(&path));
        let found = match timeout(PATIENCE, &mut look).await {
            Ok(found) => found,
            Err(_) => {
                voice.say(Reading::Value(last), "cannot be read: no answer within 1s");
                // No second look before the first is over: each holds a thread.
                look.await
            }
        };
        let cause = match found.unwrap_or_else(|_| Err("cannot be read".to_owned())) {
            Ok(Some(value)) => {
                last = value;
                String::new()
            }
            Ok(None) => {
                last = 0;
                "there is no such file".to_owned()
            }
            Err(why) => why,
        };
        voice.say(Reading::Value(last), cause);
    }
}

/// The value; `None` where there is no file.
fn value(path: &Path) -> Result<Option<i64>, String> {
    let cannot = |e: io::Error| format!("cannot be read: {}", e.kind());
    // Without O_NONBLOCK, opening a FIFO would wait for its writer for ever.
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = match opened {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(cannot)?,
    };
    let mut text = String::new();
    file.take(LIMIT_BYTES).read_to_string(&mut text).map_err(cannot)?;
    let number = text.trim().parse();
    number.map(Some).map_err(|_| "does not hold an integer".to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_holds_one_integer_or_says_what_is_wrong() {
        let path = std::env::temp_dir().join(format!("viplb-value-{}", std::process::id()));
        assert_eq!(value(&path), Ok(None));
        for (content, expected) in [("7\n", Some(7)), (" -20 \n", Some(-20)), ("", None), ("7 8", None)] {
            fs::write(&path, content).unwrap();
            let found = value(&path);
            match expected {
                Some(number) => assert_eq!(found, Ok(Some(number)), "{content:?}"),
                None => assert_eq!(found, Err("does not hold an integer".into()), "{content:?}"),
            }
        }
        fs::remove_file(&path).unwrap();
        assert!(value(Path::new("/")).unwrap_err().starts_with("cannot be read: "));
    }
}
