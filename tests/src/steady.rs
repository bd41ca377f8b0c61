//! Clients that go on without a pause while something is changed, and count what it costs them: requests that were not answered,
//! connections that were reset, packets that had to be sent again.
//!
//! Each request carries its number, and the answer must be the same bytes. For tests only.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{hosts::Talk, netns::Netns};

/// An answer that takes longer is a lost one.
const LIMIT: Duration = Duration::from_secs(5);
const LENGTH: usize = 64;

/// Packets that the kernel's own queues have dropped on this machine, whoever sent them: there is one for each processor, which all
/// virtual cables share.
///
/// # Panics
///
/// If the kernel does not tell.
pub fn queue_drops() -> u64 {
    let text = std::fs::read_to_string("/proc/net/softnet_stat").expect("softnet_stat");
    let dropped = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    text.lines().map(|line| dropped(line).expect("a column of drops")).sum()
}

/// What happened to the clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Toll {
    /// Answered requests.
    pub answered: u64,
    /// Connections that ended, or gave another answer.
    pub broken: u64,
    /// TCP segments that the clients' kernel sent again.
    pub resent: u64,
    /// Datagrams that were not answered.
    pub lost: u64,
    /// New connections that were not opened, or not answered.
    pub refused: u64,
    /// Packets that the machine's own queues dropped meanwhile ([`queue_drops`]).
    pub queue_drops: u64,
    /// The longest that an answer took.
    pub longest: Duration,
}

/// The clients, until they are asked for the toll.
pub struct Steady {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Toll>>,
    queue_drops: u64,
}

impl Steady {
    /// Talks go on, each in a thread of its own.
    pub fn new(talks: Vec<Talk>) -> Self {
        let mut steady = Self {
            stop: Arc::default(),
            answered: Arc::default(),
            threads: Vec::new(),
            queue_drops: queue_drops(),
        };
        for talk in talks {
            steady.spawn(move |stop, answered| talk_on(talk.stream, stop, answered));
        }
        steady
    }

    /// Datagrams from a host, one every few milliseconds, each of which an echo server answers.
    ///
    /// # Panics
    ///
    /// If there is no socket.
    pub fn with_datagrams(mut self, host: &Netns, to: SocketAddr) -> Self {
        let socket = host.run(|| UdpSocket::bind("0.0.0.0:0")).expect("the host").expect("a socket");
        socket.connect(to).expect("a way");
        self.spawn(move |stop, answered| datagrams(&socket, stop, answered));
        self
    }

    /// Datagrams from a host, each from a port of its own.
    #[must_use]
    pub fn with_new_datagrams(mut self, host: &Netns, to: SocketAddr) -> Self {
        let host = host.clone();
        self.spawn(move |stop, answered| host.run(|| new_datagrams(to, stop, answered)).expect("the host"));
        self
    }

    /// New connections from a host, one after the other, each with one request.
    pub fn with_new_connections(mut self, host: &Netns, to: SocketAddr) -> Self {
        let host = host.clone();
        self.spawn(move |stop, answered| host.run(|| new_connections(to, stop, answered)).expect("the host"));
        self
    }

    fn spawn(&mut self, client: impl FnOnce(&AtomicBool, &AtomicU64) -> Toll + Send + 'static) {
        let (stop, answered) = (Arc::clone(&self.stop), Arc::clone(&self.answered));
        self.threads.push(thread::spawn(move || client(&stop, &answered)));
    }

    /// Requests answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Ends them; what it has cost.
    ///
    /// # Panics
    ///
    /// If a client did.
    pub fn toll(self) -> Toll {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Toll::default();
        for thread in self.threads {
            let one = thread.join().expect("a client");
            all = Toll {
                answered: all.answered + one.answered,
                broken: all.broken + one.broken,
                resent: all.resent + one.resent,
                lost: all.lost + one.lost,
                refused: all.refused + one.refused,
                queue_drops: queue_drops() - self.queue_drops,
                longest: all.longest.max(one.longest),
            };
        }
        all
    }
}

impl Toll {
    /// No connection was reset or refused, and no packet lost but what the machine's own queues dropped.
    ///
    /// # Panics
    ///
    /// If it was otherwise.
    #[track_caller]
    pub fn is_nothing(&self) {
        println!("{self:?}");
        assert_eq!((self.broken, self.refused), (0, 0), "{self:?}");
        assert!(self.lost + self.resent <= self.queue_drops, "{self:?}");
    }
}

fn request(number: u64) -> [u8; LENGTH] {
    let mut bytes = [7; LENGTH];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn talk_on(mut stream: TcpStream, stop: &AtomicBool, answered: &AtomicU64) -> Toll {
    let mut toll = Toll::default();
    let _ = stream.set_nodelay(true);
    let _ = stream.set_read_timeout(Some(LIMIT));
    let before = resent(&stream);
    while !stop.load(Ordering::Relaxed) {
        let (sent, asked) = (request(toll.answered), Instant::now());
        let mut back = [0; LENGTH];
        let done = stream.write_all(&sent).and_then(|()| stream.read_exact(&mut back));
        if done.is_err() || back != sent {
            toll.broken += 1;
            break;
        }
        toll.answered += 1;
        answered.fetch_add(1, Ordering::Relaxed);
        toll.longest = toll.longest.max(asked.elapsed());
        thread::sleep(Duration::from_micros(500));
    }
    toll.resent = resent(&stream) - before;
    toll
}

fn datagrams(socket: &UdpSocket, stop: &AtomicBool, answered: &AtomicU64) -> Toll {
    let mut toll = Toll::default();
    let _ = socket.set_read_timeout(Some(LIMIT));
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let (sent, asked) = (request(number), Instant::now());
        let mut back = [0; LENGTH];
        number += 1;
        match socket.send(&sent).and_then(|_| socket.recv(&mut back)) {
            Ok(_) if back == sent => {
                toll.answered += 1;
                answered.fetch_add(1, Ordering::Relaxed);
                toll.longest = toll.longest.max(asked.elapsed());
            }
            _ => toll.lost += 1,
        }
        thread::sleep(Duration::from_millis(1));
    }
    toll
}

fn new_datagrams(to: SocketAddr, stop: &AtomicBool, answered: &AtomicU64) -> Toll {
    let mut toll = Toll::default();
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        let once = || -> std::io::Result<bool> {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(LIMIT))?;
            let (sent, mut back) = (request(toll.answered), [0; LENGTH]);
            socket.send(&sent)?;
            socket.recv(&mut back)?;
            Ok(back == sent)
        };
        if once().unwrap_or(false) {
            toll.answered += 1;
            answered.fetch_add(1, Ordering::Relaxed);
            toll.longest = toll.longest.max(asked.elapsed());
        } else {
            toll.lost += 1;
        }
        thread::sleep(Duration::from_millis(5));
    }
    toll
}

fn new_connections(to: SocketAddr, stop: &AtomicBool, answered: &AtomicU64) -> Toll {
    let mut toll = Toll::default();
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        let once = || -> std::io::Result<u64> {
            let mut stream = TcpStream::connect_timeout(&to, LIMIT)?;
            stream.set_read_timeout(Some(LIMIT))?;
            let mut number = [0];
            stream.read_exact(&mut number)?;
            Ok(resent(&stream))
        };
        match once() {
            Ok(again) => {
                toll.answered += 1;
                toll.resent += again;
                answered.fetch_add(1, Ordering::Relaxed);
                toll.longest = toll.longest.max(asked.elapsed());
            }
            Err(_) => toll.refused += 1,
        }
        thread::sleep(Duration::from_millis(5));
    }
    toll
}

/// Segments that the kernel has sent again on this connection.
fn resent(stream: &TcpStream) -> u64 {
    // SAFETY: all zeroes are a value of this plain structure.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the option fills a structure of this size at most.
    let done = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if done == 0 { info.tcpi_total_retrans.into() } else { 0 }
}

/// Answers datagrams of a host until the test ends.
///
/// # Panics
///
/// If the address cannot be bound.
pub fn echo_datagrams(host: &Netns, at: SocketAddr) {
    let socket = host.run(|| UdpSocket::bind(at)).expect("the host").expect("a socket");
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
}
