//! What wakes `email-events`: what SES reports of a mail, in any of the wrappings that it comes in, and what a recipient asks for
//! (spec: comms, C5 and C8). None of these types has `Debug`: they hold addresses and tokens.

use std::collections::BTreeMap;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::{Message, Timestamp};

/// Apply what SES reports of a mail, or what its recipient asks for.
///
/// An event of SES may also come as the `Message` of an SNS envelope, or as the `detail` of one of EventBridge.
#[derive(Clone, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum EmailEvent {
    /// SES reports.
    Ses(Box<SesEvent>),
    /// Somebody followed a signed link.
    Unsubscribe(Unsubscribe),
}

/// Switch off what the token says.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename = "unsubscribe", rename_all = "camelCase")]
pub struct Unsubscribe {
    /// The last part of an unsubscribe link.
    pub token: String,
    /// Where it was asked for.
    pub source: UnsubscribeSource,
    /// Who asked, for the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// With what, for the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// Replaces "now" (replays and tests).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Timestamp>,
}

/// Where somebody unsubscribed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnsubscribeSource {
    /// The button of a mail program (RFC 8058).
    OneClick,
    /// The link in a mail.
    EmailLink,
    /// The platform's page of preferences.
    PreferenceCenter,
    /// Support, on somebody's behalf.
    Admin,
}

impl UnsubscribeSource {
    /// The name in SQL and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OneClick => "one_click",
            Self::EmailLink => "email_link",
            Self::PreferenceCenter => "preference_center",
            Self::Admin => "admin",
        }
    }
}

/// One event of SES, as event publishing sends it.
/// <https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html>
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
pub struct SesEvent {
    /// The mail that it is about.
    pub mail: SentMail,
    /// What happened to it.
    #[serde(flatten)]
    pub report: SesReport,
    /// All of it, but for the mail's headers.
    #[serde(skip)]
    pub raw: Value,
}

/// The mail of an event.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SentMail {
    /// SES's own id.
    pub message_id: String,
    /// When SES took it.
    pub timestamp: Timestamp,
    /// To whom it went.
    #[serde(default)]
    pub destination: Vec<String>,
    /// What we tagged it with.
    #[serde(default)]
    pub tags: BTreeMap<String, Vec<String>>,
}

impl SentMail {
    /// The row of the ledger that the mail was tagged with.
    pub fn email_id(&self) -> Option<&str> {
        self.tags.get("email_id")?.first().map(String::as_str)
    }
}

/// What SES reports.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "eventType", rename_all_fields = "camelCase")]
pub enum SesReport {
    /// SES took it.
    Send,
    /// The recipient's server took it.
    Delivery {
        /// When, and what the server said.
        delivery: Delivered,
    },
    /// It is not there yet; SES goes on trying.
    DeliveryDelay {
        /// Since when, and why.
        delivery_delay: Delayed,
    },
    /// It cannot be delivered.
    Bounce {
        /// Why.
        bounce: Bounced,
    },
    /// The recipient calls it spam.
    Complaint {
        /// How.
        complaint: Complained,
    },
    /// SES found a virus in it.
    Reject {
        /// Why.
        #[serde(default)]
        reject: Rejected,
    },
    /// It was opened.
    Open {
        /// When, and with what.
        open: Engaged,
    },
    /// A link of it was followed.
    Click {
        /// When, with what, and which.
        click: Engaged,
    },
    /// SES could not fill in a template of its own.
    #[serde(rename = "Rendering Failure")]
    RenderingFailure {
        /// Why.
        #[serde(default)]
        failure: RenderingFailed,
    },
    /// The recipient changed what they want, at SES.
    Subscription {
        /// How.
        subscription: Subscription,
    },
    /// Something newer than this program.
    #[serde(other)]
    Other,
}

/// Of a delivery.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Delivered {
    /// When the server took it.
    pub timestamp: Timestamp,
    /// By whom it was taken.
    #[serde(default)]
    pub recipients: Vec<String>,
    /// What the server said.
    #[serde(default)]
    pub smtp_response: Option<String>,
}

/// Of a delay.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Delayed {
    /// When it was noticed.
    pub timestamp: Timestamp,
    /// A word for the cause.
    #[serde(default)]
    pub delay_type: Option<String>,
    /// Who waits for it.
    #[serde(default)]
    pub delayed_recipients: Vec<Recipient>,
}

/// Of a bounce.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bounced {
    /// Permanent, Transient or Undetermined.
    pub bounce_type: String,
    /// More about the cause.
    #[serde(default)]
    pub bounce_sub_type: String,
    /// Who did not get it.
    #[serde(default)]
    pub bounced_recipients: Vec<Recipient>,
    /// When the server said so.
    pub timestamp: Timestamp,
    /// SES's id of this report.
    #[serde(default)]
    pub feedback_id: String,
}

/// Of a complaint.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Complained {
    /// Who may have complained.
    #[serde(default)]
    pub complained_recipients: Vec<Recipient>,
    /// When the provider said so.
    pub timestamp: Timestamp,
    /// SES's id of this report.
    #[serde(default)]
    pub feedback_id: String,
    /// `OnAccountSuppressionList`: SES did not even try.
    #[serde(default)]
    pub complaint_sub_type: Option<String>,
    /// abuse, not-spam, …, as the provider says.
    #[serde(default)]
    pub complaint_feedback_type: Option<String>,
    /// What reported it.
    #[serde(default)]
    pub user_agent: Option<String>,
}

/// Of a rejection.
#[derive(Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct Rejected {
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Of an opening or a click.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Engaged {
    /// When.
    pub timestamp: Timestamp,
    /// From where.
    #[serde(default)]
    pub ip_address: Option<String>,
    /// With what.
    #[serde(default)]
    pub user_agent: Option<String>,
    /// What was clicked.
    #[serde(default)]
    pub link: Option<String>,
}

/// Of a failed rendering.
#[derive(Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RenderingFailed {
    /// Why.
    #[serde(default)]
    pub error_message: Option<String>,
}

/// Of a subscription.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Subscription {
    /// When.
    pub timestamp: Timestamp,
    /// How the recipient said it.
    #[serde(default)]
    pub source: String,
    /// What they want from now on.
    #[serde(default)]
    pub new_topic_preferences: TopicPreferences,
}

/// What a recipient wants.
#[derive(Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopicPreferences {
    /// Nothing any more.
    #[serde(default)]
    pub unsubscribe_all: bool,
    /// Topic by topic.
    #[serde(default)]
    pub topic_subscription_status: Vec<TopicSubscription>,
}

/// Of one topic.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopicSubscription {
    /// OptIn or OptOut.
    #[serde(default)]
    pub subscription_status: String,
}

/// One recipient of a bounce, a delay or a complaint.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Recipient {
    /// The address.
    pub email_address: String,
    /// What its server said.
    #[serde(default)]
    pub diagnostic_code: Option<String>,
}

impl SesEvent {
    /// Whom it is about: those that it names, else those of the mail.
    pub fn recipients(&self) -> Vec<&str> {
        let named: Vec<&str> = match &self.report {
            SesReport::Bounce { bounce } => addresses(&bounce.bounced_recipients),
            SesReport::Complaint { complaint } => addresses(&complaint.complained_recipients),
            SesReport::DeliveryDelay { delivery_delay } => addresses(&delivery_delay.delayed_recipients),
            SesReport::Delivery { delivery } => delivery.recipients.iter().map(String::as_str).collect(),
            _ => Vec::new(),
        };
        if named.is_empty() {
            return self.mail.destination.iter().map(String::as_str).collect();
        }
        named
    }
}

fn addresses(recipients: &[Recipient]) -> Vec<&str> {
    recipients.iter().map(|recipient| &*recipient.email_address).collect()
}

impl Message for EmailEvent {
    fn as_of(&self) -> Option<Timestamp> {
        match self {
            Self::Ses(_) => None,
            Self::Unsubscribe(asked) => asked.as_of,
        }
    }

    fn validate(&self) -> Result<(), String> {
        match self {
            Self::Ses(event) if event.mail.message_id.is_empty() => Err("`mail.messageId` is empty".into()),
            Self::Ses(event) if event.recipients().iter().all(|address| address.trim().is_empty()) => {
                Err("the event names no recipient".into())
            }
            Self::Unsubscribe(asked) if asked.ip.as_ref().is_some_and(|ip| ip.parse::<IpAddr>().is_err()) => {
                Err("`ip` is no IP address".into())
            }
            _ => Ok(()),
        }
    }
}

impl<'de> Deserialize<'de> for EmailEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let body = unwrapped(Value::deserialize(deserializer)?).map_err(D::Error::custom)?;
        let read = match body.get("kind").map(Value::as_str) {
            None => of_ses(body),
            Some(Some("unsubscribe")) => typed(body).map(Self::Unsubscribe),
            Some(kind) => Err(format!("`kind` is {}, not unsubscribe", kind.unwrap_or("no text"))),
        };
        read.map_err(D::Error::custom)
    }
}

/// What an SNS or EventBridge envelope holds, or the body itself.
fn unwrapped(mut body: Value) -> Result<Value, String> {
    if body.get("detail-type").is_some() {
        return Ok(body["detail"].take());
    }
    match (body.get("Type").and_then(Value::as_str), body.get("Message")) {
        (Some("Notification"), Some(Value::String(message))) => {
            serde_json::from_str(message).map_err(|error| format!("the `Message` of SNS is not JSON: {error}"))
        }
        (Some(other), _) => Err(format!("an SNS message of type {other}, without an event")),
        (None, _) => Ok(body),
    }
}

fn of_ses(mut body: Value) -> Result<EmailEvent, String> {
    if let Some(mail) = body.get_mut("mail").and_then(Value::as_object_mut) {
        // Subject, names and addresses of the mail: nobody needs them again.
        for field in ["headers", "commonHeaders", "headersTruncated"] {
            mail.remove(field);
        }
    }
    let event: SesEvent = typed(body.clone())?;
    Ok(EmailEvent::Ses(Box::new(SesEvent { raw: body, ..event })))
}

fn typed<T: DeserializeOwned>(body: Value) -> Result<T, String> {
    serde_path_to_error::deserialize(body).map_err(|error| match error.path().to_string() {
        path if path == "." => error.into_inner().to_string(),
        path => format!("`{path}`: {}", error.inner()),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::decode;

    fn bounce() -> Value {
        json!({
            "eventType": "Bounce",
            "mail": {
                "messageId": "0100", "timestamp": "2025-10-20T09:00:03Z", "destination": ["a@x.com"],
                "headers": [{ "name": "Subject", "value": "secret" }], "tags": { "email_id": ["e1"] }
            },
            "bounce": {
                "bounceType": "Permanent", "bounceSubType": "General", "feedbackId": "f", "timestamp": "2025-10-20T09:00:05Z",
                "bouncedRecipients": [{ "emailAddress": "a@x.com", "diagnosticCode": "smtp; 550" }]
            }
        })
    }

    fn ses(body: Value) -> SesEvent {
        match decode(body) {
            Ok(EmailEvent::Ses(event)) => *event,
            Ok(EmailEvent::Unsubscribe(_)) => panic!("not of SES"),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn an_event_is_the_same_raw_in_an_sns_envelope_and_in_one_of_eventbridge() {
        let sns = json!({ "Type": "Notification", "MessageId": "m", "Message": bounce().to_string() });
        let bridge = json!({ "version": "0", "id": "i", "detail-type": "Email Bounced", "source": "aws.ses", "detail": bounce() });
        for body in [bounce(), sns, bridge] {
            let event = ses(body);
            assert!(matches!(&event.report, SesReport::Bounce { bounce } if bounce.bounce_type == "Permanent"));
            assert_eq!(
                (event.mail.email_id(), event.recipients()),
                (Some("e1"), vec!["a@x.com"])
            );
            assert!(!event.raw.to_string().contains("secret"));
        }
    }

    #[test]
    fn an_event_that_we_do_not_know_is_read_and_one_that_is_broken_says_where() {
        let mut event = bounce();
        event["eventType"] = json!("Teleport");
        assert!(matches!(ses(event).report, SesReport::Other));
        for (body, reason) in [
            (json!({}), "invalid message: missing field `mail`"),
            (
                json!({ "kind": "resubscribe" }),
                "invalid message: `kind` is resubscribe, not unsubscribe",
            ),
            (
                json!({ "kind": "unsubscribe", "token": "t", "source": "fax" }),
                "unknown variant `fax`",
            ),
            (
                json!({ "kind": "unsubscribe", "token": "t", "source": "admin", "ip": "here" }),
                "`ip` is no IP address",
            ),
            (
                json!({ "Type": "SubscriptionConfirmation", "Message": "…" }),
                "an SNS message of type SubscriptionConfirmation",
            ),
            (
                json!({ "Type": "Notification", "Message": "Hello" }),
                "the `Message` of SNS is not JSON",
            ),
            (json!({ "detail-type": "Email Bounced" }), "invalid message: "),
            (
                json!({ "eventType": "Bounce", "mail": bounce()["mail"] }),
                "missing field `bounce`",
            ),
            (
                json!({ "eventType": "Send", "mail": { "messageId": "m", "timestamp": "2025-10-20T09:00:03Z" } }),
                "the event names no recipient",
            ),
        ] {
            let Err(error) = decode::<EmailEvent>(body.clone()) else {
                panic!("{body} was read")
            };
            assert!(error.to_string().contains(reason), "{body}: {error}");
        }
    }

    #[test]
    fn what_is_sent_is_what_is_read() {
        let asked = json!({ "kind": "unsubscribe", "token": "t", "source": "one_click", "ip": "2001:db8::1", "userAgent": "x" });
        let Ok(read) = decode::<EmailEvent>(asked.clone()) else {
            panic!("not read")
        };
        assert_eq!(serde_json::to_value(read).unwrap(), asked);
    }

    proptest! {
        #[test]
        fn no_body_makes_reading_panic(kind in ".{0,12}", text in ".{0,32}", n in any::<i64>()) {
            for body in [
                json!({ "kind": kind, "token": text }),
                json!({ "Type": kind, "Message": text }),
                json!({ "detail-type": kind, "detail": n }),
                json!({ "eventType": kind, "mail": { "messageId": text, "timestamp": n } }),
            ] {
                let _ = decode::<EmailEvent>(body);
            }
        }
    }
}
