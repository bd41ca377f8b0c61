//! The client of `bench change`, in a process of its own: requests at a fixed rate, whatever becomes of those before (an open
//! loop), on connections that stay, as datagrams, and each on a connection of its own.
//!
//! A request is due at its time and its wait begins then, so that what is sent late counts as late. All carry numbers: an answer on
//! another connection, twice, or never is noticed. It begins and ends with a line on standard input, and answers with a [`Toll`].

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashSet},
    io::{self, BufRead, Write},
    net::{SocketAddr, UdpSocket},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::{JoinSet, LocalSet, spawn_local},
    time::{sleep, sleep_until, timeout},
};

use super::server::ROOM;
use crate::bench::flood::sockets::{READY, runtime};

/// A connection that does not open, and an answer that does not come, in this time have failed.
const LIMIT: Duration = Duration::from_secs(10);
/// Requests that are due are sent this often.
const BATCH: Duration = Duration::from_micros(500);
/// Which connection or socket, and which request.
const LENGTH: usize = 16;

/// What a client does.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Shape {
    /// The service.
    pub to: SocketAddr,
    /// Where datagrams go; none: to nobody.
    pub datagrams_to: Option<SocketAddr>,
    /// Connections that stay and carry requests in turn.
    pub connections: u32,
    /// Connections that are silent until the end, and are used once then.
    pub silent: u32,
    /// Requests a second on those that stay.
    pub requests: u32,
    /// Datagrams a second.
    pub datagrams: u32,
    /// Sockets that they are sent from in turn.
    pub sockets: u32,
    /// New connections a second, each with one request.
    pub fresh: u32,
}

/// What it has come to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Toll {
    /// From the first request to the last one, s.
    pub seconds: f64,
    /// Answered requests of all kinds.
    pub answered: u64,
    /// Connections that stay, silent ones too, which ended, had another answer or none.
    pub broken: u64,
    /// Datagrams without an answer.
    pub lost: u64,
    /// New connections that did not open, or had another answer or none.
    pub refused: u64,
    /// From when a request was due to its answer, at the longest, ms; datagrams too.
    pub longest_ms: f64,
    /// What that was, and when it was due.
    pub slowest: String,
    /// Likewise of a new connection and its request.
    pub longest_fresh_ms: f64,
    /// What connections that failed said, and how many.
    pub why: BTreeMap<String, u64>,
}

impl Shape {
    /// Requests of all kinds, a second.
    pub fn rate(&self) -> u32 {
        self.requests + self.datagrams + self.fresh
    }

    fn with_connections(&self) -> u64 {
        self.connections.into()
    }
}

/// When the `number`th is due, of so many a second.
fn due(begun: Instant, number: u64, rate: u32) -> Instant {
    begun + Duration::from_secs_f64(number as f64 / f64::from(rate))
}

fn words(which: u64, number: u64) -> [u8; LENGTH] {
    let mut words = [0; LENGTH];
    words[..8].copy_from_slice(&which.to_be_bytes());
    words[8..].copy_from_slice(&number.to_be_bytes());
    words
}

fn number(words: &[u8]) -> u64 {
    u64::from_be_bytes(words[8..LENGTH].try_into().unwrap_or_default())
}

/// What such a process does.
pub fn be_client(shape: Shape) -> Result<()> {
    LocalSet::new().block_on(&runtime()?, async {
        let mut client = Client::open(shape).await?;
        let lines = lines();
        println!("{READY}");
        lines.begin.await?;
        let toll = client.run(lines.end).await?;
        println!("{}", serde_json::to_string(&toll)?);
        Ok(())
    })
}

struct Lines {
    begin: oneshot::Receiver<()>,
    end: oneshot::Receiver<()>,
}

/// The first line of standard input, and the second or its end.
fn lines() -> Lines {
    let ((first, begin), (second, end)) = (oneshot::channel(), oneshot::channel());
    thread::spawn(move || {
        let mut lines = io::stdin().lock().lines();
        drop(lines.next());
        let _ = first.send(());
        drop(lines.next());
        let _ = second.send(());
    });
    Lines { begin, end }
}

/// Counted by all tasks, which are of one thread.
#[derive(Default)]
struct Tally {
    answered: Cell<u64>,
    broken: Cell<u64>,
    refused: Cell<u64>,
    /// How long, what, and when it was due.
    longest: Cell<(Duration, Option<(&'static str, Instant)>)>,
    longest_fresh: Cell<Duration>,
    /// Datagrams that were answered.
    arrived: RefCell<HashSet<u64>>,
    why: RefCell<BTreeMap<String, u64>>,
}

impl Tally {
    fn answer(&self, what: &'static str, due: Instant) {
        self.answered.set(self.answered.get() + 1);
        let waited = due.elapsed();
        if waited > self.longest.get().0 {
            self.longest.set((waited, Some((what, due))));
        }
    }

    fn because(&self, why: &str) {
        *self.why.borrow_mut().entry(why.to_owned()).or_default() += 1;
    }

    fn broken(&self, why: &str) {
        self.broken.set(self.broken.get() + 1);
        self.because(why);
    }
}

/// One connection that stays: its reading half is a task's, its writing half the sender's.
struct Connection {
    reader: TcpStream,
    writer: std::net::TcpStream,
}

struct Client {
    shape: Shape,
    connections: Vec<Connection>,
    silent: Vec<TcpStream>,
    sockets: Vec<UdpSocket>,
}

/// What a sender has sent: on each connection, and all datagrams.
struct Sent {
    requests: Vec<u64>,
    datagrams: u64,
    seconds: f64,
}

impl Client {
    async fn open(shape: Shape) -> Result<Self> {
        let mut connections = Vec::new();
        for _ in 0..shape.connections {
            let stream = open(shape.to).await?.into_std()?;
            let writer = stream.try_clone()?;
            connections.push(Connection { reader: TcpStream::from_std(stream)?, writer });
        }
        let mut silent = Vec::new();
        for _ in 0..shape.silent {
            silent.push(open(shape.to).await?);
        }
        let mut sockets = Vec::new();
        for to in shape.datagrams_to.iter().flat_map(|to| (0..shape.sockets).map(move |_| *to)) {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_nonblocking(true)?;
            setsockopt(&socket, RcvBufForce, &ROOM)?;
            socket.connect(to)?;
            sockets.push(socket);
        }
        Ok(Self { shape, connections, silent, sockets })
    }

    /// Carries requests until `end`, and tells what has become of them.
    async fn run(&mut self, end: oneshot::Receiver<()>) -> Result<Toll> {
        let (tally, shape) = (Rc::<Tally>::default(), self.shape);
        let begun = Instant::now();
        let answers: Vec<Rc<Cell<u64>>> = self.connections.iter().map(|_| Rc::default()).collect();
        let mut writers = Vec::new();
        for ((i, Connection { reader, writer }), count) in (0..).zip(self.connections.drain(..)).zip(&answers)
        {
            writers.push(writer);
            spawn_local(read_on(reader, i, (begun, shape), (Rc::clone(&tally), Rc::clone(count))));
        }
        for socket in &self.sockets {
            let socket = tokio::net::UdpSocket::from_std(socket.try_clone()?)?;
            spawn_local(take_datagrams(socket, begun, shape, Rc::clone(&tally)));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let sender = thread::spawn({
            let (stop, sockets) = (Arc::clone(&stop), std::mem::take(&mut self.sockets));
            move || send(&writers, &sockets, shape, begun, &stop)
        });
        let mut fresh = JoinSet::new();
        open_anew(shape, begun, end, &mut fresh, &tally).await;
        stop.store(true, Ordering::Relaxed);
        let sent = sender.join().map_err(|_| anyhow!("the sender panicked"))?;
        while fresh.join_next().await.is_some() {}
        self.settle(&sent, &answers, &tally).await;
        Ok(toll(begun, &sent, &tally))
    }

    /// Waits for what is on its way, then uses the silent ones.
    async fn settle(&mut self, sent: &Sent, answers: &[Rc<Cell<u64>>], tally: &Tally) {
        let complete = || {
            let requests = sent.requests.iter().zip(answers).all(|(sent, got)| got.get() >= *sent);
            requests && tally.arrived.borrow().len() as u64 == sent.datagrams
        };
        let asked = Instant::now();
        while !complete() && asked.elapsed() < LIMIT {
            sleep(Duration::from_millis(10)).await;
        }
        for _ in sent.requests.iter().zip(answers).filter(|(sent, got)| got.get() < **sent) {
            tally.broken("no answer");
        }
        for stream in &mut self.silent {
            match timeout(LIMIT, exchange(stream, words(0, 0))).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => tally.broken(&format!("silent: {e}")),
                Err(_) => tally.broken("silent: no answer"),
            }
        }
    }
}

fn toll(begun: Instant, sent: &Sent, tally: &Tally) -> Toll {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let (longest, slowest) = tally.longest.get();
    let slowest = slowest.map(|(what, due)| format!("{what} after {:.1} s", (due - begun).as_secs_f64()));
    Toll {
        seconds: sent.seconds,
        answered: tally.answered.get(),
        broken: tally.broken.get(),
        lost: sent.datagrams - tally.arrived.borrow().len() as u64,
        refused: tally.refused.get(),
        longest_ms: ms(longest),
        slowest: slowest.unwrap_or_default(),
        longest_fresh_ms: ms(tally.longest_fresh.get()),
        why: tally.why.borrow().clone(),
    }
}

async fn open(to: SocketAddr) -> Result<TcpStream> {
    let opened = timeout(LIMIT, TcpStream::connect(to)).await;
    let stream = opened.context("no connection in time")?.context("no connection")?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn exchange(stream: &mut TcpStream, words: [u8; LENGTH]) -> io::Result<()> {
    stream.write_all(&words).await?;
    let mut answer = [0; LENGTH];
    stream.read_exact(&mut answer).await?;
    if answer == words { Ok(()) } else { Err(io::Error::other("another answer")) }
}

/// Sends what is due, on a thread of its own: answers and new connections do not hold it up.
fn send(
    writers: &[std::net::TcpStream],
    sockets: &[UdpSocket],
    shape: Shape,
    begun: Instant,
    stop: &AtomicBool,
) -> Sent {
    let mut sent = Sent { requests: vec![0; writers.len()], datagrams: 0, seconds: 0.0 };
    let (mut requests, mut datagrams) = (0, 0);
    let until = |rate: u32| (begun.elapsed().as_secs_f64() * f64::from(rate)) as u64;
    while !stop.load(Ordering::Relaxed) {
        // Looked at once for both: requests that are being made up for must not keep datagrams waiting.
        let due = (until(shape.requests), until(shape.datagrams));
        while requests < due.0 {
            let which = (requests % writers.len() as u64) as usize;
            // One that has ended is noticed by its reader; one whose buffer is full is so long without an answer that it counts.
            if (&writers[which]).write_all(&words(which as u64, requests)).is_ok() {
                sent.requests[which] += 1;
            }
            requests += 1;
        }
        while !sockets.is_empty() && datagrams < due.1 {
            let which = (datagrams % sockets.len() as u64) as usize;
            // Refused is lost, too.
            let _ = sockets[which].send(&words(which as u64, datagrams));
            datagrams += 1;
        }
        thread::sleep(BATCH);
    }
    sent.datagrams = datagrams;
    sent.seconds = begun.elapsed().as_secs_f64();
    sent
}

/// Takes the answers of a connection until it ends.
async fn read_on(
    mut stream: TcpStream,
    which: u64,
    (begun, shape): (Instant, Shape),
    (tally, count): (Rc<Tally>, Rc<Cell<u64>>),
) {
    let (mut buffer, mut filled, mut last) = ([0; 64 * LENGTH], 0, None);
    let why = 'ended: loop {
        match stream.read(&mut buffer[filled..]).await {
            Ok(0) => break "closed by the other side".to_owned(),
            Err(e) => break e.to_string(),
            Ok(n) => filled += n,
        }
        let whole = filled - filled % LENGTH;
        for answer in buffer[..whole].chunks_exact(LENGTH) {
            let number = number(answer);
            let own = answer[..8] == which.to_be_bytes() && number % shape.with_connections() == which;
            if !own || last.is_some_and(|last| number <= last) {
                break 'ended "another answer".to_owned();
            }
            last = Some(number);
            count.set(count.get() + 1);
            tally.answer("a request on a connection", due(begun, number, shape.requests));
        }
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
    };
    tally.broken(&why);
    // Nothing more is expected of it.
    count.set(u64::MAX);
}

async fn take_datagrams(socket: tokio::net::UdpSocket, begun: Instant, shape: Shape, tally: Rc<Tally>) {
    let mut buffer = [0; LENGTH];
    loop {
        // A datagram that was refused is told of here, too.
        let Ok(length) = socket.recv(&mut buffer).await else { continue };
        let number = number(&buffer);
        if length == LENGTH && tally.arrived.borrow_mut().insert(number) {
            tally.answer("a datagram", due(begun, number, shape.datagrams));
        }
    }
}

/// Opens connections at their times until `end`.
async fn open_anew(
    shape: Shape,
    begun: Instant,
    mut end: oneshot::Receiver<()>,
    all: &mut JoinSet<()>,
    tally: &Rc<Tally>,
) {
    for number in 0.. {
        let due = due(begun, number, shape.fresh);
        tokio::select! {
            _ = &mut end => return,
            () = sleep_until(due.into()) => {}
        }
        while all.try_join_next().is_some() {}
        let tally = Rc::clone(tally);
        all.spawn_local(async move {
            let used = async {
                let mut stream = open(shape.to).await?;
                Ok::<_, anyhow::Error>(exchange(&mut stream, words(u64::MAX, number)).await?)
            };
            match timeout(LIMIT, used).await {
                Ok(Ok(())) => {
                    tally.answered.set(tally.answered.get() + 1);
                    tally.longest_fresh.set(tally.longest_fresh.get().max(due.elapsed()));
                }
                failed => {
                    tally.refused.set(tally.refused.get() + 1);
                    tally.because(&match failed {
                        Ok(Err(e)) => format!("new: {e:#}"),
                        _ => "new: no answer".to_owned(),
                    });
                }
            }
        });
    }
}
