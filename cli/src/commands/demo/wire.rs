//! Queues, dead letters, and the mailbox of the local engine.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, Result, bail};
use aws_sdk_sqs::types::{Message as Received, MessageAttributeValue, SendMessageBatchRequestEntry};
use serde::Deserialize;

use super::JOB;
use super::cast::MARK;
use crate::aws::Aws;
use crate::environment::Environment;

/// What the run key of a second message for the same notification ends with.
pub(super) const AGAIN: &str = "-again";
/// What the run key of the bad message ends with.
pub(super) const MISSPELT: &str = "misspelt";
/// SQS takes this many at a time.
const BATCH: usize = 10;

/// A message to be.
pub(super) struct Message {
    pub(super) run_key: String,
    pub(super) body: String,
}

/// A mail as the engine's SES took it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Mail {
    pub(super) message_id: String,
    pub(super) to: Vec<String>,
    pub(super) subject: String,
    pub(super) body_text: String,
}

/// By account.
#[derive(Deserialize)]
struct Mailboxes {
    messages: HashMap<String, Vec<Mail>>,
}

/// A message in the DLQ.
pub(super) struct DeadLetter {
    pub(super) queue: String,
    pub(super) body: String,
    pub(super) attributes: HashMap<String, String>,
}

pub(super) struct Wire<'a> {
    environment: &'a Environment,
    sqs: aws_sdk_sqs::Client,
    aws: Aws,
    dead_letters: String,
    dead_letter_queue: String,
}

impl<'a> Wire<'a> {
    pub(super) async fn new(environment: &'a Environment) -> Result<Self> {
        let config = environment.aws().await;
        let sqs = aws_sdk_sqs::Client::new(&config);
        let dead_letter_queue = format!("{}-dlq", environment.queue(JOB));
        Ok(Self {
            environment,
            dead_letters: url(&sqs, &dead_letter_queue).await?,
            dead_letter_queue,
            aws: Aws::new(config)?,
            sqs,
        })
    }

    /// Puts messages on the queue of a job.
    pub(super) async fn send(&self, job: &str, messages: &[Message]) -> Result<()> {
        let queue = url(&self.sqs, &self.environment.queue(job)).await?;
        for batch in messages.chunks(BATCH) {
            let entries = batch.iter().zip(0..).map(|(message, id): (_, u8)| entry(message, id));
            let request = self.sqs.send_message_batch().queue_url(&queue);
            let answer = request.set_entries(Some(entries.collect::<Result<_>>()?)).send().await;
            let answer = answer.context("could not send to the queue")?;
            if let Some(failed) = answer.failed.first() {
                bail!(
                    "the queue refused a message: {}",
                    failed.message().unwrap_or(failed.code())
                );
            }
        }
        Ok(())
    }

    /// Removes the bad messages of earlier demos, and nobody else's.
    pub(super) async fn clear_dead_letters(&self) -> Result<()> {
        for letter in self.dead().await? {
            if run_key(&letter).is_some_and(|key| key.starts_with(MARK)) {
                let delete = self.sqs.delete_message().queue_url(&self.dead_letters);
                delete.set_receipt_handle(letter.receipt_handle).send().await?;
            }
        }
        Ok(())
    }

    /// The dead letters of one demo.
    pub(super) async fn dead_letters(&self, prefix: &str) -> Result<Vec<DeadLetter>> {
        let letters = self.dead().await?.into_iter();
        let ours = letters.filter(|letter| run_key(letter).is_some_and(|key| key.starts_with(prefix)));
        let open = ours.map(|letter| DeadLetter {
            queue: self.dead_letter_queue.clone(),
            body: letter.body.unwrap_or_default(),
            attributes: letter
                .message_attributes
                .unwrap_or_default()
                .into_iter()
                .filter_map(|(name, value)| Some((name, value.string_value?)))
                .collect(),
        });
        Ok(open.collect())
    }

    /// Everything in the DLQ. What was read is out of sight for two seconds; when that is too short, it comes again.
    async fn dead(&self) -> Result<Vec<Received>> {
        let (mut letters, mut seen) = (Vec::new(), HashSet::new());
        loop {
            let receive = self.sqs.receive_message().queue_url(&self.dead_letters);
            let receive = receive.max_number_of_messages(10).visibility_timeout(2);
            let answer = receive.message_attribute_names("All").send().await;
            let mut page = answer
                .context("could not read the dead letters")?
                .messages
                .unwrap_or_default();
            page.retain(|letter| seen.insert(letter.message_id.clone()));
            if page.is_empty() {
                return Ok(letters);
            }
            letters.append(&mut page);
        }
    }

    /// The mails to a domain, as the engine's SES took them.
    pub(super) async fn mails(&self, domain: &str) -> Result<Vec<Mail>> {
        let answer = self.aws.get("ses", "/_ministack/ses/messages").await;
        let boxes = Mailboxes::deserialize(answer.context("could not read the mailbox of the engine")?)?;
        let ends = format!("@{domain}");
        let mails = boxes.messages.into_values().flatten();
        Ok(mails
            .filter(|mail| mail.to.iter().any(|to| to.ends_with(&ends)))
            .collect())
    }
}

async fn url(sqs: &aws_sdk_sqs::Client, queue: &str) -> Result<String> {
    let found = sqs.get_queue_url().queue_name(queue).send().await;
    let found = found.with_context(|| format!("could not find the queue {queue}"))?;
    found.queue_url.context("SQS named no queue URL")
}

fn entry(message: &Message, id: u8) -> Result<SendMessageBatchRequestEntry> {
    let key = MessageAttributeValue::builder()
        .data_type("String")
        .string_value(&message.run_key)
        .build()?;
    let entry = SendMessageBatchRequestEntry::builder()
        .id(id.to_string())
        .message_body(&message.body);
    Ok(entry.message_attributes("runKey", key).build()?)
}

fn run_key(letter: &Received) -> Option<&str> {
    letter.message_attributes.as_ref()?.get("runKey")?.string_value()
}
