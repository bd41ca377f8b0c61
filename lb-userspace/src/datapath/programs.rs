//! The packet programs that the kernel holds for a node, as `viplb prog show` tells of them, and a trial of those that this build
//! carries. Both need no daemon: the first reads pins, the second loads into maps of its own and attaches nothing.

use std::{fs, net::Ipv4Addr, path::PathBuf, time::UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use aya::{
    maps::MapData,
    programs::{
        links::{FdLink, PinnedLink},
        loaded_programs,
    },
};
use lb_common::{
    addr::{Addr, Mac},
    lease::Lease,
    maps as names,
    service::{Interface, Vip},
    settings::Settings,
};
use serde::{Deserialize, Serialize};

use super::{load::Datapath, pins::Pins, tables::Desired};
use crate::config::model::Hook;

/// A loaded program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// The kernel's number of it.
    pub id: u32,
    /// Its name, as far as the kernel keeps it.
    pub name: String,
    /// What the kernel knows its instructions by, hexadecimal: the same in every load of a build.
    pub tag: String,
    /// When it was loaded, unix seconds.
    pub loaded_at: u64,
    /// How often it ran; counted while `kernel.bpf_stats_enabled` is 1.
    pub runs: u64,
    /// What it has taken for that, ns.
    pub run_time_ns: u64,
    /// Instructions that the verifier has looked at.
    pub verified: Option<u32>,
    /// Where its pinned links are: `eth0-ingress`.
    pub attached: Vec<String>,
}

/// The programs that work on a node's maps.
pub fn show(pins: &Pins) -> Result<Vec<Loaded>> {
    let flows = MapData::from_pin(pins.map(names::FLOWS))
        .context("no programs are loaded: there are no pinned maps")?;
    let ours = flows.info()?.id();
    let links = links(pins)?;
    let mut all = Vec::new();
    for program in loaded_programs() {
        let Ok(program) = program else { continue };
        // Those of other users come and go meanwhile.
        let Ok(Some(maps)) = program.map_ids() else { continue };
        if !maps.contains(&ours) {
            continue;
        }
        all.push(Loaded {
            id: program.id(),
            name: program.name_as_str().unwrap_or("?").to_owned(),
            tag: format!("{:016x}", program.tag()),
            loaded_at: program
                .loaded_at()
                .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
                .map_or(0, |d| d.as_secs()),
            runs: program.run_count(),
            run_time_ns: program.run_time().as_nanos() as u64,
            verified: program.verified_instruction_count(),
            attached: links
                .iter()
                .filter(|(_, id)| *id == program.id())
                .map(|(name, _)| name.clone())
                .collect(),
        });
    }
    all.sort_by_key(|p| p.id);
    Ok(all)
}

/// The pinned links: their names, and the program of each.
fn links(pins: &Pins) -> Result<Vec<(String, u32)>> {
    let mut links = Vec::new();
    for entry in fs::read_dir(pins.links()).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let Ok(link) = PinnedLink::from_pin(entry.path()) else { continue };
        links.push((name, FdLink::from(link).info().context("a pinned link tells nothing")?.program_id()));
    }
    links.sort();
    Ok(links)
}

const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const ASKER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
const THEIRS: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// Test runs come in by the loopback interface.
const LOOPBACK: u32 = 1;
const TC_ACT_SHOT: i32 = 2;
const TC_ACT_REDIRECT: i32 = 7;

/// Loads the programs that this build carries into maps of their own, attaches none, and has them answer for a virtual address: only
/// while there is a lease. Must be called within a tokio runtime.
pub fn test() -> Result<()> {
    let pins = Pins::at(PathBuf::from(format!("/sys/fs/bpf/viplb-test-{}", std::process::id())));
    let mut datapath = Datapath::open(&pins, &[], Hook::Auto, 64)?;
    let tested = answers(&mut datapath);
    let closed = datapath.close();
    tested.and(closed)
}

fn answers(datapath: &mut Datapath) -> Result<()> {
    let desired = Desired {
        settings: Settings { schema: names::SCHEMA, ..Settings::default() },
        vips: vec![(Addr::from(std::net::IpAddr::from(VIP)), Vip::default())],
        interfaces: vec![(LOOPBACK, Interface { mac: Mac(OURS), ..Interface::default() })],
        ..Desired::default()
    };
    datapath.tables.publish(&desired)?;
    let question = arp(1, (THEIRS, ASKER), ([0; 6], VIP), [0xff; 6]);
    let (verdict, _) = datapath.test_run(false, &question)?;
    ensure!(verdict == TC_ACT_SHOT, "without a lease the ingress program must be silent, and gave {verdict}");
    let lease = Lease { until: u64::MAX, term: 1, ..Lease::default() };
    datapath.tables.maps().leases.set(0, lease, 0).context("map LEASES")?;
    let (verdict, frame) = datapath.test_run(false, &question)?;
    ensure!(verdict == TC_ACT_REDIRECT, "with a lease the ingress program must answer, and gave {verdict}");
    let answer = arp(2, (OURS, VIP), (THEIRS, ASKER), THEIRS);
    ensure!(frame == answer, "the ingress program gave another answer than it should: {frame:02x?}");
    Ok(())
}

/// An ARP frame in Ethernet.
fn arp(operation: u8, from: ([u8; 6], Ipv4Addr), to: ([u8; 6], Ipv4Addr), destination: [u8; 6]) -> Vec<u8> {
    let mut frame = [&destination[..], &from.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]].concat();
    for (mac, addr) in [from, to] {
        frame.extend(mac);
        frame.extend(addr.octets());
    }
    frame
}
