//! `[vrrp.NAME]` as written.
//!
//! `file` calls [`read`] once per section; what keepalived calls otherwise is answered with viplb's word.

use std::{net::IpAddr, ops::RangeInclusive, time::Duration};

use toml::{Spanned, de::DeTable};

use super::{HOUR, Hints, check_interface, group, track};
use crate::config::{
    address::{self, Placed},
    diagnostic::Report,
    model::{Preempt, V3Checksum},
    reader::{Bare, Entry, Field, Reader, Refusal, parse_duration},
};

/// `[vrrp.NAME]`.
pub struct Vrrp {
    /// The `NAME`, with its place.
    pub name: Spanned<String>,
    /// `interface`.
    pub interface: Field<String>,
    /// `virtual_router_id`.
    pub vrid: Field<u8>,
    /// `priority`.
    pub priority: Field<u8>,
    /// `version`.
    pub version: Field<u8>,
    /// `advert_int`.
    pub advert_int: Field<Duration>,
    /// `v3_checksum`.
    pub v3_checksum: Field<V3Checksum>,
    /// `auth_pass`.
    pub auth_pass: Field<String>,
    /// `auth_pass_file`.
    pub auth_pass_file: Field<String>,
    /// `source`.
    pub source: Field<IpAddr>,
    /// `unicast_peer`.
    pub peers: Field<Vec<Spanned<Peer>>>,
    /// `virtual_ipaddress`.
    pub addresses: Field<Vec<Spanned<Placed>>>,
    /// `virtual_ipaddress_excluded`.
    pub excluded: Field<Vec<Spanned<Placed>>>,
    /// `assign_address`.
    pub assign: Field<bool>,
    /// `virtual_mac`.
    pub virtual_mac: Field<bool>,
    /// `witness`.
    pub witness: Field<bool>,
    /// `preempt`.
    pub preempt: Field<Preempt>,
    /// `lease`.
    pub lease: Field<Duration>,
    /// `probe` and its times.
    pub probe: Probe,
    /// `garp_…` and `gna_interval`.
    pub garp: Garp,
    /// `track`.
    pub track: Field<Vec<Spanned<track::Use>>>,
    /// `notify` and its kin.
    pub notify: group::Notify,
}

/// An element of `unicast_peer`.
pub struct Peer {
    /// `address`, or the whole element.
    pub addr: Field<IpAddr>,
    /// `min_ttl`.
    pub min_ttl: Field<u8>,
    /// `max_ttl`.
    pub max_ttl: Field<u8>,
}

/// What a router says about probes.
pub struct Probe {
    /// `probe`.
    pub on: Field<bool>,
    /// `probe_interval`.
    pub interval: Field<Duration>,
    /// `probe_lease`.
    pub lease: Field<Duration>,
}

/// What a router says about announcements.
pub struct Garp {
    /// `garp_master_repeat`.
    pub repeat: Field<u8>,
    /// `garp_master_delay`.
    pub delay: Field<Duration>,
    /// `garp_master_refresh`.
    pub refresh: Field<Duration>,
    /// `garp_master_refresh_repeat`.
    pub refresh_repeat: Field<u8>,
    /// `garp_lower_prio_repeat`.
    pub lower_prio_repeat: Field<u8>,
    /// `garp_lower_prio_delay`.
    pub lower_prio_delay: Field<Duration>,
    /// `garp_interval`.
    pub interval: Field<Duration>,
    /// `gna_interval`.
    pub gna_interval: Field<Duration>,
}

/// Reads one section.
pub fn read(name: Spanned<String>, table: &DeTable<'_>, report: &mut Report) -> Vrrp {
    let title = format!("[vrrp.{}]", name.get_ref());
    let mut r = Reader::new(table, title, name.span(), report).hints(VRRP_HINTS);
    let vrrp = Vrrp {
        interface: r.parsed("interface", check_interface),
        vrid: r.integer("virtual_router_id", 1..=255),
        priority: r.integer("priority", 1..=255),
        version: r.integer("version", 2..=3),
        advert_int: r.duration("advert_int", Bare::Seconds, ADVERT_INT),
        v3_checksum: r.choice("v3_checksum", V3_CHECKSUMS),
        auth_pass: r.parsed("auth_pass", check_auth_pass),
        auth_pass_file: r.string("auth_pass_file"),
        source: r.parsed("source", address::host),
        peers: r.entries("unicast_peer", read_peer),
        addresses: r.list("virtual_ipaddress", address::virtual_address),
        excluded: r.list("virtual_ipaddress_excluded", address::virtual_address),
        assign: r.boolean("assign_address"),
        virtual_mac: r.boolean("virtual_mac"),
        witness: r.boolean("witness"),
        preempt: r.parsed("preempt", preempt),
        lease: r.duration("lease", Bare::Refused, LEASE),
        probe: Probe {
            on: r.boolean("probe"),
            interval: r.duration("probe_interval", Bare::Refused, PROBE),
            lease: r.duration("probe_lease", Bare::Refused, PROBE),
        },
        garp: read_garp(&mut r),
        track: r.entries("track", track::read_use),
        notify: group::read_notify(&mut r),
        name,
    };
    r.require("interface", &vrrp.interface, "interface = \"eth0\"");
    r.require("virtual_router_id", &vrrp.vrid, "virtual_router_id = 51");
    r.require("priority", &vrrp.priority, "priority = 100");
    r.require("virtual_ipaddress", &vrrp.addresses, "virtual_ipaddress = [\"172.18.0.201\"]");
    r.finish();
    vrrp
}

fn read_garp(r: &mut Reader<'_, '_>) -> Garp {
    let delay = Duration::ZERO..=HOUR;
    Garp {
        repeat: r.integer("garp_master_repeat", 1..=100),
        delay: r.duration("garp_master_delay", Bare::Seconds, delay.clone()),
        refresh: r.duration("garp_master_refresh", Bare::Seconds, delay.clone()),
        refresh_repeat: r.integer("garp_master_refresh_repeat", 1..=100),
        lower_prio_repeat: r.integer("garp_lower_prio_repeat", 1..=100),
        lower_prio_delay: r.duration("garp_lower_prio_delay", Bare::Seconds, delay),
        interval: r.duration("garp_interval", Bare::Seconds, PACE),
        gna_interval: r.duration("gna_interval", Bare::Seconds, PACE),
    }
}

/// `"ADDR"` or `{ address = "ADDR", min_ttl = 1, max_ttl = 255 }`.
fn read_peer(entry: Entry<'_>, report: &mut Report) -> Field<Peer> {
    match entry {
        Entry::Text(text) => {
            let span = text.span();
            let addr = Field::Given(text).parse(report, |text| address::host(&text));
            match addr {
                Field::Given(_) => Field::Given(Spanned::new(
                    span,
                    Peer { addr, min_ttl: Field::Absent, max_ttl: Field::Absent },
                )),
                Field::Absent | Field::Bad => Field::Bad,
            }
        }
        Entry::Table(table) => {
            let mut r = Reader::new(table.get_ref(), "`unicast_peer`", table.span(), report);
            let peer = Peer {
                addr: r.parsed("address", address::host),
                min_ttl: r.integer("min_ttl", 1..=255),
                max_ttl: r.integer("max_ttl", 1..=255),
            };
            r.require("address", &peer.addr, "address = \"172.18.0.8\"");
            r.finish();
            Field::Given(Spanned::new(table.span(), peer))
        }
    }
}

fn preempt(text: &str) -> Result<Preempt, Refusal> {
    match (text, parse_duration(text)) {
        ("now", _) => Ok(Preempt::NOW),
        ("never", _) => Ok(Preempt::Never),
        (_, Some(delay)) if delay <= HOUR => Ok(Preempt::After(delay)),
        (_, Some(_)) => Err(("`preempt` is longer than 1h".into(), Some("\"0s\" to \"60m\"".into()))),
        _ => {
            let help = "offered: \"now\", \"never\", or how long to wait, as \"30s\"";
            Err((format!("`preempt` cannot be \"{}\"", text.escape_debug()), Some(help.into())))
        }
    }
}

fn check_auth_pass(text: &str) -> Result<String, Refusal> {
    if text.is_empty() || text.contains('\0') {
        return Err(("`auth_pass` is empty or holds a NUL".into(), Some("1 to 8 characters".into())));
    }
    Ok(text.to_owned())
}

// VRRPv2 carries whole seconds in one byte, version 3 centiseconds in 12 bits; `resolve` refuses with words of its own
// what the version at hand cannot.
const ADVERT_INT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(255);
const LEASE: RangeInclusive<Duration> = Duration::from_millis(10)..=HOUR;
const PROBE: RangeInclusive<Duration> = Duration::from_millis(1)..=HOUR;
/// A burst of 100 announcements for 255 addresses is to end some day.
const PACE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(10);

const V3_CHECKSUMS: &[(&str, V3Checksum)] =
    &[("pseudo-header", V3Checksum::PseudoHeader), ("plain", V3Checksum::Plain)];

const VRRP_HINTS: Hints = &[
    ("state", "leave it out: every node starts as backup and the priority decides"),
    ("nopreempt", "write `preempt = \"never\"`"),
    ("preempt_delay", "write the delay into `preempt`, as `preempt = \"30s\"`"),
    ("authentication", "write `auth_pass = \"…\"`"),
    ("auth_type", "leave it out: `auth_pass` means PASS"),
    ("address", "write `virtual_ipaddress = [\"…\"]`"),
    ("addresses", "write `virtual_ipaddress = [\"…\"]`"),
    ("no_virtual_ipaddress", "write `assign_address = false`"),
    ("vrid", "write `virtual_router_id`"),
    ("vrrp_version", "write `version`"),
    ("native_ipv6", "leave it out: the family is that of `virtual_ipaddress`"),
    ("v3_checksum_as_v2", "write `v3_checksum = \"plain\"`"),
    ("mcast_src_ip", "write `source = \"ADDR\"`"),
    ("unicast_src_ip", "write `source = \"ADDR\"`"),
    ("check_unicast_src", "leave it out: with `unicast_peer` only the peers are believed"),
    (
        "unicast_ttl",
        "leave it out: adverts leave with 255; `unicast_peer` has `min_ttl` for a peer behind routers",
    ),
    ("use_vmac", "write `virtual_mac = true`; no interface is made for it"),
    ("use_vmac_addr", "write `virtual_mac = true`"),
    ("vmac_xmit_base", "leave it out: `virtual_mac` needs no interface of its own"),
    ("use_ipvlan", "write `virtual_mac = true`, or leave it out"),
    ("vrrp_garp_interval", "write `garp_interval`"),
    ("garp_refresh", "write `garp_master_refresh`"),
    ("lower_prio_no_advert", "leave it out: RFC 9568 wants a losing advert answered"),
    ("higher_prio_send_advert", "leave it out: a router that yields always says so"),
    ("track_script", "write `track = [\"NAME\"]` and a `[track.NAME]` with `type = \"script\"`"),
    ("track_interface", "write `track = [\"NAME\"]` and a `[track.NAME]` with `type = \"interface\"`"),
    ("track_process", "write `track = [\"NAME\"]` and a `[track.NAME]` with `type = \"process\"`"),
    ("track_file", "write `track = [\"NAME\"]` and a `[track.NAME]` with `type = \"file\"`"),
    ("track_bfd", "write `track = [\"NAME\"]` and a `[track.NAME]` with `type = \"peer\"`"),
    ("script_user", "write `notify_user`, and `user` into a `[track.NAME]`"),
    ("accept", "leave it out: the packet programs answer for the addresses"),
    ("no_accept", "leave it out: the packet programs answer for the addresses"),
];
