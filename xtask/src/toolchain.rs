//! What viplb needs from the machine: one table, each row with its reason, its probe and its packages.
//!
//! Every subcommand calls [`crate::install::ensure`] with its purpose first; that module acts on what
//! [`missing`] finds here. Looking changes nothing on the machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bpf::Compiler;
use crate::process;

/// The linker's version that the programs are built and tested with.
pub const BPF_LINKER_VERSION: Version = Version(0, 13, 0);
/// The LLVM that Debian's compiler and our bpf-linker share.
pub const LLVM_MAJOR: u32 = 22;

/// What the user wants to do; each purpose includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Compile the programs, the daemon and the lab.
    Build,
    /// Raise the lab.
    Lab,
    /// Run every test.
    Test,
}

/// One thing the machine must have.
#[derive(Debug)]
pub struct Need {
    /// What it is called.
    pub name: &'static str,
    /// The first purpose that asks for it.
    pub purpose: Purpose,
    /// From this purpose on it cannot be done without.
    pub required: Purpose,
    /// What it is for, in the user's terms.
    pub reason: &'static str,
    /// How to tell whether it is there.
    pub probe: Probe,
    /// The Debian packages that bring it, or that building it needs.
    pub packages: &'static [&'static str],
}

/// How to tell whether something is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// A compiler that has `core` for the BPF target.
    BpfCompiler,
    /// A bpf-linker that runs and is new enough.
    BpfLinker,
    /// A clippy of the same version as the BPF compiler.
    BpfClippy,
    /// All of these are executables.
    Programs(&'static [&'static str]),
    /// One of these files exists.
    AnyFile(&'static [&'static str]),
}

/// A need that is not met, with what was found instead.
#[derive(Debug)]
pub struct Missing {
    /// The row of the table.
    pub need: &'static Need,
    /// What the probe saw.
    pub found: String,
}

/// Everything there is to need.
pub static NEEDS: &[Need] = &[
    Need {
        name: "BPF compiler",
        purpose: Purpose::Build,
        required: Purpose::Build,
        reason: "compiles the packet programs for the kernel's BPF machine",
        probe: Probe::BpfCompiler,
        packages: &["rustc-web", "libstd-rust-web-dev-bpf"],
    },
    Need {
        name: "bpf-linker",
        purpose: Purpose::Build,
        required: Purpose::Build,
        reason: "links the packet programs into one object with BTF (built here by cargo, about a minute)",
        probe: Probe::BpfLinker,
        packages: &["llvm-22-dev", "clang-22", "libpolly-22-dev", "zlib1g-dev", "libzstd-dev", "libxml2-dev"],
    },
    lab(
        "iproute2",
        "network namespaces and links of the lab",
        &["ip", "bridge", "ss", "nstat"],
        &["iproute2"],
    ),
    lab("nftables", "cuts a lab node off while its carrier stays up", &["nft"], &["nftables"]),
    lab("ping", "asks the virtual IP who answers", &["ping"], &["iputils-ping"]),
    lab("procps", "shows what runs in a lab node", &["ps"], &["procps"]),
    Need {
        required: Purpose::Test,
        ..lab(
            "MariaDB server",
            "the database nodes behind the virtual IP",
            &["mariadbd", "mariadb-install-db", "mariadb"],
            &["mariadb-server"],
        )
    },
    Need {
        required: Purpose::Test,
        probe: Probe::AnyFile(&[
            "/usr/lib/galera/libgalera_smm.so",
            "/usr/lib64/galera/libgalera_smm.so",
            "/usr/lib64/galera-4/libgalera_smm.so",
        ]),
        ..lab("Galera", "makes one cluster of the database nodes", &[], &["galera-4"])
    },
    Need {
        required: Purpose::Test,
        ..lab(
            "rsync, lsof, socat",
            "copy a joining database node its state",
            &["rsync", "lsof", "socat"],
            &["rsync", "lsof", "socat"],
        )
    },
    test("keepalived", "the VRRP peer that viplb must agree with", &["keepalived"]),
    Need {
        probe: Probe::AnyFile(&["/usr/lib/frr/vrrpd"]),
        ..test("FRR", "another VRRP peer, of version 3 with virtual hardware addresses", &["frr"])
    },
    test("tshark", "an independent reader of the adverts that viplb sends", &["tshark"]),
    test("tcpdump", "records the packets that a failing test shows", &["tcpdump"]),
    test("bpftool", "an independent reader of the loaded programs and maps", &["bpftool"]),
    test("ethtool", "sets and reads the offloads of the lab's links", &["ethtool"]),
];

/// Only `cargo xtask lint` needs this one, and only beside Debian's compiler.
pub static LINT_NEEDS: &[Need] = &[Need {
    name: "clippy for the BPF compiler",
    purpose: Purpose::Build,
    required: Purpose::Build,
    reason: "checks the programs' entry points, which exist only on the BPF target",
    probe: Probe::BpfClippy,
    packages: &["rust-web-clippy"],
}];

/// What the benches in namespaces need; no database.
pub static BENCH_NEEDS: &[Need] = &[lab(
    "iproute2, ethtool",
    "network namespaces and links of the bench",
    &["ip", "ethtool"],
    &["iproute2", "ethtool"],
)];

/// What `cargo xtask bench` compares with; it can be done without (`--no-peers`).
pub static PEER_NEEDS: &[Need] = &[Need {
    required: Purpose::Test,
    ..lab("keepalived", "viplb's failover is measured beside it", &["keepalived"], &["keepalived"])
}];

/// What `cargo xtask bench forward` compares with; likewise.
pub static FORWARD_NEEDS: &[Need] = &[
    lab("nftables", "the kernel's own translation, which viplb is measured beside", &["nft"], &["nftables"]),
    lab("HAProxy", "viplb's forwarding is measured beside it", &["haproxy"], &["haproxy"]),
];

/// What `cargo xtask bench faults` needs beside a real cluster.
pub static FAULTS_NEEDS: &[Need] = &[
    lab("HAProxy", "what clients notice of a fault is measured beside it", &["haproxy"], &["haproxy"]),
    lab("sysbench", "the load under which nodes are taken out", &["sysbench"], &["sysbench"]),
];
/// What `cargo xtask bench survive` compares with, beside keepalived and those; likewise.
pub static SURVIVE_NEEDS: &[Need] = &[lab(
    "conntrackd",
    "replicates the kernel's own connection table, which viplb's survivors are counted beside",
    &["conntrackd"],
    &["conntrackd"],
)];

/// What `cargo xtask vm` needs beside what the tests do.
pub static VM_NEEDS: &[Need] = &[
    test_of("QEMU", "runs another kernel", &["qemu-system-x86_64"], &["qemu-system-x86"]),
    test_of("busybox", "the first program under another kernel", &["busybox"], &["busybox-static"]),
    test_of(
        "cpio, kmod, xz, zstd",
        "pack what another kernel begins with",
        &["cpio", "depmod", "modprobe", "xz", "zstd"],
        &["cpio", "kmod", "xz-utils", "zstd"],
    ),
];

const fn test_of(
    name: &'static str,
    reason: &'static str,
    programs: &'static [&'static str],
    packages: &'static [&'static str],
) -> Need {
    let (purpose, required) = (Purpose::Test, Purpose::Test);
    Need { name, purpose, required, reason, probe: Probe::Programs(programs), packages }
}

const fn lab(
    name: &'static str,
    reason: &'static str,
    programs: &'static [&'static str],
    packages: &'static [&'static str],
) -> Need {
    let (purpose, required) = (Purpose::Lab, Purpose::Lab);
    Need { name, purpose, required, reason, probe: Probe::Programs(programs), packages }
}

/// A test tool whose program and package have the same name.
const fn test(name: &'static str, reason: &'static str, programs: &'static [&'static str]) -> Need {
    let (purpose, required) = (Purpose::Test, Purpose::Test);
    Need { name, purpose, required, reason, probe: Probe::Programs(programs), packages: programs }
}

/// The rows of `needs` that `purpose` includes and this machine does not have.
pub fn missing(needs: &'static [Need], purpose: Purpose) -> Vec<Missing> {
    missing_by(needs, purpose, Probe::look)
}

fn missing_by(
    needs: &'static [Need],
    purpose: Purpose,
    look: impl Fn(Probe) -> Result<(), String>,
) -> Vec<Missing> {
    needs
        .iter()
        .filter(|need| need.purpose <= purpose)
        .filter_map(|need| look(need.probe).err().map(|found| Missing { need, found }))
        .collect()
}

impl Missing {
    /// Whether `purpose` can go on without it.
    pub fn is_optional_for(&self, purpose: Purpose) -> bool {
        self.need.required > purpose
    }
}

impl Probe {
    /// Looks at the machine; what is wrong comes back in words.
    pub fn look(self) -> Result<(), String> {
        match self {
            Self::BpfCompiler => Compiler::find().map(drop),
            Self::BpfLinker => bpf_linker().map(drop),
            Self::BpfClippy => Compiler::find()?.clippy().map(drop),
            Self::Programs(names) => {
                let absent: Vec<_> =
                    names.iter().copied().filter(|name| process::find_program(name).is_none()).collect();
                if absent.is_empty() { Ok(()) } else { Err(format!("no {} on PATH", absent.join(", "))) }
            }
            Self::AnyFile(paths) => {
                if paths.iter().any(|path| Path::new(path).exists()) {
                    Ok(())
                } else {
                    Err(format!("no {}", paths.first().copied().unwrap_or_default()))
                }
            }
        }
    }
}

/// A bpf-linker that runs and is new enough: the one on `PATH`, else the one `cargo install` left.
pub fn bpf_linker() -> Result<PathBuf, String> {
    let on_path = process::find_program("bpf-linker");
    let installed = cargo_home().map(|home| home.join("bin/bpf-linker")).filter(|path| path.is_file());
    let mut found = "not found".to_owned();
    for path in on_path.into_iter().chain(installed) {
        let Some(shown) = process::output_of(Command::new(&path).arg("--version")) else {
            found = format!("{} does not run", path.display());
            continue;
        };
        match Version::parse(&shown) {
            Some(version) if version >= BPF_LINKER_VERSION => return Ok(path),
            _ => found = format!("{} is \"{shown}\", older than {BPF_LINKER_VERSION}", path.display()),
        }
    }
    Err(found)
}

fn cargo_home() -> Option<PathBuf> {
    std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(std::env::home_dir()?.join(".cargo")))
}

/// A program's version: major, minor, patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    /// The first version in a text such as `rustc 1.96.0 (…)` or `1.96.0+dfsg1-1~deb12u2`.
    pub fn parse(text: &str) -> Option<Self> {
        let start = text.find(|c: char| c.is_ascii_digit())?;
        let mut numbers = text
            .get(start..)?
            .splitn(3, '.')
            .map(|part| part.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default().parse().ok());
        Some(Self(numbers.next()??, numbers.next()??, numbers.next().flatten().unwrap_or(0)))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing_there(_: Probe) -> Result<(), String> {
        Err("not found".to_owned())
    }

    #[test]
    fn a_build_asks_for_nothing_that_only_the_lab_or_the_tests_use() {
        let names: Vec<_> = missing_by(NEEDS, Purpose::Build, nothing_there)
            .iter()
            .map(|missing| missing.need.name)
            .collect();
        assert_eq!(names, ["BPF compiler", "bpf-linker"]);
    }

    #[test]
    fn the_tests_ask_for_everything_in_the_table() {
        assert_eq!(missing_by(NEEDS, Purpose::Test, nothing_there).len(), NEEDS.len());
    }

    #[test]
    fn the_lab_can_do_without_a_database_and_the_tests_cannot() {
        let missing = missing_by(NEEDS, Purpose::Test, nothing_there);
        let optional: Vec<_> = missing
            .iter()
            .filter(|missing| missing.need.purpose == Purpose::Lab && missing.is_optional_for(Purpose::Lab))
            .map(|missing| missing.need.name)
            .collect();
        assert_eq!(optional, ["MariaDB server", "Galera", "rsync, lsof, socat"]);
        assert!(missing.iter().all(|missing| !missing.is_optional_for(Purpose::Test)));
    }

    #[test]
    fn what_is_there_is_not_missing() {
        let ping_only = |probe| match probe {
            Probe::Programs(&["ping"]) => Err("no ping on PATH".to_owned()),
            _ => Ok(()),
        };
        let missing = missing_by(NEEDS, Purpose::Test, ping_only);
        assert_eq!(
            missing.iter().map(|missing| missing.need.packages).collect::<Vec<_>>(),
            [["iputils-ping"]]
        );
    }

    #[test]
    fn versions_are_read_out_of_what_programs_print() {
        assert_eq!(Version::parse("bpf-linker 0.13.0"), Some(Version(0, 13, 0)));
        assert_eq!(Version::parse("rustc 1.97.0-nightly (abc 2026-05-20)"), Some(Version(1, 97, 0)));
        assert_eq!(Version::parse("1.96.0+dfsg1-1~deb12u2"), Some(Version(1, 96, 0)));
        assert_eq!(Version::parse("1.95"), Some(Version(1, 95, 0)));
        assert_eq!(Version::parse("none"), None);
        assert!(Version(1, 100, 0) > Version(1, 95, 2));
    }
}
