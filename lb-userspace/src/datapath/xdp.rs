//! The XDP fast path in front of the TC programs: attached where it is wanted and the self-test proves it, else not at all.
//!
//! Called once at the start, after the TC programs are attached: whatever goes wrong here costs speed and nothing else, so
//! it never ends a start. The reason is logged and shown by status.

use std::{fs, net::Ipv4Addr};

use anyhow::{Context, Result, bail, ensure};
use aya::{
    Ebpf,
    maps::HashMap,
    programs::{
        TestRun, TestRunOptions, Xdp, XdpMode,
        links::{FdLink, PinnedLink},
        loaded_programs,
        xdp::XdpLink,
    },
};
use lb_common::{
    addr::Mac,
    fast::SelfTest,
    maps::SELF_TESTS,
    service::{Interface, WAYS},
};

use super::{
    load::{Attached, Datapath},
    self_test,
};
use crate::config::model::Hook;

/// The program.
const PROGRAM: &str = "viplb_xdp";

/// What has to be known of an interface.
#[derive(Debug, Clone)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// Its hardware address.
    pub mac: Mac,
    /// Its own IPv4 address.
    pub own: Option<Ipv4Addr>,
    /// Who may be on its link.
    pub neighbours: Vec<Ipv4Addr>,
    /// There is hardware below it.
    pub real: bool,
    /// Number of the XDP program that is on it.
    pub program: Option<u32>,
}

/// What an interface's XDP is called, in status and as the direction of its link's pin.
const NATIVE: &str = "xdp";
const GENERIC: &str = "xdp-generic";

pub(super) fn load(ebpf: &mut Ebpf) -> Result<()> {
    program(ebpf)?.load().with_context(|| format!("the kernel refused the packet program {PROGRAM}"))
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    Ok(ebpf.program_mut(PROGRAM).context("the object lacks a program")?.try_into()?)
}

impl Datapath {
    /// Runs a frame through the loaded XDP program against the live maps (`BPF_PROG_TEST_RUN`), as [`Datapath::test_run`] does.
    pub fn test_run_xdp(&self, frame: &[u8]) -> Result<(u32, Vec<u8>)> {
        let program: &Xdp =
            self.programs.program(PROGRAM).context("the object lacks a program")?.try_into()?;
        let mut out = vec![0; frame.len() + 256];
        let result = program.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        })?;
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value, out))
    }

    /// Attaches XDP to those of `ports` that are to have it and pass the self-test.
    pub fn raise_xdp(&mut self, ports: &[Port]) {
        for i in 0..self.attached.len() {
            let a = self.attached[i].clone();
            let Some(port) = ports.iter().find(|p| p.name == a.interface) else { continue };
            let hook = match a.wanted {
                Hook::Auto if port.real => Some(NATIVE),
                Hook::Xdp => Some(NATIVE),
                Hook::XdpGeneric => Some(GENERIC),
                Hook::Auto | Hook::Tcx | Hook::Clsact => None,
            };
            self.attached[i] = self.raise_one(a, port, ports, hook);
        }
    }

    fn raise_one(
        &mut self,
        a: Attached,
        port: &Port,
        ports: &[Port],
        hook: Option<&'static str>,
    ) -> Attached {
        let ours = self.lower(port, hook);
        let Some(hook) = hook else { return a };
        match self.try_raise(port, ports, hook, ours) {
            Ok(ways) => {
                Attached { hook, why: format!("proven by a self-test; {} behind it", a.hook), ways, ..a }
            }
            Err(e) => {
                self.lower(port, None);
                tracing::warn!("{}: no {hook}, {} does it all: {e:#}", port.name, a.hook);
                Attached { why: format!("no {hook}: {e:#}"), ..a }
            }
        }
    }

    /// Takes our XDP off, but for that of `keep`. Gives whether there was any.
    fn lower(&self, port: &Port, keep: Option<&str>) -> bool {
        let mut ours = false;
        for hook in [NATIVE, GENERIC] {
            let path = self.pins.link(&port.name, hook);
            ours |= path.exists();
            if keep != Some(hook) {
                let _ = fs::remove_file(path);
            }
        }
        ours
    }

    fn try_raise(&mut self, port: &Port, ports: &[Port], hook: &str, ours: bool) -> Result<Vec<u32>> {
        let forwarding = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{}/forwarding", port.name));
        ensure!(
            forwarding.is_ok_and(|f| f.trim() == "1"),
            "the kernel tells XDP no route while forwarding is off (sysctl net.ipv4.conf.{}.forwarding=1)",
            port.name
        );
        if let Some(id) = port.program.filter(|_| !ours) {
            bail!("XDP program {id} ({}) is attached already, and is left alone", name_of(id));
        }
        self.attach_xdp(port, hook)?;
        // Known to the program, but as yet leading nowhere.
        let known = Interface { mac: port.mac, ..Interface::default() };
        self.tables.maps().interfaces.insert(port.ifindex, known, 0).context("map INTERFACES")?;
        let map = self.programs.map_mut(SELF_TESTS).context("the object lacks map SELF_TESTS")?;
        let mut tests: HashMap<_, u32, SelfTest> = HashMap::try_from(map)?;
        let mut ways = Vec::new();
        let mut failed = None;
        for to in ports {
            match self_test::prove(&mut tests, port, to) {
                Ok(()) if ways.len() < WAYS => ways.push(to.ifindex),
                Ok(()) => {}
                Err(e) => {
                    tracing::info!("{}: XDP sends nothing by {}: {e:#}", port.name, to.name);
                    if to.ifindex == port.ifindex || failed.is_none() {
                        failed = Some(e);
                    }
                }
            }
        }
        match failed {
            Some(e) if ways.is_empty() => Err(e.context("the self-test failed")),
            _ => Ok(ways),
        }
    }

    fn attach_xdp(&mut self, port: &Port, hook: &str) -> Result<()> {
        let path = self.pins.link(&port.name, hook);
        let program = program(&mut self.programs)?;
        if let Ok(old) = PinnedLink::from_pin(&path) {
            // In one step. A link whose interface has gone cannot be updated.
            if let Ok(id) = program.attach_to_link(XdpLink::try_from(FdLink::from(old))?) {
                drop(program.take_link(id)?);
                return Ok(());
            }
            fs::remove_file(&path)?;
        }
        let mode = if hook == GENERIC { XdpMode::Skb } else { XdpMode::Driver };
        let id = program.attach_to_if_index(port.ifindex, mode).context("it cannot be attached")?;
        // aya goes over to an attachment by netlink in silence, which neither ends with its owner nor is replaced in one
        // step; dropped here, it is taken off.
        let link: FdLink = program.take_link(id)?.try_into().context("the kernel gives no link for it")?;
        link.pin(&path)?;
        Ok(())
    }
}

fn name_of(id: u32) -> String {
    let mut programs = loaded_programs().flatten();
    let found = programs.find(|p| p.id() == id);
    found.and_then(|p| p.name_as_str().map(str::to_owned)).unwrap_or_else(|| "nameless".into())
}
