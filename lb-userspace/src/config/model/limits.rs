//! The checked configuration of a service's connections: how long they may be silent.

use std::time::Duration;

use lb_common::flow::Stage;

/// How long a service's flows may be silent before they are forgotten, by their stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP, established. Default 5 days.
    pub established: Duration,
    /// TCP, not established yet. Default 60 s.
    pub half_open: Duration,
    /// TCP, both sides have sent FIN. Default 60 s.
    pub closing: Duration,
    /// TCP, reset. Default 10 s.
    pub closed: Duration,
    /// UDP, not answered yet. Default 30 s; `half_open` if that is given.
    pub unanswered: Duration,
    /// UDP, answered. Default 180 s.
    pub udp: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let of = |stage: Stage| Duration::from_nanos(stage.timeout_ns());
        Self {
            established: of(Stage::Established),
            half_open: of(Stage::SynSent),
            closing: of(Stage::Closing),
            closed: of(Stage::Closed),
            unanswered: of(Stage::OneWay),
            udp: of(Stage::TwoWay),
        }
    }
}

impl Timeouts {
    /// How long a flow may be silent in a stage.
    pub fn of(&self, stage: Stage) -> Duration {
        match stage {
            Stage::Free => Duration::ZERO,
            Stage::SynSent | Stage::SynReceived => self.half_open,
            Stage::Established => self.established,
            Stage::Closing => self.closing,
            Stage::Closed => self.closed,
            Stage::OneWay => self.unanswered,
            Stage::TwoWay => self.udp,
        }
    }
}
