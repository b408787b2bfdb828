//! Which template tells of a notification, and with what (step 4).

use serde_json::{Map, Value, json};
use services::mail::templates::{self, Template};
use services::mail::{Category, Stream};

use crate::store::Notification;

const GENERIC: &str = "notification";
/// An index takes no longer key.
const LONGEST_KEY: usize = 255;
/// More metadata than this is no mail: in HTML it would be cut by the reader's program.
const LARGEST: usize = 32 * 1024;

/// A mail about a notification.
#[derive(Debug)]
pub struct Letter {
    /// The template, never one whose variables are missing.
    pub template: &'static Template,
    /// The template's variables.
    pub variables: Value,
    /// By the template, or ESSENTIAL when the category is `system`.
    pub stream: Stream,
    /// By the type.
    pub category: Category,
    /// Set when the mail takes part in the cool-down of its thread.
    pub thread_id: Option<String>,
    /// The business key, if the producer named one.
    pub dedup_key: String,
}

/// Chooses the special template when all that it needs is there, else the generic one: missing metadata never stops a delivery.
pub fn compose(notification: &Notification) -> Letter {
    let text = |name: &str| notification.metadata.get(name).and_then(Value::as_str);
    let category = Category::of_notification(&notification.kind, text("category"));
    let special = special(notification).map(|key| (key, special_variables(notification)));
    let fitting = special.filter(|(key, variables)| {
        let variables = variables.to_string();
        variables.len() <= LARGEST && templates::check(key, &variables).is_ok()
    });
    let (key, variables) = fitting.unwrap_or_else(|| (GENERIC.to_owned(), generic_variables(notification)));
    let template = templates::find(&key)
        .or_else(|| templates::find(GENERIC))
        .unwrap_or_else(|| unreachable!("the generic template exists"));
    Letter {
        stream: template.stream_for(category),
        template,
        variables,
        category,
        thread_id: (notification.kind == "MESSAGE")
            .then(|| notification.thread_id.clone())
            .flatten()
            .filter(|id| is_key(id)),
        dedup_key: text("email_dedup_key")
            .filter(|key| is_key(key))
            .map_or_else(|| format!("notification:{}", notification.id), str::to_owned),
    }
}

fn is_key(text: &str) -> bool {
    (1..=LONGEST_KEY).contains(&text.len())
}

/// The text as far as its reader wants it in mails.
fn shown(notification: &Notification) -> &str {
    match notification.kind.as_str() {
        "MESSAGE" if !notification.show_message_preview => "Open the conversation to read it.",
        _ => &notification.message,
    }
}

fn special(notification: &Notification) -> Option<String> {
    let metadata = &notification.metadata;
    let text = |name: &str| metadata.get(name).and_then(Value::as_str);
    let days = || {
        ["days_until_expiry", "expiry_days"]
            .iter()
            .find_map(|name| metadata.get(*name)?.as_i64())
    };
    let key = match notification.kind.as_str() {
        "LICENSE" => match days()? {
            days @ (90 | 60 | 30) => return Some(format!("license-expiry-{days}-day")),
            _ => "license-expiry",
        },
        "PAYOUT" => match text("status")? {
            "COMPLETED" => "payout-confirmation",
            "FAILED" => "payout-failed",
            _ => return None,
        },
        "ROYALTY" if metadata.get("statement_id").is_some() => "royalty-statement-ready",
        "PROJECT" if text("type") == Some("invitation") => "project-invitation",
        "PROJECT" if text("type") == Some("match") || metadata.get("match_type").is_some() => {
            "project-match-notification"
        }
        "MESSAGE" => "new-message",
        "SYSTEM" if text("category") == Some("OPERATIONS") && metadata.get("alerts").is_some() => "email-alert",
        _ => return None,
    };
    Some(key.to_owned())
}

/// What the notification itself says, under each name that a template knows it by; the metadata adds to it and has the last word.
fn special_variables(notification: &Notification) -> Value {
    let mut variables = Map::new();
    for name in ["user_name", "creator_name", "recipient_name"] {
        variables.insert(
            name.into(),
            json!(notification.name.as_ref().map(services::Redacted::expose)),
        );
    }
    if let Some(url) = &notification.action_url {
        for name in [
            "license_url",
            "statement_url",
            "project_url",
            "thread_url",
            "dashboard_url",
            "support_url",
        ] {
            variables.insert(name.into(), url.clone().into());
        }
    }
    variables.insert("message_preview".into(), shown(notification).into());
    if let Some(days) = notification
        .metadata
        .get("days_until_expiry")
        .or_else(|| notification.metadata.get("expiry_days"))
    {
        variables.insert("days_remaining".into(), days.clone());
    }
    variables.extend(notification.metadata.clone());
    if !notification.show_message_preview {
        variables.insert("message_preview".into(), shown(notification).into());
    }
    Value::Object(variables)
}

fn generic_variables(notification: &Notification) -> Value {
    json!({
        "user_name": notification.name.as_ref().map(services::Redacted::expose),
        "title": notification.title,
        "message": shown(notification),
        "priority": notification.priority,
        "action_url": notification.action_url,
        "action_label": notification.metadata.get("action_label").filter(|label| label.as_str().is_some_and(|label| label.len() <= LONGEST_KEY)),
    })
}
