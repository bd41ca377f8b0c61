//! How long backends take to answer, as the packet programs take it: once a flow, and only of packets that ask and answer.

use lb_common::{flow::TIMED, latency::Latency};
use lb_tests::{
    packets::{Datagram, FAMILIES, Family, Segment, seen, world},
    pair::Pair,
};

fn taken(pair: &Pair) -> [u64; 2] {
    let Latency { connect, response } = pair.host.latency_of(0);
    [connect.times(), response.times()]
}

#[test]
fn a_connection_is_timed_once_from_its_syn_and_once_from_its_first_request() {
    for family in FAMILIES {
        let mut p = Pair::new(&family.world(1));
        let client = |seq, data: &[u8]| {
            let data = data.to_vec();
            Segment { seq, ack: Some(9001), data, ..Segment::of(family, 40_000) }.frame()
        };
        let syn = p.establish_in(family, 40_000);
        let backend =
            |seq, data: &[u8]| Segment { seq, data: data.to_vec(), ..Segment::answer(&syn) }.frame();
        assert_eq!(taken(&p), [1, 0], "connected");
        p.receive(&backend(9001, b"welcome"));
        assert_eq!(taken(&p), [1, 0], "a greeting answers nothing");
        p.receive(&client(1001, b"SELECT"));
        p.receive(&client(1007, b" 1"));
        p.receive(&backend(9008, b""));
        assert_eq!(taken(&p), [1, 0], "an acknowledgement is no answer");
        assert_eq!(p.only_flow().flags & TIMED, 0);
        p.receive(&backend(9008, b"1"));
        assert_eq!(taken(&p), [1, 1], "answered");
        assert_eq!(p.only_flow().flags & TIMED, TIMED);
        p.receive(&client(1009, b"SELECT 2"));
        p.receive(&backend(9009, b"2"));
        assert_eq!(taken(&p), [1, 1], "once a flow");
    }
}

#[test]
fn a_repeated_syn_begins_the_wait_anew_and_a_refusal_takes_no_time() {
    let mut p = Pair::new(&world(1));
    p.receive(&Segment::syn(40_000).frame());
    let syn = seen(&p.receive(&Segment::syn(40_000).frame()).frame);
    p.receive(&Segment { rst: true, ..Segment::answer(&syn) }.frame());
    assert_eq!(taken(&p), [0, 0]);
}

#[test]
fn a_datagram_is_timed_until_the_first_one_back() {
    let mut p = Pair::new(&Family::V4.udp_world(1));
    let ask = Datagram::of(Family::V4, 40_000);
    p.receive(&ask.frame());
    let asked = Datagram::seen(&p.receive(&ask.frame()).frame);
    assert_eq!(taken(&p), [0, 0]);
    p.receive(&asked.answer().frame());
    p.receive(&asked.answer().frame());
    assert_eq!(taken(&p), [0, 1]);
}
