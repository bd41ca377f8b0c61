//! Fragments of a frame's packet, and the packet that fragments make up; IPv6 extension headers put in.

use super::fix_ip_checksum;

/// Ethernet header.
const L3: usize = 14;

fn header(frame: &[u8]) -> usize {
    if frame[L3] >> 4 == 4 { L3 + 20 } else { L3 + 40 }
}

fn set_length(frame: &mut [u8]) {
    let length = frame.len() - L3;
    if frame[L3] >> 4 == 4 {
        frame[16..18].copy_from_slice(&(length as u16).to_be_bytes());
        fix_ip_checksum(frame);
    } else {
        frame[18..20].copy_from_slice(&((length - 40) as u16).to_be_bytes());
    }
}

/// The frame's packet in fragments of `size` bytes of payload, a multiple of eight, all with `id`.
pub fn fragments(frame: &[u8], size: usize, id: u16) -> Vec<Vec<u8>> {
    let (head, payload) = frame.split_at(header(frame));
    let count = payload.len().div_ceil(size);
    let piece = |(i, data): (usize, &[u8])| {
        let more = i + 1 < count;
        let mut out = head.to_vec();
        if frame[L3] >> 4 == 4 {
            let frags = (i * size / 8) as u16 | if more { 0x2000 } else { 0 };
            out[18..20].copy_from_slice(&id.to_be_bytes());
            out[20..22].copy_from_slice(&frags.to_be_bytes());
        } else {
            out[20] = 44;
            let offset = ((i * size) as u16 | u16::from(more)).to_be_bytes();
            let id = u32::from(id).to_be_bytes();
            out.extend([head[20], 0, offset[0], offset[1], id[0], id[1], id[2], id[3]]);
        }
        out.extend(data);
        set_length(&mut out);
        out
    };
    payload.chunks(size).enumerate().map(piece).collect()
}

/// The packet that fragments in their order make up.
///
/// # Panics
///
/// If their headers differ in more than they must, or there is a gap.
pub fn reassembled(frames: &[Vec<u8>]) -> Vec<u8> {
    let first = &frames[0];
    let v4 = first[L3] >> 4 == 4;
    let mut out = first[..header(first)].to_vec();
    let mut offset = 0;
    for f in frames {
        let at = header(f);
        let (stated, data) = if v4 {
            let mut copy = f.clone();
            fix_ip_checksum(&mut copy);
            assert_eq!(copy, *f, "IP checksum");
            assert_eq!(f[26..34], first[26..34], "addresses");
            (usize::from(u16::from_be_bytes([f[20], f[21]]) & 0x1fff) * 8, &f[at..])
        } else {
            assert_eq!(f[22..54], first[22..54], "addresses");
            out[20] = f[at];
            (usize::from(u16::from_be_bytes([f[at + 2], f[at + 3]]) & !7), &f[at + 8..])
        };
        assert_eq!(stated, offset, "a gap");
        offset += data.len();
        out.extend(data);
    }
    if v4 {
        out[20..22].fill(0);
    }
    set_length(&mut out);
    out
}

/// An IPv6 frame with extension headers between network and transport header, each its kind and its bytes, of which the first is
/// written here.
pub fn with_extensions(frame: &[u8], headers: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let (head, payload) = frame.split_at(L3 + 40);
    let mut out = head.to_vec();
    let mut nexts = headers.iter().map(|(kind, _)| *kind).chain([head[20]]);
    out[20] = nexts.next().expect("at least the transport header");
    for (_, bytes) in headers {
        out.push(nexts.next().expect("one more than headers"));
        out.extend(&bytes[1..]);
    }
    out.extend(payload);
    set_length(&mut out);
    out
}

/// The frame without `length` bytes of extension headers, which end in the transport header's protocol `next`.
pub fn without_extensions(frame: &[u8], length: usize, next: u8) -> Vec<u8> {
    let mut out = frame.to_vec();
    out.drain(L3 + 40..L3 + 40 + length);
    out[20] = next;
    set_length(&mut out);
    out
}
