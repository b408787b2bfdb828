//! The four acceptance checks.

use std::time::Duration;

use testkit::people::{LedgerRow, Notification};
use testkit::{Answer, World};

use crate::{DELIVERY, JOB, is, report, tick, tick_at};

#[tokio::test]
async fn two_workers_send_2500_due_mails_in_three_ticks_and_none_twice() {
    let world = World::new("two_workers_send_2500").await;
    world.scale(JOB, 2);
    let insert = "INSERT INTO email_messages (dedup_key, to_email, stream, category, template, variables, expires_at, sender_domain)
                  SELECT 'due:' || n, 'u' || n || '@example.test', 'ESSENTIAL', 'system', 'password-reset',
                         '{\"reset_url\": \"/reset\", \"expires_in_hours\": 1}', now() + interval '1 day', 'mail.example.test'
                  FROM generate_series(1, 2500) n";
    world.execute(insert, &[]).await;
    for _ in 0..3 {
        world.send(JOB, [serde_json::json!({}), serde_json::json!({})]);
        world.pump(JOB).await;
        world.advance_minutes(1).await;
    }
    assert_eq!((world.mailbox.accepted(), world.mailbox.doubled()), (2500, 0));
    assert_eq!(
        world
            .count("SELECT count(*) FROM email_messages WHERE status = 'SENT' AND attempts = 1")
            .await,
        2500
    );
    assert_eq!(world.dead_letters(JOB), []);
}

#[tokio::test]
async fn a_mail_of_the_night_leaves_at_seven_in_berlin_which_is_five_in_utc() {
    let world = World::new("a_mail_of_the_night").await;
    let ann = world.user("Ann").await;
    let quiet = "time_zone = 'Europe/Berlin', quiet_hours_start = '22:00', quiet_hours_end = '07:00'";
    world.prefers(&ann, quiet).await;
    let mail = &world.ledger([LedgerRow::payout("ann@example.test").of(&ann)]).await[0];
    let slot =
        "UPDATE email_messages SET next_attempt_at = '2025-07-01T20:30:00Z', expires_at = '2025-07-03T20:30:00Z'";
    world.execute(slot, &[]).await;

    for (at, sent) in [
        ("2025-07-01T20:30:00Z", 0),
        ("2025-07-02T04:59:00Z", 0),
        ("2025-07-02T05:00:00Z", 1),
    ] {
        tick_at(&world, at).await;
        assert_eq!(world.mailbox.accepted(), sent, "{at}");
        if sent == 0 {
            is(&world.entry(mail).await, "PENDING", "quiet_hours", 0);
        }
        let at_five = "SELECT count(*) FROM email_messages WHERE next_attempt_at = '2025-07-02T05:00:00Z'";
        assert_eq!(world.count(at_five).await, 1);
    }
    is(&world.entry(mail).await, "SENT", None, 1);
}

#[tokio::test]
async fn four_failures_wait_one_two_four_and_eight_minutes_and_the_fifth_is_the_last() {
    let world = World::new("four_failures_wait").await;
    world.mailbox.fail_to("ann@example.test", Answer::ServiceUnavailable);
    let mail = &world.ledger([LedgerRow::essential("ann@example.test")]).await[0];
    for (attempt, wait) in [(1, 60.0), (2, 120.0), (3, 240.0), (4, 480.0)] {
        tick(&world).await;
        let entry = world.entry(mail).await;
        is(&entry, "PENDING", "ServiceUnavailable", attempt);
        assert!((0.9 * wait - 5.0..=1.1 * wait).contains(&entry.due_in), "{entry:?}");
        // Not before it is due.
        tick(&world).await;
        assert_eq!(world.mailbox.calls(), attempt as usize);
        world.advance(Duration::from_secs_f64(1.1 * wait)).await;
    }
    tick(&world).await;
    is(&world.entry(mail).await, "FAILED", "ServiceUnavailable", 5);
    world.advance_minutes(120).await;
    tick(&world).await;
    assert_eq!(world.mailbox.calls(), 5);
}

#[tokio::test]
async fn a_notification_whose_message_was_lost_is_mailed_within_six_minutes() {
    let world = World::new("a_notification_whose_message_was_lost").await;
    let ann = world.user("Ann").await;
    let id = world.notification(&ann, Notification::default()).await;
    for minute in 0..=5 {
        tick(&world).await;
        // Its message may have been slow, not lost.
        assert_eq!(
            world.queued(DELIVERY).len(),
            usize::from(minute == 5),
            "minute {minute}"
        );
        if minute < 5 {
            world.advance_minutes(1).await;
        }
    }
    world.drain(DELIVERY).await;
    assert_eq!(world.mailbox.sent_to("ann@example.test").len(), 1);
    assert_eq!(world.email_state(&id).await.0, "SENT");
    assert_eq!(world.count("SELECT count(*) FROM outbox").await, 0);
}

#[tokio::test]
async fn a_heap_of_lost_notifications_is_enqueued_in_parts() {
    let world = World::new("a_heap_of_lost_notifications").await;
    let ann = world.user("Ann").await;
    let insert = "INSERT INTO notifications (user_id, type, title, message, created_at)
                  SELECT $1, 'LICENSE', 'A title', 'A text', now() - interval '10 minutes' FROM generate_series(1, 501)";
    world.execute(insert, &[&ann]).await;
    tick(&world).await;
    assert_eq!(report(&world).await["requeued"], 500);
    assert_eq!(world.queued(DELIVERY).len(), 500);
}
