//! The statements of the job: load and lock, claim cool-downs, record decisions.

use std::collections::{HashMap, HashSet};

use jobs::Timestamp;
use serde_json::{Map, Value};
use services::mail::{self, Audience, Category, Mailer, Request};
use services::{Error, Redacted};
use sqlx::PgConnection;
use sqlx::types::Json;

use crate::rules::Decision;

/// A notification with all that the rules ask.
#[derive(Debug)]
pub struct Notification {
    pub id: String,
    pub user_id: String,
    pub kind: String,
    pub title: String,
    pub message: String,
    pub action_url: Option<String>,
    pub priority: String,
    pub read: bool,
    pub metadata: Map<String, Value>,
    pub email_policy: String,
    pub email_state: String,
    pub email_message_id: Option<String>,
    pub in_app: bool,
    pub digested: bool,
    pub thread_id: Option<String>,
    pub thread_muted: bool,
    pub email: Option<Redacted<String>>,
    pub name: Option<Redacted<String>>,
    pub active: bool,
    pub verified: bool,
    pub unsubscribed: bool,
    pub categories_off: Vec<String>,
    pub channel_off: bool,
    pub digest_frequency: String,
    pub message_email_mode: String,
    pub show_message_preview: bool,
    pub suppression: Option<(String, String)>,
}

impl Notification {
    /// What the gate asks of the user (C6, rules 2 to 6).
    pub fn audience(&self, category: Category) -> Audience {
        Audience {
            known: true,
            active: self.active,
            verified: self.verified,
            unsubscribed: self.unsubscribed,
            category_off: self.categories_off.iter().any(|off| off == category.as_str()),
            channel_off: self.channel_off,
            suppression: self.suppression.clone(),
        }
    }
}

/// Loads notifications and locks them, in the order of their ids, so that two batches with the same ones do not lock each other
/// out. A notification of a deleted row is not there.
pub async fn load(connection: &mut PgConnection, ids: &[String], at: Timestamp) -> Result<Vec<Notification>, Error> {
    let rows = sqlx::query!(
        r#"SELECT n.id, n.user_id, n.type AS kind, n.title, n.message, n.action_url, n.priority, n.read, n.metadata AS "metadata: Json<Value>",
                  n.email_policy, n.email_state, n.email_message_id, coalesce(app.enabled, true) AS "in_app!",
                  EXISTS (SELECT FROM digest_items i WHERE i.kind = 'NOTIFICATION' AND i.item_id = n.id AND i.user_id = n.user_id) AS "digested!",
                  n.metadata ->> 'thread_id' AS thread_id, mute.user_id IS NOT NULL AS "thread_muted!",
                  r.email AS "email?", r.name AS "name?", r.active AS "active!", r.verified AS "verified!", r.unsubscribed AS "unsubscribed!",
                  r.categories_off AS "categories_off!", coalesce(NOT mail.enabled, false) AS "channel_off!",
                  r.digest_frequency AS "digest_frequency!", r.message_email_mode AS "message_email_mode!",
                  r.show_message_preview AS "show_message_preview!", s.reason AS "suppression?", s.scope AS "scope?"
           FROM notifications n
           JOIN mail_recipients r ON r.user_id = n.user_id
           LEFT JOIN notification_channel_preferences app
               ON app.user_id = n.user_id AND app.notification_type = n.type AND app.channel = 'IN_APP'
           LEFT JOIN notification_channel_preferences mail
               ON mail.user_id = n.user_id AND mail.notification_type = n.type AND mail.channel = 'EMAIL'
           LEFT JOIN message_thread_mutes mute ON mute.user_id = n.user_id AND mute.thread_id = n.metadata ->> 'thread_id'
           LEFT JOIN email_suppressions s ON s.email = r.email AND (s.expires_at IS NULL OR s.expires_at > $2)
           WHERE n.id = ANY($1)
           ORDER BY n.id
           FOR UPDATE OF n"#,
        ids,
        at,
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Notification {
            id: row.id,
            user_id: row.user_id,
            kind: row.kind,
            title: row.title,
            message: row.message,
            action_url: row.action_url,
            priority: row.priority,
            read: row.read,
            metadata: match row.metadata.0 {
                Value::Object(fields) => fields,
                _ => Map::new(),
            },
            email_policy: row.email_policy,
            email_state: row.email_state,
            email_message_id: row.email_message_id,
            in_app: row.in_app,
            digested: row.digested,
            thread_id: row.thread_id,
            thread_muted: row.thread_muted,
            email: row.email.map(Redacted::new),
            name: row.name.map(Redacted::new),
            active: row.active,
            verified: row.verified,
            unsubscribed: row.unsubscribed,
            categories_off: row.categories_off,
            channel_off: row.channel_off,
            digest_frequency: row.digest_frequency,
            message_email_mode: row.message_email_mode,
            show_message_preview: row.show_message_preview,
            suppression: row.suppression.zip(row.scope),
        })
        .collect())
}

/// One mail a thread and five minutes: the first of the batch that gets the cool-down is mailed, the rest is skipped.
pub async fn claim_cooldowns(
    connection: &mut PgConnection,
    decisions: &mut [(Notification, Decision)],
    at: Timestamp,
) -> Result<(), Error> {
    let key = |notification: &Notification, decision: &Decision| match decision {
        Decision::Mail(letter) => Some((notification.user_id.clone(), letter.thread_id.clone()?)),
        _ => None,
    };
    let mut wanted: Vec<_> = decisions
        .iter()
        .filter_map(|(notification, decision)| key(notification, decision))
        .collect();
    wanted.sort_unstable();
    wanted.dedup();
    if wanted.is_empty() {
        return Ok(());
    }
    let (users, threads): (Vec<_>, Vec<_>) = wanted.into_iter().unzip();
    let claimed = sqlx::query!(
        "INSERT INTO message_email_cooldowns AS c (user_id, thread_id, last_emailed_at)
         SELECT user_id, thread_id, $3 FROM unnest($1::text[], $2::text[]) AS w (user_id, thread_id)
         ON CONFLICT (user_id, thread_id) DO UPDATE SET last_emailed_at = EXCLUDED.last_emailed_at
         WHERE c.last_emailed_at <= EXCLUDED.last_emailed_at - interval '5 minutes'
         RETURNING user_id, thread_id",
        &users,
        &threads,
        at,
    )
    .fetch_all(connection)
    .await?;
    let mut free: HashSet<_> = claimed.into_iter().map(|row| (row.user_id, row.thread_id)).collect();
    for (notification, decision) in decisions {
        if let Some(key) = key(notification, decision)
            && !free.remove(&key)
        {
            *decision = Decision::Skip("cooldown");
        }
    }
    Ok(())
}

/// What is known of a notification after its decision.
#[derive(Debug)]
pub struct Record {
    /// `email_state`.
    pub state: String,
    /// `email_state_reason`.
    pub reason: Option<String>,
    /// The ledger row to dispatch.
    pub mail_id: Option<String>,
}

/// Writes the decisions and enqueues their mails.
pub async fn record(
    connection: &mut PgConnection,
    mailer: &Mailer,
    decisions: Vec<(Notification, Decision)>,
    at: Timestamp,
) -> Result<HashMap<String, Record>, Error> {
    let mails: Vec<_> = decisions
        .iter()
        .filter_map(|(notification, decision)| request(notification, decision))
        .collect();
    let mut enqueued = match mails.is_empty() {
        true => Vec::new(),
        false => mail::enqueue(&mut *connection, mailer.sender_domain(), &mails, at).await?,
    }
    .into_iter();
    let mut records = HashMap::with_capacity(decisions.len());
    let (mut ids, mut in_app, mut states, mut reasons, mut mail_ids) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (notification, decision) in decisions {
        let (state, reason, mail_id) = match decision {
            Decision::Settled => (notification.email_state.as_str(), None, None),
            Decision::Resume(mail_id) => ("QUEUED", None, Some(mail_id)),
            Decision::Skip(reason) => ("SKIPPED", Some(reason), None),
            Decision::Fail(reason) => ("FAILED", Some(reason), None),
            Decision::Digest(reason) => ("DIGEST", reason, None),
            Decision::Mail(_) => match enqueued.next() {
                Some(mail) if mail.inserted => ("QUEUED", None, Some(mail.id)),
                // Another producer of the same fact mails it.
                _ => ("SKIPPED", Some("duplicate"), None),
            },
        };
        ids.push(notification.id.clone());
        in_app.push(notification.in_app);
        states.push(state.to_owned());
        reasons.push(reason.map(str::to_owned));
        mail_ids.push(mail_id.clone());
        records.insert(
            notification.id,
            Record {
                state: state.to_owned(),
                reason: reason.map(str::to_owned),
                mail_id,
            },
        );
    }
    sqlx::query!(
        "UPDATE notifications n
         SET in_app_at = CASE WHEN d.in_app THEN coalesce(n.in_app_at, $6) ELSE n.in_app_at END,
             email_state = CASE n.email_state WHEN 'PENDING' THEN d.state ELSE n.email_state END,
             email_state_reason = CASE n.email_state WHEN 'PENDING' THEN d.reason ELSE n.email_state_reason END,
             email_message_id = CASE n.email_state WHEN 'PENDING' THEN d.mail_id ELSE n.email_message_id END
         FROM unnest($1::text[], $2::bool[], $3::text[], $4::text[], $5::text[]) AS d (id, in_app, state, reason, mail_id)
         WHERE n.id = d.id AND (n.email_state = 'PENDING' OR (d.in_app AND n.in_app_at IS NULL))",
        &ids,
        &in_app,
        &states,
        &reasons as _,
        &mail_ids as _,
        at,
    )
    .execute(connection)
    .await?;
    Ok(records)
}

fn request(notification: &Notification, decision: &Decision) -> Option<Request> {
    let Decision::Mail(letter) = decision else { return None };
    Some(Request {
        dedup_key: letter.dedup_key.clone(),
        user_id: Some(notification.user_id.clone()),
        to: notification.email.clone()?,
        stream: letter.stream,
        category: letter.category,
        template: letter.template.key.to_owned(),
        variables: letter.variables.clone(),
        priority: notification.priority.clone(),
        not_before: None,
        notification_id: Some(notification.id.clone()),
    })
}
