//! Everything around the regular roll-ups: late data, gaps, back-fills, verification, year over year (spec: business,
//! `weekly-monthly-metrics-aggregation`).
//!
//! Days come before weeks, and weeks before months: each is the input of the next. A period that fails takes no other down; the message
//! comes again for it.

mod range;

use std::process::ExitCode;

use chrono::{NaiveDate, TimeDelta};
use jobs::{Grain, PeriodCursor, ReconcileAction, ReconcileMetrics, Timestamp, catalog};
use rollups::{Beginning, Claim, Entry, JobType, Period, Refusal, Rollup, Trigger};
use runtime::{Failure, Outcome, Run, continued, deferred, done, retry};
use serde::Serialize;

/// Weeks and months of one message (of a back-fill, days too).
const PERIODS: usize = 26;
/// Marked days of one message.
const DAYS: i64 = 62;
/// Gaps are looked for this far back.
const CLOSED: usize = 13;
/// When to look again whether another message is through.
const BUSY: TimeDelta = TimeDelta::seconds(60);

fn main() -> ExitCode {
    runtime::serve(catalog::WEEKLY_MONTHLY_METRICS_AGGREGATION, reconcile)
}

/// What a message did.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    days: usize,
    weeks: usize,
    months: usize,
    /// Periods that did not say what their days say, and do now.
    #[serde(skip_serializing_if = "Option::is_none")]
    fixed: Option<usize>,
    /// Of a range, continuations included.
    #[serde(flatten)]
    progress: Option<Progress>,
    #[serde(flatten)]
    rollup: Rollup,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failed: Vec<String>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Progress {
    done: usize,
    total: usize,
}

/// One message at work.
struct Work<'r> {
    run: &'r Run,
    run_key: String,
    trigger: Trigger,
    now: Timestamp,
    report: Report,
}

async fn reconcile(message: ReconcileMetrics, run: &mut Run) -> Outcome {
    let pool = run.context().database().pool();
    let today = run.as_of().date_naive();
    let month = || {
        Some(Period::Month(NaiveDate::from_ymd_opt(
            message.year?,
            message.month?,
            1,
        )?))
    };
    let (start, end, trigger) = match message.action {
        ReconcileAction::Reconcile => (today, today, Trigger::Dirty),
        ReconcileAction::Backfill => (
            message.from.unwrap_or(today),
            message.to.unwrap_or(today),
            Trigger::Backfill,
        ),
        ReconcileAction::Verify => (
            message.from.unwrap_or(today),
            message.to.unwrap_or(today),
            Trigger::Manual,
        ),
        ReconcileAction::Yoy => month().map_or((today, today, Trigger::Manual), |month| {
            (month.start(), month.end(), Trigger::Manual)
        }),
    };
    let run_key = format!(
        "{}:{}",
        catalog::WEEKLY_MONTHLY_METRICS_AGGREGATION.spec().name(),
        run.key()
    );
    let claim = Claim {
        job_type: JobType::Reconcile,
        start,
        end,
        run_key: run_key.clone(),
        trigger,
    };
    let Beginning::Begun(entry) = rollups::begin_other(pool, &claim).await? else {
        return deferred(chrono::Utc::now() + BUSY, "another message is at it");
    };
    let mut work = Work {
        run,
        run_key,
        trigger,
        now: entry.started_at,
        report: Report::default(),
    };
    let next = match message.action {
        ReconcileAction::Reconcile => work.repair(&message).await,
        ReconcileAction::Backfill | ReconcileAction::Verify => work.range(&message).await,
        ReconcileAction::Yoy => work.year_over_year(start).await.map(|()| None),
    };
    let Work { report, .. } = work;
    match next {
        Ok(next) => {
            finish(run, &entry, &report).await?;
            match next {
                _ if !report.failed.is_empty() => retry(report.failed.join("; ")),
                Some(next) => continued(next),
                None => done(report),
            }
        }
        Err(failure) => {
            rollups::fail(pool, &entry, failure.text()).await;
            Err(failure)
        }
    }
}

async fn finish(run: &Run, entry: &Entry, report: &Report) -> Result<(), Failure> {
    let mut rollup = report.rollup.clone();
    rollup.errors += report.failed.len() as i64;
    let status = if rollup.errors > 0 { "PARTIAL" } else { "COMPLETED" };
    let metadata = serde_json::to_value(report).unwrap_or_default();
    let mut tx = run.begin().await?;
    rollups::finish(&mut tx, entry, &rollup, status, metadata).await?;
    tx.commit().await?;
    Ok(())
}

impl Work<'_> {
    /// Marked days, then weeks, then months that are marked or missing. Answers what is to be done next, if that is not all.
    async fn repair(&mut self, message: &ReconcileMetrics) -> Result<Option<ReconcileMetrics>, Failure> {
        let pool = self.run.context().database().pool();
        let days = rollups::marked(pool, "day", self.now, DAYS).await?;
        let mut more = days.len() as i64 == DAYS;
        for day in days {
            self.compute(day).await?;
        }
        let mut left = PERIODS;
        for (granularity, of) in [("week", Period::week_of as fn(_) -> _), ("month", Period::month_of)] {
            let mut periods = rollups::marked(pool, granularity, self.now, PERIODS as i64).await?;
            let closed = rollups::last_closed(self.now, CLOSED, of);
            let mut connection = pool.acquire().await?;
            periods.extend(rollups::incomplete(&mut connection, &closed).await?);
            drop(connection);
            periods.sort_unstable();
            periods.dedup();
            more |= periods.len() > left;
            for period in periods.into_iter().take(left) {
                if self.run.must_stop() {
                    return Ok(Some(message.clone()));
                }
                self.compute_with_days(period).await?;
                left -= 1;
            }
        }
        // A day that a month lacked is a day of a week.
        more |= !rollups::marked(pool, "week", self.now, 1).await?.is_empty();
        Ok(more.then(|| message.clone()))
    }

    /// Computes or verifies the periods of a range, the oldest first: growth needs the predecessor.
    async fn range(&mut self, message: &ReconcileMetrics) -> Result<Option<ReconcileMetrics>, Failure> {
        let periods = range::periods(message, self.now);
        let (first, before) = match message.cursor {
            None => (0, 0),
            Some(cursor) => {
                let next = match cursor.grain {
                    None => Period::Day(cursor.start),
                    Some(Grain::Weekly) => Period::Week(cursor.start),
                    Some(Grain::Monthly) => Period::Month(cursor.start),
                };
                (periods.partition_point(|period| *period < next), cursor.done as usize)
            }
        };
        // The frozen horizon moves on between messages: what was done counts as it was.
        let total = before + periods.len() - first;
        let verify = message.action == ReconcileAction::Verify;
        self.report.fixed = verify.then_some(0);
        let mut done = before;
        for (n, period) in periods[first..].iter().enumerate() {
            if n == PERIODS || self.run.must_stop() {
                let grain = match period {
                    Period::Day(_) => None,
                    Period::Week(_) => Some(Grain::Weekly),
                    Period::Month(_) => Some(Grain::Monthly),
                };
                let cursor = PeriodCursor {
                    grain,
                    start: period.start(),
                    done: u32::try_from(done).unwrap_or(u32::MAX),
                };
                return Ok(Some(ReconcileMetrics {
                    cursor: Some(cursor),
                    ..message.clone()
                }));
            }
            match (verify, period) {
                (true, _) => self.verify(*period).await?,
                (false, Period::Day(_)) => self.compute(*period).await?,
                (false, _) => self.compute_with_days(*period).await?,
            }
            done += 1;
            self.report.progress = Some(Progress { done, total });
            self.run.progress(Progress { done, total }).await?;
        }
        self.report.progress = Some(Progress { done, total });
        Ok(None)
    }

    async fn year_over_year(&mut self, month: NaiveDate) -> Result<(), Failure> {
        let mut tx = self.run.begin().await?;
        self.report.rollup.changed = rollups::year_over_year(&mut tx, month).await?;
        tx.commit().await?;
        self.report.months = 1;
        Ok(())
    }

    async fn mismatches(&self, period: Period) -> Result<i64, Failure> {
        let mut connection = self.run.context().database().pool().acquire().await?;
        Ok(rollups::mismatches(&mut connection, period).await?)
    }

    async fn verify(&mut self, period: Period) -> Result<(), Failure> {
        if self.mismatches(period).await? == 0 {
            self.count(period);
            return Ok(());
        }
        self.compute(period).await?;
        match self.mismatches(period).await? {
            0 => self.report.fixed = self.report.fixed.map(|fixed| fixed + 1),
            rows => {
                self.report.rollup.errors += 1;
                let what = format!("{} {}", period.granularity(), period.start());
                self.report
                    .failed
                    .push(format!("{what}: {rows} rows differ from their days"));
            }
        }
        Ok(())
    }

    /// A week or month, after those of its days that were never computed.
    async fn compute_with_days(&mut self, period: Period) -> Result<(), Failure> {
        let mut connection = self.run.context().database().pool().acquire().await?;
        let missing = rollups::missing_days(&mut connection, period, self.now).await?;
        drop(connection);
        for date in missing {
            self.compute(Period::Day(date)).await?;
        }
        self.compute(period).await
    }

    /// Computes a period. What will not work for it alone is written down, and others go on; what works for none is an error.
    async fn compute(&mut self, period: Period) -> Result<(), Failure> {
        let pool = self.run.context().database().pool();
        let what = format!("{} {}", period.granularity(), period.start());
        let run_key = format!("{}:{}:{}", self.run_key, period.job_type().as_str(), period.start());
        let beginning = rollups::begin(pool, period.job_type(), period, &run_key, self.trigger).await?;
        let entry = match beginning {
            Beginning::Begun(entry) => entry,
            Beginning::Busy => {
                self.report.failed.push(format!("{what}: another message computes it"));
                return Ok(());
            }
            Beginning::Refused(Refusal::Frozen) => {
                rollups::unmark(pool, period).await?;
                return Ok(());
            }
            Beginning::Refused(_) => return Ok(()),
        };
        match self.write(period, &entry).await {
            Ok(rollup) => {
                self.count(period);
                let total = &mut self.report.rollup;
                total.processed += rollup.processed;
                total.created += rollup.created;
                total.updated += rollup.updated;
                total.deleted += rollup.deleted;
                total.changed += rollup.changed;
                total.malformed += rollup.malformed;
                Ok(())
            }
            Err(failure) => {
                rollups::fail(pool, &entry, failure.text()).await;
                let Failure::Dead { reason } = failure else {
                    return Err(failure);
                };
                self.report.failed.push(format!("{what}: {reason}"));
                Ok(())
            }
        }
    }

    async fn write(&self, period: Period, entry: &Entry) -> Result<Rollup, Failure> {
        let mut tx = self.run.begin().await?;
        let rollup = rollups::compute(&mut tx, period, entry).await?;
        tx.commit().await?;
        Ok(rollup)
    }

    fn count(&mut self, period: Period) {
        match period {
            Period::Day(_) => self.report.days += 1,
            Period::Week(_) => self.report.weeks += 1,
            Period::Month(_) => self.report.months += 1,
        }
    }
}
