//! Rows that tests of notifications and of mail begin with, and what they look at in the end.

use std::time::Duration;

use serde_json::{Value, json};

use crate::World;

/// A notification to be; its user is given to [`World::notification`].
#[derive(Clone, Debug)]
pub struct Notification {
    /// `type`.
    pub kind: &'static str,
    /// LOW, MEDIUM, HIGH or URGENT.
    pub priority: &'static str,
    /// The title.
    pub title: String,
    /// The text.
    pub message: String,
    /// Where it leads.
    pub action_url: Option<&'static str>,
    /// Whatever the producer adds.
    pub metadata: Value,
}

impl Default for Notification {
    fn default() -> Self {
        Self {
            kind: "LICENSE",
            priority: "MEDIUM",
            title: "A title".to_owned(),
            message: "A text".to_owned(),
            action_url: Some("/somewhere"),
            metadata: json!({}),
        }
    }
}

/// A row of the ledger to be: PENDING, due, for a day.
#[derive(Clone, Debug)]
pub struct LedgerRow {
    /// The recipient, as the ledger stores it.
    pub to: String,
    /// The user, when the recipient is one.
    pub user: Option<String>,
    /// The stream.
    pub stream: &'static str,
    /// The category.
    pub category: &'static str,
    /// The template.
    pub template: &'static str,
    /// The template's variables.
    pub variables: Value,
}

impl LedgerRow {
    /// A password reset: ESSENTIAL.
    pub fn essential(to: &str) -> Self {
        Self::new(
            to,
            "ESSENTIAL",
            "system",
            "password-reset",
            json!({ "reset_url": "/reset?token=t", "expires_in_hours": 1 }),
        )
    }

    /// A payout: NOTIFICATION.
    pub fn payout(to: &str) -> Self {
        let payout = json!({
            "amount_cents": 125_000, "currency": "USD", "transfer_id": "tr_1", "estimated_arrival": "2025-10-24"
        });
        Self::new(to, "NOTIFICATION", "payouts", "payout-confirmation", payout)
    }

    /// A digest of notifications: DIGEST.
    pub fn digest(to: &str) -> Self {
        let digest = json!({
            "frequency": "DAILY", "total_count": 1, "notifications_url": "/notifications",
            "sections": [{ "type": "LICENSE", "label": "Licenses", "count": 1, "more_count": 0, "items": [
                { "title": "Night Garden licensed", "message": "By Maison Verte.", "action_url": null, "created_at": "2025-10-20T07:12:00Z" }
            ] }]
        });
        Self::new(to, "DIGEST", "announcements", "notification-digest", digest)
    }

    /// A campaign: MARKETING.
    pub fn campaign(to: &str) -> Self {
        let news = json!({ "title": "News", "message": "There is news.", "priority": "LOW" });
        Self::new(to, "MARKETING", "newsletters", "notification", news)
    }

    /// The same, for a user.
    #[must_use]
    pub fn of(self, user: &str) -> Self {
        Self {
            user: Some(user.to_owned()),
            ..self
        }
    }

    fn new(to: &str, stream: &'static str, category: &'static str, template: &'static str, variables: Value) -> Self {
        Self {
            to: to.to_owned(),
            user: None,
            stream,
            category,
            template,
            variables,
        }
    }
}

/// What the ledger says of a mail.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// `status`.
    pub status: String,
    /// `status_reason`.
    pub reason: Option<String>,
    /// Calls that counted.
    pub attempts: i32,
    /// Seconds until `next_attempt_at`; negative when it has passed.
    pub due_in: f64,
}

impl Entry {
    /// Status and reason.
    pub fn verdict(&self) -> (&str, Option<&str>) {
        (&self.status, self.reason.as_deref())
    }
}

impl World {
    /// A user with the default preferences and a verified address: `Ann` is at `ann@example.test`. Answers the id.
    pub async fn user(&self, name: &str) -> String {
        sqlx::query_scalar("INSERT INTO users (email, name, email_verified) VALUES ($1, $2, now()) RETURNING id")
            .bind(format!("{}@example.test", name.to_lowercase()))
            .bind(name)
            .fetch_one(&self.db)
            .await
            .expect("a new user")
    }

    /// Sets preferences of a user, as in `SET` of an `UPDATE`.
    pub async fn prefers(&self, user: &str, settings: &str) {
        self.execute(
            "INSERT INTO email_preferences (user_id) VALUES ($1) ON CONFLICT DO NOTHING",
            &[user],
        )
        .await;
        self.execute(
            &format!("UPDATE email_preferences SET {settings} WHERE user_id = $1"),
            &[user],
        )
        .await;
    }

    /// A notification that nobody has delivered yet. Answers the id.
    pub async fn notification(&self, user: &str, notification: Notification) -> String {
        sqlx::query_scalar(
            "INSERT INTO notifications (user_id, type, priority, title, message, action_url, metadata)
             VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id",
        )
        .bind(user)
        .bind(notification.kind)
        .bind(notification.priority)
        .bind(notification.title)
        .bind(notification.message)
        .bind(notification.action_url)
        .bind(notification.metadata)
        .fetch_one(&self.db)
        .await
        .expect("a new notification")
    }

    /// Rows of the ledger. Answers their ids, in order.
    pub async fn ledger(&self, rows: impl IntoIterator<Item = LedgerRow>) -> Vec<String> {
        let mut ids = Vec::new();
        let mut tx = self.db.begin().await.expect("a transaction");
        for row in rows {
            let id = sqlx::query_scalar(
                "INSERT INTO email_messages (dedup_key, user_id, to_email, stream, category, template, variables, expires_at, sender_domain)
                 VALUES ('test:' || gen_random_uuid(), $1, $2, $3, $4, $5, $6, now() + interval '1 day', 'mail.example.test') RETURNING id",
            )
            .bind(row.user)
            .bind(row.to)
            .bind(row.stream)
            .bind(row.category)
            .bind(row.template)
            .bind(row.variables)
            .fetch_one(&mut *tx)
            .await
            .expect("a new row");
            ids.push(id);
        }
        tx.commit().await.expect("a commit");
        ids
    }

    /// One statement on the world's database, with texts for `$1`, `$2`, ….
    ///
    /// # Panics
    ///
    /// When the database refuses it.
    pub async fn execute(&self, sql: &str, values: &[&str]) {
        let query = sqlx::query(sqlx::AssertSqlSafe(sql));
        values
            .iter()
            .fold(query, |query, value| query.bind(*value))
            .execute(&self.db)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// One number from the world's database, as of `SELECT count(*)`.
    ///
    /// # Panics
    ///
    /// When the database does not give one.
    pub async fn count(&self, sql: &str) -> i64 {
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .fetch_one(&self.db)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// `email_state` and its reason.
    pub async fn email_state(&self, notification: &str) -> (String, Option<String>) {
        sqlx::query_as("SELECT email_state, email_state_reason FROM notifications WHERE id = $1")
            .bind(notification)
            .fetch_one(&self.db)
            .await
            .expect("the notification")
    }

    /// The mail with this id.
    pub async fn entry(&self, mail: &str) -> Entry {
        self.entry_where("id", mail).await
    }

    /// The mail of a notification.
    pub async fn entry_of(&self, notification: &str) -> Entry {
        self.entry_where("notification_id", notification).await
    }

    async fn entry_where(&self, column: &str, value: &str) -> Entry {
        let sql = format!(
            "SELECT status, status_reason, attempts, extract(epoch FROM next_attempt_at - clock_timestamp())::float8
             FROM email_messages WHERE {column} = $1"
        );
        let (status, reason, attempts, due_in) = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(value)
            .fetch_one(&self.db)
            .await
            .expect("the mail");
        Entry {
            status,
            reason,
            attempts,
            due_in,
        }
    }

    /// Lets whole minutes pass.
    pub async fn advance_minutes(&self, minutes: u64) {
        self.advance(Duration::from_secs(60 * minutes)).await;
    }
}
