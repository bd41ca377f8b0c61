//! A backend of `bench change`, in a process of its own: sends back what comes, on connections and as datagrams.

use std::{io, net::SocketAddr};

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream, UdpSocket},
};

use crate::bench::flood::sockets::{READY, runtime};

const BACKLOG: u32 = 4096;
/// Room for datagrams while this process does not get a processor, bytes: a second of them.
pub const ROOM: usize = 8 << 20;

/// Serves both on one port until it is ended.
pub fn serve(at: SocketAddr) -> Result<()> {
    runtime()?.block_on(async {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(at).with_context(|| format!("the backend cannot have {at}"))?;
        let listener = socket.listen(BACKLOG)?;
        let datagrams = UdpSocket::bind(at).await?;
        setsockopt(&datagrams, RcvBufForce, &ROOM)?;
        println!("{READY}");
        tokio::spawn(send_back(datagrams));
        loop {
            if let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(echo(connection));
            }
        }
    })
}

async fn send_back(socket: UdpSocket) {
    let mut buffer = [0; 2048];
    loop {
        // What a send has failed of before is told at the next receive.
        if let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(&buffer[..length], from).await;
        }
    }
}

async fn echo(mut connection: TcpStream) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut buffer = [0; 4096];
    loop {
        match connection.read(&mut buffer).await? {
            0 => return Ok(()),
            n => connection.write_all(&buffer[..n]).await?,
        }
    }
}
