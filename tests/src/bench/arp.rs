//! Who answers an ARP request for the virtual address, asked every millisecond from the bridge; and gratuitous ARPs.
//!
//! Each question has a sender address out of a small range of its own, so that an answer belongs to one question though
//! the next are already out; nobody else uses that range. Callers: the freeze and hog benches, the ownership tests.

use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
    sys::{
        socket::{MsgFlags, recv},
        time::TimeSpec,
    },
};

use super::punctual;
use crate::{
    lab::{Lab, VIP, mac_text},
    vip::{self, ETH_P_ARP},
};

/// Between two questions.
pub const PERIOD: Duration = Duration::from_millis(1);
/// Gratuitous ARPs closer than this are one burst.
const BURST_GAP: Duration = Duration::from_secs(1);
/// Sender addresses 172.18.200.0–63. An answer that takes longer than all of them would be taken for another's.
const SENDERS: u8 = 64;
const SENDER_NET: [u8; 3] = [172, 18, 200];

type Mac = [u8; 6];

/// One question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    asked: Duration,
    first: Option<Mac>,
    /// Of another node than the first.
    second: Option<Mac>,
}

/// All that was seen.
#[derive(Debug, Clone, Default)]
pub struct ArpRecord {
    samples: Vec<Sample>,
    /// When gratuitous ARPs for the virtual address were seen.
    gratuitous: Vec<Duration>,
}

impl ArpRecord {
    /// How many questions were asked.
    pub fn samples(&self) -> usize {
        self.samples.len()
    }

    /// Questions asked since `from` that two nodes answered.
    pub fn two_answers(&self, from: Duration) -> usize {
        self.since(from).filter(|sample| sample.second.is_some()).count()
    }

    /// The first of them, in words.
    pub fn first_two(&self, from: Duration) -> Option<String> {
        let sample = self.since(from).find(|sample| sample.second.is_some())?;
        let [first, second] = [sample.first?, sample.second?].map(mac_text);
        Some(format!("{first} and {second} at {:.3} s", sample.asked.as_secs_f64()))
    }

    /// Bursts of gratuitous ARPs since `from`.
    pub fn bursts(&self, from: Duration) -> usize {
        let recent: Vec<_> = self.gratuitous.iter().copied().filter(|at| *at >= from).collect();
        let follows = recent.windows(2).filter(|pair| pair[1] - pair[0] >= BURST_GAP).count();
        follows + usize::from(!recent.is_empty())
    }

    /// Gratuitous ARPs since `from`.
    pub fn announcements(&self, from: Duration) -> usize {
        self.gratuitous.iter().filter(|at| **at >= from).count()
    }

    /// How often a question was answered by another node than the one before; silence between them changes nothing.
    pub fn owner_changes(&self) -> usize {
        let mut answers: Vec<Mac> = self.samples.iter().filter_map(|sample| sample.first).collect();
        answers.dedup();
        answers.len().saturating_sub(1)
    }

    fn since(&self, from: Duration) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| sample.asked >= from)
    }

    /// The latest question of this sender address gets the answer.
    fn answered(&mut self, sender: u8, by: Mac) {
        let rounds = self.samples.len().saturating_sub(1 + usize::from(sender)) / usize::from(SENDERS);
        let number = rounds * usize::from(SENDERS) + usize::from(sender);
        let Some(sample) = self.samples.get_mut(number) else { return };
        match sample.first {
            None => sample.first = Some(by),
            Some(first) if first != by => sample.second = Some(by),
            Some(_) => {}
        }
    }
}

/// The watch; runs until it is stopped or dropped.
#[derive(Debug)]
pub struct ArpWatch {
    began: Instant,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<ArpRecord>>>,
}

impl ArpWatch {
    /// Asks in a lab, every `period`.
    pub fn start(lab: &Lab, period: Duration) -> Self {
        let (began, stop, bridge) = (Instant::now(), Arc::<AtomicBool>::default(), lab.bridge());
        let asked_to = Arc::clone(&stop);
        let body = move || bridge.run(|| watch(period, began, &asked_to))?.context("the ARP watch failed");
        ArpWatch { began, stop, thread: Some(thread::spawn(body)) }
    }

    /// The watch's time.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Ends it; all it has seen.
    pub fn stop(mut self) -> Result<ArpRecord> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the ARP watch runs")?;
        thread.join().unwrap_or_else(|_| Err(anyhow!("the ARP watch panicked")))
    }
}

impl Drop for ArpWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

fn watch(period: Duration, began: Instant, stop: &AtomicBool) -> Result<ArpRecord> {
    let _ = punctual::keep_time();
    let mac = vip::hardware_address(vip::BRIDGE)?;
    let socket = vip::open(vip::BRIDGE, ETH_P_ARP)?;
    let questions: Vec<_> = (0..SENDERS).map(|i| vip::request(mac, sender(i), VIP)).collect();
    let (mut record, mut next) = (ArpRecord::default(), Instant::now());
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        if now >= next {
            let question = &questions[record.samples.len() % questions.len()];
            record.samples.push(Sample { asked: began.elapsed(), first: None, second: None });
            vip::send(&socket, question)?;
            next = now + period;
        }
        wait(&socket, next)?;
        receive(&socket, began, &mut record)?;
    }
    Ok(record)
}

fn sender(number: u8) -> Ipv4Addr {
    let [a, b, c] = SENDER_NET;
    Ipv4Addr::new(a, b, c, number)
}

fn wait(socket: &OwnedFd, until: Instant) -> io::Result<()> {
    let left = TimeSpec::from_duration(until.saturating_duration_since(Instant::now()));
    match ppoll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], Some(left), None) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn receive(socket: &OwnedFd, began: Instant, record: &mut ArpRecord) -> io::Result<()> {
    let mut frame = [0; 64];
    loop {
        match recv(socket.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT) {
            Ok(len) => match read(&frame[..len]) {
                Some(Seen::Answer { sender, by }) => record.answered(sender, by),
                Some(Seen::Gratuitous) => record.gratuitous.push(began.elapsed()),
                None => {}
            },
            Err(Errno::EAGAIN) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
    }
}

/// What a frame means here.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Answer { sender: u8, by: Mac },
    Gratuitous,
}

fn read(frame: &[u8]) -> Option<Seen> {
    let arp = frame.get(14..42)?;
    let (sender, target) = (&arp[14..18], &arp[24..28]);
    if sender != VIP.octets() {
        None
    } else if target == VIP.octets() {
        Some(Seen::Gratuitous)
    } else if arp[6..8] == [0, 2] && target[..3] == SENDER_NET && target[3] < SENDERS {
        Some(Seen::Answer { sender: target[3], by: arp[8..14].try_into().ok()? })
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H1: Mac = [2, 0x42, 172, 18, 0, 7];
    const H2: Mac = [2, 0x42, 172, 18, 0, 8];

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn asked(times: impl Iterator<Item = u64>) -> ArpRecord {
        let samples = times.map(|at| Sample { asked: ms(at), first: None, second: None }).collect();
        ArpRecord { samples, gratuitous: Vec::new() }
    }

    #[test]
    fn an_answer_belongs_to_the_latest_question_of_its_sender_address() {
        let mut record = asked(0..70);
        record.answered(5, H1);
        record.answered(6, H1);
        let answered: Vec<_> = (0..70).filter(|i| record.samples[*i].first.is_some()).collect();
        assert_eq!(answered, [6, 69], "5 was asked with again at 69, 6 was not yet");
        record.answered(63, H1);
        assert!(record.samples[63].first.is_some());
        let mut empty = ArpRecord::default();
        empty.answered(3, H1);
        assert_eq!(empty.samples(), 0);
    }

    #[test]
    fn two_answers_are_those_of_two_nodes_to_one_question() {
        let mut record = asked(0..4);
        for (sender, by) in [(0, H1), (1, H1), (1, H1), (2, H1), (2, H2), (3, H2)] {
            record.answered(sender, by);
        }
        assert_eq!(record.two_answers(ms(0)), 1);
        assert_eq!(record.first_two(ms(0)).unwrap(), "02:42:ac:12:00:07 and 02:42:ac:12:00:08 at 0.002 s");
        assert_eq!(record.two_answers(ms(3)), 0, "only since then");
        assert_eq!(record.owner_changes(), 1);
        assert_eq!(asked(0..4).owner_changes(), 0, "silence is no owner");
    }

    #[test]
    fn announcements_less_than_a_second_apart_are_one_burst() {
        for (times, from, expected) in [
            (&[][..], 0, 0),
            (&[100], 0, 1),
            (&[100, 101, 900, 1899], 0, 1),
            (&[100, 101, 1101], 0, 2),
            (&[100, 101, 5101, 5102], 0, 2),
            (&[100, 101, 5101, 5102], 102, 1),
        ] {
            let gratuitous = times.iter().copied().map(ms).collect();
            let record = ArpRecord { samples: Vec::new(), gratuitous };
            assert_eq!(record.bursts(ms(from)), expected, "{times:?} from {from}");
            assert!(record.announcements(ms(from)) >= expected);
        }
    }

    #[test]
    fn frames_are_told_apart_by_sender_and_target() {
        let frame = |op: u8, from: Ipv4Addr, target: Ipv4Addr| {
            let mut frame = vip::request(H1, from, target);
            frame[21] = op;
            frame
        };
        assert_eq!(read(&frame(2, VIP, sender(9))), Some(Seen::Answer { sender: 9, by: H1 }));
        assert_eq!(read(&frame(1, VIP, VIP)), Some(Seen::Gratuitous));
        assert_eq!(read(&frame(2, VIP, VIP)), Some(Seen::Gratuitous));
        for other in [
            frame(1, VIP, sender(9)),
            frame(2, VIP, Ipv4Addr::new(172, 18, 0, 100)),
            frame(2, VIP, sender(SENDERS)),
            frame(2, sender(9), VIP),
        ] {
            assert_eq!(read(&other), None);
        }
        assert_eq!(read(&frame(2, VIP, sender(9))[..41]), None);
    }
}
