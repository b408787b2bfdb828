//! `jobs runs`

use std::io::Write;

use anyhow::{Context, Result};
use chrono::{DateTime, Local, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::Value;

use super::enqueue::find;
use crate::environment::Target;
use crate::table;

/// List runs, the latest first: when, what became of them and why.
#[derive(clap::Args)]
pub(crate) struct Runs {
    /// Only of this job.
    job: Option<String>,
    /// Only those with this status.
    #[arg(long, value_parser = ["running", "done", "skipped", "continued", "deferred", "retrying", "dead"])]
    status: Option<String>,
    /// Only the run with this key.
    #[arg(long)]
    run_key: Option<String>,
    /// How many at most.
    #[arg(long, default_value_t = 20)]
    limit: i64,
    /// Print one JSON object a line, with all columns.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

/// A row of `job_runs`, as far as people want to see it.
#[derive(Deserialize)]
struct Run {
    job: String,
    run_key: String,
    status: String,
    attempts: i32,
    crashes: i32,
    reason: Option<String>,
    error: Option<String>,
    report: Option<Value>,
    progress: Option<Value>,
    started_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
    next_attempt_at: Option<DateTime<Utc>>,
}

impl Runs {
    pub(crate) async fn run(self) -> Result<()> {
        let jobs = match &self.job {
            Some(job) => vec![find(job)?.name()],
            None => jobs::catalog::ALL.iter().map(|spec| spec.name()).collect(),
        };
        let mut database = self.target.environment()?.database().await?;
        // Job by job, as the index goes: the ledger may be long.
        let rows: Vec<Value> = sqlx::query_scalar(
            "SELECT to_jsonb(run)
             FROM unnest($1::text[]) AS wanted (job)
             CROSS JOIN LATERAL (
                 SELECT * FROM job_runs
                 WHERE job_runs.job = wanted.job
                   AND ($2::text IS NULL OR status = $2)
                   AND ($3::text IS NULL OR run_key = $3)
                 ORDER BY started_at DESC
                 LIMIT $4
             ) AS run
             ORDER BY run.started_at DESC
             LIMIT $4",
        )
        .bind(jobs)
        .bind(&self.status)
        .bind(&self.run_key)
        .bind(self.limit)
        .fetch_all(&mut database)
        .await
        .context("could not read job_runs")?;
        if self.json {
            let mut out = std::io::stdout().lock();
            return Ok(rows.iter().try_for_each(|row| writeln!(out, "{row}"))?);
        }
        let runs: Vec<Run> = serde_json::from_value(Value::Array(rows))?;
        let cells: Vec<_> = runs.iter().map(Run::cells).collect();
        print!(
            "{}",
            table::render(["STARTED", "JOB", "RUN KEY", "STATUS", "TRIES", "TOOK", "WHAT"], &cells)
        );
        Ok(())
    }
}

impl Run {
    fn cells(&self) -> [String; 7] {
        let tries = match self.crashes {
            0 => self.attempts.to_string(),
            crashes => format!("{} + {crashes} crashed", self.attempts),
        };
        [
            self.started_at
                .with_timezone(&Local)
                .format("%d %b %H:%M:%S")
                .to_string(),
            self.job.clone(),
            self.run_key.clone(),
            self.status.clone(),
            tries,
            self.finished_at
                .map(|end| duration(end - self.started_at))
                .unwrap_or_default(),
            self.what(),
        ]
    }

    /// The reason first, as it is written for people.
    fn what(&self) -> String {
        let next = self
            .next_attempt_at
            .filter(|_| matches!(self.status.as_str(), "retrying" | "deferred"));
        let next = next.map(|at| format!("again at {}", at.with_timezone(&Local).format("%H:%M:%S")));
        let progress = || {
            let value = self.progress.as_ref()?;
            Some(progress(value).unwrap_or_else(|| value.to_string()))
        };
        let report = || self.report.as_ref().map(Value::to_string).or_else(progress);
        let text = self.reason.clone().or_else(|| self.error.clone()).or_else(report);
        [next, text]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(": ")
            .replace('\n', " ")
    }
}

/// What a job notes that knows how much there is to do: `done`, `total`, `perSecond`, `secondsLeft`, and what it is at as `entity`.
fn progress(value: &Value) -> Option<String> {
    let number = |field: &str| value[field].as_i64();
    let (done, total) = (number("done")?, number("total")?);
    let mut text = format!("{done} of {total} ({} %)", 100 * done / total.max(1));
    if let Some(entity) = value["entity"].as_str() {
        text = format!("at {entity}: {text}");
    }
    if let (Some(rate), Some(left)) = (number("perSecond"), number("secondsLeft")) {
        text += &format!(", {rate} a second, {} left", duration(TimeDelta::seconds(left)));
    }
    Some(text)
}

/// With as many digits as say something.
pub(crate) fn duration(duration: TimeDelta) -> String {
    match duration.num_milliseconds() {
        ms @ ..1_000 => format!("{} ms", ms.max(0)),
        ms @ ..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        ms @ ..3_600_000 => format!("{} min", ms / 60_000),
        ms @ ..172_800_000 => format!("{} h", ms / 3_600_000),
        ms => format!("{} days", ms / 86_400_000),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_have_the_unit_that_fits() {
        let texts = [-1, 12, 1_234, 61_000, 7_200_000, 260_000_000].map(|ms| duration(TimeDelta::milliseconds(ms)));
        assert_eq!(texts, ["0 ms", "12 ms", "1.2 s", "1 min", "2 h", "3 days"]);
    }

    #[test]
    fn a_run_says_why_before_what() {
        let run = |value: Value| -> Run {
            let mut row = json!({
                "job": "j", "run_key": "k", "status": "dead", "attempts": 3, "crashes": 1,
                "started_at": "2026-01-01T00:00:00+00:00", "finished_at": "2026-01-01T00:00:00.25+00:00",
            });
            row.as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
            serde_json::from_value(row).unwrap()
        };
        assert_eq!(run(json!({"report": {"sent": 1}})).what(), r#"{"sent":1}"#);
        let progress = json!({"entity": "asset", "done": 30, "total": 120, "perSecond": 15, "secondsLeft": 6});
        let text = "at asset: 30 of 120 (25 %), 15 a second, 6.0 s left";
        assert_eq!(run(json!({"progress": progress})).what(), text);
        assert_eq!(run(json!({"progress": {"step": 2}})).what(), r#"{"step":2}"#);
        let failed = run(json!({"report": {"sent": 1}, "error": "mailbox\nfull"}));
        assert_eq!(failed.what(), "mailbox full");
        assert_eq!(failed.cells()[3..6], ["dead", "3 + 1 crashed", "250 ms"]);
    }
}
