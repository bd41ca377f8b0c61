//! The connections of `bench flood`: very many at a time, on both ends.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr},
    process::{Child, ChildStdout, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::Runtime,
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};

use crate::{
    bench::scene::program,
    netns::Netns,
    packets::{Family, PORT},
};

/// Connections that are being opened, or used, at a time.
const AT_A_TIME: usize = 32;
/// For a connection to open, and for an answer: segments may be lost in a flood and are sent again after 1, 2, 4 s.
pub const LIMIT: Duration = Duration::from_secs(20);
const BACKLOG: u32 = 65_535;
/// What a process says when it is.
pub const READY: &str = "ready";
/// What is said on a connection, and comes back.
const WORDS: [u8; 8] = *b"still on";

/// A backend that sends back what comes, in a process of its own; ends when dropped.
#[derive(Debug)]
pub struct Echo {
    _child: End,
}

impl Echo {
    /// Serves an address of a namespace.
    pub fn start(netns: &Netns, addr: IpAddr) -> Result<Self> {
        let mut child = End::start(netns, &["flood-echo", &addr.to_string()])?;
        ensure!(child.line()? == READY, "a backend does not listen");
        Ok(Self { _child: child })
    }
}

/// What such a process does.
pub fn serve(addr: IpAddr) -> Result<()> {
    runtime()?.block_on(async {
        let listener = listen(SocketAddr::new(addr, PORT)).context("the backend cannot listen")?;
        println!("{READY}");
        accept(listener).await;
        Ok(())
    })
}

/// A process at one end of many connections, which is this program again. It may have as many files open as the system lets it.
#[derive(Debug)]
pub struct End {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl End {
    /// Starts it in a namespace; what it does is said by its arguments.
    pub fn start(netns: &Netns, args: &[&str]) -> Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n $(ulimit -Hn); exec \"$@\"", "sh"]).arg(program()?);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = netns.spawn(command)?;
        let out = BufReader::new(child.stdout.take().context("no output")?);
        Ok(Self { child, out })
    }

    /// The next line of what it says; empty if it is gone.
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.out.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// Tells it a line.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().context("no input")?;
        writeln!(input, "{line}").context("the process with the connections is gone")
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    socket.listen(BACKLOG)
}

async fn accept(listener: TcpListener) {
    loop {
        if let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(echo(connection));
        }
    }
}

async fn echo(mut connection: TcpStream) {
    let mut buffer = [0; WORDS.len()];
    while let Ok(n @ 1..) = connection.read(&mut buffer).await {
        if connection.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

/// Connections from one address, in a process of their own.
#[derive(Debug)]
pub struct Held {
    child: End,
}

impl Held {
    /// Begins to open `count` connections from an address of a namespace.
    pub fn start(netns: &Netns, from: IpAddr, count: u32) -> Result<Self> {
        let args = ["flood-held", &from.to_string(), &count.to_string()];
        Ok(Self { child: End::start(netns, &args)? })
    }

    /// Waits until they are open and each has carried a request.
    pub fn opened(&mut self) -> Result<()> {
        ensure!(self.child.line()? == READY, "connections did not open");
        Ok(())
    }

    /// Has a request sent on each again.
    pub fn use_again(&mut self) -> Result<()> {
        self.child.say("")
    }

    /// How many got no answer, or another one.
    pub fn lost(&mut self) -> Result<u64> {
        self.child.line()?.parse().context("no count")
    }
}

/// What such a process does.
pub fn hold(from: IpAddr, count: u32) -> Result<()> {
    runtime()?.block_on(async {
        let connections = open_all(from, count).await?;
        println!("{READY}");
        let mut line = String::new();
        io::stdin().read_line(&mut line)?;
        println!("{}", use_all(connections).await?);
        // Until the bench ends: what connections say when they end is no part of it.
        io::stdin().read_line(&mut line)?;
        Ok(())
    })
}

async fn open_all(from: IpAddr, count: u32) -> Result<Vec<TcpStream>> {
    let (turns, mut all) = (Arc::new(Semaphore::new(AT_A_TIME)), JoinSet::new());
    for _ in 0..count {
        let turn = Arc::clone(&turns).acquire_owned().await;
        all.spawn(async move {
            let connection = open(from, Family::V4.vip()).await;
            drop(turn);
            connection
        });
    }
    let mut connections = Vec::with_capacity(count as usize);
    while let Some(connection) = all.join_next().await {
        connections.push(connection?.context("a connection did not open")?);
    }
    Ok(connections)
}

/// How many give no answer, or another one. They stay open until all have been asked.
async fn use_all(connections: Vec<TcpStream>) -> Result<u64> {
    let (turns, mut all) = (Arc::new(Semaphore::new(AT_A_TIME)), JoinSet::new());
    for mut connection in connections {
        let turn = Arc::clone(&turns).acquire_owned().await;
        all.spawn(async move {
            let answered = say(&mut connection).await.is_ok();
            drop(turn);
            (answered, connection)
        });
    }
    let (mut lost, mut kept) = (0, Vec::new());
    while let Some(done) = all.join_next().await {
        let (answered, connection) = done.context("a task panicked")?;
        lost += u64::from(!answered);
        kept.push(connection);
    }
    Ok(lost)
}

/// A connection to the service's port of an address that has carried a request.
pub async fn open(from: IpAddr, to: IpAddr) -> io::Result<TcpStream> {
    let opened = timeout(LIMIT, async {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(from, 0))?;
        socket.connect(SocketAddr::new(to, PORT)).await
    });
    let mut connection = opened.await??;
    say(&mut connection).await?;
    Ok(connection)
}

async fn say(connection: &mut TcpStream) -> io::Result<()> {
    let mut answer = [0; WORDS.len()];
    connection.write_all(&WORDS).await?;
    timeout(LIMIT, connection.read_exact(&mut answer)).await??;
    if answer == WORDS { Ok(()) } else { Err(io::Error::other("another answer")) }
}

/// A runtime of the calling thread alone, whose sockets are of the namespace it is in.
pub fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")
}
