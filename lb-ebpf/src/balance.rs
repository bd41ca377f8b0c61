//! New flows: have a backend chosen (`schedule`), claim a source port towards it, record the flow.

use lb_common::{
    addr::{PROTO_UDP, Port},
    checksum::{delta, sum_addr, sum2},
    flow::{COUNTED, FORWARD, Flow, FlowKey, FlowRef, REVERSE, Stage},
    hash,
    mode::Mode,
    reason::Reason,
    service::{Backend, Service},
};

use crate::{
    detour, half_open, latency,
    packet::Arrival,
    parse::Ip,
    schedule::Ring,
    tables::{InsertError, Tables},
};

/// Ports tried for one flow. The walk starts at a hash of the client and takes a stride of its own, so that at 80 %
/// occupancy of the range 32 tries fail once in 1,300 (0.8³²).
const PORT_TRIES: u32 = 32;

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
    t.flow(place.slot).ok_or(Reason::FlowTableFull)?.place = place.index;
    fill(ip, service, place.slot, t, at);
    // From here and not from `enter`, below which there is no stack for it.
    let picked = t.pick(place.slot, &Ring::of(service));
    let refused = picked.err().unwrap_or(Reason::NewFlow);
    let slot = enter(ip, service, place.slot, (picked.unwrap_or(0), refused), t)?;
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
fn enter<T: Tables>(
    ip: &Ip,
    service: &Service,
    slot: u32,
    (id, refused): (u32, Reason),
    t: &T,
) -> Result<u32, Reason> {
    let f = t.flow(slot).ok_or(Reason::FlowTableFull)?;
    let entered = if refused == Reason::NewFlow { Ok(()) } else { Err(refused) }.and_then(|()| {
        // From here on the flow is on the counts.
        f.backend_id = id;
        f.mode = COUNTED;
        let backend = t.backend(id).ok_or(Reason::BackendMissing)?;
        direct(f, service, backend);
        detour::prepare(f, backend, t.path(id))?;
        f.addr_delta =
            delta(sum_addr(&f.client) + sum_addr(&f.vip), sum_addr(&f.snat) + sum_addr(&f.backend));
        record(f, slot, &ip.key, t)
    });
    if entered.is_err() {
        t.release(slot);
        f.stage = Stage::Free as u8;
    }
    half_open::release(f.place, slot, f.generation, t);
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

/// Fills in what the packet and its service say.
#[inline(never)]
fn fill<T: Tables>(ip: &Ip, service: &Service, slot: u32, t: &T, at: &Arrival) {
    let Some(f) = t.flow(slot) else { return };
    f.client = ip.key.src;
    f.vip = ip.key.dst;
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
    f.flags = 0;
    f.stage = if ip.key.proto == PROTO_UDP { Stage::OneWay } else { Stage::SynSent } as u8;
}

/// Fills in what the backend says.
#[inline(always)]
fn direct(f: &mut Flow, service: &Service, backend: &Backend) {
    f.backend = backend.addr;
    f.snat = if backend.mode() == Mode::Nat { service.snat } else { f.client };
    f.backend_port = if backend.port == Port([0; 2]) { f.vip_port } else { backend.port };
    f.backend_if = backend.ifindex;
    f.mode = backend.mode | COUNTED;
}

/// Enters both keys of a filled record, the reverse one with a free source port. A backend that sees the client's own address
/// and port leaves no port to choose, and none to turn to when the client speaks to it through two services from one port;
/// one that answers the client directly has no reverse key.
#[inline(always)]
fn record<T: Tables>(f: &mut Flow, slot: u32, forward: &FlowKey, t: &T) -> Result<(), Reason> {
    let mut reverse = f.reverse_key();
    let there = to(f, slot, REVERSE);
    let mode = f.mode();
    match mode {
        Mode::Nat => claim_port(&mut reverse, forward, &there, t)?,
        Mode::Dnat => t.insert_key(&reverse, &there).map_err(no_port)?,
        Mode::Dsr | Mode::Tunnel | Mode::Local => {}
    }
    f.snat_port = reverse.dport;
    f.port_delta =
        delta(sum2(f.client_port.0) + sum2(f.vip_port.0), sum2(f.snat_port.0) + sum2(f.backend_port.0));
    match t.insert_key(forward, &to(f, slot, FORWARD)) {
        Ok(()) => Ok(()),
        Err(e) => {
            if !mode.is_one_way() {
                t.remove_key(&reverse);
            }
            Err(if e == InsertError::Exists { Reason::ConcurrentOpen } else { Reason::FlowTableFull })
        }
    }
}

#[inline(always)]
fn to(f: &Flow, slot: u32, direction: u8) -> FlowRef {
    FlowRef { slot, generation: f.generation, direction, pad: 0 }
}

#[inline(always)]
fn no_port(e: InsertError) -> Reason {
    if e == InsertError::Exists { Reason::SnatPortsExhausted } else { Reason::FlowTableFull }
}

/// Walks over the source ports until one is free towards this backend.
#[inline(always)]
fn claim_port<T: Tables>(
    reverse: &mut FlowKey,
    forward: &FlowKey,
    to: &FlowRef,
    t: &T,
) -> Result<(), Reason> {
    let ports = t.settings().ok_or(Reason::SnatPortsExhausted)?.snat_ports;
    let n = ports.len();
    if n == 0 {
        return Err(Reason::SnatPortsExhausted);
    }
    let h = hash::flow(forward);
    let mut i = h % n;
    let stride = 1 + 2 * (h >> 24);
    let mut tries = 0;
    while tries < PORT_TRIES {
        reverse.dport = ports.nth(i);
        match t.insert_key(reverse, to) {
            Ok(()) => return Ok(()),
            Err(InsertError::Full) => return Err(Reason::FlowTableFull),
            Err(InsertError::Exists) => {}
        }
        i = (i + stride) % n;
        tries += 1;
    }
    Err(Reason::SnatPortsExhausted)
}
