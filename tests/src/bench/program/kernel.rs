//! The kernel's side of `bench program`: viplb's programs with their maps, the bare ones, and the feeding one.
//!
//! Nothing is attached to an interface: every packet is of a test run. Each run is checked by what the program returned and
//! by viplb's own counter, so that no figure is of packets that took another path.

use std::{net::IpAddr, path::Path};

use anyhow::{Context, Result, bail, ensure};
use aya::{
    Ebpf,
    maps::{Array, MapData, ProgramArray},
    programs::{ProgramFd, SchedClassifier, TestRun, TestRunOptions, TestRunResult, Xdp},
};
use lb_common::{
    bench::{FRAME, Feed, Tuple},
    flow::Stage,
    lease::Lease,
    maps as names,
    reason::Reason,
};
use lb_ebpf::parse::flag;
use lb_userspace::{
    config::model::Hook,
    datapath::{
        counters,
        load::{self, Datapath},
        pins::Pins,
    },
};
use tokio::runtime::Runtime;

use super::{
    ns,
    world::{Case, Kind, Verdict, tuple},
};
use crate::down::Bpffs;

const PROGRAMS: [&str; 4] = ["bench_redirect", "bench_drop", "bench_pass", "bench_feed"];
/// Flows opened at a time: no more than there are places for half-open ones.
const HALF_OPEN: usize = 8192;
const TX: &str = "bench_tx";
/// What it returns.
const XDP_TX: u32 = 3;

/// Loaded programs and maps of one case.
pub struct Kernel {
    datapath: Datapath,
    pins: Pins,
    bench: Ebpf,
    feed: Array<MapData, Feed>,
    tuples: Array<MapData, Tuple>,
    measured: ProgramArray<MapData>,
    runtime: Runtime,
    _bpffs: Bpffs,
}

impl Kernel {
    /// Loads, writes the tables, and opens the flows that the case needs.
    pub fn open(prefix: &str, object: &Path, case: &Case) -> Result<Self> {
        let name = format!("{prefix}p");
        let bpffs = Bpffs::claim(&name)?;
        let pins = Pins::of(&name);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut datapath = {
            let _inside = runtime.enter();
            Datapath::open(&pins, &[], Hook::Auto, case.sizes())?
        };
        datapath.tables.publish(&case.desired())?;
        let until = if case.kind == Kind::NotOwner { 1 } else { u64::MAX };
        datapath.tables.maps().leases.set(0, Lease { until, term: 1, ..Lease::default() }, 0)?;
        let mut bench = Ebpf::load_file(object)
            .with_context(|| format!("cannot load {}: `cargo xtask build` makes it", object.display()))?;
        for program in PROGRAMS {
            let program: &mut SchedClassifier = bench.program_mut(program).context(program)?.try_into()?;
            program.load()?;
        }
        let program: &mut Xdp = bench.program_mut(TX).context(TX)?.try_into()?;
        program.load()?;
        let mut take = |name| bench.take_map(name).context(name);
        let (feed, tuples, measured) = (take("FEED")?, take("TUPLES")?, take("MEASURED")?);
        let (feed, tuples, measured) = (feed.try_into()?, tuples.try_into()?, measured.try_into()?);
        let mut kernel = Self { datapath, pins, bench, feed, tuples, measured, runtime, _bpffs: bpffs };
        kernel.set_tuples(&case.clients())?;
        if case.is_established() {
            kernel.establish(case)?;
        }
        Ok(kernel)
    }

    /// Opens the case's flows by packets, as many at a time as may be half-open, and leaves the tuples of its direction.
    fn establish(&mut self, case: &Case) -> Result<()> {
        let (all, mut tuples) = (case.clients(), Vec::new());
        for clients in all.chunks(HALF_OPEN) {
            let count = clients.len();
            self.set_tuples(clients)?;
            self.feed_viplb(case, flag::SYN, Reason::NewFlow, count)?;
            let back = self.backends_side(count)?;
            self.set_tuples(&back)?;
            self.feed_viplb(case, flag::SYN | flag::ACK, Reason::Returned, count)?;
            self.set_tuples(clients)?;
            self.feed_viplb(case, flag::ACK, Reason::Forwarded, count)?;
            // Every frame carries data: the client has asked now, and is answered.
            self.set_tuples(&back)?;
            self.feed_viplb(case, flag::ACK, Reason::Returned, count)?;
            if case.kind == Kind::Reverse {
                tuples.extend(back);
            }
        }
        self.set_tuples(if case.kind == Kind::Reverse { &tuples } else { &all })
    }

    /// What the backends send in the flows that are half-open.
    fn backends_side(&mut self, count: usize) -> Result<Vec<Tuple>> {
        let flows = &self.datapath.tables.maps().flows;
        let mut tuples = Vec::new();
        for slot in 0..flows.len() {
            let flow = flows.get(&slot, 0)?;
            if !matches!(flow.stage(), Stage::SynSent | Stage::OneWay) {
                continue;
            }
            let IpAddr::V4(backend) = flow.backend.into() else { continue };
            tuples.push(tuple(backend.octets(), flow.backend_port.number(), flow.snat_port.number()));
            if tuples.len() == count {
                return Ok(tuples);
            }
        }
        bail!("{} flows of {count} are half-open", tuples.len())
    }

    fn set_tuples(&mut self, tuples: &[Tuple]) -> Result<()> {
        for (i, tuple) in (0..).zip(tuples) {
            self.tuples.set(i, *tuple, 0)?;
        }
        Ok(())
    }

    /// A bare program by itself, ns a packet.
    pub fn bare(&self, verdict: Verdict, packets: u32) -> Result<f64> {
        let result = test_run(self.classifier(bare_name(verdict))?, packets)?;
        ensure!(result.return_value as i32 == verdict.number(), "the bare program returned something else");
        Ok(ns(result.duration))
    }

    /// XDP_TX by itself, ns a packet.
    pub fn bare_tx(&self, packets: u32) -> Result<f64> {
        let program: &Xdp = self.bench.program(TX).context(TX)?.try_into()?;
        let result = test_run(program, packets)?;
        ensure!(result.return_value == XDP_TX, "the bare program returned something else");
        Ok(ns(result.duration))
    }

    /// The feeding program with a bare one behind it, ns a packet.
    pub fn fed(&mut self, case: &Case, packets: u32) -> Result<f64> {
        let name = bare_name(case.bare());
        let bare: &SchedClassifier = self.bench.program(name).context(name)?.try_into()?;
        let bare = bare.fd()?.try_clone()?;
        self.run_fed(case.frame(case.flags()), &bare, case.bare(), (case.flows, packets))
    }

    /// The feeding program with viplb behind it, ns a packet.
    pub fn fed_viplb(&mut self, case: &Case, packets: u32) -> Result<f64> {
        self.checked(case, case.flags(), case.reason(), (case.flows, packets))
    }

    /// One packet of each of the first `count` tuples.
    fn feed_viplb(&mut self, case: &Case, flags: u8, reason: Reason, count: usize) -> Result<()> {
        let count = u32::try_from(count)?;
        self.checked(case, flags, reason, (count, count)).map(drop)
    }

    /// So many packets of so many flows, all of which viplb must count as `reason`.
    fn checked(&mut self, case: &Case, flags: u8, reason: Reason, amount: (u32, u32)) -> Result<f64> {
        let before = self.counted(reason)?;
        let program = self.datapath.ingress()?.try_clone()?;
        let took = self.run_fed(case.frame(flags), &program, case.verdict, amount)?;
        let counted = self.counted(reason)? - before;
        ensure!(counted == u64::from(amount.1), "{counted} of {} packets counted as {reason:?}", amount.1);
        Ok(took)
    }

    fn run_fed(
        &mut self,
        frame: [u16; FRAME / 2],
        program: &ProgramFd,
        verdict: Verdict,
        (flows, packets): (u32, u32),
    ) -> Result<f64> {
        self.feed.set(0, Feed { next: 0, flows, frame, pad: [0; 2] }, 0)?;
        self.measured.set(0, program, 0)?;
        let result = test_run(self.classifier("bench_feed")?, packets)?;
        let returned = result.return_value as i32;
        ensure!(returned == verdict.number(), "{returned} returned instead of {}", verdict.number());
        Ok(ns(result.duration))
    }

    fn classifier(&self, name: &str) -> Result<&SchedClassifier> {
        Ok(self.bench.program(name).with_context(|| name.to_owned())?.try_into()?)
    }

    fn counted(&mut self, reason: Reason) -> Result<u64> {
        let reasons = counters::reasons(self.datapath.tables.maps())?;
        Ok(reasons.into_iter().find(|(r, _)| *r == reason).map_or(0, |(_, n)| n))
    }

    /// Frees all flows, as the collector does when they have been silent for long.
    pub fn forget(&mut self) -> Result<()> {
        self.datapath.collector.sweep(self.datapath.tables.maps(), u64::MAX, u32::MAX).map(drop)
    }

    /// Room for flows.
    pub fn room(&self) -> u32 {
        self.datapath.collector.capacity()
    }

    /// Kernel memory of the maps that hold flows, bytes.
    pub fn flow_memory(&self) -> Result<u64> {
        let maps = [names::FLOWS, names::FLOW_KEYS, names::FREE_SLOTS, names::HALF_OPEN];
        maps.iter().map(|name| load::memory(&self.pins, name).with_context(|| format!("map {name}"))).sum()
    }

    /// Takes everything out of the kernel.
    pub fn close(self) -> Result<()> {
        let _inside = self.runtime.enter();
        self.datapath.close()
    }
}

fn bare_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Redirect => PROGRAMS[0],
        Verdict::Drop => PROGRAMS[1],
        Verdict::Pass => PROGRAMS[2],
    }
}

fn test_run<'a, P>(program: &P, packets: u32) -> Result<TestRunResult>
where
    P: TestRun<Opts<'a> = TestRunOptions<'a>, Result = TestRunResult>,
{
    // To the loopback interface's hardware address, over IPv4: the kernel looks at these before the program runs.
    const START: [u8; FRAME] = {
        let mut frame = [0; FRAME];
        frame[12] = 8;
        frame[14] = 0x45;
        frame
    };
    let options = TestRunOptions { data_in: Some(&START), repeat: packets, ..TestRunOptions::default() };
    Ok(program.test_run(options)?)
}
