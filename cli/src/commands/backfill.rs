//! `jobs backfill`

use std::time::Duration;

use anyhow::{Context, Result, bail};
use chrono::{Months, NaiveDate, Utc};
use jobs::{Granularity, Message, ReconcileMetrics, catalog};
use serde_json::Value;
use sqlx::PgConnection;

use crate::environment::Target;
use crate::progress::Progress;

const POLL: Duration = Duration::from_millis(500);

/// Compute past periods again, and show how far that is. Computing them twice changes nothing.
#[derive(clap::Args)]
pub(crate) struct Backfill {
    /// The job whose periods these are.
    #[arg(value_parser = ["metrics-aggregation"])]
    job: String,
    /// The first month or day: 2026-01 or 2026-01-15.
    #[arg(long, value_parser = first_day)]
    from: NaiveDate,
    /// The last month or day.
    #[arg(long, value_parser = last_day)]
    to: NaiveDate,
    /// Weeks, months, or both.
    #[arg(long, default_value = "both", value_parser = ["weekly", "monthly", "both"])]
    granularity: String,
    /// Compute days first, as far as their events are kept.
    #[arg(long)]
    rebuild_daily: bool,
    #[command(flatten)]
    target: Target,
}

/// A link of the chain of runs, as far as it is looked at.
#[derive(sqlx::FromRow)]
struct Link {
    status: String,
    reason: Option<String>,
    error: Option<String>,
    report: Option<Value>,
    progress: Option<Value>,
}

impl Backfill {
    pub(crate) async fn run(self) -> Result<()> {
        let granularity = match self.granularity.as_str() {
            "weekly" => Granularity::Weekly,
            "monthly" => Granularity::Monthly,
            _ => Granularity::Both,
        };
        let message = ReconcileMetrics::backfill(granularity, self.from, self.to, self.rebuild_daily);
        message.validate().map_err(anyhow::Error::msg)?;
        let spec = catalog::WEEKLY_MONTHLY_METRICS_AGGREGATION;
        let spec = spec.spec();
        let environment = self.target.environment()?;
        let mut database = environment.database().await?;
        let run_key = format!(
            "backfill-{}-{}-{}",
            self.from,
            self.to,
            Utc::now().format("%Y%m%dT%H%M%S")
        );
        super::enqueue::send(&environment, spec, &[serde_json::to_string(&message)?], Some(&run_key)).await?;

        let step = Progress::new().step("backfill");
        step.say(&format!("{} to {}: run {run_key}", self.from, self.to));
        let report = loop {
            let links = links(&mut database, spec.name(), &run_key).await?;
            if let Some(progress) = links.iter().rev().find_map(|link| link.progress.as_ref()) {
                step.note(format!("{} of {} periods", progress["done"], progress["total"]));
            }
            match links.last() {
                Some(link) if link.status == "done" => break link.report.clone().unwrap_or_default(),
                Some(link) if link.status == "dead" => bail!("{}", link.text()),
                Some(link) if link.status == "retrying" => step.note(link.text()),
                Some(_) => {}
                None => step.note("waiting for the function"),
            }
            tokio::time::sleep(POLL).await;
        };
        let total: i64 = links(&mut database, spec.name(), &run_key).await?.len().try_into()?;
        let changed = changed(&mut database, spec.name(), &run_key).await?;
        step.done(&format!(
            "{} periods in {total} messages, {changed} rows changed",
            report["done"]
        ));
        Ok(())
    }
}

impl Link {
    fn text(&self) -> String {
        self.reason.clone().or_else(|| self.error.clone()).unwrap_or_default()
    }
}

async fn links(database: &mut PgConnection, job: &str, run_key: &str) -> Result<Vec<Link>> {
    let sql = "SELECT status, reason, error, report, progress FROM job_runs
               WHERE job = $1 AND (run_key = $2 OR starts_with(run_key, $2 || '#')) ORDER BY started_at";
    let links = sqlx::query_as(sql).bind(job).bind(run_key).fetch_all(database).await;
    links.context("could not read job_runs")
}

/// Rows that all messages of the back-fill wrote or deleted, as the log of the aggregation has it.
async fn changed(database: &mut PgConnection, job: &str, run_key: &str) -> Result<i64> {
    let sql = "SELECT coalesce(sum((metadata ->> 'changed')::bigint), 0)::bigint FROM metrics_aggregation_jobs_log
               WHERE job_type <> 'reconcile' AND starts_with(run_key, $1)";
    let changed = sqlx::query_scalar(sql)
        .bind(format!("{job}:{run_key}"))
        .fetch_one(database)
        .await;
    changed.context("could not read metrics_aggregation_jobs_log")
}

fn first_day(text: &str) -> Result<NaiveDate> {
    let day = if text.len() == 7 {
        format!("{text}-01")
    } else {
        text.to_owned()
    };
    day.parse().context("neither a month (2026-01) nor a day (2026-01-15)")
}

fn last_day(text: &str) -> Result<NaiveDate> {
    let first = first_day(text)?;
    if text.len() != 7 {
        return Ok(first);
    }
    let next = first.checked_add_months(Months::new(1));
    next.and_then(|next| next.pred_opt()).context("no such month")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_begins_with_its_first_and_ends_with_its_last_day() {
        assert_eq!(first_day("2024-02").unwrap().to_string(), "2024-02-01");
        assert_eq!(last_day("2024-02").unwrap().to_string(), "2024-02-29");
        assert_eq!(last_day("2026-10-15").unwrap().to_string(), "2026-10-15");
        assert!(first_day("2026-13").is_err() && last_day("autumn").is_err());
    }
}
