//! PostgreSQL's protocol, as far as calls must be told apart: a call is what a client sends up to `Sync`, or one
//! simple query, and its reply ends with `ReadyForQuery`.

use std::collections::HashMap;
use std::io;

use bytes::{Buf, Bytes, BytesMut};

use super::{End, Route, carry};
use crate::faults::Effect;

const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;

/// Run in place of the call: the server itself must know that the transaction has failed.
const SERIALIZATION_FAILURE: &str =
    "DO $$BEGIN RAISE EXCEPTION 'a fault of the test' USING ERRCODE = 'serialization_failure'; END$$";

pub(super) async fn relay(route: &Route, mut client: End, mut server: End) -> io::Result<()> {
    if !start(&mut client, &mut server).await? {
        return Ok(());
    }
    let mut statements = HashMap::new();
    let mut in_transaction = false;
    loop {
        while let Some(call) = Call::take(&mut client.received, &mut statements) {
            if !call.has_reply {
                server.send(&call.bytes).await?;
                continue;
            }
            // A lone Sync only asks whether the connection lives.
            let effect = match (call.effect, &*call.what) {
                (false, _) => Effect::None,
                (true, "COMMIT") => Effect::Lasting,
                (true, "BEGIN") => Effect::Pending,
                (true, _) if in_transaction => Effect::Pending,
                (true, _) => Effect::Lasting,
            };
            let fault = if call.what.is_empty() {
                None
            } else {
                route.note(call.what, effect)
            };
            let exchange = async |ends: &mut (&mut End, &mut End)| exchange(ends.0, ends.1, &call.bytes).await;
            let refuse = async |ends: &mut (&mut End, &mut End)| exchange_query(ends.0, ends.1).await;
            let reply = carry(route, fault, &mut (&mut client, &mut server), exchange, refuse).await?;
            // The last byte of `ReadyForQuery`.
            in_transaction = reply.last().is_some_and(|status| *status != b'I');
            client.send(&reply).await?;
        }
        tokio::select! {
            more = client.receive() => more?,
            // Notices and notifications come between calls.
            more = server.receive() => {
                more?;
                let notices = server.received.split();
                client.send(&notices).await?;
            }
        }
    }
}

/// Up to the first `ReadyForQuery`; `false` when the connection was for something else.
async fn start(client: &mut End, server: &mut End) -> io::Result<bool> {
    loop {
        let length = loop {
            match client.received.get(..4).map(be_u32) {
                Some(length) if client.received.len() >= length as usize => break length as usize,
                _ => client.receive().await?,
            }
        };
        let packet = client.received.split_to(length);
        match packet.get(4..8).map(be_u32) {
            Some(SSL_REQUEST | GSS_REQUEST) => client.send(b"N").await?,
            Some(CANCEL_REQUEST) => {
                server.send(&packet).await?;
                return Ok(false);
            }
            _ => {
                server.send(&packet).await?;
                break;
            }
        }
    }
    loop {
        while let Some((tag, message)) = take_message(&mut server.received) {
            client.send(&message).await?;
            if tag == b'Z' {
                return Ok(true);
            }
        }
        // Passwords travel as they are.
        tokio::select! {
            more = client.receive() => {
                more?;
                let answer = client.received.split();
                server.send(&answer).await?;
            }
            more = server.receive() => more?,
        }
    }
}

struct Call {
    bytes: Bytes,
    what: String,
    /// Something is executed, not only prepared.
    effect: bool,
    has_reply: bool,
}

impl Call {
    /// The next one in `received`, once it is there as a whole.
    fn take(received: &mut BytesMut, statements: &mut HashMap<Bytes, String>) -> Option<Self> {
        let mut length = 0;
        let (mut what, mut effect) = (String::new(), false);
        let has_reply = loop {
            let (tag, message) = peek_message(&received[length..])?;
            length += message.len();
            let body = &message[5..];
            match tag {
                b'Q' => {
                    (what, effect) = (name(body), true);
                    break true;
                }
                b'S' => break true,
                // Flush, terminate, the data of a copy: nobody waits for a reply.
                b'H' | b'X' | b'd' | b'c' | b'f' => break false,
                b'P' => {
                    let (statement, sql) = split_text(body);
                    what = name(sql);
                    statements.insert(Bytes::copy_from_slice(statement), what.clone());
                }
                b'B' => {
                    let (_, rest) = split_text(body);
                    let (statement, _) = split_text(rest);
                    what = statements.get(statement).cloned().unwrap_or_default();
                }
                b'E' => effect = true,
                _ => {}
            }
        };
        if !effect && !what.is_empty() {
            what.insert_str(0, "PREPARE ");
        }
        Some(Self {
            bytes: received.split_to(length).freeze(),
            what,
            effect,
            has_reply,
        })
    }
}

async fn exchange(client: &mut End, server: &mut End, call: &[u8]) -> io::Result<Bytes> {
    server.send(call).await?;
    let mut reply = BytesMut::new();
    loop {
        while let Some((tag, message)) = take_message(&mut server.received) {
            reply.extend_from_slice(&message);
            match tag {
                b'Z' => return Ok(reply.freeze()),
                // The server waits for the data of a COPY.
                b'G' => {
                    client.send(&reply.split()).await?;
                    copy_in(client, server).await?;
                }
                _ => {}
            }
        }
        server.receive().await?;
    }
}

async fn copy_in(client: &mut End, server: &mut End) -> io::Result<()> {
    loop {
        while let Some((tag, message)) = take_message(&mut client.received) {
            server.send(&message).await?;
            if matches!(tag, b'c' | b'f') {
                return Ok(());
            }
        }
        client.receive().await?;
    }
}

async fn exchange_query(client: &mut End, server: &mut End) -> io::Result<Bytes> {
    let mut query = vec![b'Q'];
    let length = SERIALIZATION_FAILURE.len() as u32 + 5;
    query.extend_from_slice(&length.to_be_bytes());
    query.extend_from_slice(SERIALIZATION_FAILURE.as_bytes());
    query.push(0);
    exchange(client, server, &query).await
}

fn take_message(received: &mut BytesMut) -> Option<(u8, Bytes)> {
    let (tag, length) = peek_message(received).map(|(tag, message)| (tag, message.len()))?;
    Some((tag, received.split_to(length).freeze()))
}

fn peek_message(received: &[u8]) -> Option<(u8, &[u8])> {
    let length = 1 + be_u32(received.get(1..5)?) as usize;
    Some((received[0], received.get(..length)?))
}

fn be_u32(mut bytes: &[u8]) -> u32 {
    bytes.get_u32()
}

/// Up to the first zero byte, and after it.
fn split_text(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    (&bytes[..end], bytes.get(end + 1..).unwrap_or_default())
}

/// A statement in one line.
fn name(sql: &[u8]) -> String {
    let sql = String::from_utf8_lossy(split_text(sql).0);
    sql.split_whitespace().collect::<Vec<_>>().join(" ")
}
