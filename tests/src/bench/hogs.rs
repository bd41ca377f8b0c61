//! Ownership on a machine whose processors are taken by others: how often it changes, how late the daemon comes.
//!
//! All scenes are watched at the same time under the same load. The hogs are processes of our own (`viplb-bench hog`)
//! that end with the bench, however it ends.

use std::{
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use nix::{
    sys::{prctl::set_pdeathsig, signal::Signal},
    unistd::setsid,
};

use super::{
    arp::{ArpRecord, ArpWatch},
    blackout,
    failover::NAME,
    prober::{Prober, Protocol},
    row::Row,
    scene::{Product, Profile, Scene, program},
};
use crate::{console::Console, daemon};

/// Six on two processors.
const PER_PROCESSOR: usize = 3;
/// Between two questions of the ARP watch: the load is to be the hogs', not the watch's.
const ARP_PERIOD: Duration = Duration::from_millis(20);
/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(30);

/// Processes that do nothing but be busy; they end when this goes.
struct Hogs(Vec<Child>);

impl Hogs {
    fn start() -> Result<Self> {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let mut hogs = Hogs(Vec::new());
        for _ in 0..processors * PER_PROCESSOR {
            let mut command = Command::new(program()?);
            command.arg("hog").stdin(Stdio::null());
            // In a session of its own, lest a scheduler that shares by sessions takes all of them for one.
            let alone = || Ok(setsid().and_then(|_| set_pdeathsig(Signal::SIGKILL))?);
            // SAFETY: two system calls between fork and exec; they allocate nothing.
            unsafe { command.pre_exec(alone) };
            hogs.0.push(command.spawn()?);
        }
        Ok(hogs)
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        for hog in &mut self.0 {
            // Gone already is as good.
            let _ = hog.kill();
            let _ = hog.wait();
        }
    }
}

/// What a hog process does.
pub fn be_busy() -> ! {
    let mut n = 0_u64;
    loop {
        n = std::hint::black_box(n.wrapping_add(1));
    }
}

/// Watches the scenes for `length` while the hogs are busy.
pub fn run(scenes: &[Scene], length: Duration, peer: Option<&str>, console: &Console) -> Result<Vec<Row>> {
    for scene in scenes {
        scene.settle(console)?;
    }
    let watched = scenes.iter().map(|scene| Ok((ArpWatch::start(scene.lab(), ARP_PERIOD), scene.prober()?)));
    let mut watched: Vec<(ArpWatch, Prober)> = watched.collect::<Result<_>>()?;
    let hogs = Hogs::start()?;
    let count = hogs.0.len();
    let (began, mut said) = (Instant::now(), Instant::now());
    console.say(format!("{count} hogs for {} minutes", length.as_secs() / 60));
    while began.elapsed() < length {
        console.wait_for(Duration::from_secs(1), || Ok(false))?;
        watched.iter_mut().try_for_each(|(_, prober)| prober.check())?;
        if said.elapsed() >= PROGRESS {
            said = Instant::now();
            console.say(format!("hogs: {} s of {} s", began.elapsed().as_secs(), length.as_secs()));
        }
    }
    drop(hogs);
    let words = format!("under {count} CPU hogs for {} min", length.as_secs() / 60);
    let mut figures = Vec::new();
    for (scene, (arp, prober)) in scenes.iter().zip(watched) {
        let figure = Figure::of(scene, &arp.stop()?, prober)?;
        let Figure { owner_changes, blackout_ms, .. } = figure;
        let changed = format!("{owner_changes} ownership changes, longest blackout {blackout_ms:.0} ms");
        console.say(format!("{} {words}: {changed}", scene.title()));
        figures.push(figure);
    }
    Ok(rows(&figures, &words, peer))
}

/// Of one scene.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Figure {
    product: Product,
    profile: Profile,
    owner_changes: f64,
    blackout_ms: f64,
    /// The worst of both nodes; keepalived does not tell.
    lateness_ms: f64,
}

impl Figure {
    fn of(scene: &Scene, arp: &ArpRecord, prober: Prober) -> Result<Self> {
        let (record, end) = prober.stop()?;
        if arp.samples() == 0 {
            bail!("{}: no ARP request was sent", scene.title());
        }
        let longest = |p| blackout::longest(record.of(p), Duration::ZERO, end, end);
        let blackout = Protocol::ALL.into_iter().map(longest).max().unwrap_or_default();
        let mut lateness_ms = f64::NAN;
        if scene.product == Product::Viplb {
            for name in ["h1", "h2"] {
                let status = daemon::status(scene.lab(), &scene.node(name)?)?;
                lateness_ms =
                    lateness_ms.max(status["vrrp"][0]["lateness_max_ms"].as_f64().unwrap_or(f64::NAN));
            }
        }
        Ok(Figure {
            product: scene.product,
            profile: scene.profile,
            owner_changes: arp.owner_changes() as f64,
            blackout_ms: (blackout.as_secs_f64() * 1000.0).round(),
            lateness_ms,
        })
    }
}

/// Ownership has a target with the default parameters: the fast ones are not for such a machine.
fn rows(figures: &[Figure], words: &str, peer: Option<&str>) -> Vec<Row> {
    let mut rows = Vec::new();
    for ours in figures.iter().filter(|figure| figure.product == Product::Viplb) {
        let theirs = figures.iter().find(|f| f.product == Product::Keepalived && f.profile == ours.profile);
        let row = |figure: &str, unit: &str, pick: fn(&Figure) -> f64| {
            let row =
                Row::sum(NAME, format!("{}: {words}, {figure}", ours.profile.words()), unit, pick(ours), 1);
            match (peer, theirs.map(pick)) {
                (Some(peer), Some(value)) if !value.is_nan() => row.beside_sum(peer, value),
                _ => row,
            }
        };
        let changes = row("ownership changes", "times", |figure| figure.owner_changes);
        rows.push(if ours.profile == Profile::Default { changes.at_most(0.0) } else { changes });
        rows.push(row("longest blackout", "ms", |figure| figure.blackout_ms));
        rows.push(row("worst lateness of the VRRP thread", "ms", |figure| figure.lateness_ms));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_default_parameters_promise_no_change_and_each_has_its_own_peer() {
        let figure = |product, profile, owner_changes| {
            let lateness_ms = if product == Product::Viplb { 3.0 } else { f64::NAN };
            Figure { product, profile, owner_changes, blackout_ms: 10.0, lateness_ms }
        };
        let figures = [
            figure(Product::Viplb, Profile::Default, 1.0),
            figure(Product::Keepalived, Profile::Default, 2.0),
            figure(Product::Viplb, Profile::Fast, 3.0),
            figure(Product::Keepalived, Profile::Fast, 4.0),
        ];
        let rows = rows(&figures, "busy", Some("other"));
        assert_eq!(rows.len(), 6);
        assert_eq!((rows[0].value, rows[0].ok, rows[0].peers["other"]), (1.0, false, 2.0));
        assert!(rows[2].peers.is_empty(), "keepalived tells no lateness");
        assert_eq!((rows[3].value, rows[3].ok, rows[3].peers["other"]), (3.0, true, 4.0));
    }
}
