//! `token-cleanup`, the built function on a real database.

use serde_json::json;
use testkit::World;
use testkit::sweep::{Sweep, report};

const JOB: &str = "token-cleanup";

/// Three dead ones of each kind, and one that lives, each named for that.
const GIVEN: &str = "
    INSERT INTO users (id) VALUES ('ann');
    INSERT INTO verification_tokens (user_id, token_hash, expires_at)
    SELECT 'ann', 'dead_verify_' || i, now() - i * interval '1 second' FROM generate_series(1, 3) i
    UNION ALL SELECT 'ann', 'kept_verify', now() + interval '1 day';
    INSERT INTO password_reset_tokens (user_id, token_hash, expires_at, used_at)
    SELECT 'ann', 'dead_unused_' || i, now() - i * interval '2 hours', NULL FROM generate_series(1, 3) i
    UNION ALL SELECT 'ann', 'dead_used_' || i, now() - interval '7 days', now() - interval '7 days' - i * interval '1 minute' FROM generate_series(1, 3) i
    UNION ALL SELECT 'ann', 'kept_unused', now() + interval '1 day', NULL
    UNION ALL SELECT 'ann', 'kept_used', now() - interval '1 hour', now() - interval '2 days';
    INSERT INTO temporary_auth_tokens (user_id, token_hash, expires_at)
    SELECT 'ann', 'dead_temporary_' || i, now() - interval '1 hour' - i * interval '1 second' FROM generate_series(1, 3) i
    UNION ALL SELECT 'ann', 'kept_temporary', now() + interval '1 day';
    INSERT INTO trusted_devices (user_id, token_hash, expires_at)
    SELECT 'ann', 'dead_device_' || i, now() - interval '1 second' FROM generate_series(1, 3) i
    UNION ALL SELECT 'ann', 'kept_device', now() + interval '1 day';
    INSERT INTO step_up_tokens (user_id, token_hash, expires_at)
    SELECT 'ann', 'dead_step_' || i, now() - interval '1 second' FROM generate_series(1, 3) i
    UNION ALL SELECT 'ann', 'kept_step', now() + interval '1 day'";

const STATE: &str = "
    SELECT string_agg(token_hash, ' ' ORDER BY token_hash)
    FROM (SELECT token_hash FROM verification_tokens UNION ALL SELECT token_hash FROM password_reset_tokens
          UNION ALL SELECT token_hash FROM temporary_auth_tokens UNION ALL SELECT token_hash FROM trusted_devices
          UNION ALL SELECT token_hash FROM step_up_tokens) t";

fn sweep() -> Sweep<'static> {
    Sweep {
        job: JOB,
        given: GIVEN,
        state: STATE,
        swept: "kept_device kept_step kept_temporary kept_unused kept_used kept_verify",
        report: json!({
            "verificationTokens": 3, "unusedResetTokens": 3, "usedResetTokens": 3, "temporaryAuthTokens": 3,
            "trustedDevices": 3, "stepUpTokens": 3, "total": 18
        }),
        shared: &[
            "verificationTokens",
            "unusedResetTokens",
            "usedResetTokens",
            "temporaryAuthTokens",
            "total",
        ],
        page: 2,
    }
}

async fn left(world: &World) -> String {
    sqlx::query_scalar::<_, Option<String>>(STATE)
        .fetch_one(&world.db)
        .await
        .expect("the database")
        .unwrap_or_default()
}

#[tokio::test]
async fn it_sweeps_page_by_page_twice_in_parallel_and_dry_and_its_total_is_the_sum() {
    sweep().keeps_its_promises().await;
}

#[tokio::test]
async fn whatever_fails_each_dead_token_goes_once() {
    let few = Sweep {
        given: "INSERT INTO users (id) VALUES ('ann');
                INSERT INTO verification_tokens (user_id, token_hash, expires_at) VALUES ('ann', 'dead', now() - interval '1 second');
                INSERT INTO step_up_tokens (user_id, token_hash, expires_at)
                VALUES ('ann', 'dead', now() - interval '1 second'), ('ann', 'kept', now() + interval '1 day')",
        swept: "kept",
        report: json!({
            "verificationTokens": 1, "unusedResetTokens": 0, "usedResetTokens": 0, "temporaryAuthTokens": 0,
            "trustedDevices": 0, "stepUpTokens": 1, "total": 2
        }),
        ..sweep()
    };
    few.survives_every_fault(&[
        "unused_reset_tokens",
        "used_reset_tokens",
        "temporary_auth_tokens",
        "trusted_devices",
    ])
    .await;
}

#[tokio::test]
async fn a_token_lives_to_the_second_and_a_used_one_seven_days_longer() {
    let world = World::new("tokens_to_the_second").await;
    let tokens = "
        INSERT INTO users (id, deleted_at) VALUES ('ann', '2025-10-01T00:00:00Z');
        INSERT INTO verification_tokens (user_id, token_hash, expires_at) VALUES
            ('ann', 'dead', '2025-10-20T08:59:59Z'), ('ann', 'kept_1', '2025-10-20T09:00:01Z'), ('ann', 'kept_2', '2025-10-20T09:00:00Z');
        INSERT INTO password_reset_tokens (user_id, token_hash, expires_at, used_at) VALUES
            ('ann', 'dead_unused', '2025-10-20T07:00:00Z', NULL),
            ('ann', 'kept_used_2_days', '2025-10-18T10:00:00Z', '2025-10-18T09:00:00Z'),
            ('ann', 'dead_used_7_days_1_minute', '2025-10-13T09:59:00Z', '2025-10-13T08:59:00Z'),
            ('ann', 'kept_used_6_days_23_hours', '2025-10-13T11:00:00Z', '2025-10-13T10:00:00Z')";
    sqlx::raw_sql(tokens).execute(&world.db).await.unwrap();

    world.deliver(JOB, [json!({"asOf": "2025-10-20T09:00:00Z"})]).await;

    assert_eq!(
        left(&world).await,
        "kept_1 kept_2 kept_used_2_days kept_used_6_days_23_hours"
    );
}

#[tokio::test]
async fn a_table_that_is_locked_keeps_no_other_from_being_swept() {
    let world = World::new("tokens_locked_table").await;
    sqlx::raw_sql(GIVEN).execute(&world.db).await.unwrap();
    let mut somebody = world.db.begin().await.unwrap();
    sqlx::query("LOCK TABLE verification_tokens")
        .execute(&mut *somebody)
        .await
        .unwrap();

    world.send(JOB, [json!({})]);
    world.pump(JOB).await;
    assert_eq!(
        world
            .count("SELECT count(*) FROM job_runs WHERE status = 'retrying'")
            .await,
        1
    );
    assert_eq!(
        world.count("SELECT count(*) FROM step_up_tokens").await,
        1,
        "the last table was swept"
    );
    somebody.rollback().await.unwrap();

    world.drain(JOB).await;
    assert_eq!(left(&world).await, sweep().swept);
    assert_eq!(report(&world, JOB).await["total"], 18);
}
