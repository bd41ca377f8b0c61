//! A backend of the bench of survivors: it answers each request with the number of requests that the connection has carried, so
//! that a client notices an answer that is another connection's, or comes from a server that has not seen the beginning.

use std::{io, net::SocketAddr};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::bench::flood::sockets::{READY, runtime};

/// Length of a request and of its answer: the connection's own word, and the number of the request.
pub const LENGTH: usize = 16;
const BACKLOG: u32 = 65_535;

/// Serves until it is ended.
pub fn serve(at: SocketAddr) -> Result<()> {
    runtime()?.block_on(async {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(at).with_context(|| format!("the backend cannot have {at}"))?;
        let listener = socket.listen(BACKLOG)?;
        println!("{READY}");
        loop {
            if let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(answer(connection));
            }
        }
    })
}

async fn answer(mut connection: TcpStream) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut request = [0; LENGTH];
    for number in 1_u64.. {
        connection.read_exact(&mut request).await?;
        request[8..].copy_from_slice(&number.to_be_bytes());
        connection.write_all(&request).await?;
    }
    Ok(())
}
