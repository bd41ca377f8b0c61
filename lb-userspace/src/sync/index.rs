//! Sums over the established flows of each virtual router, by bucket, kept up to date flow by flow: what two nodes compare.
//!
//! It knows flows by their slots and holds nothing of their content but a sum. `table` keeps it true; it does no I/O.

use super::wire::{BUCKETS, Summary};

/// Where a message stands in the order of all that one peer has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// Which peer, from 1 on; 0: nobody, this node itself.
    pub peer: u8,
    /// Higher is newer.
    pub order: u64,
}

impl Stamp {
    /// Whether it is known to be newer: of two peers' words nobody can tell.
    pub fn is_after(self, other: Self) -> bool {
        self.peer == other.peer && self.peer != 0 && self.order > other.order
    }
}

/// What is known of the flow in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Entry {
    /// Its part of the bucket's sum.
    pub sum: u64,
    /// By which message it came; that of its own making is this node's.
    pub stamp: Stamp,
    /// Boottime of its last packet as peers were last told, ns.
    pub told: u64,
    /// Its virtual router.
    pub scope: u16,
    /// Its bucket.
    pub bucket: u16,
    /// Bytes that it takes in a message.
    pub length: u8,
    /// Generation of the record.
    pub generation: u16,
    /// Stage and ends of the record.
    pub mark: u16,
    /// It was opened here on behalf of the owner, who was handing over.
    pub delegated: bool,
    /// Position in the bucket's list, plus one; 0: the slot holds no flow.
    pub(super) at: u32,
}

/// All flows of a node that can be replicated.
#[derive(Debug, Default)]
pub struct Index {
    entries: Vec<Entry>,
    scopes: Vec<Scope>,
}

#[derive(Debug, Clone, Default)]
struct Scope {
    total: Summary,
    buckets: Vec<Bucket>,
}

#[derive(Debug, Clone, Default)]
struct Bucket {
    sum: u64,
    slots: Vec<u32>,
}

impl Index {
    /// An empty index of so many routers.
    pub fn new(scopes: usize) -> Self {
        let mut index = Self::default();
        index.grow(scopes);
        index
    }

    /// Room for so many routers.
    pub fn grow(&mut self, scopes: usize) {
        let scope = Scope { total: Summary::default(), buckets: vec![Bucket::default(); BUCKETS] };
        self.scopes.resize(self.scopes.len().max(scopes), scope);
    }

    /// Removes all flows of a router.
    pub fn clear(&mut self, scope: usize) {
        let all: Vec<u32> =
            self.scopes[scope].buckets.iter().flat_map(|bucket| bucket.slots.clone()).collect();
        all.into_iter().for_each(|slot| _ = self.forget(slot));
    }

    /// What is known of a slot's flow.
    pub fn entry(&self, slot: u32) -> Option<&Entry> {
        self.entries.get(slot as usize).filter(|entry| entry.at != 0)
    }

    /// Notes that peers know of the slot's flow as of `seen`.
    pub fn tell(&mut self, slot: u32, seen: u64) {
        if let Some(entry) = self.entries.get_mut(slot as usize) {
            entry.told = seen;
        }
    }

    /// Notes whether the slot's flow was opened on the owner's behalf.
    pub fn delegate(&mut self, slot: u32, delegated: bool) {
        if let Some(entry) = self.entries.get_mut(slot as usize) {
            entry.delegated = delegated;
        }
    }

    /// Enters the flow of a slot, or another state of it.
    pub fn set(&mut self, slot: u32, entry: Entry) {
        self.forget(slot);
        if self.entries.len() <= slot as usize {
            self.entries.resize(slot as usize + 1, Entry::default());
        }
        let scope = &mut self.scopes[usize::from(entry.scope)];
        let bucket = &mut scope.buckets[usize::from(entry.bucket)];
        bucket.slots.push(slot);
        bucket.sum = bucket.sum.wrapping_add(entry.sum);
        scope.total.count += 1;
        scope.total.sum = scope.total.sum.wrapping_add(entry.sum);
        self.entries[slot as usize] = Entry { at: bucket.slots.len() as u32, ..entry };
    }

    /// Removes the flow of a slot; whether there was one.
    pub fn forget(&mut self, slot: u32) -> bool {
        let Some(entry) = self.entry(slot).copied() else { return false };
        self.entries[slot as usize] = Entry::default();
        let scope = &mut self.scopes[usize::from(entry.scope)];
        let bucket = &mut scope.buckets[usize::from(entry.bucket)];
        bucket.sum = bucket.sum.wrapping_sub(entry.sum);
        scope.total.count -= 1;
        scope.total.sum = scope.total.sum.wrapping_sub(entry.sum);
        let at = entry.at as usize - 1;
        bucket.slots.swap_remove(at);
        if let Some(moved) = bucket.slots.get(at) {
            self.entries[*moved as usize].at = entry.at;
        }
        true
    }

    /// Number and sum of a router's flows.
    pub fn total(&self, scope: usize) -> Summary {
        self.scopes[scope].total
    }

    /// Sum of a bucket.
    pub fn sum(&self, scope: usize, bucket: u16) -> u64 {
        self.scopes[scope].buckets[usize::from(bucket)].sum
    }

    /// The slots of a bucket's flows.
    pub fn slots(&self, scope: usize, bucket: u16) -> &[u32] {
        &self.scopes[scope].buckets[usize::from(bucket)].slots
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However flows come, change and go, sums and lists are those of the flows that are there.
        #[test]
        fn sums_are_those_of_the_flows_that_are_there(
            steps in proptest::collection::vec((0u32..40, 0u16..2, 0u16..3, any::<u64>(), any::<bool>()), 1..200),
        ) {
            let mut index = Index::new(2);
            let mut flows = std::collections::BTreeMap::new();
            for (slot, scope, bucket, sum, stays) in steps {
                if stays {
                    index.set(slot, Entry { sum, scope, bucket, ..Entry::default() });
                    flows.insert(slot, (scope, bucket, sum));
                } else {
                    prop_assert_eq!(index.forget(slot), flows.remove(&slot).is_some());
                }
                for scope in 0..2u16 {
                    let mut all = Summary::default();
                    for bucket in 0..3u16 {
                        let of: Vec<_> =
                            flows.iter().filter(|(_, f)| (f.0, f.1) == (scope, bucket)).collect();
                        let sum = of.iter().fold(0u64, |all, (_, f)| all.wrapping_add(f.2));
                        prop_assert_eq!(index.sum(scope.into(), bucket), sum);
                        let mut slots = index.slots(scope.into(), bucket).to_vec();
                        slots.sort_unstable();
                        prop_assert_eq!(slots, of.iter().map(|(slot, _)| **slot).collect::<Vec<_>>());
                        all.count += of.len() as u32;
                        all.sum = all.sum.wrapping_add(sum);
                    }
                    prop_assert_eq!(index.total(scope.into()), all);
                }
            }
        }
    }
}
