//! Datagrams of flow replication: sealed with a shared key, and opened only if they are fresh and meant for this very run.
//!
//! ```text
//!  0  "VPLS"            magic
//!  4  version, kind, key id, 0
//!  8  from              the sender's run: random, new at each start
//! 16  to                the receiver's run as the sender knows it; 0: not yet
//! 24  sequence          counts up within `from`
//! 32  body
//!     tag               HMAC-SHA256 over all of it, the first 16 bytes (RFC 4868)
//! ```
//! Both runs together make a session. Messages that change something are taken only with this node's own run in `to`, so
//! what was recorded before this start means nothing; within a run, a window of sequence numbers takes each datagram once;
//! and a sender's run that has been replaced never comes back. Nothing here does I/O or draws random numbers.

use std::collections::{BTreeMap, HashSet};

use ring::hmac;

use super::wire::{self, Message};

/// Bytes before the body.
pub const HEAD: usize = 32;
/// Bytes behind it.
pub const TAG: usize = 16;
/// The longest datagram, in bytes.
pub const MAX_DATAGRAM: usize = HEAD + wire::MAX_BODY + TAG;
const MAGIC: [u8; 4] = *b"VPLS";
/// How far behind the newest datagram one may come; a power of two.
const WINDOW: u64 = 1024;

/// Why a datagram was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Refusal {
    /// From an address that is no peer's.
    #[error("stranger")]
    Stranger,
    /// No datagram of ours, or cut short.
    #[error("malformed")]
    Malformed,
    /// Of a version that this release does not speak.
    #[error("version")]
    Version,
    /// Sealed with a key that is not in the key file (any more).
    #[error("unknown-key")]
    UnknownKey,
    /// The tag is wrong: another key, or changed on its way.
    #[error("bad-tag")]
    BadTag,
    /// It was here already, is too old, or belongs to a run that is over.
    #[error("replayed")]
    Replayed,
    /// Meant for a former run of this node.
    #[error("stale-session")]
    StaleSession,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Stranger,
        Self::Malformed,
        Self::Version,
        Self::UnknownKey,
        Self::BadTag,
        Self::Replayed,
        Self::StaleSession,
    ];
}

/// The shared keys: the first seals, all of them open, so that one can be replaced node by node.
#[derive(Clone)]
pub struct Keys {
    first: u8,
    all: BTreeMap<u8, hmac::Key>,
}

impl Keys {
    /// From ids and secrets, the sealing one first; `None` if there is none.
    pub fn new(secrets: &[(u8, Vec<u8>)]) -> Option<Self> {
        let key = |secret: &Vec<u8>| hmac::Key::new(hmac::HMAC_SHA256, secret);
        let first = secrets.first()?.0;
        Some(Self { first, all: secrets.iter().map(|(id, secret)| (*id, key(secret))).collect() })
    }

    /// Id of the sealing one.
    pub fn sealing(&self) -> u8 {
        self.first
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("ids", &self.all.keys()).finish_non_exhaustive()
    }
}

/// The head of a datagram whose tag is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    kind: u8,
    from: u64,
    to: u64,
    sequence: u64,
}

/// What was opened.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    /// Position in the order of all that the peer has said, over its runs: what is higher is newer. Less than 2^56.
    pub stamp: u64,
    /// Whether with it a new session began: nothing that was under way with the peer goes on.
    pub begins: bool,
    /// Whether the peer may not know this node's run yet, so that it should be greeted.
    pub greet: bool,
    /// What it says; `None`: the peer's presence alone, for its run has not shown that it is the present one.
    pub message: Option<Message>,
}

/// What this node and one peer have of each other.
#[derive(Debug)]
pub struct Session {
    own: u64,
    sent: u64,
    /// The peer's present run.
    peer: Option<u64>,
    /// A run that has greeted and not yet shown that it knows this node's.
    candidate: u64,
    over: HashSet<u64>,
    newest: u64,
    seen: [u64; (WINDOW / 64) as usize],
    /// Counts the peer's runs.
    count: u64,
    refused: BTreeMap<Refusal, u64>,
}

impl Session {
    /// `own` is this node's run: random and not 0.
    pub fn new(own: u64) -> Self {
        Self {
            own,
            sent: 0,
            peer: None,
            candidate: 0,
            over: HashSet::new(),
            newest: 0,
            seen: [0; (WINDOW / 64) as usize],
            count: 0,
            refused: BTreeMap::new(),
        }
    }

    /// Whether the peer's present run is known.
    pub fn is_open(&self) -> bool {
        self.peer.is_some()
    }

    /// Refused datagrams by reason.
    pub fn refused(&self) -> &BTreeMap<Refusal, u64> {
        &self.refused
    }

    /// Seals a message for the peer.
    pub fn seal(&mut self, message: &Message, keys: &Keys) -> Vec<u8> {
        self.sent += 1;
        let body = message.encode();
        let mut datagram = Vec::with_capacity(HEAD + body.len() + TAG);
        datagram.extend(MAGIC);
        datagram.extend([message.version(), message.kind(), keys.first, 0]);
        for word in [self.own, self.peer.unwrap_or(self.candidate), self.sent] {
            datagram.extend(word.to_be_bytes());
        }
        datagram.extend(body);
        let tag = hmac::sign(&keys.all[&keys.first], &datagram);
        datagram.extend(&tag.as_ref()[..TAG]);
        datagram
    }

    /// Opens a datagram that came from the peer's address.
    pub fn open(&mut self, datagram: &[u8], keys: &Keys) -> Result<Opened, Refusal> {
        self.open_beside(datagram, keys, false)
    }

    /// Likewise; `lives`: the peer's present run was heard a moment ago. Then another one that knows this node's run is one from before,
    /// whose datagram was a long time on its way: believed, it would end the present one for good.
    pub fn open_beside(&mut self, datagram: &[u8], keys: &Keys, lives: bool) -> Result<Opened, Refusal> {
        let opened = self.judge(datagram, keys, lives);
        if let Err(refusal) = &opened {
            *self.refused.entry(*refusal).or_default() += 1;
        }
        opened
    }

    fn judge(&mut self, datagram: &[u8], keys: &Keys, lives: bool) -> Result<Opened, Refusal> {
        let (head, body) = verified(datagram, keys)?;
        // Before anything is believed of it: what was not understood is not taken as seen either.
        let message = Message::decode(head.kind, body).map_err(|_| Refusal::Malformed)?;
        let greets = Message::is_hello(head.kind);
        if head.from == self.own || self.over.contains(&head.from) {
            return Err(Refusal::Replayed);
        }
        let knows_us = head.to == self.own;
        if self.peer != Some(head.from) {
            if !knows_us {
                if !greets {
                    return Err(Refusal::StaleSession);
                }
                self.candidate = head.from;
                return Ok(Opened { stamp: 0, begins: false, greet: true, message: None });
            }
            if self.peer.is_some() && lives {
                return Err(Refusal::StaleSession);
            }
            self.begin(head.from);
            self.take(head.sequence)?;
            let stamp = self.stamp(head.sequence);
            return Ok(Opened { stamp, begins: true, greet: true, message: Some(message) });
        }
        if !knows_us && !greets {
            return Err(Refusal::StaleSession);
        }
        self.take(head.sequence)?;
        let message = knows_us.then_some(message);
        Ok(Opened { stamp: self.stamp(head.sequence), begins: false, greet: !knows_us, message })
    }

    fn begin(&mut self, run: u64) {
        self.over.extend(self.peer.replace(run));
        (self.newest, self.seen) = (0, [0; (WINDOW / 64) as usize]);
        self.count += 1;
    }

    fn stamp(&self, sequence: u64) -> u64 {
        self.count << 40 | sequence & ((1 << 40) - 1)
    }

    /// Takes a sequence number once (RFC 6479).
    fn take(&mut self, sequence: u64) -> Result<(), Refusal> {
        if sequence == 0 || sequence + WINDOW <= self.newest {
            return Err(Refusal::Replayed);
        }
        for skipped in (self.newest + 1..=sequence).rev().take(WINDOW as usize) {
            self.seen[(skipped % WINDOW / 64) as usize] &= !(1 << (skipped % 64));
        }
        self.newest = self.newest.max(sequence);
        let word = &mut self.seen[(sequence % WINDOW / 64) as usize];
        let bit = 1 << (sequence % 64);
        if *word & bit != 0 {
            return Err(Refusal::Replayed);
        }
        *word |= bit;
        Ok(())
    }
}

/// Head and body of a datagram whose tag is right.
fn verified<'d>(datagram: &'d [u8], keys: &Keys) -> Result<(Head, &'d [u8]), Refusal> {
    let signed_length = datagram.len().checked_sub(TAG).filter(|length| *length >= HEAD);
    let (signed, tag) = datagram.split_at(signed_length.ok_or(Refusal::Malformed)?);
    if signed[..4] != MAGIC {
        return Err(Refusal::Malformed);
    }
    let [version, kind, id, _] = [signed[4], signed[5], signed[6], signed[7]];
    if !(1..=wire::VERSION).contains(&version) {
        return Err(Refusal::Version);
    }
    let key = keys.all.get(&id).ok_or(Refusal::UnknownKey)?;
    let right = hmac::sign(key, signed);
    if !same(&right.as_ref()[..TAG], tag) {
        return Err(Refusal::BadTag);
    }
    let word = |at: usize| u64::from_be_bytes(std::array::from_fn(|i| signed[at + i]));
    Ok((Head { kind, from: word(8), to: word(16), sequence: word(24) }, &signed[HEAD..]))
}

/// Compares in a time that does not tell where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && std::hint::black_box(a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b))) == 0
}

#[cfg(test)]
mod tests;
