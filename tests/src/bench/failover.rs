//! `bench failover`: how long a client is without an answer when something happens to the owner, beside keepalived.
//!
//! All scenes are up at the same time and take turns, event by event, so that whatever else the machine does meets all of
//! them. Each cycle strikes h1, waits until h2 serves, undoes it, and waits until h1 owns and serves again.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::{
    arp::{self, ArpWatch},
    blackout,
    event::Event,
    hogs,
    prober::{Protocol, Record},
    report::{Arp, Blackouts, Outcome, rows},
    row::Row,
    scene::{Product, Profile, Scene},
};
use crate::{console::Console, proc, vip};

/// Of the bench in its rows.
pub const NAME: &str = "failover";
/// How long GARPs are waited for after the failback of a frozen node: the second burst follows the first by 5 s.
const GARP_WATCH: Duration = Duration::from_secs(6);

/// Time without an answer at each fault of the owner and at its failback, beside keepalived
#[derive(Debug, Args)]
pub struct Options {
    /// How often each event is measured (partitions twice as often); 0 with --hogs measures the hogs alone
    #[arg(long, default_value_t = 10)]
    pub runs: u16,
    /// Only these events
    #[arg(long, value_enum, value_delimiter = ',', value_name = "EVENT,…")]
    pub only: Vec<Event>,
    /// Only these parameters
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PROFILE,…")]
    pub profile: Vec<Profile>,
    /// Without keepalived beside it
    #[arg(long)]
    pub no_peers: bool,
    /// Ownership under CPU hogs as well: three busy processes per processor
    #[arg(long)]
    pub hogs: bool,
    /// How long the hogs go on
    #[arg(long, default_value_t = 10, value_name = "M", value_parser = clap::value_parser!(u16).range(1..))]
    pub minutes: u16,
}

impl Options {
    fn events(&self) -> Vec<Event> {
        let chosen = |event: &Event| self.runs > 0 && (self.only.is_empty() || self.only.contains(event));
        Event::ALL.into_iter().filter(chosen).collect()
    }

    fn profiles(&self) -> Vec<Profile> {
        let chosen = |profile: &Profile| self.profile.is_empty() || self.profile.contains(profile);
        [Profile::Default, Profile::Fast].into_iter().filter(chosen).collect()
    }
}

/// Runs the bench in labs whose prefixes begin with `prefix`.
pub fn run(options: &Options, prefix: &str, console: &Console) -> Result<Vec<Row>> {
    if options.runs == 0 && !options.hogs {
        bail!("--runs 0 without --hogs leaves nothing to measure");
    }
    let peer = if options.no_peers { None } else { Some(peer_name()?) };
    let mut scenes = Vec::new();
    for profile in options.profiles() {
        for product in [Product::Viplb, Product::Keepalived] {
            if product == Product::Viplb || peer.is_some() {
                let prefix = format!("{prefix}{}", scenes.len());
                scenes.push(Scene::raise(&prefix, product, profile, console)?);
                console.say(format!("{}: raised", scenes[scenes.len() - 1].title()));
            }
        }
    }
    let outcomes = take_turns(options, &mut scenes, console)?;
    let mut rows = match outcomes.is_empty() {
        true => Vec::new(),
        false => rows(&outcomes, &options.profiles(), &options.events(), peer.as_deref()),
    };
    if options.hogs {
        let length = Duration::from_secs(60 * u64::from(options.minutes));
        rows.extend(hogs::run(&scenes, length, peer.as_deref(), console)?);
    }
    Ok(rows)
}

/// keepalived as a peer is called, with what serves in its place.
fn peer_name() -> Result<String> {
    let lacking = "no `keepalived` found to compare with: install the package keepalived, or give --no-peers";
    let program = proc::which("keepalived").context(lacking)?;
    let out = Command::new(program).arg("--version").output().context(lacking)?;
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    let version = text.split_whitespace().find_map(|word| word.strip_prefix('v'));
    Ok(format!("keepalived {} + local echo", version.unwrap_or("of unknown version")))
}

fn take_turns(options: &Options, scenes: &mut [Scene], console: &Console) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for run in 0..options.runs {
        for event in options.events() {
            for repeat in 0..event.repeats() {
                for scene in &mut *scenes {
                    // Another phase of the advert interval each time, evenly spread.
                    let turn = usize::from(run) * event.repeats() + repeat;
                    let phase = turn as f64 / (usize::from(options.runs) * event.repeats()) as f64;
                    let outcome = measured(scene, event, phase, console)?;
                    console.say(format!("run {}/{}  {}", run + 1, options.runs, outcome.line()));
                    outcomes.push(outcome);
                }
            }
        }
    }
    Ok(outcomes)
}

/// One cycle. A scene that does not come back to order is told as such and raised anew.
fn measured(scene: &mut Scene, event: Event, phase: f64, console: &Console) -> Result<Outcome> {
    match cycle(scene, event, phase, console) {
        Err(e) if console.go_on().is_ok() => {
            console.say(format!("{}, {}: {e:#}", scene.title(), event.words()[0]));
            scene.raise_again(console)?;
            Ok(Outcome::failed(scene, event))
        }
        other => other,
    }
}

/// Strikes and cures once, and measures both. Also the body of the ownership tests.
pub fn cycle(scene: &Scene, event: Event, phase: f64, console: &Console) -> Result<Outcome> {
    let advert_int = scene.profile.advert_int(scene.product);
    scene.settle(console)?;
    let mut prober = scene.prober()?;
    scene.served(&mut prober, console)?;
    let arp = (event == Event::Freeze).then(|| ArpWatch::start(scene.lab(), arp::PERIOD));
    rest(advert_int.mul_f64(phase), console)?;

    let struck = prober.now();
    event.strike(scene, console)?;
    // A frozen keepalived's kernel goes on answering beside the new owner, and would never be alone.
    scene.moved_to("h2", scene.product == Product::Viplb, &mut prober, console)?;
    rest(event.outlasts_takeover_by().max(advert_int), console)?;
    let (cured, resumed) = (prober.now(), arp.as_ref().map(ArpWatch::now));
    event.cure(scene)?;
    // A client that is left in the dark by an owner that is back is a result; nodes that do not sort themselves out are not.
    if !scene.moved_to("h1", true, &mut prober, console)? && vip::owners(scene.lab())? != ["h1"] {
        bail!("h1 is not the only owner again");
    }
    rest(if arp.is_some() { GARP_WATCH } else { advert_int * 2 }, console)?;

    let (record, end) = prober.stop()?;
    let arp = match (arp, resumed) {
        (Some(watch), Some(resumed)) => Some(Arp::of(&watch.stop()?, resumed)),
        _ => None,
    };
    Ok(Outcome {
        product: scene.product,
        profile: scene.profile,
        event,
        figures: Some([blackouts(&record, struck, cured, end), blackouts(&record, cured, end, end)]),
        arp,
        latest: Protocol::ALL.into_iter().map(|p| blackout::latest(record.of(p))).max().unwrap_or_default(),
        own_lateness: record.own_lateness,
    })
}

fn blackouts(record: &Record, from: Duration, to: Duration, end: Duration) -> Blackouts {
    Blackouts(Protocol::ALL.map(|protocol| {
        let probes = record.of(protocol);
        (!probes.is_empty()).then(|| blackout::longest(probes, from, to, end))
    }))
}

/// A wait that Ctrl-C ends.
fn rest(length: Duration, console: &Console) -> Result<()> {
    console.wait_for(length, || Ok(false)).map(drop)
}
