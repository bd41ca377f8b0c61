//! The messages of flow replication, versions 1 and 2: bodies of sealed datagrams (`auth`), big-endian, independent of any map.
//!
//! Flows are named as a person would: by service, client and backend addresses; times are ages, since clocks differ. Whatever
//! may grow says how long it is, so that a later release may append fields that this one skips. Decoding believes no length
//! and never panics. The bytes are laid down in `docs/sync.md` and in `tests/fixtures/sync`.

mod record;

pub use record::{FlowId, Op, Record, is_half_open};

use lb_common::addr::Addr;

/// The highest version that this release speaks. Every message has the number of the version that brought it, so that a peer of an older
/// release reads all that it knows.
pub const VERSION: u8 = 2;
/// Buckets of a scope's flows. A power of two.
pub const BUCKETS: usize = 1024;
/// The longest body, in bytes: a datagram with all headers fits IPv6's smallest MTU.
pub const MAX_BODY: usize = 1168;
/// Sums in one message.
pub const SUMS: usize = 128;
/// Buckets asked for in one message.
pub const MAX_ASKED: usize = 256;

/// Number and sum of some flows: equal on two nodes that have the same ones in the same stages, whatever their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// How many.
    pub count: u32,
    /// Sum of [`Record::sum`], modulo 2^64.
    pub sum: u64,
}

/// What a node says of one virtual router's flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The router, by the lowest of its addresses.
    pub scope: Addr,
    /// Whether this node owns it, so that others are to have what it has.
    pub owner: bool,
    /// Its flows.
    pub summary: Summary,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A sign of life; several times a second.
    Hello {
        /// The highest version that the sender speaks.
        highest: u8,
        /// What it has.
        claims: Vec<Claim>,
    },
    /// News of an owner's flows.
    Flows(Vec<Record>),
    /// Asks an owner for the sums of all buckets.
    AskSums {
        /// Of which router.
        scope: Addr,
    },
    /// The sums of some buckets.
    Sums {
        /// Of which router.
        scope: Addr,
        /// The first of them.
        first: u16,
        /// Theirs and those of the next ones.
        sums: Vec<u64>,
    },
    /// Asks an owner for all flows of some buckets.
    Ask {
        /// Of which router.
        scope: Addr,
        /// To be repeated in the answer.
        nonce: u32,
        /// Which.
        buckets: Vec<u16>,
    },
    /// A part of a bucket.
    Bucket {
        /// Of which router.
        scope: Addr,
        /// That of the question.
        nonce: u32,
        /// Which.
        bucket: u16,
        /// Number of this part.
        part: u16,
        /// Number of parts, one at least.
        parts: u16,
        /// The flows.
        flows: Vec<Record>,
    },
    /// News of flows that somebody waits for, half-open ones among them: they are to be confirmed. Since version 2.
    Hold {
        /// To be repeated in the answer.
        nonce: u32,
        /// The flows.
        flows: Vec<Record>,
    },
    /// Confirms that the sender has all flows of that message. Since version 2.
    Have {
        /// That of the message.
        nonce: u32,
    },
}

/// Why a body was not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It ends too early.
    #[error("truncated")]
    Truncated,
    /// A field has a value that it cannot have.
    #[error("a value out of range")]
    Value,
    /// A message of a later version.
    #[error("an unknown kind of message")]
    Kind,
}

const HELLO: u8 = 1;
const FLOWS: u8 = 2;
const ASK_SUMS: u8 = 3;
const SUMS_KIND: u8 = 4;
const ASK: u8 = 5;
const BUCKET: u8 = 6;
const HOLD: u8 = 7;
const HAVE: u8 = 8;

/// Bytes of a claim: its length, flags, two of padding, scope, count, sum.
const CLAIM_LEN: u8 = 32;
/// Claims that fit a message.
pub const MAX_CLAIMS: usize = (MAX_BODY - 2) / CLAIM_LEN as usize;
/// Bytes of a part of a bucket before its flows.
const BUCKET_HEAD: usize = 28;
/// Room for flows in a message of either kind.
pub const FLOWS_ROOM: usize = MAX_BODY - BUCKET_HEAD;

impl Message {
    /// The number that stands in the datagram's head.
    pub fn kind(&self) -> u8 {
        match self {
            Self::Hello { .. } => HELLO,
            Self::Flows(_) => FLOWS,
            Self::AskSums { .. } => ASK_SUMS,
            Self::Sums { .. } => SUMS_KIND,
            Self::Ask { .. } => ASK,
            Self::Bucket { .. } => BUCKET,
            Self::Hold { .. } => HOLD,
            Self::Have { .. } => HAVE,
        }
    }

    /// The version that brought messages of this one's kind.
    pub fn version(&self) -> u8 {
        if matches!(self, Self::Hold { .. } | Self::Have { .. }) { 2 } else { 1 }
    }

    /// Whether a message of this kind changes nothing but what is known of its sender's presence.
    pub fn is_hello(kind: u8) -> bool {
        kind == HELLO
    }

    /// The body.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Vec::with_capacity(MAX_BODY);
        match self {
            Self::Hello { highest, claims } => {
                to.extend([*highest, claims.len() as u8]);
                claims.iter().for_each(|claim| encode_claim(claim, &mut to));
            }
            Self::Flows(flows) => flows.iter().for_each(|flow| flow.encode(&mut to)),
            Self::AskSums { scope } => to.extend(scope.bytes()),
            Self::Sums { scope, first, sums } => {
                to.extend(scope.bytes());
                to.extend(first.to_be_bytes());
                to.extend((sums.len() as u16).to_be_bytes());
                sums.iter().for_each(|sum| to.extend(sum.to_be_bytes()));
            }
            Self::Ask { scope, nonce, buckets } => {
                to.extend(scope.bytes());
                to.extend(nonce.to_be_bytes());
                to.extend((buckets.len() as u16).to_be_bytes());
                buckets.iter().for_each(|bucket| to.extend(bucket.to_be_bytes()));
            }
            Self::Bucket { scope, nonce, bucket, part, parts, flows } => {
                to.extend(scope.bytes());
                to.extend(nonce.to_be_bytes());
                for number in [*bucket, *part, *parts, 0] {
                    to.extend(number.to_be_bytes());
                }
                flows.iter().for_each(|flow| flow.encode(&mut to));
            }
            Self::Hold { nonce, flows } => {
                to.extend(nonce.to_be_bytes());
                flows.iter().for_each(|flow| flow.encode(&mut to));
            }
            Self::Have { nonce } => to.extend(nonce.to_be_bytes()),
        }
        debug_assert!(to.len() <= MAX_BODY, "{} bytes", to.len());
        to
    }

    /// Reads a body.
    pub fn decode(kind: u8, body: &[u8]) -> Result<Self, Malformed> {
        let mut from = Input(body);
        match kind {
            HELLO => {
                let [highest, count] = from.array()?;
                let claims = (0..count).map(|_| decode_claim(&mut from)).collect::<Result<_, _>>()?;
                Ok(Self::Hello { highest, claims })
            }
            FLOWS => Ok(Self::Flows(decode_flows(from, false)?)),
            ASK_SUMS => Ok(Self::AskSums { scope: from.addr()? }),
            SUMS_KIND => {
                let (scope, first, count) = (from.addr()?, from.u16()?, from.u16()?);
                if usize::from(first) + usize::from(count) > BUCKETS {
                    return Err(Malformed::Value);
                }
                let sums = (0..count).map(|_| from.u64()).collect::<Result<_, _>>()?;
                Ok(Self::Sums { scope, first, sums })
            }
            ASK => {
                let (scope, nonce, count) = (from.addr()?, from.u32()?, from.u16()?);
                if usize::from(count) > MAX_ASKED {
                    return Err(Malformed::Value);
                }
                let buckets = (0..count).map(|_| from.bucket()).collect::<Result<_, _>>()?;
                Ok(Self::Ask { scope, nonce, buckets })
            }
            BUCKET => {
                let (scope, nonce, bucket) = (from.addr()?, from.u32()?, from.bucket()?);
                let (part, parts, _) = (from.u16()?, from.u16()?, from.u16()?);
                if part >= parts {
                    return Err(Malformed::Value);
                }
                Ok(Self::Bucket { scope, nonce, bucket, part, parts, flows: decode_flows(from, false)? })
            }
            HOLD => Ok(Self::Hold { nonce: from.u32()?, flows: decode_flows(from, true)? }),
            HAVE => Ok(Self::Have { nonce: from.u32()? }),
            _ => Err(Malformed::Kind),
        }
    }
}

fn encode_claim(claim: &Claim, to: &mut Vec<u8>) {
    to.extend([CLAIM_LEN, u8::from(claim.owner), 0, 0]);
    to.extend(claim.summary.count.to_be_bytes());
    to.extend(claim.summary.sum.to_be_bytes());
    to.extend(claim.scope.bytes());
}

fn decode_claim(from: &mut Input<'_>) -> Result<Claim, Malformed> {
    let mut item = from.item(CLAIM_LEN)?;
    let [flags, _, _] = item.array()?;
    let summary = Summary { count: item.u32()?, sum: item.u64()? };
    Ok(Claim { scope: item.addr()?, owner: flags & 1 != 0, summary })
}

fn decode_flows(mut from: Input<'_>, half_open: bool) -> Result<Vec<Record>, Malformed> {
    let mut flows = Vec::new();
    while !from.0.is_empty() {
        flows.push(Record::decode(&mut from, half_open)?);
    }
    Ok(flows)
}

/// Arbitrary bytes as a kind and a body: what is read can be written, and is read again as the same.
///
/// # Panics
///
/// If that does not hold: for fuzzing and property tests.
pub fn any_bytes(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else { return };
    if let Ok(message) = Message::decode(*kind, body) {
        assert_eq!(Message::decode(*kind, &message.encode()), Ok(message));
    }
}

/// Splits flows into parts that fit a message each; one empty part if there are none.
pub fn parts(flows: &[Record]) -> Vec<&[Record]> {
    let (mut parts, mut start, mut length) = (Vec::new(), 0, 0);
    for (i, flow) in flows.iter().enumerate() {
        let own = flow.length();
        if length + own > FLOWS_ROOM {
            parts.push(&flows[start..i]);
            (start, length) = (i, 0);
        }
        length += own;
    }
    parts.push(&flows[start..]);
    parts
}

/// What is left to be read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    /// What begins with its own length, which is at least `shortest`; without the length.
    fn item(&mut self, shortest: u8) -> Result<Input<'a>, Malformed> {
        let length = *self.0.first().ok_or(Malformed::Truncated)?;
        if length < shortest {
            return Err(Malformed::Value);
        }
        Ok(Input(&self.take(length.into())?[1..]))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed::Truncated)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    fn bucket(&mut self) -> Result<u16, Malformed> {
        let bucket = self.u16()?;
        if usize::from(bucket) < BUCKETS { Ok(bucket) } else { Err(Malformed::Value) }
    }

    fn addr(&mut self) -> Result<Addr, Malformed> {
        Ok(Addr::new(self.array()?))
    }
}

#[cfg(test)]
mod tests;
