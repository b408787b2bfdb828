//! Roll-ups of events: days, weeks and months, their log, and the marks of what has to be computed again
//! (spec: business, section 3).
//!
//! # Terminology
//!
//! * **roll-up** – the rows of one period: daily from events, weekly and monthly from daily ones.
//! * **frozen** – a day whose events may have been purged ([`EVENT_RETENTION_DAYS`]). Its rows stay as they are.
//! * **complete** – a period with a finished entry in the log that began after the period's end and missed no input.
//! * **mark** – a row of `metrics_dirty_periods`: the period has to be computed again.
//!
//! # Invariants
//!
//! * **Recompute, never increment.** A roll-up is one statement that writes what its inputs give, leaves alone what is right already, and
//!   deletes what they no longer give. Any number of times is once.
//! * **The last to commit has seen the most.** Whoever computes a period holds its advisory lock from before the first snapshot until the
//!   commit. The log alone cannot promise that: a lease ends, and the statement of a killed function goes on in the database.
//! * **Log and rows agree.** An entry is finished in the transaction of the rows, and only while it is still its writer's.
//! * **No change is lost between two grains.** A day that changes marks its closed week and month in the same transaction. A mark goes
//!   only if it is the one that was there before the computation read its input.
//!
//! # Ways to get this wrong
//!
//! * Computing a frozen day: the purged events would take the history with them. [`begin`] refuses, by the database's clock.
//! * "Now" in a rule about which events count: a period would give something else tomorrow. See the view `counted_events`.

mod calendar;
mod day;
mod log;
mod month;
mod week;

use chrono::{Days, NaiveDate};
use serde::Serialize;
use services::{Error, Timestamp};
use sqlx::{PgConnection, PgPool};

pub use calendar::{Period, is_frozen};
pub use day::{Swept, sweep};
pub use log::{Beginning, Claim, Entry, JobType, Refusal, Trigger, fail, finish};

/// Raw events are kept for so many days; older days are frozen.
pub const EVENT_RETENTION_DAYS: u64 = 90;

/// What a computation did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rollup {
    /// Source rows read.
    pub processed: i64,
    /// Rows that were not there before.
    pub created: i64,
    /// Rows that were there before; those that were right already are counted, and not written.
    pub updated: i64,
    /// Rows that their input no longer gives.
    pub deleted: i64,
    /// Rows written or deleted.
    pub changed: i64,
    /// Events with a number that is none.
    #[serde(skip_serializing_if = "is_zero")]
    pub malformed: i64,
    /// What went wrong on the way, without stopping it.
    #[serde(skip_serializing_if = "is_zero")]
    pub errors: i64,
    /// Days of the period that were not complete.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing_days: Vec<NaiveDate>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(n: &i64) -> bool {
    *n == 0
}

impl Rollup {
    /// More than a hundredth of the input is malformed, or some is missing.
    fn is_partial(&self) -> bool {
        self.malformed * 100 > self.processed || !self.missing_days.is_empty()
    }

    fn metadata(&self) -> serde_json::Value {
        let mut metadata = serde_json::json!({ "changed": self.changed });
        if self.malformed > 0 {
            metadata["malformed"] = self.malformed.into();
        }
        if !self.missing_days.is_empty() {
            metadata["missingDays"] = serde_json::json!(self.missing_days);
        }
        metadata
    }
}

/// Logs that a period, or something else of the same days, is about to be computed; its entry is its lock.
///
/// # Errors
/// Those of the database.
pub async fn begin(
    pool: &PgPool,
    job_type: JobType,
    period: Period,
    run_key: &str,
    trigger: Trigger,
) -> Result<Beginning, Error> {
    let claim = Claim {
        job_type,
        start: period.start(),
        end: period.end(),
        run_key: run_key.to_owned(),
        trigger,
    };
    log::begin(pool, &claim, |now| period.refusal(now)).await
}

/// Logs the beginning of an aggregation that is not of one [`Period`], under the same rules.
///
/// # Errors
/// Those of the database.
pub async fn begin_other(pool: &PgPool, claim: &Claim) -> Result<Beginning, Error> {
    log::begin(pool, claim, |_| None).await
}

/// Computes the period of `entry` and finishes the entry. The caller commits.
///
/// # Errors
/// Those of the database; and when the entry is no longer its writer's.
pub async fn compute(connection: &mut PgConnection, period: Period, entry: &Entry) -> Result<Rollup, Error> {
    let mark = lock(connection, period).await?;
    let missing_days = match period {
        Period::Day(_) => Vec::new(),
        Period::Week(_) | Period::Month(_) => missing_days(connection, period, entry.started_at).await?,
    };
    let rollup = match period {
        Period::Day(date) => day::compute(connection, date).await?,
        Period::Week(start) => week::compute(connection, start, is_exact(period, entry.started_at)).await?,
        Period::Month(start) => month::compute(connection, start, is_exact(period, entry.started_at)).await?,
    };
    let rollup = Rollup { missing_days, ..rollup };
    let mut marks = Vec::new();
    if let Period::Day(date) = period
        && rollup.changed > 0
    {
        let above = [Period::week_of(date), Period::month_of(date)];
        marks.extend(above.into_iter().filter(|above| above.is_over(entry.started_at)));
    }
    if !rollup.missing_days.is_empty() {
        marks.push(period);
    }
    settle_marks(connection, period, mark, &marks).await?;
    let status = if rollup.is_partial() { "PARTIAL" } else { "COMPLETED" };
    log::finish(connection, entry, &rollup, status, rollup.metadata()).await?;
    Ok(rollup)
}

/// Distinct visitors are counted while all events of the period are there; after that the days' are added up.
fn is_exact(period: Period, now: Timestamp) -> bool {
    !is_frozen(period.start(), now)
}

/// Whoever computes the period comes after us, or we after them. Weeks read and write their neighbours, and so do months: one lock for
/// all weeks, one for all months. Answers the mark of the period.
async fn lock(connection: &mut PgConnection, period: Period) -> Result<Option<Timestamp>, Error> {
    let key = match period {
        Period::Day(date) => day_key(date),
        Period::Week(_) | Period::Month(_) => 0,
    };
    Ok(sqlx::query_scalar!(
        r#"SELECT (SELECT marked_at FROM metrics_dirty_periods WHERE granularity = $3 AND period_start = $4) AS "marked_at?"
           FROM pg_advisory_xact_lock(hashtext('rollups.' || $1::text), $2)"#,
        period.granularity(),
        key,
        period.granularity(),
        period.start(),
    )
    .fetch_one(connection)
    .await?)
}

/// Has what follows in the transaction planned for whole periods: joined by hash, in memory. The statistics do not know a period that has
/// just been written: to the planner its hundred thousand rows are one, and a loop over them looks cheap. Without loops
/// its costs say nothing, and must not decide that a statement is worth compiling. Small statements go before it.
///
/// # Errors
/// Those of the database.
pub async fn plan_for_sets(connection: &mut PgConnection) -> Result<(), Error> {
    let settings = "SET LOCAL work_mem = '64MB'; SET LOCAL enable_nestloop = off; SET LOCAL enable_mergejoin = off; SET LOCAL jit = off";
    sqlx::raw_sql(settings).execute(connection).await?;
    Ok(())
}

/// Keeps everybody else off the events, hours and days of a date until the transaction ends.
///
/// # Errors
/// Those of the database.
pub async fn lock_day(connection: &mut PgConnection, date: NaiveDate) -> Result<(), Error> {
    lock(connection, Period::Day(date)).await.map(drop)
}

fn day_key(date: NaiveDate) -> i32 {
    i32::try_from(date.signed_duration_since(NaiveDate::default()).num_days()).unwrap_or(i32::MAX)
}

/// Marks periods; `marked_at` always moves, so that a computation that has begun does not remove a mark it has not seen.
///
/// # Errors
/// Those of the database.
pub async fn mark(connection: &mut PgConnection, periods: &[Period], reason: &str) -> Result<(), Error> {
    let granularities: Vec<_> = periods.iter().map(|period| period.granularity().to_owned()).collect();
    let starts: Vec<_> = periods.iter().map(|period| period.start()).collect();
    sqlx::query!(
        "INSERT INTO metrics_dirty_periods AS m (granularity, period_start, marked_at, reason)
         SELECT DISTINCT granularity, period_start, clock_timestamp(), $3 FROM unnest($1::text[], $2::date[]) AS p (granularity, period_start)
         ORDER BY granularity, period_start
         ON CONFLICT (granularity, period_start) DO UPDATE SET marked_at = EXCLUDED.marked_at, reason = EXCLUDED.reason",
        &granularities,
        &starts,
        reason,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Removes the mark of what was just computed, unless it is a newer one, and makes others.
async fn settle_marks(
    connection: &mut PgConnection,
    computed: Period,
    seen: Option<Timestamp>,
    marks: &[Period],
) -> Result<(), Error> {
    if let Some(seen) = seen {
        sqlx::query!(
            "DELETE FROM metrics_dirty_periods WHERE granularity = $1 AND period_start = $2 AND marked_at = $3",
            computed.granularity(),
            computed.start(),
            seen,
        )
        .execute(&mut *connection)
        .await?;
    }
    if marks.is_empty() {
        return Ok(());
    }
    mark(
        connection,
        marks,
        &format!("{} {}", computed.granularity(), computed.start()),
    )
    .await
}

/// Removes the mark of a period that cannot be computed any more.
///
/// # Errors
/// Those of the database.
pub async fn unmark(pool: &PgPool, period: Period) -> Result<(), Error> {
    sqlx::query!(
        "DELETE FROM metrics_dirty_periods WHERE granularity = $1 AND period_start = $2",
        period.granularity(),
        period.start(),
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// The oldest marks of a granularity, of periods that are over (a day may still go on).
///
/// # Errors
/// Those of the database.
pub async fn marked(pool: &PgPool, granularity: &str, now: Timestamp, limit: i64) -> Result<Vec<Period>, Error> {
    let starts = sqlx::query_scalar!(
        "SELECT period_start FROM metrics_dirty_periods WHERE granularity = $1 AND period_start <= $2 ORDER BY period_start LIMIT $3",
        granularity,
        now.date_naive(),
        limit,
    )
    .fetch_all(pool)
    .await?;
    let periods = starts
        .into_iter()
        .filter_map(|start| Period::of_granularity(granularity, start));
    Ok(periods
        .filter(|period| matches!(period, Period::Day(_)) || period.is_over(now))
        .collect())
}

/// The days of a period that are neither complete nor frozen.
///
/// # Errors
/// Those of the database.
pub async fn missing_days(
    connection: &mut PgConnection,
    period: Period,
    now: Timestamp,
) -> Result<Vec<NaiveDate>, Error> {
    let days: Vec<_> = period.days().filter(|date| !is_frozen(*date, now)).collect();
    if days.is_empty() {
        return Ok(days);
    }
    let starts: Vec<_> = days.iter().map(|date| Period::Day(*date)).collect();
    let incomplete = incomplete(connection, &starts).await?;
    Ok(incomplete.into_iter().map(|period| period.start()).collect())
}

/// Those of `periods`, all of one kind, that have no complete entry in the log.
///
/// # Errors
/// Those of the database.
pub async fn incomplete(connection: &mut PgConnection, periods: &[Period]) -> Result<Vec<Period>, Error> {
    let Some(first) = periods.first() else {
        return Ok(Vec::new());
    };
    let starts: Vec<_> = periods.iter().map(|period| period.start()).collect();
    let ends: Vec<_> = periods.iter().map(|period| period.end_instant()).collect();
    let incomplete = sqlx::query_scalar!(
        r#"SELECT p.period_start AS "period_start!" FROM unnest($2::date[], $3::timestamptz[]) AS p (period_start, ends_at)
           WHERE NOT EXISTS (SELECT FROM metrics_aggregation_jobs_log l
                             WHERE l.job_type = $1 AND l.period_start_date = p.period_start AND l.started_at >= p.ends_at
                               AND (l.status = 'COMPLETED' OR l.status = 'PARTIAL' AND NOT l.metadata ? 'missingDays'))
           ORDER BY p.period_start"#,
        first.job_type().as_str(),
        &starts,
        &ends,
    )
    .fetch_all(connection)
    .await?;
    let periods = incomplete.into_iter();
    Ok(periods
        .filter_map(|start| Period::of_granularity(first.granularity(), start))
        .collect())
}

/// How many rows of a closed week or month do not say what its daily rows say.
///
/// # Errors
/// Those of the database.
pub async fn mismatches(connection: &mut PgConnection, period: Period) -> Result<i64, Error> {
    match period {
        Period::Day(_) => Ok(0),
        Period::Week(start) => week::mismatches(connection, start).await,
        Period::Month(start) => month::mismatches(connection, start).await,
    }
}

/// Compares the month with the same one a year before, and the same one a year later with it; answers how many rows changed.
///
/// # Errors
/// Those of the database.
pub async fn year_over_year(connection: &mut PgConnection, month: NaiveDate) -> Result<i64, Error> {
    lock(&mut *connection, Period::Month(month)).await?;
    plan_for_sets(&mut *connection).await?;
    month::year_over_year(connection, month).await
}

/// The last `count` closed periods before `now`, the oldest first.
pub fn last_closed(now: Timestamp, count: usize, of: fn(NaiveDate) -> Period) -> Vec<Period> {
    let mut periods: Vec<_> =
        std::iter::successors(Some(of(now.date_naive()).previous()), |period| Some(period.previous()))
            .take(count)
            .collect();
    periods.reverse();
    periods
}

/// The day before.
pub fn yesterday(now: Timestamp) -> NaiveDate {
    let today = now.date_naive();
    today.checked_sub_days(Days::new(1)).unwrap_or(today)
}
