//! A MySQL server for tests of the checks: greets, answers a login, a ping and a quit, or misbehaves as told.
//!
//! It listens on 127.0.0.1, one script for every connection, and keeps a record of what clients did.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};
use tokio_util::task::AbortOnDropHandle;

/// How the server treats a connection.
#[derive(Debug, Clone)]
pub enum Script {
    /// As a healthy server does.
    Healthy,
    /// Says nothing, as a frozen one.
    Silent,
    /// Closes at once.
    Close,
    /// These bytes instead of a greeting, then silence.
    Raw(Vec<u8>),
    /// An endless greeting.
    Endless,
    /// A good greeting, a byte at a time.
    Slow,
    /// An error instead of the greeting.
    ErrorFirst(u16, &'static str),
    /// An error in answer to the login.
    ErrorAtLogin(u16, &'static str),
    /// An error in answer to the ping.
    ErrorAtPing(u16, &'static str),
    /// Logs in, then says nothing.
    SilentAtPing,
    /// Answers SHOW statements with those of these rows that they name.
    State(&'static [(&'static str, &'static str)]),
    /// The same for so many statements; then the connection ends.
    StateUntil(&'static [(&'static str, &'static str)], u32),
    /// The same, and then bytes of every answer changed, sequence numbers too, or the rest of it left out; which ones
    /// follows from the number.
    Hostile(&'static [(&'static str, &'static str)], u64),
    /// Rows without end in answer to a statement.
    EndlessRows,
    /// Asks for full caching_sha2 authentication and sends rubbish for its public key.
    BrokenKey,
}

/// What a client did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Sent its login.
    Login,
    /// Sent this command byte.
    Command(u8),
    /// Closed in order.
    Fin,
    /// Reset the connection.
    Reset,
}

/// `COM_QUIT`.
pub const QUIT: Seen = Seen::Command(0x01);
/// `COM_QUERY`.
pub const QUERY: Seen = Seen::Command(0x03);
/// `COM_PING`.
pub const PING: Seen = Seen::Command(0x0e);

/// The running server; stops when dropped.
pub struct Server {
    /// Where it listens.
    pub addr: SocketAddr,
    script: Arc<Mutex<Script>>,
    seen: UnboundedReceiver<Seen>,
    _task: AbortOnDropHandle<()>,
}

impl Server {
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("127.0.0.1 can be bound");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let script = Arc::new(Mutex::new(script));
        let (record, seen) = unbounded_channel();
        let task = tokio::spawn(serve(listener, Arc::clone(&script), record));
        Self { addr, script, seen, _task: AbortOnDropHandle::new(task) }
    }

    /// Treats later connections like this.
    pub fn become_(&self, script: Script) {
        *self.script.lock().unwrap() = script;
    }

    /// The next thing a client does.
    pub async fn next(&mut self) -> Seen {
        self.seen.recv().await.expect("the server runs as long as `self`")
    }
}

async fn serve(listener: TcpListener, script: Arc<Mutex<Script>>, record: UnboundedSender<Seen>) {
    // Kept here so that they end with the server, and none before.
    let mut connections = Vec::new();
    while let Ok((stream, _)) = listener.accept().await {
        let script = script.lock().unwrap().clone();
        let record = record.clone();
        connections.push(AbortOnDropHandle::new(tokio::spawn(async move {
            let noise = if let Script::Hostile(_, seed) = script { Some(seed | 1) } else { None };
            let mut client = Client { stream, record, noise };
            if let Err(e) = client.talk(script).await {
                let seen = if e.kind() == io::ErrorKind::ConnectionReset { Seen::Reset } else { Seen::Fin };
                let _ = client.record.send(seen);
            }
        })));
    }
}

struct Client {
    stream: TcpStream,
    record: UnboundedSender<Seen>,
    /// State of a generator, for a hostile server.
    noise: Option<u64>,
}

impl Client {
    async fn talk(&mut self, script: Script) -> io::Result<()> {
        match script {
            Script::Silent => return self.wait_for_end().await,
            Script::Close => return Ok(()),
            Script::Raw(bytes) => {
                self.stream.write_all(&bytes).await?;
                return self.wait_for_end().await;
            }
            Script::Endless => return self.endless().await,
            Script::Slow => {
                for byte in packet(0, &greeting("mysql_native_password")) {
                    self.stream.write_all(&[byte]).await?;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            Script::ErrorFirst(code, message) => {
                self.send(0, &error(code, message, "")).await?;
                return self.wait_for_end().await;
            }
            Script::BrokenKey => return self.broken_key().await,
            _ => self.send(0, &greeting("mysql_native_password")).await?,
        }
        self.receive().await?;
        let _ = self.record.send(Seen::Login);
        if let Script::ErrorAtLogin(code, message) = script {
            return self.send(2, &error(code, message, "#28000")).await;
        }
        self.send(2, OK).await?;
        self.commands(script).await
    }

    async fn commands(&mut self, script: Script) -> io::Result<()> {
        let mut statements = 0;
        loop {
            let packet = self.receive().await?;
            let command = packet[0];
            let _ = self.record.send(Seen::Command(command));
            match script {
                Script::StateUntil(_, most) if statements == most => return Ok(()),
                Script::State(rows) | Script::StateUntil(rows, _) | Script::Hostile(rows, _)
                    if QUERY == Seen::Command(command) =>
                {
                    statements += 1;
                    let statement = String::from_utf8_lossy(&packet[1..]).into_owned();
                    let named = |name: &str| statement.contains(&format!("'{name}'"));
                    self.rows(rows.iter().filter(|(name, _)| named(name)).copied()).await?;
                }
                Script::EndlessRows if QUERY == Seen::Command(command) => {
                    self.rows(std::iter::repeat(("wsrep_ready", "ON"))).await?;
                }
                Script::SilentAtPing => return self.wait_for_end().await,
                Script::ErrorAtPing(code, message) => self.send(1, &error(code, message, "#08S01")).await?,
                _ if QUIT == Seen::Command(command) => return Ok(()),
                _ => self.send(1, OK).await?,
            }
        }
    }

    /// A result set of two columns in the text protocol.
    async fn rows(&mut self, rows: impl Iterator<Item = (&'static str, &'static str)>) -> io::Result<()> {
        self.send(1, &[2]).await?;
        self.send(2, &column("Variable_name")).await?;
        self.send(3, &column("Value")).await?;
        self.send(4, EOF).await?;
        let mut sequence = 5u8;
        for (name, value) in rows {
            let cells = [name, value].map(|c| [&[c.len() as u8], c.as_bytes()].concat()).concat();
            self.send(sequence, &cells).await?;
            sequence = sequence.wrapping_add(1);
        }
        self.send(sequence, EOF).await
    }

    async fn endless(&mut self) -> io::Result<()> {
        // A packet of the greatest length, then the next of the same: a greeting that never ends.
        let mut sequence = 0u8;
        loop {
            self.stream.write_all(&[0xff, 0xff, 0xff, sequence]).await?;
            let chunk = vec![b'x'; 0xffff];
            for _ in 0..257 {
                self.stream.write_all(&chunk).await?;
            }
            sequence = sequence.wrapping_add(1);
        }
    }

    async fn broken_key(&mut self) -> io::Result<()> {
        self.send(0, &greeting("caching_sha2_password")).await?;
        self.receive().await?;
        let _ = self.record.send(Seen::Login);
        self.send(2, &[0x01, 0x04]).await?;
        self.receive().await?;
        self.send(4, b"\x01-----BEGIN PUBLIC KEY-----\n!!!\n-----END PUBLIC KEY-----\n").await?;
        self.wait_for_end().await
    }

    async fn send(&mut self, sequence: u8, payload: &[u8]) -> io::Result<()> {
        let mut packet = packet(sequence, payload);
        if let Some(noise) = &mut self.noise {
            disturb(&mut packet, noise);
        }
        self.stream.write_all(&packet).await
    }

    async fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut header = [0; 4];
        self.stream.read_exact(&mut header).await?;
        let len = usize::from(header[0]) | usize::from(header[1]) << 8 | usize::from(header[2]) << 16;
        let mut payload = vec![0; len];
        self.stream.read_exact(&mut payload).await?;
        Ok(payload)
    }

    /// Reads on until the client is gone, which comes out as the error.
    async fn wait_for_end(&mut self) -> io::Result<()> {
        let mut rest = [0; 256];
        while self.stream.read(&mut rest).await? > 0 {}
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// Changes some bytes, or cuts the packet short; most packets stay whole, so that every stage is reached.
fn disturb(packet: &mut Vec<u8>, noise: &mut u64) {
    let mut below = |n: usize| {
        // xorshift64
        *noise ^= *noise << 13;
        *noise ^= *noise >> 7;
        *noise ^= *noise << 17;
        (*noise >> 33) as usize % n
    };
    match below(40) {
        0 => packet.truncate(below(packet.len())),
        1 | 2 => {
            for _ in 0..=below(3) {
                let at = below(packet.len());
                packet[at] = below(256) as u8;
            }
        }
        _ => {}
    }
}

fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_le_bytes()[..3].to_vec();
    bytes.push(sequence);
    bytes.extend_from_slice(payload);
    bytes
}

/// Protocol 10, as MySQL 5.7 sends it.
fn greeting(plugin: &str) -> Vec<u8> {
    let mut g = b"\x0a5.7.44-test\0".to_vec();
    g.extend_from_slice(&7u32.to_le_bytes());
    g.extend_from_slice(b"abcdefgh\0");
    let capabilities: u32 = 0x0000_0001 | 0x0000_0200 | 0x0000_8000 | 0x0008_0000;
    g.extend_from_slice(&capabilities.to_le_bytes()[..2]);
    g.extend_from_slice(&[0x21, 0x02, 0x00]);
    g.extend_from_slice(&capabilities.to_le_bytes()[2..]);
    g.push(21);
    g.extend_from_slice(&[0; 10]);
    g.extend_from_slice(b"ijklmnopqrst\0");
    g.extend_from_slice(plugin.as_bytes());
    g.push(0);
    g
}

fn error(code: u16, message: &str, state: &str) -> Vec<u8> {
    let mut e = vec![0xff];
    e.extend_from_slice(&code.to_le_bytes());
    e.extend_from_slice(state.as_bytes());
    e.extend_from_slice(message.as_bytes());
    e
}

const OK: &[u8] = &[0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00];

/// A column definition: a string of up to 255 bytes in utf8.
fn column(name: &str) -> Vec<u8> {
    let mut c = b"\x03def\0\0\0".to_vec();
    c.push(name.len() as u8);
    c.extend_from_slice(name.as_bytes());
    c.extend_from_slice(&[0, 0x0c, 0x21, 0, 0xff, 0, 0, 0, 0xfd, 0, 0, 0, 0, 0]);
    c
}

const EOF: &[u8] = &[0xfe, 0, 0, 0x02, 0];
