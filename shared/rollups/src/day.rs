use chrono::NaiveDate;
use services::{Error, Timestamp};
use sqlx::PgConnection;

use crate::calendar::Period;
use crate::{Rollup, plan_for_sets};

/// How many rows a sweep changed.
pub type Swept = u64;

pub(crate) async fn compute(connection: &mut PgConnection, date: NaiveDate) -> Result<Rollup, Error> {
    let (from, to) = (Period::Day(date).start_instant(), Period::Day(date).end_instant());
    sweep(connection, from, to).await?;
    plan_for_sets(connection).await?;
    let row = sqlx::query_file!("src/sql/day.sql", date, from, to)
        .fetch_one(connection)
        .await?;
    Ok(Rollup {
        processed: row.processed,
        created: row.created,
        updated: row.updated,
        deleted: row.deleted,
        changed: row.changed,
        malformed: row.malformed,
        ..Rollup::default()
    })
}

/// Says of all events of a stretch of whole seconds which are duplicates of which. Right whatever was said before, and whatever has come
/// since: an event may arrive after its duplicate. Hold the lock of the day.
///
/// # Errors
/// Those of the database.
pub async fn sweep(connection: &mut PgConnection, from: Timestamp, to: Timestamp) -> Result<Swept, Error> {
    let swept = sqlx::query_file!("src/sql/sweep.sql", from, to)
        .execute(connection)
        .await?;
    Ok(swept.rows_affected())
}
