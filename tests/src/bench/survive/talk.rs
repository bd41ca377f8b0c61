//! A client of the bench of survivors, in a process of its own: very many connections through one address, half of them idle and
//! half of them with a request after the other, and a few MySQL sessions that are inside a transaction.
//!
//! It is told what to do line by line on standard input ([`Order`]) and answers each with a line ([`Answer`]). A connection is
//! lost once an exchange on it fails, gives another answer than its own, or has none within [`LIMIT`].

use std::{
    cell::Cell,
    collections::BTreeMap,
    io::{self, BufRead},
    net::{IpAddr, SocketAddr},
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::{Mutex, Semaphore, mpsc, watch},
    task::{JoinSet, LocalSet},
    time::{sleep, timeout},
};

use super::{server::LENGTH, session::Session};
use crate::bench::flood::sockets::{READY, runtime};

/// An exchange that takes longer has failed: twice what the kernel's back-off makes of a blackout of four seconds.
pub const LIMIT: Duration = Duration::from_secs(20);
/// Connections that are opened, or used at a time because of an order.
const AT_A_TIME: usize = 256;
/// A connection that is younger is a young one.
const YOUTH: Duration = Duration::from_secs(1);

/// What a client is told.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Order {
    /// Open what is lacking of the connections.
    Fill,
    /// Close so many, the longest open first, and open as many new ones; sessions begin a new transaction on a new connection.
    Renew(u32),
    /// Active connections carry requests from now on.
    Talk,
    /// No longer.
    Rest,
    /// What is counted is counted from now on.
    Mark,
    /// Use every connection once, and say what has become of them.
    Use,
}

/// What it answers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Answer {
    /// Connections that live.
    pub alive: u32,
    /// Those of them that are younger than a second.
    pub young: u32,
    /// Connections lost since the mark.
    pub lost: u32,
    /// Sessions that live, and are still inside of their transaction with all they had written.
    pub sessions: u32,
    /// Sessions lost since the mark.
    pub sessions_lost: u32,
    /// Why connections were lost, and how many.
    pub why: BTreeMap<String, u32>,
    /// Those that this order has not been able to open.
    pub unopened: u32,
    /// Why the last of them did not open.
    pub why_unopened: String,
    /// Exchanges since the mark; when it is set, since the one before.
    pub exchanges: u64,
    /// The longest wait for an answer since the mark, of each active connection that lives, ms.
    pub stalls_ms: Vec<f64>,
}

/// What a client is made with.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Shape {
    /// Its address.
    pub from: IpAddr,
    /// The service.
    pub to: SocketAddr,
    /// How many connections.
    pub count: u32,
    /// How many sessions besides.
    pub sessions: u32,
    /// Where they are.
    pub database: SocketAddr,
    /// First key of the rows that its sessions write.
    pub keys: u64,
    /// Between an answer and the next request.
    pub think: Duration,
}

impl Answer {
    /// This one and another client's.
    pub fn add(&mut self, other: Self) {
        for (to, from) in [
            (&mut self.alive, other.alive),
            (&mut self.young, other.young),
            (&mut self.lost, other.lost),
            (&mut self.sessions, other.sessions),
            (&mut self.sessions_lost, other.sessions_lost),
            (&mut self.unopened, other.unopened),
        ] {
            *to += from;
        }
        for (why, count) in other.why {
            *self.why.entry(why).or_default() += count;
        }
        if !other.why_unopened.is_empty() {
            self.why_unopened = other.why_unopened;
        }
        self.exchanges += other.exchanges;
        self.stalls_ms.extend(other.stalls_ms);
    }
}

struct Client {
    shape: Shape,
    connections: Vec<Rc<Connection>>,
    sessions: Vec<Session>,
    /// The next to be renewed.
    oldest: usize,
    talking: watch::Sender<bool>,
    tally: Rc<Tally>,
}

/// Since the mark.
#[derive(Default)]
struct Tally {
    exchanges: Cell<u64>,
    lost: Cell<u32>,
    sessions: Cell<u32>,
    why: std::cell::RefCell<BTreeMap<String, u32>>,
}

struct Connection {
    number: u64,
    talk: Mutex<Option<Talk>>,
    /// The longest exchange since the mark.
    worst: Cell<Duration>,
}

struct Talk {
    stream: TcpStream,
    opened: Instant,
    requests: u64,
}

/// What such a process does.
pub fn be_client(shape: Shape) -> Result<()> {
    let (sender, mut orders) = mpsc::unbounded_channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            let Ok(order) = serde_json::from_str::<Order>(&line) else { return };
            if sender.send(order).is_err() {
                return;
            }
        }
    });
    LocalSet::new().block_on(&runtime()?, async {
        let mut client = Client::new(shape);
        println!("{READY}");
        while let Some(order) = orders.recv().await {
            let answer = client.obey(order).await.with_context(|| format!("{order:?}"));
            match answer {
                Ok(answer) => println!("{}", serde_json::to_string(&answer)?),
                Err(e) => println!("{e:#}"),
            }
        }
        Ok(())
    })
}

impl Client {
    fn new(shape: Shape) -> Self {
        let connection = |number| {
            Rc::new(Connection {
                number: u64::from(number) + 1,
                talk: Mutex::default(),
                worst: Cell::default(),
            })
        };
        let connections: Vec<_> = (0..shape.count).map(connection).collect();
        let (talking, _) = watch::channel(false);
        let tally = Rc::<Tally>::default();
        // Every second one is active.
        for connection in connections.iter().step_by(2) {
            let (connection, tally) = (Rc::clone(connection), Rc::clone(&tally));
            tokio::task::spawn_local(talk_on(connection, shape.think, talking.subscribe(), tally));
        }
        let key = |i: u32| Session::new(shape.database, shape.keys + u64::from(i) * super::session::KEYS);
        Self {
            sessions: (0..shape.sessions).map(key).collect(),
            connections,
            shape,
            oldest: 0,
            talking,
            tally,
        }
    }

    async fn obey(&mut self, order: Order) -> Result<Answer> {
        match order {
            Order::Fill => return Ok(self.fill().await?.into_answer(self.count())),
            Order::Renew(count) => return Ok(self.renew(count as usize).await?.into_answer(self.count())),
            Order::Talk => _ = self.talking.send_replace(true),
            Order::Rest => _ = self.talking.send_replace(false),
            Order::Mark => {
                let exchanges = self.tally.exchanges.take();
                self.mark();
                return Ok(Answer { exchanges, ..self.count() });
            }
            Order::Use => self.use_all().await,
        }
        Ok(self.count())
    }

    async fn fill(&mut self) -> Result<Unopened> {
        let mut lacking = Vec::new();
        for connection in &self.connections {
            if connection.talk.lock().await.is_none() {
                lacking.push(Rc::clone(connection));
            }
        }
        let mut unopened = self.open(lacking).await?;
        for session in self.sessions.iter_mut().filter(|session| !session.lives()) {
            unopened.note(session.begin().await);
        }
        Ok(unopened)
    }

    /// The next `count` of all, in turn.
    async fn renew(&mut self, count: usize) -> Result<Unopened> {
        let mut unopened = Unopened::default();
        for session in &mut self.sessions {
            unopened.note(session.begin().await);
        }
        let all = self.connections.len();
        let chosen: Vec<_> =
            (0..count.min(all)).map(|i| Rc::clone(&self.connections[(self.oldest + i) % all])).collect();
        self.oldest = (self.oldest + count) % all.max(1);
        for connection in &chosen {
            connection.talk.lock().await.take();
        }
        let more = self.open(chosen).await?;
        unopened.0.extend(more.0);
        Ok(unopened)
    }

    async fn open(&self, which: Vec<Rc<Connection>>) -> Result<Unopened> {
        let (turns, mut all) = (Rc::new(Semaphore::new(AT_A_TIME)), JoinSet::new());
        for connection in which {
            let (turns, shape) = (Rc::clone(&turns), self.shape);
            all.spawn_local(async move {
                let _turn = turns.acquire().await;
                // What the machine's queues lose of so many is asked for again.
                match connection.open(&shape).await {
                    Err(_) => connection.open(&shape).await,
                    opened => opened,
                }
            });
        }
        let mut unopened = Unopened::default();
        while let Some(opened) = all.join_next().await {
            unopened.note(opened?.map_err(Into::into));
        }
        Ok(unopened)
    }

    fn mark(&self) {
        self.tally.lost.set(0);
        self.tally.sessions.set(0);
        self.tally.why.borrow_mut().clear();
        self.connections.iter().for_each(|connection| connection.worst.set(Duration::ZERO));
    }

    async fn use_all(&mut self) {
        let (turns, mut all) = (Rc::new(Semaphore::new(AT_A_TIME)), JoinSet::new());
        for connection in &self.connections {
            let (turns, connection, tally) =
                (Rc::clone(&turns), Rc::clone(connection), Rc::clone(&self.tally));
            all.spawn_local(async move {
                let _turn = turns.acquire().await;
                connection.exchange(&tally).await;
            });
        }
        while all.join_next().await.is_some() {}
        for session in self.sessions.iter_mut().filter(|session| session.lives()) {
            if let Err(e) = session.go_on().await {
                self.tally.sessions.set(self.tally.sessions.get() + 1);
                self.tally.because(&format!("session: {e:#}"));
            }
        }
    }

    fn count(&self) -> Answer {
        let mut answer = Answer {
            lost: self.tally.lost.get(),
            sessions_lost: self.tally.sessions.get(),
            sessions: self.sessions.iter().filter(|session| session.lives()).count() as u32,
            why: self.tally.why.borrow().clone(),
            exchanges: self.tally.exchanges.get(),
            ..Answer::default()
        };
        for (i, connection) in self.connections.iter().enumerate() {
            // One that waits for an answer is old enough, and lives until it is said that it does not.
            let (lives, young) = match connection.talk.try_lock() {
                Ok(talk) => (talk.is_some(), talk.as_ref().is_some_and(|talk| talk.opened.elapsed() < YOUTH)),
                Err(_) => (true, false),
            };
            answer.alive += u32::from(lives);
            answer.young += u32::from(young);
            if lives && i % 2 == 0 {
                answer.stalls_ms.push(connection.worst.get().as_secs_f64() * 1e3);
            }
        }
        answer
    }
}

/// Why connections did not open, a reason each.
#[derive(Default)]
struct Unopened(Vec<String>);

impl Unopened {
    fn note(&mut self, opened: Result<()>) {
        self.0.extend(opened.err().map(|e| format!("{e:#}")));
    }

    fn into_answer(self, so_far: Answer) -> Answer {
        let why_unopened = self.0.last().cloned().unwrap_or_default();
        Answer { unopened: self.0.len() as u32, why_unopened, ..so_far }
    }
}

impl Tally {
    fn because(&self, why: &str) {
        *self.why.borrow_mut().entry(why.to_owned()).or_default() += 1;
    }
}

impl Connection {
    /// Opens it anew. Of those that are idle nothing is said: they have sent their last handshake segment and nothing else.
    async fn open(&self, shape: &Shape) -> io::Result<()> {
        let opened = timeout(LIMIT, async {
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::new(shape.from, 0))?;
            socket.connect(shape.to).await
        });
        let stream = opened.await??;
        stream.set_nodelay(true)?;
        let mut talk = Talk { stream, opened: Instant::now(), requests: 0 };
        if self.number % 2 == 1 {
            timeout(LIMIT, talk.exchange(self.number)).await??;
        }
        *self.talk.lock().await = Some(talk);
        Ok(())
    }

    /// One request and its answer, if it lives.
    async fn exchange(&self, tally: &Tally) {
        let mut place = self.talk.lock().await;
        let Some(talk) = &mut *place else { return };
        let sent = Instant::now();
        let done = timeout(LIMIT, talk.exchange(self.number)).await;
        let why = match done {
            Ok(Ok(())) => {
                tally.exchanges.set(tally.exchanges.get() + 1);
                return self.worst.set(self.worst.get().max(sent.elapsed()));
            }
            Ok(Err(e)) => e.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        place.take();
        tally.lost.set(tally.lost.get() + 1);
        tally.because(&why);
    }
}

impl Talk {
    async fn exchange(&mut self, number: u64) -> io::Result<()> {
        self.requests += 1;
        let mut words = [0; LENGTH];
        words[..8].copy_from_slice(&number.to_be_bytes());
        words[8..].copy_from_slice(&self.requests.to_be_bytes());
        self.stream.write_all(&words).await?;
        let mut answer = [0; LENGTH];
        self.stream.read_exact(&mut answer).await?;
        if answer == words { Ok(()) } else { Err(io::Error::other("another connection's answer")) }
    }
}

/// An active connection's requests, spread over time.
async fn talk_on(
    connection: Rc<Connection>,
    think: Duration,
    mut talking: watch::Receiver<bool>,
    tally: Rc<Tally>,
) {
    // Between a half and one and a half of it: Weyl's sequence, so that they do not fall into step.
    let mut spread = connection.number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    while talking.wait_for(|talking| *talking).await.is_ok() {
        spread = spread.wrapping_add(0x9e37_79b9_7f4a_7c15);
        sleep(think.mul_f64(0.5 + (spread >> 32) as f64 / f64::from(u32::MAX))).await;
        if *talking.borrow() {
            connection.exchange(&tally).await;
        }
    }
}
