//! Who gets what: people with different wishes, and the same news for each of them.

use anyhow::{Context, Result};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::{Acquire, PgConnection};

/// What the ids of all demos begin with.
pub(super) const MARK: &str = "demo-";
/// No mail leaves the machine, and none could: nobody can own this domain.
const DOMAIN: &str = "demo.test";

/// People, and a statement that makes them what they are; `$1` is their ids.
const CAST: &[(&[&str], &str)] = &[
    (
        &[
            "Ada", "Beatrix", "Camille", "Dorothea", "Edmonia", "Frida", "Georgia", "Hilma", "Imogen", "Judith",
        ],
        "",
    ),
    (
        &["Katsushika", "Lavinia", "Marlene", "Niki"],
        "UPDATE email_preferences SET digest_frequency = 'DAILY' WHERE user_id = ANY($1)",
    ),
    (
        &["Olafur", "Paula"],
        "UPDATE email_preferences SET digest_frequency = 'WEEKLY' WHERE user_id = ANY($1)",
    ),
    (
        &["Quentin", "Rosa"],
        "UPDATE email_preferences SET digest_frequency = 'NEVER' WHERE user_id = ANY($1)",
    ),
    (
        &["Sonia", "Tamara"],
        "UPDATE email_preferences SET email_frequency = 'DAILY' WHERE user_id = ANY($1)",
    ),
    (
        &["Umberto", "Valie"],
        "UPDATE email_preferences SET message_email_mode = 'DIGEST' WHERE user_id = ANY($1)",
    ),
    (
        &["Wangechi"],
        "UPDATE email_preferences SET message_email_mode = 'OFF' WHERE user_id = ANY($1)",
    ),
    (
        &["Xul", "Yayoi"],
        "UPDATE email_preferences SET license_expiry = false WHERE user_id = ANY($1)",
    ),
    (
        &["Zaha"],
        "UPDATE email_preferences SET global_unsubscribe = true WHERE user_id = ANY($1)",
    ),
    (
        &["Artemisia"],
        "UPDATE email_preferences SET quiet_hours_start = (now() AT TIME ZONE 'UTC')::time - interval '1 hour',
                                      quiet_hours_end = (now() AT TIME ZONE 'UTC')::time + interval '7 hours'
         WHERE user_id = ANY($1)",
    ),
    (
        &["Berthe"],
        "INSERT INTO notification_channel_preferences (user_id, notification_type, channel, enabled)
         SELECT id, 'ROYALTY', 'EMAIL', false FROM unnest($1) AS id",
    ),
    (
        &["Marianne"],
        "INSERT INTO email_suppressions (email, reason, scope) SELECT email, 'BOUNCE', 'ALL' FROM users WHERE id = ANY($1)",
    ),
    (
        &["Diane", "Elaine"],
        "UPDATE users SET email_verified = NULL WHERE id = ANY($1)",
    ),
    (&["Faith"], "UPDATE users SET is_active = false WHERE id = ANY($1)"),
    (&["Gego"], "UPDATE users SET email = NULL WHERE id = ANY($1)"),
];

/// One run of the demo.
pub(super) struct Cast {
    /// What the ids of this run begin with.
    pub(super) prefix: String,
    /// The domain of its people.
    pub(super) domain: String,
    pub(super) notifications: Vec<Value>,
}

impl Cast {
    /// Equal for nobody else who starts later.
    pub(super) fn new(now: DateTime<Utc>) -> Self {
        let run = base36(now.timestamp_millis().unsigned_abs() / 100);
        let prefix = format!("{MARK}{run}-");
        let news = people()
            .zip(1..)
            .flat_map(|(name, number)| news(&prefix, name, number, now));
        let number = |(mut notification, number): (Value, u32)| {
            notification["id"] = format!("{prefix}{number:03}").into();
            notification
        };
        Self {
            notifications: news.zip(1..).map(number).collect(),
            domain: format!("{run}.{DOMAIN}"),
            prefix,
        }
    }

    pub(super) fn people(&self) -> usize {
        people().count()
    }

    /// Puts everybody and everything into the database, in the place of what earlier demos left.
    pub(super) async fn enter(&self, database: &mut PgConnection) -> Result<()> {
        let mut tx = database.begin().await?;
        let clear = format!(
            "DELETE FROM email_messages WHERE user_id LIKE '{MARK}%';
             DELETE FROM email_suppressions WHERE email LIKE '%.{DOMAIN}';
             DELETE FROM events WHERE ip_asset_id LIKE '{MARK}%';
             DELETE FROM asset_variants WHERE asset_id LIKE '{MARK}%';
             DELETE FROM asset_processing_steps WHERE asset_id LIKE '{MARK}%';
             DELETE FROM ip_assets WHERE id LIKE '{MARK}%';
             DELETE FROM users WHERE id LIKE '{MARK}%';
             DELETE FROM job_runs WHERE run_key LIKE '{MARK}%';"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(clear))
            .execute(&mut *tx)
            .await
            .context("could not clear what earlier demos left")?;
        let names: Vec<_> = people().collect();
        let ids: Vec<_> = (1..).zip(&names).map(|(number, _)| self.person(number)).collect();
        sqlx::query(
            "WITH person AS (
                 INSERT INTO users (id, name, email, email_verified)
                 SELECT id, name, lower(name) || '@' || $3, now() FROM unnest($1::text[], $2::text[]) AS p (id, name)
                 RETURNING id
             )
             INSERT INTO email_preferences (user_id) SELECT id FROM person",
        )
        .bind(&ids)
        .bind(&names)
        .bind(&self.domain)
        .execute(&mut *tx)
        .await?;
        let mut rest = ids.as_slice();
        // A statement per wish: each is another one.
        for (names, wish) in CAST {
            let (these, others) = rest.split_at(names.len());
            rest = others;
            if !wish.is_empty() {
                sqlx::query(*wish).bind(these).execute(&mut *tx).await?;
            }
        }
        sqlx::query(
            "INSERT INTO notifications (id, user_id, type, priority, title, message, action_url, metadata)
             SELECT * FROM jsonb_to_recordset($1) AS n (id text, user_id text, type text, priority text, title text, message text,
                                                        action_url text, metadata jsonb)",
        )
        .bind(Value::from(self.notifications.clone()))
        .execute(&mut *tx)
        .await?;
        Ok(tx.commit().await?)
    }

    pub(super) fn person(&self, number: u32) -> String {
        person(&self.prefix, number)
    }
}

fn people() -> impl Iterator<Item = &'static str> {
    CAST.iter().flat_map(|(names, _)| names.iter().copied())
}

fn person(prefix: &str, number: u32) -> String {
    format!("{prefix}person-{number}")
}

/// What happens to everybody: something for each rule of `notification-delivery`.
fn news(prefix: &str, name: &str, number: u32, now: DateTime<Utc>) -> Vec<Value> {
    let date = |days: i64| (now + TimeDelta::days(days)).date_naive();
    let user_id = person(prefix, number);
    let thread = format!("{prefix}thread-{number}");
    let amount = 48_050 + i64::from(number) * 2_595;
    let notification = |kind: &str, priority: &str, title: &str, message: &str, metadata: Value| {
        json!({
            "user_id": user_id, "type": kind, "priority": priority, "title": title, "message": message,
            "action_url": format!("/{}s", kind.to_lowercase()), "metadata": metadata,
        })
    };
    vec![
        notification(
            "PAYOUT",
            "HIGH",
            "Your payout is on its way",
            "We have sent the money to your bank.",
            json!({ "status": "COMPLETED", "amount_cents": amount, "currency": "USD", "transfer_id": format!("tr_{number:04}"),
                    "estimated_arrival": date(2) }),
        ),
        notification(
            "LICENSE",
            "MEDIUM",
            "A license ends in 30 days",
            "Maison Verte can renew it until then.",
            json!({ "days_until_expiry": 30, "license_name": "Night Garden", "brand_name": "Maison Verte", "expiry_date": date(30),
                    "recipient_role": "creator" }),
        ),
        notification(
            "ROYALTY",
            "MEDIUM",
            "Your royalty statement is ready",
            "It covers the last thirty days.",
            json!({ "statement_id": format!("st_{number:04}"), "period_start": date(-30), "period_end": date(-1),
                    "total_earnings_cents": amount, "currency": "USD" }),
        ),
        notification(
            "PROJECT",
            "MEDIUM",
            "A project that fits you",
            "Atelier Nord is looking for a creator like you.",
            json!({ "type": "match", "project_name": "Botanical Prints", "brand_name": "Atelier Nord",
                    "project_description": "Twelve prints of northern plants for a spring collection." }),
        ),
        notification(
            "MESSAGE",
            "MEDIUM",
            "A new message",
            "Could we move the shoot to Thursday? The light would be better.",
            json!({ "thread_id": thread, "sender_name": "Grace Hopper", "thread_subject": "Autumn campaign" }),
        ),
        notification(
            "MESSAGE",
            "MEDIUM",
            "A new message",
            "And the studio is free all day.",
            json!({ "thread_id": thread, "sender_name": "Grace Hopper", "thread_subject": "Autumn campaign" }),
        ),
        notification(
            "SYSTEM",
            "MEDIUM",
            "New sign-in to your account",
            "Somebody signed in from a new device. If it was not you, change your password.",
            json!({ "category": "SECURITY", "action_label": "Review it" }),
        ),
        notification(
            "BLOG",
            "LOW",
            &format!("A post mentions you, {name}"),
            "The editors wrote about your latest work.",
            json!({}),
        ),
    ]
}

fn base36(mut number: u64) -> String {
    let mut digits = Vec::new();
    while number > 0 {
        digits.extend(char::from_digit((number % 36) as u32, 36));
        number /= 36;
    }
    digits.iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn everybody_and_everything_has_an_id_of_its_own() {
        let cast = Cast::new(DateTime::UNIX_EPOCH + TimeDelta::days(20_000));
        let ids: HashSet<_> = cast
            .notifications
            .iter()
            .map(|notification| notification["id"].to_string())
            .collect();
        assert_eq!(ids.len(), cast.notifications.len());
        assert_eq!(people().collect::<HashSet<_>>().len(), cast.people());
        let spec = jobs::catalog::NOTIFICATION_DELIVERY.spec();
        for notification in cast.notifications {
            assert_eq!((spec.accepts)(json!({"notificationId": notification["id"]})), Ok(()));
        }
    }

    #[test]
    fn two_demos_have_different_prefixes() {
        let now = Utc::now();
        assert_ne!(Cast::new(now).prefix, Cast::new(now + TimeDelta::seconds(1)).prefix);
    }
}
