//! The day of each post.

use chrono::NaiveDate;
use rollups::{Entry, Period, Rollup};
use runtime::Failure;
use sqlx::PgConnection;

pub(crate) async fn compute(connection: &mut PgConnection, date: NaiveDate, entry: &Entry) -> Result<Rollup, Failure> {
    let (from, to) = (Period::Day(date).start_instant(), Period::Day(date).end_instant());
    rollups::lock_day(connection, date).await?;
    rollups::sweep(connection, from, to).await?;
    let row = sqlx::query_file!("src/sql/posts.sql", date, from, to)
        .fetch_one(&mut *connection)
        .await?;
    let rollup = Rollup {
        processed: row.processed,
        created: row.created,
        updated: row.produced - row.created,
        deleted: row.deleted,
        changed: row.written + row.deleted,
        ..Rollup::default()
    };
    rollups::finish(connection, entry, &rollup, "COMPLETED", serde_json::json!({})).await?;
    Ok(rollup)
}
