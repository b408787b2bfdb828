//! What becomes of a notification (the table of step 3; the first match wins).

use services::mail::{Stream, refusal};

use crate::letter::{self, Letter};
use crate::store::Notification;

/// What becomes of a notification.
#[derive(Debug)]
pub enum Decision {
    /// Decided before.
    Settled,
    /// Its mail is in the ledger already, under this id.
    Resume(String),
    /// No mail, for this reason.
    Skip(&'static str),
    /// No mail can reach it.
    Fail(&'static str),
    /// A digest carries it.
    Digest(Option<&'static str>),
    /// Mail it now.
    Mail(Box<Letter>),
}

/// Decides by the notification, its user and the user's wishes.
pub fn decide(notification: &Notification) -> Decision {
    match (notification.email_state.as_str(), &notification.email_message_id) {
        ("PENDING", _) => {}
        ("QUEUED", Some(mail_id)) => return Decision::Resume(mail_id.clone()),
        _ => return Decision::Settled,
    }
    if notification.digested {
        return Decision::Skip("already_digested");
    }
    if notification.read && matches!(notification.priority.as_str(), "LOW" | "MEDIUM") {
        return Decision::Skip("already_read");
    }
    if notification.email_policy == "NONE" {
        return Decision::Skip("handled_by_producer");
    }
    let letter = letter::compose(notification);
    if let Some((_, reason)) = refusal(letter.stream, letter.template, &notification.audience(letter.category)) {
        return Decision::Skip(reason);
    }
    match channel(notification, letter.stream) {
        Channel::Nothing(reason) => Decision::Skip(reason),
        Channel::Digest(reason) => Decision::Digest(reason),
        Channel::Now => addressed(notification, letter),
    }
}

enum Channel {
    Nothing(&'static str),
    Digest(Option<&'static str>),
    Now,
}

fn channel(notification: &Notification, stream: Stream) -> Channel {
    if notification.kind == "MESSAGE" {
        return match notification.message_email_mode.as_str() {
            "OFF" => Channel::Nothing("messages_off"),
            _ if notification.thread_muted => Channel::Nothing("thread_muted"),
            "DIGEST" => Channel::Digest(Some("message_digest")),
            _ => Channel::Now,
        };
    }
    let bundled = matches!(notification.digest_frequency.as_str(), "DAILY" | "WEEKLY");
    match notification.priority.as_str() {
        "URGENT" | "HIGH" => Channel::Now,
        // Security and operations are owed to the person, whatever the preferences say (C3).
        _ if stream == Stream::Essential => Channel::Now,
        "LOW" if bundled => Channel::Digest(None),
        "LOW" => Channel::Nothing("in_app_only"),
        _ if bundled => Channel::Digest(None),
        _ if notification.digest_frequency == "NEVER" => Channel::Nothing("frequency_never"),
        _ => Channel::Now,
    }
}

fn addressed(notification: &Notification, letter: Letter) -> Decision {
    match notification
        .email
        .as_ref()
        .map(|address| services::mail::mailable(address.expose()))
    {
        None => Decision::Skip("no_address"),
        Some(None) => Decision::Fail("invalid_address"),
        Some(Some(_)) => Decision::Mail(Box::new(letter)),
    }
}
