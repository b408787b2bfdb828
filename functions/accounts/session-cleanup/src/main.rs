//! Drops sessions that have expired, ends those that are idle or whose account is deleted, and forgets those that ended long ago
//! (spec: platform, `session-cleanup`).
//!
//! The rules exclude each other, so that a dry run counts no session twice.

use std::process::ExitCode;

use jobs::{Sweep, catalog};
use runtime::{Outcome, Run, Sweeper, Swept, delete_page};
use serde::{Deserialize, Serialize};

/// What a sweep did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Report {
    expired: i64,
    inactive: i64,
    account_deleted: i64,
    old_revoked: i64,
    total: i64,
}

fn main() -> ExitCode {
    runtime::serve(catalog::SESSION_CLEANUP, clean)
}

async fn clean(message: Sweep, run: &mut Run) -> Outcome {
    let mut sweep = Sweeper::<Report>::begin(run, message, 5000).await?;
    sweep
        .step("expired", async |page| {
            let swept = delete_page!(
                page,
                "sessions",
                "expires_at",
                "id",
                "revoked_at IS NULL AND expires_at < $1"
            )?;
            page.report.expired += swept.gone;
            page.report.total += swept.gone;
            Ok(swept)
        })
        .await;
    sweep
        .step("inactive", async |page| {
            // No limit is below an hour. A page is bounded by the sessions that it looks at: most of them may be within their limit.
            let swept = sqlx::query_as!(
                Swept,
                r#"WITH looked_at AS MATERIALIZED (
                       SELECT id, user_id, last_activity_at FROM sessions
                       WHERE revoked_at IS NULL AND last_activity_at < $1::timestamptz - interval '1 hour' AND (last_activity_at, id) > ($2, $3)
                       ORDER BY last_activity_at, id LIMIT $4 FOR UPDATE SKIP LOCKED
                   ), ended AS (
                       UPDATE sessions s SET revoked_at = $1, revoked_reason = 'inactivity_timeout'
                       FROM looked_at l JOIN users u ON u.id = l.user_id
                       WHERE s.id = l.id AND s.revoked_at IS NULL AND s.expires_at >= $1
                         AND s.last_activity_at < $1 - make_interval(hours => u.auto_logout_after_hours)
                       RETURNING 1
                   )
                   SELECT count(*) OVER () AS "found!", (SELECT count(*) FROM ended) AS "gone!", last_activity_at AS "at!", id AS "id!"
                   FROM looked_at ORDER BY last_activity_at DESC, id DESC LIMIT 1"#,
                page.as_of,
                page.after.at,
                page.after.id,
                page.limit,
            )
            .fetch_optional(&mut *page.tx)
            .await?
            .unwrap_or_default();
            page.report.inactive += swept.gone;
            page.report.total += swept.gone;
            Ok(swept)
        })
        .await;
    sweep
        .step("accountDeleted", async |page| {
            let swept = sqlx::query_as!(
                Swept,
                r#"WITH orphaned AS MATERIALIZED (
                       SELECT s.id, u.deleted_at AS at, u.auto_logout_after_hours AS hours FROM users u JOIN sessions s ON s.user_id = u.id
                       WHERE s.revoked_at IS NULL AND u.deleted_at <= $1::timestamptz AND u.anonymized_at IS NULL AND (u.deleted_at, s.id) > ($2, $3)
                       ORDER BY u.deleted_at, s.id LIMIT $4 FOR UPDATE OF s SKIP LOCKED
                   ), ended AS (
                       UPDATE sessions s SET revoked_at = $1, revoked_reason = 'account_deleted'
                       FROM orphaned o
                       WHERE s.id = o.id AND s.revoked_at IS NULL AND s.expires_at >= $1
                         AND s.last_activity_at >= $1 - make_interval(hours => o.hours)
                       RETURNING 1
                   )
                   SELECT count(*) OVER () AS "found!", (SELECT count(*) FROM ended) AS "gone!", at AS "at!", id AS "id!"
                   FROM orphaned ORDER BY at DESC, id DESC LIMIT 1"#,
                page.as_of,
                page.after.at,
                page.after.id,
                page.limit,
            )
            .fetch_optional(&mut *page.tx)
            .await?
            .unwrap_or_default();
            page.report.account_deleted += swept.gone;
            page.report.total += swept.gone;
            Ok(swept)
        })
        .await;
    // Ended sessions are evidence for 30 days, whether they would have expired meanwhile or not.
    sweep
        .step("oldRevoked", async |page| {
            let swept = delete_page!(
                page,
                "sessions",
                "revoked_at",
                "id",
                "revoked_at < $1 - interval '30 days'"
            )?;
            page.report.old_revoked += swept.gone;
            page.report.total += swept.gone;
            Ok(swept)
        })
        .await;
    sweep.finish()
}
