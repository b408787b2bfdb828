//! The ledger `email_messages`: every statement that moves a row from one status to another.

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use sqlx::{PgExecutor, PgPool};

use super::stream::{Category, Stream};
use super::{address, life};
use crate::{Error, Redacted, Timestamp};

/// The status of a row; the machine is spec comms C1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// Waits for `next_attempt_at`.
    Pending,
    /// Waits for the e-mail digest.
    Held,
    /// Claimed; about to leave.
    Sending,
    /// SES has it.
    Sent,
    /// The address is on the suppression list.
    Suppressed,
    /// The recipient does not want it, or is gone.
    Skipped,
    /// It can never leave.
    Failed,
    /// It left, and no answer came.
    Uncertain,
    /// Too late to be worth sending.
    Expired,
    /// Its owner took it back.
    Cancelled,
    /// A digest carried it.
    Digested,
}

impl Status {
    const ALL: [Self; 11] = [
        Self::Pending,
        Self::Held,
        Self::Sending,
        Self::Sent,
        Self::Suppressed,
        Self::Skipped,
        Self::Failed,
        Self::Uncertain,
        Self::Expired,
        Self::Cancelled,
        Self::Digested,
    ];

    /// The name in SQL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Held => "HELD",
            Self::Sending => "SENDING",
            Self::Sent => "SENT",
            Self::Suppressed => "SUPPRESSED",
            Self::Skipped => "SKIPPED",
            Self::Failed => "FAILED",
            Self::Uncertain => "UNCERTAIN",
            Self::Expired => "EXPIRED",
            Self::Cancelled => "CANCELLED",
            Self::Digested => "DIGESTED",
        }
    }

    /// The status of a name from SQL; the column's CHECK admits no other.
    pub(super) fn named(name: &str) -> Self {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == name)
            .unwrap_or(Self::Failed)
    }
}

/// A mail to be enqueued.
#[derive(Clone, Debug)]
pub struct Request {
    /// The business key: one mail for one fact, whoever tells of it.
    pub dedup_key: String,
    /// The recipient, if a user.
    pub user_id: Option<String>,
    /// The address as the user typed it.
    pub to: Redacted<String>,
    /// Which rules it obeys.
    pub stream: Stream,
    /// Which preference turns it off.
    pub category: Category,
    /// The key of the template.
    pub template: String,
    /// The template's variables.
    pub variables: Value,
    /// LOW, MEDIUM, HIGH or URGENT.
    pub priority: String,
    /// Not to leave before.
    pub not_before: Option<Timestamp>,
    /// The notification that it delivers.
    pub notification_id: Option<String>,
}

/// What enqueueing did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enqueued {
    /// The row under this business key.
    pub id: String,
    /// Its status.
    pub status: Status,
    /// False when the key was there before, be it in the same call.
    pub inserted: bool,
}

/// Enqueues mails inside the caller's transaction; an address that can take no mail makes a FAILED row, so that
/// somebody can see why nothing came. Answers are in the order of the requests.
pub async fn enqueue(
    executor: impl PgExecutor<'_>,
    sender_domain: &str,
    requests: &[Request],
    at: Timestamp,
) -> Result<Vec<Enqueued>, Error> {
    let column = |f: fn(&Request) -> String| requests.iter().map(f).collect::<Vec<_>>();
    let optional = |f: fn(&Request) -> Option<String>| requests.iter().map(f).collect::<Vec<_>>();
    let usable: Vec<_> = requests
        .iter()
        .map(|request| address::mailable(&normal(request.to.expose())).is_some())
        .collect();
    let variables: Vec<_> = requests.iter().map(|request| request.variables.clone()).collect();
    let not_before: Vec<_> = requests.iter().map(|request| request.not_before).collect();
    let expires: Vec<_> = requests
        .iter()
        .map(|request| request.not_before.unwrap_or(at).max(at) + life(request.stream))
        .collect();
    let rows = sqlx::query!(
        r#"WITH request AS (
               SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::jsonb[], $8::text[],
                                    $9::timestamptz[], $10::text[], $11::timestamptz[], $12::bool[])
                   AS r (dedup_key, user_id, to_email, stream, category, template, variables, priority, not_before, notification_id, expires_at, usable)
           ), inserted AS (
               INSERT INTO email_messages (dedup_key, user_id, to_email, stream, category, template, variables, priority, not_before,
                                           notification_id, expires_at, sender_domain, next_attempt_at, status, status_reason)
               SELECT dedup_key, user_id, to_email, stream, category, template, variables, priority, not_before, notification_id, expires_at,
                      $13, coalesce(not_before, $14), CASE WHEN usable THEN 'PENDING' ELSE 'FAILED' END,
                      CASE WHEN NOT usable THEN 'invalid_address' END
               FROM request
               ON CONFLICT (dedup_key) DO NOTHING
               RETURNING id, dedup_key, status
           )
           SELECT id AS "id!", dedup_key AS "dedup_key!", status AS "status!", true AS "inserted!" FROM inserted
           UNION ALL
           SELECT id, dedup_key, status, false FROM email_messages WHERE dedup_key = ANY($1)"#,
        &column(|r| r.dedup_key.clone()),
        &optional(|r| r.user_id.clone()) as _,
        &column(|r| normal(r.to.expose())),
        &column(|r| r.stream.as_str().to_owned()),
        &column(|r| r.category.as_str().to_owned()),
        &column(|r| r.template.clone()),
        &variables,
        &column(|r| r.priority.clone()),
        &not_before as _,
        &optional(|r| r.notification_id.clone()) as _,
        &expires,
        &usable,
        sender_domain,
        at,
    )
    .fetch_all(executor)
    .await?;
    let mut known: HashMap<_, _> = rows
        .into_iter()
        .map(|row| {
            (
                row.dedup_key,
                Enqueued {
                    id: row.id,
                    status: Status::named(&row.status),
                    inserted: row.inserted,
                },
            )
        })
        .collect();
    // A row that a concurrent transaction inserted is not in this statement's snapshot; it is theirs to send.
    let unseen = || Enqueued {
        id: String::new(),
        status: Status::Pending,
        inserted: false,
    };
    let answer = |request: &Request| {
        let Some(row) = known.get_mut(&request.dedup_key) else {
            return unseen();
        };
        let inserted = std::mem::take(&mut row.inserted);
        Enqueued {
            inserted,
            ..row.clone()
        }
    };
    Ok(requests.iter().map(answer).collect())
}

/// Addresses are stored trimmed and in lower case.
pub(super) fn normal(address: &str) -> String {
    address.trim().to_lowercase()
}

/// How a row leaves its status.
#[derive(Clone, Debug)]
pub(super) struct Transition {
    pub id: String,
    pub status: Status,
    pub reason: Option<String>,
    pub ses_message_id: Option<String>,
    pub subject: Option<String>,
    /// `None` leaves it.
    pub next_attempt_at: Option<Timestamp>,
    /// The attempt did not happen.
    pub refund: bool,
    /// It failed this time: SES is known not to have it.
    pub faulted: bool,
}

impl Transition {
    pub(super) fn to(id: &str, status: Status, reason: Option<&str>) -> Self {
        Self {
            id: id.to_owned(),
            status,
            reason: reason.map(str::to_owned),
            ses_message_id: None,
            subject: None,
            next_attempt_at: None,
            refund: false,
            faulted: false,
        }
    }
}

/// A row after dispatching it.
#[derive(Clone, Debug)]
pub struct Dispatched {
    /// The row.
    pub id: String,
    /// Its status.
    pub status: Status,
    /// Why, if not sent.
    pub reason: Option<String>,
    /// Calls to SES so far.
    pub attempts: i32,
    /// When a PENDING row is due.
    pub next_attempt_at: Timestamp,
    /// SES was called and is known not to have the mail, which is PENDING again.
    pub faulted: bool,
}

/// Moves rows that are still in `from`, and tells the notifications that own them, in one statement. A late "sent" also wins over
/// the UNCERTAIN that a sweep wrote meanwhile.
pub(super) async fn transit(pool: &PgPool, from: Status, transitions: &[Transition]) -> Result<Vec<Dispatched>, Error> {
    if transitions.is_empty() {
        return Ok(Vec::new());
    }
    let column = |f: fn(&Transition) -> Option<String>| transitions.iter().map(f).collect::<Vec<_>>();
    let ids: Vec<_> = transitions.iter().map(|t| t.id.clone()).collect();
    let statuses: Vec<_> = transitions.iter().map(|t| t.status.as_str().to_owned()).collect();
    let next: Vec<_> = transitions.iter().map(|t| t.next_attempt_at).collect();
    let refunds: Vec<_> = transitions.iter().map(|t| i32::from(t.refund)).collect();
    let rows = sqlx::query!(
        r#"WITH moved AS (
               UPDATE email_messages m
               SET status = t.status, status_reason = t.reason, ses_message_id = coalesce(t.ses_message_id, m.ses_message_id),
                   subject = coalesce(t.subject, m.subject), next_attempt_at = coalesce(t.next_attempt_at, m.next_attempt_at),
                   attempts = m.attempts - t.refund, lease_until = NULL,
                   expires_at = CASE WHEN t.status = 'HELD' THEN m.created_at + interval '35 days' ELSE m.expires_at END,
                   sent_at = CASE WHEN t.status = 'SENT' THEN clock_timestamp() ELSE m.sent_at END,
                   delivery_rank = CASE WHEN t.status = 'SENT' THEN greatest(m.delivery_rank, 10) ELSE m.delivery_rank END,
                   updated_at = clock_timestamp()
               FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::int[])
                   AS t (id, status, reason, ses_message_id, subject, next_attempt_at, refund)
               WHERE m.id = t.id AND (m.status = $8 OR (t.status = 'SENT' AND m.status = 'UNCERTAIN'))
               RETURNING m.id, m.status, m.status_reason, m.attempts, m.next_attempt_at, m.notification_id
           ), owners AS (
               UPDATE notifications n
               SET email_state = CASE m.status WHEN 'SENT' THEN 'SENT' WHEN 'FAILED' THEN 'FAILED' ELSE 'SKIPPED' END,
                   email_state_reason = m.status_reason, emailed_at = CASE WHEN m.status = 'SENT' THEN clock_timestamp() END
               FROM moved m
               WHERE n.id = m.notification_id AND n.email_message_id = m.id
                 AND m.status IN ('SENT', 'FAILED', 'SUPPRESSED', 'SKIPPED', 'EXPIRED', 'CANCELLED')
           )
           SELECT id, status, status_reason, attempts, next_attempt_at FROM moved"#,
        &ids,
        &statuses,
        &column(|t| t.reason.clone()) as _,
        &column(|t| t.ses_message_id.clone()) as _,
        &column(|t| t.subject.clone()) as _,
        &next as _,
        &refunds,
        from.as_str(),
    )
    .fetch_all(pool)
    .await?;
    let faulted: HashSet<_> = transitions
        .iter()
        .filter(|t| t.faulted)
        .map(|t| t.id.as_str())
        .collect();
    let moved = rows.into_iter().map(|row| Dispatched {
        faulted: faulted.contains(row.id.as_str()),
        id: row.id,
        status: Status::named(&row.status),
        reason: row.status_reason,
        attempts: row.attempts,
        next_attempt_at: row.next_attempt_at,
    });
    Ok(moved.collect())
}

/// Claims rows for sending: whoever gets a row back, and nobody else, may call SES for it, once.
pub(super) async fn claim(
    pool: &PgPool,
    token: &str,
    ids: &[String],
    at: Timestamp,
) -> Result<HashMap<String, i32>, Error> {
    let rows = sqlx::query!(
        "UPDATE email_messages
         SET status = 'SENDING', lease_token = $3, lease_until = clock_timestamp() + interval '2 minutes', attempts = attempts + 1,
             updated_at = clock_timestamp()
         WHERE id = ANY($1) AND status = 'PENDING' AND next_attempt_at <= $2
         RETURNING id, attempts",
        ids,
        at,
        token,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.attempts)).collect())
}

/// Takes back what a dead process had claimed under `token`: mails whose calls it had not begun are PENDING again and have used no
/// attempt, the others are in doubt.
pub(super) async fn take_back(pool: &PgPool, token: &str, begun: &[String]) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE email_messages
         SET status = CASE WHEN id = ANY($2) THEN 'UNCERTAIN' ELSE 'PENDING' END,
             status_reason = CASE WHEN id = ANY($2) THEN 'process_died' END,
             attempts = CASE WHEN id = ANY($2) THEN attempts ELSE attempts - 1 END, lease_until = NULL, updated_at = clock_timestamp()
         WHERE lease_token = $1 AND status = 'SENDING'",
        token,
        begun,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Takes rows that are due, the most urgent stream first, and keeps other sweepers off them for a minute, since two of them would
/// reserve the pace twice. This is no claim: the rows stay PENDING.
pub async fn take_due(pool: &PgPool, at: Timestamp, limit: i64) -> Result<Vec<String>, Error> {
    let ids = sqlx::query_scalar!(
        "WITH taken AS (
             UPDATE email_messages SET lease_until = clock_timestamp() + interval '1 minute'
             WHERE id IN (SELECT id FROM email_messages
                          WHERE status = 'PENDING' AND next_attempt_at <= $1 AND (lease_until IS NULL OR lease_until < clock_timestamp())
                          ORDER BY array_position(ARRAY['ESSENTIAL', 'NOTIFICATION', 'DIGEST', 'MARKETING'], stream), next_attempt_at, id
                          LIMIT $2 FOR UPDATE SKIP LOCKED)
             RETURNING id, stream, next_attempt_at
         )
         SELECT id FROM taken
         ORDER BY array_position(ARRAY['ESSENTIAL', 'NOTIFICATION', 'DIGEST', 'MARKETING'], stream), next_attempt_at, id",
        at,
        limit,
    )
    .fetch_all(pool)
    .await?;
    Ok(ids)
}

/// What a sweep found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Sweep {
    /// SENDING whose process is gone: now UNCERTAIN.
    pub in_doubt: i64,
    /// UNCERTAIN of the stream ESSENTIAL: PENDING once more.
    pub resent: i64,
    /// UNCERTAIN for too long: FAILED(`unconfirmed`).
    pub unconfirmed: i64,
}

/// Settles what crashes left (spec: comms, C1): a claim whose lease has ended is in doubt; in doubt, ESSENTIAL is sent once
/// more after 15 minutes, everything else is given up after 60. Measured by the database's clock.
pub async fn sweep(pool: &PgPool) -> Result<Sweep, Error> {
    let row = sqlx::query!(
        r#"WITH in_doubt AS (
               UPDATE email_messages SET status = 'UNCERTAIN', status_reason = 'lease_expired', lease_until = NULL, updated_at = clock_timestamp()
               WHERE status = 'SENDING' AND lease_until < clock_timestamp()
               RETURNING 1
           ), resent AS (
               UPDATE email_messages SET status = 'PENDING', status_reason = NULL, resent_at = clock_timestamp(), updated_at = clock_timestamp()
               WHERE status = 'UNCERTAIN' AND stream = 'ESSENTIAL' AND resent_at IS NULL
                 AND updated_at < clock_timestamp() - interval '15 minutes'
               RETURNING 1
           ), unconfirmed AS (
               UPDATE email_messages SET status = 'FAILED', status_reason = 'unconfirmed', updated_at = clock_timestamp()
               WHERE status = 'UNCERTAIN' AND (stream <> 'ESSENTIAL' OR resent_at IS NOT NULL)
                 AND updated_at < clock_timestamp() - interval '60 minutes'
               RETURNING id, notification_id
           ), owners AS (
               UPDATE notifications n SET email_state = 'FAILED', email_state_reason = 'unconfirmed'
               FROM unconfirmed u WHERE n.id = u.notification_id AND n.email_message_id = u.id
           )
           SELECT (SELECT count(*) FROM in_doubt) AS "in_doubt!", (SELECT count(*) FROM resent) AS "resent!",
                  (SELECT count(*) FROM unconfirmed) AS "unconfirmed!""#
    )
    .fetch_one(pool)
    .await?;
    Ok(Sweep {
        in_doubt: row.in_doubt,
        resent: row.resent,
        unconfirmed: row.unconfirmed,
    })
}

/// Ends rows that would leave too late; at most `limit`, by the run's own clock.
pub async fn expire(pool: &PgPool, at: Timestamp, limit: i64) -> Result<i64, Error> {
    let count = sqlx::query_scalar!(
        r#"WITH expired AS (
               UPDATE email_messages SET status = 'EXPIRED', status_reason = 'expired', updated_at = clock_timestamp()
               WHERE id IN (SELECT id FROM email_messages WHERE status IN ('PENDING', 'HELD') AND expires_at <= $1
                            ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED)
               RETURNING id, notification_id
           ), owners AS (
               UPDATE notifications n SET email_state = 'SKIPPED', email_state_reason = 'expired'
               FROM expired e WHERE n.id = e.notification_id AND n.email_message_id = e.id
           )
           SELECT count(*) AS "count!" FROM expired"#,
        at,
        limit,
    )
    .fetch_one(pool)
    .await?;
    Ok(count)
}
