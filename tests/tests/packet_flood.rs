//! 200,000 connections through one service, and five million requests from made-up addresses meanwhile: through the loaded
//! programs and their maps at full size (`BPF_PROG_TEST_RUN`), without the host core, which would take too long.

use std::net::{IpAddr, Ipv4Addr};

use lb_common::{half_open, reason::Reason};
use lb_tests::{
    packets::{Seen, Segment, seen, world},
    pair::Pair,
};
use lb_userspace::{
    datapath::{counters, load::Datapath},
    vrrp::BootTime,
};

const FLOWS: u32 = 200_000;
const FLOOD: u32 = 5_000_000;
/// Requests between two packets of a client's handshake, of which there are as many as places.
const BETWEEN: u32 = 20_000;
const S: u64 = 1_000_000_000;

/// The loaded programs, and how many packets they got.
struct Kernel<'a> {
    programs: &'a mut Datapath,
    sent: u64,
}

impl Kernel<'_> {
    /// Sends a frame in; it is forwarded.
    fn forward(&mut self, frame: &[u8]) -> Vec<u8> {
        self.sent += 1;
        let (verdict, out) = self.programs.test_run(false, frame).expect("test run");
        assert_eq!(verdict, 7, "not forwarded: {:?}", self.reasons());
        out
    }

    fn reasons(&mut self) -> Vec<(Reason, u64)> {
        let all = counters::reasons(self.programs.tables.maps()).expect("counters");
        all.into_iter().filter(|(_, n)| *n > 0).collect()
    }

    fn counted(&mut self, reason: Reason) -> u64 {
        self.reasons().into_iter().find(|(r, _)| *r == reason).map_or(0, |(_, n)| n)
    }

    /// Goes through the whole table at a time from now; how many flows ended.
    fn sweep(&mut self, later: u64) -> u32 {
        let d = &mut *self.programs;
        let all = d.collector.records();
        d.collector.sweep(d.tables.maps(), BootTime::now().0 + later, all).expect("sweep")
    }
}

/// Client `i`'s segment: 50 ports of each address.
fn of_client(i: u32) -> Segment {
    let addr = Ipv4Addr::from(0x0a01_0000 + i / 50);
    Segment { src: (IpAddr::V4(addr), 20_000 + (i % 50) as u16), ..Segment::from_client(0) }
}

fn syn_ack(syn: &Seen) -> Segment {
    Segment { syn: true, ..Segment::answer(syn) }
}

fn goes_on(i: u32) -> Segment {
    Segment { seq: 1001, ack: Some(9001), ..of_client(i) }
}

/// Requests from one address after the other; checksums are as they may be, for nobody looks.
struct Flood {
    frame: Vec<u8>,
    sent: u32,
}

impl Flood {
    fn send(&mut self, k: &mut Kernel<'_>, n: u32) {
        for _ in 0..n {
            self.frame[26..30].copy_from_slice(&(0x5000_0000 + self.sent.wrapping_mul(7)).to_be_bytes());
            self.sent += 1;
            k.forward(&self.frame);
        }
    }
}

#[test]
fn a_flood_of_requests_costs_no_established_connection_and_keeps_no_client_out() {
    let mut pair = Pair::with_room(&world(16), 262_144);
    let mut k = Kernel { programs: pair.kernel(), sent: 0 };
    let mut backends = Vec::new();
    for i in 0..FLOWS {
        let syn = seen(&k.forward(&Segment { syn: true, ..of_client(i) }.frame()));
        k.forward(&syn_ack(&syn).frame());
        k.forward(&goes_on(i).frame());
        backends.push((syn.dst, syn.src));
    }
    assert_eq!(k.sweep(0), 0);
    assert_eq!(k.programs.collector.used(), u64::from(FLOWS));

    let mut flood = Flood { frame: Segment::syn(1234).frame(), sent: 0 };
    let mut clients = FLOWS;
    while flood.sent < FLOOD {
        let syn = seen(&k.forward(&Segment { syn: true, ..of_client(clients) }.frame()));
        flood.send(&mut k, BETWEEN);
        k.forward(&syn_ack(&syn).frame());
        flood.send(&mut k, BETWEEN);
        k.forward(&goes_on(clients).frame());
        backends.push((syn.dst, syn.src));
        clients += 1;
    }
    // Past the time-out of half-open flows: these end, and no others.
    let ended = k.sweep(90 * S);
    let places = half_open::places(262_144);
    assert!(
        (places - 400..=places).contains(&ended),
        "a place whose flow was established last may be empty: {ended}"
    );
    assert_eq!(k.programs.collector.used(), u64::from(clients));

    let (forwarded, returned) = (k.counted(Reason::Forwarded), k.counted(Reason::Returned));
    for (i, (backend, source)) in (0..clients).zip(backends) {
        k.forward(&Segment { data: vec![1; 8], ..goes_on(i) }.frame());
        let answer = Segment { src: backend, dst: source, seq: 9001, ack: Some(1009), ..of_client(i) };
        k.forward(&answer.frame());
    }
    assert_eq!(k.counted(Reason::Forwarded) - forwarded, u64::from(clients));
    assert_eq!(k.counted(Reason::Returned) - returned, u64::from(clients));
    let reasons = k.reasons();
    println!("{} packets: {reasons:?}", k.sent);
    assert_eq!(reasons.iter().map(|(_, n)| n).sum::<u64>(), k.sent, "each packet has its reason");
    let started = std::time::Instant::now();
    assert_eq!(k.sweep(0), 0);
    println!("a pass over {clients} idle flows takes {:?}", started.elapsed());
}
