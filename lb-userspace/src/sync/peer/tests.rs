use lb_common::flow::{ADOPTED, Flow, REPLICATED, Stage};
use proptest::prelude::*;

use super::{
    super::{
        gate::Gate,
        node::{Node, Outcome},
        table::Unfit,
        testing::{Fate, Host, Sim, record},
    },
    *,
};

const SECOND: Duration = Duration::from_secs(1);

fn good(_: u64) -> Fate {
    Fate::Arrives(1)
}

/// Two nodes that have met; the first owns the address.
fn met() -> Sim {
    let mut sim = Sim::new();
    sim.hosts[0].node.own(0, true, sim.now);
    sim.run(SECOND, good);
    sim
}

fn equal(sim: &Sim) -> bool {
    sim.hosts[0].flows.content() == sim.hosts[1].flows.content()
}

fn standing(sim: &Sim) -> Option<Standing> {
    sim.hosts[1].node.best(0, sim.now)
}

#[test]
fn a_flow_is_known_to_the_other_node_within_milliseconds_and_so_is_its_end() {
    let mut sim = met();
    assert_eq!(standing(&sim), Some(Standing::InSync), "nothing and nothing");
    sim.hosts[0].establish(&record(40_000), sim.now);
    sim.run(Duration::from_millis(3), good);
    assert_eq!(sim.hosts[1].flows.slots.len(), 1);
    sim.hosts[0].advance(&record(40_000), Stage::Closing, sim.now);
    sim.run(Duration::from_millis(3), good);
    assert_eq!(sim.hosts[1].flows.slots.values().next().unwrap().stage(), Stage::Closing);
    sim.hosts[0].end(&record(40_000), sim.now);
    sim.run(Duration::from_millis(3), good);
    assert!(sim.hosts[1].flows.slots.is_empty());
    assert_eq!(sim.hosts[1].node.links[0].peer.exchanged.repairs, 0);
}

/// A half-open flow of a strict service, its slot and generation; the backend has answered.
fn half_open(sim: &mut Sim, port: u16) -> (u32, u16) {
    let flows = &mut sim.hosts[0].flows;
    let slot = flows.establish(&record(port));
    let flow = flows.slots.get_mut(&slot).expect("a flow");
    (flow.stage, flow.place) = (Stage::SynReceived as u8, 7);
    (slot, flow.generation)
}

#[test]
fn a_syn_ack_goes_on_once_the_peer_has_its_flow_which_stays_there() {
    let mut sim = met();
    let which = half_open(&mut sim, 40_000);
    let now = sim.now;
    let Host { node, flows } = &mut sim.hosts[0];
    node.hold(which, &[1], flows, now);
    node.hold((which.0, which.1 + 1), &[2], flows, now);
    assert_eq!(node.waiting.take(now), [[2]], "of another flow, which the collector has removed");
    sim.run(Duration::from_millis(2), good);
    assert!(sim.hosts[0].node.waiting.take(now).is_empty(), "the answer is still on its way");
    sim.run(Duration::from_millis(2), good);
    let now = sim.now;
    assert_eq!(sim.hosts[0].node.waiting.take(now), [[1]]);
    let there = |sim: &Sim| *sim.hosts[1].flows.slots.values().next().expect("the flow");
    assert_eq!(
        (there(&sim).stage(), there(&sim).place != 0),
        (Stage::SynReceived, true),
        "no more than half-open there too"
    );
    // The collector comes by, some time passes, the client confirms: nothing is to be repaired.
    let Host { node, flows } = &mut sim.hosts[0];
    node.note(which.0, flows, now);
    sim.run(SECOND, good);
    assert_eq!(standing(&sim), Some(Standing::InSync));
    sim.hosts[0].flows.slots.get_mut(&which.0).expect("a flow").place = 0;
    sim.hosts[0].advance(&record(40_000), Stage::Established, sim.now);
    sim.run(SECOND, good);
    assert!(equal(&sim));
    assert_eq!((there(&sim).stage(), there(&sim).place), (Stage::Established, 0));
    assert_eq!(sim.hosts[1].node.links[0].peer.exchanged.repairs, 0);
    assert_eq!(sim.hosts[0].node.waiting.counts.confirmed, 1);
}

#[test]
fn half_open_flows_are_handed_over_as_they_are_and_again_once_they_are_answered() {
    let mut sim = met();
    let which = half_open(&mut sim, 40_000);
    let slot = which.0;
    sim.hosts[0].flows.slots.get_mut(&slot).expect("a flow").stage = Stage::SynSent as u8;
    let there = |sim: &Sim| *sim.hosts[1].flows.slots.values().next().expect("the flow");
    let hand_over = |sim: &mut Sim| {
        let now = sim.now;
        let Host { node, flows } = &mut sim.hosts[0];
        (0..10).for_each(|_| node.hand_over(&[which], flows, now));
        let before = sim.sent;
        sim.run(Duration::from_millis(3), good);
        assert!(sim.sent - before < 10, "told a few times, not each time: {}", sim.sent - before);
    };
    hand_over(&mut sim);
    assert_eq!((there(&sim).stage(), there(&sim).flags & ADOPTED), (Stage::SynSent, ADOPTED));
    let flow = sim.hosts[0].flows.slots.get_mut(&slot).expect("a flow");
    (flow.stage, flow.backend_next) = (Stage::SynReceived as u8, 77);
    hand_over(&mut sim);
    assert_eq!((there(&sim).stage(), there(&sim).backend_next), (Stage::SynReceived, 77));
    // The other one owns it now, and hears last that it was established here.
    sim.hosts[0].flows.slots.get_mut(&slot).expect("a flow").place = 0;
    sim.hosts[0].advance(&record(40_000), Stage::Established, sim.now);
    let now = sim.now;
    sim.hosts[1].node.own(0, true, now);
    sim.run(Duration::from_millis(3), good);
    assert_eq!((there(&sim).stage(), there(&sim).place), (Stage::Established, 0));
}

#[test]
fn what_was_opened_for_an_owner_that_hands_over_is_not_removed_because_that_lacks_it() {
    let mut sim = met();
    sim.hosts[1].establish(&record(1), sim.now);
    sim.run(SECOND, good);
    assert_eq!(
        sim.hosts[1].flows.slots.len(),
        1,
        "its owner's number and sum are others, and were asked for"
    );
    let now = sim.now;
    sim.hosts[0].node.own(0, false, now);
    sim.hosts[1].node.own(0, true, now);
    sim.run(SECOND, good);
    assert!(equal(&sim));
    assert_eq!(sim.hosts[0].flows.slots.len(), 1);
}

#[test]
fn a_flow_whose_owner_died_before_telling_that_it_was_established_is_not_ended() {
    let mut sim = met();
    let which = half_open(&mut sim, 40_000);
    let now = sim.now;
    let Host { node, flows } = &mut sim.hosts[0];
    node.hold(which, &[1], flows, now);
    sim.run(Duration::from_millis(4), good);
    let flow = *sim.hosts[1].flows.slots.values().next().expect("the flow");
    let node = &mut sim.hosts[1].node;
    let later = now + 60 * SECOND;
    assert_eq!(node.outcome(&flow, later), Outcome::Over, "its owner lives, for all that this node knows");
    node.own(0, true, later);
    assert_eq!(node.outcome(&flow, later + SECOND), Outcome::Waits, "a SYN-ACK may still come again");
    assert_eq!(node.outcome(&flow, later + 11 * SECOND), Outcome::Established);
    let came_again = Flow { flags: flow.flags & !REPLICATED, ..flow };
    assert_eq!(node.outcome(&came_again, later + 11 * SECOND), Outcome::Over);
}

#[test]
fn a_syn_ack_waits_for_a_silent_peer_no_longer_than_the_bound_and_for_one_that_lacks_the_backend() {
    for lacks in [false, true] {
        let mut sim = met();
        let which = half_open(&mut sim, 40_000);
        sim.hosts[1].flows.lacks = lacks.then(|| record(40_000).backend);
        let begun = sim.now;
        let Host { node, flows } = &mut sim.hosts[0];
        node.hold(which, &[1], flows, begun);
        sim.run(Duration::from_millis(9), |_| if lacks { Fate::Arrives(1) } else { Fate::Lost });
        assert!(sim.hosts[0].node.waiting.take(begun + Duration::from_millis(9)).is_empty());
        assert_eq!(sim.hosts[0].node.waiting.take(begun + Duration::from_millis(11)), [[1]]);
        assert_eq!(sim.hosts[0].node.waiting.counts.late, 1);
    }
}

#[test]
fn alone_a_node_lets_syn_acks_go_at_once() {
    let mut sim = Sim::new();
    sim.hosts[0].node.own(0, true, sim.now);
    let which = half_open(&mut sim, 40_000);
    let now = sim.now;
    let Host { node, flows } = &mut sim.hosts[0];
    node.hold(which, &[1], flows, now);
    node.flush(flows, now);
    assert_eq!(node.waiting.take(now), [[1]]);
    assert_eq!(node.waiting.counts.alone, 1);
}

#[test]
fn a_closed_flow_whose_ports_have_others_by_now_displaces_neither_of_them_at_a_peer() {
    let mut sim = met();
    let (old, neighbour) = (record(40_000), record(40_005));
    assert_eq!(old.backend, neighbour.backend);
    sim.hosts[0].open(&old, sim.now);
    sim.hosts[0].advance(&old, Stage::Closed, sim.now);
    sim.run(Duration::from_millis(100), good);
    // Its client connects again, another one gets its source port, and nothing of it is heard: all of it has to be fetched.
    sim.hosts[0].open(&old, sim.now);
    sim.hosts[0].open(&neighbour, sim.now);
    sim.run(Duration::from_millis(100), |_| Fate::Lost);
    sim.run(SECOND, good);
    assert!(equal(&sim), "{:?}", sim.hosts[1].flows.slots);
    assert_eq!(sim.hosts[1].flows.content().len(), 2);
    assert_eq!(sim.hosts[1].node.table.total(0), sim.hosts[0].node.table.total(0));
    assert_eq!(standing(&sim), Some(Standing::InSync));
}

#[test]
fn a_bucket_that_is_sent_in_parts_does_not_contradict_what_was_told_meanwhile() {
    const BUCKET: u16 = 7;
    let mut sim = met();
    let all: Vec<_> = (1..=u16::MAX).map(record).filter(|r| r.bucket() == BUCKET).collect();
    assert!(all.len() > 40, "several parts");
    all.iter().for_each(|r| sim.hosts[0].establish(r, sim.now));
    sim.run(Duration::from_millis(150), good);
    let (now, host) = (sim.now, &mut sim.hosts[0]);
    let ask = Message::Ask { scope: record(1).id.vip, nonce: 9, buckets: vec![BUCKET] };
    let Node { table, links, .. } = &mut host.node;
    links[0].peer.hear(now, u64::MAX >> 8, ask, table, &mut host.flows);
    let next = |host: &mut Host, n: u64| {
        let now = now + Duration::from_millis(n);
        let Node { table, links, .. } = &mut host.node;
        links[0].peer.poll_message(now, table, &host.flows)
    };
    let flows = |message: Option<Message>| match message {
        Some(Message::Bucket { flows, .. }) => flows,
        other => panic!("no part: {other:?}"),
    };
    let first = flows(next(host, 1));
    assert!(first.len() < all.len());
    // All end; of one port the next connection begins at once, towards another backend.
    all.iter().for_each(|r| host.end(r, now));
    let last = *all.last().expect("a flow");
    let anew = Record { backend: record(1).id.vip, ..last };
    host.establish(&anew, now);
    host.node.flush(&host.flows, now);
    let (mut told, mut rest) = (0, Vec::new());
    for n in 2..40 {
        match next(host, n) {
            Some(Message::Flows(news)) => told += news.len(),
            Some(Message::Bucket { flows, .. }) => rest.extend(flows),
            _ => {}
        }
    }
    assert_eq!(told, all.len() + 1);
    assert_eq!(rest, Vec::new(), "what was true when it was asked for");
}

#[test]
fn an_owner_that_is_about_to_leave_knows_when_its_peer_has_all_of_its_flows() {
    let mut sim = met();
    (1..=200).for_each(|port| sim.hosts[0].establish(&record(port), sim.now));
    let begun = sim.now;
    let is_passed_on = |sim: &Sim| sim.hosts[0].node.is_passed_on(begun, sim.now);
    // All news are lost, and what the peer says is not.
    sim.run(Duration::from_millis(30), |_| Fate::Lost);
    assert!(!is_passed_on(&sim), "what it said before counts no more");
    sim.run(SECOND, good);
    assert!(is_passed_on(&sim) && equal(&sim));
    sim.hosts[0].establish(&record(201), sim.now);
    assert!(!is_passed_on(&sim), "the youngest is not there yet");
    // One that is gone is not waited for.
    sim.run(4 * SECOND, |_| Fate::Lost);
    assert!(is_passed_on(&sim));
}

#[test]
fn a_peer_says_when_it_has_read_what_it_was_told_and_is_asked_again_if_that_was_lost() {
    let mut sim = met();
    let is_read = |sim: &Sim| sim.hosts[0].node.is_read(sim.now);
    sim.hosts[0].node.ask_whether_read(sim.now);
    sim.run(Duration::from_millis(50), |_| Fate::Lost);
    assert!(!is_read(&sim));
    sim.hosts[0].establish(&record(1), sim.now);
    let (now, Host { node, flows }) = (sim.now, &mut sim.hosts[0]);
    node.flush(flows, now);
    node.ask_again_whether_read(now);
    while !is_read(&sim) {
        sim.run(Duration::from_millis(1), good);
    }
    assert!(equal(&sim), "what it was told before");
    sim.hosts[0].node.ask_whether_read(sim.now);
    sim.run(SILENCE + SECOND, |_| Fate::Lost);
    assert!(is_read(&sim), "the dead are not waited for");
}

#[test]
fn a_node_that_joins_gets_all_flows_and_may_pre_empt_only_then() {
    let mut sim = Sim::new();
    sim.hosts[0].node.own(0, true, sim.now);
    for port in 1..=20_000 {
        sim.hosts[0].establish(&record(port), sim.now);
    }
    // What it has from earlier is out of date.
    for port in 30_000..30_100 {
        sim.hosts[1].establish(&record(port), sim.now);
    }
    sim.hosts[1].establish(&Record { snat_port: lb_common::addr::Port::new(1), ..record(7) }, sim.now);
    let mut waited = 0;
    while standing(&sim) != Some(Standing::InSync) {
        assert!(sim.hosts[1].node.gates[0].is_closed(), "it lacks flows");
        sim.run(Duration::from_millis(10), good);
        waited += 10;
        assert!(waited < 2_000, "{:?}", standing(&sim));
    }
    assert!(equal(&sim));
    sim.run(Duration::from_millis(2), good);
    assert_eq!(sim.hosts[1].node.gates[0], Gate::Open);
    let sent = sim.hosts[0].node.links[0].peer.exchanged.flows_sent;
    assert!((20_000..21_000).contains(&sent), "each is sent once: {sent}");
}

#[test]
fn the_snapshot_is_paced() {
    let mut sim = Sim::new();
    sim.hosts[0].node.own(0, true, sim.now);
    for port in 1..=50_000 {
        sim.hosts[0].establish(&record(port), sim.now);
    }
    sim.run(Duration::from_millis(100), good);
    let before = sim.sent;
    sim.run(Duration::from_millis(100), good);
    assert!((300..=1_000).contains(&(sim.sent - before)), "{} datagrams in 100 ms", sim.sent - before);
}

#[test]
fn what_is_lost_is_missed_within_half_a_second_and_fetched_bucket_by_bucket() {
    let mut sim = met();
    for port in 1..=2_000 {
        sim.hosts[0].establish(&record(port), sim.now);
    }
    sim.run(SECOND, good);
    let before = sim.hosts[0].node.links[0].peer.exchanged.flows_sent;
    sim.hosts[0].establish(&record(40_000), sim.now);
    sim.hosts[0].end(&record(77), sim.now);
    // Each flow is told of four times.
    sim.run(Duration::from_millis(25), |_| Fate::Lost);
    sim.run(Duration::from_millis(500), good);
    assert!(equal(&sim));
    let sent = sim.hosts[0].node.links[0].peer.exchanged.flows_sent - before;
    assert!(sent < 20, "two buckets of 1,024: {sent} flows");
    assert_eq!(sim.hosts[1].node.links[0].peer.exchanged.repairs, 1);
}

#[test]
fn a_flow_that_falls_silent_is_told_with_its_last_numbers_and_one_in_use_now_and_then() {
    let mut sim = met();
    let there = |sim: &Sim| *sim.hosts[1].flows.slots.values().next().expect("a flow");
    sim.hosts[0].establish(&record(1), sim.now);
    sim.run(SECOND, good);
    let began = sim.hosts[0].node.links[0].peer.exchanged.news_sent;
    // In use without a pause, looked at every second.
    for second in 1..=40 {
        sim.hosts[0].use_it(&record(1), second, sim.now, sim.now);
        sim.run(SECOND, good);
    }
    let used = sim.hosts[0].node.links[0].peer.exchanged.news_sent - began;
    assert!((1..=2).contains(&used), "told {used} times in 40 s");
    let last = sim.now - SECOND;
    sim.hosts[0].use_it(&record(1), 40, last, sim.now + 2 * SECOND);
    sim.run(SECOND, good);
    assert_eq!(there(&sim).client_next, 40);
    let idle = sim.now.0 - there(&sim).seen;
    assert!((3_900_000_000..4_200_000_000).contains(&idle), "and how long it has been silent: {idle}");
    let before = sim.hosts[0].node.links[0].peer.exchanged.news_sent;
    sim.hosts[0].use_it(&record(1), 40, last, sim.now + 9 * SECOND);
    assert_eq!(sim.hosts[0].node.links[0].peer.exchanged.news_sent, before, "once");
}

#[test]
fn a_young_flow_outlives_the_loss_of_a_datagram_and_an_owner_that_dies_then() {
    let mut sim = met();
    sim.hosts[0].establish(&record(40_000), sim.now);
    sim.run(Duration::from_millis(2), |_| Fate::Lost);
    assert!(sim.hosts[1].flows.slots.is_empty());
    sim.run(Duration::from_millis(25), good);
    assert_eq!(sim.hosts[1].flows.slots.len(), 1);
    assert_eq!(sim.hosts[1].node.links[0].peer.exchanged.repairs, 0, "before anybody missed it");
}

#[test]
fn the_new_owner_takes_the_last_words_of_the_old_one_and_nothing_later() {
    let mut sim = met();
    sim.hosts[0].establish(&record(1), sim.now);
    sim.run(SECOND, good);
    // Under way when the other takes over.
    sim.hosts[0].establish(&record(2), sim.now);
    sim.hosts[0].advance(&record(1), Stage::Closed, sim.now);
    sim.run(Duration::from_millis(1), |_| Fate::Arrives(4));
    sim.hosts[1].node.own(0, true, sim.now);
    sim.run(Duration::from_millis(20), good);
    assert_eq!(sim.hosts[1].flows.slots.len(), 2, "a flow that it did not know");
    let first = sim.hosts[1].flows.find(&record(1).id).unwrap();
    assert_eq!(sim.hosts[1].flows.read(first).stage(), Stage::Established, "its own it knows best");
    sim.hosts[0].node.own(0, false, sim.now);
    sim.run(3 * SECOND, good);
    assert!(equal(&sim), "the old owner has what the new one has");
}

#[test]
fn flows_that_this_node_cannot_take_are_counted_and_do_not_keep_it_from_pre_empting() {
    let mut sim = Sim::new();
    sim.hosts[0].node.own(0, true, sim.now);
    sim.hosts[1].flows.lacks = Some(record(2).backend);
    for port in 1..=1_000 {
        sim.hosts[0].establish(&record(port), sim.now);
    }
    sim.run(2 * SECOND, good);
    assert_eq!(sim.hosts[1].flows.slots.len(), 800);
    assert_eq!(standing(&sim), Some(Standing::InSync));
    let unfit = sim.hosts[1].node.table.unfit[&Unfit::Backend];
    assert!((200..=400).contains(&unfit), "they are not fetched again and again: {unfit}");
}

#[test]
fn a_node_that_was_frozen_has_to_catch_up_again() {
    let mut sim = met();
    assert_eq!(sim.hosts[1].node.gates[0], Gate::Open);
    sim.hosts[1].node.wake(sim.now + 5 * SECOND);
    assert!(sim.hosts[1].node.gates[0].is_closed());
    assert_eq!(standing(&sim), None);
    sim.now = sim.now + 5 * SECOND;
    sim.run(SECOND, good);
    assert_eq!(sim.hosts[1].node.gates[0], Gate::Open);
}

#[test]
fn a_peer_that_falls_silent_while_flows_are_fetched_is_not_waited_for_busily() {
    let mut sim = Sim::new();
    sim.hosts[0].node.own(0, true, sim.now);
    for port in 1..=20_000 {
        sim.hosts[0].establish(&record(port), sim.now);
    }
    sim.run(Duration::from_millis(40), good);
    assert!(matches!(standing(&sim), Some(Standing::Fetching { .. })), "{:?}", standing(&sim));
    sim.run(4 * SECOND, |_| Fate::Lost);
    for host in &sim.hosts {
        assert!(host.node.deadline(sim.now) > sim.now, "nothing to do before the next greeting");
    }
    let before = sim.sent;
    sim.run(SECOND, |_| Fate::Lost);
    assert!(sim.sent - before <= 12, "greetings alone: {}", sim.sent - before);
    sim.run(3 * SECOND, good);
    assert!(equal(&sim), "it is met again");
}

#[test]
fn another_nodes_flows_are_not_collected_while_their_owner_is_heard() {
    let mut sim = met();
    sim.hosts[0].establish(&record(1), sim.now);
    sim.run(Duration::from_millis(5), good);
    let slot = |sim: &Sim, host: usize| *sim.hosts[host].flows.slots.keys().next().expect("a flow");
    let (own, others) = (slot(&sim, 0), slot(&sim, 1));
    assert!(sim.hosts[1].node.keeps(others, 0, sim.now));
    assert!(!sim.hosts[0].node.keeps(own, 0, sim.now), "its own");
    assert!(!sim.hosts[1].node.keeps(others, 0, sim.now + 4 * SECOND), "nobody is heard");
    assert!(!sim.hosts[1].node.keeps(others + 1, 0, sim.now), "half-open, or not to be replicated");
    assert!(!sim.hosts[1].node.keeps(others, 9, sim.now), "no router");
}

/// What happens to flows of the owner.
#[derive(Debug, Clone)]
enum Step {
    /// A client opens a connection from this port, anew if that has ended.
    Open(u16),
    Advance(u16, bool),
    End(u16),
    Pass(u16),
    /// The other one takes over.
    Move,
    /// The other node starts anew, with its table as it is or empty.
    Restart(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let port = 1..40u16;
    prop_oneof![
        6 => port.clone().prop_map(Step::Open),
        3 => (port.clone(), any::<bool>()).prop_map(|(port, closed)| Step::Advance(port, closed)),
        3 => port.prop_map(Step::End),
        4 => (1..400u16).prop_map(Step::Pass),
        1 => Just(Step::Move),
        1 => any::<bool>().prop_map(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Whatever becomes of datagrams while flows come and go and the address moves: once the link is good again, all tables are
    /// the owner's.
    #[test]
    fn tables_converge(
        nodes in 2..4usize,
        steps in proptest::collection::vec((step(), any::<bool>()), 1..60),
        fates in proptest::collection::vec((0..100u8, 1..40u64, 1..300u64), 64),
        loss in 0..60u8,
    ) {
        let mut sim = Sim::of(nodes);
        let mut owner = 0;
        sim.hosts[0].node.own(0, true, sim.now);
        let fate = |n: u64| match fates[n as usize % fates.len()] {
            (dice, ..) if dice < loss => Fate::Lost,
            (dice, first, second) if dice > 90 => Fate::Twice(first, second),
            (_, after, _) => Fate::Arrives(after),
        };
        for (step, last) in steps {
            let now = sim.now;
            // The next one, or of three the one after that.
            let other = (owner + if last { nodes - 1 } else { 1 }) % nodes;
            match step {
                Step::Open(port) => sim.hosts[owner].open(&record(port), now),
                Step::Advance(port, closed) => {
                    let stage = if closed { Stage::Closed } else { Stage::Closing };
                    sim.hosts[owner].advance(&record(port), stage, now);
                }
                Step::End(port) => sim.hosts[owner].end(&record(port), now),
                Step::Pass(ms) => sim.run(Duration::from_millis(ms.into()), fate),
                Step::Move => {
                    sim.hosts[owner].node.own(0, false, now);
                    owner = other;
                    sim.hosts[owner].node.own(0, true, now);
                }
                Step::Restart(empty) => sim.restart(other, empty),
            }
        }
        sim.run(4 * SECOND, good);
        let total = |i: usize| sim.hosts[i].node.table.total(0);
        for standby in (0..nodes).filter(|i| *i != owner) {
            prop_assert_eq!(sim.hosts[standby].flows.content(), sim.hosts[owner].flows.content());
            prop_assert_eq!(sim.hosts[standby].node.best(0, sim.now), Some(Standing::InSync));
            prop_assert!(!sim.hosts[standby].node.gates[0].is_closed());
            prop_assert_eq!(total(standby), total(owner));
        }
        prop_assert_eq!(total(owner).count as usize, sim.hosts[owner].flows.content().len());
    }
}

#[test]
fn a_router_that_its_owner_has_no_more_is_nobodys_and_under_another_number_it_is_fetched_anew() {
    let mut sim = met();
    for port in 40_000..40_020 {
        sim.hosts[0].establish(&record(port), sim.now);
    }
    sim.run(SECOND, good);
    assert!(equal(&sim) && standing(&sim) == Some(Standing::InSync));
    let now = sim.now;
    let Host { node, flows } = &mut sim.hosts[0];
    node.place(0, Vec::new(), now);
    let slots: Vec<_> = flows.slots.keys().copied().collect();
    for slot in slots {
        let flow = flows.slots[&slot];
        flows.remove(slot);
        node.freed(slot, &flow, now);
    }
    node.own(0, false, now);
    sim.run(SILENCE + SECOND, good);
    assert_eq!(standing(&sim), None, "nobody owns it");
    assert_eq!(sim.hosts[1].flows.slots.len(), 20, "and nobody has said that its connections have ended");
    assert!(sim.hosts[1].node.links[0].peer.is_alive(sim.now));
    // The other node owns it, and the first one has it again.
    sim.hosts[1].node.own(0, true, sim.now);
    sim.hosts[0].node.place(1, vec![super::super::testing::VIP], sim.now);
    assert_eq!(sim.hosts[0].node.gate_changes(sim.now), [(1, true)]);
    sim.run(2 * SECOND, good);
    assert_eq!(sim.hosts[0].node.best(1, sim.now), Some(Standing::InSync));
    assert!(equal(&sim) && sim.hosts[0].flows.slots.len() == 20);
    assert_eq!(sim.hosts[0].node.gates[1], Gate::Open);
}
