//! The `agent` check: HAProxy's agent-check, a line of words that the server says of itself.
//!
//! `task` calls [`Checker::check`]: connect, send if configured, read a line. [`Said`] is the pure part: what the
//! words of one line change. What a line leaves out stays as an earlier one had it, so that a drained server that
//! only reports its weight remains drained until it says `ready`.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use super::{
    Failure, Outcome, Step,
    failure::printable,
    tcp::{self, within},
};
use crate::config::model::AgentCheck;

/// What the server has said of itself so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Said {
    /// `drain` or `maint`, until `ready`; the line's words.
    wish: Option<Failure>,
    /// `down`, `failed`, `stopped` or `fail`, until `up`; the line's words.
    down: Option<Failure>,
    /// `75%`.
    share: Option<u8>,
}

impl Said {
    /// Takes in a line. An error for one without any known word.
    pub fn take(&mut self, line: &str) -> Result<(), Failure> {
        // What follows `#` is a remark for people.
        let (words, _) = line.split_once('#').unwrap_or((line, ""));
        let shown = || printable(&format!("agent: {}", line.trim()));
        let mut known = false;
        for word in words.split([' ', '\t', ',', '\r', '\n']).filter(|w| !w.is_empty()) {
            match word.to_ascii_lowercase().as_str() {
                "ready" => self.wish = None,
                "drain" => self.wish = Some(Failure::Drain(shown())),
                "maint" => self.wish = Some(Failure::Maint(shown())),
                "up" => self.down = None,
                "down" | "failed" | "stopped" | "fail" => self.down = Some(Failure::Said(shown())),
                // A limit of connections is not viplb's to keep.
                word if word.starts_with("maxconn:") => {}
                word => match word.strip_suffix('%').and_then(|n| n.parse::<u16>().ok()) {
                    Some(percent) => self.share = Some(percent.min(100) as u8),
                    None => continue,
                },
            }
            known = true;
        }
        if known { Ok(()) } else { Err(Failure::Protocol(shown())) }
    }

    /// Maintenance comes before down, and down before drain.
    fn result(&self) -> Result<(), Failure> {
        match (&self.wish, &self.down) {
            (Some(maint @ Failure::Maint(_)), _) => Err(maint.clone()),
            (_, Some(down)) => Err(down.clone()),
            (Some(drain), None) => Err(drain.clone()),
            (None, None) => Ok(()),
        }
    }
}

/// Checks one backend.
#[derive(Debug, Clone)]
pub struct Checker {
    addr: SocketAddr,
    send: Vec<u8>,
    limit: Duration,
    said: Said,
}

impl Checker {
    /// A checker of the agent at `addr`.
    pub fn new(addr: SocketAddr, check: &AgentCheck, limit: Duration) -> Self {
        Self { addr, send: check.send.clone(), limit, said: Said::default() }
    }

    /// One check.
    pub async fn check(&mut self) -> Outcome {
        let start = Instant::now();
        let result = match self.line(start + self.limit).await {
            Ok(line) => self.said.take(&line).and_then(|()| self.said.result()),
            Err(failure) => Err(failure),
        };
        Outcome { share: self.said.share, ..result.map(|()| start.elapsed()).into() }
    }

    async fn line(&self, deadline: Instant) -> Result<String, Failure> {
        let mut stream = tcp::connect(self.addr, deadline, self.limit).await?;
        let (step, limit) = (Step::Answer, self.limit);
        within(deadline, step, limit, stream.write_all(&self.send)).await?;
        let mut line = Vec::new();
        let mut chunk = [0; 256];
        // The line ends with a newline or with the connection.
        while !line.contains(&b'\n') && line.len() < MOST_BYTES {
            match within(deadline, step, limit, stream.read(&mut chunk)).await? {
                0 => break,
                n => line.extend_from_slice(&chunk[..n]),
            }
        }
        let text = String::from_utf8_lossy(&line);
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }
}

/// A longer line is no agent's.
const MOST_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// What a server that says these lines one after the other stands at: state and share.
    fn after(lines: &[&str]) -> (&'static str, Option<u8>) {
        let mut said = Said::default();
        let mut result = Ok(());
        for line in lines {
            result = said.take(line).and_then(|()| said.result());
        }
        let state = match &result {
            Ok(()) => "up",
            Err(Failure::Protocol(_)) => "nonsense",
            Err(failure) => failure.leads_to().as_str(),
        };
        (state, said.share)
    }

    #[test]
    fn each_word_means_what_it_means_to_haproxy() {
        for (lines, state, share) in [
            (&["up"][..], "up", None),
            (&["up ready 75%\n"], "up", Some(75)),
            (&["75%"], "up", Some(75)),
            (&["0%"], "up", Some(0)),
            (&["250%"], "up", Some(100)),
            (&["drain"], "drain", None),
            (&["drain", "50%"], "drain", Some(50)),
            (&["drain", "ready"], "up", None),
            (&["maint", "up"], "maint", None),
            (&["maint", "ready up"], "up", None),
            (&["down"], "down", None),
            (&["failed#disk full"], "down", None),
            (&["stopped"], "down", None),
            (&["FAIL"], "down", None),
            (&["down", "ready"], "down", None),
            (&["down", "up,ready"], "up", None),
            (&["down drain"], "down", None),
            (&["maint down"], "maint", None),
            (&["maxconn:30"], "up", None),
            (&[""], "nonsense", None),
            (&["# up"], "nonsense", None),
            (&["HTTP/1.0 400 Bad Request"], "nonsense", None),
        ] {
            assert_eq!(after(lines), (state, share), "{lines:?}");
        }
    }

    #[test]
    fn the_agents_remark_is_shown() {
        let mut said = Said::default();
        said.take("down #replication\tbroken").unwrap();
        assert_eq!(said.result().unwrap_err().to_string(), "agent: down #replication broken");
    }

    /// The check against an agent that says this and then closes, or stays.
    async fn against(says: &'static str, closes: bool, limit: Duration) -> Outcome {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let agent = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 6];
            stream.read_exact(&mut asked).await.unwrap();
            assert_eq!(&asked, b"state\n");
            stream.write_all(says.as_bytes()).await.unwrap();
            if !closes {
                std::future::pending::<()>().await;
            }
        });
        let outcome = Checker::new(addr, &AgentCheck { send: b"state\n".to_vec() }, limit).check().await;
        agent.abort();
        outcome
    }

    #[tokio::test]
    async fn a_line_ends_with_a_newline_or_with_the_connection_and_silence_with_the_limit() {
        let ample = Duration::from_secs(20);
        for (says, closes) in [("up 30%\n", false), ("up 30%", true), ("up 30%\nmore\n", false)] {
            let outcome = against(says, closes, ample).await;
            assert!(outcome.result.is_ok() && outcome.share == Some(30), "{says:?}: {outcome:?}");
        }
        let limit = Duration::from_millis(200);
        let silent = against("up", false, limit).await.result;
        assert_eq!(silent, Err(Failure::Timeout { step: Step::Answer, limit }));
        assert!(matches!(against("", true, ample).await.result, Err(Failure::Protocol(_))));
    }

    proptest::proptest! {
        #[test]
        fn no_line_breaks_it(lines in proptest::collection::vec(r"\PC{0,40}", 0..4)) {
            let mut said = Said::default();
            for line in &lines {
                let _ = said.take(line);
            }
            assert!(said.share.is_none_or(|s| s <= 100));
        }
    }
}
