//! `jobs enqueue`

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use aws_sdk_sqs::types::{MessageAttributeValue, SendMessageBatchRequestEntry};
use jobs::Spec;

use crate::environment::{Environment, Target};

/// SQS takes this much at a time.
const BATCH_MESSAGES: usize = 10;
const BATCH_BYTES: usize = 1024 * 1024;

/// Send messages to a job's queue: one, or one a line of a file or of the standard input.
#[derive(clap::Args)]
pub(crate) struct Enqueue {
    /// The job's name, e.g. notification-delivery.
    job: String,
    /// The message, a JSON object; without it, lines of the standard input.
    message: Option<String>,
    /// Send the lines of a file.
    #[arg(long, conflicts_with = "message")]
    file: Option<PathBuf>,
    /// The key that makes a second message with the same key the same run; for a single message.
    #[arg(long)]
    run_key: Option<String>,
    /// Send what the job will refuse, too.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    target: Target,
}

impl Enqueue {
    pub(crate) async fn run(self) -> Result<()> {
        let spec = find(&self.job)?;
        let messages = self.messages()?;
        if !self.force {
            for (number, message) in (1..).zip(&messages) {
                let refused = || {
                    format!(
                        "message {number} of {} is refused; --force sends it all the same",
                        messages.len()
                    )
                };
                accepts(spec, message).with_context(refused)?;
            }
        }
        if self.run_key.is_some() && messages.len() > 1 {
            bail!("--run-key would make all {} messages the same run", messages.len());
        }

        let environment = self.target.environment()?;
        let sent = send(&environment, spec, &messages, self.run_key.as_deref()).await?;
        let queue = environment.queue(spec.name());
        println!("sent {sent} to {queue}");
        Ok(())
    }

    fn messages(&self) -> Result<Vec<String>> {
        if let Some(message) = &self.message {
            return Ok(vec![message.clone()]);
        }
        let text = match &self.file {
            Some(file) => {
                std::fs::read_to_string(file).with_context(|| format!("could not read {}", file.display()))?
            }
            None if std::io::stdin().is_terminal() => bail!("there is no message: give one, or --file, or pipe lines"),
            None => std::io::read_to_string(std::io::stdin()).context("could not read the standard input")?,
        };
        let messages: Vec<_> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(str::to_owned)
            .collect();
        if messages.is_empty() {
            bail!("there is no message");
        }
        Ok(messages)
    }
}

/// Sends messages to a job's queue; answers how many, which is all.
///
/// # Errors
/// Says how many were sent before it failed.
pub(crate) async fn send(
    environment: &Environment,
    spec: &Spec,
    messages: &[String],
    run_key: Option<&str>,
) -> Result<usize> {
    let sqs = aws_sdk_sqs::Client::new(&environment.aws().await);
    let queue = environment.queue(spec.name());
    let found = sqs.get_queue_url().queue_name(&queue).send().await;
    let found = found.with_context(|| format!("could not find the queue {queue}"))?;
    let url = found.queue_url.context("SQS named no queue URL")?;
    let mut sent = 0;
    for batch in batches(messages) {
        let entries = (0..)
            .zip(batch)
            .map(|(id, message): (u8, _)| entry(id, message, run_key));
        let request = sqs
            .send_message_batch()
            .queue_url(&url)
            .set_entries(Some(entries.collect::<Result<_>>()?));
        let answer = request.send().await;
        let answer = answer.with_context(|| format!("sent {sent} of {} messages, but not the next", messages.len()))?;
        sent += answer.successful.len();
        if let Some(failed) = answer.failed.first() {
            let reason = failed.message().unwrap_or(failed.code());
            bail!(
                "sent {sent} of {} messages; the queue refused {}: {reason}",
                messages.len(),
                answer.failed.len()
            );
        }
    }
    Ok(sent)
}

fn entry(id: u8, message: &str, run_key: Option<&str>) -> Result<SendMessageBatchRequestEntry> {
    let mut entry = SendMessageBatchRequestEntry::builder()
        .id(id.to_string())
        .message_body(message);
    if let Some(key) = run_key {
        let value = MessageAttributeValue::builder()
            .data_type("String")
            .string_value(key)
            .build()?;
        entry = entry.message_attributes("runKey", value);
    }
    Ok(entry.build()?)
}

/// A declared job.
///
/// # Errors
/// Lists the names there are.
pub(crate) fn find(name: &str) -> Result<&'static Spec> {
    let names = || {
        jobs::catalog::ALL
            .iter()
            .map(|spec| spec.name())
            .collect::<Vec<_>>()
            .join(", ")
    };
    jobs::catalog::find(name).ok_or_else(|| anyhow!("no job is called {name}; there are: {}", names()))
}

fn accepts(spec: &Spec, message: &str) -> Result<()> {
    let body = serde_json::from_str(message).context("the message is not JSON")?;
    (spec.accepts)(body).map_err(|reason| anyhow!(reason))
}

/// Splits messages by what SQS takes in one call. One that is too big stands alone: SQS says so.
fn batches(messages: &[String]) -> Vec<&[String]> {
    let mut batches = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, message) in messages.iter().enumerate() {
        if index > start && (index - start == BATCH_MESSAGES || bytes + message.len() > BATCH_BYTES) {
            batches.push(&messages[start..index]);
            (start, bytes) = (index, 0);
        }
        bytes += message.len();
    }
    batches.extend(messages.get(start..).filter(|rest| !rest.is_empty()));
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(messages: &[String]) -> Vec<usize> {
        batches(messages).iter().map(|batch| batch.len()).collect()
    }

    #[test]
    fn a_batch_has_ten_messages_at_most() {
        assert_eq!(sizes(&vec!["{}".to_owned(); 21]), [10, 10, 1]);
        assert!(sizes(&[]).is_empty());
    }

    #[test]
    fn a_batch_has_a_mebibyte_at_most() {
        let (big, huge) = ("x".repeat(BATCH_BYTES / 2), "x".repeat(BATCH_BYTES + 1));
        assert_eq!(sizes(&[big.clone(), big.clone(), big, huge, "{}".into()]), [2, 1, 1, 1]);
    }

    #[test]
    fn a_refusal_says_why() {
        let spec = find("notification-delivery").unwrap();
        accepts(spec, r#"{"notificationId": "n1"}"#).unwrap();
        assert_eq!(accepts(spec, "{").unwrap_err().to_string(), "the message is not JSON");
        assert!(accepts(spec, "{}").unwrap_err().to_string().contains("notificationId"));
    }

    #[test]
    fn an_unknown_job_lists_the_known_ones() {
        let error = find("notify").err().unwrap().to_string();
        assert!(
            error.starts_with("no job is called notify; there are: notification-delivery, "),
            "{error}"
        );
    }
}
