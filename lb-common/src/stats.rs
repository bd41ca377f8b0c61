//! Counters, one copy per CPU; the daemon adds them up.

/// Packets and bytes (IP length) of one direction.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Packets; a GSO super-packet counts as one.
    pub packets: u64,
    /// Bytes of the IP packets.
    pub bytes: u64,
}
layout!(Traffic = 16: packets, bytes);

/// Of a service.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServiceStats {
    /// Nothing; it moves those behind it.
    #[cfg(feature = "other-layout")]
    pub spare: u64,
    /// New flows.
    pub flows: u64,
    /// Refused for want of a backend, a known flow, a place in the table or a source port: TCP with RST, UDP in silence.
    pub refused: u64,
    /// Half-open flows that gave way to newer ones.
    pub displaced: u64,
    /// Of `refused`: for want of a source port.
    pub ports_exhausted: u64,
    /// Of `refused`: for want of a place in the flow table.
    pub table_full: u64,
    /// New flows that the service's rules did not allow; those refused in silence are not in `refused`.
    pub denied: u64,
    /// Of `refused`: the client was too fast.
    pub limited: u64,
    /// Client to backend.
    pub forward: Traffic,
    /// Backend to client.
    pub reverse: Traffic,
}
#[cfg(feature = "other-layout")]
layout!(ServiceStats = 96: spare, flows, refused, displaced, ports_exhausted, table_full, denied, limited, forward, reverse);
#[cfg(not(feature = "other-layout"))]
layout!(ServiceStats = 88: flows, refused, displaced, ports_exhausted, table_full, denied, limited, forward,
    reverse);

/// Of a backend.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BackendStats {
    /// New flows, those that another backend did not take among them.
    pub flows: u64,
    /// Of these: it did not answer the client's SYN before the client repeated that.
    pub unanswered: u64,
    /// Of these: it, or somebody on the way to it, answered by RST or by an ICMP error.
    pub refusing: u64,
    /// Client to backend.
    pub forward: Traffic,
    /// Backend to client.
    pub reverse: Traffic,
}
layout!(BackendStats = 56: flows, unanswered, refusing, forward, reverse);

impl Traffic {
    /// Counts one packet.
    #[inline(always)]
    pub fn count(&mut self, bytes: u64) {
        self.packets += 1;
        self.bytes += bytes;
    }

    fn add(&mut self, o: &Self) {
        self.packets += o.packets;
        self.bytes += o.bytes;
    }
}

impl ServiceStats {
    /// Adds another CPU's copy.
    pub fn add(&mut self, o: &Self) {
        self.flows += o.flows;
        self.refused += o.refused;
        self.displaced += o.displaced;
        self.ports_exhausted += o.ports_exhausted;
        self.table_full += o.table_full;
        self.denied += o.denied;
        self.limited += o.limited;
        self.forward.add(&o.forward);
        self.reverse.add(&o.reverse);
    }
}

impl BackendStats {
    /// Adds another CPU's copy.
    pub fn add(&mut self, o: &Self) {
        self.flows += o.flows;
        self.unanswered += o.unanswered;
        self.refusing += o.refusing;
        self.forward.add(&o.forward);
        self.reverse.add(&o.reverse);
    }
}
