//! A stand-in for a MySQL server: greeting, login, ping and the few statements that lab and tests send.
//!
//! Used where MariaDB cannot be had, and in packet tests. Its nodes "replicate" through one append-only file of
//! row keys, so that every node counts the same rows. It knows accounts but checks no password, keeps no schema,
//! and answers anything it does not know with error 1064: it must never pass for a database.

mod answer;
mod store;
mod wire;

use std::{
    io::{self, BufReader, BufWriter, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixListener,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

pub use self::store::Store;
use self::{
    answer::Answer,
    wire::{Packets, Refusal},
};
use crate::{
    console::Console,
    lab::{DB_PORT, Lab, Node},
    proc::{self, MARK},
    sql::{self, APP, HAPROXY, MONITOR, ROOT, Server},
};

const READY_LIMIT: Duration = Duration::from_secs(10);

/// Starts the stand-in of a database node as a process of its own and waits until it answers.
pub fn start_node(lab: &Lab, db: &Node, console: &Console) -> Result<()> {
    let dir = lab.data_dir(db);
    std::fs::create_dir_all(&dir)?;
    let log_file = dir.join("standin.log");
    let log = std::fs::File::create(&log_file)?;
    let mut command = Command::new(program()?);
    command.arg("standin").args(["--listen", &format!("{}:{DB_PORT}", db.addr)]);
    command.arg("--socket").arg(lab.db_socket(db));
    command.arg("--rows").arg(crate::lab::data_dir(&lab.plan().prefix).join("rows"));
    command.env(MARK, &db.name).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut child = lab.netns(db).spawn(command)?;
    let server = Server::Socket(lab.db_socket(db));
    let ready = console.wait_for(READY_LIMIT, || match child.try_wait()? {
        Some(status) => {
            bail!("the stand-in of {} ended ({status}): {}", db.name, proc::tail(&log_file, 4))
        }
        None => Ok(sql::query(&server, ROOT, "SELECT 1").is_ok()),
    });
    proc::reap(child);
    if !ready? {
        bail!("the stand-in of {} does not answer: {}", db.name, proc::tail(&log_file, 4));
    }
    console.say(format!("{}: stand-in runs", db.name));
    Ok(())
}

/// The lab's own binary: this program, or the one beside it when a test asks.
fn program() -> Result<std::path::PathBuf> {
    let exe = std::env::current_exe()?;
    let beside = exe.ancestors().skip(1).take(2).map(|dir| dir.join("viplb-lab"));
    beside.into_iter().find(|file| file.is_file()).context("no `viplb-lab` beside this program")
}

/// Serves on an address and, if given, a Unix socket, until the process ends.
pub fn serve_forever(listen: SocketAddr, socket: Option<&Path>, store: Store) -> Result<()> {
    let store = Arc::new(store);
    let tcp = TcpListener::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
    if let Some(path) = socket {
        let _ = std::fs::remove_file(path);
        let unix =
            UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
        let store = Arc::clone(&store);
        thread::spawn(move || {
            for stream in unix.incoming().flatten() {
                let store = Arc::clone(&store);
                thread::spawn(move || drop(session(&stream, &stream, &store)));
            }
        });
    }
    accept(&tcp, &store);
    Ok(())
}

/// Serves a listener that was bound elsewhere, for instance inside a namespace, on threads of this process.
/// Ends with the process.
pub fn serve(listener: TcpListener, store: Arc<Store>) {
    thread::spawn(move || accept(&listener, &store));
}

fn accept(listener: &TcpListener, store: &Arc<Store>) {
    for stream in listener.incoming().flatten() {
        let store = Arc::clone(store);
        thread::spawn(move || tcp_session(&stream, &store));
    }
}

fn tcp_session(stream: &TcpStream, store: &Store) {
    // A statement's answer may end in a short segment that must not wait for an acknowledgement.
    let _ = stream.set_nodelay(true);
    drop(session(stream, stream, store));
}

/// One connection from greeting to quit; an error is the peer's going away.
fn session(reader: impl Read, writer: impl Write, store: &Store) -> io::Result<()> {
    let mut peer = Packets::new(BufReader::new(reader), BufWriter::new(writer));
    peer.greet()?;
    let user = wire::user_of(&peer.read()?);
    if ![APP, MONITOR, HAPROXY, ROOT].iter().any(|known| known.user.as_bytes() == user) {
        let user = String::from_utf8_lossy(&user).into_owned();
        return peer.refuse(&Refusal::new(1045, "28000", format!("Access denied for user '{user}'")));
    }
    peer.ok(0)?;
    loop {
        let command = peer.command()?;
        match command.split_first() {
            Some((0x01, _)) => return Ok(()),
            Some((0x02 | 0x0e | 0x1f, _)) => peer.ok(0)?,
            Some((0x03, text)) => match answer::answer(text, store) {
                Answer::Done(rows) => peer.ok(rows)?,
                Answer::Refused(why) => peer.refuse(&why)?,
                Answer::Rows(columns, rows) => peer.result(&columns, rows)?,
            },
            _ => peer.refuse(&Refusal::new(1047, "08S01", "Unknown command".to_owned()))?,
        }
    }
}

#[cfg(test)]
mod tests;
