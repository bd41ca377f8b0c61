//! Arbitrary bytes as an advert, and what must hold of whatever is believed.
//!
//! For the fuzz target `advert` (`tests/fuzz`) and a property test, so that the target cannot rot where there is no
//! nightly compiler. Nothing else calls it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use super::{Advert, Auth, Datagram, Identity, PROTOCOL, Path, TTL, V3Checksum, Version, checksum, field};
use crate::{
    config::model::{AuthPass, Transport, UnicastPeer},
    vrrp::announce,
};

/// Hands `bytes` to every reader of frames from outside: as a frame of a neighbour, as an IPv4 datagram, and as the
/// message of an advert over both families, as it is and with its checksum put right.
///
/// # Panics
///
/// If a reader panics, or believes what it should not.
pub fn any_bytes(bytes: &[u8]) {
    let _ = announce::claimed(bytes);
    for identity in routers() {
        let local = local(&identity);
        let peer = UnicastPeer { addr: local, min_ttl: TTL, max_ttl: TTL };
        for transport in [Transport::Multicast, Transport::Unicast(vec![peer])] {
            let path = Path { local, transport };
            if let Some(datagram) = Datagram::from_ipv4(bytes) {
                judge(&identity, &path, &datagram);
            }
            for destination in path.destinations() {
                let mut message = bytes.to_vec();
                judge(
                    &identity,
                    &path,
                    &Datagram { source: local, destination, ttl: TTL, payload: &message },
                );
                repair(&identity, local, destination, &mut message);
                judge(
                    &identity,
                    &path,
                    &Datagram { source: local, destination, ttl: TTL, payload: &message },
                );
            }
        }
    }
}

/// Whoever is believed says 10 ms or more, and is believed again in our own words.
fn judge(identity: &Identity, path: &Path, datagram: &Datagram<'_>) {
    let Ok(advert) = identity.parse(path, datagram) else { return };
    assert!(advert.interval >= Duration::from_millis(10), "{advert:?}");
    let own = Identity { advert_int: advert.interval, ..identity.clone() };
    let mut words = vec![0; own.datagram_len()];
    own.emit(advert.priority, datagram.source, datagram.destination, &mut words);
    let payload = &words[own.family().header_len()..];
    let again: Result<Advert, _> = own.parse(path, &Datagram { payload, ..*datagram });
    assert_eq!(again, Ok(advert));
}

/// Fuzzing would hardly get past the checksum otherwise.
fn repair(identity: &Identity, source: IpAddr, destination: IpAddr, message: &mut [u8]) {
    let Some(slot) = message.get_mut(field::CHECKSUM) else { return };
    slot.fill(0);
    let sum = match identity.version {
        Version::V2 => checksum::plain(message),
        Version::V3 => checksum::with_pseudo_header(source, destination, PROTOCOL, message),
    };
    message[field::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
}

fn routers() -> [Identity; 4] {
    let two = Identity {
        version: Version::V2,
        vrid: 51,
        advert_int: Duration::from_secs(1),
        auth: Auth::Pass(AuthPass(*b"123456\0\0")),
        v3_checksum: V3Checksum::default(),
        addresses: vec![Ipv4Addr::new(172, 18, 0, 201).into()],
    };
    let open = Identity { auth: Auth::None, ..two.clone() };
    let three = Identity { version: Version::V3, ..open.clone() };
    let six =
        Identity { addresses: vec![Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x201).into()], ..three.clone() };
    [two, open, three, six]
}

fn local(identity: &Identity) -> IpAddr {
    match identity.family() {
        super::Family::V4 => Ipv4Addr::new(172, 18, 0, 7).into(),
        super::Family::V6 => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 7).into(),
    }
}
