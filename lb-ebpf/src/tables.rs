//! Access to state, as the kernel's maps or a test's memory give it.

use lb_common::{
    access::{AccessKey, Limits, PaceKey},
    addr::{Addr, Port},
    flow::{Flow, FlowKey, FlowRef},
    flow_event::FlowEvent,
    fragment::{FragmentKey, FragmentRef},
    held::Held,
    latency::Latency,
    lease::Lease,
    occupancy::Occupancy,
    opening::{Opening, Options},
    persistence::{ClientKey, Remembered},
    ports::{PoolKey, Sources},
    reach::RangeKey,
    reason::Reason,
    sample::{Capture, Sample},
    service::{Backend, Interface, Path, Service, ServiceKey, Vip},
    settings::Settings,
    stats::{BackendStats, ServiceStats},
};

use crate::{
    handshake::{self, Block},
    moved, occupancy, redispatch,
    schedule::{self, By, Ring},
};

/// Why a key could not be inserted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InsertError {
    /// It is there already.
    Exists,
    /// No room.
    Full,
}

/// State of the packet path. References are to live entries that other processors may write as well; the core holds
/// one at a time and tolerates torn statistics.
#[allow(
    clippy::mut_from_ref,
    reason = "map values are shared memory: exclusive only as far as the kernel makes them"
)]
pub trait Tables {
    /// Run-time settings.
    fn settings(&self) -> Option<&Settings>;
    /// A virtual address, or one of the node's own that services are on.
    fn vip(&self, addr: &Addr) -> Option<&Vip>;
    /// The lease of a virtual router.
    fn lease(&self, router: u32) -> Option<&mut Lease>;
    /// The precise time, while a program goes by that of the last timer tick: `now` is the same or up to
    /// [`BEHIND`](lb_common::clock::BEHIND) earlier.
    fn precise(&self, now: u64) -> u64 {
        now
    }
    /// A service.
    fn service(&self, key: &ServiceKey) -> Option<&Service>;
    /// First port of the range that a port belongs to.
    fn range(&self, key: &RangeKey) -> Option<Port>;
    /// Until when the daemon counts as alive, boottime ns.
    fn alive_until(&self) -> u64;
    /// The word in a ring slot (`schedule`).
    fn ring(&self, slot: u32) -> Option<u64>;
    /// Counts up the cursor of a service in one step and gives its former value.
    fn next(&self, service: u32) -> u32;
    /// A backend.
    fn backend(&self, id: u32) -> Option<&Backend>;
    /// Connections of a backend or service (`lb_common::occupancy`).
    fn occupancy(&self, element: u32) -> Option<Occupancy>;
    /// Counts one more there, unless it is full; whether it did.
    fn occupy(&self, element: u32) -> bool;
    /// Counts one more there whatever the limit, and gives the former number (as a signed one it may be below zero for a moment).
    fn join(&self, element: u32) -> u64;
    /// Counts one less.
    fn leave(&self, element: u32);
    /// Clears a flow's [`COUNTED`](lb_common::flow::COUNTED) in one step; whether it was set.
    fn unmark(&self, flow: &mut Flow) -> bool;
    /// Which backend a client was given.
    fn remembered(&self, key: &ClientKey) -> Option<&mut Remembered>;
    /// Leaves word of it.
    fn remember(&self, key: &ClientKey, to: &Remembered);
    /// The way to a backend.
    fn path(&self, backend: u32) -> Option<&Path>;
    /// When the ICMP errors sent so far would have been due at their steady pace (`report`), boottime ns.
    fn reported(&self) -> Option<&mut u64>;
    /// An interface.
    fn interface(&self, ifindex: u32) -> Option<&Interface>;

    /// Where a key leads.
    fn flow_ref(&self, key: &FlowKey) -> Option<&FlowRef>;
    /// The record in a slot.
    fn flow(&self, slot: u32) -> Option<&mut Flow>;
    /// How the flow in a slot began, if that was noted.
    fn opening(&self, slot: u32) -> Option<&mut Opening>;
    /// Takes a free slot.
    fn take_slot(&self) -> Option<u32>;
    /// Whether there is a free slot.
    fn has_free_slot(&self) -> bool;
    /// Counts up the places taken and gives the former number.
    fn next_place(&self) -> u32;
    /// What place `i` of half-open flows holds (`half_open`), from 1 on.
    fn place(&self, i: u32) -> Option<u64>;
    /// Writes what a place holds; only for who has it.
    fn set_place(&self, i: u32, to: u64);
    /// Writes what a place holds if it holds `from`, in one step; whether it did.
    fn exchange_place(&self, i: u32, from: u64, to: u64) -> bool;
    /// Gives a slot back.
    fn free_slot(&self, slot: u32);
    /// Adds a key that is not there yet.
    fn insert_key(&self, key: &FlowKey, to: &FlowRef) -> Result<(), InsertError>;
    /// Removes a key; whether it was there. Of several that remove one at once, one is told so.
    fn remove_key(&self, key: &FlowKey) -> bool;

    /// What holds for a service's new flows.
    fn limits(&self, service: u32) -> Option<&Limits>;
    /// What its rules say about a client.
    fn access(&self, key: &AccessKey) -> Option<u32>;
    /// When a client's next flow is due, boottime ns.
    fn client_due(&self, key: &PaceKey) -> Option<u64>;
    /// Takes note of a client.
    fn add_client(&self, key: &PaceKey, due: u64);
    /// Changes when its next flow is due if it is still `from`, in one step; whether it did.
    fn exchange_client_due(&self, key: &PaceKey, from: u64, to: u64) -> bool;
    /// Why a client may not open a flow, if so (`access_list::admit`, verified by itself like those below).
    fn admit(&self, service: u32, client: &Addr, now: u64) -> Result<(), Reason>;

    /// The pools that new flows to a backend take source ports from.
    fn sources(&self, backend: u32) -> Option<&Sources>;
    /// Whose ports a pool holds.
    fn pool(&self, pool: u32) -> Option<&PoolKey>;
    /// Enters the reverse key of the filled record in a slot (`balance::enter_reverse`). This and the next two are here because the
    /// kernel has functions that are verified by themselves for them.
    fn enter_reverse(&self, f: &mut Flow, slot: u32) -> Result<(), Reason>;
    /// Enters its forward key (`balance::enter_forward`).
    fn enter_forward(&self, f: &mut Flow, slot: u32) -> Result<(), Reason>;
    /// Undoes what there was for a flow that has ended (`ending::ended`).
    fn end_flow(&self, f: &mut Flow, slot: u32);
    /// Takes a free port of a pool, beginning where the hash says (`ports::take`).
    fn claim_port(&self, pool: u32, hash: u32) -> Option<u16>;
    /// Gives one back (`ports::give_back`).
    fn release_port(&self, pool: u32, port: u16);

    /// Tells the daemon of a flow.
    fn flow_event(&self, event: &FlowEvent);

    /// Leaves a SYN-ACK to the daemon; whether there was room.
    fn hold(&self, held: &Held) -> bool;

    /// Where the fragments of a datagram go.
    fn fragment(&self, key: &FragmentKey) -> Option<&FragmentRef>;
    /// Leaves word for the fragments of a datagram.
    fn record_fragment(&self, key: &FragmentKey, to: &FragmentRef);

    /// Counters of a service.
    fn service_stats(&self, service: u32) -> Option<&mut ServiceStats>;
    /// Counters of a backend.
    fn backend_stats(&self, backend: u32) -> Option<&mut BackendStats>;
    /// How fast a backend answers.
    fn latency(&self, backend: u32) -> Option<&mut Latency>;
    /// Counts what became of a packet.
    fn count(&self, reason: Reason);
    /// Who wants to see packets.
    fn capture(&self) -> Option<&Capture>;
    /// Shows one.
    fn sample(&self, sample: &Sample);

    /// [`schedule::pick`]; in the kernel a function that is verified apart, as the next three.
    #[inline(always)]
    fn pick(&self, slot: u32, ring: &Ring) -> Result<u32, Reason>
    where
        Self: Sized,
    {
        schedule::pick(slot, ring, self)
    }

    /// [`schedule::least`].
    #[inline(always)]
    fn least(&self, first: u32, members: u32, by: By, start: u32, avoid: u32) -> Option<u32>
    where
        Self: Sized,
    {
        schedule::least(first, members, by, start, avoid, self)
    }

    /// [`schedule::is_member`].
    #[inline(always)]
    fn is_member(&self, first: u32, members: u32, backend: u32) -> bool
    where
        Self: Sized,
    {
        schedule::is_member(first, members, backend, self)
    }

    /// [`occupancy::release`].
    #[inline(always)]
    fn release(&self, slot: u32)
    where
        Self: Sized,
    {
        occupancy::release(slot, self);
    }

    /// [`redispatch::missed`].
    #[inline(always)]
    fn missed(&self, slot: u32, refused: bool) -> bool
    where
        Self: Sized,
    {
        redispatch::missed(slot, refused, self)
    }

    /// [`handshake::read`].
    #[inline(always)]
    fn options(&self, block: &Block) -> Options {
        handshake::read(block)
    }

    /// [`moved::shift_options`].
    #[inline(always)]
    fn shift_options(&self, block: &mut Block, seq: u32, ts: u32, forward: bool, timed: bool) -> u16 {
        moved::shift_options(block, seq, ts, forward, timed)
    }

    /// A virtual address. The node's own are none: its stack answers for them, lease or not.
    #[inline(always)]
    fn virtual_address(&self, addr: &Addr) -> Option<&Vip> {
        self.vip(addr).filter(|vip| !vip.is_own())
    }

    /// Whether this node may act for addresses of `router` at `now`: the daemon has renewed the lease recently enough.
    #[inline(always)]
    fn owns(&self, router: u32, now: u64) -> bool {
        self.lease(router).is_some_and(|lease| lease.is_valid(self.precise(now)))
    }
}
