//! `jobs status`

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use aws_sdk_sqs::types::QueueAttributeName;
use chrono::{DateTime, Utc};
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::runs::duration;
use crate::aws::Aws;
use crate::environment::{Environment, Target};
use crate::table;

/// Show what runs, and each job's queue, dead letters, event source and last run.
#[derive(clap::Args)]
pub(crate) struct Status {
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Serialize)]
struct Report {
    engine: Part,
    database: Part,
    jobs: Vec<Job>,
}

/// Something that answers or does not.
#[derive(Serialize)]
struct Part {
    up: bool,
    detail: String,
}

#[derive(Serialize)]
struct Job {
    job: &'static str,
    queue: Option<Depth>,
    dead_letters: Option<u64>,
    awaits_function: bool,
    event_source: Option<String>,
    last_run: Option<LastRun>,
}

/// How many messages a queue holds; SQS says so approximately.
#[derive(Serialize)]
struct Depth {
    ready: u64,
    in_flight: u64,
    delayed: u64,
}

#[derive(Clone, Serialize, Deserialize)]
struct LastRun {
    job: String,
    status: String,
    started_at: DateTime<Utc>,
    open: i64,
}

impl Status {
    pub(crate) async fn run(self) -> Result<()> {
        let report = Report::of(&self.target.environment()?).await;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            print!("{}", report.text(Utc::now()));
        }
        Ok(())
    }
}

impl Report {
    async fn of(environment: &Environment) -> Self {
        let (sources, runs) = tokio::join!(event_sources(environment), last_runs(environment));
        let sqs = match sources {
            Ok(_) => Some(aws_sdk_sqs::Client::new(&environment.aws().await)),
            // Nothing answers: asking for every queue would only take time.
            Err(_) => None,
        };
        let job = async |spec: &'static jobs::Spec| {
            let name = spec.name();
            let depth = async |queue: String| depth(sqs.as_ref()?, &queue).await;
            let queue = environment.queue(name);
            let (waiting, dead) = tokio::join!(depth(queue.clone()), depth(format!("{queue}-dlq")));
            Job {
                job: name,
                queue: waiting,
                dead_letters: dead.map(|dead| dead.ready + dead.in_flight + dead.delayed),
                awaits_function: spec.awaits_function,
                event_source: sources
                    .as_ref()
                    .ok()
                    .and_then(|sources| Some(sources.get(&queue)?["State"].as_str()?.to_owned())),
                last_run: runs
                    .as_ref()
                    .ok()
                    .and_then(|runs| runs.iter().find(|run| run.job == name).cloned()),
            }
        };
        let jobs = join_all(jobs::catalog::ALL.iter().map(|spec| job(spec))).await;
        let endpoint = environment.get("AWS_ENDPOINT_URL").unwrap_or_else(|| "AWS".into());
        let database = environment.get("DATABASE_URL").unwrap_or_default();
        let database = database
            .rsplit_once('@')
            .map_or(database.as_str(), |(_, address)| address);
        Self {
            engine: Part::new(endpoint, sources),
            database: Part::new(database.to_owned(), runs),
            jobs,
        }
    }

    fn text(&self, now: DateTime<Utc>) -> String {
        let rows: Vec<_> = self.jobs.iter().map(|job| job.cells(now)).collect();
        let headings = [
            "JOB",
            "READY",
            "IN FLIGHT",
            "DELAYED",
            "DLQ",
            "EVENT SOURCE",
            "LAST RUN",
        ];
        let table = table::render(headings, &rows);
        format!(
            "engine    {}\ndatabase  {}\n\n{table}",
            self.engine.text(),
            self.database.text()
        )
    }
}

impl Part {
    fn new<T>(name: String, answer: Result<T>) -> Self {
        match answer {
            Ok(_) => Self { up: true, detail: name },
            Err(error) => Self {
                up: false,
                detail: format!("{name}: {error:#}"),
            },
        }
    }

    fn text(&self) -> String {
        format!("{}  {}", if self.up { "up  " } else { "down" }, self.detail)
    }
}

impl Job {
    fn cells(&self, now: DateTime<Utc>) -> [String; 7] {
        let number = |count: Option<u64>| count.map_or("-".into(), |count| count.to_string());
        let depth = |of: fn(&Depth) -> u64| number(self.queue.as_ref().map(of));
        let run = self.last_run.as_ref().map(|run| {
            let open = if run.open > 0 {
                format!(", {} open or dead", run.open)
            } else {
                String::new()
            };
            format!("{} {} ago{open}", run.status, duration(now - run.started_at))
        });
        [
            self.job.into(),
            depth(|depth| depth.ready),
            depth(|depth| depth.in_flight),
            depth(|depth| depth.delayed),
            number(self.dead_letters),
            match &self.event_source {
                Some(state) => state.clone(),
                None if self.awaits_function => "no function yet".into(),
                None => "-".into(),
            },
            run.unwrap_or_else(|| "-".into()),
        ]
    }
}

/// Nothing when there is no such queue.
async fn depth(sqs: &aws_sdk_sqs::Client, queue: &str) -> Option<Depth> {
    let url = sqs.get_queue_url().queue_name(queue).send().await.ok()?.queue_url?;
    let answer = sqs
        .get_queue_attributes()
        .queue_url(url)
        .attribute_names(QueueAttributeName::All)
        .send()
        .await
        .ok()?;
    let attributes = answer.attributes?;
    let count = |name| {
        attributes
            .get(&name)
            .and_then(|value| value.parse().ok())
            .unwrap_or_default()
    };
    Some(Depth {
        ready: count(QueueAttributeName::ApproximateNumberOfMessages),
        in_flight: count(QueueAttributeName::ApproximateNumberOfMessagesNotVisible),
        delayed: count(QueueAttributeName::ApproximateNumberOfMessagesDelayed),
    })
}

/// Every event source mapping, by the name of its queue.
pub(crate) async fn event_sources(environment: &Environment) -> Result<BTreeMap<String, Value>> {
    let aws = Aws::new(environment.aws().await)?;
    let mut sources = BTreeMap::new();
    let mut marker = String::new();
    loop {
        let page = aws
            .get(
                "lambda",
                &format!("/2015-03-31/event-source-mappings/?MaxItems=100{marker}"),
            )
            .await?;
        for mapping in page["EventSourceMappings"].as_array().into_iter().flatten() {
            let queue = mapping["EventSourceArn"]
                .as_str()
                .and_then(|arn| arn.rsplit(':').next());
            if let Some(queue) = queue {
                sources.insert(queue.to_owned(), mapping.clone());
            }
        }
        match page["NextMarker"].as_str() {
            Some(next) => marker = format!("&Marker={}", percent_encode(next)),
            None => return Ok(sources),
        }
    }
}

/// For a value in a query string. Encoding more than is needed does no harm.
fn percent_encode(value: &str) -> String {
    value.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// The last run of each job, and how many of its runs are not at a good end.
async fn last_runs(environment: &Environment) -> Result<Vec<LastRun>> {
    let mut database = environment.database().await?;
    let names: Vec<_> = jobs::catalog::ALL.iter().map(|spec| spec.name()).collect();
    let leases: Vec<_> = jobs::catalog::ALL
        .iter()
        .map(|spec| spec.lease().as_secs_f64())
        .collect();
    // Who runs has begun within the lease; the others are in an index of their own.
    let rows: Vec<Value> = sqlx::query_scalar(
        "SELECT jsonb_build_object('job', job, 'status', run.status, 'started_at', run.started_at, 'open', open.count)
         FROM unnest($1::text[], $2::float8[]) AS job (job, lease)
         CROSS JOIN LATERAL (
             SELECT status, started_at FROM job_runs WHERE job_runs.job = job.job ORDER BY started_at DESC LIMIT 1
         ) AS run
         CROSS JOIN LATERAL (
             SELECT (SELECT count(*) FROM job_runs WHERE job_runs.job = job.job AND open_since IS NOT NULL)
                  + (SELECT count(*) FROM job_runs
                     WHERE job_runs.job = job.job AND started_at > clock_timestamp() - make_interval(secs => lease)
                       AND status = 'running' AND open_since IS NULL) AS count
         ) AS open",
    )
    .bind(names)
    .bind(leases)
    .fetch_all(&mut database)
    .await
    .context("could not read job_runs")?;
    Ok(serde_json::from_value(Value::Array(rows))?)
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn the_report_reads_as_a_table() {
        let now = DateTime::from_timestamp(1_769_860_800, 0).unwrap();
        let depth = Depth {
            ready: 12,
            in_flight: 3,
            delayed: 0,
        };
        let last_run = LastRun {
            job: "a".into(),
            status: "done".into(),
            started_at: now - chrono::TimeDelta::seconds(9),
            open: 2,
        };
        let busy = Job {
            job: "a",
            queue: Some(depth),
            dead_letters: Some(1),
            awaits_function: false,
            event_source: Some("Enabled".into()),
            last_run: Some(last_run),
        };
        let absent = Job {
            job: "long-name",
            queue: None,
            dead_letters: None,
            awaits_function: true,
            event_source: None,
            last_run: None,
        };
        let report = Report {
            engine: Part::new("http://127.0.0.1:4566".into(), Ok(())),
            database: Part::new("127.0.0.1:5433/x".into(), Err::<(), _>(anyhow!("refused"))),
            jobs: vec![busy, absent],
        };
        let expected = "\
engine    up    http://127.0.0.1:4566
database  down  127.0.0.1:5433/x: refused

JOB        READY  IN FLIGHT  DELAYED  DLQ  EVENT SOURCE     LAST RUN
a          12     3          0        1    Enabled          done 9.0 s ago, 2 open or dead
long-name  -      -          -        -    no function yet  -
";
        assert_eq!(report.text(now), expected);
    }
}
