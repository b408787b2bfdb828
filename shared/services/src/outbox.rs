//! The outbox: messages that leave with the transaction that wrote them.
//!
//! # Invariants
//!
//! * A row exists exactly as long as SQS is not known to have the message; deleting it is the last step.
//! * A row is sent by its writer right after the commit, or by the relay once `claimed_until` has passed. Both
//!   may send it (a crash between sending and deleting): the receiver's ledger absorbs that by the run key.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::PgExecutor;
use sqlx::types::Json;

use crate::{Database, Error, Outgoing, Queues};

/// A row of the outbox.
#[derive(Clone, Debug)]
pub struct Departure {
    /// The row's id.
    pub id: i64,
    /// The message.
    pub message: Outgoing,
}

/// Writes messages into the outbox, in the caller's transaction.
pub async fn write(executor: impl PgExecutor<'_>, messages: &[Outgoing]) -> Result<Vec<Departure>, Error> {
    if messages.is_empty() {
        return Ok(Vec::new());
    }
    let queues: Vec<_> = messages.iter().map(|m| m.queue.clone()).collect();
    let bodies: Vec<_> = messages.iter().map(|m| m.body.clone()).collect();
    let attributes: Vec<_> = messages.iter().map(|m| serde_json::json!(m.attributes)).collect();
    let delays: Vec<_> = messages.iter().map(Outgoing::delay_seconds).collect();
    let ids = sqlx::query_scalar!(
        "INSERT INTO outbox (queue, body, attributes, delay_seconds)
         SELECT queue, body, attributes, delay_seconds
         FROM unnest($1::text[], $2::text[], $3::jsonb[], $4::int[]) WITH ORDINALITY AS m (queue, body, attributes, delay_seconds, n)
         ORDER BY n
         RETURNING id",
        &queues,
        &bodies,
        &attributes,
        &delays,
    )
    .fetch_all(executor)
    .await?;
    Ok(ids
        .into_iter()
        .zip(messages)
        .map(|(id, message)| Departure {
            id,
            message: message.clone(),
        })
        .collect())
}

/// Takes rows whose writer did not send them, oldest first, and keeps others off them for 30 seconds.
pub async fn claim(database: &Database, limit: i64) -> Result<Vec<Departure>, Error> {
    let rows = sqlx::query!(
        r#"UPDATE outbox SET claimed_until = clock_timestamp() + interval '30 seconds'
           WHERE id IN (SELECT id FROM outbox WHERE claimed_until < clock_timestamp() ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED)
           RETURNING id, queue, body, attributes AS "attributes: Json<BTreeMap<String, String>>", delay_seconds"#,
        limit,
    )
    .fetch_all(database.pool())
    .await?;
    let mut departures: Vec<_> = rows
        .into_iter()
        .map(|row| {
            let delay = Duration::from_secs(row.delay_seconds.unsigned_abs().into());
            Departure {
                id: row.id,
                message: Outgoing {
                    queue: row.queue,
                    body: row.body,
                    attributes: row.attributes.0,
                    delay,
                },
            }
        })
        .collect();
    departures.sort_unstable_by_key(|departure| departure.id);
    Ok(departures)
}

/// What became of departures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Sent {
    /// SQS has them.
    pub sent: usize,
    /// They wait for the relay.
    pub left: usize,
}

/// Sends committed rows and deletes those that SQS has. The rest stays for the relay; that is no error.
pub async fn send(database: &Database, queues: &Queues, departures: &[Departure]) -> Result<Sent, Error> {
    if departures.is_empty() {
        return Ok(Sent::default());
    }
    let messages: Vec<_> = departures.iter().map(|departure| departure.message.clone()).collect();
    let mut sent = Vec::with_capacity(departures.len());
    for (departure, result) in departures.iter().zip(queues.send(&messages).await) {
        match result {
            Ok(()) => sent.push(departure.id),
            Err(error) => tracing::warn!(
                outbox_id = departure.id,
                error = error.chain(),
                "a message stays in the outbox"
            ),
        }
    }
    sqlx::query!("DELETE FROM outbox WHERE id = ANY($1)", &sent)
        .execute(database.pool())
        .await?;
    Ok(Sent {
        sent: sent.len(),
        left: departures.len() - sent.len(),
    })
}
