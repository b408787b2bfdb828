//! What an event of SES means: one fact for each recipient, with what follows from it.

use jobs::{Bounced, Complained, Engaged, Recipient, SesEvent, SesReport, Subscription, Timestamp};
use serde_json::Value;
use services::mail::feedback::{BounceClass, Feedback, rank};
use sha2::{Digest, Sha256};

use crate::agent;

/// Bounces that say something of the mail and nothing of the address.
const OF_THE_CONTENT: [&str; 3] = ["MessageTooLarge", "ContentRejected", "AttachmentRejected"];
/// The account's own list, not the recipient's server: mirrored into ours, and in no rate.
const OF_THE_ACCOUNT: [&str; 2] = ["OnAccountSuppressionList", "Suppressed"];
/// Longer texts of others are cut; a URL longer than this is no link of ours.
const LONGEST_TEXT: usize = 1000;
const LONGEST_URL: usize = 2000;

/// One event, one recipient: a row of `email_events`.
pub struct Fact {
    /// Equal for what is the same event, however often and in whatever wrapping it comes.
    pub key: String,
    pub ses_message_id: String,
    /// The row of the ledger, as we tagged the mail.
    pub email_id: Option<String>,
    /// The address, as SES writes it.
    pub recipient: String,
    /// It is the only one that the event names: then it is about the address that the mail was sent to.
    pub alone: bool,
    /// `email_events.event_type`.
    pub kind: &'static str,
    pub at: Timestamp,
    /// When SES took the mail.
    pub accepted_at: Timestamp,
    pub effect: Effect,
    pub bounce_type: Option<String>,
    pub bounce_sub_type: Option<String>,
    pub diagnostic: Option<String>,
    pub feedback_type: Option<String>,
    pub clicked_url: Option<String>,
    /// A program did it, not a person.
    pub machine: bool,
    pub ip_address: Option<String>,
    pub user_agent: Option<String>,
    pub device_type: Option<&'static str>,
    pub raw: Value,
}

/// What a fact changes beyond its own row and the ledger's stamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    None,
    /// The address counts one more mail.
    Sent,
    /// A person opened it.
    Opened,
    /// A person followed a link.
    Clicked,
    /// The address takes no mail.
    HardBounce,
    /// The address did not take this mail; too many of these, and it gets none for a time.
    SoftBounce,
    /// The owner of the address does not want our mail.
    Complaint,
    /// The owner of the address does not want mail like this.
    Unsubscribed {
        one_click: bool,
    },
}

impl Fact {
    /// The facts of an event.
    pub fn of(event: &SesEvent) -> Vec<Self> {
        let recipients = event.recipients();
        let alone = recipients.len() == 1;
        recipients
            .into_iter()
            .map(|recipient| Self::about(event, &address(recipient), alone))
            .collect()
    }

    fn about(event: &SesEvent, recipient: &str, alone: bool) -> Self {
        let mut fact = Self {
            key: String::new(),
            ses_message_id: event.mail.message_id.clone(),
            email_id: event.mail.email_id().map(str::to_owned),
            recipient: recipient.to_owned(),
            alone,
            kind: "OTHER",
            at: event.mail.timestamp,
            accepted_at: event.mail.timestamp,
            effect: Effect::None,
            bounce_type: None,
            bounce_sub_type: None,
            diagnostic: None,
            feedback_type: None,
            clicked_url: None,
            machine: false,
            ip_address: None,
            user_agent: None,
            device_type: None,
            raw: event.raw.clone(),
        };
        let mut feedback_id = "";
        match &event.report {
            SesReport::Send => (fact.kind, fact.effect) = ("SENT", Effect::Sent),
            SesReport::Delivery { delivery } => {
                (fact.kind, fact.at) = ("DELIVERED", delivery.timestamp);
                fact.diagnostic = text(&delivery.smtp_response);
            }
            SesReport::DeliveryDelay { delivery_delay } => {
                (fact.kind, fact.at) = ("DELAYED", delivery_delay.timestamp);
                fact.diagnostic = diagnostic(&delivery_delay.delayed_recipients, recipient)
                    .or_else(|| text(&delivery_delay.delay_type));
            }
            SesReport::Bounce { bounce } => {
                feedback_id = &bounce.feedback_id;
                fact.bounced(bounce);
            }
            SesReport::Complaint { complaint } => {
                feedback_id = &complaint.feedback_id;
                fact.complained(complaint);
            }
            SesReport::Reject { reject } => {
                fact.kind = "REJECTED";
                fact.diagnostic = text(&reject.reason);
            }
            SesReport::RenderingFailure { failure } => {
                fact.kind = "FAILED";
                fact.diagnostic = text(&failure.error_message);
            }
            SesReport::Open { open } => {
                fact.kind = "OPENED";
                fact.engaged(open, Effect::Opened);
            }
            SesReport::Click { click } => {
                fact.kind = "CLICKED";
                fact.clicked_url = click.link.as_deref().map(|link| cut(link, LONGEST_URL));
                fact.engaged(click, Effect::Clicked);
            }
            SesReport::Subscription { subscription } => {
                (fact.kind, fact.at) = ("UNSUBSCRIBED", subscription.timestamp);
                if opts_out(subscription) {
                    let one_click = subscription.source == "UnsubscribeHeader";
                    fact.effect = Effect::Unsubscribed { one_click };
                }
            }
            SesReport::Other => {}
        }
        fact.key = fact.key_of(event, feedback_id);
        fact
    }

    fn bounced(&mut self, bounce: &Bounced) {
        (self.kind, self.at) = ("BOUNCED", bounce.timestamp);
        self.bounce_type = Some(cut(&bounce.bounce_type, LONGEST_TEXT));
        self.bounce_sub_type = Some(cut(&bounce.bounce_sub_type, LONGEST_TEXT));
        self.diagnostic = diagnostic(&bounce.bounced_recipients, &self.recipient);
        self.effect = match &*bounce.bounce_type {
            "Permanent" => Effect::HardBounce,
            _ if OF_THE_ACCOUNT.contains(&&*bounce.bounce_sub_type) => Effect::HardBounce,
            _ if OF_THE_CONTENT.contains(&&*bounce.bounce_sub_type) => Effect::None,
            _ => Effect::SoftBounce,
        };
    }

    fn complained(&mut self, complaint: &Complained) {
        (self.kind, self.at) = ("COMPLAINED", complaint.timestamp);
        self.feedback_type = text(&complaint.complaint_feedback_type);
        self.diagnostic = text(&complaint.complaint_sub_type);
        self.user_agent = text(&complaint.user_agent);
        if self.feedback_type.as_deref() != Some("not-spam") {
            self.effect = Effect::Complaint;
        }
    }

    fn engaged(&mut self, engaged: &Engaged, effect: Effect) {
        self.at = engaged.timestamp;
        self.ip_address = engaged
            .ip_address
            .clone()
            .filter(|ip| ip.parse::<std::net::IpAddr>().is_ok());
        self.user_agent = text(&engaged.user_agent);
        let agent = self.user_agent.as_deref().unwrap_or_default();
        self.machine = agent::is_machine(agent);
        self.device_type = agent::device(agent);
        if !self.machine {
            self.effect = effect;
        }
    }

    fn key_of(&self, event: &SesEvent, feedback_id: &str) -> String {
        let unknown = event.raw.get("eventType").and_then(Value::as_str).unwrap_or_default();
        let at = self.at.to_rfc3339();
        let link = self.clicked_url.as_deref().unwrap_or_default();
        let kind = if self.kind == "OTHER" { unknown } else { self.kind };
        let parts = [&*self.ses_message_id, kind, &*self.recipient, &*at, feedback_id, link];
        Sha256::digest(parts.join("|"))
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// Not the recipient's doing: the account's list stood in the way.
    fn is_of_the_account(&self) -> bool {
        let said = self.bounce_sub_type.as_deref().or(self.diagnostic.as_deref());
        said.is_some_and(|said| OF_THE_ACCOUNT.contains(&said))
    }

    /// What the ledger learns from it.
    pub fn feedback(&self) -> Feedback {
        let at = Some(self.at);
        let known = Feedback {
            rank: rank::SENT,
            accepted: Some((self.ses_message_id.clone(), self.accepted_at)),
            ..Feedback::default()
        };
        match (self.kind, self.effect) {
            ("DELIVERED", _) => Feedback {
                rank: rank::DELIVERED,
                delivered_at: at,
                ..known
            },
            ("DELAYED", _) => Feedback {
                rank: rank::DELAYED,
                delayed_at: at,
                ..known
            },
            ("OPENED", Effect::Opened) => Feedback {
                rank: rank::OPENED,
                opened_at: at,
                ..known
            },
            ("CLICKED", Effect::Clicked) => Feedback {
                rank: rank::CLICKED,
                clicked_at: at,
                ..known
            },
            ("BOUNCED", effect) => {
                let class = if effect == Effect::HardBounce {
                    BounceClass::Hard
                } else {
                    BounceClass::Soft
                };
                let bounce_class = (!self.is_of_the_account()).then_some(class);
                Feedback {
                    rank: rank::BOUNCED,
                    bounced_at: at,
                    bounce_class,
                    ..known
                }
            }
            ("COMPLAINED", Effect::Complaint) if !self.is_of_the_account() => Feedback {
                rank: rank::COMPLAINED,
                complained_at: at,
                ..known
            },
            ("REJECTED" | "FAILED", _) => {
                let word = if self.kind == "REJECTED" {
                    "rejected"
                } else {
                    "rendering_failed"
                };
                let reason = match &self.diagnostic {
                    Some(why) => format!("{word}: {why}"),
                    None => word.to_owned(),
                };
                Feedback {
                    rank: rank::REJECTED,
                    rejected: Some((self.at, reason)),
                    ..known
                }
            }
            ("UNSUBSCRIBED", Effect::Unsubscribed { .. }) => Feedback {
                rank: rank::UNSUBSCRIBED,
                unsubscribed_at: at,
                ..known
            },
            _ => known,
        }
    }
}

fn opts_out(subscription: &Subscription) -> bool {
    let wants = &subscription.new_topic_preferences;
    let out = |status: &str| status.eq_ignore_ascii_case("OptOut");
    wants.unsubscribe_all
        || wants
            .topic_subscription_status
            .iter()
            .any(|topic| out(&topic.subscription_status))
}

/// What the server said about this recipient.
fn diagnostic(recipients: &[Recipient], address: &str) -> Option<String> {
    let about = recipients
        .iter()
        .find(|recipient| self::address(&recipient.email_address) == address)?;
    text(&about.diagnostic_code)
}

/// The bare address of `Ann <ann@example.test>`, as the ledger would store it.
fn address(text: &str) -> String {
    let bare = text
        .rsplit_once('<')
        .and_then(|(_, rest)| rest.split_once('>'))
        .map_or(text, |(bare, _)| bare);
    bare.trim().to_lowercase()
}

fn text(text: &Option<String>) -> Option<String> {
    text.as_deref()
        .map(|text| cut(text, LONGEST_TEXT))
        .filter(|text| !text.is_empty())
}

fn cut(text: &str, length: usize) -> String {
    text.chars().take(length).collect()
}

#[cfg(test)]
mod tests {
    use jobs::{EmailEvent, decode};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn facts(body: Value) -> Vec<Fact> {
        match decode(body) {
            Ok(EmailEvent::Ses(event)) => Fact::of(&event),
            _ => panic!("an event of SES"),
        }
    }

    fn event(kind: &str, field: &str, report: Value) -> Value {
        json!({ "eventType": kind, field: report,
                "mail": { "messageId": "m1", "timestamp": "2025-10-20T09:00:00Z", "destination": ["Ann <Ann@Example.test>"] } })
    }

    fn bounce(kind: &str, sub_type: &str) -> Fact {
        let report = json!({ "bounceType": kind, "bounceSubType": sub_type, "timestamp": "2025-10-20T09:00:05Z",
                             "bouncedRecipients": [{ "emailAddress": "ann@example.test", "diagnosticCode": "smtp; 550" }] });
        facts(event("Bounce", "bounce", report)).remove(0)
    }

    #[test]
    fn a_bounce_is_judged_by_the_fields_of_ses() {
        use BounceClass::{Hard, Soft};
        for (kind, sub_type, effect, class) in [
            ("Permanent", "General", Effect::HardBounce, Some(Hard)),
            ("Permanent", "NoEmail", Effect::HardBounce, Some(Hard)),
            ("Permanent", "OnAccountSuppressionList", Effect::HardBounce, None),
            ("Permanent", "Suppressed", Effect::HardBounce, None),
            ("Transient", "General", Effect::SoftBounce, Some(Soft)),
            ("Transient", "MailboxFull", Effect::SoftBounce, Some(Soft)),
            ("Transient", "MessageTooLarge", Effect::None, Some(Soft)),
            ("Transient", "ContentRejected", Effect::None, Some(Soft)),
            ("Transient", "AttachmentRejected", Effect::None, Some(Soft)),
            ("Undetermined", "Undetermined", Effect::SoftBounce, Some(Soft)),
        ] {
            let fact = bounce(kind, sub_type);
            assert_eq!(
                (fact.effect, fact.feedback().bounce_class),
                (effect, class),
                "{kind} {sub_type}"
            );
        }
        assert_eq!(bounce("Permanent", "General").diagnostic.as_deref(), Some("smtp; 550"));
    }

    #[test]
    fn a_complaint_counts_unless_it_says_that_the_mail_is_no_spam() {
        let complaint = |kind: Option<&str>| {
            let report = json!({ "timestamp": "2025-10-20T09:00:05Z", "complaintFeedbackType": kind,
                                 "complainedRecipients": [{ "emailAddress": "ann@example.test" }] });
            facts(event("Complaint", "complaint", report)).remove(0)
        };
        assert_eq!(complaint(Some("abuse")).effect, Effect::Complaint);
        assert_eq!(complaint(None).effect, Effect::Complaint);
        let no_spam = complaint(Some("not-spam"));
        assert_eq!((no_spam.effect, no_spam.feedback().complained_at), (Effect::None, None));
    }

    #[test]
    fn a_program_that_opens_a_mail_is_no_reader() {
        let open = |agent: &str| {
            facts(event(
                "Open",
                "open",
                json!({ "timestamp": "2025-10-20T09:00:05Z", "ipAddress": "192.0.2.1", "userAgent": agent }),
            ))
            .remove(0)
        };
        let apple = open("Mozilla/5.0");
        assert_eq!(
            (apple.machine, apple.effect, apple.feedback().rank),
            (true, Effect::None, rank::SENT)
        );
        let person = open("Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148");
        assert_eq!(
            (person.machine, person.effect, person.device_type),
            (false, Effect::Opened, Some("mobile"))
        );
    }

    #[test]
    fn only_who_leaves_unsubscribes() {
        let wants = |wants: Value| {
            let report = json!({ "timestamp": "2025-10-20T09:00:05Z", "source": "UnsubscribeHeader", "newTopicPreferences": wants });
            facts(event("Subscription", "subscription", report)).remove(0).effect
        };
        let out = Effect::Unsubscribed { one_click: true };
        assert_eq!(wants(json!({ "unsubscribeAll": true })), out);
        assert_eq!(
            wants(json!({ "topicSubscriptionStatus": [{ "topicName": "t", "subscriptionStatus": "OptOut" }] })),
            out
        );
        assert_eq!(
            wants(json!({ "topicSubscriptionStatus": [{ "topicName": "t", "subscriptionStatus": "OptIn" }] })),
            Effect::None
        );
    }

    #[test]
    fn the_key_tells_apart_what_is_different_and_nothing_else() {
        let click = |link: &str, at: &str| {
            facts(event(
                "Click",
                "click",
                json!({ "timestamp": at, "link": link, "userAgent": "x" }),
            ))
            .remove(0)
            .key
        };
        let first = click("https://a.test/", "2025-10-20T09:00:05Z");
        assert_eq!(first, click("https://a.test/", "2025-10-20T09:00:05.000Z"));
        assert_ne!(first, click("https://b.test/", "2025-10-20T09:00:05Z"));
        assert_ne!(first, click("https://a.test/", "2025-10-20T09:00:06Z"));
        let other = |kind: &str| facts(event(kind, "x", json!({}))).remove(0).key;
        assert_ne!(other("Teleport"), other("Evaporate"));
    }

    proptest! {
        #[test]
        fn whatever_a_server_says_a_fact_is_short_and_names_one_address(address in ".{0,40}", said in ".{0,3000}", sub_type in "\\PC{0,20}") {
            prop_assume!(!address.trim().is_empty());
            let report = json!({ "bounceType": "Transient", "bounceSubType": sub_type, "timestamp": "2025-10-20T09:00:05Z",
                                 "bouncedRecipients": [{ "emailAddress": address, "diagnosticCode": said }] });
            for fact in facts(event("Bounce", "bounce", report)) {
                prop_assert!(fact.diagnostic.is_none_or(|text| text.chars().count() <= LONGEST_TEXT));
                prop_assert_eq!(fact.recipient.trim(), &fact.recipient);
            }
        }
    }
}
