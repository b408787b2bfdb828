//! The event source: from a queue to a function, with what AWS does to a batch that fails.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use super::store::{Delivery, show_id};
use super::{Clock, Queue};
use crate::lambda::{Failure, Lambda};

/// Longer than SQS keeps any message: whoever still has some after that will have them for ever.
const PATIENCE: Duration = Duration::from_secs(15 * 24 * 3600);

/// How a queue feeds a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batches {
    /// Messages in one event, at most.
    pub size: usize,
    /// Events on their way at once, at most.
    pub concurrency: usize,
}

/// What a queue went through until it was empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Events handed over.
    pub invocations: usize,
    /// Messages handed over, each as often as it was.
    pub deliveries: usize,
    /// Messages that the function handed back in `batchItemFailures`, or with a malformed answer.
    pub returned: usize,
    /// Invocations without an answer.
    pub failures: Vec<Failure>,
    /// By how much the virtual clock moved.
    pub waited: Duration,
}

enum Verdict {
    Returned(usize),
    Failed(Failure),
}

impl Queue {
    /// Hands over what is visible, and what becomes visible meanwhile, until nothing is.
    pub async fn pump(&self, name: &str, function: &Lambda, batches: Batches) -> Drained {
        let mut drained = Drained::default();
        let mut flights = FuturesUnordered::new();
        loop {
            // Asked for before looking, so that nothing can arrive unseen in between.
            let arrived = self.shared.arrived.notified();
            while flights.len() < batches.concurrency {
                let batch = self.store().receive(name, batches.size, None);
                if batch.is_empty() {
                    break;
                }
                drained.invocations += 1;
                drained.deliveries += batch.len();
                flights.push(self.hand_over(name, function, batch));
            }
            let full = flights.len() >= batches.concurrency;
            tokio::select! {
                verdict = flights.next() => match verdict {
                    None => return drained,
                    Some(Verdict::Returned(messages)) => drained.returned += messages,
                    Some(Verdict::Failed(failure)) => drained.failures.push(failure),
                },
                () = arrived, if !full => {}
                () = self.until_due(name), if !full => {}
            }
        }
    }

    /// Pumps until the queue is empty: nothing visible, in flight or delayed. With the virtual clock, whatever is
    /// hidden is due at once; with the real one, this waits.
    ///
    /// # Panics
    ///
    /// When messages are left after fifteen virtual days.
    pub async fn drain(&self, name: &str, function: &Lambda, batches: Batches) -> Drained {
        self.drain_by(name, function, batches, async |wait| self.wait(name, wait).await)
            .await
    }

    /// As [`drain`](Self::drain), with another way to let time pass.
    pub(crate) async fn drain_by(
        &self,
        name: &str,
        function: &Lambda,
        batches: Batches,
        pass: impl AsyncFn(Duration),
    ) -> Drained {
        let mut all = Drained::default();
        loop {
            let Drained {
                invocations,
                deliveries,
                returned,
                failures,
                ..
            } = self.pump(name, function, batches).await;
            all.invocations += invocations;
            all.deliveries += deliveries;
            all.returned += returned;
            all.failures.extend(failures);
            let Some(wait) = self.next_due(name) else { return all };
            assert!(
                all.waited < PATIENCE,
                "{name} never empties; it still holds {:?}\nand the function said\n{}",
                self.messages(name),
                function.logs(),
            );
            pass(wait).await;
            all.waited += wait;
        }
    }

    async fn wait(&self, name: &str, wait: Duration) {
        match self.shared.clock {
            Clock::Virtual => self.advance(wait),
            Clock::Real => tokio::select! {
                () = self.until_due(name) => {}
                () = self.shared.arrived.notified() => {}
            },
        }
    }

    /// With the virtual clock, never.
    async fn until_due(&self, name: &str) {
        let real = self.shared.clock == Clock::Real;
        let due = if real { self.next_due(name) } else { None };
        match due {
            // The wheel of timers turns in milliseconds.
            Some(wait) => tokio::time::sleep(wait.max(Duration::from_millis(1))).await,
            None => std::future::pending().await,
        }
    }

    async fn hand_over(&self, name: &str, function: &Lambda, batch: Vec<Delivery>) -> Verdict {
        let answer = match function.invoke_bytes(event(name, &batch)).await {
            Ok(answer) => answer,
            // The batch stays hidden until its visibility ends.
            Err(failure) => return Verdict::Failed(failure),
        };
        let failed = failed(&answer, &batch);
        let mut store = self.store();
        for (delivery, _) in batch.iter().zip(&failed).filter(|(_, failed)| !**failed) {
            store.delete(name, delivery.receipt);
        }
        Verdict::Returned(failed.iter().filter(|failed| **failed).count())
    }
}

#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "Records")]
    records: Vec<Record<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    message_id: String,
    receipt_handle: String,
    body: &'a str,
    attributes: SystemAttributes,
    message_attributes: StringAttributes<'a>,
    md5_of_body: &'a str,
    event_source: &'a str,
    #[serde(rename = "eventSourceARN")]
    event_source_arn: &'a str,
    aws_region: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SystemAttributes {
    approximate_receive_count: String,
    approximate_first_receive_timestamp: String,
    sent_timestamp: String,
    sender_id: &'static str,
}

struct StringAttributes<'a>(&'a BTreeMap<String, String>);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StringAttribute<'a> {
    string_value: &'a str,
    string_list_values: [(); 0],
    binary_list_values: [(); 0],
    data_type: &'static str,
}

impl Serialize for StringAttributes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.0 {
            let value = StringAttribute {
                string_value: value,
                string_list_values: [],
                binary_list_values: [],
                data_type: "String",
            };
            map.serialize_entry(name, &value)?;
        }
        map.end()
    }
}

fn event(queue: &str, batch: &[Delivery]) -> Bytes {
    let arn = format!("arn:aws:sqs:us-east-1:{}:{queue}", super::ACCOUNT);
    let event = Event {
        records: batch.iter().map(|delivery| record(delivery, &arn)).collect(),
    };
    serde_json::to_vec(&event)
        .expect("strings and numbers are always JSON")
        .into()
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Answer<'a> {
    #[serde(borrow)]
    batch_item_failures: Option<Vec<Item<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item<'a> {
    #[serde(borrow)]
    item_identifier: Cow<'a, str>,
}

fn record<'a>(delivery: &'a Delivery, queue_arn: &'a str) -> Record<'a> {
    Record {
        message_id: show_id(delivery.id),
        receipt_handle: delivery.receipt.to_string(),
        body: &delivery.body,
        attributes: SystemAttributes {
            approximate_receive_count: delivery.receives.to_string(),
            approximate_first_receive_timestamp: delivery.first_received_ms.to_string(),
            sent_timestamp: delivery.sent_ms.to_string(),
            sender_id: "AIDATESTKIT",
        },
        message_attributes: StringAttributes(&delivery.attributes),
        md5_of_body: "",
        event_source: "aws:sqs",
        event_source_arn: queue_arn,
        aws_region: "us-east-1",
    }
}

/// For each message, whether the function handed it back. As on AWS, an answer that cannot be understood, or that
/// names a message which was not in the batch, hands everything back; an empty one nothing.
fn failed(answer: &[u8], batch: &[Delivery]) -> Vec<bool> {
    let mut failed = vec![false; batch.len()];
    if answer.trim_ascii().is_empty() {
        return failed;
    }
    let Ok(answer) = serde_json::from_slice::<Option<Answer<'_>>>(answer) else {
        return vec![true; batch.len()];
    };
    for item in answer.and_then(|answer| answer.batch_item_failures).unwrap_or_default() {
        match batch
            .iter()
            .position(|delivery| show_id(delivery.id) == item.item_identifier)
        {
            Some(index) => failed[index] = true,
            None => return vec![true; batch.len()],
        }
    }
    failed
}
