//! Mails that wait for the digest.

use jobs::Timestamp;
use services::Error;
use services::mail::templates;
use sqlx::PgPool;

/// So many of a user and category are read; ten can become lines, and others may lead to the same place.
const READ: i64 = 50;
/// So many are let go in one run; there is another in a quarter of an hour.
const LET_GO: i64 = 5000;

/// What the digest says of held mails. One column a field.
#[derive(Debug, Default)]
pub struct Briefs {
    pub ids: Vec<String>,
    pub titles: Vec<String>,
    pub summaries: Vec<String>,
    pub urls: Vec<String>,
}

/// Lets go of mails whose user wants no digest, or no such mail, any more: on its own when it is less than a day old and the user
/// wants mail at once, otherwise not at all (spec, step 5).
pub async fn let_go(pool: &PgPool, at: Timestamp) -> Result<(), Error> {
    sqlx::query!(
        "WITH held AS (
             SELECT m.id, CASE WHEN NOT r.active THEN 'user_inactive'
                               WHEN m.category = ANY(r.categories_off) THEN 'category_off'
                               WHEN r.email_frequency = 'NEVER' THEN 'frequency_never'
                               WHEN m.created_at <= $1::timestamptz - interval '24 hours' THEN 'stale' END AS reason
             FROM email_messages m JOIN mail_recipients r ON r.user_id = m.user_id
             WHERE m.status = 'HELD' AND m.created_at <= $1
               AND (NOT r.active OR m.category = ANY(r.categories_off) OR r.email_frequency NOT IN ('DAILY', 'WEEKLY'))
             ORDER BY m.id
             LIMIT $2
         ), gone AS (
             UPDATE email_messages m
             SET status = CASE WHEN h.reason IS NULL THEN 'PENDING' ELSE 'SKIPPED' END, status_reason = h.reason, next_attempt_at = $1,
                 expires_at = CASE WHEN h.reason IS NULL THEN $1 + interval '48 hours' ELSE m.expires_at END, updated_at = clock_timestamp()
             FROM held h WHERE m.id = h.id AND m.status = 'HELD'
             RETURNING m.id, m.notification_id, m.status, m.status_reason
         )
         UPDATE notifications n SET email_state = 'SKIPPED', email_state_reason = g.status_reason
         FROM gone g WHERE g.status = 'SKIPPED' AND n.id = g.notification_id AND n.email_message_id = g.id",
        at,
        LET_GO,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Reads the newest held mails of users and says them in brief. One that no template can say has failed for good.
pub async fn briefs(pool: &PgPool, user_ids: &[String], at: Timestamp) -> sqlx::Result<Briefs> {
    let mails = sqlx::query!(
        r#"SELECT id, template, coalesce(variables, '{}')::text AS "variables!"
           FROM (SELECT m.*, row_number() OVER (PARTITION BY m.user_id, m.category ORDER BY m.created_at DESC, m.id) AS n
                 FROM email_messages m
                 WHERE m.user_id = ANY($1) AND m.status = 'HELD' AND m.created_at <= $2 AND m.expires_at > $2) m
           WHERE n <= $3"#,
        user_ids,
        at,
        READ,
    )
    .fetch_all(pool)
    .await?;
    let mut briefs = Briefs::default();
    let (mut broken, mut reasons) = (Vec::new(), Vec::new());
    for mail in mails {
        match templates::brief(&mail.template, &mail.variables) {
            Ok(brief) => {
                briefs.ids.push(mail.id);
                briefs.titles.push(brief.title);
                briefs.summaries.push(brief.summary);
                briefs.urls.push(brief.url);
            }
            Err(error) => {
                broken.push(mail.id);
                reasons.push(error.to_string());
            }
        }
    }
    if !broken.is_empty() {
        sqlx::query!(
            "WITH failed AS (
                 UPDATE email_messages m SET status = 'FAILED', status_reason = b.reason, updated_at = clock_timestamp()
                 FROM unnest($1::text[], $2::text[]) AS b (id, reason) WHERE m.id = b.id AND m.status = 'HELD'
                 RETURNING m.id, m.notification_id, m.status_reason
             )
             UPDATE notifications n SET email_state = 'FAILED', email_state_reason = f.status_reason
             FROM failed f WHERE n.id = f.notification_id AND n.email_message_id = f.id",
            &broken,
            &reasons,
        )
        .execute(pool)
        .await?;
    }
    Ok(briefs)
}
