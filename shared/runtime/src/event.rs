//! What wakes the function: an SQS batch, an EventBridge event, or a bare invocation with the message itself.

use std::collections::HashMap;

use chrono::DateTime;
use jobs::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

/// Attributes that only a dead letter carries; a message that has them was sent round again.
pub(crate) const DEAD_LETTER_MARK: &str = "reason";
pub(crate) const RUN_KEY: &str = "runKey";
pub(crate) const TRACE_PARENT: &str = "traceparent";
pub(crate) const FIRST_SEEN: &str = "firstSeenAt";
pub(crate) const CONTINUATION: char = '#';
/// Longer run keys are cut; with the number of a continuation they stay well below what an index takes.
const LONGEST_RUN_KEY: usize = 180;

/// One request for a run, however it came.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub message_id: String,
    /// Absent when it did not come from SQS.
    pub receipt: Option<String>,
    pub body: String,
    pub attributes: HashMap<String, String>,
    pub receives: u32,
    pub sent_at: Option<Timestamp>,
    pub origin: Origin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Queue,
    Event,
    Invoke,
}

/// A whole event.
#[derive(Clone, Debug)]
pub(crate) enum Intake {
    Batch(Vec<Record>),
    Single(Box<Record>),
}

#[derive(Deserialize)]
struct SqsEvent {
    #[serde(rename = "Records")]
    records: Vec<SqsRecord>,
}

/// Whatever the records are.
#[derive(Deserialize)]
struct AnyRecords {
    #[serde(rename = "Records")]
    _records: IgnoredAny,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SqsRecord {
    message_id: String,
    receipt_handle: String,
    body: String,
    #[serde(default)]
    attributes: HashMap<String, String>,
    #[serde(default)]
    message_attributes: HashMap<String, SqsAttribute>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SqsAttribute {
    string_value: Option<String>,
}

#[derive(Deserialize)]
struct BusEvent {
    id: String,
    #[serde(rename = "detail-type")]
    _detail_type: String,
    time: Timestamp,
    #[serde(default)]
    detail: Option<Value>,
}

impl Intake {
    /// Reads an event. Anything that is neither an SQS batch nor an EventBridge event is a message itself; but records of another kind
    /// are refused, because the answer to a message would settle all of them.
    pub(crate) fn read(event: &RawValue, request_id: &str) -> Result<Self, &'static str> {
        // Serde would take an array for the fields of a struct, one after another.
        let object = if event.get().starts_with('{') { event.get() } else { "" };
        if let Ok(batch) = serde_json::from_str::<SqsEvent>(object) {
            return Ok(Self::Batch(batch.records.into_iter().map(Record::from).collect()));
        }
        if serde_json::from_str::<AnyRecords>(object).is_ok() {
            return Err("the event has `Records` that are not messages of SQS");
        }
        let (message_id, body, sent_at, origin) = match serde_json::from_str::<BusEvent>(object) {
            Ok(event) => {
                // A Scheduler or rule event without a detail is an empty message for the slot.
                let mut detail = event
                    .detail
                    .filter(|detail| !detail.is_null())
                    .unwrap_or_else(|| Value::Object(serde_json::Map::new()));
                if let Some(fields) = detail.as_object_mut() {
                    fields.entry("asOf").or_insert_with(|| event.time.to_rfc3339().into());
                }
                (event.id, detail.to_string(), Some(event.time), Origin::Event)
            }
            Err(_) => (request_id.to_owned(), event.get().to_owned(), None, Origin::Invoke),
        };
        Ok(Self::Single(Box::new(Record {
            message_id,
            receipt: None,
            body,
            attributes: HashMap::new(),
            receives: 1,
            sent_at,
            origin,
        })))
    }
}

impl From<SqsRecord> for Record {
    fn from(record: SqsRecord) -> Self {
        let number = |name: &str| record.attributes.get(name).and_then(|text| text.parse::<i64>().ok());
        Self {
            receives: number("ApproximateReceiveCount")
                .and_then(|n| u32::try_from(n).ok())
                .unwrap_or(1),
            sent_at: number("SentTimestamp").and_then(DateTime::from_timestamp_millis),
            message_id: record.message_id,
            receipt: Some(record.receipt_handle),
            body: record.body,
            attributes: record
                .message_attributes
                .into_iter()
                .filter_map(|(name, a)| Some((name, a.string_value?)))
                .collect(),
            origin: Origin::Queue,
        }
    }
}

/// By what a run is known, and why it came to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub run_key: String,
    pub trigger: &'static str,
}

impl Identity {
    /// The producer's `runKey` attribute, else the schedule's slot, else the SQS message id.
    pub(crate) fn of(record: &Record, body: &Value) -> Self {
        let named = record.attributes.get(RUN_KEY).filter(|key| !key.is_empty());
        let text = |field: &str| body.get(field).and_then(Value::as_str);
        let slot = || Some(format!("{}@{}", text("schedule")?, text("asOf")?));
        let (run_key, trigger) = match (named, slot()) {
            (Some(key), _) if record.attributes.contains_key(DEAD_LETTER_MARK) => (key.clone(), "redrive"),
            (Some(key), _) if key.contains(CONTINUATION) => (key.clone(), "continuation"),
            (Some(key), _) => (key.clone(), "message"),
            (None, Some(slot)) => (slot, "schedule"),
            (None, None) => {
                let trigger = match record.origin {
                    Origin::Queue => "message",
                    Origin::Event => "event",
                    Origin::Invoke => "invoke",
                };
                (record.message_id.clone(), trigger)
            }
        };
        Self {
            run_key: plain(&run_key),
            trigger,
        }
    }
}

/// A key that the ledger and SQS take. One that is too long keeps its beginning and gets a digest for the rest: two keys stay two.
fn plain(key: &str) -> String {
    let key: String = key
        .chars()
        .filter(|c| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}'))
        .collect();
    let (root, link) = link(&key).map_or((&*key, String::new()), |(root, n)| (root, format!("{CONTINUATION}{n}")));
    if root.chars().count() <= LONGEST_RUN_KEY {
        return key;
    }
    let digest: String = Sha256::digest(root)
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let beginning: String = root.chars().take(LONGEST_RUN_KEY - digest.len() - 1).collect();
    format!("{beginning}~{digest}{link}")
}

/// The first run of a chain, and the number of this one.
pub(crate) fn link(key: &str) -> Option<(&str, u64)> {
    let (root, n) = key.rsplit_once(CONTINUATION)?;
    Some((root, n.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(event: Value) -> Intake {
        Intake::read(&RawValue::from_string(event.to_string()).unwrap(), "request-1").unwrap()
    }

    fn record(intake: Intake) -> Record {
        match intake {
            Intake::Batch(records) => records.into_iter().next().unwrap(),
            Intake::Single(record) => *record,
        }
    }

    fn identity(record: &Record) -> (String, &'static str) {
        let identity = Identity::of(record, &serde_json::from_str(&record.body).unwrap_or_default());
        (identity.run_key, identity.trigger)
    }

    #[test]
    fn a_message_is_known_by_its_run_key_then_its_slot_then_its_message_id() {
        let sqs = |body: &str, attributes: Value| {
            record(read(
                json!({"Records": [{"messageId": "m", "receiptHandle": "r", "body": body, "messageAttributes": attributes}]}),
            ))
        };
        let key = |key: &str| json!({"runKey": {"stringValue": key, "dataType": "String"}});
        assert_eq!(identity(&sqs("{}", json!({}))), ("m".into(), "message"));
        assert_eq!(identity(&sqs("not json", json!({}))), ("m".into(), "message"));
        let slot = r#"{"schedule":"tick","asOf":"2025-10-20T09:00:00Z"}"#;
        assert_eq!(
            identity(&sqs(slot, json!({}))),
            ("tick@2025-10-20T09:00:00Z".into(), "schedule")
        );
        assert_eq!(identity(&sqs(slot, key("k"))), ("k".into(), "message"));
        assert_eq!(identity(&sqs(slot, key("k#2"))), ("k#2".into(), "continuation"));
        let mut redriven = key("k");
        redriven["reason"] = json!({"stringValue": "why"});
        assert_eq!(identity(&sqs("{}", redriven)), ("k".into(), "redrive"));
    }

    #[test]
    fn an_eventbridge_event_is_a_message_for_its_time() {
        let event = record(read(
            json!({"id": "e", "detail-type": "Scheduled Event", "source": "aws.events", "time": "2025-10-20T09:00:00Z", "detail": {}}),
        ));
        assert_eq!(identity(&event), ("e".into(), "event"));
        assert_eq!(event.body, r#"{"asOf":"2025-10-20T09:00:00+00:00"}"#);
    }

    #[test]
    fn anything_else_is_the_message_itself() {
        let record = record(read(json!({"notificationId": "n"})));
        assert_eq!(identity(&record), ("request-1".into(), "invoke"));
        assert_eq!(record.body, r#"{"notificationId":"n"}"#);
    }

    #[test]
    fn an_empty_batch_is_a_batch() {
        assert!(matches!(read(json!({"Records": []})), Intake::Batch(records) if records.is_empty()));
    }

    #[test]
    fn records_of_another_kind_are_refused() {
        for records in [
            json!({}),
            json!("x"),
            json!([{"s3": {}}]),
            json!([{"messageId": "m", "body": "{}"}]),
        ] {
            let event = RawValue::from_string(json!({ "Records": records }).to_string()).unwrap();
            assert!(Intake::read(&event, "request-1").is_err(), "{event}");
        }
    }

    #[test]
    fn a_long_run_key_is_cut_and_stays_itself() {
        let long = "ü".repeat(300);
        let short = plain(&long);
        assert_eq!(short.chars().count(), LONGEST_RUN_KEY);
        assert_eq!(plain(&short), short, "a second time changes nothing");
        assert_ne!(plain(&format!("{long}x")), short, "another key is another run");
        assert_eq!(plain(&format!("{long}#12")), format!("{short}#12"), "a chain goes on");
        assert_eq!(plain("a\0b"), "ab");
        assert_eq!(plain("order#7"), "order#7");
    }
}
