//! The circuit breaker in front of SES. Its state is a row, because every Lambda is its own process (spec: comms, C12).
//!
//! # Invariants
//!
//! * OPEN and HALF_OPEN let nobody send but the holder of the probe lease, one mail at a time.
//! * Only the database decides on transitions; a process remembers nothing but what it has not reported yet.
//! * What the breaker stops waits in the ledger and has used no attempt.

use std::time::{Duration, Instant};

use sqlx::PgPool;

use crate::{Error, Timestamp};

const NAME: &str = "ses";
/// Provider faults in a row that open the breaker.
pub(super) const FAULTS_IN_A_ROW: u32 = 5;

/// What the breaker allows right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Permit {
    /// Send.
    Closed,
    /// Send one, alone, and report.
    Probe,
    /// Send nothing before then.
    Open(Timestamp),
}

/// Calls that were made since the last report.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Report {
    pub calls: u32,
    pub faults: u32,
    /// Faults since the last success.
    pub in_a_row: u32,
}

impl Report {
    pub(super) fn success(&mut self) {
        self.calls += 1;
        self.in_a_row = 0;
    }

    pub(super) fn fault(&mut self) {
        self.calls += 1;
        self.faults += 1;
        self.in_a_row += 1;
    }
}

/// What a process remembers: a clean CLOSED, for two seconds.
#[derive(Debug)]
pub(super) struct Breaker {
    /// From where alerts are mailed.
    sender_domain: String,
    clean_at: Option<Instant>,
    unreported: Report,
}

impl Breaker {
    const MEMORY: Duration = Duration::from_secs(2);

    pub(super) fn new(sender_domain: &str) -> Self {
        Self {
            sender_domain: sender_domain.to_owned(),
            clean_at: None,
            unreported: Report::default(),
        }
    }

    /// Asks whether to send. At the end of the cool-down exactly one asker gets the probe, for 30 seconds.
    pub(super) async fn permit(&mut self, pool: &PgPool) -> Result<Permit, Error> {
        if self.clean_at.is_some_and(|at| at.elapsed() < Self::MEMORY) {
            return Ok(Permit::Closed);
        }
        let row = sqlx::query!(
            r#"WITH probe AS (
                   UPDATE circuit_breakers
                   SET state = 'HALF_OPEN', probe_lease_until = clock_timestamp() + interval '30 seconds', updated_at = clock_timestamp(),
                       half_open_successes = CASE state WHEN 'OPEN' THEN 0 ELSE half_open_successes END
                   WHERE name = $1 AND ((state = 'OPEN' AND next_probe_at <= clock_timestamp())
                                        OR (state = 'HALF_OPEN' AND coalesce(probe_lease_until, '-infinity') < clock_timestamp()))
                   RETURNING 1
               )
               SELECT state, failure_count, EXISTS (SELECT FROM probe) AS "probe!",
                      coalesce(CASE state WHEN 'HALF_OPEN' THEN probe_lease_until ELSE next_probe_at END, clock_timestamp())
                          + make_interval(secs => 10 * random()) AS "until!"
               FROM circuit_breakers WHERE name = $1"#,
            NAME,
        )
        .fetch_one(pool)
        .await?;
        self.clean_at = (row.state == "CLOSED" && row.failure_count == 0).then(Instant::now);
        Ok(match row.state.as_str() {
            _ if row.probe => Permit::Probe,
            "CLOSED" => Permit::Closed,
            _ => Permit::Open(row.until),
        })
    }

    /// Reports what happened: a fault always, a success only while the row is not clean.
    pub(super) async fn report(&mut self, pool: &PgPool, calls: Report) -> Result<(), Error> {
        let sum = &mut self.unreported;
        *sum = Report {
            calls: sum.calls + calls.calls,
            faults: sum.faults + calls.faults,
            in_a_row: if calls.in_a_row == calls.calls {
                sum.in_a_row + calls.in_a_row
            } else {
                calls.in_a_row
            },
        };
        if calls.calls == 0 || (calls.faults == 0 && self.clean_at.is_some()) {
            return Ok(());
        }
        let report = std::mem::take(sum);
        self.clean_at = None;
        let count = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        let opened = sqlx::query!(
            r#"WITH old AS (
                   SELECT state, cooldown_seconds, half_open_successes + CASE WHEN $3 = 0 THEN $2 ELSE 0 END AS successes,
                          CASE WHEN $4 < $2 OR last_failure_at IS NULL OR last_failure_at < clock_timestamp() - interval '60 seconds'
                               THEN $4 ELSE failure_count + $4 END AS in_a_row,
                          coalesce(window_started_at >= clock_timestamp() - interval '60 seconds', false) AS same_window, window_calls, window_faults
                   FROM circuit_breakers WHERE name = $1 FOR UPDATE
               ), new AS (
                   SELECT *, CASE WHEN same_window THEN window_calls ELSE 0 END + $2 AS calls,
                          CASE WHEN same_window THEN window_faults ELSE 0 END + $3 AS faults FROM old
               ), verdict AS (
                   SELECT *, CASE WHEN state = 'OPEN' THEN 'OPEN'
                                  WHEN state = 'HALF_OPEN' AND $3 > 0 THEN 'OPEN'
                                  WHEN state = 'HALF_OPEN' AND successes >= 2 THEN 'CLOSED'
                                  WHEN state = 'HALF_OPEN' THEN 'HALF_OPEN'
                                  WHEN in_a_row >= $5 OR (calls >= 20 AND 2 * faults >= calls) THEN 'OPEN'
                                  ELSE 'CLOSED' END AS next,
                          CASE WHEN state = 'HALF_OPEN' THEN least(2 * cooldown_seconds, 900) ELSE cooldown_seconds END AS cooldown
                   FROM new
               )
               UPDATE circuit_breakers b
               SET state = v.next, half_open_successes = v.successes,
                   failure_count = CASE WHEN v.state = 'HALF_OPEN' AND v.next = 'CLOSED' THEN 0 ELSE v.in_a_row END,
                   window_calls = v.calls, window_faults = v.faults,
                   window_started_at = CASE WHEN v.same_window THEN b.window_started_at ELSE clock_timestamp() END,
                   last_failure_at = CASE WHEN $3 > 0 THEN clock_timestamp() ELSE b.last_failure_at END,
                   cooldown_seconds = CASE WHEN v.state = 'HALF_OPEN' AND v.next = 'CLOSED' THEN 60 WHEN v.next = 'OPEN' THEN v.cooldown ELSE b.cooldown_seconds END,
                   opened_at = CASE WHEN v.next = 'OPEN' AND v.state <> 'OPEN' THEN clock_timestamp() ELSE b.opened_at END,
                   next_probe_at = CASE WHEN v.next = 'OPEN' AND v.state <> 'OPEN' THEN clock_timestamp() + make_interval(secs => v.cooldown) ELSE b.next_probe_at END,
                   reason = CASE WHEN v.next = 'OPEN' AND v.state <> 'OPEN' THEN 'provider_faults' ELSE b.reason END,
                   -- The prober asks again for its next mail.
                   probe_lease_until = NULL, updated_at = clock_timestamp()
               FROM verdict v WHERE b.name = $1
               RETURNING b.state <> v.state AS "changed!", b.state AS "state!""#,
            NAME,
            count(report.calls),
            count(report.faults),
            count(report.in_a_row),
            count(FAULTS_IN_A_ROW),
        )
        .fetch_one(pool)
        .await?;
        match (opened.changed, opened.state.as_str()) {
            (true, "OPEN") => {
                alert(
                    pool,
                    &self.sender_domain,
                    "critical",
                    "SES does not take mail; it is asked again after a cool-down",
                )
                .await
            }
            (true, "CLOSED") => resolve(pool).await,
            _ => Ok(()),
        }
    }

    /// Opens the breaker for 15 minutes: SES refuses the account, not the mail.
    pub(super) async fn force_open(&mut self, pool: &PgPool, reason: &str) -> Result<Timestamp, Error> {
        self.clean_at = None;
        let until = sqlx::query_scalar!(
            r#"UPDATE circuit_breakers
               SET state = 'OPEN', opened_at = clock_timestamp(), next_probe_at = clock_timestamp() + interval '15 minutes', reason = $2,
                   probe_lease_until = NULL, half_open_successes = 0, updated_at = clock_timestamp()
               WHERE name = $1
               RETURNING next_probe_at AS "until!""#,
            NAME,
            reason,
        )
        .fetch_one(pool)
        .await?;
        alert(pool, &self.sender_domain, "urgent", reason).await?;
        Ok(until)
    }
}

/// One open alert at a time; each administrator gets one mail for it, which leaves when mail leaves again.
async fn alert(pool: &PgPool, sender_domain: &str, severity: &str, message: &str) -> Result<(), Error> {
    tracing::error!(severity, message, "the mail circuit breaker opened");
    sqlx::query!(
        "WITH alert AS (
             INSERT INTO email_alerts (type, period, severity, message) VALUES ('circuit_open', 'NOW', $1, $2)
             ON CONFLICT (type, period) WHERE resolved_at IS NULL
             DO UPDATE SET last_seen_at = clock_timestamp(), severity = EXCLUDED.severity, message = EXCLUDED.message
             RETURNING id
         )
         INSERT INTO email_messages (dedup_key, user_id, to_email, stream, category, template, variables, priority, expires_at, sender_domain)
         SELECT 'alert:' || alert.id || ':' || u.id, u.id, lower(btrim(u.email)), 'ESSENTIAL', 'system', 'email-alert',
                jsonb_build_object('severity', $1::text, 'dashboard_url', '/admin/email', 'alerts',
                    jsonb_build_array(jsonb_build_object('type', 'circuit_open', 'metric', 'provider faults', 'current_value', 1, 'threshold', 0,
                                                         'period', 'NOW', 'recommendation', $2::text))),
                'URGENT', clock_timestamp() + interval '24 hours', $3
         FROM alert, users u
         WHERE u.role = 'ADMIN' AND u.is_active AND u.deleted_at IS NULL AND u.email IS NOT NULL
         ON CONFLICT (dedup_key) DO NOTHING",
        severity,
        message,
        sender_domain,
    )
    .execute(pool)
    .await?;
    Ok(())
}

async fn resolve(pool: &PgPool) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE email_alerts SET resolved_at = clock_timestamp() WHERE type = 'circuit_open' AND resolved_at IS NULL"
    )
    .execute(pool)
    .await?;
    Ok(())
}
