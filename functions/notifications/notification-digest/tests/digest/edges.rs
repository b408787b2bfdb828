//! Mails that end otherwise than sent, large slots, and several functions at once.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::json;
use testkit::{Answer, World};

use crate::{DISPATCH, JOB, MONDAY, deliveries, delivery, notify, report, reports, subscriber, tick};

const AT: &str = "2025-10-20T08:00:00Z";

async fn dispatch(world: &World, slot: &str) {
    world.deliver(DISPATCH, [json!({ "asOf": slot })]).await;
}

/// Users `u1`, `u2` and so on who want a daily digest, with one notification for Monday's.
async fn crowd(world: &World, numbers: RangeInclusive<i64>) {
    let insert = "WITH crowd AS (INSERT INTO users (id, email, email_verified)
                                 SELECT 'u' || i, 'u' || i || '@example.test', now() FROM generate_series($1::bigint, $2::bigint) i RETURNING id),
                       preferences AS (INSERT INTO email_preferences (user_id, digest_frequency) SELECT id, 'DAILY' FROM crowd)
                  INSERT INTO notifications (user_id, type, title, message, email_state, created_at)
                  SELECT id, 'BLOG', 'A title', 'A text', 'DIGEST', '2025-10-20T08:00:00Z' FROM crowd";
    sqlx::query(insert)
        .bind(numbers.start())
        .bind(numbers.end())
        .execute(&world.db)
        .await
        .expect("a crowd");
}

#[tokio::test]
async fn a_slot_without_items_is_closed_without_a_mail() {
    let world = World::new("a_slot_without_items_is_closed").await;
    let ann = subscriber(&world, "Ann", "digest_frequency = 'DAILY'").await;
    tick(&world, MONDAY).await;
    // Too late for the slot that is closed.
    notify(&world, &ann, "LICENSE", "LOW", "2025-10-20T08:59:00Z").await;
    tick(&world, "2025-10-20T09:15:00Z").await;
    assert_eq!(deliveries(&world, &ann).await, [delivery("2025-10-20", "EMPTY", 0)]);
    let moved =
        "SELECT count(*) FROM digest_states WHERE last_window_end = '2025-10-20T09:00:00Z' AND last_sent_at IS NULL";
    assert_eq!(world.count(moved).await, 1);
    // A row that was committed late is found within two hours.
    tick(&world, "2025-10-21T09:00:00Z").await;
    assert_eq!(deliveries(&world, &ann).await[1..], [delivery("2025-10-21", "SENT", 1)]);
}

#[tokio::test]
async fn who_must_not_be_mailed_is_left_alone() {
    let world = World::new("who_must_not_be_mailed").await;
    let mut users = Vec::new();
    for name in [
        "Deleted",
        "Inactive",
        "Unverified",
        "Off",
        "Unsubscribed",
        "Suppressed",
        "Immediate",
        "Never",
        "Defaults",
    ] {
        let user = world.user(name).await;
        if name != "Defaults" {
            world.prefers(&user, "digest_frequency = 'DAILY'").await;
        }
        notify(&world, &user, "LICENSE", "LOW", AT).await;
        users.push(user);
    }
    world
        .execute("UPDATE users SET deleted_at = now() WHERE id = $1", &[&users[0]])
        .await;
    world
        .execute("UPDATE users SET is_active = false WHERE id = $1", &[&users[1]])
        .await;
    world
        .execute("UPDATE users SET email_verified = NULL WHERE id = $1", &[&users[2]])
        .await;
    world.prefers(&users[3], "email_enabled = false").await;
    world.prefers(&users[4], "global_unsubscribe = true").await;
    world.execute("INSERT INTO email_suppressions (email, reason, scope) VALUES ('suppressed@example.test', 'UNSUBSCRIBE', 'NON_ESSENTIAL')", &[]).await;
    world.prefers(&users[6], "digest_frequency = 'IMMEDIATE'").await;
    world.prefers(&users[7], "digest_frequency = 'NEVER'").await;
    tick(&world, MONDAY).await;
    assert_eq!(world.count("SELECT count(*) FROM digest_deliveries").await, 0);
    assert_eq!(
        world
            .count("SELECT count(*) FROM notifications WHERE email_state = 'DIGEST'")
            .await,
        9
    );
    // Nothing is due: a report of nothing.
    tick(&world, "2025-10-20T04:00:00Z").await;
    assert_eq!(report(&world).await["considered"], 0);
}

#[tokio::test]
async fn a_digest_that_is_refused_or_fails_gives_its_items_to_the_next() {
    let world = World::new("a_digest_that_is_refused_or_fails").await;
    let (ann, bob) = (
        subscriber(&world, "Ann", "digest_frequency = 'DAILY'").await,
        subscriber(&world, "Bob", "digest_frequency = 'DAILY'").await,
    );
    let medium = notify(&world, &ann, "LICENSE", "MEDIUM", AT).await;
    let urgent = notify(&world, &ann, "PAYOUT", "URGENT", AT).await;
    world
        .execute(
            "UPDATE notifications SET email_state = 'FAILED' WHERE id = $1",
            &[&urgent],
        )
        .await;
    // Bob's digest waits for the end of his quiet hours, and meanwhile he switches e-mail off.
    let quiet = notify(&world, &bob, "LICENSE", "LOW", AT).await;
    world
        .prefers(&bob, "quiet_hours_start = '08:00', quiet_hours_end = '10:00'")
        .await;
    world.mailbox.fail_to("ann@example.test", Answer::MessageRejected);
    tick(&world, MONDAY).await;
    assert_eq!(deliveries(&world, &ann).await, [delivery("2025-10-20", "FAILED", 2)]);
    assert_eq!(world.email_state(&medium).await.0, "DIGEST");
    assert_eq!(world.email_state(&urgent).await.0, "FAILED");
    assert_eq!(deliveries(&world, &bob).await, [delivery("2025-10-20", "ENQUEUED", 1)]);
    assert_eq!(report(&world).await["deferred"], 1);

    world.prefers(&bob, "email_enabled = false").await;
    dispatch(&world, "2025-10-20T10:00:00Z").await;
    assert_eq!(deliveries(&world, &bob).await, [delivery("2025-10-20", "SKIPPED", 1)]);
    assert_eq!(world.email_state(&quiet).await.0, "DIGEST");
    assert_eq!(world.count("SELECT count(*) FROM digest_items").await, 0);

    world.mailbox.recover();
    world
        .prefers(
            &bob,
            "email_enabled = true, quiet_hours_start = NULL, quiet_hours_end = NULL",
        )
        .await;
    tick(&world, "2025-10-21T09:00:00Z").await;
    assert_eq!(deliveries(&world, &ann).await[1..], [delivery("2025-10-21", "SENT", 2)]);
    assert_eq!(deliveries(&world, &bob).await[1..], [delivery("2025-10-21", "SENT", 1)]);
}

#[tokio::test]
async fn a_digest_in_doubt_is_not_sent_again_and_keeps_its_items() {
    let world = World::new("a_digest_in_doubt_is_not_sent_again").await;
    let ann = subscriber(&world, "Ann", "digest_frequency = 'DAILY'").await;
    let item = notify(&world, &ann, "LICENSE", "MEDIUM", AT).await;
    world.mailbox.fail_next(1, Answer::AcceptedButNoAnswer);
    tick(&world, MONDAY).await;
    assert_eq!(deliveries(&world, &ann).await, [delivery("2025-10-20", "SENT", 1)]);
    assert_eq!(report(&world).await["uncertain"], 1);
    world.advance_minutes(61).await;
    dispatch(&world, "2025-10-20T10:00:00Z").await;
    assert_eq!(
        world
            .count("SELECT count(*) FROM email_messages WHERE status = 'FAILED' AND status_reason = 'unconfirmed'")
            .await,
        1
    );
    assert_eq!(world.email_state(&item).await.0, "DIGESTED");
    assert_eq!(world.mailbox.accepted(), 1);
}

#[tokio::test]
async fn a_digest_after_quiet_hours_belongs_to_its_slot() {
    let world = World::new("a_digest_after_quiet_hours").await;
    let ann = subscriber(
        &world,
        "Ann",
        "digest_frequency = 'DAILY', quiet_hours_start = '08:00', quiet_hours_end = '22:00'",
    )
    .await;
    notify(&world, &ann, "LICENSE", "LOW", AT).await;
    tick(&world, MONDAY).await;
    dispatch(&world, "2025-10-20T21:59:00Z").await;
    assert_eq!(world.mailbox.accepted(), 0);
    dispatch(&world, "2025-10-20T22:00:00Z").await;
    assert_eq!(deliveries(&world, &ann).await, [delivery("2025-10-20", "SENT", 1)]);
    notify(&world, &ann, "LICENSE", "LOW", "2025-10-20T23:00:00Z").await;
    tick(&world, "2025-10-21T09:00:00Z").await;
    assert_eq!(
        deliveries(&world, &ann).await[1..],
        [delivery("2025-10-21", "ENQUEUED", 1)]
    );
}

#[tokio::test]
async fn functions_that_work_on_one_slot_together_make_one_digest_a_user() {
    let world = World::new("functions_that_work_on_one_slot").await;
    world.scale(JOB, 3);
    world.set("DIGEST_PAGE", "50");
    crowd(&world, 1..=160).await;
    let user_ids: Vec<_> = (1..=40).map(|n| format!("u{n}")).collect();
    let slot = json!({ "frequency": "ALL", "asOf": MONDAY });
    let forced = json!({ "frequency": "ALL", "asOf": MONDAY, "userIds": user_ids, "force": true, "triggerId": "t" });
    world.deliver(JOB, [slot.clone(), forced, slot]).await;
    dispatch(&world, MONDAY).await;
    assert_eq!((world.mailbox.accepted(), world.mailbox.doubled()), (160, 0));
    assert_eq!(world.count("SELECT count(*) FROM digest_items").await, 160);
    assert_eq!(
        world
            .count("SELECT count(*) FROM digest_deliveries WHERE status NOT IN ('SENT', 'EMPTY')")
            .await,
        0
    );
    assert_eq!(world.dead_letters(JOB), []);
}

#[tokio::test]
async fn pages_get_on_with_the_only_connection_there_is() {
    let world = World::new("pages_get_on_with_the_only_connection").await;
    world.set("DIGEST_PAGE", "50");
    world.set("DATABASE_POOL_SIZE", "1");
    crowd(&world, 1..=1100).await;
    tick(&world, MONDAY).await;
    assert_eq!((world.mailbox.accepted(), world.mailbox.doubled()), (1100, 0));
    let runs: Vec<_> = reports(&world)
        .await
        .iter()
        .map(|report| report["pages"].as_i64())
        .collect();
    assert_eq!(runs, [Some(22)]);
}

#[tokio::test]
async fn what_was_claimed_before_a_page_failed_is_sent_and_written_down() {
    let world = World::new("what_was_claimed_before_a_page_failed").await;
    world.set("DIGEST_PAGE", "50");
    world.set("DATABASE_POOL_SIZE", "1");
    crowd(&world, 1001..=1600).await;
    world
        .execute(
            "ALTER TABLE digest_deliveries ADD CONSTRAINT spoiled CHECK (user_id <> 'u1475')",
            &[],
        )
        .await;
    tick(&world, MONDAY).await;
    let unsent = "SELECT count(*) FROM email_messages WHERE status <> 'SENT'";
    assert_eq!(world.count(unsent).await, 0);
    assert!(
        world
            .count("SELECT count(*) FROM digest_deliveries WHERE status = 'SENT'")
            .await
            >= 450
    );
    world
        .execute("ALTER TABLE digest_deliveries DROP CONSTRAINT spoiled", &[])
        .await;
    tick(&world, MONDAY).await;
    assert_eq!((world.mailbox.accepted(), world.mailbox.doubled()), (600, 0));
    assert_eq!(world.count(unsent).await, 0);
}

#[tokio::test]
async fn a_run_that_has_no_time_left_goes_on_as_a_new_message() {
    let world = World::new("a_run_that_has_no_time_left").await;
    world.set("DIGEST_PAGE", "50");
    world.mailbox.account(|account| account.max_send_rate = 250.0);
    // Two seconds of work, then the three minutes that a run keeps for its end.
    let mut job = testkit::world::Job::of_catalog(JOB);
    job.timeout = Duration::from_secs(182);
    world.define(JOB, job);
    crowd(&world, 1..=600).await;
    tick(&world, MONDAY).await;
    dispatch(&world, MONDAY).await;
    assert_eq!((world.mailbox.accepted(), world.mailbox.doubled()), (600, 0));
    assert_eq!(
        world
            .count("SELECT count(*) FROM digest_deliveries WHERE status = 'SENT'")
            .await,
        600
    );
    assert!(
        world
            .count("SELECT count(*) FROM job_runs WHERE status = 'continued'")
            .await
            >= 1
    );
    let claimed: i64 = reports(&world)
        .await
        .iter()
        .filter_map(|report| report["claimed"].as_i64())
        .sum();
    assert_eq!(claimed, 600);
}

#[tokio::test]
async fn a_large_slot_is_shared_out() {
    let world = World::new("a_large_slot_is_shared_out").await;
    world.set("DIGEST_SHARE", "900");
    world
        .execute(
            "WITH crowd AS (INSERT INTO users (id, email, email_verified) SELECT 'u' || i, 'u' || i || '@example.test', now() FROM generate_series(1, 2000) i RETURNING id)
             INSERT INTO email_preferences (user_id, digest_frequency) SELECT id, 'DAILY' FROM crowd",
            &[],
        )
        .await;
    tick(&world, MONDAY).await;
    assert_eq!(
        world
            .count("SELECT count(*) FROM digest_deliveries WHERE status = 'EMPTY'")
            .await,
        2000
    );
    let mut shares: Vec<_> = reports(&world)
        .await
        .iter()
        .map(|report| report["claimed"].as_i64())
        .collect();
    shares.sort_unstable();
    assert_eq!(shares, [Some(200), Some(900), Some(900)]);
}

#[tokio::test]
async fn a_user_who_goes_takes_the_digests_along() {
    let world = World::new("a_user_who_goes_takes_the_digests").await;
    let ann = subscriber(&world, "Ann", "digest_frequency = 'DAILY'").await;
    notify(&world, &ann, "LICENSE", "LOW", AT).await;
    tick(&world, MONDAY).await;
    assert_eq!(world.count("SELECT count(*) FROM digest_items").await, 1);
    world.execute("DELETE FROM users WHERE id = $1", &[&ann]).await;
    assert_eq!(world.count("SELECT count(*) FROM digest_items").await, 0);
}
