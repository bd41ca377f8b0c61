//! How far this node has come with the flows of one router that one peer owns: which buckets differ, which were asked for,
//! what has arrived. `peer` drives it; it does no I/O and reads no clock.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use lb_common::addr::Addr;

use super::wire::{BUCKETS, FlowId, Message, Summary};
use crate::vrrp::BootTime;

/// Buckets that are asked for at a time.
const WINDOW: usize = 32;
/// What was asked for and has not come by then is asked for again.
const PATIENCE: Duration = Duration::from_millis(300);
/// News that are under way make sums differ for a moment: two comparisons are not closer.
const COMPARE_GAP: Duration = Duration::from_millis(150);

/// How far this node has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is being found out which buckets differ.
    Comparing,
    /// Buckets are being fetched, before this node had all of them for the first time.
    Fetching {
        /// Those that have come.
        done: u16,
        /// All of them.
        of: u16,
    },
    /// It has what the owner has, but for what is on its way.
    InSync,
    /// Likewise, but something was lost, which is being fetched.
    Repairing,
}

/// A bucket under way.
#[derive(Debug)]
struct Bucket {
    nonce: u32,
    /// The newest word of the peer when it was asked for.
    asked: u64,
    at: BootTime,
    parts: HashSet<u16>,
    has: HashSet<FlowId>,
}

#[derive(Debug, Default)]
enum Step {
    /// Nothing differs, as far as is known.
    #[default]
    Idle,
    /// The sums are to be asked for, not before then.
    Compare(BootTime),
    /// They were asked for; again at then.
    Await { again: BootTime, sums: Vec<Option<u64>> },
    /// Buckets that are still to be asked for, and all of them.
    Fetch { left: Vec<u16>, of: u16 },
}

/// One router of one peer.
#[derive(Debug, Default)]
pub struct Pull {
    /// What the peer has, if it is the owner.
    claimed: Option<Summary>,
    /// Since the session began all of it has been here once.
    complete: bool,
    step: Step,
    under_way: BTreeMap<u16, Bucket>,
    /// Sums of the owner's and this node's bucket after it had been fetched, where they still differ: what this node cannot
    /// take in is not asked for again and again.
    tolerated: BTreeMap<u16, (u64, u64)>,
    theirs: Vec<u64>,
    /// Buckets of which this node had nothing.
    empty: Vec<bool>,
    newest: u64,
    compared: BootTime,
}

impl Pull {
    /// How far this node has come; `None` if the peer is not the owner.
    pub fn standing(&self) -> Option<Standing> {
        self.claimed?;
        Some(match (&self.step, self.complete) {
            (Step::Idle | Step::Compare(_) | Step::Await { .. }, true) => Standing::InSync,
            (Step::Fetch { .. }, true) => Standing::Repairing,
            (Step::Idle | Step::Compare(_) | Step::Await { .. }, false) => Standing::Comparing,
            (Step::Fetch { left, of }, false) => {
                Standing::Fetching { done: of - (left.len() + self.under_way.len()) as u16, of: *of }
            }
        })
    }

    /// What the owner says that it has.
    pub fn claimed(&self) -> Option<Summary> {
        self.claimed
    }

    /// The peer has said something that stands there in the order of its words.
    pub fn newest(&mut self, order: u64) {
        self.newest = self.newest.max(order);
    }

    /// The owner says how much it has; this node has `own`. `None`: the peer is not the owner.
    pub fn hear_claim(&mut self, now: BootTime, claim: Option<Summary>, own: Summary) {
        let was_owner = self.claimed.is_some();
        self.claimed = claim;
        let Some(theirs) = claim else {
            if was_owner {
                *self = Self { newest: self.newest, ..Self::default() };
            }
            return;
        };
        let equal = theirs == own;
        match self.step {
            // What was still to be compared or fetched has come by itself.
            Step::Compare(_) | Step::Await { .. } | Step::Idle if equal => {
                self.complete = true;
                self.step = Step::Idle;
            }
            Step::Idle => self.step = Step::Compare((self.compared + COMPARE_GAP).max(now)),
            _ => {}
        }
    }

    /// The owner's sums, of some buckets; `own` gives this node's.
    pub fn hear_sums(&mut self, first: u16, some: &[u64], own: impl Fn(u16) -> u64) {
        let Step::Await { sums, .. } = &mut self.step else { return };
        for (to, sum) in sums.iter_mut().skip(first.into()).zip(some) {
            *to = Some(*sum);
        }
        let Some(theirs) = sums.iter().copied().collect::<Option<Vec<u64>>>() else { return };
        let differs = |bucket: &u16| {
            let pair = (theirs[usize::from(*bucket)], own(*bucket));
            pair.0 != pair.1 && self.tolerated.get(bucket) != Some(&pair)
        };
        // Asked for from the end.
        let left: Vec<u16> = (0..BUCKETS as u16).rev().filter(differs).collect();
        self.empty = (0..BUCKETS as u16).map(|bucket| own(bucket) == 0).collect();
        self.theirs = theirs;
        if left.is_empty() {
            self.complete = true;
            self.step = Step::Idle;
        } else {
            self.step = Step::Fetch { of: left.len() as u16, left };
        }
    }

    /// Whether a part of a bucket is what was asked for.
    pub fn wants(&self, nonce: u32, bucket: u16) -> bool {
        self.under_way.get(&bucket).is_some_and(|b| b.nonce == nonce)
    }

    /// Whether this node had nothing of a bucket when that was found to be another.
    pub fn lacked(&self, bucket: u16) -> bool {
        self.empty.get(usize::from(bucket)).copied().unwrap_or_default()
    }

    /// A part of a bucket has come. Once all have: the flows of all parts, and the peer's newest word when it was asked for.
    pub fn hear_part(
        &mut self,
        now: BootTime,
        bucket: u16,
        (part, parts): (u16, u16),
        ids: impl Iterator<Item = FlowId>,
    ) -> Option<(HashSet<FlowId>, u64)> {
        let b = self.under_way.get_mut(&bucket)?;
        b.at = now;
        b.parts.insert(part);
        b.has.extend(ids);
        if b.parts.len() < usize::from(parts) {
            return None;
        }
        let b = self.under_way.remove(&bucket)?;
        if let Step::Fetch { left, .. } = &self.step
            && left.is_empty()
            && self.under_way.is_empty()
        {
            self.complete = true;
            self.step = Step::Idle;
        }
        Some((b.has, b.asked))
    }

    /// A bucket has been fetched, and this node's sum of it is this now.
    pub fn settle(&mut self, bucket: u16, own: u64) {
        let theirs = self.theirs.get(usize::from(bucket)).copied().unwrap_or_default();
        if theirs == own {
            self.tolerated.remove(&bucket);
        } else {
            self.tolerated.insert(bucket, (theirs, own));
        }
    }

    /// What the owner is to be asked for now.
    pub fn poll(
        &mut self,
        now: BootTime,
        scope: Addr,
        nonces: &mut u32,
        repairs: &mut u64,
    ) -> Option<Message> {
        match &mut self.step {
            Step::Idle => None,
            Step::Compare(at) | Step::Await { again: at, .. } if now < *at => None,
            Step::Compare(_) | Step::Await { .. } => {
                self.compared = now;
                self.step = Step::Await { again: now + PATIENCE, sums: vec![None; BUCKETS] };
                Some(Message::AskSums { scope })
            }
            Step::Fetch { left, of } => {
                if self.complete && self.under_way.is_empty() && left.len() == usize::from(*of) {
                    *repairs += 1;
                }
                let late = |b: &Bucket| now >= b.at + PATIENCE;
                let mut buckets: Vec<u16> =
                    self.under_way.iter().filter(|(_, b)| late(b)).map(|(bucket, _)| *bucket).collect();
                // In batches: a question for each bucket would be as many datagrams as answers.
                if self.under_way.len() <= WINDOW / 2 {
                    let room = WINDOW - self.under_way.len();
                    buckets.extend(left.split_off(left.len().saturating_sub(room)));
                }
                if buckets.is_empty() {
                    return None;
                }
                *nonces = nonces.wrapping_add(1);
                for bucket in &buckets {
                    let (parts, has) = (HashSet::new(), HashSet::new());
                    let b = Bucket { nonce: *nonces, asked: self.newest, at: now, parts, has };
                    self.under_way.insert(*bucket, b);
                }
                Some(Message::Ask { scope, nonce: *nonces, buckets })
            }
        }
    }

    /// When [`poll`](Self::poll) has something to ask next.
    pub fn deadline(&self) -> Option<BootTime> {
        match &self.step {
            Step::Idle => None,
            Step::Compare(at) | Step::Await { again: at, .. } => Some(*at),
            Step::Fetch { left, .. } if !left.is_empty() && self.under_way.len() <= WINDOW / 2 => {
                Some(BootTime(0))
            }
            Step::Fetch { .. } => self.under_way.values().map(|b| b.at + PATIENCE).min(),
        }
    }
}
