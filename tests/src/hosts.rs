//! Hosts in namespaces that run whole daemons, cabled as a test says: for what neither the lab's fixed plan nor `wire`, which
//! has no daemon, can show.
//!
//! A condition that is not met in time panics: this is for tests. Everything that was made goes when it is dropped.

use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use lb_userspace::{api::snapshot::Snapshot, datapath::pins::Pins};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    books::{self, Books},
    daemon,
    down::Bpffs,
    expect::wait_until,
    netns::Netns,
    proc,
};

/// Long for what these hosts do, short for a reader of failures.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Lets this process have so many files open, or as many as it may.
pub fn allow_files(count: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the calls read and write this structure alone.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        limit.rlim_cur = count.min(limit.rlim_max);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
    }
}

/// The hosts of a test.
pub struct Hosts {
    name: String,
    dir: PathBuf,
    spaces: Vec<Netns>,
    _bpffs: Bpffs,
}

impl Hosts {
    /// None yet. `None`, with the reason printed, where the test cannot run.
    ///
    /// # Panics
    ///
    /// As every function here: if the kernel refuses something.
    pub fn new(test: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("not run: network namespaces need root");
            return None;
        }
        if proc::which("ip").is_none() {
            eprintln!("not run: ip is not installed");
            return None;
        }
        let name = format!("vh{}{test}", std::process::id());
        let bpffs = Bpffs::claim(&name).expect("bpffs");
        let dir = std::env::temp_dir().join(&name);
        fs::create_dir_all(&dir).expect("a directory");
        Some(Self { name, dir, spaces: Vec::new(), _bpffs: bpffs })
    }

    /// What the names of all its nodes begin with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A new host.
    pub fn add(&mut self, host: &str) -> Netns {
        let space = Netns::create(format!("{}{host}", self.name)).expect("a namespace");
        self.spaces.push(space.clone());
        space
    }

    /// A host's namespace.
    pub fn host(&self, host: &str) -> Netns {
        Netns::named(format!("{}{host}", self.name))
    }

    /// Cables an interface of `host` with these addresses to the bridge `br0` of `switch`; both hosts are made if need be.
    pub fn plug(&mut self, host: &str, interface: &str, addresses: &[&str], switch: &str) {
        if !self.host(switch).exists() {
            self.add(switch).ip("link add br0 up type bridge").expect("a bridge");
        }
        if !self.host(host).exists() {
            self.add(host);
        }
        let (space, there) = (self.host(host), self.host(switch));
        space
            .ip(&format!("link add {interface} type veth peer name to-{host} netns {}", there.name()))
            .expect("an interface");
        for address in addresses {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            space.ip(&format!("addr add {address} dev {interface} {nodad}")).expect("an address");
        }
        space.ip(&format!("link set {interface} up")).expect("an interface");
        there.ip(&format!("link set to-{host} master br0 up")).expect("a port");
    }

    /// Writes a file that only its owner may read beside the configurations.
    pub fn secret(&self, name: &str, content: &str) {
        let mut file = fs::File::options();
        let file = file.create(true).truncate(true).write(true).mode(0o600).open(self.dir.join(name));
        file.expect("a file").write_all(content.as_bytes()).expect("a file");
    }

    /// Starts viplb on a host and waits until it answers. `config` is the file without `[node] name`, which is its first line.
    pub fn start(&self, host: &str, config: &str) -> Daemon {
        self.start_with_room(host, 4096, config)
    }

    /// Likewise with room for so many flows.
    pub fn start_with_room(&self, host: &str, flows: u32, config: &str) -> Daemon {
        let mut daemon = self.start_in_traffic(host, flows, config);
        let interfaces: Vec<_> = daemon.status().interfaces.into_iter().map(|i| i.name).collect();
        let interfaces: Vec<_> = interfaces.iter().map(String::as_str).collect();
        let accounted = books::of_pins(&daemon.node).expect("its maps");
        daemon.books = Books::open(&self.host(host), &interfaces, accounted);
        daemon
    }

    /// Likewise while packets come and go, so that they cannot be accounted for.
    pub fn start_in_traffic(&self, host: &str, flows: u32, config: &str) -> Daemon {
        self.start_build(&daemon::binary().expect("viplb is built"), host, flows, config)
    }

    /// Likewise of this build.
    pub fn start_build(&self, program: &Path, host: &str, flows: u32, config: &str) -> Daemon {
        let node = format!("{}{host}", self.name);
        let file = self.configure(host, flows, config);
        let log = self.dir.join(format!("{host}.log"));
        let out = fs::File::options().create(true).append(true).open(&log).expect("a log");
        let mut command = Command::new(program);
        command.arg("run").arg("-c").arg(&file).stdin(Stdio::null());
        command.stdout(out.try_clone().expect("a descriptor")).stderr(out);
        let mut child = self.host(host).spawn(command).expect("a daemon");
        let socket = format!("/run/viplb/{node}.sock");
        wait_until(&format!("{node} answers"), LIMIT, || {
            if let Some(status) = child.try_wait().expect("a child") {
                panic!("{node} ended ({status}):\n{}", proc::tail(&log, 12));
            }
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        });
        Daemon { node, child: Some(child), log, books: None }
    }

    /// Writes the configuration of a host's daemon, in one step.
    pub fn configure(&self, host: &str, flows: u32, config: &str) -> PathBuf {
        let (node, file) = (format!("{}{host}", self.name), self.dir.join(format!("{host}.toml")));
        let new = self.dir.join(format!("{host}.toml.new"));
        fs::write(&new, format!("[node]\nname = \"{node}\"\nflows = {flows}\n{config}")).expect("a file");
        fs::rename(&new, &file).expect("a file");
        file
    }

    /// Runs an echo server on a host that first says its number.
    pub fn serve(&self, host: &str, at: SocketAddr, number: u8) -> Server {
        let listener = self.host(host).run(|| TcpListener::bind(at)).unwrap().expect("bind");
        let shared = listener.try_clone().expect("a descriptor");
        let busy = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&busy);
        thread::spawn(move || {
            while let Ok((stream, _)) = shared.accept() {
                let count = Arc::clone(&count);
                count.fetch_add(1, Ordering::Relaxed);
                thread::spawn(move || {
                    // A check goes as soon as it is connected, which does not matter to the server.
                    drop(echo(stream, number));
                    count.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Server { listener, busy }
    }

    /// Connects from a host.
    pub fn connect(&self, host: &str, to: SocketAddr) -> io::Result<Talk> {
        let mut stream = self.host(host).run(|| TcpStream::connect_timeout(&to, LIMIT)).unwrap()?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        let mut number = [0];
        stream.read_exact(&mut number)?;
        Ok(Talk { stream, server: number[0] })
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for space in &self.spaces {
            let _ = space.delete();
        }
        if thread::panicking() {
            eprintln!("logs are kept in {}", self.dir.display());
        } else {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

fn echo(mut stream: TcpStream, number: u8) -> io::Result<()> {
    stream.write_all(&[number])?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            n => stream.write_all(&buffer[..n])?,
        }
    }
}

/// An echo server, until it is dropped.
pub struct Server {
    listener: TcpListener,
    busy: Arc<AtomicUsize>,
}

impl Server {
    /// Until all its connections have ended.
    pub fn wait_idle(&self, limit: Duration) {
        wait_until("all connections have ended", limit, || self.busy.load(Ordering::Relaxed) == 0);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Wakes the thread that accepts.
        // SAFETY: a socket of this process.
        unsafe { libc::shutdown(std::os::fd::AsRawFd::as_raw_fd(&self.listener), libc::SHUT_RDWR) };
    }
}

/// A connection to an echo server.
pub struct Talk {
    /// The connection.
    pub stream: TcpStream,
    /// The server's number.
    pub server: u8,
}

impl Talk {
    /// Sends `length` bytes and reads them back, at the same time.
    pub fn exchange(&mut self, length: usize) -> io::Result<()> {
        let data: Vec<u8> = (0..length).map(|i| (i * 7 + i / 251) as u8).collect();
        let mut writer = self.stream.try_clone()?;
        thread::scope(|scope| {
            let sender = scope.spawn(|| writer.write_all(&data));
            let mut back = vec![0; length];
            self.stream.read_exact(&mut back)?;
            assert!(back == data, "other bytes came back");
            sender.join().expect("the sender")
        })
    }
}

/// A daemon, until it is dropped.
pub struct Daemon {
    node: String,
    child: Option<Child>,
    log: PathBuf,
    books: Option<Books>,
}

impl Daemon {
    /// Its name as a node.
    pub fn name(&self) -> &str {
        &self.node
    }

    /// What it says of itself; of its maps if it is dead.
    pub fn status(&self) -> Snapshot {
        let mut viplb = Command::new(daemon::binary().expect("viplb is built"));
        viplb.args(["-n", &self.node, "-j", "status"]);
        let out = viplb.output().expect("viplb status");
        serde_json::from_slice(&out.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out.stderr)))
    }

    /// Runs a command of viplb about it.
    pub fn viplb(&self, arguments: &[&str]) -> std::process::Output {
        let mut viplb = Command::new(daemon::binary().expect("viplb is built"));
        viplb.args(["-n", &self.node]).args(arguments);
        viplb.output().expect("viplb")
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        proc::tail(&self.log, 12)
    }

    /// How often one of its virtual routers has changed its state, as its log has it.
    pub fn changes_of(&self, router: &str) -> usize {
        let log = fs::read_to_string(&self.log).expect("a log");
        let change = format!("vrrp {router}: ");
        log.lines()
            .filter(|line| line.contains(&change) && line.contains(" → ") && !line.contains("priority"))
            .count()
    }

    /// Until one of its virtual routers is in this state.
    pub fn wait_state(&self, router: &str, state: &str) {
        let stands = || self.status().vrrp.iter().any(|v| v.name == router && v.state == state);
        wait_until(&format!("{router} of {} is {state}", self.node), LIMIT, stands);
    }

    /// Until its first router owns its addresses.
    pub fn wait_master(&self) {
        wait_until(&format!("{} is master", self.node), LIMIT, || self.status().vrrp[0].state == "Master");
    }

    /// Until so many backends of a service are up.
    pub fn wait_up(&self, service: &str, count: usize) {
        let up = || self.status().services.iter().find(|s| s.name == service).map(|s| s.up);
        wait_until(&format!("{count} of {service} up on {}", self.node), LIMIT, || up() == Some(count));
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill(Pid::from_raw(child.id() as i32), signal).expect("a signal");
    }

    /// Ends it with this signal and waits until it has.
    ///
    /// # Panics
    ///
    /// If packets came to it without getting a reason.
    pub fn end(&mut self, signal: Signal) {
        self.close_books().expect("every packet has a reason");
        self.signal(signal);
        self.child.take().expect("it runs").wait().expect("a child");
    }
}

impl Daemon {
    /// It ends by itself; waits until it has.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn ended(&mut self) {
        self.books = None;
        let status = self.child.take().expect("it runs").wait().expect("a child");
        assert!(status.success(), "{} ended ({status}):\n{}", self.node, self.log());
    }

    /// Stops for another one to go on, and is that.
    ///
    /// # Panics
    ///
    /// If either fails.
    #[must_use]
    pub fn restarted(mut self, hosts: &Hosts, host: &str, flows: u32, config: &str) -> Self {
        self.stop_for_another();
        hosts.start_in_traffic(host, flows, config)
    }

    /// Stops for another one to go on; what it leaves is the other one's.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub fn stop_for_another(&mut self) {
        // Long enough for starts on a machine that is busy.
        let out = self.viplb(&["stop", "--keep", "--within", "120"]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        self.ended();
        self.node = String::new();
    }

    fn close_books(&mut self) -> anyhow::Result<()> {
        match self.books.take().filter(|_| self.child.is_some() && !thread::panicking()) {
            Some(books) => books.balance(books::of_pins(&self.node)?),
            None => Ok(()),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let closed = self.close_books();
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if self.node.is_empty() {
            return;
        }
        // What a killed one leaves pinned.
        let _ = fs::remove_dir_all(&Pins::of(&self.node).root);
        let _ = fs::remove_file(format!("/run/viplb/{}.sock", self.node));
        for kind in ["lock", "kept", "members"] {
            let _ = fs::remove_file(format!("/run/viplb/{}.{kind}", self.node));
        }
        // Only now: a panic before would leave the daemon behind.
        closed.expect("every packet has a reason");
    }
}
