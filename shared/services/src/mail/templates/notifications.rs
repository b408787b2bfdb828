//! What a notification says when no template knows it better, and messages between users.

use serde::Deserialize;

use super::line::{Line, Name};
use super::mail;

/// Any notification.
#[derive(Deserialize)]
pub(super) struct Notification {
    #[serde(default)]
    user_name: Name,
    title: Line,
    message: String,
    priority: Line,
    action_url: Option<String>,
    action_label: Option<Line>,
}

mail!(
    Notification,
    "notifications/notification.html",
    "notifications/notification.txt",
    |mail, _| mail.title.to_string()
);

impl Notification {
    fn urgent(&self) -> bool {
        &*self.priority == "URGENT"
    }

    fn label(&self) -> &str {
        self.action_label.as_deref().unwrap_or("View details")
    }
}

/// Somebody wrote to the reader.
#[derive(Deserialize)]
pub(super) struct NewMessage {
    #[serde(default)]
    recipient_name: Name,
    sender_name: Line,
    /// Empty when the reader wants no message text in mails.
    message_preview: String,
    thread_url: String,
    thread_subject: Option<Line>,
}

mail!(
    NewMessage,
    "notifications/new-message.html",
    "notifications/new-message.txt",
    |mail, _| {
        match mail.thread() {
            Some(thread) => format!("New message in \"{thread}\""),
            None => format!("New message from {}", mail.sender_name),
        }
    }
);

impl NewMessage {
    fn thread(&self) -> Option<&Line> {
        self.thread_subject.as_ref().filter(|subject| !subject.is_empty())
    }
}
