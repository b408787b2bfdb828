//! SQS's JSON protocol, with the limits that production would meet.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::store::{Delivery, Draft, Receipt, show_id};
use super::{ACCOUNT, Clock, Redrive, Rules, Shared};
use crate::http::{Answer, Reply, Request, Service};

const LONGEST_BODY: usize = 1 << 20;
const LONGEST_DELAY: u32 = 900;
const LONGEST_VISIBILITY: u32 = 43_200;
const MOST_ENTRIES: usize = 10;
const MOST_ATTRIBUTES: usize = 10;

#[derive(Clone)]
pub(super) struct Api(pub(super) Arc<Shared>);

const PREFIX: &str = "AWS.SimpleQueueService.";

/// Code and message of a refused call.
type Refused = (&'static str, String);

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Call {
    queue_url: String,
    queue_name: String,
    #[serde(flatten)]
    entry: Entry,
    entries: Vec<Entry>,
    max_number_of_messages: Option<usize>,
    wait_time_seconds: u64,
}

/// The part of a call that a batch repeats.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Entry {
    id: String,
    message_body: String,
    #[serde(deserialize_with = "string_attributes")]
    message_attributes: BTreeMap<String, String>,
    delay_seconds: u32,
    receipt_handle: String,
    visibility_timeout: Option<u32>,
}

fn string_attributes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Attribute {
        string_value: String,
    }
    let attributes = Option::<BTreeMap<String, Attribute>>::deserialize(deserializer)?.unwrap_or_default();
    Ok(attributes
        .into_iter()
        .map(|(name, attribute)| (name, attribute.string_value))
        .collect())
}

impl Service for Api {
    async fn reply(&self, request: Request) -> Reply {
        let action = request
            .header("x-amz-target")
            .and_then(|target| target.strip_prefix("AmazonSQS."));
        let answer = match serde_json::from_slice(&request.body()) {
            Ok(call) => self.perform(action.unwrap_or_default(), call).await,
            Err(error) => Err(("SerializationException", error.to_string())),
        };
        match answer {
            Ok(value) => Answer::json("200 OK", value.to_string()).into(),
            // The SDKs read the code that the older protocol had.
            Err((code, message)) => Answer::error("400 Bad Request", code.trim_start_matches(PREFIX), &message)
                .header("x-amzn-query-error", format_args!("{code};Sender"))
                .into(),
        }
    }
}

impl Api {
    async fn perform(&self, action: &str, call: Call) -> Result<Value, Refused> {
        if action == "GetQueueUrl" {
            let name = queue_name(&call.queue_name)?;
            return Ok(json!({ "QueueUrl": format!("{}/{ACCOUNT}/{name}", self.0.address) }));
        }
        let queue = queue_name(call.queue_url.rsplit('/').next().unwrap_or_default())?;
        let done = match action {
            "SendMessage" => self.send(queue, &call.entry),
            "SendMessageBatch" => {
                let size: usize = call.entries.iter().map(Entry::size).sum();
                if size > LONGEST_BODY {
                    return Err((
                        "AWS.SimpleQueueService.BatchRequestTooLong",
                        format!("{size} bytes are too many"),
                    ));
                }
                batch(&call.entries, |entry| self.send(queue, entry))
            }
            "ChangeMessageVisibility" => self.hide(queue, &call.entry),
            "ChangeMessageVisibilityBatch" => batch(&call.entries, |entry| self.hide(queue, entry)),
            "DeleteMessage" => self.delete(queue, &call.entry),
            "DeleteMessageBatch" => batch(&call.entries, |entry| self.delete(queue, entry)),
            "ReceiveMessage" => return self.receive(queue, &call).await,
            "GetQueueAttributes" => Ok(self.attributes(queue)),
            _ => Err((
                "AWS.SimpleQueueService.UnsupportedOperation",
                format!("this stand-in has no {action:?}"),
            )),
        };
        self.0.arrived.notify_waiters();
        done
    }

    fn send(&self, queue: &str, entry: &Entry) -> Result<Value, Refused> {
        let Entry {
            message_body: body,
            message_attributes: attributes,
            delay_seconds: delay,
            ..
        } = entry;
        let fit =
            |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
        let wrong = if body.is_empty() {
            "the message body is empty".to_owned()
        } else if entry.size() > LONGEST_BODY {
            format!("the message has more than {LONGEST_BODY} bytes")
        } else if *delay > LONGEST_DELAY {
            format!("a delay of {delay} s is longer than {LONGEST_DELAY} s")
        } else if attributes.len() > MOST_ATTRIBUTES {
            format!("{} attributes are more than {MOST_ATTRIBUTES}", attributes.len())
        } else if let Some((name, _)) = attributes
            .iter()
            .find(|(name, value)| name.is_empty() || value.is_empty())
        {
            format!("the attribute {name:?} is empty")
        } else if !body.chars().all(fit) {
            return Err(("InvalidMessageContents", "the body has a control character".to_owned()));
        } else {
            let delay = Duration::from_secs((*delay).into());
            let draft = Draft::new(body, attributes.clone(), delay);
            let id = self.0.store().send(queue, draft);
            return Ok(json!({ "MessageId": show_id(id), "MD5OfMessageBody": "" }));
        };
        Err(("InvalidParameterValue", wrong))
    }

    fn hide(&self, queue: &str, entry: &Entry) -> Result<Value, Refused> {
        let seconds = entry.visibility_timeout.unwrap_or(0);
        if seconds > LONGEST_VISIBILITY {
            let wrong = format!("a visibility of {seconds} s is longer than {LONGEST_VISIBILITY} s");
            return Err(("InvalidParameterValue", wrong));
        }
        let receipt = receipt(&entry.receipt_handle)?;
        if self.0.store().hide(queue, receipt, Duration::from_secs(seconds.into())) {
            Ok(json!({}))
        } else {
            Err((
                "AWS.SimpleQueueService.MessageNotInflight",
                format!("{receipt} is not in flight"),
            ))
        }
    }

    fn delete(&self, queue: &str, entry: &Entry) -> Result<Value, Refused> {
        self.0.store().delete(queue, receipt(&entry.receipt_handle)?);
        Ok(json!({}))
    }

    async fn receive(&self, queue: &str, call: &Call) -> Result<Value, Refused> {
        let most = call.max_number_of_messages.unwrap_or(1);
        if !(1..=MOST_ENTRIES).contains(&most) {
            return Err((
                "InvalidParameterValue",
                format!("cannot receive {most} messages at once"),
            ));
        }
        let hide = call
            .entry
            .visibility_timeout
            .map(|seconds| Duration::from_secs(seconds.into()));
        let wait = match self.0.clock {
            Clock::Virtual => Duration::ZERO,
            Clock::Real => Duration::from_secs(call.wait_time_seconds),
        };
        let deadline = tokio::time::sleep(wait);
        tokio::pin!(deadline);
        loop {
            let arrived = self.0.arrived.notified();
            let deliveries = self.0.store().receive(queue, most, hide);
            if !deliveries.is_empty() || deadline.is_elapsed() {
                return Ok(json!({ "Messages": deliveries.iter().map(message).collect::<Vec<_>>() }));
            }
            tokio::select! {
                () = arrived => {}
                () = &mut deadline => {}
            }
        }
    }

    fn attributes(&self, queue: &str) -> Value {
        let mut store = self.0.store();
        let [visible, in_flight, delayed] = store.counts(queue);
        let Rules { visibility, redrive } = store.rules(queue);
        let arn = |name: &str| format!("arn:aws:sqs:us-east-1:{ACCOUNT}:{name}");
        let mut attributes = json!({
            "QueueArn": arn(queue),
            "ApproximateNumberOfMessages": visible.to_string(),
            "ApproximateNumberOfMessagesNotVisible": in_flight.to_string(),
            "ApproximateNumberOfMessagesDelayed": delayed.to_string(),
            "VisibilityTimeout": visibility.as_secs().to_string(),
        });
        if let Some(Redrive {
            max_receives,
            dead_letters,
        }) = redrive
        {
            let policy = json!({ "maxReceiveCount": max_receives, "deadLetterTargetArn": arn(&dead_letters) });
            attributes["RedrivePolicy"] = policy.to_string().into();
        }
        json!({ "Attributes": attributes })
    }
}

impl Entry {
    fn size(&self) -> usize {
        let attributes = self.message_attributes.iter();
        self.message_body.len()
            + attributes
                .map(|(name, value)| name.len() + value.len() + "String".len())
                .sum::<usize>()
    }
}

fn batch(entries: &[Entry], perform: impl Fn(&Entry) -> Result<Value, Refused>) -> Result<Value, Refused> {
    if entries.is_empty() {
        return Err((
            "AWS.SimpleQueueService.EmptyBatchRequest",
            "there is no entry".to_owned(),
        ));
    }
    if entries.len() > MOST_ENTRIES {
        return Err((
            "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
            format!("{} entries", entries.len()),
        ));
    }
    let ids: HashSet<&str> = entries.iter().map(|entry| entry.id.as_str()).collect();
    if ids.len() < entries.len() {
        return Err((
            "AWS.SimpleQueueService.BatchEntryIdsNotDistinct",
            "two entries have the same id".to_owned(),
        ));
    }
    let (mut successful, mut failed) = (Vec::new(), Vec::new());
    for entry in entries {
        match perform(entry) {
            Ok(mut done) => {
                done["Id"] = entry.id.as_str().into();
                successful.push(done);
            }
            Err((code, message)) => {
                let code = code.trim_start_matches(PREFIX);
                failed.push(json!({ "Id": entry.id, "Code": code, "Message": message, "SenderFault": true }));
            }
        }
    }
    Ok(json!({ "Successful": successful, "Failed": failed }))
}

fn message(delivery: &Delivery) -> Value {
    let attributes = delivery.attributes.iter();
    let attributes = attributes.map(|(name, value)| (name, json!({ "DataType": "String", "StringValue": value })));
    json!({
        "MessageId": show_id(delivery.id),
        "ReceiptHandle": delivery.receipt.to_string(),
        "Body": &*delivery.body,
        "MD5OfBody": "",
        "Attributes": {
            "ApproximateReceiveCount": delivery.receives.to_string(),
            "ApproximateFirstReceiveTimestamp": delivery.first_received_ms.to_string(),
            "SentTimestamp": delivery.sent_ms.to_string(),
        },
        "MessageAttributes": attributes.collect::<BTreeMap<_, _>>(),
    })
}

fn receipt(handle: &str) -> Result<Receipt, Refused> {
    let invalid = |()| ("ReceiptHandleIsInvalid", format!("{handle:?} is not a receipt handle"));
    handle.parse().map_err(invalid)
}

fn queue_name(name: &str) -> Result<&str, Refused> {
    let fit = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if (1..=80).contains(&name.len()) && name.bytes().all(fit) {
        Ok(name)
    } else {
        Err((
            "AWS.SimpleQueueService.NonExistentQueue",
            format!("{name:?} cannot be the name of a standard queue"),
        ))
    }
}
