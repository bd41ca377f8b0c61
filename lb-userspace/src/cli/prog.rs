//! `viplb prog show|test`: the packet programs that the kernel holds for a node, also while its daemon is dead; and whether those of
//! this build work here.

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use serde::Serialize;

use super::{Format, node, runtime, status, table::Table};
use crate::{
    api::{client, snapshot::Node},
    datapath::{
        build::Build,
        pins::{self, Pins},
        programs::{self, Loaded},
    },
    units::age,
};

/// Packet programs.
#[derive(Debug, Subcommand)]
pub enum Prog {
    /// Show the programs of a node: which build runs, since when, where it is attached, how often each ran.
    Show,
    /// Load the programs of this build into maps of their own, attach none, and try them. Exit code 1 if they do not work here.
    Test,
}

/// What is shown as JSON.
#[derive(Serialize)]
struct Shown {
    /// The daemon that runs, if one does.
    daemon: Option<Node>,
    /// Whose programs these are, as whoever loaded them has said.
    build: Option<Build>,
    /// What this command would load.
    own: Build,
    programs: Vec<Loaded>,
}

/// Runs one of them.
pub(super) fn run(name: Option<&str>, command: &Prog, format: Format) -> Result<ExitCode> {
    match command {
        Prog::Show => show(name, format),
        Prog::Test => {
            let runtime = runtime()?;
            let _inside = runtime.enter();
            programs::test()?;
            println!("the packet programs of viplb {} work here", Build::own());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn show(name: Option<&str>, format: Format) -> Result<ExitCode> {
    let name = node::choose(name)?;
    let pins = Pins::of(&name);
    let programs = programs::show(&pins)?;
    let daemon = runtime()?.block_on(client::status(&pins::socket(&name))).ok().map(|s| s.node);
    let shown = Shown { daemon, build: Build::loaded(&pins), own: Build::own(), programs };
    match format {
        Format::Text => print!("{}", render(&name, &shown, status::now())),
        Format::Json => println!("{}", serde_json::to_string(&shown)?),
        Format::PrettyJson => println!("{}", serde_json::to_string_pretty(&shown)?),
    }
    Ok(ExitCode::SUCCESS)
}

fn render(name: &str, shown: &Shown, now: u64) -> String {
    let mut out = match &shown.daemon {
        Some(daemon) => {
            format!("node {name}  viplb {}  {}  pid {}\n", daemon.version, daemon.program, daemon.pid)
        }
        None => format!("node {name}  no daemon runs; what follows is in the kernel\n"),
    };
    match &shown.build {
        Some(build) => out += &format!("programs of viplb {build}\n"),
        None => out.push_str("programs of a viplb that did not say which\n"),
    }
    if shown.build.as_ref().is_none_or(|build| build.object != shown.own.object) {
        out += &format!("this command has others: viplb {}; `viplb upgrade` goes over to them\n", shown.own);
    }
    let mut table = Table::new(&["ID", "PROGRAM", "TAG", "LOADED", "ATTACHED", "RUNS", "NS/RUN", "VERIFIED"]);
    for p in &shown.programs {
        let attached = if p.attached.is_empty() { "-".into() } else { p.attached.join(",") };
        let per_run = p.run_time_ns.checked_div(p.runs).map_or_else(|| "-".into(), |ns| ns.to_string());
        table.row([
            p.id.to_string(),
            p.name.clone(),
            p.tag.clone(),
            format!("{} ago", age(now.saturating_sub(p.loaded_at))),
            attached,
            if p.runs == 0 { "-".into() } else { p.runs.to_string() },
            per_run,
            p.verified.map_or_else(|| "-".into(), |n| n.to_string()),
        ]);
    }
    out.push_str(&table.render(0));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_shown_with_what_is_known_of_them() {
        let program = Loaded {
            id: 7,
            name: "viplb_ingress".into(),
            tag: "00ff".into(),
            loaded_at: 95,
            runs: 0,
            run_time_ns: 0,
            verified: Some(1234),
            attached: vec!["eth0-ingress".into(), "lo-ingress".into()],
        };
        let busy = Loaded {
            id: 8,
            runs: 4,
            run_time_ns: 400,
            verified: None,
            attached: Vec::new(),
            ..program.clone()
        };
        let build =
            |object: &str| Build { version: "0.1.0".into(), commit: "abc".into(), object: object.into() };
        let mut shown =
            Shown { daemon: None, build: Some(build("00")), own: build("00"), programs: vec![program, busy] };
        let text = render("h1", &shown, 100);
        assert_eq!(
            text,
            "node h1  no daemon runs; what follows is in the kernel\n\
             programs of viplb 0.1.0 (commit abc, programs 00)\n\
             ID  PROGRAM        TAG   LOADED  ATTACHED                 RUNS  NS/RUN  VERIFIED\n\
             7   viplb_ingress  00ff  5s ago  eth0-ingress,lo-ingress  -     -       1234\n\
             8   viplb_ingress  00ff  5s ago  -                        4     100     -\n"
        );
        shown.own = build("11");
        let text = render("h1", &shown, 100);
        let others = "\nthis command has others: viplb 0.1.0 (commit abc, programs 11); `viplb upgrade` goes over to them\n";
        assert!(text.contains(others), "{text}");
    }
}
