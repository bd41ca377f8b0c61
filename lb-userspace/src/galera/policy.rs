//! From what all nodes of a service last said to what each may take: the rules that no single node can apply alone.
//!
//! Pure. `health::pool` calls [`judge`] after every event with all nodes at once; the same observations give the same
//! verdicts in whatever order they came. The component that the majority of the observed nodes is in counts; a node
//! with another cluster's UUID, or left in an older or smaller view of the same one, is out although it calls itself
//! primary. Views do not change everywhere at the same moment: for [`GRACE`] after a new one was first seen, a node
//! with an older one counts as on its way to it.

use std::{cmp::Reverse, collections::BTreeMap, fmt, time::Duration, time::Instant};

use super::observation::{Seen, view};
use crate::config::model::{Donor, Galera, Role};

/// How long nodes may take to get from one view to the next. Galera installs it in all of them at once; each shows
/// it when it has applied what came before.
pub const GRACE: Duration = Duration::from_secs(2);

/// A node as the policy sees it.
#[derive(Debug, Clone, Copy)]
pub struct Node<'s> {
    /// What it last said, if it answers.
    pub seen: Option<&'s Seen>,
    /// Whether it takes connections if the policy lets it: it is not drained, held back or full. One that does not
    /// is nobody's reason to leave a donor alone.
    pub wanted: bool,
}

/// What a node may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// New connections.
    In,
    /// Existing ones only.
    Drain(Reason),
    /// None.
    Out(Reason),
}

/// Why a node does not take connections. `Display` gives the words that status and log show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It has no Galera status.
    NotGalera,
    /// It is in no primary component; what it says it is in.
    NotPrimary(String),
    /// It belongs to another cluster than the majority.
    OtherCluster(String),
    /// It belongs to an older or smaller component than the majority.
    OtherComponent {
        /// Its view.
        conf_id: u64,
        /// Nodes in its component.
        size: u32,
        /// The majority's view.
        majority_conf_id: u64,
        /// Nodes in that.
        majority_size: u32,
    },
    /// `wsrep_ready` is off.
    NotReady(String),
    /// `wsrep_reject_queries`.
    RejectsQueries(String),
    /// Neither synced nor donor.
    NotSynced(String),
    /// A donor that rejects queries.
    DonorRejects,
    /// `wsrep_desync` was set.
    Desynced,
    /// It gives a state transfer.
    Donor,
    /// `pxc_maint_mode`.
    Maintenance(String),
    /// It takes no writes.
    ReadOnly,
    /// Write sets wait to be applied.
    Queue(u32),
    /// It had the cluster paused, in percent of the time.
    FlowControl(u8),
}

impl Reason {
    /// Whether the node is outside of the primary component, so that it is of no use to anybody.
    pub fn is_of_component(&self) -> bool {
        matches!(
            self,
            Self::NotGalera
                | Self::NotPrimary(_)
                | Self::OtherCluster(_)
                | Self::OtherComponent { .. }
                | Self::NotReady(_)
        )
    }
}

/// A verdict on each node, in their order.
pub fn judge(nodes: &[Node<'_>], rules: &Galera) -> Vec<Verdict> {
    let majority = Majority::of(nodes);
    let alone: Vec<Alone> = nodes.iter().map(|n| alone(n, &majority, rules)).collect();
    let any = |wished: fn(&Alone) -> bool| nodes.iter().zip(&alone).any(|(n, a)| n.wanted && wished(a));
    let somebody = any(|a| matches!(a, Alone::In));
    let somebody_slow = somebody || any(|a| matches!(a, Alone::Slow(_)));
    let unless = |other: bool, reason| if other { Verdict::Drain(reason) } else { Verdict::In };
    alone
        .into_iter()
        .map(|a| match a {
            Alone::In => Verdict::In,
            Alone::Drain(reason) => Verdict::Drain(reason),
            Alone::Out(reason) => Verdict::Out(reason),
            Alone::Slow(reason) => unless(somebody, reason),
            Alone::LastResort(reason) => unless(somebody_slow, reason),
        })
        .collect()
}

/// Client addresses of all members of the component that counts, as they call themselves; none while no node is primary.
pub fn members<'s>(nodes: &[Node<'s>]) -> Option<&'s [String]> {
    Majority::of(nodes).counts.map(|view| view.3)
}

/// What a node may take as far as itself and the majority go.
enum Alone {
    In,
    Drain(Reason),
    Out(Reason),
    /// In, unless somebody faster is.
    Slow(Reason),
    /// In, if nobody else is.
    LastResort(Reason),
}

fn alone(node: &Node<'_>, majority: &Majority<'_>, rules: &Galera) -> Alone {
    let Some(seen) = node.seen.filter(|s| s.now.is_galera()) else { return Alone::Out(Reason::NotGalera) };
    let o = &seen.now;
    let state = || if o.state_comment.is_empty() { o.state.to_string() } else { o.state_comment.clone() };
    if !o.is_primary() {
        return Alone::Out(Reason::NotPrimary(o.cluster_status.clone()));
    }
    if let Some(reason) = majority.excludes(seen) {
        return Alone::Out(reason);
    }
    if !matches!(o.reject_queries.as_str(), "" | "NONE") {
        return Alone::Out(Reason::RejectsQueries(o.reject_queries.clone()));
    }
    if !o.ready {
        return Alone::Out(Reason::NotReady(state()));
    }
    if !matches!(o.maint_mode.as_str(), "" | "DISABLED") {
        return Alone::Drain(Reason::Maintenance(o.maint_mode.clone()));
    }
    if o.read_only && rules.role != Role::Reader {
        return Alone::Drain(Reason::ReadOnly);
    }
    match o.state {
        SYNCED => {}
        DONOR if !o.desync && o.donor_rejects_queries => return Alone::Out(Reason::DonorRejects),
        DONOR => return donor(if o.desync { Reason::Desynced } else { Reason::Donor }, seen, rules),
        _ => return Alone::Out(Reason::NotSynced(state())),
    }
    lag(seen, rules).map_or(Alone::In, Alone::Slow)
}

fn donor(reason: Reason, seen: &Seen, rules: &Galera) -> Alone {
    match rules.donor {
        Donor::Avoid => Alone::Drain(reason),
        Donor::AllowIfLast => Alone::LastResort(reason),
        Donor::Allow => lag(seen, rules).map_or(Alone::In, Alone::Slow),
    }
}

fn lag(seen: &Seen, rules: &Galera) -> Option<Reason> {
    let by_queue = rules.max_receive_queue.is_some_and(|limit| seen.now.recv_queue > limit / 2);
    match seen.lags {
        true if by_queue => Some(Reason::Queue(seen.now.recv_queue)),
        true => Some(Reason::FlowControl(seen.paused_percent)),
        false => None,
    }
}

/// A view as nodes show it: cluster, conf_id, size, addresses.
type View<'s> = (&'s str, u64, u32, &'s [String]);

/// The component that counts.
struct Majority<'s> {
    /// Since when each view that a primary node shows was seen.
    since: BTreeMap<View<'s>, Instant>,
    /// The one of the majority; `None` while no node is primary.
    counts: Option<View<'s>>,
}

impl<'s> Majority<'s> {
    fn of(nodes: &[Node<'s>]) -> Self {
        let primary: Vec<&Seen> =
            nodes.iter().filter_map(|n| n.seen).filter(|s| s.now.is_primary()).collect();
        let mut since = BTreeMap::new();
        for s in &primary {
            let first = since.entry(view(&s.now)).or_insert(s.view_since);
            *first = s.view_since.min(*first);
        }
        let mut majority = Self { since, counts: None };
        let mut votes: BTreeMap<View<'s>, usize> = BTreeMap::new();
        for s in &primary {
            *votes.entry(majority.heads_for(s)).or_default() += 1;
        }
        let of_cluster = |uuid: &str| {
            let of_it = || votes.iter().filter(|(v, _)| v.0 == uuid);
            (
                of_it().map(|(_, n)| n).sum::<usize>(),
                of_it().map(|(v, _)| v.2).max(),
                Reverse(uuid.to_owned()),
            )
        };
        // Views of two clusters count apart, so their numbers say nothing of each other.
        let cluster = votes.keys().map(|v| v.0).max_by_key(|uuid| of_cluster(uuid));
        let of_it = votes.iter().filter(|(v, _)| Some(v.0) == cluster);
        majority.counts = of_it.max_by_key(|(v, n)| (**n, v.1, v.2, Reverse(v.3))).map(|(v, _)| *v);
        majority
    }

    /// The view that a node will show once it is done with what it knows: its own, or a newer one of its cluster
    /// that appeared so short a time before its observation that it may not have got there.
    fn heads_for(&self, seen: &'s Seen) -> View<'s> {
        let own = view(&seen.now);
        let age = |v: &View<'s>| (v.1, self.since.get(v).copied());
        let newer = self
            .since
            .iter()
            .filter(|(v, since)| v.0 == own.0 && age(v) > age(&own) && seen.at <= **since + GRACE);
        newer.map(|(v, _)| *v).max_by_key(|v| (age(v), *v)).unwrap_or(own)
    }

    /// Why a primary node is not of the majority, if it is not.
    fn excludes(&self, seen: &'s Seen) -> Option<Reason> {
        let majority = self.counts?;
        let its = self.heads_for(seen);
        if its == majority {
            return None;
        }
        if its.0 != majority.0 {
            return Some(Reason::OtherCluster(its.0.to_owned()));
        }
        Some(Reason::OtherComponent {
            conf_id: its.1,
            size: its.2,
            majority_conf_id: majority.1,
            majority_size: majority.2,
        })
    }
}

/// `wsrep_local_state`.
const SYNCED: u8 = 4;
const DONOR: u8 = 2;

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotGalera => f.write_str("no Galera status: not a node of a cluster"),
            Self::NotPrimary(status) => write!(f, "not in the primary component: {status}"),
            Self::OtherCluster(uuid) => write!(f, "another cluster than the majority's: {uuid}"),
            Self::OtherComponent { conf_id, size, majority_conf_id, majority_size } => write!(
                f,
                "another component than the majority's: view {conf_id} of {size} nodes, not {majority_conf_id} of \
                 {majority_size}"
            ),
            Self::NotReady(state) => write!(f, "wsrep_ready is OFF: {state}"),
            Self::RejectsQueries(how) => write!(f, "wsrep_reject_queries is {how}"),
            Self::NotSynced(state) => write!(f, "not synced: {state}"),
            Self::DonorRejects => f.write_str("a donor that rejects queries"),
            Self::Desynced => f.write_str("wsrep_desync is ON"),
            Self::Donor => f.write_str("gives a state transfer"),
            Self::Maintenance(mode) => write!(f, "pxc_maint_mode is {mode}"),
            Self::ReadOnly => f.write_str("read_only is ON"),
            Self::Queue(waiting) => write!(f, "{waiting} write sets wait to be applied"),
            Self::FlowControl(percent) => write!(f, "had the cluster paused {percent} % of the time"),
        }
    }
}

#[cfg(test)]
mod tests;
