//! From what is missing to what to do about it: packages, commands and the words shown to the user.
//!
//! Pure: what the machine offers comes in as [`Offers`], text and command lines go out. The doing is in
//! [`crate::install`].

use std::fmt::Write as _;

use crate::toolchain::{BPF_LINKER_VERSION, LLVM_MAJOR, Missing, Probe, Purpose};

/// What this machine can install from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offers {
    /// There is an apt-get.
    pub apt: bool,
    /// apt's `rustc-web` is new enough for the workspace.
    pub rustc_web: bool,
    /// apt knows the LLVM that bpf-linker is built with.
    pub llvm: bool,
}

/// Everything to install, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Debian packages that the purpose cannot do without.
    pub packages: Vec<&'static str>,
    /// Debian packages that the purpose can do without.
    pub optional_packages: Vec<&'static str>,
    /// Commands after the packages.
    pub commands: Vec<CommandLine>,
}

/// A command with variables, fit for running and for showing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// Environment variables to set.
    pub env: Vec<(&'static str, String)>,
    /// The program and its arguments.
    pub words: Vec<String>,
}

impl Plan {
    /// The shortest way to everything missing, with what the machine offers.
    pub fn new(missing: &[Missing], purpose: Purpose, offers: Offers) -> Self {
        let mut plan = Self::default();
        for item in missing {
            let packages = match item.need.probe {
                Probe::BpfCompiler | Probe::BpfClippy if !(offers.apt && offers.rustc_web) => {
                    plan.commands.push(rustup(item.need.probe));
                    continue;
                }
                Probe::BpfLinker => {
                    let llvm = offers.apt && offers.llvm;
                    plan.commands.push(install_bpf_linker(llvm));
                    if !llvm {
                        continue;
                    }
                    &mut plan.packages
                }
                _ if item.is_optional_for(purpose) => &mut plan.optional_packages,
                _ => &mut plan.packages,
            };
            packages.extend(item.need.packages);
        }
        plan
    }

    /// The commands that install it all, as `root` or as an ordinary user types them.
    pub fn shell_lines(&self, offers: Offers, root: bool) -> Vec<String> {
        let packages: Vec<_> = self.packages.iter().chain(&self.optional_packages).copied().collect();
        let mut lines = Vec::new();
        if !packages.is_empty() {
            lines.push(if offers.apt {
                let sudo = if root { "" } else { "sudo " };
                format!("{sudo}apt-get install --no-install-recommends {}", packages.join(" "))
            } else {
                format!("# with your package manager (Debian's names): {}", packages.join(" "))
            });
        }
        lines.extend(self.commands.iter().map(ToString::to_string));
        lines
    }
}

/// The announcement before anything is installed: each thing with its reason.
pub fn announcement(missing: &[Missing]) -> String {
    format!(
        "Installing what viplb needs and this machine lacks:\n{}",
        rows(missing, Missing::reason_and_packages)
    )
}

/// The one complete list for a machine where nothing may be installed.
pub fn refusal(missing: &[Missing], plan: &Plan, offers: Offers, why_not: &str) -> String {
    let mut text = format!("missing on this machine:\n{}\n", rows(missing, Missing::reason_and_finding));
    let _ = write!(text, "\nNothing was installed, because {why_not}. These commands install it:\n");
    for line in plan.shell_lines(offers, false) {
        let _ = writeln!(text, "  {line}");
    }
    text.truncate(text.trim_end().len());
    text
}

fn rows(missing: &[Missing], column: impl Fn(&Missing) -> String) -> String {
    let width = missing.iter().map(|item| item.need.name.len()).max().unwrap_or(0);
    missing
        .iter()
        .map(|item| format!("  {:width$}  {}", item.need.name, column(item)))
        .collect::<Vec<_>>()
        .join("\n")
}

impl Missing {
    fn reason_and_packages(&self) -> String {
        format!("{} [{}]", self.need.reason, self.need.packages.join(" "))
    }

    fn reason_and_finding(&self) -> String {
        format!("{} ({})", self.need.reason, self.found)
    }
}

fn rustup(probe: Probe) -> CommandLine {
    let component = if probe == Probe::BpfClippy { "clippy" } else { "rust-src" };
    let words =
        ["rustup", "toolchain", "install", "nightly", "--profile", "minimal", "--component", component];
    CommandLine { env: Vec::new(), words: words.map(str::to_owned).to_vec() }
}

/// With Debian's LLVM beside Debian's compiler; elsewhere with the LLVM that bpf-linker itself prefers.
fn install_bpf_linker(debian_llvm: bool) -> CommandLine {
    let mut words: Vec<String> =
        ["cargo", "install", "bpf-linker", "--locked", "--version"].map(str::to_owned).to_vec();
    words.push(BPF_LINKER_VERSION.to_string());
    let mut env = Vec::new();
    if debian_llvm {
        let features = format!("llvm-{LLVM_MAJOR}");
        words.extend(["--no-default-features", "--features", &features].map(str::to_owned));
        env.push(("LLVM_PREFIX", format!("/usr/lib/llvm-{LLVM_MAJOR}")));
    }
    CommandLine { env, words }
}

impl std::fmt::Display for CommandLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, value) in &self.env {
            write!(f, "{name}={value} ")?;
        }
        write!(f, "{}", self.words.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toolchain::{NEEDS, Need};

    const DEBIAN: Offers = Offers { apt: true, rustc_web: true, llvm: true };
    const OLD_DEBIAN: Offers = Offers { apt: true, rustc_web: false, llvm: false };
    const NO_APT: Offers = Offers { apt: false, rustc_web: false, llvm: false };

    fn missing(select: impl Fn(&Need) -> bool) -> Vec<Missing> {
        NEEDS
            .iter()
            .filter(|need| select(need))
            .map(|need| Missing { need, found: "not found".to_owned() })
            .collect()
    }

    #[test]
    fn debian_builds_the_linker_after_the_packages_it_links_against() {
        let plan = Plan::new(&missing(|need| need.purpose == Purpose::Build), Purpose::Build, DEBIAN);
        assert_eq!(plan.packages.first(), Some(&"rustc-web"));
        assert!(plan.packages.contains(&"llvm-22-dev"));
        assert_eq!(
            plan.commands.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --locked --version 0.13.0 \
              --no-default-features --features llvm-22"]
        );
    }

    #[test]
    fn a_distribution_without_a_fit_compiler_gets_it_from_rustup() {
        let plan = Plan::new(&missing(|need| need.purpose == Purpose::Build), Purpose::Build, OLD_DEBIAN);
        assert_eq!(plan.packages, [""; 0]);
        assert_eq!(
            plan.commands.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "rustup toolchain install nightly --profile minimal --component rust-src",
                "cargo install bpf-linker --locked --version 0.13.0",
            ]
        );
    }

    #[test]
    fn a_database_is_optional_for_the_lab_and_not_for_the_tests() {
        let lab = missing(|need| need.purpose == Purpose::Lab);
        let plan = Plan::new(&lab, Purpose::Lab, DEBIAN);
        assert!(plan.optional_packages.contains(&"mariadb-server"));
        assert!(plan.packages.contains(&"iproute2"));
        let plan = Plan::new(&lab, Purpose::Test, DEBIAN);
        assert!(plan.packages.contains(&"mariadb-server"));
        assert_eq!(plan.optional_packages, [""; 0]);
    }

    #[test]
    fn the_announcement_gives_each_thing_its_reason_and_its_packages() {
        let text = announcement(&missing(|need| need.purpose == Purpose::Test));
        assert!(text.contains("keepalived  the VRRP peer that viplb must agree with [keepalived]"), "{text}");
        assert_eq!(text.lines().count(), 1 + missing(|need| need.purpose == Purpose::Test).len());
    }

    #[test]
    fn the_refusal_is_one_list_with_the_commands_that_help() {
        let items = missing(|need| need.name == "BPF compiler" || need.name == "keepalived");
        let plan = Plan::new(&items, Purpose::Test, DEBIAN);
        assert_eq!(
            refusal(&items, &plan, DEBIAN, "you are not root"),
            "missing on this machine:
  BPF compiler  compiles the packet programs for the kernel's BPF machine (not found)
  keepalived    the VRRP peer that viplb must agree with (not found)

Nothing was installed, because you are not root. These commands install it:
  sudo apt-get install --no-install-recommends rustc-web libstd-rust-web-dev-bpf keepalived"
        );
    }

    #[test]
    fn without_apt_the_packages_are_named_as_a_hint_only() {
        let items = missing(|need| need.name == "keepalived");
        let lines = Plan::new(&items, Purpose::Test, NO_APT).shell_lines(NO_APT, false);
        assert_eq!(lines, ["# with your package manager (Debian's names): keepalived"]);
    }
}
