//! What clients see of a fault: sessions that were open, idle and busy, and connections that are opened meanwhile.
//!
//! A client of our own, since an idle session's error is seen at its socket, which no client library shows.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::scene::{Product, Scene};
use crate::{console::Console, sql::HAPROXY};

/// Sessions of each product. A third of them is on each node, and every other one of these is idle.
const SESSIONS: usize = 24;
/// Between two new connections to each product.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a fault is watched; an error that has not come by then counts as if it came then.
pub const WATCHED: Duration = Duration::from_secs(10);
/// A new connection that has no answer by then has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the clients of one product saw of one fault.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Of each idle session on the node: when its error came, ms after the fault.
    pub idle: Vec<f64>,
    /// Likewise of each busy one.
    pub busy: Vec<f64>,
    /// Connections opened after the fault.
    pub tried: u64,
    /// Of these without an answer to their first query.
    pub failed: u64,
    /// What they took until it, ms.
    pub opened: Vec<f64>,
    /// The last error of a new connection.
    pub error: Option<String>,
}

impl Seen {
    /// In one line.
    pub fn line(&self) -> String {
        let longest = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
        let error = self.error.as_ref().map(|e| format!(" ({e})")).unwrap_or_default();
        format!(
            "errors after {:.0} ms (idle), {:.0} ms (busy); {} of {} new connections failed{error}, the longest took {:.0} ms",
            longest(&self.idle),
            longest(&self.busy),
            self.failed,
            self.tried,
            longest(&self.opened),
        )
    }
}

/// Clients of all products that watch for a fault.
#[derive(Debug)]
pub struct Watch {
    thread: JoinHandle<Result<Vec<(Product, Seen)>>>,
    struck: Arc<Mutex<Option<Instant>>>,
    over: watch::Sender<bool>,
}

impl Watch {
    /// Opens the sessions, and begins to open connections. The fault is to strike as soon as this returns.
    pub fn start(scene: &Scene) -> Result<Self> {
        let client = scene.lab().netns(&scene.client()?);
        let victim = scene.victim()?.name;
        let (over, is_over) = watch::channel(false);
        let struck = Arc::new(Mutex::new(None));
        let ready = Arc::new(AtomicBool::new(false));
        let (set, when) = (Arc::clone(&ready), Arc::clone(&struck));
        let thread = thread::spawn(move || {
            client.run(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(all(&victim, &set, when, is_over))
            })?
        });
        while !ready.load(Ordering::Acquire) && !thread.is_finished() {
            thread::sleep(Duration::from_millis(5));
        }
        let watch = Self { thread, struck, over };
        if watch.thread.is_finished() {
            watch.thread.join().map_err(|_| anyhow!("the clients panicked"))??;
            return Err(anyhow!("the clients ended before the fault"));
        }
        *watch.struck.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Ok(watch)
    }

    /// Watches for as long as a fault is watched.
    pub fn finish(self, console: &Console) -> Result<Vec<(Product, Seen)>> {
        let since = Instant::now();
        console.wait_for(WATCHED, || Ok(since.elapsed() >= WATCHED))?;
        let _ = self.over.send(true);
        self.thread.join().map_err(|_| anyhow!("the clients panicked"))?
    }
}

type Struck = Arc<Mutex<Option<Instant>>>;

async fn all(
    victim: &str,
    ready: &AtomicBool,
    struck: Struck,
    over: watch::Receiver<bool>,
) -> Result<Vec<(Product, Seen)>> {
    let mut watched = Vec::new();
    for product in Product::ALL {
        let mut sessions = JoinSet::new();
        let mut on_victim = 0;
        for _ in 0..SESSIONS {
            let (mut session, node) = opened(product.target())
                .await
                .with_context(|| format!("no session through {} before the fault", product.word()))?;
            if node == victim {
                on_victim += 1;
                let (idle, over) = (on_victim % 2 == 0, over.clone());
                sessions.spawn(async move { (idle, session.error(idle, over).await) });
            }
        }
        ensure!(on_victim >= 2, "{} has {on_victim} sessions on {victim}", product.word());
        watched.push((product, sessions));
    }
    let newcomers: Vec<_> = Product::ALL
        .map(|product| tokio::spawn(newcomers(product.target(), Arc::clone(&struck), over.clone())))
        .into();
    ready.store(true, Ordering::Release);

    let mut seen = Vec::new();
    for ((product, mut sessions), newcomers) in watched.into_iter().zip(newcomers) {
        let mut one = newcomers.await?;
        let since = struck.lock().unwrap_or_else(PoisonError::into_inner).context("no fault")?;
        while let Some(ended) = sessions.join_next().await {
            let (idle, at) = ended?;
            let after = at.map_or(WATCHED, |at| at.saturating_duration_since(since));
            let list = if idle { &mut one.idle } else { &mut one.busy };
            list.push(after.as_secs_f64() * 1e3);
        }
        seen.push((product, one));
    }
    Ok(seen)
}

/// Opens connections until it is over, at a steady pace however long each takes.
async fn newcomers(target: SocketAddr, struck: Struck, mut over: watch::Receiver<bool>) -> Seen {
    let mut open = JoinSet::new();
    let mut seen = Seen::default();
    loop {
        tokio::select! {
            _ = over.changed() => break,
            () = sleep(PAUSE) => {}
            Some(Ok(ended)) = open.join_next() => {
                count(&mut seen, ended);
                continue;
            }
        }
        let after = struck.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        open.spawn(async move {
            let since = Instant::now();
            let opened = timeout(PATIENCE, opened(target)).await;
            let result =
                opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map(|_| since.elapsed());
            (after, result)
        });
    }
    while let Some(Ok(ended)) = open.join_next().await {
        count(&mut seen, ended);
    }
    seen
}

fn count(seen: &mut Seen, (after, result): (bool, io::Result<Duration>)) {
    if !after {
        return;
    }
    seen.tried += 1;
    match result {
        Ok(took) => seen.opened.push(took.as_secs_f64() * 1e3),
        Err(e) => {
            seen.failed += 1;
            seen.error = Some(e.to_string());
        }
    }
}

/// A session with the name of its node.
async fn opened(target: SocketAddr) -> io::Result<(Session, String)> {
    let mut session = Session::open(target).await?;
    let node = session.query("SELECT @@wsrep_node_name").await?;
    Ok((session, node))
}

/// A MySQL session of an account without a password.
struct Session(TcpStream);

/// CLIENT_LONG_PASSWORD, PROTOCOL_41, SECURE_CONNECTION.
const CAPABILITIES: u32 = 1 | 1 << 9 | 1 << 15;

impl Session {
    async fn open(target: SocketAddr) -> io::Result<Self> {
        let mut session = Self(TcpStream::connect(target).await?);
        session.0.set_nodelay(true)?;
        let greeting = session.packet().await?;
        if greeting.1.first() == Some(&0xff) {
            return Err(said(&greeting.1));
        }
        let mut answer = CAPABILITIES.to_le_bytes().to_vec();
        answer.extend([0, 0, 0, 1, 45]);
        answer.extend([0; 23]);
        answer.extend(HAPROXY.user.bytes().chain([0, 0]));
        session.send(greeting.0 + 1, &answer).await?;
        match session.packet().await?.1 {
            packet if packet.first() == Some(&0) => Ok(session),
            packet => Err(said(&packet)),
        }
    }

    /// The only field of the only row.
    async fn query(&mut self, statement: &str) -> io::Result<String> {
        self.send(0, &[&[3], statement.as_bytes()].concat()).await?;
        let (mut ends, mut row) = (0, Vec::new());
        while ends < 2 {
            let packet = self.packet().await?.1;
            match packet.first() {
                Some(0xff) => return Err(said(&packet)),
                Some(0xfe) if packet.len() < 9 => ends += 1,
                _ if ends == 1 => row = packet,
                _ => {}
            }
        }
        Ok(String::from_utf8_lossy(row.get(1..).unwrap_or_default()).into_owned())
    }

    async fn send(&mut self, number: u8, body: &[u8]) -> io::Result<()> {
        let length = (body.len() as u32).to_le_bytes();
        self.0.write_all(&[&[length[0], length[1], length[2], number], body].concat()).await
    }

    async fn packet(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 4];
        self.0.read_exact(&mut head).await?;
        let mut body = vec![0; u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize];
        self.0.read_exact(&mut body).await?;
        Ok((head[3], body))
    }

    /// When the session's error came, if it came before all is over.
    async fn error(&mut self, idle: bool, mut over: watch::Receiver<bool>) -> Option<Instant> {
        let fails = async {
            if idle {
                let _ = self.0.read_u8().await;
                return;
            }
            while self.query("SELECT 1").await.is_ok() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            () = fails => Some(Instant::now()),
            _ = over.changed() => None,
        }
    }
}

fn said(packet: &[u8]) -> io::Error {
    io::Error::other(format!(
        "the server says {}",
        String::from_utf8_lossy(packet.get(3..).unwrap_or_default())
    ))
}
