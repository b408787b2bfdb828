//! Removes stale remember-me tokens, ends lock-outs that are over, and says how many there are (spec: platform,
//! `password-security-cleanup`).

use std::process::ExitCode;

use jobs::{Sweep, catalog};
use runtime::{Outcome, Run, Sweeper, Swept, delete_page};
use serde::{Deserialize, Serialize};

/// What a sweep did, and what it saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Report {
    tokens_removed: i64,
    accounts_unlocked: i64,
    currently_locked: i64,
    /// Since midnight UTC of the slot's day.
    locked_today: i64,
    /// Of those; none when there are none.
    avg_lockout_minutes: Option<i64>,
}

fn main() -> ExitCode {
    runtime::serve(catalog::PASSWORD_SECURITY_CLEANUP, clean)
}

async fn clean(message: Sweep, run: &mut Run) -> Outcome {
    let mut sweep = Sweeper::<Report>::begin(run, message, 5000).await?;
    sweep
        .step("expired", async |page| {
            let swept = delete_page!(page, "remember_me_tokens", "expires_at", "id", "expires_at < $1")?;
            page.report.tokens_removed += swept.gone;
            Ok(swept)
        })
        .await;
    sweep
        .step("idle", async |page| {
            let swept = delete_page!(
                page,
                "remember_me_tokens",
                "coalesce(last_used_at, created_at)",
                "id",
                "expires_at >= $1 AND coalesce(last_used_at, created_at) < $1 - interval '7 days'"
            )?;
            page.report.tokens_removed += swept.gone;
            Ok(swept)
        })
        .await;
    sweep
        .step("unlock", async |page| {
            // NO KEY: somebody who signs in meanwhile refers to the row of the user. An account that an administrator has suspended,
            // or that is deleted, does not come back with the end of a lock-out.
            let swept = sqlx::query_as!(
                Swept,
                r#"WITH due AS MATERIALIZED (
                       SELECT id, locked_until, lock_reason FROM users
                       WHERE locked_until <= $1::timestamptz AND deleted_at IS NULL AND (locked_until, id) > ($2, $3)
                       ORDER BY locked_until, id LIMIT $4 FOR NO KEY UPDATE SKIP LOCKED
                   ), unlocked AS (
                       UPDATE users u
                       SET locked_until = NULL, lock_reason = NULL, last_failed_login = NULL, captcha_required_at = NULL, failed_login_count = 0,
                           is_active = u.is_active OR u.suspended_at IS NULL, updated_at = now()
                       FROM due WHERE u.id = due.id AND u.locked_until <= $1 AND u.deleted_at IS NULL
                       RETURNING u.id, due.locked_until, due.lock_reason, u.is_active
                   ), audited AS (
                       INSERT INTO audit_events (timestamp, action, entity_type, entity_id, before_state, after_state, metadata)
                       SELECT $1, 'ACCOUNT_UNLOCKED', 'user', id, jsonb_build_object('lockedUntil', locked_until, 'lockReason', lock_reason),
                              jsonb_build_object('isActive', is_active), '{"actor": "system"}'
                       FROM unlocked
                   )
                   SELECT count(*) OVER () AS "found!", (SELECT count(*) FROM unlocked) AS "gone!", locked_until AS "at!", id AS "id!"
                   FROM due ORDER BY locked_until DESC, id DESC LIMIT 1"#,
                page.as_of,
                page.after.at,
                page.after.id,
                page.limit,
            )
            .fetch_optional(&mut *page.tx)
            .await?
            .unwrap_or_default();
            page.report.accounts_unlocked += swept.gone;
            Ok(swept)
        })
        .await;
    sweep
        .step("statistics", async |page| {
            let locks = sqlx::query!(
                r#"SELECT (SELECT count(*) FROM users WHERE locked_until > $1::timestamptz) AS "now!",
                          count(*) AS "today!",
                          round(avg((after_state -> 'lockoutMinutes')::numeric)
                                FILTER (WHERE jsonb_typeof(after_state -> 'lockoutMinutes') = 'number'))::bigint AS minutes
                   FROM audit_events
                   WHERE action = 'ACCOUNT_LOCKED' AND timestamp >= date_trunc('day', $1, 'UTC') AND timestamp <= $1"#,
                page.as_of,
            )
            .fetch_one(&mut *page.tx)
            .await?;
            page.report.currently_locked = locks.now;
            page.report.locked_today = locks.today;
            page.report.avg_lockout_minutes = locks.minutes;
            Ok(Swept::default())
        })
        .await;
    sweep.finish()
}
