//! New flows: have a backend chosen (`schedule`), take a source port towards it, record the flow.

use lb_common::{
    addr::{PROTO_UDP, Port},
    checksum::{delta, sum_addr, sum2},
    flow::{COUNTED, FORWARD, Flow, FlowRef, RETRIED, REVERSE, Stage},
    reason::Reason,
    service::{Backend, Service},
};

use crate::{
    detour, half_open, latency,
    packet::Arrival,
    parse::Ip,
    ports, redispatch,
    schedule::Ring,
    tables::{InsertError, Tables},
};

/// Opens a flow for a SYN or a datagram and gives its slot. `handed` is what `redispatch::handed` gives of it. Where the backend that was
/// chosen has no source port left, `unreached` becomes that for another try, if this is the first and there may be others.
#[inline(always)]
pub fn open<T: Tables>(
    ip: &Ip,
    service: &Service,
    handed: u32,
    unreached: &mut u32,
    t: &T,
    at: &Arrival,
) -> Result<u32, Reason> {
    if service.ring_len == 0 {
        return Err(Reason::NoBackend);
    }
    // Said now rather than once the handshake is through, and without a word to the backend.
    if !t.has_free_slot() {
        return Err(Reason::FlowTableFull);
    }
    let place = half_open::take(t)?;
    // What was thrown out must be gone before the record is filled anew, and its keys off the stack.
    let f = t.flow(place.slot).ok_or(Reason::FlowTableFull)?;
    f.place = place.index as u16;
    f.flags = if redispatch::was_left(handed) { RETRIED } else { 0 };
    fill(ip, service, place.slot, t, at);
    // From here and not from `enter`, below which there is no stack for it.
    let avoid = handed & !redispatch::UNREACHED;
    let picked = t.pick(place.slot, &Ring { avoid, ..Ring::of(service) });
    let refused = match picked.err() {
        // The others have no room; why the first one was not taken is what is wrong.
        Some(Reason::BackendsFull) if handed & redispatch::UNREACHED != 0 => Reason::SnatPortsExhausted,
        refused => refused.unwrap_or(Reason::NewFlow),
    };
    let entered = enter(ip, place.slot, picked.unwrap_or(0), refused, t);
    if entered == Err(Reason::SnatPortsExhausted)
        && handed == 0
        && service.ring_len > 1
        && service.members != 1
    {
        *unreached = picked.unwrap_or(0).wrapping_add(1) | redispatch::UNREACHED;
    }
    let slot = entered?;
    if let Some(f) = t.flow(slot) {
        latency::begin(f, at.now, t);
    }
    Ok(slot)
}

/// Fills in which backend was picked, enters the keys of the record in a slot whose place this processor has, and gives the place
/// back. With another reason than that of a new flow none was.
///
/// A function of its own in the kernel as well: inlined, the whole path would need more than the 512 bytes of stack.
#[inline(never)]
fn enter<T: Tables>(ip: &Ip, slot: u32, id: u32, refused: Reason, t: &T) -> Result<u32, Reason> {
    let f = t.flow(slot).ok_or(Reason::FlowTableFull)?;
    let entered = if refused == Reason::NewFlow { Ok(()) } else { Err(refused) }.and_then(|()| {
        // From here on the flow is on the counts.
        f.backend_id = id;
        f.mode = COUNTED;
        let backend = t.backend(id).ok_or(Reason::BackendMissing)?;
        direct(f, backend);
        detour::prepare(f, backend, t.path(id))?;
        record(f, slot, t)
    });
    if entered.is_err() {
        t.release(slot);
        f.stage = Stage::Free as u8;
    }
    half_open::release(f.place.into(), slot, f.generation, t);
    entered?;
    if let Some(s) = t.service_stats(f.service) {
        // To the client it is one connection.
        s.flows += u64::from(f.flags & RETRIED == 0);
        s.forward.count(u64::from(ip.length));
    }
    if let Some(b) = t.backend_stats(f.backend_id) {
        b.flows += 1;
        b.forward.count(u64::from(ip.length));
    }
    Ok(slot)
}

/// Fills in what the packet and its service say.
#[inline(never)]
fn fill<T: Tables>(ip: &Ip, service: &Service, slot: u32, t: &T, at: &Arrival) {
    let Some(f) = t.flow(slot) else { return };
    f.client = ip.key.src;
    f.vip = ip.key.dst;
    f.snat = ip.key.src;
    f.client_port = ip.key.sport;
    f.vip_port = ip.key.dport;
    f.snat_port = ip.key.sport;
    f.seen = at.now;
    f.born = (at.now / 1_000_000_000) as u32;
    f.service = service.id;
    f.router = service.router;
    f.client_if = at.ifindex;
    f.client_next = ip.tcp.seq.wrapping_add(ip.tcp.span);
    f.backend_next = 0;
    f.generation = f.generation.wrapping_add(1);
    f.proto = ip.key.proto;
    f.mode = 0;
    f.pool = 0;
    f.stage = if ip.key.proto == PROTO_UDP { Stage::OneWay } else { Stage::SynSent } as u8;
}

/// Fills in what the backend says.
#[inline(always)]
fn direct(f: &mut Flow, backend: &Backend) {
    f.backend = backend.addr;
    f.backend_port = if backend.port == Port([0; 2]) { f.vip_port } else { backend.port };
    f.backend_if = backend.ifindex;
    f.mode = backend.mode | COUNTED;
}

/// Enters both keys of the filled record in a slot, and completes the record.
#[inline(always)]
fn record<T: Tables>(f: &mut Flow, slot: u32, t: &T) -> Result<(), Reason> {
    t.enter_reverse(f, slot)?;
    let entered = t.enter_forward(f, slot);
    if entered.is_err() {
        t.end_flow(f, slot);
    }
    entered
}

/// Enters the key of the packets that come from the backend, with a free source port. A backend that sees the client's own address
/// and port leaves no port to choose, and none to turn to when the client speaks to it through two services from one port;
/// one that answers the client directly has no reverse key.
#[inline(always)]
pub fn enter_reverse<T: Tables>(f: &mut Flow, slot: u32, t: &T) -> Result<(), Reason> {
    let to = FlowRef { slot, generation: f.generation, direction: REVERSE, pad: 0 };
    if f.mode().is_one_way() { Ok(()) } else { ports::enter(f, &to, t) }
}

/// Enters the key of the packets that come from the client. All addresses and ports are known by now.
#[inline(always)]
pub fn enter_forward<T: Tables>(f: &mut Flow, slot: u32, t: &T) -> Result<(), Reason> {
    f.addr_delta = delta(sum_addr(&f.client) + sum_addr(&f.vip), sum_addr(&f.snat) + sum_addr(&f.backend));
    f.port_delta =
        delta(sum2(f.client_port.0) + sum2(f.vip_port.0), sum2(f.snat_port.0) + sum2(f.backend_port.0));
    let to = FlowRef { slot, generation: f.generation, direction: FORWARD, pad: 0 };
    t.insert_key(&f.forward_key(), &to).map_err(|e| match e {
        InsertError::Exists => Reason::ConcurrentOpen,
        InsertError::Full => Reason::FlowTableFull,
    })
}
