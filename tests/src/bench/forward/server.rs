//! The backend of `bench forward`: one thread, one port; what a connection does its first byte says.

use std::{net::SocketAddr, thread::JoinHandle};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::oneshot,
};

use crate::netns::Netns;

/// Sends back what comes.
pub const ECHO: u8 = b'e';
/// Takes what comes; at its end says how much that was, in eight bytes.
pub const SINK: u8 = b's';
/// Sends without end.
pub const SOURCE: u8 = b'g';
/// Bytes handled at a time in bulk.
pub const CHUNK: usize = 256 << 10;
const BACKLOG: u32 = 4096;

/// The server; ends when dropped.
#[derive(Debug)]
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves an address of a namespace.
    pub fn start(netns: &Netns, at: SocketAddr) -> Result<Self> {
        netns.sysctl("net/core/somaxconn", &BACKLOG.to_string())?;
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = netns.run(|| {
            let _inside = runtime.enter();
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind(at)?;
            socket.listen(BACKLOG)
        })?;
        let listener = listener.with_context(|| format!("cannot listen on {at}"))?;
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(&listener) => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        drop(self.thread.take().map(JoinHandle::join));
    }
}

async fn accept(listener: &TcpListener) {
    loop {
        // What can fail for one connection says nothing about the next.
        if let Ok((connection, _)) = listener.accept().await {
            let _ = connection.set_nodelay(true);
            tokio::spawn(serve(connection));
        }
    }
}

async fn serve(mut connection: TcpStream) {
    let Ok(what) = connection.read_u8().await else { return };
    // Its peer going away is how each of these ends.
    let _ = match what {
        ECHO => echo(&mut connection).await,
        SINK => sink(&mut connection).await,
        _ => source(&mut connection).await,
    };
}

async fn echo(connection: &mut TcpStream) -> std::io::Result<()> {
    let mut buffer = [0; 256];
    loop {
        match connection.read(&mut buffer).await? {
            0 => return Ok(()),
            n => connection.write_all(&buffer[..n]).await?,
        }
    }
}

async fn sink(connection: &mut TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut total = 0u64;
    loop {
        match connection.read(&mut buffer).await? {
            0 => return connection.write_u64(total).await,
            n => total += n as u64,
        }
    }
}

async fn source(connection: &mut TcpStream) -> std::io::Result<()> {
    let buffer = vec![7; CHUNK];
    loop {
        connection.write_all(&buffer).await?;
    }
}
