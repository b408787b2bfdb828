//! Time travel, seen from the database: the present stays, the past moves away.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat};
use serde_json::Value;
use sqlx::{PgConnection, PgPool};

/// Far enough that rows on their way meet no row that has arrived, or has yet to leave. In microseconds, because
/// years and days are not all of one length.
const FAR: Duration = Duration::from_secs(1_000 * 365 * 24 * 3600);

/// Moves every `timestamptz` of every table that has rows back, but for `still` (`table.column`). Triggers and foreign keys keep silent,
/// where we may tell them to.
pub(super) async fn age(db: &PgPool, by: Duration, still: &[String]) -> sqlx::Result<()> {
    let mut tx = db.begin().await?;
    sqlx::query(
        "SELECT set_config('session_replication_role', 'replica', true)
         FROM pg_roles WHERE rolname = current_user AND rolsuper",
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query("SELECT set_config('ageing.still', $1, true)")
        .bind(still.join(","))
        .execute(&mut *tx)
        .await?;
    // A unique time would meet the row before it half-way: such tables make a detour.
    let shift = AGE
        .replace("{far}", &micros(FAR).to_string())
        .replace("{by}", &micros(by).to_string());
    sqlx::raw_sql(sqlx::AssertSqlSafe(shift)).execute(&mut *tx).await?;
    age_progress(&mut tx, by).await?;
    tx.commit().await
}

const AGE: &str = "
    DO $$
    DECLARE
        far constant interval := {far} * interval '1 microsecond';
        passed constant interval := {by} * interval '1 microsecond';
        aged record;
        has_rows boolean;
    BEGIN
        FOR aged IN
            SELECT c.oid::regclass AS name, string_agg(format('%1$I = %1$I + $1', a.attname), ', ') AS columns,
                   EXISTS (SELECT FROM pg_index i
                           WHERE i.indrelid = c.oid AND i.indisunique AND i.indkey::int2[] && array_agg(a.attnum)) AS is_unique
            FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
            WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
              AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
              AND c.relname <> '_sqlx_migrations'
              AND a.atttypid = 'timestamptz'::regtype AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
              AND concat_ws('.', c.relname, a.attname) <> ALL(string_to_array(current_setting('ageing.still'), ','))
            GROUP BY c.oid
        LOOP
            EXECUTE format('SELECT EXISTS (SELECT FROM %s)', aged.name) INTO has_rows;
            CONTINUE WHEN NOT has_rows;
            IF aged.is_unique THEN
                EXECUTE format('UPDATE %s SET %s', aged.name, aged.columns) USING far;
                EXECUTE format('UPDATE %s SET %s', aged.name, aged.columns) USING -far - passed;
            ELSE
                EXECUTE format('UPDATE %s SET %s', aged.name, aged.columns) USING -passed;
            END IF;
        END LOOP;
    END $$";

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
