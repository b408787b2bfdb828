//! Several things in one mail, at the hour that the reader chose.

use serde::Deserialize;

use super::date::Date;
use super::line::{Line, Name};
use super::number::count;
use super::{filters, mail};

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "UPPERCASE")]
enum Frequency {
    #[serde(alias = "daily")]
    Daily,
    #[serde(alias = "weekly")]
    Weekly,
}

impl Frequency {
    fn adjective(self) -> &'static str {
        match self {
            Self::Daily => "daily",
            Self::Weekly => "weekly",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Daily => "Daily digest",
            Self::Weekly => "Weekly digest",
        }
    }

    fn period(self) -> &'static str {
        match self {
            Self::Daily => "today",
            Self::Weekly => "this week",
        }
    }
}

/// Unread notifications, by type.
#[derive(Deserialize)]
pub(super) struct NotificationDigest {
    #[serde(default)]
    user_name: Name,
    frequency: Frequency,
    total_count: u64,
    sections: Vec<NotificationSection>,
    notifications_url: String,
}

#[derive(Deserialize)]
struct NotificationSection {
    label: Line,
    count: u64,
    items: Vec<NotificationItem>,
    more_count: u64,
}

#[derive(Deserialize)]
struct NotificationItem {
    title: Line,
    message: Line,
    action_url: Option<String>,
    created_at: Date,
}

mail!(
    NotificationDigest,
    "digests/notification-digest.html",
    "digests/notification-digest.txt",
    |mail, _| { format!("You have {}", count(mail.total_count, "unread notification")) }
);

/// Unread messages, by conversation.
#[derive(Deserialize)]
pub(super) struct MessageDigest {
    #[serde(default, alias = "user_name")]
    recipient_name: Name,
    frequency: Frequency,
    total_unread_count: u64,
    threads: Vec<Thread>,
    more_threads: u64,
    inbox_url: String,
}

#[derive(Deserialize)]
struct Thread {
    thread_subject: Line,
    message_count: u64,
    senders: Vec<Line>,
    latest_message: LatestMessage,
    thread_url: String,
}

#[derive(Deserialize)]
struct LatestMessage {
    sender_name: Line,
    /// Absent when the reader wants no message text in mails.
    body: Option<Line>,
    created_at: Date,
}

mail!(
    MessageDigest,
    "digests/message-digest.html",
    "digests/message-digest.txt",
    |mail, _| { format!("You have {}", count(mail.total_unread_count, "unread message")) }
);

impl Thread {
    fn senders(&self) -> String {
        self.senders.iter().map(|name| &**name).collect::<Vec<_>>().join(", ")
    }
}

/// Mails that the reader asked to have bundled.
#[derive(Deserialize)]
pub(super) struct EmailDigest {
    #[serde(default)]
    user_name: Name,
    frequency: Frequency,
    total_count: u64,
    sections: Vec<EmailSection>,
}

#[derive(Deserialize)]
struct EmailSection {
    label: Line,
    items: Vec<EmailItem>,
    more_count: u64,
}

#[derive(Deserialize)]
struct EmailItem {
    title: Line,
    summary: Line,
    url: Option<String>,
    created_at: Date,
}

mail!(
    EmailDigest,
    "digests/email-digest.html",
    "digests/email-digest.txt",
    |mail, _| {
        format!(
            "Your {} update: {}",
            mail.frequency.adjective(),
            count(mail.total_count, "item")
        )
    }
);
