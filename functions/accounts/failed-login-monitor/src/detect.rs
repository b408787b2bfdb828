//! What is suspicious about a slot: one statement over the attempts of half an hour.

use jobs::Timestamp;
use serde_json::{Value, json};
use services::Error;
use sqlx::PgPool;

/// More failures than this of one address in 15 minutes are suspicious …
const SUSPICIOUS: i64 = 10;
/// … and so many are an attack: the account is locked.
const ATTACK: i32 = 15;

/// Which rule found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Many failures of one e-mail address.
    FailedLogins,
    /// One IP address tries many e-mail addresses.
    Spray,
}

impl Kind {
    /// The name in SQL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FailedLogins => "failed_logins",
            Self::Spray => "ip_spray",
        }
    }
}

/// Something suspicious.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Findings are in the order of this.
    pub key: String,
    /// Which rule found it.
    pub kind: Kind,
    /// E-mail address in lower case, or IP address.
    pub subject: String,
    /// The most failures in 15 minutes.
    pub attempts: i32,
    /// Of these, what counts towards a lock.
    pub lockable: i32,
    /// From where most came.
    pub ip_address: Option<String>,
    /// How many e-mail addresses an IP address tried.
    pub targets: i32,
}

impl Finding {
    /// `critical` from an attack on.
    pub fn severity(&self) -> &'static str {
        match self.kind {
            Kind::FailedLogins if self.attempts < ATTACK => "warning",
            _ => "critical",
        }
    }

    /// Whether the account is to be locked.
    pub fn calls_for_a_lock(&self) -> bool {
        self.kind == Kind::FailedLogins && self.lockable >= ATTACK
    }

    /// What an alert says besides.
    pub fn details(&self) -> Value {
        match self.kind {
            Kind::FailedLogins => json!({"ipAddress": self.ip_address}),
            Kind::Spray => json!({"targets": self.targets}),
        }
    }
}

/// All findings of the slot `as_of`, in the order of their keys.
///
/// An attempt that the application refused because the account was locked, inactive or deleted tells of an attack, but is no reason for
/// a lock; nor is one that came before the lock that it led to. For an IP address the 15 minutes are those up to the slot, and up to 5
/// and 10 minutes before it: distinct addresses cannot be counted in a window that slides.
pub async fn findings(pool: &PgPool, as_of: Timestamp) -> Result<Vec<Finding>, Error> {
    let rows = sqlx::query!(
        r#"WITH attempt AS MATERIALIZED (
               SELECT nullif(lower(btrim(email)), '') AS email, ip_address, timestamp AS at,
                      coalesce(after_state ->> 'reason', '') NOT IN ('ACCOUNT_LOCKED', 'ACCOUNT_INACTIVE', 'ACCOUNT_DELETED') AS counts
               FROM audit_events
               WHERE action = 'LOGIN_FAILED' AND timestamp > $1::timestamptz - interval '30 minutes' AND timestamp <= $1
           ), busy AS (
               SELECT email FROM attempt WHERE email IS NOT NULL GROUP BY email HAVING count(*) > $2
           ), counted AS (
               SELECT a.email, a.at, a.ip_address, a.counts AND (u.locked_until IS NULL OR a.at > u.locked_until - interval '24 hours') AS counts
               FROM attempt a JOIN busy USING (email) LEFT JOIN users u ON lower(u.email) = a.email AND u.lock_reason = 'failed_logins'
           ), slid AS (
               SELECT email, at, ip_address, counts, count(*) OVER quarter AS attempts, count(*) FILTER (WHERE counts) OVER quarter AS lockable
               FROM counted
               WINDOW quarter AS (PARTITION BY email ORDER BY at RANGE BETWEEN interval '15 minutes' PRECEDING AND CURRENT ROW)
           ), spray AS (
               SELECT ip_address, count(*) AS attempts, count(DISTINCT email) AS targets
               FROM attempt JOIN generate_series($1::timestamptz - interval '10 minutes', $1, interval '5 minutes') AS until
                 ON at > until - interval '15 minutes' AND at <= until
               WHERE ip_address IS NOT NULL
               GROUP BY ip_address, until HAVING count(*) >= 20 AND count(DISTINCT email) >= 5
           )
           SELECT email AS "subject!", false AS "spray!", max(attempts)::int AS "attempts!",
                  coalesce(max(lockable) FILTER (WHERE counts), 0)::int AS "lockable!",
                  mode() WITHIN GROUP (ORDER BY ip_address) AS ip_address, 0 AS "targets!"
           FROM slid WHERE at > $1::timestamptz - interval '15 minutes' GROUP BY email HAVING max(attempts) > $2
           UNION ALL
           SELECT ip_address, true, max(attempts)::int, 0, ip_address, max(targets)::int FROM spray GROUP BY ip_address"#,
        as_of,
        SUSPICIOUS,
    )
    .fetch_all(pool)
    .await?;
    let mut findings: Vec<_> = rows
        .into_iter()
        .map(|row| {
            let kind = if row.spray { Kind::Spray } else { Kind::FailedLogins };
            Finding {
                key: format!("{} {}", kind.as_str(), row.subject),
                kind,
                subject: row.subject,
                attempts: row.attempts,
                lockable: row.lockable,
                ip_address: row.ip_address,
                targets: row.targets,
            }
        })
        .collect();
    findings.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    Ok(findings)
}
