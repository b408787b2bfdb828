//! The statements of the job but for those of wishes: each is one for the whole batch, and locks its rows in their order, so that two
//! batches about the same mails do not lock each other out.

use std::collections::{BTreeMap, HashMap};

use jobs::Timestamp;
use services::Error;
use services::mail::feedback::Feedback;
use sqlx::PgConnection;

use crate::fact::Fact;

/// A mail of the ledger.
#[derive(Clone)]
pub struct Mail {
    pub id: String,
    pub ses_message_id: Option<String>,
    /// To whom it was sent.
    pub email: String,
    pub user_id: Option<String>,
    pub stream: String,
    pub category: String,
    pub template: String,
    pub campaign_id: Option<String>,
    /// A person opened it before.
    pub opened: bool,
}

/// Loads and locks mails by our id or by SES's.
pub async fn load(
    connection: &mut PgConnection,
    ids: &[String],
    ses_message_ids: &[String],
) -> Result<Vec<Mail>, Error> {
    let rows = sqlx::query!(
        r#"SELECT id, ses_message_id, to_email, user_id, stream, category, template, campaign_id, first_opened_at IS NOT NULL AS "opened!"
           FROM email_messages WHERE id = ANY($1) OR ses_message_id = ANY($2) ORDER BY id FOR UPDATE"#,
        ids,
        ses_message_ids,
    )
    .fetch_all(connection)
    .await?;
    let mail = rows.into_iter().map(|row| Mail {
        id: row.id,
        ses_message_id: row.ses_message_id,
        email: row.to_email,
        user_id: row.user_id,
        stream: row.stream,
        category: row.category,
        template: row.template,
        campaign_id: row.campaign_id,
        opened: row.opened,
    });
    Ok(mail.collect())
}

/// A fact with the mail that it is about, if the ledger has it.
pub struct Linked<'a> {
    pub fact: &'a Fact,
    pub mail: Option<&'a Mail>,
    /// The address as the ledger writes it, else as SES does.
    pub email: String,
}

/// Stores facts. Answers the rows of those that are new, by key: only they have effects.
pub async fn insert(connection: &mut PgConnection, facts: &[Linked<'_>]) -> Result<HashMap<String, String>, Error> {
    if facts.is_empty() {
        return Ok(HashMap::new());
    }
    let texts = |text: for<'x> fn(&'x Linked<'x>) -> &'x str| {
        facts.iter().map(|fact| text(fact).to_owned()).collect::<Vec<_>>()
    };
    let optional = |text: for<'x> fn(&'x Linked<'x>) -> Option<&'x str>| {
        facts
            .iter()
            .map(|fact| text(fact).map(str::to_owned))
            .collect::<Vec<_>>()
    };
    let times: Vec<_> = facts.iter().map(|linked| linked.fact.at).collect();
    let machines: Vec<_> = facts.iter().map(|linked| linked.fact.machine).collect();
    let raw: Vec<_> = facts.iter().map(|linked| linked.fact.raw.clone()).collect();
    let rows = sqlx::query!(
        "INSERT INTO email_events (event_key, email_message_id, ses_message_id, user_id, email, event_type, occurred_at, bounce_type, bounce_sub_type,
                                   diagnostic, feedback_type, clicked_url, machine, ip_address, user_agent, device_type, raw)
         SELECT event_key, email_message_id, ses_message_id, user_id, email, event_type, occurred_at, bounce_type, bounce_sub_type,
                diagnostic, feedback_type, clicked_url, machine, ip_address::inet, user_agent, device_type, raw
         FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[], $8::text[], $9::text[],
                     $10::text[], $11::text[], $12::text[], $13::bool[], $14::text[], $15::text[], $16::text[], $17::jsonb[])
             AS e (event_key, email_message_id, ses_message_id, user_id, email, event_type, occurred_at, bounce_type, bounce_sub_type,
                   diagnostic, feedback_type, clicked_url, machine, ip_address, user_agent, device_type, raw)
         ORDER BY event_key
         ON CONFLICT (event_key) DO NOTHING
         RETURNING event_key, id",
        &texts(|linked| &linked.fact.key),
        &optional(|linked| linked.mail.map(|mail| &*mail.id)) as _,
        &texts(|linked| &linked.fact.ses_message_id),
        &optional(|linked| linked.mail.and_then(|mail| mail.user_id.as_deref())) as _,
        &texts(|linked| &linked.email),
        &texts(|linked| linked.fact.kind),
        &times,
        &optional(|linked| linked.fact.bounce_type.as_deref()) as _,
        &optional(|linked| linked.fact.bounce_sub_type.as_deref()) as _,
        &optional(|linked| linked.fact.diagnostic.as_deref()) as _,
        &optional(|linked| linked.fact.feedback_type.as_deref()) as _,
        &optional(|linked| linked.fact.clicked_url.as_deref()) as _,
        &machines,
        &optional(|linked| linked.fact.ip_address.as_deref()) as _,
        &optional(|linked| linked.fact.user_agent.as_deref()) as _,
        &optional(|linked| linked.fact.device_type) as _,
        &raw,
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.event_key, row.id)).collect())
}

/// Of these addresses, those that bounced softly too often, and when at last: three mails within 30 days, none delivered in between.
pub async fn worn_out(connection: &mut PgConnection, emails: &[String]) -> Result<Vec<(String, Timestamp)>, Error> {
    if emails.is_empty() {
        return Ok(Vec::new());
    }
    // Two batches with one bounce each would both miss the other's. A statement of its own: the count must see what the other wrote.
    sqlx::query!(
        "SELECT pg_advisory_xact_lock(hashtextextended('soft bounces of ' || email, 0))::text
         FROM (SELECT DISTINCT email FROM unnest($1::text[]) AS a (email) ORDER BY email) a",
        emails,
    )
    .fetch_all(&mut *connection)
    .await?;
    // Seen from the last bounce, and not from now: events come late and in any order.
    let rows = sqlx::query!(
        r#"WITH soft AS (
               SELECT email, ses_message_id, occurred_at, max(occurred_at) OVER (PARTITION BY email) AS last_at
               FROM email_events
               WHERE email = ANY($1) AND event_type = 'BOUNCED' AND bounce_type <> 'Permanent'
                 AND bounce_sub_type NOT IN ('MessageTooLarge', 'ContentRejected', 'AttachmentRejected', 'OnAccountSuppressionList', 'Suppressed')
           )
           SELECT s.email AS "email!", s.last_at AS "last_at!"
           FROM soft s
           WHERE s.occurred_at > s.last_at - interval '30 days'
             AND NOT EXISTS (SELECT FROM email_events d WHERE d.email = s.email AND d.event_type = 'DELIVERED'
                             AND d.occurred_at >= s.occurred_at AND d.occurred_at <= s.last_at)
           GROUP BY s.email, s.last_at
           HAVING count(DISTINCT s.ses_message_id) >= 3"#,
        emails,
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.email, row.last_at)).collect())
}

/// What addresses did.
#[derive(Clone, Debug, Default)]
pub struct Engagement {
    pub sent: i32,
    pub opened: i32,
    pub clicked: i32,
    pub last_at: Option<Timestamp>,
}

/// Adds what addresses did.
pub async fn engage(connection: &mut PgConnection, engagements: &BTreeMap<String, Engagement>) -> Result<(), Error> {
    if engagements.is_empty() {
        return Ok(());
    }
    let emails: Vec<_> = engagements.keys().cloned().collect();
    let counts = |count: fn(&Engagement) -> i32| engagements.values().map(count).collect::<Vec<_>>();
    let last: Vec<_> = engagements.values().map(|engagement| engagement.last_at).collect();
    sqlx::query!(
        "INSERT INTO email_engagements AS e (email, sent_count, unique_open_count, click_count, last_engaged_at)
         SELECT * FROM unnest($1::text[], $2::int[], $3::int[], $4::int[], $5::timestamptz[]) AS n (email, sent, opened, clicked, last_at)
         ORDER BY email
         ON CONFLICT (email) DO UPDATE SET
             sent_count = e.sent_count + EXCLUDED.sent_count, unique_open_count = e.unique_open_count + EXCLUDED.unique_open_count,
             click_count = e.click_count + EXCLUDED.click_count, last_engaged_at = greatest(e.last_engaged_at, EXCLUDED.last_engaged_at)",
        &emails,
        &counts(|engagement| engagement.sent),
        &counts(|engagement| engagement.opened),
        &counts(|engagement| engagement.clicked),
        &last as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Moves the recipients of campaigns and counts what happened to each for the first time. The mails are locked, and one recipient has one
/// mail: nobody else counts the same. One that SES rejected before its campaign counted it as sent stays for the campaign to settle.
pub async fn count_for_campaigns(connection: &mut PgConnection, mails: &[(String, Feedback)]) -> Result<(), Error> {
    if mails.is_empty() {
        return Ok(());
    }
    let ids: Vec<_> = mails.iter().map(|(id, _)| id.clone()).collect();
    let ranks: Vec<_> = mails.iter().map(|(_, mail)| mail.rank).collect();
    let statuses: Vec<_> = mails
        .iter()
        .map(|(_, mail)| recipient_status(mail).to_owned())
        .collect();
    let reasons: Vec<_> = mails
        .iter()
        .map(|(_, mail)| mail.rejected.as_ref().map(|(_, reason)| reason.clone()))
        .collect();
    let times = |time: fn(&Feedback) -> Option<Timestamp>| mails.iter().map(|(_, mail)| time(mail)).collect::<Vec<_>>();
    sqlx::query!(
        r#"WITH moved AS (
               UPDATE campaign_recipients r
               SET status = CASE WHEN f.rank > r.status_rank AND f.status <> '' AND (f.reason IS NULL OR old.sent_at IS NOT NULL) THEN f.status ELSE r.status END,
                   status_rank = greatest(r.status_rank, f.rank), error_message = coalesce(f.reason, r.error_message),
                   delivered_at = least(r.delivered_at, f.delivered_at), opened_at = least(r.opened_at, f.opened_at),
                   first_clicked_at = least(r.first_clicked_at, f.clicked_at), bounced_at = least(r.bounced_at, f.bounced_at),
                   complained_at = least(r.complained_at, f.complained_at), unsubscribed_at = least(r.unsubscribed_at, f.unsubscribed_at),
                   sent_at = CASE WHEN f.reason IS NULL THEN r.sent_at END
               FROM unnest($1::text[], $2::int2[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[], $7::timestamptz[],
                           $8::timestamptz[], $9::timestamptz[], $10::timestamptz[])
                   AS f (id, rank, status, reason, delivered_at, opened_at, clicked_at, bounced_at, complained_at, unsubscribed_at)
               JOIN campaign_recipients old ON old.email_message_id = f.id
               WHERE r.id = old.id
               RETURNING r.campaign_id,
                         (old.delivered_at IS NULL AND r.delivered_at IS NOT NULL)::int AS delivered,
                         (old.opened_at IS NULL AND r.opened_at IS NOT NULL)::int AS opened,
                         (old.first_clicked_at IS NULL AND r.first_clicked_at IS NOT NULL)::int AS clicked,
                         (old.bounced_at IS NULL AND r.bounced_at IS NOT NULL)::int AS bounced,
                         (old.complained_at IS NULL AND r.complained_at IS NOT NULL)::int AS complained,
                         (old.unsubscribed_at IS NULL AND r.unsubscribed_at IS NOT NULL)::int AS unsubscribed,
                         -- It was counted as sent, and was not: the counts must still add up.
                         (old.sent_at IS NOT NULL AND r.sent_at IS NULL)::int AS unsent
           ), news AS (
               SELECT campaign_id, sum(delivered) AS delivered, sum(opened) AS opened, sum(clicked) AS clicked, sum(bounced) AS bounced,
                      sum(complained) AS complained, sum(unsubscribed) AS unsubscribed, sum(unsent) AS unsent
               FROM moved GROUP BY campaign_id ORDER BY campaign_id
           )
           UPDATE email_campaigns c
           SET delivered_count = c.delivered_count + n.delivered, opened_count = c.opened_count + n.opened,
               clicked_count = c.clicked_count + n.clicked, bounced_count = c.bounced_count + n.bounced,
               complained_count = c.complained_count + n.complained, unsubscribed_count = c.unsubscribed_count + n.unsubscribed,
               sent_count = c.sent_count - n.unsent, failed_count = c.failed_count + n.unsent
           FROM news n
           WHERE c.id = n.campaign_id AND n.delivered + n.opened + n.clicked + n.bounced + n.complained + n.unsubscribed + n.unsent > 0"#,
        &ids,
        &ranks,
        &statuses,
        &reasons as _,
        &times(|mail| mail.delivered_at) as _,
        &times(|mail| mail.opened_at) as _,
        &times(|mail| mail.clicked_at) as _,
        &times(|mail| mail.bounced_at) as _,
        &times(|mail| mail.complained_at) as _,
        &times(|mail| mail.unsubscribed_at) as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The highest that happened; empty when nothing did that a recipient's status tells: sent, it becomes by its campaign.
fn recipient_status(mail: &Feedback) -> &'static str {
    let told = [
        (mail.complained_at.is_some(), "COMPLAINED"),
        (mail.unsubscribed_at.is_some(), "UNSUBSCRIBED"),
        (mail.rejected.is_some(), "FAILED"),
        (mail.bounced_at.is_some(), "BOUNCED"),
        (mail.clicked_at.is_some(), "CLICKED"),
        (mail.opened_at.is_some(), "OPENED"),
        (mail.delivered_at.is_some(), "DELIVERED"),
    ];
    told.into_iter()
        .find(|(happened, _)| *happened)
        .map_or("", |(_, status)| status)
}

/// Remembers which links of campaigns were followed: the rows of events and their mails.
pub async fn keep_clicks(connection: &mut PgConnection, clicks: &[(String, String)]) -> Result<(), Error> {
    if clicks.is_empty() {
        return Ok(());
    }
    let (events, mails): (Vec<_>, Vec<_>) = clicks.iter().cloned().unzip();
    sqlx::query!(
        "INSERT INTO email_campaign_clicks (campaign_id, recipient_id, email_event_id, clicked_url, clicked_at, device_type)
         SELECT r.campaign_id, r.id, e.id, e.clicked_url, e.occurred_at, e.device_type
         FROM unnest($1::text[], $2::text[]) AS c (event_id, mail_id)
         JOIN email_events e ON e.id = c.event_id
         JOIN campaign_recipients r ON r.email_message_id = c.mail_id
         ON CONFLICT (email_event_id) DO NOTHING",
        &events,
        &mails,
    )
    .execute(connection)
    .await?;
    Ok(())
}
