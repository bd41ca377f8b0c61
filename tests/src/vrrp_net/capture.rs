//! A recording of what arrives in namespace `b`, read by tshark: an independent reader of what viplb sends.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::UdpSocket,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Net, TAKEOVER, output, wait_until};

/// IPv4's checksum is not looked at by default.
const JUDGE: [&str; 2] = ["-o", "ip.check_checksum:TRUE"];

/// A running tcpdump.
#[derive(Debug)]
pub struct Capture {
    child: Child,
    file: PathBuf,
    /// Namespace `a`, whose frames are recorded.
    sender: String,
}

/// The last frame of a recording has this in it.
const MARK: &[u8] = b"that was all of this recording";

impl Capture {
    /// Records until [`finish`](Self::finish); returns when it has begun.
    pub fn start(net: &Net) -> Self {
        let file = net.dir.join("capture.pcap");
        let mut child = Command::new("ip")
            .args(["netns", "exec", &net.b, "tcpdump", "-i", "eth0", "-U", "--immediate-mode", "-Z", "root"])
            .arg("-w")
            .arg(&file)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tcpdump starts");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let begun = lines.any(|line| line.unwrap().contains("listening on"));
        assert!(begun, "tcpdump ended at once");
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, file, sender: net.a.clone() }
    }

    /// Ends the recording, once everything sent so far is in it: a mark is sent behind it, and waited for.
    pub fn finish(mut self) -> Recording {
        let namespace = fs::File::open(format!("/run/netns/{}", self.sender)).unwrap();
        let mark = move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.send_to(MARK, "172.18.0.8:9").unwrap();
        };
        std::thread::spawn(mark).join().unwrap();
        let marked = || fs::read(&self.file).is_ok_and(|bytes| bytes.windows(MARK.len()).any(|w| w == MARK));
        wait_until("the end of the recording", TAKEOVER, marked);
        self.end();
        Recording { file: self.file.display().to_string() }
    }

    fn end(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT).unwrap();
            self.child.wait().unwrap();
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end();
    }
}

/// What was recorded.
#[derive(Debug)]
pub struct Recording {
    file: String,
}

impl Recording {
    /// Of each frame that tshark's `filter` takes, a line of `fields`, separated by spaces.
    pub fn read(&self, filter: &str, fields: &[&str]) -> Vec<String> {
        let mut args = vec!["-n", "-r", &self.file, "-Y", filter, "-T", "fields", "-E", "separator= "];
        args.extend(JUDGE);
        args.extend(fields.iter().flat_map(|field| ["-e", *field]));
        output("tshark", &args).lines().map(str::to_owned).collect()
    }
}
