//! Run-time settings of the packet programs.

use crate::addr::Port;

/// The one element of the `SETTINGS` map.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// [`crate::maps::SCHEMA`] of the daemon that made the maps.
    pub schema: u32,
    /// Non-zero: diagnostic events of slow paths go to the log.
    pub log: u32,
    /// Non-zero once the queue of free slots has been filled.
    pub slots_ready: u32,
    /// Places for half-open flows.
    pub places: u32,
    /// SNAT ports, two inclusive ranges around the host's own ephemeral ports.
    pub snat_ports: SnatPorts,
    /// Non-zero: the daemon replicates flows and is told of them ([`FlowEvent`](crate::flow_event::FlowEvent)).
    pub sync: u32,
}
layout!(Settings = 28: schema, log, slots_ready, places, snat_ports, sync);

/// Two inclusive ranges of ports; an empty one has `first > last`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SnatPorts {
    /// First port of the low range.
    pub low_first: u16,
    /// Last port of the low range.
    pub low_last: u16,
    /// First port of the high range.
    pub high_first: u16,
    /// Last port of the high range.
    pub high_last: u16,
}
layout!(SnatPorts = 8: low_first, low_last, high_first, high_last);

impl SnatPorts {
    /// Everything from 1024 up that is not in the host's `ip_local_port_range`: there the node's own sockets (health
    /// checks among them) would collide with translated flows.
    pub const fn around(local_first: u16, local_last: u16) -> Self {
        Self {
            low_first: 1024,
            low_last: local_first.saturating_sub(1),
            high_first: if local_last == u16::MAX { 1 } else { local_last + 1 },
            high_last: if local_last == u16::MAX { 0 } else { u16::MAX },
        }
    }

    /// Number of ports.
    #[inline(always)]
    pub const fn len(&self) -> u32 {
        Self::range(self.low_first, self.low_last) + Self::range(self.high_first, self.high_last)
    }

    /// Whether there is no port at all.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `i`-th port, `i < len()`.
    #[inline(always)]
    pub const fn nth(&self, i: u32) -> Port {
        let low = Self::range(self.low_first, self.low_last);
        if i < low {
            Port::new(self.low_first.wrapping_add(i as u16))
        } else {
            Port::new(self.high_first.wrapping_add((i - low) as u16))
        }
    }

    /// Whether a port is one of them.
    #[inline(always)]
    pub const fn contains(&self, port: u16) -> bool {
        self.low_first <= port && port <= self.low_last || self.high_first <= port && port <= self.high_last
    }

    #[inline(always)]
    const fn range(first: u16, last: u16) -> u32 {
        if first > last { 0 } else { (last - first) as u32 + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn translated_ports_keep_off_the_hosts_own_range() {
        let p = SnatPorts::around(32768, 60999);
        assert_eq!(p.len(), (32767 - 1024 + 1) + (65535 - 61000 + 1));
        for i in 0..p.len() {
            let n = p.nth(i).number();
            assert!(n >= 1024 && !(32768..=60999).contains(&n), "{n}");
        }
        assert_eq!(p.nth(p.len() - 1).number(), 65535);
    }

    #[test]
    fn a_host_that_keeps_all_ports_leaves_none() {
        assert!(SnatPorts::around(1024, 65535).is_empty());
    }
}
