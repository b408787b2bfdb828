use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::DisplayErrorContext;
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, MessageAttributeValue, SendMessageBatchRequestEntry,
};

use crate::{Aws, Error};

/// The name of a job's DLQ is the name of its queue and this.
pub const DEAD_LETTER_SUFFIX: &str = "-dlq";

/// SQS takes at most ten entries, and at most 1 MiB of them, in one call.
const ENTRIES: usize = 10;
const BYTES: usize = 1024 * 1024;

/// The queues of this deployment, by the name of their job.
#[derive(Debug)]
pub struct Queues {
    aws: Aws,
    client: OnceLock<Client>,
    url_prefix: String,
}

/// A message on its way to a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The job's name, or the job's name and [`DEAD_LETTER_SUFFIX`].
    pub queue: String,
    /// The body.
    pub body: String,
    /// String attributes.
    pub attributes: BTreeMap<String, String>,
    /// 0 to 900 seconds.
    pub delay: Duration,
}

impl Outgoing {
    /// The delay as SQS takes it: whole seconds, 900 at most.
    pub fn delay_seconds(&self) -> i32 {
        self.delay.as_secs().min(900) as i32
    }

    /// The size that SQS counts.
    fn bytes(&self) -> usize {
        self.body.len()
            + self
                .attributes
                .iter()
                .map(|(name, value)| name.len() + value.len() + "String".len())
                .sum::<usize>()
    }
}

impl Queues {
    /// `QUEUE_URL_PREFIX` is the URL of a queue up to the job's name.
    pub fn new(aws: &Aws, url_prefix: impl Into<String>) -> Self {
        Self {
            aws: aws.clone(),
            client: OnceLock::new(),
            url_prefix: url_prefix.into(),
        }
    }

    fn client(&self) -> &Client {
        self.client.get_or_init(|| Client::new(&self.aws.of("SQS")))
    }

    fn url(&self, queue: &str) -> String {
        format!("{}{queue}", self.url_prefix)
    }

    /// Sends messages, tens at a time. Answers, for each, whether SQS has it.
    pub async fn send(&self, messages: &[Outgoing]) -> Vec<Result<(), Error>> {
        let mut results: Vec<Option<Result<(), Error>>> = messages.iter().map(|_| None).collect();
        for group in groups(messages) {
            let queue = &messages[group[0]].queue;
            let answer = self
                .client()
                .send_message_batch()
                .queue_url(self.url(queue))
                .set_entries(Some(entries(messages, &group)))
                .send()
                .await;
            match answer {
                Ok(answer) => {
                    for sent in answer.successful() {
                        note(&mut results, sent.id(), Ok(()));
                    }
                    for failed in answer.failed() {
                        let what = format!(
                            "queue `{queue}` refused a message: {} {}",
                            failed.code(),
                            failed.message().unwrap_or_default()
                        );
                        let error = if failed.sender_fault() {
                            Error::permanent(what)
                        } else {
                            Error::transient(what)
                        };
                        note(&mut results, failed.id(), Err(error));
                    }
                }
                Err(error) => {
                    let cause = DisplayErrorContext(&error).to_string();
                    for index in group {
                        results[index] = Some(Err(Error::transient(format!("queue `{queue}` did not take a message"))
                            .caused_by(cause.clone())));
                    }
                }
            }
        }
        results
            .into_iter()
            .map(|r| r.unwrap_or_else(|| Err(Error::transient("the queue said nothing of a message"))))
            .collect()
    }

    /// Hides received messages for as long as given (whole seconds, rounded up; at most twelve hours). Best effort:
    /// without it they come back at the end of their visibility timeout.
    pub async fn hide(&self, queue: &str, receipts: &[(String, Duration)]) -> Result<(), Error> {
        for chunk in receipts.chunks(ENTRIES) {
            let entries = chunk.iter().enumerate().filter_map(|(index, (receipt, wait))| {
                let seconds = wait.as_millis().div_ceil(1000).min(43_200) as i32;
                let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(index.to_string());
                entry.receipt_handle(receipt).visibility_timeout(seconds).build().ok()
            });
            let call = self
                .client()
                .change_message_visibility_batch()
                .queue_url(self.url(queue))
                .set_entries(Some(entries.collect()));
            call.send().await.map_err(|error| {
                Error::transient(format!("queue `{queue}` did not hide messages"))
                    .caused_by(DisplayErrorContext(&error).to_string())
            })?;
        }
        Ok(())
    }
}

fn note(results: &mut [Option<Result<(), Error>>], id: &str, result: Result<(), Error>) {
    if let Some(slot) = id.parse::<usize>().ok().and_then(|index| results.get_mut(index)) {
        *slot = Some(result);
    }
}

/// Indices of messages that fit into one call: same queue, at most [`ENTRIES`], at most [`BYTES`].
fn groups(messages: &[Outgoing]) -> Vec<Vec<usize>> {
    let mut by_queue: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, message) in messages.iter().enumerate() {
        by_queue.entry(&message.queue).or_default().push(index);
    }
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for indices in by_queue.into_values() {
        let (mut group, mut bytes) = (Vec::new(), 0);
        for index in indices {
            let size = messages[index].bytes();
            if !group.is_empty() && (group.len() == ENTRIES || bytes + size > BYTES) {
                groups.push(std::mem::take(&mut group));
                bytes = 0;
            }
            bytes += size;
            group.push(index);
        }
        groups.push(group);
    }
    groups
}

fn entries(messages: &[Outgoing], group: &[usize]) -> Vec<SendMessageBatchRequestEntry> {
    let entry = |&index: &usize| {
        let message = &messages[index];
        let mut entry = SendMessageBatchRequestEntry::builder()
            .id(index.to_string())
            .message_body(&message.body);
        if !message.delay.is_zero() {
            entry = entry.delay_seconds(message.delay_seconds());
        }
        for (name, value) in message.attributes.iter().filter(|(_, value)| !value.is_empty()) {
            if let Ok(value) = MessageAttributeValue::builder()
                .data_type("String")
                .string_value(value)
                .build()
            {
                entry = entry.message_attributes(name, value);
            }
        }
        entry.build().ok()
    };
    group.iter().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(queue: &str, bytes: usize) -> Outgoing {
        Outgoing {
            queue: queue.into(),
            body: "x".repeat(bytes),
            attributes: BTreeMap::new(),
            delay: Duration::ZERO,
        }
    }

    #[test]
    fn a_call_carries_one_queue_ten_messages_and_one_mebibyte_at_most() {
        let mut messages: Vec<_> = (0..12).map(|_| message("a", 10)).collect();
        messages.extend([message("b", 700_000), message("b", 700_000), message("b", 1)]);
        let sizes: Vec<_> = groups(&messages).iter().map(Vec::len).collect();
        assert_eq!(sizes, [10, 2, 1, 2]);
    }
}
