//! How long backends take to answer (`lb_common::latency`): watched in the first packets of each flow, after which it costs one
//! look at a flag.
//!
//! What is waited for has begun when the record was last seen: nothing else moves that meanwhile.

use lb_common::{
    addr::PROTO_UDP,
    flow::{ASKED, FORWARD, Flow, REVERSE, Stage, TIMED},
    latency::GIVE_UP_US,
};

use crate::{
    parse::{Ip, Payload, flag},
    tables::Tables,
};

const SECOND: u64 = 1_000_000_000;
/// A client that has sent nothing for so long since the flow began, s, is not watched further.
const PATIENCE_S: u64 = 60;

/// Notes that a packet of the flow was seen at `now`. To be called before the packet changes the flow's stage.
#[inline(always)]
pub fn seen<T: Tables>(f: &mut Flow, ip: &Ip, direction: u8, now: u64, t: &T) {
    if f.flags & TIMED == 0 { watch(f, ip, direction, now, t) } else { f.seen = now }
}

/// Begins to watch a flow whose first packet goes on at `now`.
#[inline(always)]
pub fn begin<T: Tables>(f: &mut Flow, now: u64, t: &T) {
    f.flags |= if f.mode().is_one_way() {
        // Nobody here sees the answers.
        TIMED
    } else if f.proto == PROTO_UDP {
        ASKED
    } else {
        0
    };
    f.seen = t.precise(now);
}

/// What a packet is to a flow whose answers are waited for.
#[derive(PartialEq, Eq)]
enum Part {
    /// The client asks, by a SYN, or by its first data.
    Asks,
    /// The backend has taken the connection.
    Connected,
    /// The backend has answered.
    Answered,
    /// Neither.
    Other,
}

#[inline(never)]
fn watch<T: Tables>(f: &mut Flow, ip: &Ip, direction: u8, now: u64, t: &T) {
    let asked = f.flags & ASKED != 0;
    let part = part(f, ip, direction, asked);
    if part == Part::Other {
        return go_on(f, asked, now, t);
    }
    let now = t.precise(now);
    let waited = now.saturating_sub(f.seen);
    f.seen = now;
    match part {
        Part::Asks if f.stage() != Stage::SynSent => f.flags |= ASKED,
        Part::Asks | Part::Other => {}
        Part::Connected => {
            if let Some(latency) = t.latency(f.backend_id) {
                latency.connect.count(waited);
            }
        }
        Part::Answered => answered(f, waited, t),
    }
}

/// A packet that neither asks nor answers.
#[inline(always)]
fn go_on<T: Tables>(f: &mut Flow, asked: bool, now: u64, t: &T) {
    // The record may be younger than the last timer tick.
    let waited = now.saturating_sub(f.seen);
    if asked && waited >= GIVE_UP_US * 1000 {
        answered(f, waited, t);
    } else if !asked && (now / SECOND).saturating_sub(f.born as u64) > PATIENCE_S {
        f.flags |= TIMED;
    }
    if !asked || f.flags & TIMED != 0 {
        f.seen = now.max(f.seen);
    }
}

#[inline(always)]
fn answered<T: Tables>(f: &mut Flow, waited: u64, t: &T) {
    f.flags |= TIMED;
    if let Some(latency) = t.latency(f.backend_id) {
        latency.response.count(waited);
    }
}

#[inline(always)]
fn part(f: &Flow, ip: &Ip, direction: u8, asked: bool) -> Part {
    let tcp = &ip.tcp;
    if ip.payload == Payload::Udp {
        return if direction == REVERSE { Part::Answered } else { Part::Other };
    }
    if f.stage() == Stage::SynSent {
        let takes = direction == REVERSE && tcp.has(flag::SYN | flag::ACK) && tcp.ack == f.client_next;
        return match direction {
            FORWARD => Part::Asks,
            _ if takes => Part::Connected,
            _ => Part::Other,
        };
    }
    let controls = u32::from(tcp.flags & flag::SYN != 0) + u32::from(tcp.flags & flag::FIN != 0);
    let data = tcp.span > controls;
    match direction {
        FORWARD if data && !asked => Part::Asks,
        REVERSE if data && asked => Part::Answered,
        _ => Part::Other,
    }
}
