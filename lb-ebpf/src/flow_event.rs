//! What the daemon is told of flows for its peers' sake, and what the first packet teaches about a flow that a peer told of.
//!
//! `conntrack` calls: it compares a flow's mark before and after a packet, which costs packets that change nothing a
//! comparison. Of half-open flows the programs tell nothing: the daemon looks at them when it hands an address over.

use lb_common::{
    flow::{FIN_BACKEND, FIN_CLIENT, FORWARD, Flow, REPLICATED, Stage},
    flow_event::FlowEvent,
};

use crate::{
    parse::{Ip, Payload, flag},
    tables::Tables,
};

/// What peers know of a flow, besides whose it is: its stage, which sides have ended, and whether it is established.
#[inline(always)]
pub fn mark(f: &Flow) -> u32 {
    f.stage as u32 | ((f.flags & (FIN_CLIENT | FIN_BACKEND)) as u32) << 8 | ((f.place != 0) as u32) << 16
}

/// Tells the daemon of the flow in a slot, if it replicates flows.
#[inline(never)]
pub fn tell<T: Tables>(slot: u32, generation: u16, t: &T) {
    if t.settings().is_some_and(|s| s.sync != 0) {
        t.flow_event(&FlowEvent { slot, generation, pad: [0; 2] });
    }
}

/// Takes a replicated flow's sequence numbers from its first segment: those that the peer sent may be days old, and a record
/// that is behind would believe no FIN and no RST. A made-up segment in the moment before the first true one would make it
/// disbelieve them as well, and nothing worse: its receiver judges for itself. RST and SYN teach nothing, for they are what
/// is made up.
#[inline(never)]
pub fn learn(f: &mut Flow, ip: &Ip, direction: u8, ifindex: u32) {
    if direction == FORWARD {
        f.client_if = ifindex;
    }
    if f.place != 0 {
        // Its numbers are those of the handshake, and the client's has to be proven. That nothing came by at all is known by the mark.
        if f.stage() == Stage::SynReceived {
            f.flags &= !REPLICATED;
        }
        return;
    }
    if ip.payload == Payload::Tcp {
        let tcp = &ip.tcp;
        if tcp.flags & (flag::ACK | flag::SYN | flag::RST) != flag::ACK {
            return;
        }
        let end = tcp.seq.wrapping_add(tcp.span);
        let (own, other) = if direction == FORWARD {
            (&mut f.client_next, &mut f.backend_next)
        } else {
            (&mut f.backend_next, &mut f.client_next)
        };
        (*own, *other) = (end, tcp.ack);
    }
    f.flags &= !REPLICATED;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{parse::Tcp, testing::Memory};

    fn segment(flags: u8) -> Ip {
        let tcp = Tcp { seq: 700, ack: 900, span: 100, flags };
        Ip { payload: Payload::Tcp, tcp, ..Ip::default() }
    }

    #[test]
    fn the_first_segment_of_a_replicated_flow_tells_both_numbers_and_where_the_client_is() {
        let old =
            Flow { client_next: 1, backend_next: 2, flags: REPLICATED, client_if: 3, ..Flow::default() };
        let mut f = old;
        learn(&mut f, &segment(flag::ACK), FORWARD, 9);
        assert_eq!((f.client_next, f.backend_next, f.client_if, f.flags), (800, 900, 9, 0));
        let mut f = old;
        learn(&mut f, &segment(flag::ACK | flag::FIN), 1, 9);
        assert_eq!((f.client_next, f.backend_next, f.client_if, f.flags), (900, 800, 3, 0));
        for flags in [flag::RST, flag::RST | flag::ACK, flag::SYN] {
            let mut f = old;
            learn(&mut f, &segment(flags), FORWARD, 3);
            assert_eq!(f, old, "{flags:#x}");
        }
    }

    #[test]
    fn a_half_open_flow_learns_no_numbers_and_notes_once_it_is_answered_that_something_came_by() {
        for (stage, flags) in [(Stage::SynSent, REPLICATED), (Stage::SynReceived, 0)] {
            let told =
                Flow { place: 3, stage: stage as u8, flags: REPLICATED, backend_next: 5, ..Flow::default() };
            let mut f = told;
            learn(&mut f, &segment(flag::ACK), FORWARD, 9);
            assert_eq!(f, Flow { client_if: 9, flags, ..told });
        }
    }

    #[test]
    fn nobody_is_told_unless_flows_are_replicated() {
        let mut t = Memory::new(4);
        tell(2, 7, &t);
        assert!(t.flow_events.borrow().is_empty());
        t.settings.sync = 1;
        tell(2, 7, &t);
        assert_eq!(*t.flow_events.borrow(), [FlowEvent { slot: 2, generation: 7, pad: [0; 2] }]);
    }

    #[test]
    fn a_mark_changes_with_what_peers_know_and_with_nothing_else() {
        let f = Flow { stage: Stage::Established as u8, ..Flow::default() };
        assert_eq!(mark(&f), mark(&Flow { seen: 9, client_next: 4, flags: REPLICATED, ..f }));
        for other in [
            Flow { stage: Stage::Closing as u8, ..f },
            Flow { flags: FIN_CLIENT, ..f },
            Flow { flags: FIN_BACKEND, ..f },
            Flow { place: 1, ..f },
        ] {
            assert_ne!(mark(&f), mark(&other));
        }
    }
}
