//! Time travel, seen from the database: the present stays, the past moves away.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat};
use serde_json::Value;
use sqlx::postgres::types::PgInterval;
use sqlx::{PgConnection, PgPool};

/// Far enough that rows on their way meet no row that has arrived, or has yet to leave. In microseconds, because
/// years and days are not all of one length.
const FAR: Duration = Duration::from_secs(1_000 * 365 * 24 * 3600);

/// Moves every `timestamptz` of every table back, but for `still` (`table.column`). Triggers and foreign keys keep silent, where we
/// may tell them to.
pub(super) async fn age(db: &PgPool, by: Duration, still: &[String]) -> sqlx::Result<()> {
    let mut tx = db.begin().await?;
    sqlx::query(
        "SELECT set_config('session_replication_role', 'replica', true)
         FROM pg_roles WHERE rolname = current_user AND rolsuper",
    )
    .execute(&mut *tx)
    .await?;
    // A unique time would meet the row before it half-way: such tables make a detour.
    let updates: Vec<(String, bool)> = sqlx::query_as(
        "SELECT format('UPDATE %s SET %s', c.oid::regclass, string_agg(format('%1$I = %1$I + $1', a.attname), ', ')),
                EXISTS (SELECT FROM pg_index i
                        WHERE i.indrelid = c.oid AND i.indisunique AND i.indkey::int2[] && array_agg(a.attnum))
         FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
         WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
           AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
           AND c.relname <> '_sqlx_migrations'
           AND a.atttypid = 'timestamptz'::regtype AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
           AND concat_ws('.', c.relname, a.attname) <> ALL($1)
         GROUP BY c.oid",
    )
    .bind(still)
    .fetch_all(&mut *tx)
    .await?;
    for (update, unique) in updates {
        let steps = if unique {
            vec![micros(FAR), -micros(FAR) - micros(by)]
        } else {
            vec![-micros(by)]
        };
        for microseconds in steps {
            let shift = PgInterval {
                months: 0,
                days: 0,
                microseconds,
            };
            sqlx::query(sqlx::AssertSqlSafe(update.clone()))
                .bind(shift)
                .execute(&mut *tx)
                .await?;
        }
    }
    age_progress(&mut tx, by).await?;
    tx.commit().await
}

/// How far a run has come may be told in times; they are JSON, and among the past.
async fn age_progress(connection: &mut PgConnection, by: Duration) -> sqlx::Result<()> {
    let rows: Vec<(String, String, Value)> =
        sqlx::query_as("SELECT job, run_key, progress FROM job_runs WHERE progress IS NOT NULL")
            .fetch_all(&mut *connection)
            .await?;
    for (job, run_key, mut progress) in rows {
        shift(&mut progress, by);
        sqlx::query("UPDATE job_runs SET progress = $3 WHERE job = $1 AND run_key = $2")
            .bind(job)
            .bind(run_key)
            .bind(progress)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

fn shift(value: &mut Value, by: Duration) {
    match value {
        Value::String(text) => {
            if let Ok(time) = DateTime::parse_from_rfc3339(text) {
                *text = (time - by).to_utc().to_rfc3339_opts(SecondsFormat::AutoSi, true);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| shift(value, by)),
        Value::Object(fields) => fields.values_mut().for_each(|value| shift(value, by)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn micros(duration: Duration) -> i64 {
    duration.as_micros().try_into().unwrap_or(i64::MAX)
}
