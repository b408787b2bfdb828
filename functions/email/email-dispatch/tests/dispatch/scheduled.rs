//! Scheduled and recurring mail.

use serde_json::json;
use testkit::World;

use crate::{JOB, tick, tick_at};

const RESET: &str = r#"{"reset_url": "/reset", "expires_in_hours": 1}"#;

async fn schedule(world: &World, to: &str, at: &str, zone: &str, recurrence: &str) {
    let insert =
        "INSERT INTO scheduled_emails (to_email, template, variables, scheduled_send_time, time_zone, recurrence)
                  VALUES ($1, 'password-reset', $2::jsonb, $3::timestamptz, $4, nullif($5, ''))";
    world.execute(insert, &[to, RESET, at, zone, recurrence]).await;
}

async fn next(world: &World) -> Vec<(String, i32, String)> {
    sqlx::query_as(
        "SELECT status, next_occurrence, to_char(scheduled_send_time AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') FROM scheduled_emails",
    )
    .fetch_all(&world.db)
    .await
    .expect("the rows")
}

#[tokio::test]
async fn a_scheduled_mail_leaves_once_at_its_time() {
    let world = World::new("a_scheduled_mail_leaves_once").await;
    schedule(&world, "ann@example.test", "2025-07-01T09:00:00Z", "UTC", "").await;
    tick_at(&world, "2025-07-01T08:59:00Z").await;
    assert_eq!(world.mailbox.calls(), 0);
    for slot in ["2025-07-01T09:00:00Z", "2025-07-01T09:01:00Z", "2025-07-02T09:00:00Z"] {
        tick_at(&world, slot).await;
        assert_eq!(world.mailbox.sent_to("ann@example.test").len(), 1, "{slot}");
    }
    assert_eq!(next(&world).await[0].0, "SENT");
}

#[tokio::test]
async fn a_mail_that_recurs_every_month_clamps_to_the_end_of_a_short_one() {
    let world = World::new("a_mail_that_recurs_every_month").await;
    schedule(&world, "ann@example.test", "2025-01-31T09:00:00Z", "UTC", "monthly").await;
    for (slot, mails, next_at) in [
        ("2025-01-31T09:00:00Z", 1, "2025-02-28 09:00"),
        ("2025-02-28T08:59:00Z", 1, "2025-02-28 09:00"),
        ("2025-02-28T09:00:00Z", 2, "2025-03-31 09:00"),
        ("2025-03-31T09:30:00Z", 3, "2025-04-30 09:00"),
        ("2025-03-31T09:31:00Z", 3, "2025-04-30 09:00"),
    ] {
        tick_at(&world, slot).await;
        assert_eq!(world.mailbox.accepted(), mails, "{slot}");
        assert_eq!(
            next(&world).await,
            [("PENDING".into(), mails as i32, next_at.into())],
            "{slot}"
        );
    }
    let keys =
        "SELECT count(*) FROM email_messages m, scheduled_emails s WHERE m.dedup_key LIKE 'scheduled:' || s.id || ':%'";
    assert_eq!(world.count(keys).await, 3);
}

#[tokio::test]
async fn a_daily_mail_keeps_its_local_hour_when_the_clocks_change() {
    let world = World::new("a_daily_mail_keeps_its_local_hour").await;
    schedule(
        &world,
        "ann@example.test",
        "2025-03-29T08:00:00Z",
        "Europe/Berlin",
        "daily",
    )
    .await;
    tick_at(&world, "2025-03-29T08:00:00Z").await;
    assert_eq!(next(&world).await[0].2, "2025-03-30 07:00");
    tick_at(&world, "2025-03-30T07:00:00Z").await;
    assert_eq!(world.mailbox.accepted(), 2);
    assert_eq!(next(&world).await[0].2, "2025-03-31 07:00");
}

#[tokio::test]
async fn two_workers_make_one_mail_of_an_occurrence() {
    let world = World::new("two_workers_make_one_mail").await;
    world.scale(JOB, 2);
    for n in 0..20 {
        let recurrence = ["", "daily", "weekly", "monthly"][n % 4];
        schedule(
            &world,
            &format!("u{n}@example.test"),
            "2025-07-01T09:00:00Z",
            "UTC",
            recurrence,
        )
        .await;
    }
    let slot = json!({ "asOf": "2025-07-01T09:00:30Z" });
    world
        .deliver(JOB, [slot.clone(), slot.clone(), slot.clone(), slot])
        .await;
    assert_eq!((world.mailbox.accepted(), world.mailbox.doubled()), (20, 0));
    assert_eq!(world.count("SELECT count(*) FROM email_messages").await, 20);
}

#[tokio::test]
async fn a_user_gets_scheduled_mail_where_the_user_now_is() {
    let world = World::new("a_user_gets_scheduled_mail").await;
    let (ann, bob) = (world.user("Ann").await, world.user("Bob").await);
    for user in [&ann, &bob] {
        let insert = "INSERT INTO scheduled_emails (user_id, template, variables, scheduled_send_time)
                      VALUES ($1, 'password-reset', $2::jsonb, now() - interval '1 minute')";
        world.execute(insert, &[user, RESET]).await;
    }
    world
        .execute("UPDATE users SET email = 'new@example.test' WHERE id = $1", &[&ann])
        .await;
    world
        .execute("UPDATE users SET email = NULL WHERE id = $1", &[&bob])
        .await;
    tick(&world).await;
    assert_eq!(world.mailbox.sent_to("new@example.test").len(), 1);
    assert_eq!(world.mailbox.accepted(), 1);
    assert_eq!(
        world
            .count("SELECT count(*) FROM email_messages WHERE status_reason = 'invalid_address'")
            .await,
        1
    );
}

#[tokio::test]
async fn a_schedule_of_no_template_fails_and_a_cancelled_one_rests() {
    let world = World::new("a_schedule_of_no_template").await;
    for at in ["2025-07-01T09:00:00Z", "2025-07-01T09:00:01Z", "2025-07-01T09:00:02Z"] {
        schedule(&world, "ann@example.test", at, "Mars/Olympus", "daily").await;
    }
    let spoil = "UPDATE scheduled_emails SET template = 'never-was' WHERE scheduled_send_time = '2025-07-01T09:00:00Z'";
    world.execute(spoil, &[]).await;
    let cancel = "UPDATE scheduled_emails SET status = 'CANCELLED' WHERE scheduled_send_time = '2025-07-01T09:00:01Z'";
    world.execute(cancel, &[]).await;
    tick_at(&world, "2025-07-01T09:01:00Z").await;
    let mut statuses: Vec<_> = next(&world).await.into_iter().map(|row| row.0).collect();
    statuses.sort();
    assert_eq!(statuses, ["CANCELLED", "FAILED", "PENDING"]);
    assert_eq!(world.mailbox.accepted(), 1);
    assert_eq!(world.dead_letters(JOB), []);
}
