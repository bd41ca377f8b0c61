//! One peer: what is said to it and what is made of what it says. Sans-IO: messages and the time go in, messages come out.
//!
//! ```text
//!   owner ── flows (news) ──────────────▶ other      as they happen
//!   owner ── hello: number and sum ─────▶ other      every 200 ms
//!            equal: in sync. Else, or when it has just met the owner:
//!   owner ◀──── which sums? ───────────── other
//!   owner ── sums of all buckets ───────▶ other      8 KiB
//!   owner ◀──── these buckets ─────────── other      as many as fit a window
//!   owner ── their flows, in parts ─────▶ other      at a bounded rate
//! ```
//! A snapshot for a node that joins and the repair of a lost message are one: all buckets differ, or a few. Who pulls is who
//! lacks, so that a slow node is not flooded and a lost message is asked for again.

use std::collections::VecDeque;

use super::{
    index::Stamp,
    pull::{Pull, Standing},
    table::{Flows, Table},
    wire::{self, BUCKETS, Claim, MAX_CLAIMS, Message, Record, SUMS, Summary},
};
use crate::vrrp::BootTime;

use std::time::Duration;

/// Between two signs of life.
pub const HELLO: Duration = Duration::from_millis(200);
/// Without one for so long, the peer is gone.
pub const SILENCE: Duration = Duration::from_secs(3);
/// Two greetings that are asked for are not closer.
const GREETING_GAP: Duration = Duration::from_millis(20);
/// A bucket's part goes out this often at most: 5,000 a second are some 125,000 flows, 4 s for half a million. Both nodes have
/// something else to do meanwhile.
const PACE: Duration = Duration::from_micros(200);
/// So long is saved up for at a time: each datagram by itself would wake both nodes as often, which costs more than what is in it.
const BURST: Duration = Duration::from_millis(8);
/// What may be made up for after a pause: this node's timers are a millisecond late or two.
const ARREARS: Duration = Duration::from_millis(16);
/// News that wait for a socket with room. Beyond, they are dropped, and found by their sums.
const MOST_WAITING: usize = 8192;
/// Buckets asked for that wait to be sent; asked again, they only cost time.
const MOST_ASKED: usize = BUCKETS * 2;

/// A part of a bucket that was asked for: which flows, to be read when it is sent. Whatever is told of one meanwhile is told before,
/// and must not be contradicted by what was true earlier.
#[derive(Debug)]
struct Part {
    scope: usize,
    nonce: u32,
    bucket: u16,
    part: u16,
    parts: u16,
    slots: Vec<u32>,
}

/// What has been exchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Exchanged {
    /// Flows told as news.
    pub news_sent: u64,
    /// Flows heard of as news.
    pub news_heard: u64,
    /// Flows sent because they were asked for.
    pub flows_sent: u64,
    /// Flows asked for and heard.
    pub flows_heard: u64,
    /// Rounds of buckets that were asked for after the first one.
    pub repairs: u64,
    /// News for which there was no room.
    pub dropped: u64,
}

/// A peer.
#[derive(Debug)]
pub struct Peer {
    /// Its number, from 1 on.
    number: u8,
    /// When it was last heard in an open session.
    heard: Option<BootTime>,
    hello_at: BootTime,
    greeted: BootTime,
    /// By router: what it says of it, and how far this node has come.
    pulls: Vec<Pull>,
    /// By router that it does not own: what it says that it has of it, and when.
    has: Vec<Option<(BootTime, Summary)>>,
    /// By router: when it last said anything of it. Of one that it has no more it says nothing.
    said: Vec<BootTime>,
    /// The highest version that it speaks.
    highest: u8,
    /// Messages that it has confirmed, by their nonces.
    confirmed: Vec<u32>,
    /// To be sent at once.
    urgent: VecDeque<Message>,
    /// Buckets that it has asked for: router, nonce, bucket.
    asked: VecDeque<(usize, u32, u16)>,
    /// Parts of the bucket that is being sent.
    parts: VecDeque<Part>,
    /// When the next part may be sent, and whether a burst of them is under way.
    paced: BootTime,
    bursts: bool,
    nonces: u32,
    /// Counters.
    pub exchanged: Exchanged,
}

impl Peer {
    /// The `number`th peer, from 1 on, of a node with so many routers.
    pub fn new(number: u8, routers: usize, now: BootTime) -> Self {
        Self {
            number,
            heard: None,
            hello_at: now,
            greeted: BootTime(0),
            pulls: (0..routers).map(|_| Pull::default()).collect(),
            has: vec![None; routers],
            said: vec![BootTime(0); routers],
            highest: 1,
            confirmed: Vec::new(),
            urgent: VecDeque::new(),
            asked: VecDeque::new(),
            parts: VecDeque::new(),
            paced: now,
            bursts: false,
            nonces: 0,
            exchanged: Exchanged::default(),
        }
    }

    /// Another router has this number now, or nobody: nothing is known of it.
    pub fn place(&mut self, scope: usize, now: BootTime) {
        let routers = self.pulls.len().max(scope + 1);
        self.pulls.resize_with(routers, Pull::default);
        self.has.resize(routers, None);
        self.said.resize(routers, BootTime(0));
        (self.pulls[scope], self.has[scope], self.said[scope]) = (Pull::default(), None, BootTime(0));
        self.asked.retain(|(asked, ..)| *asked != scope);
        self.parts.retain(|part| part.scope != scope);
        self.greet(now);
    }

    /// Whether it lives.
    pub fn is_alive(&self, now: BootTime) -> bool {
        self.heard.is_some_and(|at| now < at + SILENCE)
    }

    /// When it was last heard.
    pub fn heard(&self) -> Option<BootTime> {
        self.heard
    }

    /// How far this node has come with a router that the peer owns; `None` if it does not own it, or is silent.
    pub fn standing(&self, scope: usize, now: BootTime) -> Option<Standing> {
        self.pulls[scope].standing().filter(|_| self.is_alive(now) && self.speaks_of(scope, now))
    }

    /// Whether it has a router at all.
    fn speaks_of(&self, scope: usize, now: BootTime) -> bool {
        now < self.said[scope] + SILENCE
    }

    /// What it says that it has of a router.
    pub fn claimed(&self, scope: usize) -> Option<Summary> {
        self.pulls[scope].claimed()
    }

    /// What it has said since then that it has of a router that it does not own.
    pub fn has(&self, scope: usize, since: BootTime) -> Option<Summary> {
        self.has[scope].filter(|(at, _)| *at > since).map(|(_, summary)| summary)
    }

    /// Nothing that was under way goes on: it has been started anew, or this node has slept.
    pub fn forget(&mut self) {
        self.pulls.iter_mut().for_each(|pull| *pull = Pull::default());
        self.has.fill(None);
        self.said.fill(BootTime(0));
        self.confirmed.clear();
        self.urgent.clear();
        self.asked.clear();
        self.parts.clear();
        self.heard = None;
    }

    /// It should hear from this node at once.
    pub fn greet(&mut self, now: BootTime) {
        self.hello_at = self.hello_at.min((self.greeted + GREETING_GAP).max(now));
    }

    /// Takes in what it says. `order` is where that stands in the order of its words.
    pub fn hear(
        &mut self,
        now: BootTime,
        order: u64,
        message: Message,
        table: &mut Table,
        flows: &mut impl Flows,
    ) {
        self.heard = Some(now);
        let stamp = Stamp { peer: self.number, order };
        match message {
            Message::Hello { claims, highest } => {
                self.highest = highest;
                for claim in claims {
                    self.hear_claim(now, &claim, table);
                }
            }
            Message::Flows(records) => {
                self.exchanged.news_heard += records.len() as u64;
                records.iter().for_each(|record| table.take(record, stamp, flows, now));
            }
            Message::Hold { nonce, flows: records } => {
                self.exchanged.news_heard += records.len() as u64;
                records.iter().for_each(|record| table.take(record, stamp, flows, now));
                // What could not be taken in is not confirmed.
                if records.iter().all(|record| table.has(record, flows, now)) {
                    self.urgent.push_back(Message::Have { nonce });
                }
            }
            Message::Have { nonce } => self.confirmed.push(nonce),
            Message::AskSums { scope } => self.tell_sums(&scope, table),
            Message::Sums { scope, first, sums } => {
                if let Some(i) = table.scope(&scope).filter(|i| !table.owns(*i)) {
                    self.pulls[i].hear_sums(first, &sums, |bucket| table.sum(i, bucket));
                }
            }
            Message::Ask { scope, nonce, buckets } => {
                if let Some(i) = table.scope(&scope).filter(|i| table.owns(*i)) {
                    let room = MOST_ASKED.saturating_sub(self.asked.len());
                    self.asked.extend(buckets.into_iter().take(room).map(|bucket| (i, nonce, bucket)));
                }
            }
            Message::Bucket { scope, nonce, bucket, part, parts, flows: records } => {
                let Some(i) = table.scope(&scope).filter(|i| !table.owns(*i)) else { return };
                if !self.pulls[i].wants(nonce, bucket) {
                    return;
                }
                self.exchanged.flows_heard += records.len() as u64;
                for record in &records {
                    if self.pulls[i].lacked(bucket) {
                        table.take_unknown(record, stamp, flows, now);
                    } else {
                        table.take(record, stamp, flows, now);
                    }
                }
                let ids = records.iter().map(|record| record.id);
                let whole = self.pulls[i].hear_part(now, bucket, (part, parts), ids);
                if let Some((has, asked)) = whole {
                    table.retain(i, bucket, &has, Stamp { peer: self.number, order: asked }, flows, now);
                    self.pulls[i].settle(bucket, table.sum(i, bucket));
                }
            }
        }
        self.pulls.iter_mut().for_each(|pull| pull.newest(order));
    }

    fn hear_claim(&mut self, now: BootTime, claim: &Claim, table: &Table) {
        let Some(i) = table.scope(&claim.scope) else { return };
        if !self.speaks_of(i, now) {
            // It has it anew: whatever was true of it before.
            self.pulls[i] = Pull::default();
        }
        self.said[i] = now;
        self.has[i] = (!claim.owner).then_some((now, claim.summary));
        let owner = claim.owner && !table.owns(i);
        self.pulls[i].hear_claim(now, owner.then_some(claim.summary), table.total(i));
    }

    fn tell_sums(&mut self, addr: &lb_common::addr::Addr, table: &Table) {
        let Some(i) = table.scope(addr).filter(|i| table.owns(*i)) else { return };
        // Asked for again before they were sent: once is enough.
        self.urgent.retain(|m| !matches!(m, Message::Sums { scope, .. } if scope == addr));
        for first in (0..BUCKETS as u16).step_by(SUMS) {
            let sums = (first..first + SUMS as u16).map(|bucket| table.sum(i, bucket)).collect();
            self.urgent.push_back(Message::Sums { scope: *addr, first, sums });
        }
    }

    /// News for it, which it is told if it lives: else it will ask for all of them.
    pub fn tell(&mut self, records: &[Record], now: BootTime) {
        if records.is_empty() || !self.is_alive(now) {
            return;
        }
        for part in wire::parts(records) {
            if self.urgent.len() >= MOST_WAITING {
                self.exchanged.dropped += part.len() as u64;
                continue;
            }
            self.exchanged.news_sent += part.len() as u64;
            self.urgent.push_back(Message::Flows(part.to_vec()));
        }
    }

    /// News that it is to confirm; whether it can. They must fit one message.
    pub fn ask_to_confirm(&mut self, nonce: u32, records: &[Record], now: BootTime) -> bool {
        if !self.is_alive(now) || self.highest < 2 || self.urgent.len() >= MOST_WAITING {
            return false;
        }
        self.exchanged.news_sent += records.len() as u64;
        self.urgent.push_back(Message::Hold { nonce, flows: records.to_vec() });
        true
    }

    /// Nonces of the messages that it has confirmed since this was last asked.
    pub fn take_confirmed(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.confirmed)
    }

    /// The next message to be sent now.
    pub fn poll_message(&mut self, now: BootTime, table: &Table, flows: &impl Flows) -> Option<Message> {
        // News before the sums that count them.
        if let Some(message) = self.urgent.pop_front() {
            return Some(message);
        }
        if now >= self.hello_at {
            (self.greeted, self.hello_at) = (now, now + HELLO);
            self.say_hello(table);
            return self.urgent.pop_front();
        }
        if !self.is_alive(now) {
            return None;
        }
        for i in 0..self.pulls.len() {
            if !self.speaks_of(i, now) {
                continue;
            }
            let repairs = &mut self.exchanged.repairs;
            let asked = self.pulls[i].poll(now, table.scopes[i].addr, &mut self.nonces, repairs);
            if asked.is_some() {
                return asked;
            }
        }
        self.next_part(now, table, flows)
    }

    fn say_hello(&mut self, table: &Table) {
        let claim =
            |i: usize| Claim { scope: table.scopes[i].addr, owner: table.owns(i), summary: table.total(i) };
        let placed = (0..table.scopes.len()).filter(|i| table.is_placed(*i));
        let claims: Vec<_> = placed.map(claim).collect();
        for claims in claims.chunks(MAX_CLAIMS) {
            self.urgent.push_back(Message::Hello { highest: wire::VERSION, claims: claims.to_vec() });
        }
        if claims.is_empty() {
            self.urgent.push_back(Message::Hello { highest: wire::VERSION, claims });
        }
    }

    fn next_part(&mut self, now: BootTime, table: &Table, flows: &impl Flows) -> Option<Message> {
        self.bursts = now >= self.next_burst();
        if !self.bursts {
            return None;
        }
        while self.parts.is_empty() {
            let (i, nonce, bucket) = self.asked.pop_front()?;
            if !table.owns(i) {
                continue;
            }
            let all = table.bucket_parts(i, bucket);
            let parts = all.len() as u16;
            for (part, slots) in (0..).zip(all) {
                self.parts.push_back(Part { scope: i, nonce, bucket, part, parts, slots });
            }
        }
        self.paced = self.paced.max(now - ARREARS) + PACE;
        let Part { scope, nonce, bucket, part, parts, slots } = self.parts.pop_front()?;
        let records = table.current(&slots, (scope, bucket), flows, now);
        self.exchanged.flows_sent += records.len() as u64;
        let scope = table.scopes[scope].addr;
        Some(Message::Bucket { scope, nonce, bucket, part, parts, flows: records })
    }

    /// When parts of buckets may be sent next.
    fn next_burst(&self) -> BootTime {
        if self.bursts { self.paced } else { self.paced + BURST }
    }

    /// When [`poll_message`](Self::poll_message) has something to say next.
    pub fn deadline(&self, now: BootTime) -> BootTime {
        if !self.urgent.is_empty() {
            return BootTime(0);
        }
        if !self.is_alive(now) {
            // Whatever else is due, nobody is there to be asked or told.
            return self.hello_at;
        }
        let paced = (!self.asked.is_empty() || !self.parts.is_empty()).then(|| self.next_burst());
        let pulls = self.pulls.iter().enumerate().filter(|(i, _)| self.speaks_of(*i, now));
        let pulls = pulls.filter_map(|(_, pull)| pull.deadline());
        pulls.chain(paced).fold(self.hello_at, BootTime::min)
    }
}

#[cfg(test)]
mod tests;
