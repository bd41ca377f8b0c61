//! `viplb flow list|kill`: the connections that a node knows. The list is read from the pinned maps, also while the daemon is
//! dead; to end connections the daemon is asked.

use std::{net::IpAddr, net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use lb_common::{
    addr::{Addr, PROTO_UDP, Port},
    flow::{Flow, Stage},
};
use serde::Serialize;

use super::{Format, node, runtime, table::Table};
use crate::{
    api::{FlowKill, client},
    config::reader::parse_duration,
    datapath::{flows::Collector, maps::Maps, pins, pins::Pins},
    vrrp::BootTime,
};

/// Connections.
#[derive(Debug, clap::Subcommand)]
pub enum FlowCommand {
    /// Show them.
    List(Shown),
    /// End them: both ends of a TCP connection are told by a RST.
    Kill(Killed),
}

/// Which to show; all that is said must hold.
#[derive(Debug, clap::Args)]
pub struct Shown {
    /// Of this client, or network.
    #[arg(long, value_name = "ADDR[/LEN]", value_parser = network)]
    client: Option<IpNet>,
    /// To this backend.
    #[arg(long, value_name = "ADDR")]
    backend: Option<IpAddr>,
    /// Silent for so long, as `90s`.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    idle: Option<Duration>,
    /// Show no more than this.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
}

/// Which to end; all that is said must hold.
#[derive(Debug, clap::Args)]
pub struct Killed {
    /// Of this service.
    #[arg(long)]
    service: Option<String>,
    /// Of this backend of the service.
    #[arg(long, requires = "service")]
    backend: Option<String>,
    /// Of this client, or network.
    #[arg(long, value_name = "ADDR[/LEN]", value_parser = network)]
    client: Option<IpNet>,
    /// Silent for so long, as `90s`.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    idle: Option<Duration>,
    /// All there are.
    #[arg(long, conflicts_with_all = ["service", "client", "idle"])]
    all: bool,
}

/// A connection as JSON has it.
#[derive(Debug, Serialize)]
struct Row {
    protocol: &'static str,
    client: SocketAddr,
    listen: SocketAddr,
    backend: SocketAddr,
    /// The source that the backend sees.
    source: SocketAddr,
    mode: &'static str,
    stage: &'static str,
    /// Seconds since its first packet.
    age: u64,
    /// Seconds since its last one.
    idle: u64,
}

/// Runs the command.
pub fn run(node: Option<&str>, command: FlowCommand, format: Format) -> Result<ExitCode> {
    let node = node::choose(node)?;
    match command {
        FlowCommand::List(shown) => list(&Pins::of(&node), &shown, format),
        FlowCommand::Kill(killed) => kill(&node, killed, format),
    }
}

fn list(pins: &Pins, shown: &Shown, format: Format) -> Result<ExitCode> {
    let maps = Maps::open(pins)?;
    let places = maps.half_open.len() - 1;
    let flows = Collector::open(pins, maps.flows.len() - places, places, maps.port_pools.len())?;
    let now = BootTime::now();
    let wanted = |flow: &Flow| {
        shown.client.is_none_or(|net| net.contains(&IpAddr::from(flow.client)))
            && shown.backend.is_none_or(|addr| addr == IpAddr::from(flow.backend))
            && shown.idle.is_none_or(|idle| now.since(BootTime(flow.seen)) >= idle)
    };
    let mut rows: Vec<Row> = (0..flows.records())
        .filter_map(|slot| flows.flow(slot))
        .filter(wanted)
        .map(|f| row(&f, now))
        .collect();
    rows.sort_by_key(|row| (row.listen, row.client));
    let more = rows.len().saturating_sub(shown.limit);
    rows.truncate(shown.limit);
    match format {
        Format::Text => print!("{}", text(&rows)),
        Format::Json => println!("{}", serde_json::to_string(&rows)?),
        Format::PrettyJson => println!("{}", serde_json::to_string_pretty(&rows)?),
    }
    if more > 0 {
        eprintln!("{more} more; --limit shows them");
    }
    Ok(ExitCode::SUCCESS)
}

fn row(flow: &Flow, now: BootTime) -> Row {
    let socket = |addr: Addr, port: Port| SocketAddr::new(addr.into(), port.number());
    Row {
        protocol: if flow.proto == PROTO_UDP { "udp" } else { "tcp" },
        client: socket(flow.client, flow.client_port),
        listen: socket(flow.vip, flow.vip_port),
        backend: socket(flow.backend, flow.backend_port),
        source: socket(flow.snat, flow.snat_port),
        mode: flow.mode().word(),
        stage: stage(flow.stage()),
        age: (now.0 / 1_000_000_000).saturating_sub(flow.born.into()),
        idle: now.since(BootTime(flow.seen)).as_secs(),
    }
}

fn stage(stage: Stage) -> &'static str {
    match stage {
        Stage::Free => "free",
        Stage::SynSent => "syn-sent",
        Stage::SynReceived => "syn-received",
        Stage::Established => "established",
        Stage::Closing => "closing",
        Stage::Closed => "closed",
        Stage::OneWay => "one-way",
        Stage::TwoWay => "two-way",
    }
}

fn text(rows: &[Row]) -> String {
    let mut table = Table::new(&["PROTO", "CLIENT", "LISTEN", "BACKEND", "MODE", "STAGE", "AGE", "IDLE"]);
    for r in rows {
        let ends = [&r.client, &r.listen, &r.backend].map(ToString::to_string);
        let words = [r.mode, r.stage].map(str::to_owned);
        let times = [r.age, r.idle].map(|s| format!("{s}s"));
        table.row([r.protocol.to_owned()].into_iter().chain(ends).chain(words).chain(times));
    }
    table.render(0)
}

fn kill(node: &str, killed: Killed, format: Format) -> Result<ExitCode> {
    let Killed { service, backend, client, idle, all } = killed;
    if !all && service.is_none() && client.is_none() && idle.is_none() {
        bail!("say which: --service, --client, --idle, or --all");
    }
    let idle_ms = idle.map_or(0, |idle| idle.as_millis() as u64);
    let kill = FlowKill { service, backend, client, idle_ms };
    let ended = runtime()?
        .block_on(client::kill_flows(&pins::socket(node), &kill))
        .with_context(|| format!("node {node} ended nothing"))?;
    match format {
        Format::Text => println!("{ended} connections ended"),
        Format::Json | Format::PrettyJson => println!("{}", serde_json::json!({ "ended": ended })),
    }
    Ok(ExitCode::SUCCESS)
}

fn network(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address.or_else(|_| text.parse()).map_err(|_| "an address or a network, as 192.0.2.0/24".into())
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "a number and a unit, as 90s or 5m".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_an_address_or_a_network() {
        assert_eq!(network("192.0.2.1").unwrap().to_string(), "192.0.2.1/32");
        assert_eq!(network("fd00::/8").unwrap().to_string(), "fd00::/8");
        assert!(network("db1").unwrap_err().contains("192.0.2.0/24"));
    }

    #[test]
    fn the_list_says_who_speaks_to_whom_and_for_how_long() {
        let flow = Flow {
            client: Addr::v4([192, 0, 2, 1]),
            vip: Addr::v4([172, 18, 0, 201]),
            backend: Addr::v4([172, 18, 0, 2]),
            client_port: Port::new(1234),
            vip_port: Port::new(3306),
            backend_port: Port::new(3306),
            seen: 990_000_000_000,
            born: 400,
            stage: Stage::Established as u8,
            proto: 6,
            ..Flow::default()
        };
        let shown = text(&[row(&flow, BootTime(1_000_000_000_000))]);
        assert_eq!(
            shown.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>(),
            [
                "tcp",
                "192.0.2.1:1234",
                "172.18.0.201:3306",
                "172.18.0.2:3306",
                "nat",
                "established",
                "600s",
                "10s"
            ]
        );
    }
}
