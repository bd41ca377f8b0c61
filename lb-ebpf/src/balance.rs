//! New flows: pick a backend from the service's ring, take a source port towards it, record the flow.

use lb_common::{
    addr::{PROTO_UDP, Port},
    checksum::{delta, sum_addr, sum2},
    flow::{FORWARD, Flow, FlowRef, REVERSE, Stage},
    reason::Reason,
    service::{Backend, Service},
};

use crate::{
    detour, half_open, latency,
    packet::Arrival,
    parse::Ip,
    ports,
    tables::{InsertError, Tables},
};

/// Opens a flow for a SYN or a datagram and gives its slot.
#[inline(always)]
pub fn open<T: Tables>(ip: &Ip, service: &Service, t: &T, at: &Arrival) -> Result<u32, Reason> {
    if service.ring_len == 0 {
        return Err(Reason::NoBackend);
    }
    // Said now rather than once the handshake is through, and without a word to the backend.
    if !t.has_free_slot() {
        return Err(Reason::FlowTableFull);
    }
    let place = half_open::take(t)?;
    // What was thrown out must be gone before the record is filled anew, and its keys off the stack.
    t.flow(place.slot).ok_or(Reason::FlowTableFull)?.place = place.index as u16;
    let slot = enter(ip, service, place.slot, t, at)?;
    if let Some(f) = t.flow(slot) {
        latency::begin(f, at.now, t);
    }
    Ok(slot)
}

/// Fills the record in a slot whose place this processor has, enters its keys, and gives the place back.
///
/// A function of its own in the kernel as well: inlined, the whole path would need more than the 512 bytes of stack.
#[inline(never)]
fn enter<T: Tables>(ip: &Ip, service: &Service, slot: u32, t: &T, at: &Arrival) -> Result<u32, Reason> {
    let f = t.flow(slot).ok_or(Reason::FlowTableFull)?;
    let entered = pick(service, t).and_then(|(id, backend)| {
        fill(f, ip, service, backend, at.now);
        detour::prepare(f, backend, t.path(id))?;
        f.backend_id = id;
        f.client_if = at.ifindex;
        record(f, slot, t)
    });
    if entered.is_err() {
        f.stage = Stage::Free as u8;
    }
    half_open::release(f.place.into(), slot, f.generation, t);
    entered?;
    if let Some(s) = t.service_stats(f.service) {
        s.flows += 1;
        s.forward.count(u64::from(ip.length));
    }
    if let Some(b) = t.backend_stats(f.backend_id) {
        b.flows += 1;
        b.forward.count(u64::from(ip.length));
    }
    Ok(slot)
}

/// The backend of a new flow: the next one of the service's ring.
#[inline(always)]
fn pick<'a, T: Tables>(service: &Service, t: &'a T) -> Result<(u32, &'a Backend), Reason> {
    let position = service.ring_base + t.next(service.id) % service.ring_len.max(1);
    let id = t.ring(position).ok_or(Reason::BackendMissing)?;
    Ok((id, t.backend(id).ok_or(Reason::BackendMissing)?))
}

#[inline(always)]
fn fill(f: &mut Flow, ip: &Ip, service: &Service, backend: &Backend, now: u64) {
    f.client = ip.key.src;
    f.vip = ip.key.dst;
    f.backend = backend.addr;
    f.snat = ip.key.src;
    f.client_port = ip.key.sport;
    f.vip_port = ip.key.dport;
    f.backend_port = if backend.port == Port([0; 2]) { ip.key.dport } else { backend.port };
    f.snat_port = ip.key.sport;
    f.seen = now;
    f.born = (now / 1_000_000_000) as u32;
    f.service = service.id;
    f.router = service.router;
    f.backend_if = backend.ifindex;
    f.client_next = ip.tcp.seq.wrapping_add(ip.tcp.span);
    f.backend_next = 0;
    f.generation = f.generation.wrapping_add(1);
    f.proto = ip.key.proto;
    f.mode = backend.mode;
    f.flags = 0;
    f.pool = 0;
    f.stage = if ip.key.proto == PROTO_UDP { Stage::OneWay } else { Stage::SynSent } as u8;
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
