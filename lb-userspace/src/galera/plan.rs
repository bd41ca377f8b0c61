//! How to start a stopped cluster again: which node first, what to do on each, in which order, and when not to.
//!
//! Pure: from what was collected of all nodes ([`Collected`]) to a [`Plan`] or a [`Refusal`]. It never advises to
//! bootstrap beside a living primary component, and without `force` nothing by which a transaction could be lost.

use std::collections::BTreeSet;

use serde::Serialize;

use super::files::{Collected, Position, is_zero};

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The cluster's UUID.
    pub cluster: String,
    /// What was found at each node, in the given order.
    pub nodes: Vec<Finding>,
    /// To be done one after the other.
    pub steps: Vec<Step>,
    /// What is lost by it, if it was forced.
    pub losses: Vec<String>,
    /// What else one should know.
    pub notes: Vec<String>,
}

/// What was found at a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its name.
    pub node: String,
    /// Number of its last transaction, if it is known.
    pub seqno: Option<i64>,
    /// Where that comes from.
    pub source: &'static str,
    /// Whether it was the last to leave.
    pub safe_to_bootstrap: bool,
}

/// One step; the next follows when the nodes of this one are Synced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Where, by name; several at the same time.
    pub nodes: Vec<String>,
    /// What.
    pub action: Action,
    /// Why, or what to expect.
    pub why: String,
}

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Write `safe_to_bootstrap: 1` into `grastate.dat`.
    MarkSafe,
    /// Start it as the first of the cluster.
    Bootstrap,
    /// Start it as always.
    Start,
    /// It runs: make its component the primary one.
    MakePrimary,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// What stands in the way.
    pub reasons: Vec<String>,
    /// What to do instead.
    pub instead: Vec<String>,
    /// Whether `--force` gives a plan.
    pub can_be_forced: bool,
}

/// Plans the start of these nodes, listed in order of preference. `expected` is how many the cluster has.
pub fn plan(nodes: &[Collected], expected: Option<usize>, force: bool) -> Result<Plan, Refusal> {
    refuse_beside_primary(nodes)?;
    let cluster = cluster_of(nodes).ok_or_else(|| Refusal {
        reasons: vec!["no node has ever been in a cluster: no grastate.dat has a UUID".into()],
        instead: vec!["bootstrap the node whose data shall be the cluster's".into()],
        can_be_forced: false,
    })?;
    let losses = losses(nodes, &cluster, expected);
    if !losses.is_empty() && !force {
        let (reasons, instead) = losses.into_iter().map(|l| (l.reason, l.instead)).unzip();
        return Err(Refusal { reasons, instead, can_be_forced: true });
    }
    let steps = match running_steps(nodes, &cluster)? {
        Some(steps) => steps,
        None if losses.is_empty() && remember_one_view(nodes) => vec![recover_step(nodes)],
        None => bootstrap_steps(nodes, &cluster)?,
    };
    Ok(Plan {
        nodes: nodes.iter().map(finding).collect(),
        steps,
        losses: losses.into_iter().map(|l| l.loss).collect(),
        notes: notes(nodes, &cluster),
        cluster,
    })
}

fn refuse_beside_primary(nodes: &[Collected]) -> Result<(), Refusal> {
    let is_primary =
        |n: &&Collected| n.cluster_status.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("primary"));
    let primary: Vec<&str> = nodes.iter().filter(is_primary).map(|n| n.name.as_str()).collect();
    if !primary.is_empty() {
        let others: Vec<&str> = nodes.iter().filter(|n| !n.running).map(|n| n.name.as_str()).collect();
        let join = match others.as_slice() {
            [] => "nothing needs to be started".to_owned(),
            some => format!("start the others as always, one after the other: {}", some.join(", ")),
        };
        return Err(Refusal {
            reasons: vec![format!(
                "{} in a primary component: a second one would split the cluster",
                is_or_are(&primary)
            )],
            instead: vec![join],
            can_be_forced: false,
        });
    }
    let silent = |n: &&Collected| n.running && n.cluster_status.is_none();
    let silent: Vec<&str> = nodes.iter().filter(silent).map(|n| n.name.as_str()).collect();
    if !silent.is_empty() {
        return Err(Refusal {
            reasons: vec![format!(
                "{} running and not telling its state: it may be primary",
                is_or_are(&silent)
            )],
            instead: vec!["let the collector log in (CLIENT), or stop the server, and collect again".into()],
            can_be_forced: false,
        });
    }
    Ok(())
}

fn is_or_are(names: &[&str]) -> String {
    format!("{} {}", names.join(", "), if names.len() == 1 { "is" } else { "are" })
}

/// Where a node's last transaction is known from.
fn position(n: &Collected) -> Option<(Position, &'static str)> {
    if n.running {
        return n.committed.clone().map(|p| (p, "wsrep_last_committed"));
    }
    let written = n.grastate.as_ref().filter(|g| g.seqno >= 0 && !is_zero(&g.uuid));
    let written = written.map(|g| (Position { uuid: g.uuid.clone(), seqno: g.seqno }, "grastate.dat"));
    let recovered = n.recovered.clone().filter(|p| p.seqno >= 0 && !is_zero(&p.uuid));
    written.or_else(|| recovered.map(|p| (p, "--wsrep-recover")))
}

/// The UUID of the cluster that a node was last in.
fn uuid(n: &Collected) -> Option<String> {
    let written = n.grastate.as_ref().map(|g| g.uuid.clone()).filter(|uuid| !is_zero(uuid));
    position(n).map(|(p, _)| p.uuid).or(written)
}

/// The cluster that most nodes were in; of two, the one of the node named first.
fn cluster_of(nodes: &[Collected]) -> Option<String> {
    let all: Vec<String> = nodes.iter().filter_map(uuid).collect();
    let count = |uuid: &String| all.iter().filter(|other| *other == uuid).count();
    all.iter().rev().max_by_key(|uuid| count(uuid)).cloned()
}

fn seqno_in(n: &Collected, cluster: &str) -> Option<i64> {
    position(n).filter(|(p, _)| p.uuid == cluster).map(|(p, _)| p.seqno)
}

fn highest(nodes: &[Collected], cluster: &str) -> i64 {
    nodes.iter().filter_map(|n| seqno_in(n, cluster)).max().unwrap_or(-1)
}

/// Something that may cost transactions.
struct Loss {
    /// Why not without force.
    reason: String,
    /// What would avoid it.
    instead: String,
    /// What may be lost.
    loss: String,
}

fn losses(nodes: &[Collected], cluster: &str, expected: Option<usize>) -> Vec<Loss> {
    let known = highest(nodes, cluster);
    let mut losses: Vec<Loss> = nodes.iter().filter_map(|n| loss_of(n, cluster, known)).collect();
    losses.extend(missing(nodes, cluster, expected).map(|(reason, instead)| Loss {
        reason,
        instead: instead.into(),
        loss: format!("transactions after {known} that only a missing node has"),
    }));
    losses
}

/// What a collected node may lose.
fn loss_of(n: &Collected, cluster: &str, known: i64) -> Option<Loss> {
    let name = &n.name;
    match (uuid(n), seqno_in(n, cluster)) {
        // Never a member, or its state transfer was cut short: it has nothing of its own.
        (None, _) if n.grastate.is_some() => None,
        (None, _) => Some(Loss {
            reason: format!("{name}: nothing is known of it: there is no grastate.dat"),
            instead: format!("run the collector on {name} (`viplb galera restart-plan --collector`)"),
            loss: format!("transactions after {known} that only {name} has"),
        }),
        (Some(other), _) if other != cluster => {
            let last = position(n).map_or_else(|| "?".to_owned(), |(p, _)| p.seqno.to_string());
            Some(Loss {
                reason: format!("{name} was in another cluster: {other}, not {cluster}"),
                instead: format!(
                    "find out which of the two has the data, and plan without {name} or the others"
                ),
                loss: format!("transactions 1..{last} of {name}, whose data are replaced by a full copy"),
            })
        }
        (Some(_), None) => Some(Loss {
            reason: format!("{name} ended without writing its position, and none was recovered"),
            instead: format!("run `mariadbd --wsrep-recover` on {name} (the collector does)"),
            loss: format!("transactions after {known} that only {name} has"),
        }),
        (Some(_), Some(_)) => None,
    }
}

/// A sign that a node of the cluster was not collected, and what to do about it. Without a sign that all were,
/// nothing is taken for granted.
fn missing(nodes: &[Collected], cluster: &str, expected: Option<usize>) -> Option<(String, &'static str)> {
    let collect = "collect from every node of the cluster and name all directories";
    if let Some(expected) = expected.filter(|e| *e > nodes.len()) {
        let lacking = expected - nodes.len();
        return Some((format!("{lacking} of {expected} nodes are missing"), collect));
    }
    // A node that ended earlier remembers an older view, with identities that others had before they were restarted.
    let all = || nodes.iter().filter_map(|n| n.view.as_ref());
    let latest = all().map(|v| v.number).max();
    let views = || all().filter(|v| Some(v.number) == latest);
    let collected: BTreeSet<&String> = views().map(|v| &v.my_uuid).collect();
    let unknown =
        views().flat_map(|v| &v.members).filter(|m| !collected.contains(m)).collect::<BTreeSet<_>>().len();
    // One that has lost its file may be among them.
    let without_view = nodes.iter().filter(|n| n.view.is_none()).count();
    if unknown > without_view {
        let lacking = unknown - without_view;
        return Some((
            format!("the last view had {lacking} members of which nothing was collected"),
            collect,
        ));
    }
    let last = highest(nodes, cluster);
    let left_last = |n: &Collected| is_marked(n) && seqno_in(n, cluster) == Some(last);
    if expected.is_some() || latest.is_some() || nodes.iter().any(left_last) {
        return None;
    }
    let stopped_in_order = |n: &Collected| !n.running && n.grastate.as_ref().is_some_and(|g| g.seqno >= 0);
    if nodes.iter().all(stopped_in_order) && !nodes.iter().any(is_marked) {
        return Some(("all were stopped in order, and none of them was the last to leave".into(), collect));
    }
    let reason = "nothing here tells whether these are all: no last view, and no last to leave".into();
    Some((reason, "add `--nodes N` with the number of nodes that the cluster has"))
}

/// Whether it was the last to leave.
fn is_marked(n: &Collected) -> bool {
    n.grastate.as_ref().is_some_and(|g| g.safe_to_bootstrap)
}

/// Steps while servers run outside of a primary component.
fn running_steps(nodes: &[Collected], cluster: &str) -> Result<Option<Vec<Step>>, Refusal> {
    let Some(best) = first_highest(nodes.iter().filter(|n| n.running), cluster) else { return Ok(None) };
    let last = highest(nodes, cluster);
    if seqno_in(best, cluster) < Some(last) {
        let names: Vec<&str> = nodes.iter().filter(|n| n.running).map(|n| n.name.as_str()).collect();
        return Err(Refusal {
            reasons: vec![format!(
                "a stopped node has transactions up to {last}, later than any running one"
            )],
            instead: vec![format!("stop {} and collect again", names.join(", "))],
            can_be_forced: false,
        });
    }
    let why = format!("it runs, is not primary, and has every transaction up to {last}");
    let mut steps = vec![Step { nodes: vec![best.name.clone()], action: Action::MakePrimary, why }];
    steps.extend(start_steps(nodes.iter().filter(|n| !n.running), cluster, last));
    Ok(Some(steps))
}

/// Whether all nodes crashed out of one and the same view, whose members they are: then they find together again.
fn remember_one_view(nodes: &[Collected]) -> bool {
    let Some(first) = nodes.first().and_then(|n| n.view.as_ref()) else { return false };
    let of_it = |n: &Collected| {
        n.view.as_ref().is_some_and(|v| v.view_id == first.view_id && v.members == first.members)
    };
    let own: BTreeSet<&String> = nodes.iter().filter_map(|n| Some(&n.view.as_ref()?.my_uuid)).collect();
    let crashed = |n: &Collected| n.grastate.as_ref().is_some_and(|g| g.seqno < 0);
    nodes.iter().all(|n| !n.running && crashed(n) && of_it(n))
        && own.len() == nodes.len()
        && own.len() == first.members.len()
}

fn recover_step(nodes: &[Collected]) -> Step {
    Step {
        nodes: nodes.iter().map(|n| n.name.clone()).collect(),
        action: Action::Start,
        why: "all remember the same view and form it again by themselves (pc.recovery), when all are started within a \
              minute or so; if they do not, plan again without their gvwstate.dat"
            .into(),
    }
}

fn bootstrap_steps(nodes: &[Collected], cluster: &str) -> Result<Vec<Step>, Refusal> {
    let last = highest(nodes, cluster);
    let safe = |n: &&Collected| n.grastate.as_ref().is_some_and(|g| g.safe_to_bootstrap);
    let marked =
        first_highest(nodes.iter().filter(safe), cluster).filter(|n| seqno_in(n, cluster) == Some(last));
    let Some(first) = marked.or_else(|| first_highest(nodes.iter(), cluster)) else {
        return Err(Refusal {
            reasons: vec!["of no node the last transaction is known".into()],
            instead: vec!["run `mariadbd --wsrep-recover` on each (the collector does)".into()],
            can_be_forced: false,
        });
    };
    let mut steps = Vec::new();
    let at = || vec![first.name.clone()];
    if marked.is_none() {
        let why = "the server refuses to bootstrap a node that is not marked as the last to leave".into();
        steps.push(Step { nodes: at(), action: Action::MarkSafe, why });
    }
    let why = match marked {
        Some(_) => format!("it was the last to leave and has every transaction, up to {last}"),
        None => format!("no node has later transactions than its {last}"),
    };
    steps.push(Step { nodes: at(), action: Action::Bootstrap, why });
    steps.extend(start_steps(nodes.iter().filter(|n| n.name != first.name), cluster, last));
    Ok(steps)
}

/// The node with the highest position, the first of several.
fn first_highest<'n>(nodes: impl Iterator<Item = &'n Collected>, cluster: &str) -> Option<&'n Collected> {
    let known = nodes.filter_map(|n| Some((n, seqno_in(n, cluster)?)));
    known
        .fold(None, |best: Option<(&Collected, i64)>, n| best.filter(|b| b.1 >= n.1).or(Some(n)))
        .map(|(n, _)| n)
}

/// The rest, one after the other; the nearest first, so that the least is copied while one donor is all there is.
fn start_steps<'n>(nodes: impl Iterator<Item = &'n Collected>, cluster: &str, last: i64) -> Vec<Step> {
    let mut rest: Vec<_> = nodes.map(|n| (n, seqno_in(n, cluster))).collect();
    rest.sort_by_key(|(_, seqno)| std::cmp::Reverse(*seqno));
    let why = |seqno: Option<i64>| match seqno {
        Some(seqno) if seqno == last => "it has every transaction: next to nothing is transferred".to_owned(),
        Some(seqno) => format!(
            "it lacks transactions {}..{last}: an incremental transfer if the donor's wsrep_local_cached_downto is at \
             most {}, else a full copy",
            seqno + 1,
            seqno + 1
        ),
        None => "it gets a full copy, which blocks or slows its donor".to_owned(),
    };
    rest.into_iter()
        .map(|(n, seqno)| Step { nodes: vec![n.name.clone()], action: Action::Start, why: why(seqno) })
        .collect()
}

fn finding(n: &Collected) -> Finding {
    let position = position(n);
    Finding {
        node: n.name.clone(),
        seqno: position.as_ref().map(|(p, _)| p.seqno),
        source: position.map_or("unknown", |(_, source)| source),
        safe_to_bootstrap: is_marked(n),
    }
}

fn notes(nodes: &[Collected], cluster: &str) -> Vec<String> {
    let last = highest(nodes, cluster);
    let marked_behind = |n: &&Collected| {
        n.grastate.as_ref().is_some_and(|g| g.safe_to_bootstrap)
            && seqno_in(n, cluster).is_some_and(|s| s < last)
    };
    let note = |n: &Collected| {
        format!(
            "{} is marked safe_to_bootstrap, but lacks transactions up to {last}: it is not the one",
            n.name
        )
    };
    nodes.iter().filter(marked_behind).map(note).collect()
}

#[cfg(test)]
mod tests;
