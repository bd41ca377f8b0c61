//! `viplb capture`'s listener at the loaded programs: it is shown what went no further, as it came, with the reason.

use std::time::Duration;

use lb_common::{
    reason::Reason,
    sample::{HEAD, Sample},
};
use lb_tests::{
    packets::{Segment, VIP, udp, world},
    pair::{OVER, Pair},
};
use lb_userspace::datapath::capture::Listener;

/// Samples are in the ring before a test run returns.
const AT_ONCE: Duration = Duration::from_millis(1);

fn bit(reason: Reason) -> u64 {
    1 << reason as u32
}

fn listen(p: &Pair, reasons: u64) -> Listener {
    let name = p.pins.root.file_name().expect("a name").to_str().expect("in UTF-8");
    Listener::open(name, reasons).expect("listens")
}

fn all(listener: &mut Listener) -> Vec<Sample> {
    std::iter::from_fn(|| listener.next(AT_ONCE).expect("samples")).collect()
}

#[test]
fn a_listener_is_shown_packets_of_its_reasons_as_they_came() {
    let mut p = Pair::new(&world(0));
    let mut listener = listen(&p, bit(Reason::NoBackend) | bit(Reason::NotOwner));
    let refused = Segment::syn(40_000).frame();
    assert_eq!(p.receive(&refused).reason, Reason::NoBackend);
    assert_eq!(p.receive(&udp(VIP, 9)).reason, Reason::NoService);
    p.lease(OVER);
    let dropped = Segment { data: vec![7; 200], ..Segment::from_client(40_001) }.frame();
    assert_eq!(p.receive(&dropped).reason, Reason::NotOwner);
    let samples = all(&mut listener);
    assert_eq!(
        samples.iter().map(|s| s.reason).collect::<Vec<_>>(),
        [Reason::NoBackend, Reason::NotOwner].map(|r| r as u8)
    );
    assert_eq!(samples[0].bytes(), refused, "before it was turned into a reset");
    assert_eq!((samples[1].bytes(), samples[1].length), (&dropped[..HEAD], dropped.len() as u32));
    assert!(samples[0].at <= samples[1].at && samples[0].egress == 0);
    assert_eq!(listener.lost(), 0);
}

#[test]
fn a_packet_of_a_known_flow_is_shown_only_when_it_is_dropped() {
    let mut p = Pair::new(&world(1));
    p.establish(40_000);
    let mut listener = listen(&p, u64::MAX);
    let data = Segment { seq: 1001, ack: Some(9001), ..Segment::from_client(40_000) };
    assert_eq!(p.receive(&data.frame()).reason, Reason::Forwarded);
    assert!(all(&mut listener).is_empty());
    assert_eq!(p.receive(&Segment { ttl: 1, ..data }.frame()).reason, Reason::TtlExpired);
    assert_eq!(all(&mut listener).len(), 1);
}

#[test]
fn what_the_nodes_own_stack_may_not_send_is_shown_as_sent() {
    let mut p = Pair::new(&world(1));
    p.lease(OVER);
    let mut listener = listen(&p, bit(Reason::EgressFenced));
    let reply =
        Segment { src: (VIP, 3306), dst: (lb_tests::packets::CLIENT, 40_000), ..Segment::from_client(0) };
    assert_eq!(p.send(&reply.frame()).reason, Reason::EgressFenced);
    let samples = all(&mut listener);
    assert_eq!((samples.len(), samples[0].egress, samples[0].bytes()), (1, 1, &reply.frame()[..]));
}

#[test]
fn a_node_has_one_listener_and_is_left_alone_after_it() {
    let mut p = Pair::new(&world(0));
    let listener = listen(&p, u64::MAX);
    let name = p.pins.root.file_name().expect("a name").to_str().expect("in UTF-8").to_owned();
    let error = Listener::open(&name, u64::MAX).err().expect("a second one").to_string();
    assert!(error.contains("another `viplb capture`"), "{error}");
    drop(listener);
    p.receive(&Segment::syn(40_000).frame());
    let mut listener = listen(&p, u64::MAX);
    assert!(all(&mut listener).is_empty(), "nobody listened");
    p.receive(&Segment::syn(40_001).frame());
    assert_eq!(all(&mut listener).len(), 1);
}

#[test]
fn more_packets_than_there_is_room_for_are_counted_as_lost() {
    let mut p = Pair::new(&world(0));
    let mut listener = listen(&p, bit(Reason::NoBackend));
    let sent = 3000;
    for _ in 0..sent {
        p.kernel().test_run(false, &Segment::syn(40_000).frame()).expect("test run");
    }
    let shown = all(&mut listener).len() as u64;
    assert!(shown > 1000 && listener.lost() > 0, "{shown} shown, {} lost", listener.lost());
    assert_eq!(shown + listener.lost(), sent);
}
