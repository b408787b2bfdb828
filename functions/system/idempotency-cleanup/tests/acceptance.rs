//! `idempotency-cleanup`, the built function on a real database.

use serde_json::{Value, json};
use testkit::World;
use testkit::sweep::{Sweep, report};

const JOB: &str = "idempotency-cleanup";

/// Keys named for what becomes of them, an hour later, too: faults make time pass.
const GIVEN: &str = "
    INSERT INTO idempotency_keys (key, entity_type, processed, processing_at, expires_at) VALUES
        ('dead_1',       'order', true,  now() - interval '1 day',     now() - interval '2 seconds'),
        ('dead_2',       'order', false, NULL,                         now() - interval '1 minute'),
        ('dead_3',       'order', false, now() - interval '6 minutes', now() - interval '1 minute'),
        ('kept_leased',  'order', false, now() + interval '1 day',     now() - interval '1 minute'),
        ('kept_alive',   'order', true,  now(),                        now() + interval '1 day'),
        ('kept_stuck',   'order', false, now() - interval '6 minutes', now() + interval '1 day')";
const STATE: &str = "SELECT string_agg(key, ' ' ORDER BY key) FROM idempotency_keys";

fn sweep() -> Sweep<'static> {
    Sweep {
        job: JOB,
        given: GIVEN,
        state: STATE,
        swept: "kept_alive kept_leased kept_stuck",
        report: json!({"deleted": 3, "liveLeasesKept": 1, "stuck": 1}),
        shared: &["deleted"],
        page: 2,
    }
}

#[tokio::test]
async fn it_sweeps_page_by_page_twice_in_parallel_and_dry() {
    sweep().keeps_its_promises().await;
}

#[tokio::test]
async fn whatever_fails_each_dead_key_goes_once() {
    sweep().survives_every_fault(&[]).await;
}

#[tokio::test]
async fn twelve_thousand_expired_keys_go_in_one_chain_and_the_others_stay() {
    let world = World::new("idempotency_chain").await;
    let keys = "INSERT INTO idempotency_keys (key, entity_type, processed, expires_at)
                SELECT 'key-' || i, 'order', true, now() + CASE WHEN i <= 12000 THEN -interval '1 hour' ELSE interval '1 hour' END
                FROM generate_series(1, 12500) i";
    world.execute(keys, &[]).await;

    world.deliver(JOB, [json!({"batchSize": 5000})]).await;
    assert_eq!(report(&world, JOB).await["deleted"], 12_000);
    assert_eq!(world.count("SELECT count(*) FROM idempotency_keys").await, 500);
    assert_eq!(world.count("SELECT count(*) FROM job_runs").await, 1);

    world.deliver(JOB, [json!({"batchSize": 5000})]).await;
    assert_eq!(report(&world, JOB).await["deleted"], 0);
    assert_eq!(
        world.count("SELECT count(*) FROM job_runs WHERE status = 'done'").await,
        2
    );
}

#[tokio::test]
async fn a_key_is_kept_while_a_request_may_hold_it_and_not_a_minute_longer() {
    let world = World::new("idempotency_lease").await;
    let keys = "INSERT INTO idempotency_keys (key, entity_type, processing_at, expires_at) VALUES
                ('kept', 'order', now() - interval '2 minutes', now() - interval '1 minute'),
                ('dead', 'order', now() - interval '6 minutes', now() - interval '1 minute')";
    world.execute(keys, &[]).await;

    world.deliver(JOB, [json!({})]).await;

    let left: String = sqlx::query_scalar(STATE).fetch_one(&world.db).await.unwrap();
    assert_eq!(left, "kept");
}

#[tokio::test]
async fn a_key_that_expires_at_the_slot_itself_stays() {
    let world = World::new("idempotency_at_the_slot").await;
    world
        .execute("INSERT INTO idempotency_keys (key, entity_type, expires_at) VALUES ('kept', 'order', '2025-10-20T09:00:00Z'), ('dead', 'order', '2025-10-20T08:59:59.999999Z')", &[])
        .await;

    world
        .deliver(
            JOB,
            [json!({"asOf": "2025-10-20T09:00:00Z", "schedule": "every-six-hours"})],
        )
        .await;

    let left: String = sqlx::query_scalar(STATE).fetch_one(&world.db).await.unwrap();
    assert_eq!(left, "kept");
}

#[tokio::test]
async fn a_key_that_somebody_holds_is_passed_over_and_not_waited_for() {
    let world = World::new("idempotency_held").await;
    world.execute(GIVEN, &[]).await;
    let mut request = world.db.begin().await.unwrap();
    sqlx::query("SELECT FROM idempotency_keys WHERE key = 'dead_2' FOR UPDATE")
        .execute(&mut *request)
        .await
        .unwrap();

    world.deliver(JOB, [json!({})]).await;
    assert_eq!(report(&world, JOB).await["deleted"], 2);
    request.rollback().await.unwrap();

    world.deliver(JOB, [json!({})]).await;
    assert_eq!(report(&world, JOB).await["deleted"], 1);
}

#[tokio::test]
async fn a_slot_in_the_future_is_dead_and_deletes_nothing() {
    let world = World::new("idempotency_future").await;
    world.execute(GIVEN, &[]).await;
    let future: Value = sqlx::query_scalar("SELECT to_jsonb(now() + interval '1 hour')")
        .fetch_one(&world.db)
        .await
        .unwrap();

    world.deliver(JOB, [json!({ "asOf": future })]).await;

    let dead = world.dead_letters(JOB);
    assert_eq!(dead.len(), 1);
    assert!(
        dead[0].attributes["reason"].contains("is in the future"),
        "{:?}",
        dead[0].attributes
    );
    assert_eq!(world.count("SELECT count(*) FROM idempotency_keys").await, 6);
}

/// Nobody waits for a sweep, and no sweep for long: what somebody holds is left to the next slot.
#[tokio::test]
async fn a_dead_key_that_a_transaction_holds_is_passed_over_and_goes_with_the_next_slot() {
    let world = World::new("idempotency_held").await;
    world.execute(GIVEN, &[]).await;
    let mut holder = world.db.begin().await.unwrap();
    sqlx::query("SELECT FROM idempotency_keys WHERE key = 'dead_2' FOR UPDATE")
        .execute(&mut *holder)
        .await
        .unwrap();

    world.deliver(JOB, [json!({"batchSize": 2})]).await;
    assert_eq!(report(&world, JOB).await["deleted"], 2);
    let left: String = sqlx::query_scalar(STATE).fetch_one(&world.db).await.unwrap();
    assert_eq!(left, "dead_2 kept_alive kept_leased kept_stuck");

    holder.rollback().await.unwrap();
    world.deliver(JOB, [json!({})]).await;
    assert_eq!(report(&world, JOB).await["deleted"], 1);
    let left: String = sqlx::query_scalar(STATE).fetch_one(&world.db).await.unwrap();
    assert_eq!(left, "kept_alive kept_leased kept_stuck");
}
