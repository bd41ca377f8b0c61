use lb_common::{
    addr::{PROTO_TCP, PROTO_UDP, Port},
    flow::{FIN_CLIENT, Stage},
    mode::Mode,
};
use proptest::prelude::*;

use super::*;

fn v4(last: u8) -> Addr {
    Addr::v4([172, 18, 0, last])
}

fn v6(last: u8) -> Addr {
    let mut bytes = [0; 16];
    (bytes[0], bytes[15]) = (0xfd, last);
    Addr::new(bytes)
}

/// One flow of each shape.
fn flows() -> Vec<Record> {
    let nat = Record {
        op: Op::Is,
        id: FlowId {
            vip: v4(201),
            vip_port: Port::new(3306),
            client: v4(100),
            client_port: Port::new(40_000),
            proto: PROTO_TCP,
        },
        backend: v4(2),
        backend_port: Port::new(3307),
        snat: v4(201),
        snat_port: Port::new(61_234),
        mode: Mode::Nat,
        stage: Stage::Established,
        fins: 0,
        idle_ms: 1_500,
        life_s: 86_400,
        client_next: 0x0102_0304,
        backend_next: 0x0a0b_0c0d,
    };
    let dnat = Record { mode: Mode::Dnat, snat: v4(100), snat_port: Port::new(40_000), ..nat };
    let id = FlowId { vip: v6(201), client: v6(100), ..nat.id };
    let six = Record { id, backend: v6(2), snat: v6(201), stage: Stage::Closing, fins: FIN_CLIENT, ..nat };
    let udp = Record { id: FlowId { proto: PROTO_UDP, ..nat.id }, stage: Stage::TwoWay, ..nat };
    let other_source = Record { snat: v4(7), ..nat };
    let tunnel = Record { id, backend: v4(2), snat: v6(100), mode: Mode::Tunnel, ..nat };
    let gone = Record { op: Op::Gone, stage: Stage::Closed, ..nat };
    vec![nat, dnat, six, udp, other_source, tunnel, gone]
}

/// Flows that a message which is to be confirmed may have: established, and of both kinds of half-open ones.
fn held() -> Vec<Record> {
    let [nat, _, _, udp, ..] = flows()[..] else { unreachable!("there are more") };
    let asked = Record { stage: Stage::SynSent, backend_next: 0, ..nat };
    let answered = Record { stage: Stage::SynReceived, ..nat };
    vec![nat, asked, answered, Record { stage: Stage::OneWay, ..udp }]
}

/// One message of each kind, with its name in the fixture.
fn messages() -> Vec<(&'static str, Message)> {
    let summary = Summary { count: 3, sum: 0x1122_3344_5566_7788 };
    let claims = vec![
        Claim { scope: v4(201), owner: true, summary },
        Claim { scope: v6(201), owner: false, summary: Summary::default() },
    ];
    vec![
        ("hello", Message::Hello { highest: 1, claims }),
        ("flows", Message::Flows(flows())),
        ("ask-sums", Message::AskSums { scope: v4(201) }),
        ("sums", Message::Sums { scope: v4(201), first: 128, sums: vec![0, u64::MAX, 7] }),
        ("ask", Message::Ask { scope: v6(201), nonce: 0xdead_beef, buckets: vec![0, 1023] }),
        ("hold", Message::Hold { nonce: 0xdead_beef, flows: held() }),
        ("have", Message::Have { nonce: 0xdead_beef }),
        (
            "bucket",
            Message::Bucket {
                scope: v4(201),
                nonce: 0xdead_beef,
                bucket: 1023,
                part: 1,
                parts: 2,
                flows: flows()[..2].to_vec(),
            },
        ),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.chunks(32).map(|line| line.iter().map(|b| format!("{b:02x}")).collect::<String>() + "\n").collect()
}

/// `# name kind` and the body's bytes, for each kind that a version brought; in the first, each flow's bucket and sum.
fn fixture(version: u8) -> String {
    let of_it = messages().into_iter().filter(|(_, m)| m.version() == version);
    let bodies = of_it.map(|(name, m)| format!("# {name} {}\n{}", m.kind(), hex(&m.encode())));
    let sums = flows().into_iter().filter(|_| version == 1);
    bodies.chain(sums.map(|f| format!("# sum {} {:016x}\n", f.bucket(), f.sum()))).collect()
}

/// The bytes of a version are those of every release that speaks it.
#[test]
fn each_version_is_what_it_was_byte_for_byte() {
    for version in 1..=VERSION {
        let file = format!("{}/../tests/fixtures/sync/v{version}.hex", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("VIPLB_BLESS").is_some() {
            std::fs::write(&file, fixture(version)).expect("a fixture");
        }
        let kept = std::fs::read_to_string(&file).expect("the fixture");
        assert_eq!(kept, fixture(version), "a release that sends this is not understood by those before it");
    }
}

#[test]
fn every_message_is_read_as_it_was_written() {
    for (name, message) in messages() {
        let body = message.encode();
        assert_eq!(Message::decode(message.kind(), &body), Ok(message), "{name}");
    }
}

#[test]
fn what_a_later_release_appends_is_skipped() {
    let mut record = Vec::new();
    flows()[0].encode(&mut record);
    record[0] += 3;
    record.extend([1, 2, 3]);
    flows()[1].encode(&mut record);
    assert_eq!(Message::decode(FLOWS, &record), Ok(Message::Flows(flows()[..2].to_vec())));
    let mut hello = Message::Hello { highest: 9, claims: messages_claims() }.encode();
    hello[2] += 1;
    hello.insert(2 + usize::from(CLAIM_LEN), 0xff);
    hello.push(0xff);
    assert_eq!(
        Message::decode(HELLO, &hello),
        Ok(Message::Hello { highest: 9, claims: messages_claims() }),
        "a longer claim, and something behind the last one"
    );
    assert_eq!(Message::decode(77, &[]), Err(Malformed::Kind));
}

fn messages_claims() -> Vec<Claim> {
    vec![Claim { scope: v4(201), owner: true, summary: Summary::default() }]
}

#[test]
fn a_truncated_body_is_refused_and_never_half_believed() {
    for (name, message) in messages() {
        let body = message.encode();
        for length in 0..body.len() {
            let got = Message::decode(message.kind(), &body[..length]);
            // Flows end where a record ends; what is there is whole.
            let whole = matches!(&got, Ok(Message::Flows(some)) if flows().starts_with(some))
                || matches!(&got, Ok(Message::Bucket { flows: some, .. }) if flows().starts_with(some))
                || matches!(&got, Ok(Message::Hold { flows: some, .. }) if held().starts_with(some));
            assert!(got.is_err() || whole, "{name}, {length} bytes: {got:?}");
        }
    }
}

#[test]
fn half_open_flows_among_news_and_unknown_modes_are_refused() {
    let mut body = Vec::new();
    flows()[0].encode(&mut body);
    let changed = |at: usize, to: u8| {
        let mut bad = body.clone();
        bad[at] = to;
        Message::decode(FLOWS, &bad)
    };
    for (at, to) in [(1, 0), (1, 3), (3, 1), (4, 0), (4, 1), (4, 2), (4, 7), (5, 16), (6, 5), (0, 8), (2, 3)]
    {
        assert_eq!(changed(at, to), Err(Malformed::Value), "byte {at} is {to}");
    }
}

#[test]
fn flows_are_split_so_that_each_part_fits_a_datagram() {
    let many: Vec<Record> = flows().into_iter().cycle().take(500).collect();
    let parts = parts(&many);
    assert_eq!(parts.iter().map(|part| part.len()).sum::<usize>(), 500);
    for part in &parts {
        assert!(Message::Flows(part.to_vec()).encode().len() <= MAX_BODY);
        let (scope, nonce, bucket) = (v4(1), 0, 0);
        let bucket = Message::Bucket { scope, nonce, bucket, part: 0, parts: 1, flows: part.to_vec() };
        assert!(bucket.encode().len() <= MAX_BODY);
    }
    assert_eq!(super::parts(&[]), [&[][..]], "an empty bucket is said to be empty");
    let sums = Message::Sums { scope: v4(1), first: 0, sums: vec![0; SUMS] };
    assert!(sums.encode().len() <= MAX_BODY);
    let ask = Message::Ask { scope: v4(1), nonce: 0, buckets: vec![0; MAX_ASKED] };
    assert!(ask.encode().len() <= MAX_BODY);
}

#[test]
fn a_sum_tells_stages_and_connections_apart_and_nothing_else() {
    let all = flows();
    let mut sums: Vec<u64> = all.iter().map(Record::sum).collect();
    sums.sort_unstable();
    sums.dedup();
    assert_eq!(sums.len(), all.len(), "no two of these are the same");
    let later = Record { idle_ms: 0, life_s: 9, client_next: 1, backend_next: 2, ..all[0] };
    assert_eq!((later.sum(), later.bucket()), (all[0].sum(), all[0].bucket()));
}

proptest! {
    /// Arbitrary bytes are read or refused; what is read can be written and read again.
    #[test]
    fn no_body_makes_the_reader_panic(kind in 0u8..8, body in proptest::collection::vec(any::<u8>(), 0..300)) {
        any_bytes(&[&[kind], body.as_slice()].concat());
    }
}
