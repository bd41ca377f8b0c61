//! How fast backends answer, as the packet programs see it: two histograms a backend, per CPU.
//!
//! *Connect*: from the client's SYN (its last one, if it was repeated) to the backend's SYN-ACK. *Response*: from the first byte
//! that the client sends to the first that the backend sends after it; for UDP from the first datagram to the first one back.
//! Network and backend together, as the node sees them; once a flow.

/// Buckets of a histogram, two for each doubling.
pub const BUCKETS: usize = 48;

/// After so long without a response, µs, none is waited for: it counts in the last bucket.
pub const GIVE_UP_US: u64 = bound(BUCKETS - 2);

/// Times counted by bucket.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Histogram {
    /// Times in each bucket, see [`bucket`].
    pub buckets: [u32; BUCKETS],
    /// All times together, µs.
    pub sum: u64,
}
layout!(Histogram = 200: buckets, sum);

/// Element of the `LATENCY` map.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Latency {
    /// SYN to SYN-ACK.
    pub connect: Histogram,
    /// First request byte to first response byte.
    pub response: Histogram,
}
layout!(Latency = 400: connect, response);

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], sum: 0 }
    }
}

/// The bucket of a time, µs: below 2 µs the first; then one for each half of a doubling; 8.4 s and more in the last two.
#[inline(always)]
pub const fn bucket(us: u64) -> usize {
    if us < 2 {
        return 0;
    }
    let doubling = us.ilog2() as usize;
    let half = us >> (doubling - 1) & 1;
    let bucket = 2 * doubling + half as usize;
    if bucket < BUCKETS { bucket } else { BUCKETS - 1 }
}

/// The time that a bucket ends before, µs. (The last one has no end.)
pub const fn bound(bucket: usize) -> u64 {
    if bucket < 2 {
        return 2;
    }
    let doubling = bucket / 2;
    if bucket.is_multiple_of(2) { 3 << (doubling - 1) } else { 2 << doubling }
}

impl Histogram {
    /// Counts a time, ns.
    #[inline(always)]
    pub fn count(&mut self, ns: u64) {
        let us = ns / 1000;
        // The verifier does not see that a bucket is one, and the compiler does: it is kept from leaving the comparison out. The mask
        // is for the verifier as well.
        if let Some(n) = self.buckets.get_mut(core::hint::black_box(bucket(us)) & 63) {
            *n += 1;
        }
        self.sum += us;
    }

    /// Adds another CPU's copy.
    pub fn add(&mut self, o: &Self) {
        for (n, more) in self.buckets.iter_mut().zip(o.buckets) {
            *n = n.saturating_add(more);
        }
        self.sum += o.sum;
    }

    /// How many times there are.
    pub fn times(&self) -> u64 {
        self.buckets.iter().map(|n| u64::from(*n)).sum()
    }

    /// What this share of all times, in thousandths, stays under, µs: the end of the bucket in which it is reached. `None` without any.
    pub fn quantile(&self, thousandths: u64) -> Option<u64> {
        let wanted = (self.times() * thousandths).div_ceil(1000).max(1);
        let mut seen = 0;
        self.buckets.iter().enumerate().find_map(|(i, n)| {
            seen += u64::from(*n);
            (seen >= wanted).then(|| bound(i))
        })
    }
}

impl Latency {
    /// Adds another CPU's copy.
    pub fn add(&mut self, o: &Self) {
        self.connect.add(&o.connect);
        self.response.add(&o.response);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_below_the_end_of_its_bucket_and_not_below_the_one_before() {
        for us in (0..5000).chain((13..23).flat_map(|e| [(1 << e) - 1, 1 << e, (1 << e) + 1, 3 << (e - 1)])) {
            let i = bucket(us);
            assert!(us < bound(i), "{us} µs in bucket {i}");
            assert!(i < 3 || us >= bound(i - 1), "{us} µs in bucket {i}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(bucket(GIVE_UP_US), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_the_ends_of_the_buckets_they_fall_into() {
        let mut h = Histogram::default();
        assert_eq!(h.quantile(500), None);
        for us in [100, 100, 100, 5000] {
            h.count(us * 1000);
        }
        assert_eq!((h.quantile(500), h.quantile(750), h.quantile(990)), (Some(128), Some(128), Some(6144)));
        assert_eq!((h.times(), h.sum), (4, 5300));
    }
}
