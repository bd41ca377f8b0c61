//! What became of a packet: one numbered list for programs, status and metrics.
//!
//! Every packet that a program sees ends in exactly one reason, so the counters add up to the packets in.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $n:literal, $kind:ident, $word:literal;)+) => {
        /// Why a packet was passed up, forwarded, answered or dropped.
        #[repr(u8)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$doc])* $name = $n,)+
        }

        impl Reason {
            /// All reasons in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The reason of this number.
            pub fn of(number: u8) -> Option<Self> {
                match number { $($n => Some(Self::$name),)+ _ => None }
            }

            /// What the reason amounts to.
            pub const fn kind(self) -> Kind {
                match self { $(Self::$name => Kind::$kind,)+ }
            }

            /// The fixed word for output.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)+ }
            }
        }
    };
}

/// What a reason amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Left to the node's own network stack.
    Passed,
    /// Sent on to a backend or back to a client.
    Forwarded,
    /// Answered by the program itself.
    Answered,
    /// Refused: a connection with RST, a datagram in silence.
    Refused,
    /// Dropped.
    Dropped,
}

reasons! {
    /// Neither IP nor ARP.
    OtherProtocol = 0, Passed, "other-protocol";
    /// Not addressed to a virtual address.
    NotVirtual = 1, Passed, "not-virtual";
    /// Addressed to an owned virtual address, or to one of the node's own that services are on, but to no service: the node's
    /// own stack decides.
    NoService = 2, Passed, "no-service";
    /// Addressed to another host's MAC (a flooding bridge, promiscuous mode).
    OtherHost = 3, Passed, "other-host";
    /// IPv4 options or IPv6 extension headers: the node's own stack decides.
    IpOptions = 4, Passed, "ip-options";
    /// Packet of a known flow, client to backend.
    Forwarded = 5, Forwarded, "forwarded";
    /// Packet of a known flow, backend to client.
    Returned = 6, Forwarded, "returned";
    /// First packet of a new flow.
    NewFlow = 7, Forwarded, "new-flow";
    /// ARP request for an owned virtual address.
    ArpAnswered = 8, Answered, "arp-answered";
    /// ICMP echo request to an owned virtual address.
    EchoAnswered = 9, Answered, "echo-answered";
    /// No backend takes new connections.
    NoBackend = 10, Refused, "no-backend";
    /// Segment of a connection that this node does not know.
    UnknownFlow = 11, Refused, "unknown-flow";
    /// The flow table is full.
    FlowTableFull = 12, Refused, "flow-table-full";
    /// No source port is free towards the chosen backend.
    SnatPortsExhausted = 13, Refused, "snat-ports-exhausted";
    /// For a virtual address that this node does not own, or whose lease has run out.
    NotOwner = 14, Dropped, "not-owner";
    /// Too short for its headers or lengths that contradict each other.
    Malformed = 15, Dropped, "malformed";
    /// A fragment for a virtual address whose datagram's first one has not come, or was not forwarded.
    Fragment = 16, Dropped, "fragment-before-first";
    /// TTL used up; its sender is told by ICMP.
    TtlExpired = 17, Dropped, "ttl-expired";
    /// RST of a connection that this node does not know; a RST is never answered.
    StrayReset = 18, Dropped, "stray-reset";
    /// The ring named a backend that is not in the table.
    BackendMissing = 19, Dropped, "backend-missing";
    /// A kernel helper failed while the packet was rewritten.
    RewriteFailed = 20, Dropped, "rewrite-failed";
    /// Sent by this node in the name of a virtual address that it does not own.
    EgressFenced = 21, Dropped, "egress-fenced";
    /// Left this node by its own stack; nothing to object to.
    EgressPassed = 22, Passed, "egress-passed";
    /// The same SYN is being opened on another processor; the client retransmits into that flow.
    ConcurrentOpen = 23, Dropped, "concurrent-open";
    /// A peer asked for the state of a lease.
    ProbeAnswered = 24, Answered, "probe-answered";
    /// Neighbour solicitation for an owned virtual address.
    NeighbourAnswered = 25, Answered, "neighbour-answered";
    /// For a virtual address that was handed over: sent on to the peer that has it now.
    Relayed = 26, Forwarded, "relayed";
    /// A part of the packet programs was missing: the node's own stack got the packet. It does not happen while the daemon that
    /// attached them, or its pins, are there.
    TailMissing = 27, Passed, "tail-missing";
    /// ICMP error about a packet of a known flow, brought to the end that sent it.
    ErrorForwarded = 28, Forwarded, "icmp-error-forwarded";
    /// ICMP error for an owned virtual address about a packet of no known flow: the node's own stack decides.
    ErrorUnknownFlow = 29, Passed, "icmp-error-unknown-flow";
    /// ICMP error about a segment that its flow cannot have sent of late: guessed.
    ErrorOutsideWindow = 30, Dropped, "icmp-error-outside-window";
    /// Tagged for a VLAN: the programs on that VLAN's own interface see it untagged.
    VlanTagged = 31, Passed, "vlan-tagged";
    /// A new connection to a service on the node's own address while the daemon has given no sign of life for some time.
    DaemonGone = 32, Refused, "daemon-gone";
    /// Longer than the way to its destination takes; its sender is told by ICMP.
    TooBig = 33, Dropped, "too-big";
    /// Has no counterpart in the other side's family: a fragment, extension headers, a datagram without checksum.
    Untranslatable = 34, Dropped, "untranslatable";
    /// Every backend that takes new connections has as many as it may have.
    BackendsFull = 35, Refused, "backends-full";
    /// The service has as many connections as it may have.
    ServiceFull = 36, Refused, "service-full";
    /// The service's rules refuse the client, and tell it.
    AccessRefused = 37, Refused, "access-refused";
    /// The service's rules refuse the client in silence.
    AccessDenied = 38, Dropped, "access-denied";
    /// The client opens connections faster than the service allows one.
    ClientRate = 39, Refused, "client-rate";
    /// The client has as many connections to the service as it may have.
    ClientFull = 40, Refused, "client-full";
    /// A backend refused a connection; the client is not told, and the SYN that it repeats goes to another backend.
    RefusalWithheld = 41, Dropped, "refusal-withheld";
    /// A SYN that the client repeated, to another backend than the one that did not take it.
    Redispatched = 42, Forwarded, "redispatched";
    /// Segment in the middle of an unknown connection, which a new owner has given to the backend that its service's scheduler
    /// gives it to.
    Adopted = 43, Forwarded, "adopted";
    /// Of a connection that is being moved to another server, whose answer is waited for: it is sent again.
    Moving = 44, Dropped, "moving";
    /// SYN-ACK that the daemon sends on once a peer has its flow (`sync = "strict"`).
    Held = 45, Forwarded, "held";
}

/// Elements of the `REASONS` map.
pub const REASON_SLOTS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_in_the_order_of_their_numbers_and_fit_the_map() {
        assert!(Reason::ALL.is_sorted_by(|a, b| (*a as u8) < *b as u8));
        for r in Reason::ALL {
            assert!(Reason::of(*r as u8) == Some(*r) && (*r as usize) < REASON_SLOTS);
        }
    }

    #[test]
    fn each_reason_has_a_word_of_its_own() {
        let words: std::collections::HashSet<_> = Reason::ALL.iter().map(|r| r.word()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
    }
}
