//! The rows of `search_reindex_runs`: who is running, where, and what it has done.

use jobs::{ReindexSearch, SearchEntity};
use runtime::Failure;
use serde::Serialize;
use services::Error;
use sqlx::{PgConnection, PgPool};

use crate::page::Counts;

/// A reindex that this run has.
#[derive(Debug)]
pub(crate) struct Reindex {
    pub id: String,
    pub run_key: String,
    /// Only this table.
    pub only: Option<SearchEntity>,
    pub batch_size: i64,
    pub at: SearchEntity,
    pub after: String,
    pub total: i64,
    pub processed: i64,
    /// Rows of the present table that this attempt has written.
    pub written: i64,
}

impl Reindex {
    /// The table after the present one.
    pub fn next(&self) -> Option<SearchEntity> {
        let next = SearchEntity::ALL.into_iter().find(|entity| *entity > self.at);
        next.filter(|_| self.only.is_none())
    }
}

/// How a reindex ended, in rows.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    run_id: String,
    status: String,
    processed: i64,
    changed: i64,
    cleared: i64,
    errors: i64,
    /// The first of those that could not be written.
    failed: Vec<String>,
}

/// What a message leads to.
pub(crate) enum Begun {
    /// It goes on here.
    Here(Reindex),
    /// It ended before, and only the ledger did not hear of it.
    Over(Report),
    /// Another one is running, or has gone on from here.
    Refused(String),
}

/// Begins a reindex, or goes on with the one that the message or an earlier attempt of this run is about.
pub(crate) async fn begin(pool: &PgPool, message: &ReindexSearch, run_key: &str) -> Result<Begun, Error> {
    let cursor = message.cursor.as_ref();
    let held = sqlx::query!(
        "UPDATE search_reindex_runs SET run_key = $1, heartbeat_at = clock_timestamp()
         WHERE status = 'RUNNING' AND (run_key = $1 OR (id = $2 AND current_entity = $3 AND cursor_id = $4))
         RETURNING id, entity_type, batch_size, current_entity, cursor_id, total, processed",
        run_key,
        message.run_id.as_ref().map(|id| id.as_str()),
        cursor.map(|cursor| cursor.entity_type.as_str()),
        cursor.map(|cursor| cursor.after.as_str()),
    )
    .fetch_optional(pool)
    .await?;
    if let Some(row) = held {
        return Ok(Begun::Here(Reindex {
            id: row.id,
            run_key: run_key.to_owned(),
            only: row.entity_type.as_deref().map(entity).transpose()?,
            batch_size: row.batch_size.into(),
            at: entity(&row.current_entity)?,
            after: row.cursor_id,
            total: row.total,
            processed: row.processed,
            written: 0,
        }));
    }
    if let Some(report) = ended(pool, run_key).await? {
        return Ok(Begun::Over(report));
    }
    if message.run_id.is_some() {
        return Ok(Begun::Refused(
            "stale: the reindex has gone on from here, or is over".into(),
        ));
    }
    start(pool, message, run_key).await
}

async fn start(pool: &PgPool, message: &ReindexSearch, run_key: &str) -> Result<Begun, Error> {
    let only = message.entity_type;
    let at = only.unwrap_or(SearchEntity::ALL[0]);
    let batch_size = message.batch_size.unwrap_or(100);
    // One that has not moved for so long is dead, or its message waits for a lease that ended.
    sqlx::query!(
        "UPDATE search_reindex_runs SET status = 'FAILED', finished_at = clock_timestamp()
         WHERE status = 'RUNNING' AND heartbeat_at < clock_timestamp() - interval '30 minutes'"
    )
    .execute(pool)
    .await?;
    let started = sqlx::query!(
        r#"INSERT INTO search_reindex_runs (run_key, entity_type, batch_size, current_entity, total)
           SELECT $1, $2, $3, $4, count(*) FROM search_vectors WHERE $2::text IS NULL OR entity = $2
           ON CONFLICT DO NOTHING
           RETURNING id, total"#,
        run_key,
        only.map(SearchEntity::as_str),
        batch_size.cast_signed(),
        at.as_str(),
    )
    .fetch_optional(pool)
    .await?;
    if let Some(row) = started {
        return Ok(Begun::Here(Reindex {
            id: row.id,
            run_key: run_key.to_owned(),
            only,
            batch_size: batch_size.into(),
            at,
            after: String::new(),
            total: row.total,
            processed: 0,
            written: 0,
        }));
    }
    let other =
        sqlx::query!("SELECT id, current_entity, processed, total FROM search_reindex_runs WHERE status = 'RUNNING'")
            .fetch_optional(pool)
            .await?;
    Ok(Begun::Refused(match other {
        Some(other) => format!(
            "already_running: reindex {} is at {}, {} of {} rows",
            other.id, other.current_entity, other.processed, other.total
        ),
        None => "already_running: another reindex has just ended".into(),
    }))
}

/// Moves the cursor behind a page and counts its rows. What the transaction wrote besides counts only if nobody else was here.
pub(crate) async fn advance(
    connection: &mut PgConnection,
    reindex: &Reindex,
    upto: &str,
    counts: &Counts,
) -> Result<(), Failure> {
    let moved = sqlx::query!(
        // Not worth a wait for the disk: what a crash of the database takes back, rows and cursor alike, is done again.
        "WITH loose AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
         UPDATE search_reindex_runs
         SET cursor_id = $5, processed = processed + $6, changed = changed + $7, cleared = cleared + $8,
             errors = errors + cardinality($9::text[]), failed = (failed || $9::text[])[:100], heartbeat_at = clock_timestamp()
         FROM loose
         WHERE id = $1 AND status = 'RUNNING' AND run_key = $2 AND current_entity = $3 AND cursor_id = $4",
        reindex.id,
        reindex.run_key,
        reindex.at.as_str(),
        reindex.after,
        upto,
        counts.rows,
        counts.changed,
        counts.cleared,
        &counts.failed,
    )
    .execute(connection)
    .await?;
    moved_once(moved.rows_affected())
}

/// Goes on to the next table.
pub(crate) async fn turn_to(pool: &PgPool, reindex: &mut Reindex, next: SearchEntity) -> Result<(), Failure> {
    let moved = sqlx::query!(
        "UPDATE search_reindex_runs SET current_entity = $4, cursor_id = '', heartbeat_at = clock_timestamp()
         WHERE id = $1 AND status = 'RUNNING' AND run_key = $2 AND current_entity = $3",
        reindex.id,
        reindex.run_key,
        reindex.at.as_str(),
        next.as_str(),
    )
    .execute(pool)
    .await?;
    moved_once(moved.rows_affected())?;
    (reindex.at, reindex.after, reindex.written) = (next, String::new(), 0);
    Ok(())
}

/// Ends it.
pub(crate) async fn complete(pool: &PgPool, reindex: &Reindex) -> Result<Report, Failure> {
    let report = sqlx::query_as!(
        Report,
        "UPDATE search_reindex_runs SET status = CASE errors WHEN 0 THEN 'COMPLETED' ELSE 'PARTIAL' END, finished_at = clock_timestamp()
         WHERE id = $1 AND status = 'RUNNING' AND run_key = $2
         RETURNING id AS run_id, status, processed, changed, cleared, errors, failed",
        reindex.id,
        reindex.run_key,
    )
    .fetch_optional(pool)
    .await?;
    report.ok_or_else(lost)
}

/// How the run with this key ended, if it did.
async fn ended(pool: &PgPool, run_key: &str) -> Result<Option<Report>, Error> {
    Ok(sqlx::query_as!(
        Report,
        "SELECT id AS run_id, status, processed, changed, cleared, errors, failed FROM search_reindex_runs
         WHERE run_key = $1 AND status IN ('COMPLETED', 'PARTIAL')",
        run_key,
    )
    .fetch_optional(pool)
    .await?)
}

fn moved_once(rows: u64) -> Result<(), Failure> {
    if rows == 1 { Ok(()) } else { Err(lost()) }
}

fn lost() -> Failure {
    Failure::Retry {
        error: "another run has gone on with this reindex".into(),
        after: None,
    }
}

fn entity(text: &str) -> Result<SearchEntity, Error> {
    let entity = SearchEntity::ALL.into_iter().find(|entity| entity.as_str() == text);
    entity.ok_or_else(|| Error::permanent(format!("`{text}` is nothing that can be found")))
}
