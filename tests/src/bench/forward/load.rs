//! The client of `bench forward`: what it does to an address for the length of a slice, and what came of it.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Runtime,
    task::JoinSet,
    time::timeout,
};

use super::{
    Figure,
    server::{CHUNK, ECHO, SINK, SOURCE},
};
use crate::netns::Netns;

/// Connections at a time that are opened, or that carry requests.
const AT_A_TIME: usize = 32;
/// Bytes of a request and of its answer.
const REQUEST: usize = 64;
/// Longer than anything takes; a slice in which something takes longer fails.
const LIMIT: Duration = Duration::from_secs(20);

/// A client.
#[derive(Debug)]
pub struct Load {
    netns: Netns,
    runtime: Runtime,
    slice: Duration,
}

impl Load {
    /// A client in a namespace.
    pub fn new(netns: &Netns, slice: Duration) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { netns: netns.clone(), runtime, slice })
    }

    /// One slice of the load that gives `figure`, and what else it gives.
    pub fn run(&self, figure: Figure, to: SocketAddr) -> Result<Vec<(Figure, f64)>> {
        self.netns.run(|| {
            self.runtime.block_on(async { timeout(LIMIT + self.slice, self.slice_of(figure, to)).await })
        })??
    }

    async fn slice_of(&self, figure: Figure, to: SocketAddr) -> Result<Vec<(Figure, f64)>> {
        Ok(match figure {
            Figure::Connections => vec![(figure, self.rate(to, connections).await?)],
            Figure::Requests => vec![(figure, self.rate(to, requests).await?)],
            Figure::Upload => vec![(figure, self.upload(to).await?)],
            Figure::Download => vec![(figure, self.download(to).await?)],
            Figure::P50 | Figure::P99 => self.latencies(to).await?,
        })
    }

    /// What all clients at a time have done in the slice, a second.
    async fn rate<F>(&self, to: SocketAddr, client: fn(SocketAddr, Instant) -> F) -> Result<f64>
    where
        F: Future<Output = io::Result<u64>> + Send + 'static,
    {
        let started = Instant::now();
        let mut clients = JoinSet::new();
        for _ in 0..AT_A_TIME {
            clients.spawn(client(to, started + self.slice));
        }
        let mut done = 0;
        while let Some(count) = clients.join_next().await {
            done += count?.context("a connection failed")?;
        }
        Ok(done as f64 / started.elapsed().as_secs_f64())
    }

    async fn upload(&self, to: SocketAddr) -> Result<f64> {
        let mut connection = open(to, SINK).await?;
        let data = vec![7; CHUNK];
        let started = Instant::now();
        let mut sent = 0;
        while started.elapsed() < self.slice {
            connection.write_all(&data).await?;
            sent += CHUNK as u64;
        }
        connection.shutdown().await?;
        let arrived = connection.read_u64().await?;
        ensure!(arrived == sent, "{arrived} of {sent} bytes arrived");
        Ok(gigabits(arrived, started))
    }

    async fn download(&self, to: SocketAddr) -> Result<f64> {
        let mut connection = open(to, SOURCE).await?;
        let mut buffer = vec![0; CHUNK];
        let started = Instant::now();
        let mut arrived = 0;
        while started.elapsed() < self.slice {
            let n = connection.read(&mut buffer).await?;
            ensure!(n > 0, "the backend stopped");
            arrived += n as u64;
        }
        reset(&connection)?;
        Ok(gigabits(arrived, started))
    }

    /// One request at a time on one connection.
    async fn latencies(&self, to: SocketAddr) -> Result<Vec<(Figure, f64)>> {
        let mut connection = open(to, ECHO).await?;
        let mut times = Vec::new();
        let started = Instant::now();
        while started.elapsed() < self.slice {
            let sent = Instant::now();
            request(&mut connection).await?;
            times.push(sent.elapsed().as_secs_f64() * 1e6);
        }
        times.sort_by(f64::total_cmp);
        let at = |part: f64| times.get((times.len() as f64 * part) as usize).copied();
        let both = at(0.50).zip(at(0.99)).context("no request")?;
        Ok(vec![(Figure::P50, both.0), (Figure::P99, both.1)])
    }
}

async fn open(to: SocketAddr, what: u8) -> io::Result<TcpStream> {
    let mut connection = TcpStream::connect(to).await?;
    connection.set_nodelay(true)?;
    connection.write_u8(what).await?;
    Ok(connection)
}

async fn request(connection: &mut TcpStream) -> io::Result<()> {
    let mut buffer = [7; REQUEST];
    connection.write_all(&buffer).await?;
    connection.read_exact(&mut buffer).await.map(drop)
}

/// Opens connections one after the other, with a request each, until `end`.
async fn connections(to: SocketAddr, end: Instant) -> io::Result<u64> {
    let mut done = 0;
    while Instant::now() < end {
        let mut connection = TcpStream::connect(to).await?;
        connection.set_nodelay(true)?;
        let mut buffer = [ECHO; REQUEST];
        connection.write_all(&buffer).await?;
        connection.read_exact(&mut buffer[1..]).await?;
        reset(&connection)?;
        done += 1;
    }
    Ok(done)
}

async fn requests(to: SocketAddr, end: Instant) -> io::Result<u64> {
    let mut connection = open(to, ECHO).await?;
    let mut done = 0;
    while Instant::now() < end {
        request(&mut connection).await?;
        done += 1;
    }
    Ok(done)
}

/// Has the connection end with a RST, which leaves no port of the client's in TIME_WAIT.
fn reset(connection: &TcpStream) -> io::Result<()> {
    socket2::SockRef::from(connection).set_linger(Some(Duration::ZERO))
}

fn gigabits(bytes: u64, since: Instant) -> f64 {
    bytes as f64 * 8.0 / 1e9 / since.elapsed().as_secs_f64()
}
