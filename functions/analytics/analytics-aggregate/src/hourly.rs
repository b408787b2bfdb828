//! The hours with news.
//!
//! News are events received or enriched after the watermark, and a little before it: a transaction may commit later than it began.
//! The watermark moves to the beginning of the run, once all its hours are computed. Two runs at once do the same hours one after the
//! other, and each has seen what the watermark says that it has seen.

use std::collections::BTreeMap;

use chrono::{DurationRound, NaiveDate, TimeDelta, Timelike};
use jobs::{AggregateAction, AggregateEvents, HourCursor, Timestamp, catalog};
use rollups::{Beginning, Claim, EVENT_RETENTION_DAYS, Entry, JobType, Period, Rollup, Trigger};
use runtime::{Failure, Outcome, Run, Success, continued, done};
use serde::Serialize;
use sqlx::PgPool;

use crate::{busy, log_key};

const WATERMARK: &str = "analytics-hourly";
/// Hours of one message.
const HOURS: usize = 200;
/// In this hour of the day the table of hours is cleaned.
const CLEANING_HOUR: u32 = 3;

/// What a run did.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    hours: usize,
    days: usize,
    /// News about days that are frozen, and stay as they are.
    frozen: i64,
    cleaned: u64,
    #[serde(flatten)]
    rollup: Rollup,
}

/// An hour with news.
struct Touched {
    hour: Timestamp,
    has_posts: bool,
}

pub(crate) async fn aggregate(message: AggregateEvents, run: &Run) -> Outcome {
    let pool = run.context().database().pool();
    let today = run.as_of().date_naive();
    let claim = Claim {
        job_type: JobType::Hourly,
        start: today,
        end: today,
        run_key: log_key(run),
        trigger: Trigger::Schedule,
    };
    let Beginning::Begun(entry) = rollups::begin_other(pool, &claim).await? else {
        return busy();
    };
    match work(message, run, &entry).await {
        Ok(success) => Ok(success),
        Err(failure) => {
            rollups::fail(pool, &entry, failure.text()).await;
            Err(failure)
        }
    }
}

async fn work(message: AggregateEvents, run: &Run, entry: &Entry) -> Result<Success, Failure> {
    let pool = run.context().database().pool();
    let now = entry.started_at;
    let started_at = message.cursor.as_ref().map_or(now, |cursor| cursor.started_at);
    let mut touched = touched(pool, &message, now).await?;
    let mut report = Report::default();
    if message.cursor.is_none() {
        report.frozen = frozen(pool, now).await?;
    }
    let mut rest = touched.len() > HOURS;
    touched.truncate(HOURS);

    let mut days: BTreeMap<NaiveDate, Vec<&Touched>> = BTreeMap::new();
    for hour in &touched {
        days.entry(hour.hour.date_naive()).or_default().push(hour);
    }
    let mut messages = Vec::new();
    let mut last = None;
    for (date, hours) in days {
        if run.must_stop() {
            rest = true;
            break;
        }
        compute(run, date, &hours, &mut report).await?;
        if date <= now.date_naive() {
            messages.push(AggregateEvents::day(AggregateAction::Daily, date));
            if hours.iter().any(|hour| hour.has_posts) {
                messages.push(AggregateEvents::day(AggregateAction::PostDaily, date));
            }
        }
        last = hours.last().map(|hour| hour.hour);
    }
    if run.as_of().hour() == CLEANING_HOUR {
        report.cleaned = clean(run).await?;
    }

    let mut tx = run.begin().await?;
    tx.enqueue(&catalog::ANALYTICS_AGGREGATE, &messages).await?;
    if !rest {
        refresh_counters(&mut tx, now.date_naive()).await?;
        sqlx::query!(
            "INSERT INTO aggregation_watermarks AS w (name, value) VALUES ($1, $2)
             ON CONFLICT (name) DO UPDATE SET value = greatest(w.value, EXCLUDED.value)",
            WATERMARK,
            started_at,
        )
        .execute(&mut *tx)
        .await?;
    }
    let metadata = serde_json::json!({ "hours": report.hours, "days": report.days, "frozen": report.frozen });
    rollups::finish(&mut tx, entry, &report.rollup, "COMPLETED", metadata).await?;
    tx.commit().await?;
    match (rest, last) {
        (true, Some(after)) => continued(AggregateEvents {
            cursor: Some(HourCursor { after, started_at }),
            ..message
        }),
        _ => done(report),
    }
}

/// The hours to compute, in their order: one more than fit, if there are more.
async fn touched(pool: &PgPool, message: &AggregateEvents, now: Timestamp) -> Result<Vec<Touched>, Failure> {
    // What counts is at most an hour ahead of its receipt.
    let rows = sqlx::query!(
        r#"WITH news AS (
               SELECT date_trunc('hour', e.occurred_at, 'UTC') AS hour, bool_or(e.post_id IS NOT NULL) AS has_posts
               FROM events e,
                    (SELECT coalesce((SELECT value - interval '10 minutes' FROM aggregation_watermarks WHERE name = $1), '-infinity') AS since) w
               WHERE (e.created_at > w.since OR e.enriched_at > w.since) AND e.occurred_at <= e.created_at + interval '1 hour'
               GROUP BY 1
           ), asked AS (
               SELECT hour, EXISTS (SELECT FROM events e WHERE e.post_id IS NOT NULL AND e.occurred_at >= hour
                                      AND e.occurred_at < hour + interval '1 hour') AS has_posts
               FROM generate_series(date_trunc('hour', $2::timestamptz, 'UTC'), $3::timestamptz - interval '1 microsecond', '1 hour') AS hour
           )
           SELECT hour AS "hour!", bool_or(has_posts) AS "has_posts!" FROM (SELECT * FROM news UNION ALL SELECT * FROM asked) t
           WHERE hour >= $4 AND ($5::timestamptz IS NULL OR hour > $5)
           GROUP BY hour ORDER BY hour LIMIT $6"#,
        WATERMARK,
        message.from,
        message.to,
        horizon(now),
        message.cursor.as_ref().map(|cursor| cursor.after),
        HOURS as i64 + 1,
    )
    .fetch_all(pool)
    .await?;
    let touched = rows.into_iter().map(|row| Touched {
        hour: row.hour,
        has_posts: row.has_posts,
    });
    Ok(touched.collect())
}

/// The first instant that is not frozen.
fn horizon(now: Timestamp) -> Timestamp {
    let midnight = now.duration_trunc(TimeDelta::days(1)).unwrap_or(now);
    midnight - TimeDelta::days(EVENT_RETENTION_DAYS.cast_signed())
}

async fn frozen(pool: &PgPool, now: Timestamp) -> Result<i64, Failure> {
    Ok(sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM events
           WHERE created_at > coalesce((SELECT value FROM aggregation_watermarks WHERE name = $1), '-infinity') AND occurred_at < $2"#,
        WATERMARK,
        horizon(now),
    )
    .fetch_one(pool)
    .await?)
}

/// Hours of one day, in a transaction of their own. The mark goes when the day has been computed after them.
async fn compute(run: &Run, date: NaiveDate, hours: &[&Touched], report: &mut Report) -> Result<(), Failure> {
    let (Some(first), Some(last)) = (hours.first(), hours.last()) else {
        return Ok(());
    };
    let starts: Vec<_> = hours.iter().map(|hour| hour.hour).collect();
    let (from, to) = (first.hour, last.hour + TimeDelta::hours(1));
    let mut tx = run.begin().await?;
    rollups::lock_day(&mut tx, date).await?;
    rollups::sweep(&mut tx, from, to).await?;
    rollups::plan_for_sets(&mut tx).await?;
    let row = sqlx::query_file!("src/sql/hours.sql", &starts, from, to)
        .fetch_one(&mut *tx)
        .await?;
    rollups::mark(&mut tx, &[Period::Day(date)], "hourly").await?;
    tx.commit().await?;
    report.hours += hours.len();
    report.days += 1;
    report.rollup.processed += row.processed;
    report.rollup.created += row.created;
    report.rollup.updated += row.updated;
    report.rollup.deleted += row.deleted;
    report.rollup.changed += row.changed;
    Ok(())
}

/// How many events of each type there are today, for whoever looks at it live; and away with what has expired.
async fn refresh_counters(connection: &mut sqlx::PgConnection, today: NaiveDate) -> Result<(), Failure> {
    let day = Period::Day(today);
    sqlx::query!("DELETE FROM realtime_metrics_cache WHERE expires_at <= clock_timestamp()")
        .execute(&mut *connection)
        .await?;
    sqlx::query!(
        "INSERT INTO realtime_metrics_cache AS c (metric_key, metric_type, current_value, expires_at)
         SELECT 'events:' || event_type || ':today', 'COUNTER', count(*), $2 FROM counted_events
         WHERE occurred_at >= $1 AND occurred_at < $2 GROUP BY event_type ORDER BY event_type
         ON CONFLICT (metric_key) DO UPDATE
         SET previous_value = CASE WHEN c.current_value = EXCLUDED.current_value THEN c.previous_value ELSE c.current_value END,
             current_value = EXCLUDED.current_value, expires_at = EXCLUDED.expires_at, last_updated_at = clock_timestamp()",
        day.start_instant(),
        day.end_instant(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Hours are kept for 35 days.
async fn clean(run: &Run) -> Result<u64, Failure> {
    let mut cleaned = 0;
    while !run.must_stop() {
        let page = sqlx::query!(
            "DELETE FROM hourly_metrics WHERE ctid = ANY(ARRAY(
                 SELECT ctid FROM hourly_metrics WHERE hour < clock_timestamp() - interval '35 days' LIMIT 10000))"
        )
        .execute(run.context().database().pool())
        .await?;
        cleaned += page.rows_affected();
        if page.rows_affected() < 10_000 {
            break;
        }
    }
    Ok(cleaned)
}
