//! `password-security-cleanup`, the built function on a real database.

use serde_json::json;
use testkit::World;
use testkit::sweep::{Sweep, report};

const JOB: &str = "password-security-cleanup";

/// Tokens and users named for what becomes of them.
const GIVEN: &str = "
    INSERT INTO users (id, is_active, locked_until, lock_reason, failed_login_count, suspended_at, deleted_at) VALUES
        ('ann',       true,  NULL,                          NULL,            2,  NULL,  NULL),
        ('unlock_1',  false, now() - interval '1 minute',   'failed_logins', 15, NULL,  NULL),
        ('unlock_2',  true,  now() - interval '2 minutes',  'failed_logins', 15, NULL,  NULL),
        ('unlock_3',  false, now() - interval '1 minute',   'failed_logins', 15, now() - interval '1 day', NULL),
        ('locked',    true,  now() + interval '1 day',      'failed_logins', 15, NULL,  NULL),
        ('deleted',   false, now() - interval '1 minute',   'failed_logins', 15, NULL,  now() - interval '1 day');
    INSERT INTO remember_me_tokens (user_id, token_hash, last_used_at, expires_at, created_at) VALUES
        ('ann', 'dead_expired',    now(),                                now() - interval '1 second', now() - interval '6 days'),
        ('ann', 'dead_unused',     now() - interval '7 days 1 minute',   now() + interval '9 days',   now() - interval '9 days'),
        ('ann', 'dead_never_used', NULL,                                 now() + interval '9 days',   now() - interval '7 days 1 hour'),
        ('ann', 'kept',            now() - interval '6 days',            now() + interval '9 days',   now() - interval '20 days')";

const STATE: &str = "
    SELECT (SELECT string_agg(token_hash, ' ' ORDER BY token_hash) FROM remember_me_tokens) || ' '
        || (SELECT string_agg(concat_ws(':', id, is_active, failed_login_count, lock_reason), ' ' ORDER BY id) FROM users) || ' '
        || coalesce((SELECT string_agg(concat_ws(':', action, entity_id), ' ' ORDER BY entity_id) FROM audit_events WHERE action = 'ACCOUNT_UNLOCKED'), '')";

fn sweep() -> Sweep<'static> {
    Sweep {
        job: JOB,
        given: GIVEN,
        state: STATE,
        swept: "kept ann:t:2 deleted:f:15:failed_logins locked:t:15:failed_logins unlock_1:t:0 unlock_2:t:0 unlock_3:f:0 \
                ACCOUNT_UNLOCKED:unlock_1 ACCOUNT_UNLOCKED:unlock_2 ACCOUNT_UNLOCKED:unlock_3",
        report: json!({
            "tokensRemoved": 3, "accountsUnlocked": 3, "currentlyLocked": 1, "lockedToday": 0, "avgLockoutMinutes": null
        }),
        shared: &["tokensRemoved", "accountsUnlocked"],
        page: 2,
    }
}

#[tokio::test]
async fn it_sweeps_page_by_page_twice_in_parallel_and_dry() {
    sweep().keeps_its_promises().await;
}

#[tokio::test]
async fn whatever_fails_each_account_is_unlocked_once_with_one_audit_event() {
    let lock_outs = Sweep {
        given: "INSERT INTO users (id, is_active, locked_until, lock_reason) VALUES
                    ('ann', false, now() - interval '1 minute', 'failed_logins'), ('bob', true, now() + interval '1 day', 'failed_logins')",
        state: "SELECT string_agg(concat_ws(':', id, is_active, lock_reason), ' ' ORDER BY id)
                    || (SELECT ' events ' || count(*) FROM audit_events) FROM users",
        swept: "ann:t bob:t:failed_logins events 1",
        report: json!({
            "tokensRemoved": 0, "accountsUnlocked": 1, "currentlyLocked": 1, "lockedToday": 0, "avgLockoutMinutes": null
        }),
        page: 10,
        ..sweep()
    };
    lock_outs.survives_every_fault(&["expired", "idle"]).await;
}

#[tokio::test]
async fn a_lock_ends_at_its_own_minute() {
    let world = World::new("unlock_minute").await;
    let users = "INSERT INTO users (id, locked_until, lock_reason) VALUES
                 ('over', '2025-10-20T09:00:00Z', 'failed_logins'), ('in_a_minute', '2025-10-20T09:01:00Z', 'failed_logins')";
    world.execute(users, &[]).await;

    world.deliver(JOB, [json!({"asOf": "2025-10-20T09:00:00Z"})]).await;

    let locked: Vec<String> = sqlx::query_scalar("SELECT id FROM users WHERE locked_until IS NOT NULL")
        .fetch_all(&world.db)
        .await
        .unwrap();
    assert_eq!(locked, ["in_a_minute"]);
    let report = report(&world, JOB).await;
    assert_eq!(
        (&report["accountsUnlocked"], &report["currentlyLocked"]),
        (&json!(1), &json!(1))
    );
}

#[tokio::test]
async fn today_is_the_day_of_the_slot_in_utc() {
    let world = World::new("locked_today").await;
    let events = r#"INSERT INTO audit_events (timestamp, action, entity_type, entity_id, after_state) VALUES
        ('2025-10-20T00:00:00Z', 'ACCOUNT_LOCKED', 'user', 'a', '{"lockoutMinutes": 30}'),
        ('2025-10-20T08:00:00Z', 'ACCOUNT_LOCKED', 'user', 'b', '{"lockoutMinutes": 1440}'),
        ('2025-10-20T08:30:00Z', 'ACCOUNT_LOCKED', 'user', 'c', '{"lockoutMinutes": "long"}'),
        ('2025-10-19T23:59:59Z', 'ACCOUNT_LOCKED', 'user', 'd', '{"lockoutMinutes": 60}'),
        ('2025-10-20T09:00:01Z', 'ACCOUNT_LOCKED', 'user', 'e', '{"lockoutMinutes": 60}'),
        ('2025-10-20T08:00:00Z', 'LOGIN_FAILED', 'user', 'f', NULL)"#;
    world.execute(events, &[]).await;

    world.deliver(JOB, [json!({"asOf": "2025-10-20T09:00:00Z"})]).await;

    let report = report(&world, JOB).await;
    assert_eq!(
        (&report["lockedToday"], &report["avgLockoutMinutes"]),
        (&json!(3), &json!(735))
    );
}
