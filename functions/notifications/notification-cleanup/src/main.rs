//! Deletes notifications past their retention, and trims the mail ledger (spec: comms, `notification-cleanup`).
//!
//! What goes with a row that goes (bundles, the items of a digest) is the database's to cascade.

use std::process::ExitCode;

use jobs::{SweepNotifications, catalog};
use runtime::{Outcome, Run, Sweeper, Swept, delete_page};
use serde::{Deserialize, Serialize};

/// What a sweep did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Report {
    /// Notifications, by all rules.
    deleted: i64,
    by_rule: ByRule,
    trimmed: Trimmed,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ByRule {
    read_system: i64,
    read_general: i64,
    unread_low: i64,
}

/// The mail ledger, and what notifications leave behind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Trimmed {
    variables: i64,
    /// From where, and with what, somebody opened a mail or clicked in it.
    event_details: i64,
    email_events: i64,
    email_messages: i64,
    digest_deliveries: i64,
    bundles: i64,
    cooldowns: i64,
}

fn main() -> ExitCode {
    runtime::serve(catalog::NOTIFICATION_CLEANUP, clean)
}

async fn clean(message: SweepNotifications, run: &mut Run) -> Outcome {
    let mut sweep = Sweeper::<Report>::begin(run, message.0, 5000).await?;
    /// A notification that a digest is about to carry is left for the next run.
    macro_rules! notifications {
        ($rule:ident, $time:tt, $dead:tt) => {
            sweep
                .step(stringify!($rule), async |page| {
                    let swept = delete_page!(page, "notifications", $time, "id", $dead)?;
                    page.report.by_rule.$rule += swept.gone;
                    page.report.deleted += swept.gone;
                    Ok(swept)
                })
                .await
        };
    }
    macro_rules! trim {
        ($what:ident, $table:tt, $time:tt, $id:tt, $dead:tt) => {
            sweep
                .step(stringify!($what), async |page| {
                    let swept = delete_page!(page, $table, $time, $id, $dead)?;
                    page.report.trimmed.$what += swept.gone;
                    Ok(swept)
                })
                .await
        };
    }
    notifications!(
        read_system,
        "coalesce(read_at, created_at)",
        "read AND type = 'SYSTEM' AND coalesce(read_at, created_at) < $1 - interval '7 days'
         AND NOT EXISTS (SELECT FROM digest_items i JOIN digest_deliveries d ON d.id = i.digest_delivery_id
                         WHERE i.kind = 'NOTIFICATION' AND i.item_id = notifications.id AND d.status = 'ENQUEUED')"
    );
    notifications!(
        read_general,
        "coalesce(read_at, created_at)",
        "read AND type <> 'SYSTEM' AND coalesce(read_at, created_at) < $1 - interval '30 days'
         AND NOT EXISTS (SELECT FROM digest_items i JOIN digest_deliveries d ON d.id = i.digest_delivery_id
                         WHERE i.kind = 'NOTIFICATION' AND i.item_id = notifications.id AND d.status = 'ENQUEUED')"
    );
    // HIGH and URGENT ones wait for their reader for ever.
    notifications!(
        unread_low,
        "created_at",
        "NOT read AND priority IN ('LOW', 'MEDIUM') AND created_at < $1 - interval '90 days'
         AND NOT EXISTS (SELECT FROM digest_items i JOIN digest_deliveries d ON d.id = i.digest_delivery_id
                         WHERE i.kind = 'NOTIFICATION' AND i.item_id = notifications.id AND d.status = 'ENQUEUED')"
    );
    sweep
        .step("variables", async |page| {
            let swept = sqlx::query_as!(
                Swept,
                r#"WITH old AS MATERIALIZED (
                       SELECT id, created_at FROM email_messages
                       WHERE variables IS NOT NULL AND created_at < $1::timestamptz - interval '30 days'
                         AND created_at >= $1 - interval '400 days' AND (created_at, id) > ($2, $3)
                         AND status IN ('SENT', 'SUPPRESSED', 'SKIPPED', 'FAILED', 'EXPIRED', 'CANCELLED', 'DIGESTED')
                       ORDER BY created_at, id LIMIT $4 FOR UPDATE SKIP LOCKED
                   ), cleared AS (
                       UPDATE email_messages m SET variables = NULL FROM old WHERE m.id = old.id AND m.variables IS NOT NULL RETURNING 1
                   )
                   SELECT count(*) OVER () AS "found!", (SELECT count(*) FROM cleared) AS "gone!", created_at AS "at!", id AS "id!"
                   FROM old ORDER BY created_at DESC, id DESC LIMIT 1"#,
                page.as_of,
                page.after.at,
                page.after.id,
                page.limit,
            )
            .fetch_optional(&mut *page.tx)
            .await?
            .unwrap_or_default();
            page.report.trimmed.variables += swept.gone;
            Ok(swept)
        })
        .await;
    sweep
        .step("event_details", async |page| {
            // What SES said repeats both.
            let swept = sqlx::query_as!(
                Swept,
                r#"WITH old AS MATERIALIZED (
                       SELECT id, occurred_at FROM email_events
                       WHERE event_type IN ('OPENED', 'CLICKED') AND (ip_address IS NOT NULL OR user_agent IS NOT NULL OR raw IS NOT NULL)
                         AND occurred_at < $1::timestamptz - interval '90 days' AND occurred_at >= $1 - interval '400 days'
                         AND (occurred_at, id) > ($2, $3)
                       ORDER BY occurred_at, id LIMIT $4 FOR UPDATE SKIP LOCKED
                   ), cleared AS (
                       UPDATE email_events e SET ip_address = NULL, user_agent = NULL, raw = NULL FROM old WHERE e.id = old.id RETURNING 1
                   )
                   SELECT count(*) OVER () AS "found!", (SELECT count(*) FROM cleared) AS "gone!", occurred_at AS "at!", id AS "id!"
                   FROM old ORDER BY occurred_at DESC, id DESC LIMIT 1"#,
                page.as_of,
                page.after.at,
                page.after.id,
                page.limit,
            )
            .fetch_optional(&mut *page.tx)
            .await?
            .unwrap_or_default();
            page.report.trimmed.event_details += swept.gone;
            Ok(swept)
        })
        .await;
    // Why an address gets no mail is in `email_suppressions`.
    trim!(
        email_events,
        "email_events",
        "occurred_at",
        "id",
        "occurred_at < $1 - interval '400 days'"
    );
    trim!(
        email_messages,
        "email_messages",
        "created_at",
        "id",
        "created_at < $1 - interval '400 days'"
    );
    trim!(
        digest_deliveries,
        "digest_deliveries",
        "created_at",
        "id",
        "created_at < $1 - interval '400 days'"
    );
    trim!(
        bundles,
        "notification_bundles",
        "window_ends_at",
        "(user_id || '/' || type || '/' || bundle_key)",
        "window_ends_at < $1 - interval '7 days'"
    );
    trim!(
        cooldowns,
        "message_email_cooldowns",
        "last_emailed_at",
        "(user_id || '/' || thread_id)",
        "last_emailed_at < $1 - interval '7 days'"
    );
    sweep.finish()
}
