//! `session-cleanup`, the built function on a real database.

use serde_json::json;
use testkit::World;
use testkit::sweep::{Sweep, report};

const JOB: &str = "session-cleanup";

/// Sessions named for what becomes of them.
const GIVEN: &str = "
    INSERT INTO users (id, auto_logout_after_hours, deleted_at) VALUES ('ann', 24, NULL), ('bob', 720, NULL), ('del', 720, now() - interval '1 hour');
    INSERT INTO sessions (session_token_hash, user_id, expires_at, last_activity_at, revoked_at, revoked_reason) VALUES
        ('gone_expired_1', 'ann', now() - interval '1 second', now() - interval '3 days',             NULL, NULL),
        ('gone_expired_2', 'del', now() - interval '1 minute', now() - interval '1 minute',           NULL, NULL),
        ('idle_1',         'ann', now() + interval '9 days',   now() - interval '24 hours 1 minute',  NULL, NULL),
        ('idle_2',         'ann', now() + interval '9 days',   now() - interval '3 days',             NULL, NULL),
        ('live_1',         'ann', now() + interval '9 days',   now() + interval '1 hour',             NULL, NULL),
        ('live_2',         'bob', now() + interval '9 days',   now() - interval '2 days',             NULL, NULL),
        ('deleted_1',      'del', now() + interval '9 days',   now(),                                 NULL, NULL),
        ('gone_revoked',   'ann', now() - interval '29 days',  now() - interval '40 days',            now() - interval '30 days 1 minute', 'password_change'),
        ('password',       'ann', now() + interval '9 days',   now() - interval '3 days',             now() - interval '1 day', 'password_change'),
        ('old',            'ann', now() - interval '20 days',  now() - interval '30 days',            now() - interval '28 days', 'password_change')";

const STATE: &str = "
    SELECT string_agg(session_token_hash || coalesce('=' || revoked_reason, ''), ' ' ORDER BY session_token_hash) FROM sessions";

fn sweep() -> Sweep<'static> {
    Sweep {
        job: JOB,
        given: GIVEN,
        state: STATE,
        swept: "deleted_1=account_deleted idle_1=inactivity_timeout idle_2=inactivity_timeout live_1 live_2 old=password_change password=password_change",
        report: json!({"expired": 2, "inactive": 2, "accountDeleted": 1, "oldRevoked": 1, "total": 6}),
        shared: &["expired", "inactive", "accountDeleted", "oldRevoked", "total"],
        page: 2,
    }
}

async fn state(world: &World) -> String {
    sqlx::query_scalar(STATE)
        .fetch_one(&world.db)
        .await
        .expect("the database")
}

#[tokio::test]
async fn it_sweeps_page_by_page_twice_in_parallel_and_dry() {
    sweep().keeps_its_promises().await;
}

#[tokio::test]
async fn whatever_fails_each_session_ends_once() {
    let endings = Sweep {
        swept: "deleted_1=account_deleted gone_expired_1 gone_expired_2 gone_revoked=password_change idle_1=inactivity_timeout \
                idle_2=inactivity_timeout live_1 live_2 old=password_change password=password_change",
        report: json!({"expired": 0, "inactive": 2, "accountDeleted": 1, "oldRevoked": 0, "total": 3}),
        page: 10,
        ..sweep()
    };
    endings.survives_every_fault(&["expired", "oldRevoked"]).await;
}

#[tokio::test]
async fn idle_is_what_the_owner_has_set_to_the_minute() {
    let world = World::new("sessions_idle").await;
    let sessions = "
        INSERT INTO users (id, auto_logout_after_hours) VALUES ('day', 24), ('hour', 1);
        INSERT INTO sessions (session_token_hash, user_id, expires_at, last_activity_at) VALUES
            ('idle_day', 'day', '2025-11-20T09:00:00Z', '2025-10-19T08:59:00Z'), ('live_day', 'day', '2025-11-20T09:00:00Z', '2025-10-19T09:01:00Z'),
            ('live_day_exactly', 'day', '2025-11-20T09:00:00Z', '2025-10-19T09:00:00Z'), ('idle_hour', 'hour', '2025-11-20T09:00:00Z', '2025-10-20T07:59:00Z')";
    sqlx::raw_sql(sessions).execute(&world.db).await.unwrap();

    world.deliver(JOB, [json!({"asOf": "2025-10-20T09:00:00Z"})]).await;

    assert_eq!(
        state(&world).await,
        "idle_day=inactivity_timeout idle_hour=inactivity_timeout live_day live_day_exactly"
    );
    let at = "SELECT count(*) FROM sessions WHERE revoked_at = '2025-10-20T09:00:00Z'";
    assert_eq!(world.count(at).await, 2);
}

#[tokio::test]
async fn a_session_that_ended_keeps_its_time_and_its_reason() {
    let world = World::new("sessions_reason").await;
    sqlx::raw_sql(GIVEN).execute(&world.db).await.unwrap();
    let when = "SELECT revoked_at FROM sessions WHERE session_token_hash = 'password'";
    let before: chrono::DateTime<chrono::Utc> = sqlx::query_scalar(when).fetch_one(&world.db).await.unwrap();

    world.deliver(JOB, [json!({})]).await;

    let after: chrono::DateTime<chrono::Utc> = sqlx::query_scalar(when).fetch_one(&world.db).await.unwrap();
    assert_eq!(before, after);
}

#[tokio::test]
async fn ten_thousand_idle_sessions_of_four_thousand_users_take_six_statements() {
    let world = World::new("sessions_many").await;
    let sessions = "
        INSERT INTO users (id) SELECT 'u' || i FROM generate_series(1, 4000) i;
        INSERT INTO sessions (session_token_hash, user_id, expires_at, last_activity_at)
        SELECT 's' || i, 'u' || 1 + i % 4000, now() + interval '1 day', now() - interval '2 days' FROM generate_series(1, 10000) i";
    sqlx::raw_sql(sessions).execute(&world.db).await.unwrap();

    // A page is one statement, and the run may have six.
    world.deliver(JOB, [json!({"pages": 6})]).await;

    assert_eq!(report(&world, JOB).await["inactive"], 10_000);
    assert_eq!(world.count("SELECT count(*) FROM job_runs").await, 1, "one run did it");
}
