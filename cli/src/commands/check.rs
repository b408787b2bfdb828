//! `jobs check`

use anyhow::{Result, bail};
use jobs::{Finding, Limits, catalog};
use serde_json::Value;

use crate::environment::{Environment, Target};
use crate::table;

use super::status::event_sources;

/// Prove that the numbers of the catalog fit together, and with --deployed those of what runs.
#[derive(clap::Args)]
pub(crate) struct Check {
    /// Compare what is deployed with the catalog, too.
    #[arg(long)]
    deployed: bool,
    #[command(flatten)]
    target: Target,
}

impl Check {
    pub(crate) async fn run(self) -> Result<()> {
        let mut findings = jobs::check(catalog::ALL, Limits::default());
        findings.extend(jobs::check_endpoints(catalog::ENDPOINTS, catalog::ALL));
        if self.deployed {
            findings.extend(deployed(&self.target.environment()?).await?);
        }
        if findings.is_empty() {
            let jobs = catalog::ALL.iter().filter(|spec| !spec.awaits_function).count();
            let endpoints = catalog::ENDPOINTS.len();
            println!(
                "{jobs} jobs, {endpoints} endpoint{}: every number fits",
                if endpoints == 1 { "" } else { "s" }
            );
            return Ok(());
        }
        let count = findings.len();
        let rows: Vec<_> = findings
            .into_iter()
            .map(|finding| [finding.job, finding.what])
            .collect();
        print!("{}", table::render(["JOB", "WHAT DOES NOT FIT"], &rows));
        bail!("{count} findings")
    }
}

/// What differs between the catalog and the queues and event sources that are there.
async fn deployed(environment: &Environment) -> Result<Vec<Finding>> {
    let sqs = aws_sdk_sqs::Client::new(&environment.aws().await);
    let sources = event_sources(environment).await?;
    let mut findings = Vec::new();
    for spec in catalog::ALL {
        let mut expect = |what: &str, expected: String, found: Option<String>| {
            if found.as_deref() != Some(expected.as_str()) {
                let found = found.unwrap_or_else(|| "nothing".into());
                findings.push(Finding {
                    job: spec.name().to_owned(),
                    what: format!("{what} is {found}, and should be {expected}"),
                });
            }
        };
        let queue = environment.queue(spec.name());
        let attributes = attributes(&sqs, &queue).await;
        let attribute = |name: &str| attributes.get(name).cloned();
        expect(
            "VisibilityTimeout",
            spec.visibility_timeout().as_secs().to_string(),
            attribute("VisibilityTimeout"),
        );
        expect(
            "MessageRetentionPeriod",
            spec.retention().as_secs().to_string(),
            attribute("MessageRetentionPeriod"),
        );
        let redrive =
            attribute("RedrivePolicy").and_then(|policy| serde_json::from_str::<serde_json::Value>(&policy).ok());
        let receives = redrive.and_then(|policy| Some(policy.get("maxReceiveCount")?.to_string().replace('"', "")));
        expect("maxReceiveCount", spec.max_receive_count().to_string(), receives);
        let retention = self::attributes(&sqs, &format!("{queue}-dlq"))
            .await
            .get("MessageRetentionPeriod")
            .cloned();
        expect(
            "the DLQ's MessageRetentionPeriod",
            spec.dead_letter_retention().as_secs().to_string(),
            retention,
        );
        if spec.awaits_function {
            continue;
        }
        let source = sources.get(&queue).cloned().unwrap_or_default();
        let text = |value: &Value| match value {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        };
        expect("the event source", "Enabled".to_owned(), text(&source["State"]));
        expect("BatchSize", spec.batch.to_string(), text(&source["BatchSize"]));
        expect(
            "MaximumConcurrency",
            spec.concurrency.to_string(),
            text(&source["ScalingConfig"]["MaximumConcurrency"]),
        );
        expect(
            "FunctionResponseTypes",
            "ReportBatchItemFailures".to_owned(),
            text(&source["FunctionResponseTypes"][0]),
        );
    }
    Ok(findings)
}

/// The attributes of a queue; none when it is not there.
async fn attributes(sqs: &aws_sdk_sqs::Client, queue: &str) -> std::collections::HashMap<String, String> {
    let read = async || {
        let url = sqs.get_queue_url().queue_name(queue).send().await.ok()?.queue_url?;
        let all = aws_sdk_sqs::types::QueueAttributeName::All;
        let answer = sqs
            .get_queue_attributes()
            .queue_url(url)
            .attribute_names(all)
            .send()
            .await
            .ok()?;
        Some(
            answer
                .attributes?
                .into_iter()
                .map(|(name, value)| (name.as_str().to_owned(), value))
                .collect(),
        )
    };
    read().await.unwrap_or_default()
}
