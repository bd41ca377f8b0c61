//! The live screen of `run`.
//!
//! On a terminal one picture is redrawn in place with plain ANSI sequences; elsewhere one line a second is
//! printed, of `key=value` words, for scripts. Drawing never fails the run: a terminal that goes away is ignored.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use crate::{
    lab::{Engine, Lab, Role},
    status::View,
    writer::Tally,
};

/// How many events are shown.
const EVENTS: usize = 8;
/// Alternate screen, no cursor, no wrapping of long lines; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// One moment of a run.
#[derive(Debug)]
pub struct Frame<'a> {
    /// The lab.
    pub lab: &'a Lab,
    /// Its state.
    pub view: &'a View,
    /// What the client has seen.
    pub tally: &'a Tally,
    /// Rows a second over the last moment.
    pub rate: f64,
    /// Time since the client began.
    pub elapsed: Duration,
}

/// Where frames are drawn; leaving it restores the terminal.
#[derive(Debug)]
pub struct Screen {
    terminal: bool,
    events: VecDeque<String>,
}

impl Screen {
    /// On standard output.
    pub fn open() -> Self {
        let terminal = io::stdout().is_terminal();
        if terminal {
            put(ENTER);
        }
        Screen { terminal, events: VecDeque::new() }
    }

    /// How often a frame is wanted.
    pub fn period(&self) -> Duration {
        Duration::from_millis(if self.terminal { 500 } else { 1000 })
    }

    /// Shows a frame.
    pub fn draw(&self, frame: &Frame<'_>) {
        if self.terminal {
            let picture = picture(frame, &self.events).replace('\n', "\x1b[K\r\n");
            put(&format!("\x1b[H{picture}\x1b[J"));
        } else {
            put(&format!("{}\n", line(frame)));
        }
    }

    /// Adds an event.
    pub fn event(&mut self, elapsed: Duration, what: &str) {
        let text = format!("{:>7.1} s  {what}", elapsed.as_secs_f64());
        if !self.terminal {
            put(&format!("event {}\n", text.trim_start()));
        }
        self.events.push_back(text);
        if self.events.len() > EVENTS {
            self.events.pop_front();
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.terminal {
            put(LEAVE);
        }
    }
}

/// Writes to standard output; that nobody reads it any more is no error.
pub fn put(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// The whole picture.
fn picture(frame: &Frame<'_>, events: &VecDeque<String>) -> String {
    let plan = frame.lab.plan();
    let engine = match plan.engine {
        Engine::Galera => "MariaDB Galera",
        Engine::Standin => "stand-in for MariaDB",
    };
    let mut out = format!(
        "viplb lab `{}`: {engine}, {} database nodes, {:.0} s. Ctrl-C ends it.\n\n",
        plan.prefix,
        plan.db,
        frame.elapsed.as_secs_f64()
    );
    out.push_str(&frame.view.table());
    let (t, gap) = (frame.tally, frame.tally.longest_gap(Instant::now()));
    let _ = writeln!(out, "\nflows {}  packets {}", frame.view.flows, frame.view.packets);
    let _ = writeln!(
        out,
        "client  {:.0} queries/s  rows acknowledged {}  errors {}  longest gap {} ms",
        frame.rate,
        t.acknowledged,
        t.errors,
        gap.as_millis()
    );
    let _ = writeln!(out, "        last error: {}", t.last_error.as_deref().unwrap_or("none"));
    out.push_str("\nevents\n");
    for event in events {
        let _ = writeln!(out, "{event}");
    }
    let _ = write!(
        out,
        "\ntry in another terminal: cargo xtask lab pause h1 | unpause h1 | kill h1 | cut db1 | …"
    );
    out
}

/// One line for scripts.
fn line(frame: &Frame<'_>) -> String {
    let (view, t) = (frame.view, frame.tally);
    let mut out = format!("t={:.0}s owner={}", frame.elapsed.as_secs_f64(), list(&view.owners));
    for n in &view.nodes {
        let _ = write!(out, " {}={}", n.node.name, n.state.replace(", ", "/").replace(' ', "-"));
        if let (Role::Balancer(_), Some(valid)) = (n.node.role, n.lease) {
            out.push_str(if valid { "/lease" } else { "" });
        }
    }
    let up = view.backends.iter().filter(|b| b.state.to_lowercase().starts_with("up")).count();
    let _ =
        write!(out, " backends={up}/{} flows={} packets={}", view.backends.len(), view.flows, view.packets);
    let gap = t.longest_gap(Instant::now()).as_millis();
    let _ = write!(out, " qps={:.0} rows={} errors={} gap={gap}ms", frame.rate, t.acknowledged, t.errors);
    out
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "-".to_owned() } else { names.join("+") }
}
