//! What trackers say, and what that makes of each router's priority, without I/O.
//!
//! Readings come from the tasks of `track`, backends from the model itself. The control loop hands what
//! [`Tracking::changes`] returns to the election. Members of a sync group share their trackers: with weights of their own
//! they would be elected apart from each other.

use std::time::SystemTime;

use super::model::places_before;
use crate::{
    api::snapshot,
    config::model::{self as config, Config, TrackKind, TrackUse},
    track::{
        Event, Reading,
        state::{Effect, Quorum, effect, tracked},
    },
    vrrp::Tracked,
};

/// All trackers and routers of a node.
pub struct Tracking {
    tracks: Vec<Track>,
    routers: Vec<Router>,
}

struct Track {
    name: String,
    kind: TrackKind,
    /// Of `backends`.
    quorum: Option<Quorum>,
    /// Before the first word: what it counts as until then.
    reading: Reading,
    heard: bool,
    cause: String,
    since: SystemTime,
}

struct Router {
    name: String,
    base: u8,
    uses: Vec<TrackUse>,
    /// Which members of its sync group, itself at least, have services: whether one of each has a backend that this
    /// node reaches.
    serving: Vec<(usize, bool)>,
    /// Whether the cluster is the witness in a partition.
    witness: bool,
    told: Option<Tracked>,
}

/// Priority of a router none of whose backends is reached: any other that has one is better.
const NOT_SERVING: u8 = 1;

impl Tracking {
    /// Nothing heard yet.
    pub fn new(config: &Config, now: SystemTime) -> Self {
        let track = |t: &config::Track| Track {
            name: t.name.clone(),
            kind: t.kind.clone(),
            quorum: match &t.kind {
                TrackKind::Backends(b) => Some(Quorum::new(b.quorum, b.hysteresis)),
                _ => None,
            },
            reading: unheard(&t.kind),
            heard: false,
            cause: String::new(),
            since: now,
        };
        let router = |(i, r): (usize, &config::VirtualRouter)| Router {
            name: r.name.clone(),
            base: r.priority,
            uses: uses(config, i),
            serving: members(config, i)
                .filter(|m| config.services.iter().any(|s| s.router == Some(*m)))
                .map(|m| (m, true))
                .collect(),
            witness: members(config, i).any(|m| config.vrrp[m].witness),
            told: None,
        };
        Self {
            tracks: config.tracks.iter().map(track).collect(),
            routers: config.vrrp.iter().enumerate().map(router).collect(),
        }
    }

    /// The trackers of a new configuration, going on from these. Virtual routers are known by their names.
    pub fn follow(&self, old: &Config, config: &Config, now: SystemTime) -> Self {
        let mut next = Self::new(config, now);
        for (track, new) in next.tracks.iter_mut().zip(&config.tracks) {
            let same = old.tracks.iter().position(|t| is_same((old, t), (config, new)));
            if let Some(before) = same.map(|i| &self.tracks[i]) {
                (track.quorum, track.reading, track.heard) = (before.quorum, before.reading, before.heard);
                (track.cause, track.since) = (before.cause.clone(), before.since);
            }
        }
        let places = places_before(old, config);
        for (router, place) in next.routers.iter_mut().zip(&places) {
            router.told = place.and_then(|place| self.routers[place].told);
            for (member, serves) in &mut router.serving {
                *serves = places[*member].is_none_or(|place| self.said_of(place));
            }
        }
        next
    }

    /// Whether the services of a router were last said to be of use.
    fn said_of(&self, router: usize) -> bool {
        let said = self.routers[router].serving.iter().find(|(member, _)| *member == router);
        said.is_none_or(|(_, serves)| *serves)
    }

    /// Takes in the word of a tracker.
    pub fn on_event(&mut self, event: &Event, now: SystemTime) {
        let t = &mut self.tracks[event.track];
        t.cause.clone_from(&event.cause);
        if t.heard && t.reading == event.reading {
            return;
        }
        // A good first word is what everybody expects.
        if t.reading != event.reading {
            let why = if t.cause.is_empty() { String::new() } else { format!(": {}", t.cause) };
            tracing::info!("track {}: {}{why}", t.name, word(event.reading));
        }
        (t.reading, t.heard, t.since) = (event.reading, true, now);
    }

    /// Takes in how many backends of a service are up. Asked only once all of them have been checked.
    pub fn on_backends(&mut self, service: usize, up: u32, now: SystemTime) {
        for track in 0..self.tracks.len() {
            let TrackKind::Backends(b) = self.tracks[track].kind else { continue };
            let Some(quorum) = self.tracks[track].quorum.as_mut().filter(|_| b.service == service) else {
                continue;
            };
            let reading = Reading::from(quorum.take(up));
            let cause =
                if up < b.quorum { format!("{up} of {} backends up", b.quorum) } else { String::new() };
            self.on_event(&Event { track, reading, cause }, now);
        }
    }

    /// Takes in whether this node reaches a backend of a router's services that is of use. A node that reaches none can do nothing
    /// for clients: it takes the addresses from nobody, and yields them to a node that reaches one (the cluster is the
    /// witness of a partition). While nobody reaches any, priorities are alike and the owner stays.
    pub fn on_serving(&mut self, router: usize, serving: bool) {
        for r in &mut self.routers {
            for (_, serves) in r.serving.iter_mut().filter(|(member, _)| *member == router) {
                *serves = serving;
            }
        }
    }

    /// Whether a router can do something for clients.
    pub fn is_serving(&self, router: usize) -> bool {
        let serving = &self.routers[router].serving;
        serving.is_empty() || serving.iter().any(|(_, serves)| *serves)
    }

    /// Whether every tracker that has something to say at once has said it.
    pub fn has_heard_prompt_ones(&self) -> bool {
        self.tracks.iter().all(|t| t.heard || !crate::track::is_prompt(&t.kind))
    }

    /// What counts for a router now.
    pub fn of(&self, router: usize) -> Tracked {
        let r = &self.routers[router];
        let effects = r.uses.iter().map(|u| effect(u, self.tracks[u.track].reading));
        let (priority, fault) = tracked(r.base, effects);
        let serving = self.is_serving(router);
        Tracked {
            priority: if serving { priority } else { NOT_SERVING },
            fault,
            blind: r.witness && !serving,
        }
    }

    /// What has changed for the election since this was last asked; at first, what is not as the file says.
    pub fn changes(&mut self) -> Vec<(usize, Tracked)> {
        let mut changes = Vec::new();
        for i in 0..self.routers.len() {
            let now = self.of(i);
            let r = &mut self.routers[i];
            let before = r.told.unwrap_or(Tracked { priority: r.base, fault: false, blind: false });
            if r.told.replace(now) == Some(now) || before == now {
                continue;
            }
            if before.priority != now.priority {
                tracing::info!("vrrp {}: priority {} → {}", r.name, before.priority, now.priority);
            }
            changes.push((i, now));
        }
        changes
    }

    /// The names of the trackers that keep a router out of the election.
    pub fn faults(&self, router: usize) -> Vec<&str> {
        let uses = self.routers[router].uses.iter();
        let faulty = uses.filter(|u| effect(u, self.tracks[u.track].reading) == Effect::Fault);
        faulty.map(|u| self.tracks[u.track].name.as_str()).collect()
    }

    /// A router's trackers, as they are shown.
    pub fn shown(&self, router: usize, unix: impl Fn(SystemTime) -> u64) -> Vec<snapshot::Track> {
        let shown = |u: &TrackUse| {
            let t = &self.tracks[u.track];
            snapshot::Track {
                name: t.name.clone(),
                kind: kind(&t.kind).into(),
                state: if t.heard { word(t.reading) } else { "unknown".into() },
                since: unix(t.since),
                cause: t.cause.clone(),
                weight: u.weight,
                reverse: u.reverse,
                effect: match effect(u, t.reading) {
                    Effect::Add(0) => "none".into(),
                    Effect::Add(weight) => format!("{weight:+}"),
                    Effect::Fault => "fault".into(),
                },
            }
        };
        self.routers[router].uses.iter().map(shown).collect()
    }
}

/// Whether both watch the same under the same name.
pub(super) fn is_same((old, a): (&Config, &config::Track), (new, b): (&Config, &config::Track)) -> bool {
    let service = |config: &Config, kind: &TrackKind| match kind {
        TrackKind::Backends(backends) => Some(config.services[backends.service].name.clone()),
        _ => None,
    };
    let kinds = match (&a.kind, &b.kind) {
        (TrackKind::Backends(a), TrackKind::Backends(b)) => {
            config::Backends { service: b.service, ..*a } == *b
        }
        (a, b) => a == b,
    };
    a.name == b.name && kinds && service(old, &a.kind) == service(new, &b.kind)
}

/// The router and the other members of its sync group.
fn members(config: &Config, router: usize) -> impl Iterator<Item = usize> + '_ {
    let group = config.groups.iter().find(move |g| g.members.contains(&router));
    let others = group.into_iter().flat_map(|g| &g.members).copied().filter(move |m| *m != router);
    std::iter::once(router).chain(others)
}

/// A router's own trackers, then those of the other members of its group, each with the same meaning once.
fn uses(config: &Config, router: usize) -> Vec<TrackUse> {
    let mut uses = config.vrrp[router].track.clone();
    let group = config.groups.iter().find(|g| g.members.contains(&router));
    for other in group.into_iter().flat_map(|g| &g.members).filter(|m| **m != router) {
        for used in &config.vrrp[*other].track {
            if !uses.contains(used) {
                uses.push(*used);
            }
        }
    }
    uses
}

/// What a tracker counts as before its first word.
fn unheard(kind: &TrackKind) -> Reading {
    match kind {
        TrackKind::Script(script) => script.init.into(),
        TrackKind::File(_) => Reading::Value(0),
        _ => Reading::Good,
    }
}

fn kind(kind: &TrackKind) -> &'static str {
    match kind {
        TrackKind::Interface(_) => "interface",
        TrackKind::Script(_) => "script",
        TrackKind::Process(_) => "process",
        TrackKind::File(_) => "file",
        TrackKind::Backends(_) => "backends",
        TrackKind::Peer(_) => "peer",
    }
}

fn word(reading: Reading) -> String {
    match reading {
        Reading::Good => "good".into(),
        Reading::Bad => "bad".into(),
        Reading::Value(value) => value.to_string(),
    }
}

#[cfg(test)]
mod tests;
