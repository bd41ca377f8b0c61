//! `run`: raise the lab, write through the virtual address, show the screen, take everything down, add up.
//!
//! Ends on Ctrl-C (SIGTERM, SIGHUP), after a given time, or when the lab is taken down from elsewhere. Whatever
//! happens after raising began, taking down is tried.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{
    console::{Console, stop_asked},
    down::down,
    lab::{Balancer, DB_PORT, Lab, Plan, VIP},
    screen::{Frame, Screen, put},
    sql::{self, ROOT, Server},
    status::View,
    vip,
    writer::{Options, Tally, Writer},
};

/// How long a node may take to catch up and count at the end.
const COUNT_LIMIT: Duration = Duration::from_secs(10);
/// How long a first election may take.
const ELECTION_LIMIT: Duration = Duration::from_secs(15);

/// Runs the try-out; fails if a database node does not hold exactly the acknowledged rows.
pub fn run(
    plan: Plan,
    target: Option<SocketAddr>,
    length: Option<Duration>,
    console: &Console,
) -> Result<()> {
    let prefix = plan.prefix.clone();
    let lab = raise(plan, console)?;
    let done = drive(&lab, target.unwrap_or_else(|| default_target(&lab)), length);
    let gone = down(&prefix, console)?;
    console.say(format!("removed: {}", gone.join(", ")));
    let (text, sound) = done?;
    put(&text);
    if !sound {
        bail!("the databases do not hold the acknowledged rows");
    }
    Ok(())
}

/// Raises a lab; one that cannot be raised is taken down again.
pub fn raise(plan: Plan, console: &Console) -> Result<Lab> {
    let prefix = plan.prefix.clone();
    if crate::lab::is_up(&prefix) {
        bail!("a lab `{prefix}` is already up: `cargo xtask lab down` removes it");
    }
    let up = Lab::up(plan, console).and_then(|lab| {
        elected(&lab, console)?;
        Ok(lab)
    });
    if up.is_err() {
        down(&prefix, console)?;
    }
    up
}

/// Waits for an owner of the virtual address where there is a balancer to be one: with the seed's parameters a first
/// election takes 3.6 s of silence.
fn elected(lab: &Lab, console: &Console) -> Result<()> {
    if lab.plan().h1 == Balancer::Nothing && lab.plan().h2 == Balancer::Nothing {
        return Ok(());
    }
    let began = Instant::now();
    while began.elapsed() < ELECTION_LIMIT {
        if stop_asked() {
            bail!("interrupted");
        }
        if let [owner] = &vip::owners(lab)?[..] {
            console.say(format!("{owner} owns the virtual IP after {:.1} s", began.elapsed().as_secs_f64()));
            return Ok(());
        }
    }
    bail!("no node took the virtual IP within {ELECTION_LIMIT:?}")
}

fn default_target(lab: &Lab) -> SocketAddr {
    let nothing = lab.plan().h1 == Balancer::Nothing;
    let addr = if nothing { lab.databases()[0].addr } else { VIP };
    SocketAddr::from((addr, DB_PORT))
}

/// The part between up and down; the summary and whether it is sound.
fn drive(lab: &Lab, target: SocketAddr, length: Option<Duration>) -> Result<(String, bool)> {
    let client = lab.netns(&lab.node("client")?);
    let writer = Writer::start(client, Options::to(target));
    let began = Instant::now();
    let taken_down = show(lab, &writer, began, length);
    let mut tally = writer.stop()?;
    tally.longest_closed_gap = tally.longest_gap(Instant::now());
    if taken_down {
        bail!("the lab was taken down from elsewhere after {} acknowledged rows", tally.acknowledged);
    }
    Ok(summary(lab, &tally, began.elapsed()))
}

/// Draws until the end; whether the lab vanished meanwhile.
fn show(lab: &Lab, writer: &Writer, began: Instant, length: Option<Duration>) -> bool {
    let mut screen = Screen::open();
    let mut before: Option<(View, Tally, Instant)> = None;
    while !stop_asked() && length.is_none_or(|length| began.elapsed() < length) {
        if !lab.bridge().exists() {
            return true;
        }
        let drawn = Instant::now();
        let (view, tally) = (View::of(lab), writer.tally());
        let mut rate = 0.0;
        if let Some((old_view, old_tally, old_time)) = &before {
            let rows = tally.acknowledged.saturating_sub(old_tally.acknowledged);
            rate = rows as f64 / drawn.duration_since(*old_time).as_secs_f64();
            for what in changes(old_view, &view, old_tally, &tally) {
                screen.event(began.elapsed(), &what);
            }
        }
        screen.draw(&Frame { lab, view: &view, tally: &tally, rate, elapsed: began.elapsed() });
        before = Some((view, tally, drawn));
        while !stop_asked() && drawn.elapsed() < screen.period() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    false
}

/// What happened between two moments.
fn changes(old: &View, new: &View, old_tally: &Tally, tally: &Tally) -> Vec<String> {
    let mut events = Vec::new();
    if old.owner() != new.owner() {
        events.push(format!("owner of the VIP: {} -> {}", old.owner(), new.owner()));
    }
    for (was, is) in old.nodes.iter().zip(&new.nodes) {
        if was.state != is.state {
            events.push(format!("{}: {} -> {}", is.node.name, was.state, is.state));
        }
    }
    for (was, is) in old.backends.iter().zip(&new.backends) {
        if was.state != is.state {
            events.push(format!("backend {}: {} -> {}", is.name, was.state, is.state));
        }
    }
    if tally.errors > old_tally.errors {
        let more = tally.errors - old_tally.errors;
        events.push(format!("client: {more} errors, {}", tally.last_error.as_deref().unwrap_or("")));
    }
    events
}

/// What the client had acknowledged against what each database holds.
fn summary(lab: &Lab, tally: &Tally, length: Duration) -> (String, bool) {
    let mut text = format!(
        "\n{:.0} s: {} rows acknowledged, {} errors, {} connects, longest gap {} ms\n",
        length.as_secs_f64(),
        tally.acknowledged,
        tally.errors,
        tally.connects,
        tally.longest_closed_gap.as_millis()
    );
    let mut sound = tally.strange_duplicates == 0;
    for db in lab.databases() {
        match count(lab, &db, tally) {
            Ok(rows) => {
                sound &= rows == tally.acknowledged;
                let verdict = if rows == tally.acknowledged { "equal" } else { "NOT EQUAL" };
                text.push_str(&format!("{}: SELECT COUNT(*) = {rows}, {verdict}\n", db.name));
            }
            Err(e) => text.push_str(&format!("{}: cannot count: {e:#}\n", db.name)),
        }
    }
    if tally.unknown {
        text.push_str("the last row was sent but not acknowledged; it is not counted\n");
    }
    if let Some(error) = tally.last_error.as_ref().filter(|_| tally.errors > 0) {
        text.push_str(&format!("last error: {error}\n"));
    }
    (text, sound)
}

/// Acknowledged rows that a node holds, once it has applied all that the cluster committed.
pub fn count(lab: &Lab, db: &crate::lab::Node, tally: &Tally) -> Result<u64> {
    let server = Server::Socket(lab.db_socket(db));
    let statements = ["SET SESSION wsrep_sync_wait = 1", &tally.count_sql()];
    let rows = sql::query_within(COUNT_LIMIT, &server, ROOT, &statements)?;
    match rows.first().and_then(|row| row.first().cloned().flatten()) {
        Some(n) => Ok(n.parse()?),
        None => bail!("no count"),
    }
}
