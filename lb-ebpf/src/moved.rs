//! Packets of connections that another server has than the one that their client's handshake was with.
//!
//! Such a flow is on the detour for good (`Flow::mtu`), and in a program of its own. While the daemon asks the other server, packets
//! are held, which is to say dropped: neither end has sent anything yet, and who begins sends it again. From then on the server's
//! sequence numbers and timestamps are translated into those that the client was told, and what the client says of them back, selective
//! acknowledgements too. The client's own numbers are the same on both sides. The flow's record has the numbers that the client knows,
//! so that whoever judges by it (`conntrack`, `icmp_error`, resets) has one side's numbers.
//!
//! Fragments of TCP segments and those with IPv6 extension headers are dropped (`fragment`): no stack sends any.

use lb_common::{
    checksum::{delta, fold, sum4},
    flow::{FORWARD, REVERSE, Stage},
    maps::Tail,
    mode::Mode,
    opening::{State, TIMES},
    reason::Reason,
};

use crate::{
    apply::{self, TCP_CHECK},
    capture, conntrack, detour,
    handshake::{self, Block, ROOM, kind},
    packet::{Arrival, Checksum, Packet},
    parse::{self, Ip, Payload, flag},
    plan::{Plan, Step, Verdict},
    redispatch, report,
    tables::Tables,
};

/// Steps through a segment's options: one for each option and one for each number of a selective acknowledgement. Timestamps, three
/// blocks and four bytes of padding, which is as much as there is room for, take twelve.
const MOST: u32 = 16;

/// What becomes of a packet here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is of no moved flow.
    Elsewhere,
    /// It is held.
    Held,
    /// It goes on, and is translated.
    Translated,
}

/// That, and by how much its sequence number is to change before it is judged. Flat, for the verifier's sake.
#[derive(Clone, Copy)]
struct Way {
    fate: Fate,
    seq: u32,
}

impl Way {
    #[inline(always)]
    const fn of(fate: Fate) -> Self {
        Self { fate, seq: 0 }
    }
}

/// Decides about a packet of a moved flow, rewrites it, and counts what became of it; or the program that it is left to.
#[inline(always)]
pub fn handle<P: Packet, T: Tables>(p: &mut P, t: &T, at: &Arrival) -> Result<Verdict, Tail> {
    let mut ip = Ip::default();
    parse::parse(p, &mut ip);
    let way = way(p, t, &ip);
    if way.fate == Fate::Elsewhere {
        redispatch::hand_on(p, &Plan::undecided());
        return Err(Tail::Rest);
    }
    let mut obstacle = 0;
    let plan = if way.fate == Fate::Held {
        Plan::drop(Reason::Moving)
    } else {
        // As the client knows it.
        ip.tcp.seq = ip.tcp.seq.wrapping_add(way.seq);
        conntrack::known_if(&ip, p, t, at, |f, direction| {
            obstacle = detour::stands_in_the_way(p, t, &ip, f, direction);
            obstacle == 0
        })
    };
    if obstacle != 0 {
        return Err(report::too_big(p, obstacle));
    }
    if plan.step == Step::Undecided {
        redispatch::hand_on(p, &plan);
        return Err(Tail::Rest);
    }
    if plan.reason == Reason::TtlExpired {
        return Err(report::expired(p));
    }
    if plan.step == Step::Drop {
        capture::offer(p, t, plan.reason, at, false);
    }
    if plan.step == Step::Nat {
        p.hand_on([plan.slot + 1, plan.direction.into()]);
        return Err(Tail::Renumber);
    }
    let verdict = apply::apply_known(p, t, &plan, at.ifindex, None);
    t.count(verdict.reason);
    Ok(verdict)
}

/// Rewrites a packet about which [`handle`] has decided, and counts it. In the kernel a program of its own, so that the verifier does not
/// follow it for each way of deciding.
#[inline(always)]
pub fn renumber<P: Packet, T: Tables>(p: &mut P, t: &T, at: &Arrival) -> Verdict {
    let mut ip = Ip::default();
    parse::network(p, &mut ip);
    let [slot, direction] = p.handed();
    let slot = slot.wrapping_sub(1);
    let (reason, direction) =
        if direction == 0 { (Reason::Forwarded, FORWARD) } else { (Reason::Returned, REVERSE) };
    let mode = t.flow(slot).map_or(Mode::Nat, |f| f.mode());
    let mut plan = Plan::to_backend(reason, slot, direction, mode);
    plan.v6 = ip.v6;
    let verdict = if translate(p, t, ip.l4(), slot, direction).is_some() {
        apply::apply_known(p, t, &plan, at.ifindex, None)
    } else {
        apply::verdict(&plan, None)
    };
    t.count(verdict.reason);
    verdict
}

/// Looks the flow up, and takes note of what the server that is asked says.
#[inline(always)]
fn way<P: Packet, T: Tables>(p: &P, t: &T, ip: &Ip) -> Way {
    let (elsewhere, held) = (Way::of(Fate::Elsewhere), Way::of(Fate::Held));
    if ip.payload != Payload::Tcp {
        return elsewhere;
    }
    let Some(r) = t.flow_ref(&ip.key) else { return elsewhere };
    let (slot, direction, generation) = (r.slot, r.direction, r.generation);
    let Some(f) = t.flow(slot) else { return elsewhere };
    if f.generation != generation || f.stage() == Stage::Free || !f.is_moved() {
        return elsewhere;
    }
    let client_next = f.client_next;
    let Some(o) = t.opening(slot) else { return held };
    if o.generation != generation {
        return held;
    }
    match o.state() {
        State::Moved => {
            return Way { fate: Fate::Translated, seq: if direction == REVERSE { o.seq_delta } else { 0 } };
        }
        // A RST acknowledges the SYN (RFC 9293 section 3.10.7.3), as its answer does.
        State::Held if direction == REVERSE && ip.tcp.ack == client_next => {
            if ip.tcp.has(flag::RST | flag::ACK) {
                o.state = State::Refused as u8;
            } else if ip.tcp.has(flag::SYN | flag::ACK) {
                handshake::note_answer(p, t, slot, ip);
            }
        }
        _ => {}
    }
    held
}

/// Writes the other side's numbers into the segment, and makes its checksum agree.
#[inline(never)]
fn translate<P: Packet, T: Tables>(p: &mut P, t: &T, l4: usize, slot: u32, direction: u8) -> Option<()> {
    /// Offsets in the header.
    const SEQ: usize = 4;
    const ACK: usize = 8;
    let forward = direction == FORWARD;
    let opening = t.opening(slot)?;
    let (mut seq, mut ts) = (opening.seq_delta, opening.ts_delta);
    if forward {
        (seq, ts) = (seq.wrapping_neg(), ts.wrapping_neg());
    }
    let timed = opening.agreed & TIMES != 0;
    let mut block = Block::empty();
    handshake::load(p, l4, &mut block)?;
    let mut changed = 0;
    if !forward {
        changed = shift(p, l4 + SEQ, seq)?;
    } else if block.flags[1] & flag::ACK != 0 {
        changed = shift(p, l4 + ACK, seq)?;
    }
    if block.length != 0 {
        changed = fold(u32::from(changed) + u32::from(t.shift_options(&mut block, seq, ts, forward, timed)));
        handshake::store(p, l4, &block)?;
    }
    p.update_l4_checksum(Checksum { offset: l4 + TCP_CHECK, optional: false }, 0, changed)
}

/// Adds to the number at `at`, an even place in the header; gives the checksum's delta.
#[inline(always)]
fn shift<P: Packet>(p: &mut P, at: usize, by: u32) -> Option<u16> {
    let old = p.load::<[u8; 4]>(at)?;
    let new = u32::from_be_bytes(old).wrapping_add(by).to_be_bytes();
    p.store(at, &new)?;
    Some(delta(sum4(old), sum4(new)))
}

/// Adds `seq` to the numbers of selective acknowledgements, if the segment is the client's, and `ts` to the server's time in it; gives
/// the checksum's delta. To be called as [`Tables::shift_options`].
#[inline(always)]
pub fn shift_options(block: &mut Block, seq: u32, ts: u32, forward: bool, timed: bool) -> u16 {
    let end = block.length as usize;
    let mut changed = 0u32;
    let mut at = usize::from(block.zero[0]);
    // Numbers of a selective acknowledgement that are still to come.
    let mut numbers = block.zero[1];
    let mut steps = 0;
    while steps < MOST && at + 4 <= end {
        steps += 1;
        // It is less anyhow. So the verifier need not know where it came from.
        at &= ROOM - 1;
        let (what, length) = (block.bytes[at], block.bytes[(at + 1) & (ROOM - 1)]);
        let (mut place, mut by, mut step) = (at, 0, usize::from(length));
        if numbers > 0 {
            numbers -= 1;
            (by, step) = (seq, 4);
        } else if what == kind::NOTHING {
            step = 1;
        } else if what == kind::END || length < 2 {
            break;
        } else if what == kind::SACK && forward {
            numbers = (length - 2) >> 2;
            step = 2;
        } else if what == kind::TIMES && length == 10 && timed {
            // The server's own time, or the client's echo of it.
            place = at + if forward { 6 } else { 2 };
            by = ts;
        }
        if by != 0 {
            changed += shift_at(block, place, by);
        }
        at += step;
    }
    fold(changed)
}

/// Adds to the number at this place among the options; gives the checksum's delta.
#[inline(always)]
fn shift_at(block: &mut Block, at: usize, by: u32) -> u32 {
    let places: [usize; 4] = core::array::from_fn(|i| (at + i) & (ROOM - 1));
    let old = places.map(|place| block.bytes[place]);
    let new = u32::from_be_bytes(old).wrapping_add(by).to_be_bytes();
    block.bytes[places[0]] = new[0];
    block.bytes[places[1]] = new[1];
    block.bytes[places[2]] = new[2];
    block.bytes[places[3]] = new[3];
    let changed = u32::from(delta(sum4(old), sum4(new)));
    // At an odd place its bytes count in the other order (RFC 1071 section 2). Without a branch, which the verifier would follow.
    let swapped = ((at & 1) * 8) as u32;
    (changed << swapped | changed >> (16 - swapped)) & 0xffff
}
