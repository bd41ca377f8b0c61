//! Proof that what XDP sends really leaves: attaching without an error proves nothing, and on some devices each frame that a
//! program sends is lost in silence (veth without a program on its peer).
//!
//! Any IPv4 neighbour helps without knowing: it answers ARP. The daemon asks it as usual; the program turns the *answer* into
//! another question and sends it; that one is asked in nobody's name (sender 0.0.0.0, RFC 5227), so its answer cannot be
//! taken for that to any other. If it comes, XDP has received, has sent, and what it sent has arrived.

use std::{
    io::{self, ErrorKind, Read},
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use aya::maps::{HashMap, MapData};
use lb_common::{
    addr::Mac,
    fast::{ARP_FRAME, SelfTest},
};
use socket2::{Domain, SockAddr, Socket, Type};

use super::xdp::Port;

/// How long an answer may take; a neighbour's is there in a millisecond.
const PATIENCE: Duration = Duration::from_millis(400);
/// Neighbours that are asked: one that answers is enough.
const ASKED: usize = 16;

/// Proves that frames that came in by `from` leave by `to` when XDP sends them.
pub(super) fn prove(tests: &mut HashMap<&mut MapData, u32, SelfTest>, from: &Port, to: &Port) -> Result<()> {
    let first = answering(from)?;
    let second = if to.ifindex == from.ifindex { first } else { answering(to)? };
    let test = SelfTest {
        out: to.ifindex,
        armed: 1,
        mac: from.mac,
        frame: question(to.mac, Ipv4Addr::UNSPECIFIED, second),
    };
    let heard = socket(to.ifindex).context("cannot open a packet socket")?;
    tests.insert(from.ifindex, test, 0).context("map SELF_TESTS")?;
    let result = (|| {
        ask(from, first)?;
        if hears(&heard, to.mac, second, Ipv4Addr::UNSPECIFIED)? {
            return Ok(());
        }
        match tests.get(&from.ifindex, 0) {
            Ok(test) if test.armed == 0 => {
                bail!("a frame that XDP sent by {} was lost on its way to {second}", to.name)
            }
            _ => bail!("the answer of {first} did not come by XDP on {}", from.name),
        }
    })();
    let _ = tests.remove(&from.ifindex);
    result
}

/// A neighbour that answers ARP.
fn answering(port: &Port) -> Result<Ipv4Addr> {
    let own = port.own.with_context(|| format!("{} has no IPv4 address to test with", port.name))?;
    for neighbour in port.neighbours.iter().filter(|n| **n != own).take(ASKED) {
        let heard = socket(port.ifindex).context("cannot open a packet socket")?;
        ask(port, *neighbour)?;
        if hears(&heard, port.mac, *neighbour, own)? {
            return Ok(*neighbour);
        }
    }
    bail!("no neighbour on {} answers ARP, so nothing can be proven", port.name)
}

fn ask(port: &Port, target: Ipv4Addr) -> Result<()> {
    let own = port.own.unwrap_or(Ipv4Addr::UNSPECIFIED);
    let sender = socket(port.ifindex).context("cannot open a packet socket")?;
    sender.send(&question(port.mac, own, target)).with_context(|| format!("cannot send by {}", port.name))?;
    Ok(())
}

/// Whether an ARP reply of `target` to `mac` and `asker` comes.
fn hears(socket: &Socket, mac: Mac, target: Ipv4Addr, asker: Ipv4Addr) -> Result<bool> {
    let end = Instant::now() + PATIENCE;
    let mut buffer = [0; 128];
    while let Some(rest) = end.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()) {
        socket.set_read_timeout(Some(rest))?;
        match (&mut &*socket).read(&mut buffer) {
            Ok(n) if n >= ARP_FRAME && is_reply(&buffer, mac, target, asker) => return Ok(true),
            Ok(_) => {}
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(e) => return Err(e).context("cannot listen for ARP"),
        }
    }
    Ok(false)
}

/// Opcode at 20, sender at 28, target's hardware address at 32 and address at 38 (RFC 826).
fn is_reply(frame: &[u8], mac: Mac, target: Ipv4Addr, asker: Ipv4Addr) -> bool {
    frame[20..22] == [0, 2]
        && frame[28..32] == target.octets()
        && frame[32..38] == mac.0
        && frame[38..42] == asker.octets()
}

/// An ARP request to all.
fn question(mac: Mac, asker: Ipv4Addr, target: Ipv4Addr) -> [u8; ARP_FRAME] {
    let mut frame = [0; ARP_FRAME];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac.0);
    frame[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame[22..28].copy_from_slice(&mac.0);
    frame[28..32].copy_from_slice(&asker.octets());
    frame[38..42].copy_from_slice(&target.octets());
    frame
}

/// A packet socket for ARP on one interface.
fn socket(ifindex: u32) -> io::Result<Socket> {
    let protocol = u16::try_from(libc::ETH_P_ARP).map_err(io::Error::other)?.to_be();
    let index = i32::try_from(ifindex).map_err(io::Error::other)?;
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    // SAFETY: the storage is zeroed and larger than a sockaddr_ll, of which all zeroes are a valid value.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let link = &mut *storage.cast::<libc::sockaddr_ll>();
            link.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
            (link.sll_protocol, link.sll_ifindex) = (protocol, index);
            *length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
            Ok(())
        })
    }?;
    socket.bind(&address)?;
    Ok(socket)
}
