//! Rolls up the last closed week or month, or a given one (spec: business, `metrics-aggregation`).

use std::process::ExitCode;

use chrono::TimeDelta;
use jobs::{AggregateAction, AggregateEvents, AggregateMetrics, Grain, Timestamp, catalog};
use rollups::{Beginning, Entry, Period, Rollup, Trigger};
use runtime::{Failure, Outcome, Run, dead, deferred, done};

/// When to look again whether another message is through with the period.
const BUSY: TimeDelta = TimeDelta::seconds(60);

fn main() -> ExitCode {
    runtime::serve(catalog::METRICS_AGGREGATION, aggregate)
}

async fn aggregate(message: AggregateMetrics, run: &mut Run) -> Outcome {
    let period = period(&message, run.as_of());
    let pool = run.context().database().pool();
    let run_key = format!("{}:{}", catalog::METRICS_AGGREGATION.spec().name(), run.key());
    let trigger = match (message.period_start, message.reason) {
        (None, _) => Trigger::Schedule,
        (Some(_), None) => Trigger::Manual,
        (Some(_), Some(_)) => Trigger::Dirty,
    };
    let entry = match rollups::begin(pool, period.job_type(), period, &run_key, trigger).await? {
        Beginning::Begun(entry) => entry,
        Beginning::Busy => return deferred(chrono::Utc::now() + BUSY, "another message computes this period"),
        Beginning::Refused(_) => {
            return dead(format!(
                "the {} of {} is not over",
                period.granularity(),
                period.start()
            ));
        }
    };
    match compute(run, period, &entry).await {
        Ok(rollup) => done(rollup),
        Err(failure) => {
            rollups::fail(pool, &entry, failure.text()).await;
            Err(failure)
        }
    }
}

/// Days that are not complete are asked for; the mark that they leave brings the period back.
async fn compute(run: &Run, period: Period, entry: &Entry) -> Result<Rollup, Failure> {
    let mut tx = run.begin().await?;
    let rollup = rollups::compute(&mut tx, period, entry).await?;
    let days = rollup.missing_days.iter();
    let days: Vec<_> = days
        .map(|date| AggregateEvents::day(AggregateAction::Daily, *date))
        .collect();
    tx.enqueue(&catalog::ANALYTICS_AGGREGATE, &days).await?;
    tx.commit().await?;
    Ok(rollup)
}

fn period(message: &AggregateMetrics, now: Timestamp) -> Period {
    let today = now.date_naive();
    match (message.job_type, message.period_start) {
        (Grain::Weekly, Some(start)) => Period::Week(start),
        (Grain::Monthly, Some(start)) => Period::Month(start),
        (Grain::Weekly, None) => Period::week_of(today).previous(),
        (Grain::Monthly, None) => Period::month_of(today).previous(),
    }
}
