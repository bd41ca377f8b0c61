//! The part of `resolve` that is about the ways to backends: tunnels, segment sizes, and which families may meet.

use toml::Spanned;

use super::{Resolver, or, virtual_addrs};
use crate::config::{
    file,
    model::{Mode, Mss, PathOptions},
};

impl Resolver<'_, '_> {
    pub(super) fn path(&mut self, s: &file::Service) -> PathOptions {
        let keys = &s.path;
        let modes = |wanted: Mode| {
            let own = s.backends.value().into_iter().flatten().filter_map(|b| b.mode.value().copied());
            own.chain([or(&s.mode, Mode::Nat)]).any(|mode| mode == wanted)
        };
        if !modes(Mode::Tunnel) {
            let written = [
                ("tunnel_source", keys.tunnel_source.given().map(Spanned::span)),
                ("tunnel_mtu", keys.tunnel_mtu.given().map(Spanned::span)),
            ];
            for (key, place) in written {
                let Some(place) = place else { continue };
                let message = format!("`{key}` has no use without a backend in `mode = \"tunnel\"`");
                self.warning(place, message, "remove it, or choose that mode");
            }
        }
        if let Some(source) = keys.tunnel_source.given()
            && self.file.vrrp.iter().flat_map(virtual_addrs).any(|a| a == *source.get_ref())
        {
            let message = format!("`tunnel_source` is the virtual address {}", source.get_ref());
            self.error(source.span(), message, "write an address that this node always has");
        }
        let mss = match (keys.mss.given(), keys.mss_clamp.given()) {
            (Some(mss), Some(off)) if !*off.get_ref() => {
                let message = "`mss` says what `mss_clamp = false` forbids";
                self.error(mss.span(), message, "remove one of the two");
                Mss::Unchanged
            }
            (Some(mss), _) => Mss::AtMost(*mss.get_ref()),
            (None, Some(off)) if !*off.get_ref() => Mss::Unchanged,
            (None, _) => Mss::Fitting,
        };
        PathOptions {
            tunnel_source: keys.tunnel_source.value().copied(),
            tunnel_mtu: keys.tunnel_mtu.value().copied(),
            mss,
        }
    }
}
