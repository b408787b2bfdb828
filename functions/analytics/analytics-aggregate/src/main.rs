//! Aggregates events into hours, days and the days of posts (spec: business, `analytics-jobs`).
//!
//! Hours follow the receipt of events: whatever was received or enriched since the last run is computed again, whenever it happened.
//! Days follow the hours, by messages that leave with them.

mod hourly;
mod posts;

use std::process::ExitCode;

use chrono::{NaiveDate, TimeDelta};
use jobs::{AggregateAction, AggregateEvents, catalog};
use rollups::{Beginning, Entry, JobType, Period, Refusal, Rollup, Trigger};
use runtime::{Failure, Outcome, Run, dead, deferred, done, skipped};

/// When to look again whether another message is through.
const BUSY: TimeDelta = TimeDelta::seconds(60);

fn main() -> ExitCode {
    runtime::serve(catalog::ANALYTICS_AGGREGATE, aggregate)
}

async fn aggregate(message: AggregateEvents, run: &mut Run) -> Outcome {
    let date = message.date.unwrap_or_else(|| rollups::yesterday(run.as_of()));
    match message.action {
        AggregateAction::Hourly => hourly::aggregate(message, run).await,
        AggregateAction::Daily => of_day(run, JobType::Daily, date, message.date.is_some()).await,
        AggregateAction::PostDaily => of_day(run, JobType::PostDaily, date, message.date.is_some()).await,
    }
}

/// The key of a message in the aggregation log.
fn log_key(run: &Run) -> String {
    format!("{}:{}", catalog::ANALYTICS_AGGREGATE.spec().name(), run.key())
}

async fn of_day(run: &Run, job_type: JobType, date: NaiveDate, asked_for: bool) -> Outcome {
    let pool = run.context().database().pool();
    let trigger = if asked_for { Trigger::Hourly } else { Trigger::Schedule };
    let entry = match rollups::begin(pool, job_type, Period::Day(date), &log_key(run), trigger).await? {
        Beginning::Begun(entry) => entry,
        Beginning::Busy => return busy(),
        Beginning::Refused(Refusal::Frozen) => return skipped("frozen"),
        Beginning::Refused(_) => return dead(format!("{date} is in the future")),
    };
    match compute(run, job_type, date, &entry).await {
        Ok(rollup) => done(rollup),
        Err(failure) => {
            rollups::fail(pool, &entry, failure.text()).await;
            Err(failure)
        }
    }
}

async fn compute(run: &Run, job_type: JobType, date: NaiveDate, entry: &Entry) -> Result<Rollup, Failure> {
    let mut tx = run.begin().await?;
    let rollup = match job_type {
        JobType::PostDaily => posts::compute(&mut tx, date, entry).await?,
        _ => rollups::compute(&mut tx, Period::Day(date), entry).await?,
    };
    tx.commit().await?;
    Ok(rollup)
}

fn busy() -> Outcome {
    deferred(chrono::Utc::now() + BUSY, "another message is at it")
}
