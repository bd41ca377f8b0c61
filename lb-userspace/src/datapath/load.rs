//! Brings programs and maps into the kernel, attaches and pins them; or adopts what a former daemon left pinned.
//!
//! A failure on the way removes what this run made. `close` takes everything out again; a daemon that dies instead leaves
//! programs that fence themselves when the lease runs out.

use std::{
    fs,
    os::fd::{AsFd, AsRawFd},
    path::PathBuf,
};

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::MapData,
    programs::{ProgramFd, SchedClassifier, TcAttachType, TestRun, TestRunOptions},
};
use aya_log::EbpfLogger;
use lb_common::{
    half_open,
    maps::{self as names, DEFAULT_POOLS, DEFAULT_RING_SLOTS},
};
use tokio::io::unix::AsyncFd;

use super::{
    alive::Alive, attach, build, flows::Collector, layouts, maps::Maps, migrate::Migration, pins::Pins,
    ports::Pools, programs, tables::Tables, tails, xdp,
};
use crate::{
    config::model::{Hook, Hooks},
    log::DatapathLog,
    units, upgrade,
};

pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/viplb.bpf.o"));

/// The two programs and the directions they are for.
pub(super) const PROGRAMS: [(&str, &str, TcAttachType); 2] =
    [("viplb_ingress", "ingress", TcAttachType::Ingress), ("viplb_egress", "egress", TcAttachType::Egress)];

/// An interface with programs on it.
#[derive(Debug, Clone)]
pub struct Attached {
    /// Its name.
    pub interface: String,
    /// `tcx` or `clsact`; `xdp` or `xdp-generic` with one of these behind it.
    pub hook: &'static str,
    /// Why that one.
    pub why: String,
    /// What was asked for.
    pub wanted: Hook,
    /// Interfaces by which XDP may send what came in here.
    pub ways: Vec<u32>,
}

/// How much the maps hold whose size is chosen when they are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Established flows.
    pub flows: u32,
    /// Slots of all rings ([`ring::slots`](super::ring::slots)).
    pub ring_slots: u32,
    /// Pools of source ports: one for each source that connections to a backend come from.
    pub pools: u32,
}

impl From<u32> for Sizes {
    /// So many flows, and the usual number of slots and pools.
    fn from(flows: u32) -> Self {
        let (ring_slots, pools) = (DEFAULT_RING_SLOTS as u32, DEFAULT_POOLS as u32 - 1);
        Self { flows, ring_slots, pools }
    }
}

/// The kernel's side of viplb.
pub struct Datapath {
    pub(super) pins: Pins,
    /// Writes desired state.
    pub tables: Tables,
    /// Frees expired flows.
    pub collector: Collector,
    /// Tells the programs that the daemon lives.
    pub alive: Alive,
    /// Where programs are attached.
    pub attached: Vec<Attached>,
    /// Whether maps of a former daemon were adopted.
    pub adopted: bool,
    // clsact attachments end with this; tcx links are pinned.
    pub(super) programs: Ebpf,
}

impl Datapath {
    /// Loads, attaches and pins for `interfaces`.
    pub fn open(
        pins: &Pins,
        interfaces: &[String],
        hooks: impl Into<Hooks>,
        sizes: impl Into<Sizes>,
    ) -> Result<Self> {
        let sizes = sizes.into();
        if OBJECT.is_empty() {
            bail!("this viplb was built without its packet programs: build it with `cargo xtask build`");
        }
        // Refuses what it cannot read before anything is touched.
        let migration = Migration::find(pins)?;
        let adopted = pins.maps().exists();
        if migration.is_some() && !upgrade::has_been_tried() {
            programs::test().context("the packet programs of this build do not work here")?;
        } else if adopted && migration.is_none() {
            let rings = Maps::open(pins)?.rings.len();
            if rings < sizes.ring_slots {
                bail!(
                    "the adopted maps have {rings} slots for the schedulers' tables, and this configuration takes {}: stop viplb \
                     properly (SIGTERM) and start it again",
                    sizes.ring_slots
                );
            }
        }
        let opened = Self::load(pins, interfaces, &hooks.into(), sizes, (adopted, migration));
        if opened.is_err() && !adopted {
            let _ = pins.remove();
        }
        opened
    }

    fn load(
        pins: &Pins,
        interfaces: &[String],
        hooks: &Hooks,
        sizes: Sizes,
        (adopted, migration): (bool, Option<Migration>),
    ) -> Result<Self> {
        for dir in [pins.maps(), pins.links()] {
            fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let (mut ebpf, attached, tails) = match migration {
            None => {
                let (mut ebpf, tails) = load_programs(pins, sizes, || layouts::tell(pins))?;
                let attached = attach_all(&mut ebpf, pins, interfaces, hooks)?;
                (ebpf, attached, tails)
            }
            Some(migration) => load_beside(pins, interfaces, hooks, sizes, migration)?,
        };
        forward_log(&mut ebpf);
        let maps = Maps::open(pins)?;
        let places = maps.half_open.len() - 1;
        let capacity = maps.flows.len() - places;
        let pools = maps.port_pools.len();
        tell_capacity(pins, capacity, sizes.flows, pools);
        let port_pools = Pools::open(pins, &maps)?;
        // Only now does no program of a former daemon go on in its own tails any more.
        tails::remove_others(pins, &tails)?;
        build::tell(pins)?;
        let collector = Collector::open(pins, capacity, places, pools)?;
        if adopted && collector.recount() > 0 {
            tracing::info!("counts of connections that the former daemon had left unfinished are put right");
        }
        Ok(Self {
            tables: Tables::open(maps, port_pools, pins)?,
            collector,
            alive: Alive::open(pins)?,
            pins: pins.clone(),
            attached,
            adopted,
            programs: ebpf,
        })
    }

    /// Runs a frame through the loaded ingress or egress program against the live maps (`BPF_PROG_TEST_RUN`), as if it had
    /// come in by the loopback interface; nothing is sent. Gives the program's return value and the frame as it left it.
    pub fn test_run(&self, egress: bool, frame: &[u8]) -> Result<(i32, Vec<u8>)> {
        let program: &SchedClassifier = self
            .programs
            .program(PROGRAMS[usize::from(egress)].0)
            .context("the object lacks a program")?
            .try_into()?;
        let mut out = vec![0; frame.len() + 256];
        let result = program.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        })?;
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value as i32, out))
    }

    /// The loaded ingress program, for another that goes on in it by a tail call.
    pub fn ingress(&self) -> Result<&ProgramFd> {
        let program: &SchedClassifier =
            self.programs.program(PROGRAMS[0].0).context("the object lacks a program")?.try_into()?;
        Ok(program.fd()?)
    }

    /// Each program's name, its number in the kernel, and the instructions that the kernel's verifier looked at before it took
    /// it (its limit is a million); `None` before Linux 5.16, which does not tell.
    pub fn verified(&self) -> Result<Vec<(&'static str, u32, Option<u32>)>> {
        let verified = |name: &'static str| {
            let program: &SchedClassifier =
                self.programs.program(name).context("the object lacks a program")?.try_into()?;
            let info = program.info()?;
            Ok((name, info.id(), info.verified_instruction_count()))
        };
        let entries = PROGRAMS.into_iter().map(|(name, ..)| name);
        entries.chain(tails::PROGRAMS.map(|(_, name)| name)).map(verified).collect()
    }

    /// Where it is pinned.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Leaves programs and maps in the kernel, as they are: another daemon will adopt them.
    pub fn leave(self) {
        // Closing would detach what is attached by clsact. The process ends, and the kernel keeps what is pinned or attached.
        std::mem::forget(self);
    }

    /// Takes programs and maps out of the kernel.
    pub fn close(self) -> Result<()> {
        let pins = self.pins.clone();
        drop(self);
        pins.remove().with_context(|| format!("cannot remove {}", pins.root.display()))
    }
}

/// Loads maps and programs; gives the pin of the programs' tails. `ready`: the maps are there, and no program uses them yet.
fn load_programs(pins: &Pins, sizes: Sizes, ready: impl FnOnce() -> Result<()>) -> Result<(Ebpf, PathBuf)> {
    let mut ebpf = load_object(pins, sizes)?;
    ready()?;
    let mut maps = Maps::open(pins)?;
    let places = maps.half_open.len() - 1;
    let capacity = maps.flows.len() - places;
    fill_free_slots(&mut maps, capacity, places)?;
    for program in PROGRAMS.iter().map(|(name, ..)| *name).chain(tails::PROGRAMS.map(|(_, name)| name)) {
        classifier(&mut ebpf, program)?
            .load()
            .with_context(|| format!("the kernel refused the packet program {program}"))?;
    }
    xdp::load(&mut ebpf)?;
    let tails = tails::enter(&mut ebpf, pins)?;
    Ok((ebpf, tails))
}

fn attach_all(ebpf: &mut Ebpf, pins: &Pins, interfaces: &[String], hooks: &Hooks) -> Result<Vec<Attached>> {
    let mut attached = Vec::new();
    for interface in interfaces {
        let wanted = hooks.of(interface);
        let (hook, why) = attach::choose(wanted);
        for (program, direction, attach_type) in directions(interface) {
            let program = classifier(ebpf, program)?;
            attach::attach(program, pins, interface, direction, attach_type, hook)
                .with_context(|| format!("cannot attach to {interface} ({hook} {direction})"))?;
        }
        attached.push(Attached { interface: interface.clone(), hook, why, wanted, ways: Vec::new() });
    }
    Ok(attached)
}

/// Loads maps and programs beside those of another layout, and has them take their place. What fails before connections are being
/// brought over leaves those as they were.
fn load_beside(
    pins: &Pins,
    interfaces: &[String],
    hooks: &Hooks,
    sizes: Sizes,
    migration: Migration,
) -> Result<(Ebpf, Vec<Attached>, PathBuf)> {
    let former = migration.former()?;
    let load = || -> Result<_> {
        migration.share()?;
        let to = migration.to();
        let (mut ebpf, tails) = load_programs(to, migration.sizes(sizes)?, || migration.copy_tables())?;
        migration.ask_former(&former, &tails)?;
        let attached = attach_all(&mut ebpf, pins, interfaces, hooks)?;
        Ok((ebpf, attached, tails))
    };
    match load() {
        Ok((ebpf, attached, tails)) => {
            let tails = migration.finish(pins, &former, &tails)?;
            Ok((ebpf, attached, tails))
        }
        Err(e) => {
            migration.take_back(&former);
            Err(e)
        }
    }
}

/// The programs that an interface gets. What this node's own stack sends to itself is judged where it comes in again.
fn directions(interface: &str) -> impl Iterator<Item = (&'static str, &'static str, TcAttachType)> {
    let loopback = interface == "lo";
    PROGRAMS.into_iter().filter(move |(_, direction, _)| !loopback || *direction == "ingress")
}

pub(super) fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    Ok(ebpf.program_mut(name).context("the object lacks a program")?.try_into()?)
}

fn load_object(pins: &Pins, sizes: Sizes) -> Result<Ebpf> {
    let flows = sizes.flows;
    let places = half_open::places(flows);
    let mut loader = EbpfLoader::new();
    loader
        .map_max_entries(names::RINGS, sizes.ring_slots)
        .map_max_entries(names::FLOWS, flows + places)
        .map_max_entries(names::OPENINGS, flows + places)
        .map_max_entries(names::HALF_OPEN, places + 1)
        .map_max_entries(names::FREE_SLOTS, flows)
        // The first is nobody's.
        .map_max_entries(names::PORT_POOLS, 1 + sizes.pools)
        .map_max_entries(names::PORTS, 1 + sizes.pools)
        .map_max_entries(names::FLOW_KEYS, 2 * (flows + places));
    for name in names::ALL {
        loader.map_pin_path(name, pins.map(name));
    }
    loader.load(OBJECT).context("cannot load the packet programs' maps")
}

/// Carries the programs' diagnostic events into the daemon's log.
fn forward_log(ebpf: &mut Ebpf) {
    let logger = match EbpfLogger::init_with_logger(ebpf, DatapathLog) {
        Ok(l) => l,
        Err(e) => return tracing::warn!("diagnostic events of the packet programs will not be logged: {e}"),
    };
    // SAFETY: the logger keeps its one descriptor open for as long as it lives.
    let mut fd = match unsafe { AsyncFd::register(logger) } {
        Ok(fd) => fd,
        Err(e) => return tracing::warn!("diagnostic events of the packet programs will not be logged: {e}"),
    };
    // Ends with the runtime. The logger must live as long as programs are being loaded: it holds the log map.
    tokio::spawn(async move {
        while let Ok(mut ready) = fd.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    });
}

/// Says what the flow table costs, and when it is not the configured one.
fn tell_capacity(pins: &Pins, capacity: u32, wanted: u32, pools: u32) {
    let bytes: u64 = [names::FLOWS, names::OPENINGS, names::FLOW_KEYS, names::FREE_SLOTS, names::HALF_OPEN]
        .iter()
        .filter_map(|name| memory(pins, name))
        .sum();
    tracing::info!("flow table: room for {capacity} flows in {} of kernel memory", units::bytes(bytes));
    let bytes = memory(pins, names::PORTS).unwrap_or(0);
    tracing::info!("source ports: room for {} pools in {} of kernel memory", pools - 1, units::bytes(bytes));
    if capacity != wanted {
        tracing::warn!(
            "`flows = {wanted}` does not hold: the adopted table has room for {capacity}; stop viplb properly (SIGTERM) and \
             start it again to change that"
        );
    }
}

/// Kernel memory of a pinned map in bytes, as its descriptor's fdinfo tells (`memlock`).
pub fn memory(pins: &Pins, name: &str) -> Option<u64> {
    let map = MapData::from_pin(pins.map(name)).ok()?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd())).ok()?;
    info.lines().find_map(|l| l.strip_prefix("memlock:"))?.trim().parse().ok()
}

/// Fills the queue of free slots, and gives each place of half-open flows its own, once in the maps' life.
fn fill_free_slots(maps: &mut Maps, capacity: u32, places: u32) -> Result<()> {
    let mut settings = maps.settings.get(&0, 0).context("map SETTINGS")?;
    if settings.slots_ready != 0 {
        return Ok(());
    }
    // A daemon that died half-way through left some.
    while maps.free_slots.pop(0).is_ok() {}
    for slot in 0..capacity {
        maps.free_slots.push(slot, 0).context("map FREE_SLOTS")?;
    }
    for (place, slot) in (1..=places).zip(capacity..) {
        maps.half_open.set(place, half_open::place(slot, 0), 0).context("map HALF_OPEN")?;
    }
    settings.places = places;
    settings.schema = names::SCHEMA;
    settings.slots_ready = 1;
    maps.settings.set(0, settings, 0).context("map SETTINGS")
}
