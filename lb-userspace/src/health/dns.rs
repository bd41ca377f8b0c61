//! The `dns` check: one query over UDP to the backend, and the response code of its answer (RFC 1035).
//!
//! `task` calls [`check`]. Only an answer with the query's id and question counts; others are stray or forged, and the
//! wait goes on.

use std::{
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    time::Duration,
};

use tokio::time::Instant;

use super::{Failure, Step, tcp::within, udp};
use crate::config::model::DnsCheck;

/// Asks `addr` within `limit`; returns how long the answer took.
pub async fn check(addr: SocketAddr, check: &DnsCheck, limit: Duration) -> Result<Duration, Failure> {
    let start = Instant::now();
    let (deadline, step) = (start + limit, Step::Answer);
    let id = RandomState::new().hash_one(start) as u16;
    let query = query(id, check);
    let socket = udp::connect(addr, limit).await?;
    within(deadline, step, limit, socket.send(&query)).await?;
    let mut answer = [0; 1232];
    loop {
        let length = within(deadline, step, limit, socket.recv(&mut answer)).await?;
        match rcode(&query, &answer[..length]) {
            Some(code) if code == check.rcode => return Ok(start.elapsed()),
            Some(code) => return Err(Failure::Rcode(code)),
            None => {}
        }
    }
}

/// Header and question: recursion desired, one question, class IN.
fn query(id: u16, check: &DnsCheck) -> Vec<u8> {
    let mut packet = id.to_be_bytes().to_vec();
    packet.extend_from_slice(&[0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0]);
    packet.extend_from_slice(&check.query);
    packet.extend_from_slice(&check.record.to_be_bytes());
    packet.extend_from_slice(&[0, 1]);
    packet
}

/// The response code, if this is the answer to `query`.
fn rcode(query: &[u8], answer: &[u8]) -> Option<u8> {
    let header = answer.get(..HEADER)?;
    let is_response = header[2] & 0x80 != 0;
    if header[..2] != query[..2] || !is_response {
        return None;
    }
    let code = header[3] & 0x0f;
    match u16::from_be_bytes([header[4], header[5]]) {
        // Some servers refuse without repeating the question.
        0 if code != 0 => Some(code),
        1 => {
            let question = answer.get(HEADER..query.len())?;
            question.eq_ignore_ascii_case(&query[HEADER..]).then_some(code)
        }
        _ => None,
    }
}

const HEADER: usize = 12;

#[cfg(test)]
mod tests {
    use tokio::net::UdpSocket;

    use super::*;

    fn example() -> DnsCheck {
        DnsCheck { query: b"\x07example\x03org\0".to_vec(), record: 1, rcode: 0 }
    }

    /// A server that gives the query back with these changes, one answer each.
    async fn against(changes: &'static [fn(&mut Vec<u8>)]) -> Result<Duration, Failure> {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = server.local_addr().unwrap();
        let serve = async {
            let mut packet = [0; 512];
            let (n, client) = server.recv_from(&mut packet).await.unwrap();
            for change in changes {
                let mut answer = packet[..n].to_vec();
                answer[2] |= 0x80;
                change(&mut answer);
                server.send_to(&answer, client).await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let check = example();
        tokio::select! {
            result = super::check(addr, &check, Duration::from_millis(500)) => result,
            () = serve => unreachable!("it waits for ever"),
        }
    }

    #[tokio::test]
    async fn an_answer_with_the_wanted_code_passes_and_others_fail() {
        assert!(against(&[|_| ()]).await.is_ok());
        assert_eq!(against(&[|a| a[3] = 2]).await, Err(Failure::Rcode(2)));
        assert_eq!(
            against(&[|a| {
                a[3] = 5;
                a[5] = 0;
                a.truncate(12);
            }])
            .await,
            Err(Failure::Rcode(5))
        );
    }

    #[tokio::test]
    async fn what_is_no_answer_to_the_query_is_waited_out() {
        assert!(
            against(&[|a| a[0] ^= 1, |a| a[2] &= 0x7f, |a| a[14] ^= 1, |a| a.truncate(3), |_| ()])
                .await
                .is_ok()
        );
        let nothing = against(&[|a| a[1] ^= 1]).await;
        assert!(matches!(nothing, Err(Failure::Timeout { step: Step::Answer, .. })), "{nothing:?}");
    }

    proptest::proptest! {
        #[test]
        fn no_packet_breaks_the_reader(answer in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64)) {
            let _ = rcode(&query(0, &example()), &answer);
        }
    }
}
