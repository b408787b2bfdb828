//! Enriches events: device, session, attribution, snapshots of what they are about, and whether they are duplicates
//! (spec: business, `analytics-jobs`).
//!
//! Two statements a batch: one reads what the user agents say, one writes everything. A batch that the database refuses is done again
//! event by event, so that a bad one fails alone. An event is enriched once: `enriched_at` guards it, under the lock of its row.

mod agent;

use std::collections::{BTreeSet, HashMap};
use std::process::ExitCode;

use jobs::{EnrichEvent, catalog};
use runtime::{Context, Delivery, Failure, Outcome, done, retry, skipped};
use serde_json::{Value, json};
use sqlx::PgPool;

use agent::Agent;

fn main() -> ExitCode {
    runtime::serve_batch(catalog::ANALYTICS_ENRICH_EVENT, enrich)
}

/// What is known of an event before it is enriched.
struct Received {
    user_agent: Option<String>,
    enriched: bool,
}

async fn enrich(deliveries: &[Delivery<EnrichEvent>], context: &Context) -> Result<Vec<Outcome>, Failure> {
    let pool = context.database().pool();
    let ids: BTreeSet<_> = deliveries
        .iter()
        .map(|delivery| delivery.message.event_id.to_string())
        .collect();
    let received = load(pool, &ids.into_iter().collect::<Vec<_>>()).await?;
    let fresh = received.iter().filter(|(_, event)| !event.enriched);
    let agents: Vec<_> = fresh
        .map(|(id, event)| {
            (
                id.clone(),
                Agent::parse(event.user_agent.as_deref().unwrap_or_default()),
            )
        })
        .collect();
    let written = write(pool, agents).await?;
    let outcome = |delivery: &Delivery<EnrichEvent>| {
        let id = delivery.message.event_id.as_str();
        match (received.get(id), written.get(id)) {
            (Some(_), Some(enriched)) => done(enriched),
            (Some(_), None) => skipped("already"),
            // Its insert may still be on the way to its commit.
            (None, _) if delivery.run.attempt() <= 2 => retry(format!("there is no event {id} yet")),
            (None, _) => skipped("not_found"),
        }
    };
    Ok(deliveries.iter().map(outcome).collect())
}

async fn load(pool: &PgPool, ids: &[String]) -> Result<HashMap<String, Received>, Failure> {
    let rows = sqlx::query!(
        r#"SELECT id, left(props ->> 'userAgent', 1024) AS user_agent, enriched_at IS NOT NULL AS "enriched!" FROM events WHERE id = ANY($1)"#,
        ids,
    )
    .fetch_all(pool)
    .await?;
    let received = rows.into_iter().map(|row| {
        let received = Received {
            user_agent: row.user_agent,
            enriched: row.enriched,
        };
        (row.id, received)
    });
    Ok(received.collect())
}

/// Writes what is not written yet; answers what became of each.
async fn write(pool: &PgPool, agents: Vec<(String, Agent)>) -> Result<HashMap<String, Value>, Failure> {
    if agents.is_empty() {
        return Ok(HashMap::new());
    }
    let (ids, agents): (Vec<_>, Vec<_>) = agents.into_iter().unzip();
    let bots: Vec<_> = agents.iter().map(|agent| agent.is_bot).collect();
    let devices: Vec<_> = agents.iter().map(Agent::to_json).collect();
    let rows = sqlx::query_file!("src/sql/enrich.sql", &ids, &devices, &bots)
        .fetch_all(pool)
        .await?;
    let enriched = rows.into_iter().map(|row| {
        let report = match row.duplicate_of {
            Some(original) => json!({ "duplicateOf": original }),
            None => Value::Null,
        };
        (row.id, report)
    });
    Ok(enriched.collect())
}
