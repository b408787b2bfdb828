//! `notification-cleanup`, the built function on a real database.

use serde_json::json;
use testkit::World;
use testkit::sweep::{Sweep, report};

const JOB: &str = "notification-cleanup";

/// Rows named for what becomes of them.
const GIVEN: &str = "
    INSERT INTO users (id) VALUES ('ann');
    INSERT INTO notifications (id, user_id, type, priority, title, message, read, read_at, created_at) VALUES
        ('gone_system',     'ann', 'SYSTEM',  'HIGH',   't', 'm', true,  now() - interval '7 days 1 minute',  now() - interval '8 days'),
        ('gone_read',       'ann', 'LICENSE', 'URGENT', 't', 'm', true,  now() - interval '30 days 1 minute', now() - interval '40 days'),
        ('gone_read_at',    'ann', 'PAYOUT',  'LOW',    't', 'm', true,  NULL,                                now() - interval '31 days'),
        ('gone_unread_1',   'ann', 'MESSAGE', 'MEDIUM', 't', 'm', false, NULL,                                now() - interval '90 days 1 minute'),
        ('gone_unread_2',   'ann', 'SYSTEM',  'LOW',    't', 'm', false, NULL,                                now() - interval '91 days'),
        ('kept_system',     'ann', 'SYSTEM',  'LOW',    't', 'm', true,  now() - interval '6 days',           now() - interval '8 days'),
        ('kept_read',       'ann', 'LICENSE', 'LOW',    't', 'm', true,  now() - interval '29 days',          now() - interval '40 days'),
        ('kept_high',       'ann', 'LICENSE', 'HIGH',   't', 'm', false, NULL,                                now() - interval '400 days'),
        ('kept_in_digest',  'ann', 'LICENSE', 'LOW',    't', 'm', true,  now() - interval '31 days',          now() - interval '32 days');
    INSERT INTO digest_deliveries (id, user_id, kind, frequency, period_key, status, window_start, window_end, slot_at, created_at) VALUES
        ('open', 'ann', 'NOTIFICATION', 'DAILY', 'p1', 'ENQUEUED', now(), now(), now(), now() - interval '1 hour'),
        ('old',  'ann', 'NOTIFICATION', 'DAILY', 'p2', 'SENT',     now(), now(), now(), now() - interval '401 days');
    INSERT INTO digest_items (kind, item_id, user_id, digest_delivery_id) VALUES
        ('NOTIFICATION', 'kept_in_digest', 'ann', 'open'), ('NOTIFICATION', 'gone_read', 'ann', 'old');
    INSERT INTO notification_bundles (user_id, type, bundle_key, notification_id, bundle_count, window_ends_at) VALUES
        ('ann', 'LICENSE', 'gone', 'kept_high', 2, now() - interval '8 days'), ('ann', 'LICENSE', 'kept', 'kept_high', 2, now() - interval '6 days');
    INSERT INTO message_email_cooldowns (user_id, thread_id, last_emailed_at) VALUES
        ('ann', 'gone', now() - interval '8 days'), ('ann', 'kept', now() - interval '6 days');
    INSERT INTO email_messages (id, dedup_key, to_email, stream, category, template, variables, status, expires_at, sender_domain, created_at) VALUES
        ('cleared', 'a', 'a@example.test', 'ESSENTIAL', 'system', 'password-reset', '{}', 'SENT',    now(), 'd', now() - interval '31 days'),
        ('fresh',   'b', 'a@example.test', 'ESSENTIAL', 'system', 'password-reset', '{}', 'SENT',    now(), 'd', now() - interval '29 days'),
        ('open',    'c', 'a@example.test', 'ESSENTIAL', 'system', 'password-reset', '{}', 'PENDING', now(), 'd', now() - interval '31 days'),
        ('gone',    'd', 'a@example.test', 'ESSENTIAL', 'system', 'password-reset', NULL, 'SENT',    now(), 'd', now() - interval '401 days');
    INSERT INTO email_events (event_key, email_message_id, ses_message_id, email, event_type, occurred_at, ip_address, user_agent, raw) VALUES
        ('cleared', 'fresh', 's', 'a@example.test', 'OPENED',  now() - interval '91 days',  '192.0.2.1', 'agent', '{}'),
        ('bounced', 'fresh', 's', 'a@example.test', 'BOUNCED', now() - interval '91 days',  NULL, NULL, '{}'),
        ('opened',  'fresh', 's', 'a@example.test', 'OPENED',  now() - interval '89 days',  '192.0.2.1', 'agent', '{}'),
        ('gone',    'gone',  's', 'a@example.test', 'OPENED',  now() - interval '401 days', NULL, NULL, NULL)";

const STATE: &str = "
    SELECT (SELECT string_agg(id, ' ' ORDER BY id) FROM notifications)
        || '; digests ' || (SELECT string_agg(id, ' ' ORDER BY id) FROM digest_deliveries) || ' ' || (SELECT count(*) FROM digest_items)
        || '; bundles ' || (SELECT string_agg(bundle_key, ' ' ORDER BY bundle_key) FROM notification_bundles)
        || '; cooldowns ' || (SELECT string_agg(thread_id, ' ' ORDER BY thread_id) FROM message_email_cooldowns)
        || '; mails ' || (SELECT string_agg(id || coalesce(variables::text, ''), ' ' ORDER BY id) FROM email_messages)
        || '; events ' || (SELECT string_agg(event_key || coalesce(host(ip_address), '') || coalesce(user_agent, '') || coalesce(raw::text, ''), ' ' ORDER BY event_key) FROM email_events)";

const SWEPT: &str = "kept_high kept_in_digest kept_read kept_system; digests open 1; bundles kept; cooldowns kept; mails cleared fresh{} open{}; \
                     events bounced{} cleared opened192.0.2.1agent{}";

#[tokio::test]
async fn it_sweeps_page_by_page_twice_in_parallel_and_dry() {
    // A page has at least a hundred rows here.
    let more = "INSERT INTO notifications (id, user_id, type, priority, title, message, read, read_at)
                SELECT 'more_' || i, 'ann', 'BLOG', 'LOW', 't', 'm', true, now() - interval '31 days' FROM generate_series(1, 120) i";
    let sweep = Sweep {
        job: JOB,
        given: &[GIVEN, more].join(";"),
        state: STATE,
        swept: SWEPT,
        report: json!({
            "deleted": 125, "byRule": {"readSystem": 1, "readGeneral": 122, "unreadLow": 2},
            "trimmed": {"variables": 1, "eventDetails": 1, "emailEvents": 1, "emailMessages": 1, "digestDeliveries": 1, "bundles": 1, "cooldowns": 1}
        }),
        shared: &["deleted"],
        page: 100,
    };
    sweep.keeps_its_promises().await;
}

#[tokio::test]
async fn whatever_fails_each_notification_goes_once() {
    let sweep = Sweep {
        job: JOB,
        given: "INSERT INTO users (id) VALUES ('ann');
                INSERT INTO notifications (id, user_id, type, priority, title, message, read, read_at) VALUES
                    ('gone', 'ann', 'BLOG', 'LOW', 't', 'm', true, now() - interval '31 days'),
                    ('kept', 'ann', 'BLOG', 'LOW', 't', 'm', true, now() - interval '29 days');
                INSERT INTO email_messages (id, dedup_key, to_email, stream, category, template, variables, status, expires_at, sender_domain, created_at)
                VALUES ('mail', 'a', 'a@example.test', 'ESSENTIAL', 'system', 'password-reset', '{}', 'SENT', now(), 'd', now() - interval '31 days')",
        state: "SELECT string_agg(id, ' ') || (SELECT count(variables) FROM email_messages) FROM notifications",
        swept: "kept0",
        report: json!({
            "deleted": 1, "byRule": {"readSystem": 0, "readGeneral": 1, "unreadLow": 0},
            "trimmed": {"variables": 1, "eventDetails": 0, "emailEvents": 0, "emailMessages": 0, "digestDeliveries": 0, "bundles": 0, "cooldowns": 0}
        }),
        shared: &[],
        page: 100,
    };
    let others = [
        "read_system",
        "unread_low",
        "event_details",
        "email_events",
        "email_messages",
        "digest_deliveries",
        "bundles",
        "cooldowns",
    ];
    sweep.survives_every_fault(&others).await;
}

#[tokio::test]
async fn a_row_exactly_at_the_cut_off_stays() {
    let world = World::new("notifications_cut_off").await;
    let rows = "
        INSERT INTO users (id) VALUES ('ann');
        INSERT INTO notifications (id, user_id, type, priority, title, message, read, read_at, created_at) VALUES
            ('gone_read',    'ann', 'LICENSE', 'LOW', 't', 'm', true, '2025-10-01T02:59:59Z', '2025-09-01T00:00:00Z'),
            ('kept_read',    'ann', 'LICENSE', 'LOW', 't', 'm', true, '2025-10-02T03:00:00Z', '2025-09-01T00:00:00Z'),
            ('gone_system',  'ann', 'SYSTEM', 'LOW', 't', 'm', true, '2025-10-24T03:00:00Z', '2025-09-01T00:00:00Z'),
            ('kept_system',  'ann', 'SYSTEM', 'LOW', 't', 'm', true, '2025-10-26T03:00:00Z', '2025-09-01T00:00:00Z'),
            ('gone_unread',  'ann', 'LICENSE', 'MEDIUM', 't', 'm', false, NULL, '2025-08-02T03:00:00Z'),
            ('kept_unread',  'ann', 'LICENSE', 'HIGH', 't', 'm', false, NULL, '2024-09-27T03:00:00Z')";
    sqlx::raw_sql(rows).execute(&world.db).await.unwrap();

    world
        .deliver(JOB, [json!({"asOf": "2025-11-01T03:00:00Z", "schedule": "daily"})])
        .await;

    let left: Vec<String> = sqlx::query_scalar("SELECT id FROM notifications ORDER BY id")
        .fetch_all(&world.db)
        .await
        .unwrap();
    assert_eq!(left, ["kept_read", "kept_system", "kept_unread"]);
    assert_eq!(report(&world, JOB).await["deleted"], 3);
}

#[tokio::test]
async fn twelve_thousand_go_in_three_pages() {
    let world = World::new("notifications_many").await;
    let rows = "
        INSERT INTO users (id) VALUES ('ann');
        INSERT INTO notifications (user_id, type, priority, title, message, read, read_at)
        SELECT 'ann', 'BLOG', 'LOW', 't', 'm', true, now() - interval '31 days' FROM generate_series(1, 12000)";
    sqlx::raw_sql(rows).execute(&world.db).await.unwrap();

    // One page for each of the ten steps, and two more for the one that finds something.
    world.deliver(JOB, [json!({"batchSize": 5000, "pages": 12})]).await;

    let report = report(&world, JOB).await;
    assert_eq!(
        (&report["deleted"], &report["byRule"]["readGeneral"]),
        (&json!(12_000), &json!(12_000))
    );
    assert_eq!(world.count("SELECT count(*) FROM job_runs").await, 1);
    assert_eq!(world.count("SELECT count(*) FROM notifications").await, 0);
}
