//! A row of the ledger as the gate sees it, and the one query that reads it.

use chrono::NaiveTime;

use crate::mail::gate::{Audience, Circumstances};
use crate::mail::ledger::{Status, Transition};
use crate::mail::pacing::Quota;
use crate::mail::stream::{Category, Stream};
use crate::{Database, Error, Redacted, Timestamp, local_time};

/// A row as the gate sees it.
pub(super) struct Mail {
    pub(super) id: String,
    pub(super) dedup_key: String,
    pub(super) user_id: Option<String>,
    pub(super) to: Redacted<String>,
    pub(super) stream: Stream,
    pub(super) category: Category,
    pub(super) template: String,
    /// JSON, as the template reads it.
    pub(super) variables: String,
    pub(super) campaign_id: Option<String>,
    /// Opens and clicks may be tracked.
    pub(super) tracked: bool,
    pub(super) attempts: i32,
    pub(super) audience: Audience,
    pub(super) circumstances: Circumstances,
}

/// The gate's one query: mails, recipients, preferences, suppressions, counters. A row that no program of ours wrote fails alone.
pub(super) async fn load(
    database: &Database,
    ids: &[String],
    at: Timestamp,
    quota: &Quota,
) -> Result<(Vec<Mail>, Vec<Transition>), Error> {
    let rows = sqlx::query!(
        r#"SELECT m.id, m.dedup_key, m.user_id, m.to_email, m.stream, m.category, m.template, coalesce(m.variables, '{}')::text AS "variables!", m.priority,
                  m.campaign_id, m.attempts, m.expires_at,
                  r.user_id IS NOT NULL AS "known!", coalesce(r.active, false) AS "active!", coalesce(r.verified, false) AS "verified!",
                  coalesce(r.unsubscribed, false) AS "unsubscribed!", coalesce(m.category = ANY(r.categories_off), false) AS "category_off!",
                  coalesce(r.email_frequency, 'IMMEDIATE') AS "email_frequency!", coalesce(r.tracking_enabled, true) AS "tracked!",
                  coalesce(r.time_zone, 'UTC') AS "time_zone!",
                  r.quiet_hours_start AS "quiet_hours_start?: NaiveTime", r.quiet_hours_end AS "quiet_hours_end?: NaiveTime",
                  coalesce(NOT c.enabled, false) AS "channel_off!", s.reason AS "suppression?", s.scope AS "scope?",
                  CASE WHEN m.stream = 'MARKETING' THEN (SELECT count(*) FROM email_messages x WHERE x.user_id = m.user_id
                       AND x.stream = 'MARKETING' AND x.sent_at > $2 - interval '24 hours') ELSE 0 END AS "marketing_sent!",
                  CASE WHEN m.stream = 'NOTIFICATION' THEN (SELECT count(*) FROM email_messages x WHERE x.user_id = m.user_id
                       AND x.stream = 'NOTIFICATION' AND x.sent_at > $2 - interval '1 hour') ELSE 0 END AS "notifications_sent!"
           FROM email_messages m
           LEFT JOIN mail_recipients r ON r.user_id = m.user_id
           LEFT JOIN email_suppressions s ON s.email = m.to_email AND (s.expires_at IS NULL OR s.expires_at > $2)
           LEFT JOIN notifications n ON n.id = m.notification_id
           LEFT JOIN notification_channel_preferences c ON c.user_id = m.user_id AND c.notification_type = n.type AND c.channel = 'EMAIL'
           WHERE m.id = ANY($1) AND m.status = 'PENDING' AND m.next_attempt_at <= greatest($2, clock_timestamp())"#,
        ids,
        at,
    )
    .fetch_all(database.pool())
    .await?;
    let (mut mails, mut unknown) = (Vec::with_capacity(rows.len()), Vec::new());
    for row in rows {
        let (stream, category) = match (row.stream.parse::<Stream>(), row.category.parse::<Category>()) {
            (Ok(stream), Ok(category)) => (stream, category),
            (Err(error), _) | (_, Err(error)) => {
                unknown.push(Transition::to(&row.id, Status::Failed, Some(&error.to_string())));
                continue;
            }
        };
        mails.push(Mail {
            dedup_key: row.dedup_key,
            user_id: row.user_id,
            to: row.to_email.into(),
            stream,
            category,
            template: row.template,
            variables: row.variables,
            campaign_id: row.campaign_id,
            tracked: row.tracked,
            attempts: row.attempts,
            audience: Audience {
                known: row.known,
                active: row.active,
                verified: row.verified,
                unsubscribed: row.unsubscribed,
                category_off: row.category_off,
                channel_off: row.channel_off,
                suppression: row.suppression.zip(row.scope),
            },
            circumstances: Circumstances {
                stream,
                urgent: row.priority == "URGENT",
                expires_at: row.expires_at,
                marketing_paused: quota.marketing_paused,
                email_frequency: row.email_frequency,
                zone: local_time::zone(&row.time_zone),
                quiet_hours: row.quiet_hours_start.zip(row.quiet_hours_end),
                marketing_sent: row.marketing_sent,
                notifications_sent: row.notifications_sent,
            },
            id: row.id,
        });
    }
    Ok((mails, unknown))
}
