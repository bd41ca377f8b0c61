//! The client/server protocol of MySQL, as much of it as the stand-in speaks (no TLS, no prepared statements).
//!
//! Packets of 16 MB and more are split and joined as the protocol asks, so that large results and uploads work.

use std::io::{self, Read, Write};

/// Most payload that one packet carries.
const FULL: usize = 0xff_ffff;
/// LONG_PASSWORD, FOUND_ROWS, LONG_FLAG, CONNECT_WITH_DB, PROTOCOL_41, TRANSACTIONS, SECURE_CONNECTION,
/// MULTI_RESULTS, PLUGIN_AUTH.
const CAPABILITIES: u32 = 0x1 | 0x2 | 0x4 | 0x8 | 0x200 | 0x2000 | 0x8000 | 0x2_0000 | 0x8_0000;
const AUTOCOMMIT: u16 = 2;
/// Clients recognise MariaDB by this form of a version.
pub(super) const VERSION: &str = "5.5.5-10.11.0-viplb-standin";

/// An error packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    code: u16,
    state: &'static str,
    text: String,
}

impl Refusal {
    pub(super) fn new(code: u16, state: &'static str, text: String) -> Self {
        Refusal { code, state, text }
    }
}

/// A value of a row; none for NULL.
pub(super) type Cell = Option<Vec<u8>>;

/// Packets to and from one client.
pub(super) struct Packets<R, W> {
    reader: R,
    writer: W,
    sequence: u8,
}

impl<R: Read, W: Write> Packets<R, W> {
    pub(super) fn new(reader: R, writer: W) -> Self {
        Packets { reader, writer, sequence: 0 }
    }

    /// One message, joined from its packets.
    pub(super) fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut message = Vec::new();
        loop {
            let mut head = [0; 4];
            self.reader.read_exact(&mut head)?;
            let len = u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize;
            self.sequence = head[3].wrapping_add(1);
            let start = message.len();
            message.resize(start + len, 0);
            self.reader.read_exact(&mut message[start..])?;
            if len < FULL {
                return Ok(message);
            }
        }
    }

    /// The next command; it starts a new sequence.
    pub(super) fn command(&mut self) -> io::Result<Vec<u8>> {
        self.writer.flush()?;
        self.read()
    }

    fn write(&mut self, mut message: &[u8]) -> io::Result<()> {
        loop {
            let (part, rest) = message.split_at(message.len().min(FULL));
            let [a, b, c, _] = (part.len() as u32).to_le_bytes();
            self.writer.write_all(&[a, b, c, self.sequence])?;
            self.writer.write_all(part)?;
            self.sequence = self.sequence.wrapping_add(1);
            if part.len() < FULL {
                return Ok(());
            }
            message = rest;
        }
    }

    pub(super) fn greet(&mut self) -> io::Result<()> {
        let [c0, c1, c2, c3] = CAPABILITIES.to_le_bytes();
        let mut message = vec![10];
        message.extend_from_slice(VERSION.as_bytes());
        message.push(0);
        message.extend_from_slice(&1u32.to_le_bytes());
        message.extend_from_slice(b"standin!\0");
        message.extend_from_slice(&[c0, c1, 33]);
        message.extend_from_slice(&AUTOCOMMIT.to_le_bytes());
        message.extend_from_slice(&[c2, c3, 21]);
        message.extend_from_slice(&[0; 10]);
        message.extend_from_slice(b"standinsalt!\0");
        message.extend_from_slice(b"mysql_native_password\0");
        self.write(&message)?;
        self.writer.flush()
    }

    pub(super) fn ok(&mut self, affected: u8) -> io::Result<()> {
        let [s0, s1] = AUTOCOMMIT.to_le_bytes();
        self.write(&[0, affected, 0, s0, s1, 0, 0])?;
        self.writer.flush()
    }

    pub(super) fn refuse(&mut self, why: &Refusal) -> io::Result<()> {
        let mut message = vec![0xff];
        message.extend_from_slice(&why.code.to_le_bytes());
        message.push(b'#');
        message.extend_from_slice(why.state.as_bytes());
        message.extend_from_slice(why.text.as_bytes());
        self.write(&message)?;
        self.writer.flush()
    }

    /// A whole result set; rows are made one by one, so that a large one takes no memory.
    pub(super) fn result(
        &mut self,
        columns: &[String],
        rows: impl Iterator<Item = Vec<Cell>>,
    ) -> io::Result<()> {
        self.write(&[columns.len() as u8])?;
        for name in columns {
            self.write(&column(name))?;
        }
        self.end_of_part()?;
        for row in rows {
            let mut message = Vec::new();
            for cell in row {
                match cell {
                    Some(value) => put_string(&mut message, &value),
                    None => message.push(0xfb),
                }
            }
            self.write(&message)?;
        }
        self.end_of_part()?;
        self.writer.flush()
    }

    fn end_of_part(&mut self) -> io::Result<()> {
        let [s0, s1] = AUTOCOMMIT.to_le_bytes();
        self.write(&[0xfe, 0, 0, s0, s1])
    }
}

/// The user name in a handshake response (fixed part of 32 bytes, then the name).
pub(super) fn user_of(response: &[u8]) -> Vec<u8> {
    let names = response.get(32..).unwrap_or_default();
    names.split(|b| *b == 0).next().unwrap_or_default().to_vec()
}

fn column(name: &str) -> Vec<u8> {
    const VAR_STRING: u8 = 0xfd;
    let mut message = Vec::new();
    for text in ["def", "", "", "", name, name] {
        put_string(&mut message, text.as_bytes());
    }
    message.push(0x0c);
    message.extend_from_slice(&33u16.to_le_bytes());
    message.extend_from_slice(&u32::MAX.to_le_bytes());
    message.extend_from_slice(&[VAR_STRING, 0, 0, 0, 0, 0]);
    message
}

fn put_string(message: &mut Vec<u8>, value: &[u8]) {
    let len = (value.len() as u64).to_le_bytes();
    match value.len() {
        0..=250 => message.push(len[0]),
        251..=0xffff => message.extend_from_slice(&[0xfc, len[0], len[1]]),
        0x1_0000..=FULL => message.extend_from_slice(&[0xfd, len[0], len[1], len[2]]),
        _ => {
            message.push(0xfe);
            message.extend_from_slice(&len);
        }
    }
    message.extend_from_slice(value);
}
