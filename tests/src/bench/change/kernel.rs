//! What the kernel has counted of lost packets in namespaces: segments that were sent again, and what its own queues dropped.

use std::fs;

use anyhow::{Context, Result};

use crate::{netns::Netns, steady::queue_drops};

/// Sums over some namespaces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// TCP segments that were sent again, by either end.
    pub resent: u64,
    /// Of these, told by the receiver to have been there before (D-SACK, RFC 2883): they were late, not lost.
    pub needless: u64,
    /// Packets that found a queue or a socket's buffer full, on the whole machine: no program of a balancer had a part in it.
    pub dropped: u64,
}

impl Counts {
    /// As they stand.
    pub fn of(spaces: &[Netns]) -> Result<Self> {
        let mut sum = Self { dropped: queue_drops(), ..Self::default() };
        for space in spaces {
            let files = space.run(|| -> std::io::Result<_> {
                let read = |name| fs::read_to_string(format!("/proc/thread-self/net/{name}"));
                Ok((read("snmp")?, read("netstat")?))
            });
            let (snmp, netstat) = files?.with_context(|| format!("{}: no counters", space.name()))?;
            sum.resent += field(&snmp, "Tcp", "RetransSegs")?;
            sum.needless += field(&netstat, "TcpExt", "TCPDSACKRecv")?;
            sum.needless += field(&netstat, "TcpExt", "TCPDSACKOfoRecv")?;
            sum.dropped += field(&snmp, "Udp", "RcvbufErrors")?;
        }
        Ok(sum)
    }

    /// What was added since then.
    pub fn since(self, before: Self) -> Self {
        Self {
            resent: self.resent - before.resent,
            needless: self.needless - before.needless,
            dropped: self.dropped - before.dropped,
        }
    }

    /// Segments that had to be sent again because they were not there.
    pub fn lost(self) -> u64 {
        self.resent.saturating_sub(self.needless)
    }
}

/// A number of a table in which a line of names stands above a line of numbers.
fn field(table: &str, group: &str, name: &str) -> Result<u64> {
    let mut lines = table.lines().filter_map(|line| line.strip_prefix(group)?.strip_prefix(':'));
    let (names, numbers) = lines.next().zip(lines.next()).with_context(|| format!("no group {group}"))?;
    let mut pairs = names.split_whitespace().zip(numbers.split_whitespace());
    let (_, number) = pairs.find(|(n, _)| *n == name).with_context(|| format!("no counter {name}"))?;
    number.parse().with_context(|| format!("{name}: {number}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_found_by_its_group_and_name() {
        let table = "Ip: InReceives\nIp: 7\nTcp: ActiveOpens RetransSegs InErrs\nTcp: 1 22 3\nTcpExt: RetransSegs\nTcpExt: 9\n";
        assert_eq!(field(table, "Tcp", "RetransSegs").unwrap(), 22);
        assert!(field(table, "Tcp", "InReceives").is_err() && field(table, "Udp", "InErrs").is_err());
    }

    #[test]
    fn what_was_there_before_is_no_loss() {
        let before = Counts { resent: 5, needless: 1, dropped: 2 };
        let counts = Counts { resent: 9, needless: 4, dropped: 2 }.since(before);
        assert_eq!((counts.lost(), counts.dropped), (1, 0));
    }
}
