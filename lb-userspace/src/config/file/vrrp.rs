//! `[vrrp.NAME]` as written.
//!
//! `file` calls [`read`] once per section; what keepalived calls otherwise is answered with viplb's word.

use std::time::Duration;

use toml::{Spanned, de::DeTable};

use super::{HOUR, Hints, check_interface};
use crate::config::{
    address,
    diagnostic::Report,
    model::{Preempt, V3Checksum, VirtualAddress},
    reader::{Bare, Field, Reader, Refusal},
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
    /// `virtual_ipaddress`.
    pub addresses: Field<Vec<Spanned<VirtualAddress>>>,
    /// `preempt`.
    pub preempt: Field<Preempt>,
    /// `lease`.
    pub lease: Field<Duration>,
    /// `garp_master_repeat`.
    pub garp_repeat: Field<u8>,
    /// `garp_master_delay`.
    pub garp_delay: Field<Duration>,
    /// `garp_master_refresh`.
    pub garp_refresh: Field<Duration>,
}

/// Reads one section.
pub fn read(name: Spanned<String>, table: &DeTable<'_>, report: &mut Report) -> Vrrp {
    let title = format!("[vrrp.{}]", name.get_ref());
    let mut r = Reader::new(table, title, name.span(), report).hints(VRRP_HINTS);
    let vrrp = Vrrp {
        interface: r.parsed("interface", check_interface),
        vrid: r.integer("virtual_router_id", 1..=255),
        priority: r.integer("priority", 1..=254),
        version: r.integer("version", 2..=3),
        advert_int: r.duration("advert_int", Bare::Seconds, ADVERT_INT),
        v3_checksum: r.choice("v3_checksum", V3_CHECKSUMS),
        auth_pass: r.parsed("auth_pass", check_auth_pass),
        auth_pass_file: r.string("auth_pass_file"),
        addresses: r.list("virtual_ipaddress", address::virtual_address),
        preempt: r.choice("preempt", &[("now", Preempt::NOW), ("never", Preempt::Never)]),
        lease: r.duration("lease", Bare::Refused, LEASE),
        garp_repeat: r.integer("garp_master_repeat", 1..=100),
        garp_delay: r.duration("garp_master_delay", Bare::Seconds, Duration::ZERO..=HOUR),
        garp_refresh: r.duration("garp_master_refresh", Bare::Seconds, Duration::ZERO..=HOUR),
        name,
    };
    r.require("interface", &vrrp.interface, "interface = \"eth0\"");
    r.require("virtual_router_id", &vrrp.vrid, "virtual_router_id = 51");
    r.require("priority", &vrrp.priority, "priority = 100");
    r.require("virtual_ipaddress", &vrrp.addresses, "virtual_ipaddress = [\"172.18.0.201\"]");
    r.finish();
    vrrp
}

fn check_auth_pass(text: &str) -> Result<String, Refusal> {
    if text.is_empty() || text.contains('\0') {
        return Err(("`auth_pass` is empty or holds a NUL".into(), Some("1 to 8 characters".into())));
    }
    Ok(text.to_owned())
}

// VRRPv2 carries whole seconds in one byte, version 3 centiseconds in 12 bits; `resolve` refuses with words of its own
// what the version at hand cannot.
const ADVERT_INT: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(255);
const LEASE: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=HOUR;

const V3_CHECKSUMS: &[(&str, V3Checksum)] =
    &[("pseudo-header", V3Checksum::PseudoHeader), ("plain", V3Checksum::Plain)];

const VRRP_HINTS: Hints = &[
    ("state", "leave it out: every node starts as backup and the priority decides"),
    ("nopreempt", "write `preempt = \"never\"`"),
    ("authentication", "write `auth_pass = \"…\"`"),
    ("auth_type", "leave it out: `auth_pass` means PASS"),
    ("address", "write `virtual_ipaddress = [\"…\"]`"),
    ("addresses", "write `virtual_ipaddress = [\"…\"]`"),
    ("vrid", "write `virtual_router_id`"),
    ("vrrp_version", "write `version`"),
    ("v3_checksum_as_v2", "write `v3_checksum = \"plain\"`"),
];
