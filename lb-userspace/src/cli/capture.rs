//! `viplb capture`: packets that went no further, with the reason, as they came.

use std::{
    collections::HashMap,
    fmt::Write as _,
    io::Write as _,
    net::{Ipv4Addr, Ipv6Addr},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::Args;
use etherparse::{LaxPacketHeaders, NetHeaders, TransportHeader};
use lb_common::{
    reason::{Kind, Reason},
    sample::Sample,
};
use nix::net::if_::if_nameindex;
use serde_json::json;

use super::{Format, node};
use crate::{datapath::capture::Listener, vrrp::BootTime};

/// What to show.
#[derive(Debug, Args)]
pub struct Capture {
    /// Of which packets: reasons as `viplb status` names them, or `dropped`, `refused`, `answered`, `passed`.
    #[arg(short, long, value_name = "WORD", value_delimiter = ',', default_value = "dropped,refused")]
    reason: Vec<String>,
    /// End after so many packets.
    #[arg(short, long)]
    count: Option<u64>,
    /// End after so many seconds.
    #[arg(short, long, value_name = "SECONDS")]
    time: Option<f64>,
}

/// Prints packets until it is told to end. Exit code: 0, also when none came.
pub fn run(name: Option<&str>, what: &Capture, format: Format) -> Result<ExitCode> {
    let reasons = mask(&what.reason)?;
    let time = match what.time {
        Some(t) => Some(Duration::try_from_secs_f64(t)?),
        None => None,
    };
    let name = node::choose(name)?;
    let mut listener = Listener::open(&name, reasons)?;
    let (start, since) = (Instant::now(), BootTime::now().0);
    let interfaces = interfaces();
    let (mut out, mut shown) = (std::io::stdout().lock(), 0);
    if format == Format::Text {
        eprintln!("listening to node {name}; Ctrl-C ends it");
    }
    while what.count.is_none_or(|count| shown < count) {
        let rest = time.map(|t| t.saturating_sub(start.elapsed()));
        if rest == Some(Duration::ZERO) {
            break;
        }
        let wait = Duration::from_secs(1).min(rest.unwrap_or(Duration::MAX));
        let Some(sample) = listener.next(wait)? else { continue };
        let line = match format {
            Format::Text => text(&sample, since, &interfaces),
            Format::Json | Format::PrettyJson => object(&sample, &interfaces).to_string(),
        };
        // A closed pipe (`| head`) is an end like any other.
        if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
            return Ok(ExitCode::SUCCESS);
        }
        shown += 1;
    }
    if listener.lost() > 0 {
        eprintln!("{} more packets came faster than they could be shown", listener.lost());
    }
    Ok(ExitCode::SUCCESS)
}

/// Bit n for reason n.
fn mask(words: &[String]) -> Result<u64> {
    let mut mask = 0;
    for word in words {
        mask |= match word.as_str() {
            "passed" => of_kind(Kind::Passed),
            "answered" => of_kind(Kind::Answered),
            "refused" => of_kind(Kind::Refused),
            "dropped" => of_kind(Kind::Dropped),
            "forwarded" | "returned" => {
                bail!(
                    "`{word}` packets are not shown, since looking at them would slow them down: use tcpdump for those"
                )
            }
            word => match Reason::ALL.iter().find(|r| r.word() == word) {
                Some(reason) => 1 << *reason as u32,
                None => bail!("there is no reason `{word}`: {}", all_words()),
            },
        };
    }
    Ok(mask)
}

fn of_kind(kind: Kind) -> u64 {
    Reason::ALL.iter().filter(|r| r.kind() == kind).map(|r| 1 << *r as u32).sum()
}

fn all_words() -> String {
    let words: Vec<_> =
        Reason::ALL.iter().map(|r| r.word()).filter(|w| !matches!(*w, "forwarded" | "returned")).collect();
    format!("write dropped, refused, answered, passed, or one of {}", words.join(", "))
}

fn interfaces() -> HashMap<u32, String> {
    let list = if_nameindex().into_iter().flat_map(|all| {
        all.to_slice()
            .iter()
            .map(|i| (i.index(), i.name().to_string_lossy().into_owned()))
            .collect::<Vec<_>>()
    });
    list.collect()
}

fn reason(sample: &Sample) -> &'static str {
    Reason::of(sample.reason).map_or("unknown", |r| r.word())
}

fn text(sample: &Sample, since: u64, interfaces: &HashMap<u32, String>) -> String {
    let at = Duration::from_nanos(sample.at.saturating_sub(since)).as_secs_f64();
    let interface = interfaces.get(&sample.ifindex).map_or("-", String::as_str);
    let way = if sample.egress == 1 { "out" } else { "in" };
    let (reason, length) = (reason(sample), sample.length);
    format!("{at:>10.6}  {interface} {way}  {reason:<20}  {}  {length} bytes", summary(sample.bytes()))
}

fn object(sample: &Sample, interfaces: &HashMap<u32, String>) -> serde_json::Value {
    let head = sample.bytes().iter().fold(String::new(), |mut hex, b| {
        let _ = write!(hex, "{b:02x}");
        hex
    });
    json!({
        "boottime_ns": sample.at,
        "interface": interfaces.get(&sample.ifindex),
        "direction": if sample.egress == 1 { "out" } else { "in" },
        "reason": reason(sample),
        "length": sample.length,
        "summary": summary(sample.bytes()),
        "head": head,
    })
}

/// A frame in a few words: addresses, ports, protocol, TCP flags as tcpdump writes them.
fn summary(frame: &[u8]) -> String {
    let Ok(headers) = LaxPacketHeaders::from_ethernet(frame) else { return "cut short".into() };
    let (src, dst) = match &headers.net {
        Some(NetHeaders::Ipv4(ip, _)) => {
            (Ipv4Addr::from(ip.source).to_string(), Ipv4Addr::from(ip.destination).to_string())
        }
        Some(NetHeaders::Ipv6(ip, _)) => {
            (Ipv6Addr::from(ip.source).to_string(), Ipv6Addr::from(ip.destination).to_string())
        }
        Some(NetHeaders::Arp(arp)) => {
            let address = |b: &[u8]| b.iter().map(u8::to_string).collect::<Vec<_>>().join(".");
            return format!(
                "arp {} asks for {}",
                address(arp.sender_protocol_addr()),
                address(arp.target_protocol_addr())
            );
        }
        None => {
            return headers
                .link
                .and_then(|l| l.ethernet2())
                .map_or_else(|| "no Ethernet".into(), |eth| format!("ether type {:#06x}", eth.ether_type.0));
        }
    };
    transport(&src, &dst, headers.transport.as_ref())
}

fn transport(src: &str, dst: &str, header: Option<&TransportHeader>) -> String {
    match header {
        Some(TransportHeader::Tcp(tcp)) => {
            let flags = [(tcp.syn, 'S'), (tcp.fin, 'F'), (tcp.rst, 'R'), (tcp.psh, 'P'), (tcp.ack, '.')];
            let flags: String = flags.iter().filter(|(set, _)| *set).map(|(_, c)| c).collect();
            format!("{} > {} tcp [{flags}]", socket(src, tcp.source_port), socket(dst, tcp.destination_port))
        }
        Some(TransportHeader::Udp(udp)) => {
            format!("{} > {} udp", socket(src, udp.source_port), socket(dst, udp.destination_port))
        }
        Some(TransportHeader::Icmpv4(icmp)) => format!("{src} > {dst} icmp {:?}", icmp.icmp_type),
        Some(TransportHeader::Icmpv6(icmp)) => format!("{src} > {dst} icmp6 {:?}", icmp.icmp_type),
        _ => format!("{src} > {dst}"),
    }
}

fn socket(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_single_reasons_choose_packets_and_wrong_words_are_told_the_right_ones() {
        let words = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        let chosen = mask(&words("dropped,no-backend")).unwrap();
        for reason in Reason::ALL {
            let wanted = reason.kind() == Kind::Dropped || *reason == Reason::NoBackend;
            assert_eq!(chosen >> *reason as u32 & 1 == 1, wanted, "{reason:?}");
        }
        let error = mask(&words("droped")).unwrap_err().to_string();
        assert!(error.contains("no reason `droped`") && error.contains("not-owner"), "{error}");
        assert!(mask(&words("forwarded")).unwrap_err().to_string().contains("tcpdump"));
    }

    #[test]
    fn frames_are_summed_up_in_a_few_words_even_when_they_are_cut_short() {
        let mut frame = Vec::new();
        etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(4000, 3306, 1, 100)
            .syn()
            .write(&mut frame, &[0; 500])
            .unwrap();
        assert_eq!(summary(&frame[..96]), "10.0.0.1:4000 > 10.0.0.2:3306 tcp [S]");
        assert_eq!(summary(&frame[..30]), "ether type 0x0800");
        assert_eq!(summary(&frame[..5]), "cut short");
        let mut v6 = Vec::new();
        etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv6([0xfd; 16], [0xfe; 16], 64)
            .udp(53, 5300)
            .write(&mut v6, b"hello")
            .unwrap();
        let words = summary(&v6);
        assert!(words.starts_with('[') && words.ends_with("]:5300 udp"), "{words}");
    }
}
