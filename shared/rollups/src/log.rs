//! `metrics_aggregation_jobs_log`: one row a message and period, which is also the lease on the period.

use chrono::NaiveDate;
use serde_json::Value;
use services::{Error, Timestamp};
use sqlx::{PgConnection, PgPool};

use crate::Rollup;

/// What is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobType {
    /// Hours.
    Hourly,
    /// A day.
    Daily,
    /// The posts of a day.
    PostDaily,
    /// A week.
    Weekly,
    /// A month.
    Monthly,
    /// A repair, a back-fill or a verification.
    Reconcile,
}

impl JobType {
    /// As the log says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::PostDaily => "post_daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Reconcile => "reconcile",
        }
    }
}

/// Why it is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Its time came.
    Schedule,
    /// The hourly aggregation saw events of it.
    Hourly,
    /// It was marked, or missing.
    Dirty,
    /// A range was asked for.
    Backfill,
    /// Somebody asked for it.
    Manual,
}

impl Trigger {
    fn as_str(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::Hourly => "hourly",
            Self::Dirty => "dirty",
            Self::Backfill => "backfill",
            Self::Manual => "manual",
        }
    }
}

/// What wants to begin.
#[derive(Clone, Debug)]
pub struct Claim {
    /// What.
    pub job_type: JobType,
    /// First day.
    pub start: NaiveDate,
    /// Last day.
    pub end: NaiveDate,
    /// Unique for a message and period.
    pub run_key: String,
    /// Why.
    pub trigger: Trigger,
}

/// An entry that is ours.
#[derive(Clone, Debug)]
pub struct Entry {
    id: String,
    attempt: i32,
    /// By the database's clock.
    pub started_at: Timestamp,
}

/// Why a period is not computed at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The day has not begun.
    Future,
    /// Its events may be gone.
    Frozen,
    /// The week or month has not ended.
    Open,
}

/// What became of a claim.
#[derive(Clone, Debug)]
pub enum Beginning {
    /// Go on.
    Begun(Entry),
    /// Another message is at it: come back later.
    Busy,
    /// Not now, or never.
    Refused(Refusal),
}

/// Takes the period, unless another message has been at it for less than twenty minutes. In a transaction of its own: others see it.
pub(crate) async fn begin(
    pool: &PgPool,
    claim: &Claim,
    refusal: impl FnOnce(Timestamp) -> Option<Refusal>,
) -> Result<Beginning, Error> {
    let now = sqlx::query_scalar!(
        r#"WITH expired AS (
               UPDATE metrics_aggregation_jobs_log
               SET status = 'FAILED', error_message = 'lease_expired', errors_count = errors_count + 1, completed_at = clock_timestamp()
               WHERE job_type = $1 AND period_start_date = $2 AND status = 'RUNNING' AND run_key <> $3
                 AND started_at < clock_timestamp() - interval '20 minutes'
           )
           SELECT clock_timestamp() AS "now!""#,
        claim.job_type.as_str(),
        claim.start,
        claim.run_key,
    )
    .fetch_one(pool)
    .await?;
    if let Some(refusal) = refusal(now) {
        return Ok(Beginning::Refused(refusal));
    }
    let entry = sqlx::query!(
        "INSERT INTO metrics_aggregation_jobs_log AS l (job_type, period_start_date, period_end_date, run_key, trigger, started_at, status)
         VALUES ($1, $2, $3, $4, $5, clock_timestamp(), 'RUNNING')
         ON CONFLICT (run_key) DO UPDATE
         SET attempt = l.attempt + 1, status = 'RUNNING', started_at = EXCLUDED.started_at, completed_at = NULL, duration_seconds = NULL,
             error_message = NULL, error_stack = NULL
         RETURNING id, attempt, started_at",
        claim.job_type.as_str(),
        claim.start,
        claim.end,
        claim.run_key,
        claim.trigger.as_str(),
    )
    .fetch_one(pool)
    .await;
    match entry {
        Ok(row) => Ok(Beginning::Begun(Entry {
            id: row.id,
            attempt: row.attempt,
            started_at: row.started_at,
        })),
        Err(sqlx::Error::Database(error)) if error.constraint() == Some("metrics_aggregation_jobs_log_running") => {
            Ok(Beginning::Busy)
        }
        Err(error) => Err(error.into()),
    }
}

/// Finishes an entry in the transaction of its rows.
///
/// # Errors
/// Those of the database; and when the entry is no longer its writer's: then nothing of it may be committed.
pub async fn finish(
    connection: &mut PgConnection,
    entry: &Entry,
    rollup: &Rollup,
    status: &str,
    metadata: Value,
) -> Result<(), Error> {
    let finished = sqlx::query!(
        "UPDATE metrics_aggregation_jobs_log
         SET status = $3, completed_at = clock_timestamp(), duration_seconds = extract(epoch FROM clock_timestamp() - started_at),
             records_processed = $4, records_created = $5, records_updated = $6, records_deleted = $7, memory_used_mb = $8, metadata = $9,
             errors_count = $10
         WHERE id = $1 AND attempt = $2 AND status = 'RUNNING'",
        entry.id,
        entry.attempt,
        status,
        rollup.processed,
        rollup.created,
        rollup.updated,
        rollup.deleted,
        memory_used_mb(),
        metadata,
        i32::try_from(rollup.errors).unwrap_or(i32::MAX),
    )
    .execute(connection)
    .await?;
    match finished.rows_affected() {
        1 => Ok(()),
        _ => Err(Error::transient("the period was taken over by another message")),
    }
}

/// Writes down that it failed, as well as that can be done now; the error stays the caller's.
pub async fn fail(pool: &PgPool, entry: &Entry, error: &str) {
    let failed = sqlx::query!(
        "UPDATE metrics_aggregation_jobs_log
         SET status = 'FAILED', completed_at = clock_timestamp(), duration_seconds = extract(epoch FROM clock_timestamp() - started_at),
             errors_count = errors_count + 1, error_message = left($3, 1000), error_stack = $3, memory_used_mb = $4
         WHERE id = $1 AND attempt = $2 AND status = 'RUNNING'",
        entry.id,
        entry.attempt,
        error,
        memory_used_mb(),
    )
    .execute(pool)
    .await;
    if let Err(error) = failed {
        tracing::warn!(
            entry = entry.id,
            error = Error::from(error).chain(),
            "a failure was not logged; its lease ends by itself"
        );
    }
}

/// The most memory that this process has had resident; nothing where the system does not say.
fn memory_used_mb() -> Option<i32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u32 = line.split_whitespace().next()?.parse().ok()?;
    i32::try_from(kib.div_ceil(1024)).ok()
}
