//! Which hook an interface gets, and how the programs come onto it: tcx links, or filters of a clsact qdisc.
//!
//! Called by `load` alone. Nothing of anybody else's is detached: tcx keeps a list of programs, and of filters only those of
//! this program's name are replaced. A daemon that comes back with another hook takes off what it had by the former one, or
//! each packet would be counted twice.

use std::{fs, io};

use anyhow::Result;
use aya::{
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        links::{FdLink, LinkError, PinnedLink},
        tc::{self, NlOptions, TcAttachOptions},
    },
    sys::SyscallError,
    util::KernelVersion,
};

use super::{load::PROGRAMS, pins::Pins};
use crate::config::model::Hook;

/// Picks the hook. Measured: on veth and other virtual links native XDP loses packets or computes wrong checksums for
/// locally sent ones, and generic XDP stalls bulk TCP; TC carries offloaded frames whole.
pub(super) fn choose(wanted: Hook) -> (&'static str, String) {
    let tcx = KernelVersion::current().is_ok_and(|v| v >= KernelVersion::new(6, 6, 0));
    match wanted {
        Hook::Tcx => ("tcx", "configured".into()),
        Hook::Clsact => ("clsact", "configured".into()),
        _ if tcx => ("tcx", "kernel 6.6 or later: link-based, atomic replacement".into()),
        _ => ("clsact", "kernel before 6.6 has no tcx".into()),
    }
}

pub(super) fn attach(
    program: &mut SchedClassifier,
    pins: &Pins,
    interface: &str,
    direction: &str,
    attach_type: TcAttachType,
    hook: &str,
) -> Result<()> {
    let path = pins.link(interface, direction);
    if hook == "clsact" {
        attach_clsact(program, interface, attach_type)?;
        return match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e.into()),
            _ => Ok(()),
        };
    }
    remove_filter(interface, attach_type);
    match PinnedLink::from_pin(&path) {
        Ok(old) => {
            // Replaces the running program in one step. A link whose interface has gone cannot be updated.
            let link = FdLink::from(old).try_into()?;
            if let Ok(id) = program.attach_to_link(link) {
                // The pin keeps the link; only our descriptor of it is closed.
                drop(program.take_link(id)?);
                return Ok(());
            }
            fs::remove_file(&path)?;
        }
        Err(LinkError::SyscallError(SyscallError { io_error, .. }))
            if io_error.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e.into()),
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(interface, attach_type, options)?;
    let link: FdLink = program.take_link(id)?.try_into()?;
    link.pin(&path)?;
    Ok(())
}

fn attach_clsact(program: &mut SchedClassifier, interface: &str, attach_type: TcAttachType) -> Result<()> {
    match tc::qdisc_add_clsact(interface) {
        Err(e) if !e.to_string().contains("exists") => tracing::debug!("clsact on {interface}: {e}"),
        _ => {}
    }
    remove_filter(interface, attach_type);
    program.attach_with_options(interface, attach_type, TcAttachOptions::Netlink(NlOptions::default()))?;
    Ok(())
}

/// Removes a former daemon's filter, known by its program's name. There may be none, and no qdisc.
fn remove_filter(interface: &str, attach_type: TcAttachType) {
    let name = if matches!(attach_type, TcAttachType::Ingress) { PROGRAMS[0].0 } else { PROGRAMS[1].0 };
    let _ = tc::qdisc_detach_program(interface, attach_type, name);
}
